//! Which flows of which archive: the arguments that `find`, `get` and `export` share.

use super::BadMeaning;
use super::headers::path;
use super::values::{ByteCount, GoDuration};
use crate::archive::catalogue::columns::Micros;
use crate::archive::catalogue::folder::midnight;
use crate::capture::clock;
use crate::query::archive::{Archive, Watch};
use crate::query::filter::{Bounds, Filter, Network};
use crate::scrub::CryptoPan;
use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An archive and its catalogue.
#[derive(Args, Clone, Debug)]
pub struct ArchiveArgs {
    /// Folder of archived files, of .tgz bundles or of a full capture, one bundle, or one capture file
    #[arg(value_name = "ARCHIVE", value_parser = path())]
    pub archive: PathBuf,

    /// The archive's catalogue [default: within the archive, or ARCHIVE.catalog]
    #[arg(long, value_name = "DIR", value_parser = path(), env = "FLOWARC_CATALOG", hide_env_values = true)]
    pub catalog: Option<PathBuf>,

    /// Read the files themselves, even where there is a catalogue
    #[arg(long, conflicts_with = "catalog")]
    pub no_catalog: bool,
}

/// What flows must be.
#[derive(Args, Clone, Debug)]
pub struct FilterArgs {
    /// UUID, or its beginning; repeat for more
    #[arg(long, value_name = "UUID", help_heading = FILTERS)]
    pub uuid: Vec<String>,

    /// Flows that ended at this time or later: 2026-11-21T12:00:00Z, 2026-11-21, or how long ago: 10m, 2h, 3d
    #[arg(long, value_name = "TIME", help_heading = FILTERS)]
    pub since: Option<String>,

    /// Flows that began before this time
    #[arg(long, value_name = "TIME", help_heading = FILTERS)]
    pub until: Option<String>,

    /// Address of either end, or a network such as 192.0.2.0/24; give two for both ends
    #[arg(long, value_name = "ADDR", help_heading = FILTERS)]
    pub addr: Vec<Network>,

    /// File with the key of the Crypto-PAn that the archive was masked with: addresses asked for are replaced by it first
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = FILTERS)]
    pub key: Option<PathBuf>,

    /// Port of either end; give two for both ends
    #[arg(long, value_name = "PORT", help_heading = FILTERS)]
    pub port: Vec<u16>,

    /// At least so many bytes on the wire, both ways, such as 500KB
    #[arg(long, value_name = "BYTES", help_heading = FILTERS)]
    pub min_bytes: Option<ByteCount>,

    /// At most so many bytes on the wire
    #[arg(long, value_name = "BYTES", help_heading = FILTERS)]
    pub max_bytes: Option<ByteCount>,

    /// At least so long, such as 1.5s
    #[arg(long, value_name = "DURATION", help_heading = FILTERS)]
    pub min_duration: Option<GoDuration>,

    /// At most so long
    #[arg(long, value_name = "DURATION", help_heading = FILTERS)]
    pub max_duration: Option<GoDuration>,

    /// At least so many percent of the packets with payload are retransmissions
    #[arg(long, value_name = "PERCENT", help_heading = FILTERS)]
    pub min_retrans: Option<f64>,

    /// At most so many percent are retransmissions
    #[arg(long, value_name = "PERCENT", help_heading = FILTERS)]
    pub max_retrans: Option<f64>,

    /// Why the capture ended: fin, reset, closed, capture_window, idle, reused, shutdown, end_of_input, budget, salvaged; repeat for more
    #[arg(long, value_name = "REASON", help_heading = FILTERS)]
    pub end: Vec<String>,

    /// In a spool, flows of this protocol: tcp, udp, icmp, icmp6, sctp or a number
    #[arg(long, value_name = "PROTO", help_heading = FILTERS)]
    pub proto: Option<String>,

    /// In a spool, packets that this filter of pcap-filter(7) means; get only
    #[arg(long, value_name = "EXPRESSION", help_heading = FILTERS)]
    pub bpf: Option<String>,
}

impl ArchiveArgs {
    /// Opens the archive.
    ///
    /// # Errors
    /// Fails where there is none.
    pub fn open(&self) -> Result<Archive> {
        let archive = Archive::open(&self.archive, self.catalog.as_deref())?;
        Ok(if self.no_catalog { archive.without_catalogue() } else { archive })
    }
}

impl FilterArgs {
    /// Judges what was typed for an archive of headers or for a spool.
    ///
    /// # Errors
    /// Names the first flag whose value makes no sense.
    pub fn filter(&self, now: Micros, is_spool: bool) -> Result<Filter> {
        let time = |flag: &str, text: &Option<String>| {
            match text {
            None => Ok(None),
            Some(text) => parse_time(text, now).map(Some).ok_or_else(|| {
                BadMeaning(format!("--{flag}={text}: want a time such as 2026-11-21T12:00:00Z or 2026-11-21, or how long ago, such as 90s, 2h or 3d"))
            }),
        }
        };
        let (since, until) = (time("since", &self.since)?, time("until", &self.until)?);
        if let (Some(from), Some(to)) = (since, until)
            && from >= to
        {
            return Err(
                BadMeaning(format!("--until: {to} is not after --since, {from}; give the earlier time as --since")).into()
            );
        }
        for reason in &self.end {
            if !REASONS.contains(&reason.as_str()) {
                return Err(BadMeaning(format!("--end={reason}: want one of {}", REASONS.join(", "))).into());
            }
        }
        if !is_spool && (self.proto.is_some() || self.bpf.is_some()) {
            let reason = "--proto and --bpf are for the folders of flowarc capture; an archive of headers is all TCP (see --addr and --port)";
            return Err(BadMeaning(reason.to_owned()).into());
        }
        for (name, value) in [("min-retrans", self.min_retrans), ("max-retrans", self.max_retrans)] {
            if let Some(percent) = value.filter(|percent| !(0.0..=100.0).contains(percent)) {
                return Err(BadMeaning(format!("--{name}={percent}: want percent, 0 to 100")).into());
            }
        }
        let pan = self.key.as_deref().map(read_key).transpose()?;
        let networks = self.addr.iter().cloned().map(|n| if let Some(pan) = &pan { n.with_key(pan) } else { n }).collect();
        let bytes = |n: Option<ByteCount>| n.map(|n| i64::try_from(n.0).unwrap_or(i64::MAX));
        let seconds = |d: Option<GoDuration>| d.map(|d| d.as_nanos() as f64 / 1e9);
        let filter = Filter {
            uuids: self.uuid.clone(),
            since,
            until,
            networks,
            ports: self.port.clone(),
            bytes: Bounds { least: bytes(self.min_bytes), most: bytes(self.max_bytes) },
            duration: Bounds { least: seconds(self.min_duration), most: seconds(self.max_duration) },
            retransmissions: Bounds { least: self.min_retrans.map(|p| p / 100.0), most: self.max_retrans.map(|p| p / 100.0) },
            ends: self.end.clone(),
        };
        for (what, empty) in [
            ("bytes", filter.bytes.is_empty()),
            ("duration", filter.duration.is_empty()),
            ("retrans", filter.retransmissions.is_empty()),
        ] {
            if empty {
                return Err(BadMeaning(format!("--max-{what}: no flow has less than that and more than --min-{what}")).into());
            }
        }
        Ok(filter)
    }
}

/// Reads a key of Crypto-PAn, and says on standard error where it lies open to everybody.
///
/// # Errors
/// Fails where the file cannot be read or holds no key.
pub fn read_key(path: &Path) -> Result<CryptoPan> {
    let bytes = fs::read(path).with_context(|| format!("read the key {}", path.display()))?;
    if fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o004 != 0) {
        eprintln!("warning: everybody here may read the key {0}, and undo masking by it (chmod 600 {0})", path.display());
    }
    let key = <[u8; CryptoPan::KEY_LEN]>::try_from(&bytes[..]).ok().or_else(|| {
        let digits = std::str::from_utf8(&bytes).ok()?.trim();
        let hex = digits.len() == 2 * CryptoPan::KEY_LEN && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap_or(0);
        hex.then(|| std::array::from_fn(byte))
    });
    let refuse = || BadMeaning(format!("--key={}: want 32 bytes or 64 hexadecimal digits", path.display()));
    Ok(CryptoPan::new(&key.ok_or_else(refuse)?))
}

/// Now, as filters count it.
pub fn now() -> Micros {
    clock::now().into()
}

/// Says on standard error that masking widened what was found, if it did.
pub fn tell_masking(filter: &Filter, found_masked: bool) {
    if found_masked && filter.is_widened_by_masking() {
        eprintln!(
            "note: addresses in this archive are masked, and so was yours before it was compared: connections of all hosts in its /24 (IPv6: /48) are found"
        );
    }
}

/// Shows on a terminal how far a scan is; warns of what cannot be read.
pub struct Progress {
    bar: ProgressBar,
    begin: Instant,
}

impl Progress {
    /// Shown on standard error if that is a terminal, a second after the beginning.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} files read, {per_sec} {msg}") {
            bar.set_style(style);
        }
        Self { bar, begin: Instant::now() }
    }

    fn show(&self) {
        if self.bar.is_hidden() && io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
    }

    /// Prints while it is not on the terminal.
    pub fn around<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    /// Takes it from the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch for Progress {
    fn files(&self, n: u64) {
        self.bar.inc(n);
        if self.begin.elapsed() > Duration::from_secs(1) {
            self.show();
        }
    }

    fn unreadable(&self, file: &str, error: &dyn Error) {
        self.bar.suspend(|| eprintln!("warning: {file} is left out: {error}"));
    }

    fn indexing(&self, bundle: &str) {
        self.show();
        self.bar.set_message(format!("making the index of {bundle}, once"));
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }
}

/// Reads a time: RFC 3339, a part of it in UTC, or how long before `now`.
fn parse_time(text: &str, now: Micros) -> Option<Micros> {
    if text == "now" {
        return Some(now);
    }
    if let Some(ago) = parse_ago(text) {
        return Some(Micros(now.0.checked_sub(ago)?));
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let longest = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !is(4, b"-") || !is(7, b"-") || !(1..=12).contains(&month) || !(1..=longest).contains(&day) || year < 1970 {
        return None;
    }
    let midnight = midnight(year, month, day);
    if text.len() == 10 {
        return Some(midnight);
    }
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    if !is(10, b"Tt ") || !is(13, b":") || hour > 23 || minute > 59 {
        return None;
    }
    let (mut second, mut micros, mut at) = (0, 0, 16);
    if is(16, b":") {
        (second, at) = (number(17, 19)?, 19);
        if is(19, b".") {
            let digits = text.get(20..)?.bytes().take_while(u8::is_ascii_digit).count();
            let kept = digits.min(6);
            micros = number(20, 20 + kept)? * 10_i64.pow(6 - kept as u32);
            at = 20 + digits;
        }
    }
    let offset = match text.get(at..)? {
        "" | "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let valid = zone.len() == 6 && is(at, b"+-") && is(at + 3, b":");
            sign * (valid.then(|| Some(number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?))??)
        }
    };
    let seconds = (hour * 60 + minute - offset) * 60 + second;
    (second <= 60).then_some(Micros(midnight.0 + seconds * 1_000_000 + micros))
}

/// Microseconds of a duration: Go's, or whole days or weeks.
fn parse_ago(text: &str) -> Option<i64> {
    for (unit, seconds) in [("d", 86_400), ("w", 7 * 86_400)] {
        if let Some(n) = text.strip_suffix(unit).and_then(|n| n.parse::<u32>().ok()) {
            return Some(i64::from(n) * seconds * 1_000_000);
        }
    }
    text.parse::<GoDuration>().ok().filter(|d| d.as_nanos() >= 0).map(|d| d.as_nanos() / 1_000)
}

const FILTERS: &str = "Which flows (all that are given must hold)";

const REASONS: [&str; 11] = [
    "fin",
    "reset",
    "closed",
    "capture_window",
    "idle",
    "reused",
    "shutdown",
    "end_of_input",
    "budget",
    "salvaged",
    "unfinished",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_in_every_form() {
        let now = Micros(1_795_305_600_000_000);
        for (text, expected) in [
            ("2026-11-22", "2026-11-22T00:00:00.000000Z"),
            ("2026-11-22T01:02", "2026-11-22T01:02:00.000000Z"),
            ("2026-11-22 01:02:03", "2026-11-22T01:02:03.000000Z"),
            ("2026-11-22T01:02:03.5Z", "2026-11-22T01:02:03.500000Z"),
            ("2026-11-22T01:02:03.123456789+01:30", "2026-11-21T23:32:03.123456Z"),
            ("2026-11-21T23:00:00-02:00", "2026-11-22T01:00:00.000000Z"),
            ("2024-02-29", "2024-02-29T00:00:00.000000Z"),
            ("90s", "2026-11-21T23:58:30.000000Z"),
            ("1h30m", "2026-11-21T22:30:00.000000Z"),
            ("2d", "2026-11-20T00:00:00.000000Z"),
            ("now", "2026-11-22T00:00:00.000000Z"),
        ] {
            assert_eq!(parse_time(text, now).map(|t| t.to_string()).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "x",
            "2026-13-01",
            "2026-02-29",
            "2026-11-22T",
            "2026-11-22T25:00",
            "2026-11-22T01:02:03+1",
            "2026-11-22x",
            "-5m",
            "12",
        ] {
            assert_eq!(parse_time(text, now), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,30}", almost in "[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-9:.Z+-]{0,20}") {
            let _ = parse_time(&text, Micros(0));
            let _ = parse_time(&almost, Micros(0));
        }
    }
}
