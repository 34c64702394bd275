//! Times as Go writes them in JSON: RFC 3339 with up to nine digits of fraction and a UTC offset of their own.

use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time with the UTC offset that it was written in, exact to the nanosecond.
///
/// Comparison and hashing look at the point in time only: `01:00+01:00` equals `00:00Z`. The day and the text keep
/// the offset. Years are 0 to 9999, so every value can be written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// A UTC timestamp of this many nanoseconds since the Unix epoch.
    pub fn from_unix_nanos(nanos: u64) -> Self {
        let utc = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos));
        Self(utc.expect("64 bits of nanoseconds end in the year 2554"))
    }

    /// Nanoseconds since the Unix epoch; negative before it.
    pub fn unix_nanos(self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// Year, month (1 to 12) and day (1 to 31) in the timestamp's own UTC offset.
    pub fn civil_date(self) -> (u16, u8, u8) {
        let date = self.0.date();
        (u16::try_from(date.year()).unwrap_or_default(), date.month().into(), date.day())
    }
}

impl Default for Timestamp {
    /// Go's zero time, which a line without a timestamp means: the first instant of the year 1, UTC.
    fn default() -> Self {
        const GO_ZERO_SECS: i64 = -62_135_596_800;
        Self(OffsetDateTime::from_unix_timestamp(GO_ZERO_SECS).expect("a year from 0 to 9999"))
    }
}

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    /// Reads RFC 3339; digits of the fraction past the ninth are cut off.
    fn from_str(text: &str) -> Result<Self, BadTimestamp> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self).map_err(|_| BadTimestamp)
    }
}

impl fmt::Display for Timestamp {
    /// Writes Go's RFC3339Nano: no trailing zeros in the fraction, `Z` for a zero offset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

/// The text is not an RFC 3339 time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("timestamp is not RFC 3339 (like 2026-11-21T00:11:14.659974346Z)")]
pub struct BadTimestamp;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(text: &str) -> String {
        text.parse::<Timestamp>().unwrap().to_string()
    }

    #[test]
    fn the_text_is_that_of_go() {
        for (read, written) in [
            ("2026-11-21T00:11:14.659974346Z", "2026-11-21T00:11:14.659974346Z"),
            ("2026-11-21T00:11:14.120000000Z", "2026-11-21T00:11:14.12Z"),
            ("2026-11-21T00:11:14.000000001Z", "2026-11-21T00:11:14.000000001Z"),
            ("2026-11-21T00:11:14.000Z", "2026-11-21T00:11:14Z"),
            ("2026-11-21T00:11:14+00:00", "2026-11-21T00:11:14Z"),
            ("2026-11-21T00:11:14.5-03:30", "2026-11-21T00:11:14.5-03:30"),
            ("2026-11-21T00:11:14.1234567899Z", "2026-11-21T00:11:14.123456789Z"),
        ] {
            assert_eq!(rewritten(read), written);
        }
    }

    #[test]
    fn the_day_is_that_of_the_offset() {
        let text = "2026-12-31T23:30:00-05:00";
        assert_eq!(text.parse::<Timestamp>().unwrap().civil_date(), (2026, 12, 31));
        let same = "2027-01-01T04:30:00Z";
        assert_eq!(same.parse::<Timestamp>().unwrap().civil_date(), (2027, 1, 1));
        assert_eq!(text.parse::<Timestamp>(), same.parse::<Timestamp>());
    }

    #[test]
    fn the_default_is_the_zero_time_of_go() {
        assert_eq!(Timestamp::default().to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "now", "2026-11-21", "2026-11-21T00:11:14", "2026-13-21T00:11:14Z", "2026-11-21T00:11:14.Z"] {
            assert_eq!(text.parse::<Timestamp>(), Err(BadTimestamp), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nanoseconds_survive(nanos in any::<u64>()) {
            let t = Timestamp::from_unix_nanos(nanos);
            prop_assert_eq!(t.unix_nanos(), i128::from(nanos));
            prop_assert_eq!(t.to_string().parse::<Timestamp>(), Ok(t));
        }

        #[test]
        fn what_can_be_read_can_be_written(
            text in r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,12})?(Z|[+-][0-2][0-9]:[0-5][0-9])",
        ) {
            if let Ok(t) = text.parse::<Timestamp>() {
                t.civil_date();
                t.unix_nanos();
                prop_assert_eq!(t.to_string().parse::<Timestamp>().unwrap().to_string(), t.to_string());
            }
        }
    }
}
