//! The same packet seen on several interfaces: a bridge and its port, a bond and its slave, a VLAN and its parent.

use crate::capture::Frame;
use crate::packet::{IpVersion, Packet};
use crate::time::Timestamp;
use foldhash::HashMap;
use foldhash::fast::FixedState;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Packets seen of late, by a fingerprint of their headers.
///
/// Of equal packets within [`WINDOW`], as many are kept as the interface that saw most of them saw. So a retransmission,
/// which every interface sees twice, is kept twice, whatever the order in which the rings are read.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    seen: HashMap<u64, Sightings>,
    ages: VecDeque<(Timestamp, u64)>,
}

#[derive(Debug)]
struct Sightings {
    at: Timestamp,
    kept: u32,
    /// Interface and how often it saw the packet.
    by: [(u32, u32); 4],
}

impl Duplicates {
    /// Takes note of a packet and says whether it was seen on another interface already.
    pub(super) fn is_duplicate(&mut self, frame: &Frame<'_>, packet: &Packet, now: Timestamp) -> bool {
        while let Some(&(at, print)) = self.ages.front() {
            if now.since(at) <= WINDOW && self.ages.len() <= MAX {
                break;
            }
            self.ages.pop_front();
            if self.seen.get(&print).is_some_and(|s| s.at == at) {
                self.seen.remove(&print);
            }
        }
        let print = fingerprint(frame, packet);
        let sightings = self.seen.entry(print).or_insert_with(|| {
            self.ages.push_back((now, print));
            Sightings { at: now, kept: 0, by: [(0, 0); 4] }
        });
        let Some(slot) = sightings.by.iter_mut().find(|(i, n)| *n == 0 || *i == frame.interface) else {
            return sightings.kept > 0;
        };
        *slot = (frame.interface, slot.1.saturating_add(1));
        if slot.1 > sightings.kept {
            sightings.kept = slot.1;
            return false;
        }
        true
    }
}

/// A hash of what a forwarding host does not change: not the link layer, not TTL or hop limit, not the checksum over it.
fn fingerprint(frame: &Frame<'_>, packet: &Packet) -> u64 {
    let headers = &frame.data[packet.link_len..packet.header_len.max(packet.link_len)];
    // Fixed keys: a chosen collision costs a packet that its sender could as well not have sent, and replays must agree.
    let mut hasher = FixedState::default().build_hasher();
    let changes: &[std::ops::Range<usize>] = match packet.ip {
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

/// 20 MiB: more than a window of ten million packets per second divided among shards. Where time stands still, as after a
/// step back of the clock or in a file without times, no window ever ends.
const MAX: usize = 1 << 18;
/// Longer than queues between two taps hold a packet, shorter than a retransmission timeout.
const WINDOW: Duration = Duration::from_millis(50);
