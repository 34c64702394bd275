//! Packet time: the only time that the modules below [`crate::daemon`] know.
//!
//! [`Timestamp`] is when a frame was captured, as the capture said. [`Timeline`] turns a sequence of such
//! timestamps, which may be out of order or jump, into the `now` that flow timers run on, which never goes back.
//! Nothing here reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since the Unix epoch, UTC. Arithmetic saturates; the range ends in the year 2554.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch itself, and the stand-in for "before everything".
    pub const ZERO: Self = Self(0);
    /// Later than every frame: a deadline that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// A timestamp of this many nanoseconds since the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A timestamp of whole seconds and nanoseconds since the epoch; saturates at [`Self::MAX`].
    pub const fn from_parts(secs: u64, nanos: u32) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC).saturating_add(nanos as u64))
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn secs(self) -> u64 {
        self.0 / NANOS_PER_SEC
    }

    /// Nanoseconds within the second.
    pub const fn subsec_nanos(self) -> u32 {
        (self.0 % NANOS_PER_SEC) as u32
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.secs(), self.subsec_nanos())
    }
}

/// A day of the calendar, as it stands in an archive path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CivilDate {
    /// Year, 1970 to 9999 in practice.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
}

impl CivilDate {
    /// The UTC day of a timestamp.
    pub fn from_utc(ts: Timestamp) -> Self {
        // Days to civil date, Howard Hinnant's algorithm ("chrono-Compatible Low-Level Date Algorithms").
        let z = (ts.secs() / 86_400) as i64 + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = (doy - (153 * mp + 2) / 5 + 1) as u8;
        let month = if mp < 10 { mp + 3 } else { mp - 9 } as u8;
        let year = (yoe + era * 400 + i64::from(month <= 2)) as u16;
        Self { year, month, day }
    }
}

impl fmt::Display for CivilDate {
    /// Writes `YYYY/MM/DD`, the folder below the data folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}/{:02}/{:02}", self.year, self.month, self.day)
    }
}

/// Turns capture timestamps into a `now` that never goes back.
///
/// Small disorder (frames of two rings, of two interfaces) leaves `now` where it is. A backward step of more than
/// [`Timeline::STEP`] means that the clock was set or that another capture file begins: from there on, `now`
/// advances by the differences of the new timestamps, so that timers go on instead of standing still until the old
/// time is reached again.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The timestamp that `now` stands for; `None` before the first.
    raw: Option<Timestamp>,
    now: Timestamp,
    backward_steps: u64,
}

impl Timeline {
    /// A backward jump larger than this is a step of the clock and not disorder.
    pub const STEP: Duration = Duration::from_secs(10);

    /// A timeline that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A gap longer than this counts as this long: every timer has fired by then, and a senseless timestamp in a file
    /// must not carry `now` to the end of time.
    pub const GAP: Duration = Duration::from_secs(86_400);

    /// Takes a frame's timestamp and returns the time that timers are at when this frame is handled.
    pub fn observe(&mut self, ts: Timestamp) -> Timestamp {
        match self.raw {
            None => self.now = ts.min(LATEST_START),
            Some(raw) if ts >= raw => self.now = self.now + ts.since(raw).min(Self::GAP),
            Some(raw) if raw.since(ts) > Self::STEP => self.backward_steps += 1,
            Some(_) => return self.now,
        }
        self.raw = Some(ts);
        self.now
    }

    /// Takes the time of something that is not a frame: it may be later than the last frame, and tells nothing if it is earlier.
    pub fn observe_forward(&mut self, ts: Timestamp) -> Timestamp {
        if self.raw.is_none_or(|raw| ts > raw) { self.observe(ts) } else { self.now }
    }

    /// Takes back a forward step of the clock: the next timestamps are `step` too late, and `now` ignores that.
    pub fn absorb_forward_step(&mut self, step: Duration) {
        self.raw = self.raw.map(|raw| raw + step);
    }

    /// The timestamp that `now` stands for: the last one, but for small disorder.
    pub fn latest(&self) -> Timestamp {
        self.raw.unwrap_or_default()
    }

    /// The time that timers are at.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// How many backward steps there have been.
    pub fn backward_steps(&self) -> u64 {
        self.backward_steps
    }
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The year 2116: far from where arithmetic saturates.
const LATEST_START: Timestamp = Timestamp::from_nanos(1 << 62);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_parts(secs, 0)
    }

    #[test]
    fn civil_dates_agree_with_known_days() {
        for (secs, text) in [
            (0, "1970/01/01"),
            (951_782_400, "2000/02/29"),
            (1_795_218_624, "2026/11/20"),
            (1_795_305_599, "2026/11/21"),
            (4_102_444_800, "2100/01/01"),
        ] {
            assert_eq!(CivilDate::from_utc(at(secs)).to_string(), text);
        }
    }

    #[test]
    fn disorder_does_not_move_now_back() {
        let mut t = Timeline::new();
        assert_eq!(t.observe(at(100)), at(100));
        assert_eq!(t.observe(at(99)), at(100));
        assert_eq!(t.observe(at(101)), at(101));
        assert_eq!(t.backward_steps(), 0);
    }

    #[test]
    fn timers_go_on_after_the_clock_was_set_back() {
        let mut t = Timeline::new();
        t.observe(at(10_000));
        assert_eq!(t.observe(at(500)), at(10_000));
        assert_eq!(t.observe(at(530)), at(10_030));
        assert_eq!(t.backward_steps(), 1);
    }

    #[test]
    fn a_frame_of_the_epoch_is_a_frame_like_any_other() {
        let mut t = Timeline::new();
        t.observe(at(10_000));
        assert_eq!(t.observe(Timestamp::ZERO), at(10_000));
        assert_eq!(t.observe(at(30)), at(10_030), "not back to 30");
        let mut t = Timeline::new();
        t.observe(Timestamp::ZERO);
        assert_eq!(t.observe(at(30)), at(30));
    }

    #[test]
    fn a_senseless_timestamp_does_not_end_time() {
        let mut t = Timeline::new();
        t.observe(at(1_000));
        assert_eq!(t.observe(Timestamp::MAX), at(1_000) + Timeline::GAP);
        t.observe(at(1_001));
        assert_eq!(t.observe(at(1_002)), at(1_001) + Timeline::GAP);
    }

    #[test]
    fn a_forward_step_that_the_source_reports_ages_no_flow() {
        let mut t = Timeline::new();
        t.observe(at(1_000));
        t.absorb_forward_step(Duration::from_secs(3_600));
        assert_eq!(t.observe(at(4_601)), at(1_001));
    }
}
