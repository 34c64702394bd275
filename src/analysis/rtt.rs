//! Round-trip times: exact as long as there are few, evenly thinned where there are many.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Round-trip times between the capture point and one end, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Rtt {
    /// How many were measured.
    pub samples: u64,
    /// The least; exact for any number of samples.
    pub min_ns: Option<u64>,
    /// The median; of an even thinning of the samples where there are more than 2,048.
    pub median_ns: Option<u64>,
    /// The 95th percentile, as the median.
    pub p95_ns: Option<u64>,
}

/// Collects samples.
#[derive(Clone, Default, Debug)]
pub(super) struct Samples {
    kept: Vec<u64>,
    /// One sample of 2 to the power of this is kept.
    thinned: u32,
    seen: u64,
    min: Option<u64>,
}

impl Samples {
    pub(super) fn add(&mut self, nanos: u64) {
        self.min = Some(self.min.map_or(nanos, |min| min.min(nanos)));
        if self.seen.trailing_zeros() >= self.thinned {
            if self.kept.len() == MAX_KEPT {
                // Every other one, beginning with the first: those whose number has one more trailing zero bit.
                let mut keep = false;
                self.kept.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.thinned += 1;
            }
            if self.seen.trailing_zeros() >= self.thinned {
                self.kept.push(nanos);
            }
        }
        self.seen += 1;
    }

    pub(super) fn min(&self) -> Option<u64> {
        self.min
    }

    pub(super) fn finish(mut self) -> Rtt {
        let last = self.kept.len().saturating_sub(1);
        let mut quantile = |percent: usize| {
            // Nearest rank.
            let rank = (self.kept.len() * percent).div_ceil(100).saturating_sub(1).min(last);
            (!self.kept.is_empty()).then(|| *self.kept.select_nth_unstable(rank).1)
        };
        Rtt { samples: self.seen, min_ns: self.min, median_ns: quantile(50), p95_ns: quantile(95) }
    }
}

/// Timestamp values that one end sent, until the other end echoes them (RFC 7323 section 4).
#[derive(Clone, Default, Debug)]
pub(super) struct Echoes {
    /// Values and when each was first seen, in the order of sending.
    sent: VecDeque<(u32, u64)>,
    newest: Option<u32>,
}

impl Echoes {
    /// A segment that the other end must answer carried this value. A value counts from its first packet on.
    pub(super) fn sent(&mut self, value: u32, now: u64) {
        // Zero is what scrubbing leaves, and a value that went back is a packet that came late.
        if value == 0 || self.newest.is_some_and(|newest| value.wrapping_sub(newest) as i32 <= 0) {
            return;
        }
        self.newest = Some(value);
        if self.sent.len() < MAX_OUTSTANDING {
            self.sent.push_back((value, now));
        }
    }

    /// The other end echoed this value: when that was first seen, if it had not been echoed before.
    pub(super) fn echoed(&mut self, value: u32) -> Option<u64> {
        while let Some(&(sent, at)) = self.sent.front() {
            match value.wrapping_sub(sent) as i32 {
                0 => {
                    self.sent.pop_front();
                    return Some(at);
                }
                1.. => self.sent.pop_front(),
                _ => return None,
            };
        }
        None
    }
}

/// Samples held for the quantiles: 16 KiB for each kind and direction at most.
const MAX_KEPT: usize = 2048;

/// Segments that await an answer at once and are timed; further ones are not, until some are answered.
pub(super) const MAX_OUTSTANDING: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_samples_are_exact() {
        let mut samples = Samples::default();
        (1..=100).rev().for_each(|n| samples.add(n));
        assert_eq!(samples.finish(), Rtt { samples: 100, min_ns: Some(1), median_ns: Some(50), p95_ns: Some(95) });
        assert_eq!(Samples::default().finish(), Rtt::default());
    }

    #[test]
    fn many_samples_take_bounded_room_and_give_nearly_the_same_quantiles() {
        let mut samples = Samples::default();
        (0..1_000_000).for_each(|n| samples.add(n));
        assert!(samples.kept.len() <= MAX_KEPT && samples.kept.len() > MAX_KEPT / 3);
        let rtt = samples.finish();
        assert_eq!((rtt.samples, rtt.min_ns), (1_000_000, Some(0)));
        assert!(rtt.median_ns.unwrap().abs_diff(500_000) < 2_000, "{rtt:?}");
        assert!(rtt.p95_ns.unwrap().abs_diff(950_000) < 2_000, "{rtt:?}");
    }

    #[test]
    fn a_value_is_timed_once_from_its_first_packet_and_across_its_wrap() {
        let mut echoes = Echoes::default();
        for (value, at) in [(u32::MAX, 10), (u32::MAX, 11), (3, 20), (2, 21), (4, 30)] {
            echoes.sent(value, at);
        }
        assert_eq!(echoes.echoed(u32::MAX), Some(10));
        assert_eq!(echoes.echoed(u32::MAX), None);
        assert_eq!(echoes.echoed(4), Some(30), "3 was never echoed alone");
        assert_eq!(echoes.echoed(4), None);
    }
}
