//! The value grammars that flags share with the predecessor: those of Go's `time.ParseDuration`, `strconv.ParseInt` with base
//! 0 and `strconv.ParseBool`, and byte counts with decimal units.
//!
//! Only form is judged here; whether a value makes sense for its flag is [`super::headers`]' business.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed duration in nanoseconds, written as in Go: `1m30s`, `-1.5h`, `300ms`, `0`.
///
/// Reference: pkg.go.dev/time#ParseDuration. The range is that of an `i64`, about 292 years either way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoDuration(i64);

impl GoDuration {
    /// A duration of this many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The duration, or `None` if it is negative.
    pub fn non_negative(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// The duration if it is longer than nothing.
    pub fn positive(self) -> Option<Duration> {
        self.non_negative().filter(|d| !d.is_zero())
    }
}

impl FromStr for GoDuration {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (negative, mut rest) = split_sign(text);
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(BadValue::DurationSyntax);
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, tail) = duration_term(rest)?;
            total = total.checked_add(nanos).filter(|&t| t <= MIN_MAGNITUDE).ok_or(BadValue::DurationRange)?;
            rest = tail;
        }
        signed(negative, total).map(Self).ok_or(BadValue::DurationRange)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{:?}", Duration::from_nanos(self.0.unsigned_abs()))
    }
}

/// One number with its unit: its nanoseconds, and the text after it.
fn duration_term(text: &str) -> Result<(u64, &str), BadValue> {
    let (whole_digits, rest) = split_digits(text);
    let whole = whole_digits
        .bytes()
        .try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')).filter(|&n| n <= MIN_MAGNITUDE));
    let whole = whole.ok_or(BadValue::DurationRange)?;
    let (fraction_digits, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole_digits.is_empty() && fraction_digits.is_empty() {
        return Err(BadValue::DurationSyntax);
    }
    let unit_len = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_len);
    let unit_nanos: u64 = match unit {
        "" => return Err(BadValue::DurationUnitMissing),
        "ns" => 1,
        // Both code points that look like a micro sign: U+00B5 and U+03BC.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(BadValue::DurationUnit(unit.into())),
    };
    whole
        .checked_mul(unit_nanos)
        .and_then(|n| n.checked_add(fraction_nanos(fraction_digits, unit_nanos)))
        .filter(|&n| n <= MIN_MAGNITUDE)
        .map(|n| (n, tail))
        .ok_or(BadValue::DurationRange)
}

/// The nanoseconds of a decimal fraction of a unit.
///
/// Digits that an `i64` cannot hold are dropped and the product is taken in floating point: so does Go, and the last
/// nanosecond depends on it.
fn fraction_nanos(digits: &str, unit_nanos: u64) -> u64 {
    let (mut fraction, mut scale) = (0u64, 1f64);
    for d in digits.bytes() {
        if fraction > i64::MAX as u64 / 10 {
            break;
        }
        let next = fraction * 10 + u64::from(d - b'0');
        if next > MIN_MAGNITUDE {
            break;
        }
        fraction = next;
        scale *= 10.0;
    }
    (fraction as f64 * (unit_nanos as f64 / scale)) as u64
}

/// A number of bytes: digits, then nothing, `B`, or `K`, `M`, `G` (decimal: 10^3, 10^6, 10^9) with or without `B`.
///
/// At most `i64::MAX` bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (digits, unit) = split_digits(text);
        let multiple: u64 = match unit {
            "" | "B" => 1,
            "K" | "KB" => 1_000,
            "M" | "MB" => 1_000_000,
            "G" | "GB" => 1_000_000_000,
            _ => return Err(BadValue::ByteCountSyntax),
        };
        if digits.is_empty() {
            return Err(BadValue::ByteCountSyntax);
        }
        // Only digits are left, so all that can fail is their number.
        digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(multiple))
            .filter(|&n| n <= i64::MAX as u64)
            .map(Self)
            .ok_or(BadValue::ByteCountRange)
    }
}

impl fmt::Display for ByteCount {
    /// Writes the largest unit that divides the number: `1500MB`, `2GB`, `5B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1_000_000_000 && n % 1_000_000_000 == 0 => write!(f, "{}GB", n / 1_000_000_000),
            n if n >= 1_000_000 && n % 1_000_000 == 0 => write!(f, "{}MB", n / 1_000_000),
            n if n >= 1_000 && n % 1_000 == 0 => write!(f, "{}KB", n / 1_000),
            n => write!(f, "{n}B"),
        }
    }
}

/// An integer as Go's `strconv.ParseInt(s, 0, 64)` reads it: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, and single
/// underscores between digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoInt(pub i64);

impl FromStr for GoInt {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (negative, number) = split_sign(text);
        let (radix, digits) = match number.as_bytes() {
            [b'0', b'x' | b'X', _, ..] => (16, &number[2..]),
            [b'0', b'o' | b'O', _, ..] => (8, &number[2..]),
            [b'0', b'b' | b'B', _, ..] => (2, &number[2..]),
            [b'0', _, ..] => (8, &number[1..]),
            _ => (10, number),
        };
        // What stands before the first digit taken here, a base prefix or the octal zero, may have an underscore after it.
        let mut after_digit = digits.len() < number.len();
        let mut magnitude = Some(0u64);
        for c in digits.chars() {
            if c == '_' && after_digit {
                after_digit = false;
                continue;
            }
            let digit = c.to_digit(radix).ok_or(BadValue::IntSyntax)?;
            magnitude = magnitude.and_then(|n| n.checked_mul(u64::from(radix))?.checked_add(u64::from(digit)));
            after_digit = true;
        }
        if !after_digit {
            return Err(BadValue::IntSyntax);
        }
        magnitude.and_then(|n| signed(negative, n)).map(Self).ok_or(BadValue::IntRange)
    }
}

impl fmt::Display for GoInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads a truth value as Go's `strconv.ParseBool` does.
///
/// # Errors
/// Fails for anything but the twelve spellings.
pub fn parse_bool(text: &str) -> Result<bool, BadValue> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(BadValue::Bool),
    }
}

/// Why a text is not a value of its type; says what would be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadValue {
    /// Not a number where a duration needs one.
    #[error("not a duration: want numbers with units, such as 30s, 1m30s or 500ms")]
    DurationSyntax,
    /// A number without a unit.
    #[error("missing unit in duration: want one of ns, us, ms, s, m, h after each number, such as 30s")]
    DurationUnitMissing,
    /// A unit that does not exist.
    #[error("unknown unit {0:?} in duration: want one of ns, us, ms, s, m, h")]
    DurationUnit(Box<str>),
    /// Beyond 64-bit nanoseconds.
    #[error("duration out of range: the longest is about 292 years")]
    DurationRange,
    /// Not a byte count.
    #[error("not a byte count: want digits with B, K, KB, M, MB, G, GB or nothing after them, such as 1500MB")]
    ByteCountSyntax,
    /// More than `i64::MAX` bytes.
    #[error("byte count out of range: the largest is {}B", i64::MAX)]
    ByteCountRange,
    /// Not an integer.
    #[error("not an integer: want digits, such as 150, 0x96 or 1_000")]
    IntSyntax,
    /// Beyond 64 bits.
    #[error("integer out of range: want {} to {}", i64::MIN, i64::MAX)]
    IntRange,
    /// Not a truth value.
    #[error("not a truth value: want true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)")]
    Bool,
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `None` if the number does not fit.
fn signed(negative: bool, magnitude: u64) -> Option<i64> {
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// The magnitude of `i64::MIN`, the largest that a sign may make valid.
const MIN_MAGNITUDE: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_the_predecessors_values() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("+0", 0),
            ("0s", 0),
            ("30s", 30 * S),
            ("+30s", 30 * S),
            ("-1s", -S),
            ("1m30s", 90 * S),
            ("1h1m1s1ms1us1ns", 3661 * S + 1_001_001),
            ("5\u{b5}s", 5_000),
            ("5\u{3bc}s", 5_000),
            (".5s", S / 2),
            ("5.s", 5 * S),
            ("1.5h", 5_400 * S),
            ("0.1ns", 0),
            ("1s1s", 2 * S),
            ("0.3333333333333333333h", 1_200 * S),
            ("0.9223372036854775807h", 3_320_413_933_267),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("9223372036s854775807ns", i64::MAX),
            ("-2562047h47m16.854775808s", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_refused() {
        for text in ["", "-", "+", "s", ".s", "..5s", "-.s", "+-1s", " 1s", "x", "--1s", "\u{b5}s"] {
            assert_eq!(text.parse::<GoDuration>(), Err(BadValue::DurationSyntax), "{text:?}");
        }
        for text in ["30", "1s30", "00", "1.", ".5", "0.0", "1.2.3s"] {
            assert_eq!(text.parse::<GoDuration>(), Err(BadValue::DurationUnitMissing), "{text:?}");
        }
        for text in ["1d", "1S", "1 s", "1s ", "1.2e3s", "1s-2s"] {
            assert!(matches!(text.parse::<GoDuration>(), Err(BadValue::DurationUnit(_))), "{text:?}");
        }
        for text in
            ["9223372036854775808ns", "-9223372036854775809ns", "2562048h", "9223372036854775.808us", "99999999999999999999s"]
        {
            assert_eq!(text.parse::<GoDuration>(), Err(BadValue::DurationRange), "{text:?}");
        }
    }

    #[test]
    fn byte_counts_are_decimal_and_upper_case() {
        for (text, n) in [
            ("0", 0),
            ("007", 7),
            ("5B", 5),
            ("1K", 1_000),
            ("1KB", 1_000),
            ("1500MB", 1_500_000_000),
            ("8GB", 8_000_000_000),
            ("9223372036854775807", i64::MAX as u64),
            ("9223372036G", 9_223_372_036_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(n)), "{text}");
        }
        for text in ["", "B", "GB", "8GiB", "8gb", "-1", "+1", "1.5G", "1 G", "1T", "0x10", "1_000", "1BB", "\u{661}"] {
            assert_eq!(text.parse::<ByteCount>(), Err(BadValue::ByteCountSyntax), "{text:?}");
        }
        for text in ["9223372036854775808", "9223372037G", "99999999999999999999999B"] {
            assert_eq!(text.parse::<ByteCount>(), Err(BadValue::ByteCountRange), "{text:?}");
        }
    }

    #[test]
    fn byte_counts_print_in_the_largest_exact_unit() {
        for text in ["1500MB", "2GB", "5B", "0B", "1001KB"] {
            assert_eq!(text.parse::<ByteCount>().map(|n| n.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn integers_have_gos_prefixes_and_underscores() {
        for (text, n) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("150", 150),
            ("0x10", 16),
            ("0XfF", 255),
            ("0o20", 16),
            ("020", 16),
            ("0b101", 5),
            ("-0b101", -5),
            ("1_000", 1_000),
            ("0_7", 7),
            ("0x_10", 16),
            ("9223372036854775807", i64::MAX),
            ("-0x8000000000000000", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(GoInt(n)), "{text}");
        }
        for text in
            ["", "+", "-", "x", "0x", "0b", "08", "0b2", "0x_", "_1", "1_", "1__0", "0_", "+-1", "1e3", "1.0", " 1", "1 ", "0x-1"]
        {
            assert_eq!(text.parse::<GoInt>(), Err(BadValue::IntSyntax), "{text:?}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "0xffffffffffffffffffff"] {
            assert_eq!(text.parse::<GoInt>(), Err(BadValue::IntRange), "{text:?}");
        }
    }

    #[test]
    fn truth_values_have_twelve_spellings() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "tRUE", "2", " true"] {
            assert_eq!(parse_bool(text), Err(BadValue::Bool));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_a_parser(text in "\\PC*", short in "[-+0-9a-zA-Z._\u{b5}]{0,12}") {
            for text in [text, short] {
                let _ = text.parse::<GoDuration>();
                let _ = text.parse::<ByteCount>();
                let _ = text.parse::<GoInt>();
                let _ = parse_bool(&text);
            }
        }

        /// The model: exact arithmetic in 128 bits over whole numbers of units.
        #[test]
        fn whole_durations_are_the_sum_of_their_terms(
            negative: bool,
            terms in prop::collection::vec((0u64..=1 << 40, 0usize..6), 1..5),
        ) {
            const UNITS: [(&str, i128); 6] =
                [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
            let text: String = terms.iter().map(|&(n, u)| format!("{n}{}", UNITS[u].0)).collect();
            let sum: i128 = terms.iter().map(|&(n, u)| i128::from(n) * UNITS[u].1).sum();
            let (sign, sum) = if negative { ("-", -sum) } else { ("", sum) };
            let expected = i64::try_from(sum).map(GoDuration).map_err(|_| BadValue::DurationRange);
            prop_assert_eq!(format!("{sign}{text}").parse::<GoDuration>(), expected);
        }

        /// The model: seconds cut to nanoseconds. Floating point may be one off.
        #[test]
        fn fractions_are_exact_to_a_nanosecond(whole in 0i64..1_000_000, digits in "[0-9]{1,15}") {
            let parsed = format!("{whole}.{digits}s").parse::<GoDuration>();
            let nanos: i64 = format!("{digits:0<9}")[..9].parse().expect("nine digits");
            let exact = whole * S + nanos;
            prop_assert!(parsed.is_ok_and(|d| (d.as_nanos() - exact).abs() <= 1));
        }

        #[test]
        fn integers_read_back_in_every_base(n: i64) {
            let (sign, m) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
            for text in [format!("{n}"), format!("{sign}{m:#x}"), format!("{sign}{m:#o}"), format!("{sign}{m:#b}"), format!("{sign}0{m:o}")] {
                prop_assert_eq!(text.parse(), Ok(GoInt(n)));
            }
        }

        #[test]
        fn byte_counts_read_back_what_they_print(n in 0..=i64::MAX as u64) {
            prop_assert_eq!(ByteCount(n).to_string().parse(), Ok(ByteCount(n)));
        }
    }

    const S: i64 = 1_000_000_000;
}
