//! The same packet seen on several interfaces: a bridge and its port, a bond and its slave, a VLAN and its parent.

use crate::capture::Frame;
use crate::packet::{IpVersion, Packet};
use crate::time::Timestamp;
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::ops::Range;

/// Packets seen of late, by a fingerprint of their headers.
///
/// Of equal packets within [`WINDOW`], as many are kept as the interface that saw most of them saw. So a retransmission,
/// which every interface sees twice, is kept twice, whatever the order in which the rings are read.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    /// A power of two of them; none before the first packet.
    buckets: Vec<Bucket>,
}

/// Packets whose fingerprints begin alike: two cache lines, fetched together.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(128))]
struct Bucket {
    prints: [u64; WAYS],
    /// When each was first seen, in [`ticks`].
    at: [u32; WAYS],
    /// Which interfaces saw it, and how often each; no more of both where the number is 0.
    interfaces: [[u16; INTERFACES]; WAYS],
    seen: [[u8; INTERFACES]; WAYS],
}

impl Duplicates {
    /// Reads where [`Duplicates::is_duplicate`] will look, so that it is at hand soon.
    pub(super) fn fetch(&self, print: u64) {
        if !self.buckets.is_empty() {
            let bucket = &self.buckets[index(print, self.buckets.len())];
            black_box((bucket.prints[0], bucket.seen[0]));
        }
    }

    /// Takes note of a packet and says whether it was seen on another interface already. `now` never goes back.
    pub(super) fn is_duplicate(&mut self, print: u64, interface: u32, now: Timestamp) -> bool {
        let now = ticks(now);
        let bucket = self.bucket(print, now);
        let way = bucket.find(print, now).unwrap_or_else(|| {
            let way = bucket.stalest(now);
            (bucket.prints[way], bucket.at[way], bucket.seen[way]) = (print, now, [0; INTERFACES]);
            way
        });
        let interface = (interface ^ (interface >> 16).wrapping_mul(0x9e37)) as u16;
        let kept = bucket.seen[way].into_iter().max().unwrap_or(0);
        let slots = bucket.interfaces[way].iter_mut().zip(&mut bucket.seen[way]);
        let Some((known, seen)) = slots.into_iter().find(|(known, seen)| **seen == 0 || **known == interface) else {
            return kept > 0;
        };
        *known = interface;
        // So many packets that are alike are nobody's duplicates.
        let Some(more) = seen.checked_add(1) else { return false };
        *seen = more;
        more <= kept
    }

    /// The bucket of a fingerprint, with room for it if need be.
    fn bucket(&mut self, print: u64, now: u32) -> &mut Bucket {
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket::default(); BUCKETS.start];
        }
        while self.buckets.len() < BUCKETS.end && self.buckets[index(print, self.buckets.len())].is_full(print, now) {
            self.grow(now);
        }
        let index = index(print, self.buckets.len());
        &mut self.buckets[index]
    }

    fn grow(&mut self, now: u32) {
        let mut grown = vec![Bucket::default(); 2 * self.buckets.len()];
        for old in &self.buckets {
            for way in (0..WAYS).filter(|&way| old.is_live(way, now)) {
                let new = &mut grown[index(old.prints[way], 2 * self.buckets.len())];
                let to = new.stalest(now);
                (new.prints[to], new.at[to]) = (old.prints[way], old.at[way]);
                (new.interfaces[to], new.seen[to]) = (old.interfaces[way], old.seen[way]);
            }
        }
        self.buckets = grown;
    }
}

impl Bucket {
    fn find(&self, print: u64, now: u32) -> Option<usize> {
        (0..WAYS).find(|&way| self.prints[way] == print && self.is_live(way, now))
    }

    fn is_live(&self, way: usize, now: u32) -> bool {
        self.seen[way][0] > 0 && now.wrapping_sub(self.at[way]) <= WINDOW
    }

    /// Whether a packet that is not here would push out one that may still have a duplicate.
    fn is_full(&self, print: u64, now: u32) -> bool {
        (0..WAYS).all(|way| self.is_live(way, now)) && self.find(print, now).is_none()
    }

    /// A place that is free, or else the one that was taken first.
    fn stalest(&self, now: u32) -> usize {
        let age = |way: usize| if self.is_live(way, now) { now.wrapping_sub(self.at[way]) } else { u32::MAX };
        (0..WAYS).max_by_key(|&way| age(way)).unwrap_or(0)
    }
}

fn index(print: u64, buckets: usize) -> usize {
    (print >> (u64::BITS - buckets.ilog2())) as usize
}

/// Capture time in units of 2^20 ns, some milliseconds; it comes round every 52 days.
fn ticks(now: Timestamp) -> u32 {
    (now.as_nanos() >> 20) as u32
}

/// A hash of what a forwarding host does not change: not the link layer, not TTL or hop limit, not the checksum over it.
pub(super) fn fingerprint(frame: &Frame<'_>, packet: &Packet) -> u64 {
    let headers = &frame.data[packet.link_len..packet.header_len.max(packet.link_len)];
    // Fixed keys: a chosen collision costs a packet that its sender could as well not have sent, and replays must agree.
    let mut hasher = FixedState::default().build_hasher();
    let changes: &[Range<usize>] = match packet.ip {
        IpVersion::V4 => &[8..9, 10..12],
        IpVersion::V6 => std::slice::from_ref(&(7..8)),
    };
    let mut from = 0;
    for change in changes {
        hasher.write(headers.get(from..change.start).unwrap_or_default());
        from = change.end;
    }
    hasher.write(headers.get(from..).unwrap_or_default());
    hasher.finish()
}

const WAYS: usize = 5;
/// Interfaces that a packet is told apart on; one more sees a duplicate in any case.
const INTERFACES: usize = 4;
/// 64 KiB at first, 4 MiB at most: a window of three million packets a second. A shard that sees more, or sees time stand
/// still, as after a step back of the clock or in a file without times, forgets the oldest.
const BUCKETS: Range<usize> = 1 << 9..1 << 15;
/// In [`ticks`], 50 ms: longer than queues between two taps hold a packet, shorter than a retransmission timeout.
const WINDOW: u32 = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000_000_000 + millis * 1_000_000)
    }

    proptest! {
        /// Many enough for the table to grow, a few prints again and again.
        #[test]
        fn it_agrees_with_a_table_of_all_that_was_seen(
            packets in proptest::collection::vec((0..3000u64, 0..4u32), 1..6000),
        ) {
            let mut duplicates = Duplicates::default();
            let mut all: HashMap<u64, [u32; 4]> = HashMap::new();
            for (print, interface) in packets {
                let print = print.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let seen = all.entry(print).or_default();
                let kept = *seen.iter().max().unwrap();
                seen[interface as usize] += 1;
                prop_assert_eq!(duplicates.is_duplicate(print, interface, at(7)), seen[interface as usize] <= kept);
            }
        }
    }

    #[test]
    fn what_was_seen_longer_ago_than_the_window_is_no_duplicate() {
        let mut duplicates = Duplicates::default();
        assert!(!duplicates.is_duplicate(1, 0, at(0)));
        assert!(duplicates.is_duplicate(1, 1, at(49)));
        assert!(!duplicates.is_duplicate(1, 1, at(60)));
    }

    #[test]
    fn a_packet_that_one_interface_sees_for_ever_is_never_its_own_duplicate() {
        let mut duplicates = Duplicates::default();
        assert!((0..1000).all(|_| !duplicates.is_duplicate(1, 0, at(0))));
    }

    #[test]
    fn interfaces_of_different_files_are_different() {
        let mut duplicates = Duplicates::default();
        for file in 0..1000 {
            assert!(!duplicates.is_duplicate(file, 0, at(0)));
            assert!(duplicates.is_duplicate(file, (file as u32 + 1) << 16, at(0)));
        }
    }

    #[test]
    fn memory_is_bounded_where_time_stands_still() {
        let mut duplicates = Duplicates::default();
        for print in 0..300_000u64 {
            assert!(!duplicates.is_duplicate(print.wrapping_mul(0x9E37_79B9_7F4A_7C15), 0, at(0)));
        }
        assert_eq!(duplicates.buckets.len(), BUCKETS.end);
    }
}
