//! The clock that live frames are stamped with, and its steps.
//!
//! Flow timers run on the time of frames. While no frame comes, a live source says what the clock says; and where the
//! clock is set forward, frames seem to come from the future. This file is the one place below the daemon that reads
//! clocks; [`ClockWatch`] is told what they said.

use crate::time::Timestamp;
use std::time::{Duration, Instant, SystemTime};

/// What the kernel would stamp a frame with now: CLOCK_REALTIME.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::ZERO + since_epoch
}

/// A forward step of the clock, for [`crate::time::Timeline::absorb_forward_step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardStep {
    /// How far the clock was set forward.
    pub by: Duration,
    /// Timestamps from here on are later by the step. Frames stamped before the step may still wait in a ring, so the
    /// step is to be absorbed at the first timestamp that is not before this, and not when it is noticed.
    pub from: Timestamp,
}

/// Finds forward steps of the clock by comparing it with one that cannot be set.
///
/// A step is time that passed on CLOCK_REALTIME and not on CLOCK_MONOTONIC: somebody set the clock, or the machine was
/// suspended. Slewing moves both clocks alike and is no step. Backward steps show in the timestamps themselves.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch {
    last: Option<(Timestamp, Instant)>,
}

impl ClockWatch {
    /// What is not more than this is not a step: a thread that loses its core between the two readings is not one.
    pub const STEP: Duration = Duration::from_millis(500);

    /// Takes a reading of both clocks and returns the step since the last one. To be called a few times a second: a step
    /// is told from the time that passed since the last reading only if it is larger.
    pub fn observe(&mut self, realtime: Timestamp, monotonic: Instant) -> Option<ForwardStep> {
        let (last_realtime, last_monotonic) = self.last.replace((realtime, monotonic))?;
        let passed = monotonic.saturating_duration_since(last_monotonic);
        let by = realtime.since(last_realtime + passed);
        (by > Self::STEP).then_some(ForwardStep { by, from: last_realtime + by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_agree_show_no_step() {
        let (mut watch, start) = (ClockWatch::default(), Instant::now());
        assert_eq!(watch.observe(at(0), start), None);
        assert_eq!(watch.observe(at(100), start + ms(100)), None);
        assert_eq!(watch.observe(at(3_600_100), start + ms(3_600_100)), None);
    }

    #[test]
    fn a_forward_step_is_reported_once_with_its_size_and_its_first_timestamp() {
        let (mut watch, start) = (ClockWatch::default(), Instant::now());
        watch.observe(at(0), start);
        let step = watch.observe(at(60_100), start + ms(100));
        assert_eq!(step, Some(ForwardStep { by: ms(60_000), from: at(60_000) }));
        assert_eq!(watch.observe(at(60_200), start + ms(200)), None);
    }

    #[test]
    fn only_more_than_the_limit_is_a_step() {
        for (moved, is_step) in [(499, false), (500, false), (501, true)] {
            let (mut watch, start) = (ClockWatch::default(), Instant::now());
            watch.observe(at(0), start);
            assert_eq!(watch.observe(at(100 + moved), start + ms(100)).is_some(), is_step, "{moved} ms");
        }
    }

    #[test]
    fn a_backward_step_is_not_reported_and_the_next_forward_one_is() {
        let (mut watch, start) = (ClockWatch::default(), Instant::now());
        watch.observe(at(10_000), start);
        assert_eq!(watch.observe(at(5_000), start + ms(100)), None);
        let step = watch.observe(at(10_100), start + ms(200));
        assert_eq!(step, Some(ForwardStep { by: ms(5_000), from: at(10_000) }));
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_parts(1_795_218_624, 0) + ms(millis)
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
}
