//! Numbers, times and colours for people.

use crate::time::{CivilDate, Timestamp};
use clap::builder::styling::{AnsiColor, Style};

/// Whether text may have colours: only on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// Plain text.
    Never,
    /// ANSI colours.
    Always,
}

/// What a piece of text is to its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ink {
    /// A heading or a name.
    Strong,
    /// Of less importance.
    Faint,
    /// As it should be.
    Good,
    /// To be known.
    Caution,
    /// Wrong.
    Bad,
}

impl Colour {
    /// The text in this ink.
    pub fn paint(self, ink: Ink, text: &str) -> String {
        let style = match ink {
            Ink::Strong => Style::new().bold(),
            Ink::Faint => Style::new().dimmed(),
            Ink::Good => AnsiColor::Green.on_default(),
            Ink::Caution => AnsiColor::Yellow.on_default(),
            Ink::Bad => AnsiColor::Red.on_default().bold(),
        };
        match self {
            Self::Never => text.to_owned(),
            Self::Always => format!("{style}{text}{style:#}"),
        }
    }
}

/// A duration with three significant digits and its unit.
pub fn duration(nanos: u64) -> String {
    // What rounds to a thousand of one unit is one of the next.
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..999_500 => (nanos as f64 / 1e3, "µs"),
        999_500..999_500_000 => (nanos as f64 / 1e6, "ms"),
        999_500_000..120_000_000_000 => (nanos as f64 / 1e9, "s"),
        120_000_000_000..7_200_000_000_000 => (nanos as f64 / 60e9, "min"),
        _ => (nanos as f64 / 3600e9, "h"),
    };
    format!("{} {unit}", significant(value))
}

/// Bytes with three significant digits, in powers of 1,000; exact below 10,000.
pub fn bytes(count: u64) -> String {
    if count < 10_000 { format!("{} B", grouped(count)) } else { scaled(count as f64, "B") }
}

/// Bits per second with three significant digits.
pub fn bit_rate(bits_per_s: u64) -> String {
    if bits_per_s < 1_000 { format!("{bits_per_s} bit/s") } else { scaled(bits_per_s as f64, "bit/s") }
}

/// A number with its digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Day and time of day in UTC, to the millisecond.
pub fn utc(time: Timestamp) -> String {
    let CivilDate { year, month, day } = CivilDate::from_utc(time);
    let second = time.secs() % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = time.subsec_nanos() / 1_000_000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03} UTC")
}

fn scaled(value: f64, unit: &str) -> String {
    let prefixes = ["k", "M", "G", "T", "P", "E"];
    let mut value = value / 1e3;
    let mut prefix = 0;
    while value >= 999.5 && prefix + 1 < prefixes.len() {
        value /= 1e3;
        prefix += 1;
    }
    format!("{} {}{unit}", significant(value), prefixes[prefix])
}

fn significant(value: f64) -> String {
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let durations = [
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (999_999_999, "1.00 s"),
            (40_000_000, "40.0 ms"),
            (123_400_000_000, "2.06 min"),
        ];
        for (nanos, text) in durations {
            assert_eq!(duration(nanos), text);
        }
        for (count, text) in [(0, "0 B"), (9_999, "9,999 B"), (10_000, "10.0 kB"), (999_600, "1.00 MB"), (u64::MAX, "18.4 EB")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!((bit_rate(999), bit_rate(94_213_000)), ("999 bit/s".to_owned(), "94.2 Mbit/s".to_owned()));
        assert_eq!((grouped(0), grouped(1_234_567)), ("0".to_owned(), "1,234,567".to_owned()));
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(Timestamp::from_parts(1_795_219_874, 659_974_346)), "2026-11-21 00:11:14.659 UTC");
    }

    #[test]
    fn colours_are_only_where_they_may_be() {
        assert_eq!(Colour::Never.paint(Ink::Bad, "x"), "x");
        assert_eq!(Colour::Always.paint(Ink::Good, "x"), "\u{1b}[32mx\u{1b}[0m");
    }
}
