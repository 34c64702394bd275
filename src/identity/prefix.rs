//! What the UUIDs of this host's sockets begin with.
//!
//! A UUID is the prefix, an underscore and the kernel's cookie of the socket in sixteen hexadecimal digits. Programs that
//! name the same connection on their own (the measurement server by SO_COOKIE, tcp-info by netlink) must come to the same
//! text, so the rules here are those of M-Lab's uuid library.

use crate::key::{BadUuid, FlowUuid};
use crate::time::Timestamp;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The beginning of all UUIDs of one boot of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(String);

impl Prefix {
    /// Takes a prefix if what begins with it can be a file name.
    ///
    /// # Errors
    /// Says what is wrong with the UUIDs it would give.
    pub fn parse(text: &str) -> Result<Self, BadUuid> {
        if text.is_empty() {
            return Err(BadUuid::Empty);
        }
        FlowUuid::parse(&name(text, 0)).map(|_| Self(text.to_owned()))
    }

    /// The content of a prefix file, to the byte: the library does not trim, so a line end would be part of every UUID
    /// that others give, and nobody could hold such a name.
    ///
    /// # Errors
    /// Fails where the file cannot be read or its content cannot begin a file name.
    pub fn from_file(path: &Path) -> Result<Self, PrefixError> {
        let bytes = fs::read(path).map_err(|source| PrefixError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(|bad| PrefixError::bad_file(path, &bytes, bad))
    }

    /// `HOST_BOOT_unsafe`, for want of a prefix file: HOST is the environment's POD_NAME or else the host name, BOOT the
    /// boot's time in Unix seconds. Unsafe because a clock that is set moves BOOT: two programs can differ by a second.
    ///
    /// # Errors
    /// Fails where the host name or /proc/uptime cannot be read or the host name cannot begin a file name.
    pub fn of_this_boot(pod_name: Option<String>, now: Timestamp) -> Result<Self, PrefixError> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|source| PrefixError::Read { path: PathBuf::from(path), source });
        let host = match pod_name.filter(|name| !name.is_empty()) {
            Some(name) => name,
            // The node name of uname(2), by another way.
            None => read("/proc/sys/kernel/hostname")?.trim_end_matches('\n').to_owned(),
        };
        let boot = boot_time(&read("/proc/uptime")?, now).ok_or(PrefixError::BadUptime)?;
        Self::parse(&format!("{host}_{boot}_unsafe")).map_err(|bad| PrefixError::BadHost { host, bad })
    }

    /// The UUID of the socket with this cookie.
    pub fn uuid(&self, cookie: u64) -> FlowUuid {
        FlowUuid::parse(&name(&self.0, cookie)).expect("a prefix is checked with a cookie behind it")
    }

    /// The prefix itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadUuid> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| BadUuid::Alphabet)?)
    }
}

/// The cookie that a UUID of this form ends in; `None` for one of another form.
pub fn cookie_of(uuid: &FlowUuid) -> Option<u64> {
    let (_, digits) = uuid.as_str().rsplit_once('_')?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let is_cookie = digits.len() == 16 && digits.bytes().all(is_digit);
    is_cookie.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Why there is no prefix.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// A file cannot be read.
    #[error("read {} for the UUID prefix: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A prefix file that ends in a line end.
    #[error("UUID prefix file {} ends with a line end, which would be part of every UUID (write it without: printf %s PREFIX > FILE)", .0.display())]
    LineEnd(PathBuf),
    /// A prefix file with other content than a prefix.
    #[error("UUID prefix file {}: {bad} (want 1 to {MAX_LEN} of A-Z a-z 0-9 . _ : -, no line end)", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        bad: BadUuid,
    },
    /// A host name that cannot be in a file name.
    #[error("host name {host:?} cannot begin a UUID: {bad} (set POD_NAME or name a prefix file)")]
    BadHost {
        /// The host name or POD_NAME.
        host: String,
        /// What is wrong.
        bad: BadUuid,
    },
    /// /proc/uptime is not what proc(5) says.
    #[error("/proc/uptime does not begin with a number of seconds (name a UUID prefix file)")]
    BadUptime,
}

impl PrefixError {
    fn bad_file(path: &Path, bytes: &[u8], bad: BadUuid) -> Self {
        let path = path.to_owned();
        let stripped = bytes.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
        match stripped {
            Some(rest) if Prefix::from_bytes(rest).is_ok() => Self::LineEnd(path),
            _ => Self::BadFile { path, bad },
        }
    }
}

fn name(prefix: &str, cookie: u64) -> String {
    format!("{prefix}_{cookie:016X}")
}

/// Unix seconds of the boot. The library takes the uptime's microseconds, truncated, from the time and rounds down.
fn boot_time(uptime: &str, now: Timestamp) -> Option<i64> {
    let (seconds, _) = uptime.split_once(' ')?;
    let micros = (seconds.parse::<f64>().ok().filter(|s| s.is_finite())? * 1e6) as i64;
    let nanos = i128::from(now.as_nanos()) - i128::from(micros) * 1000;
    i64::try_from(nanos.div_euclid(1_000_000_000)).ok()
}

/// What the longest UUID leaves for the prefix.
const MAX_LEN: usize = FlowUuid::MAX_LEN - 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_the_prefix_and_the_cookie_in_16_capital_digits() {
        for (prefix, cookie, uuid) in [
            ("vm_1795218624", 4, "vm_1795218624_0000000000000004"),
            ("host_123", 15_994, "host_123_0000000000003E7A"),
            ("x", u64::MAX, "x_FFFFFFFFFFFFFFFF"),
        ] {
            let made = Prefix::parse(prefix).unwrap().uuid(cookie);
            assert_eq!(made.as_str(), uuid);
            assert_eq!(cookie_of(&made), Some(cookie));
        }
    }

    #[test]
    fn a_uuid_of_another_form_has_no_cookie() {
        for text in ["x", "x_4", "x_00000000000000000", "x_000000000000000a", "5d6b9d0e-2c41-4f0a-9a57-e3f16c88b7d4"] {
            assert_eq!(cookie_of(&FlowUuid::parse(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_prefix_file_is_taken_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prefix");
        let read = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            Prefix::from_file(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read(b"host.example.com_45353453").unwrap().as_str(), "host.example.com_45353453");
        assert_eq!(read(&[b'x'; MAX_LEN]).unwrap().as_str().len(), MAX_LEN);
        for content in [&b"host_1\n"[..], b"host_1\r\n"] {
            let error = read(content).unwrap_err();
            assert!(error.contains("ends with a line end") && error.contains(path.to_str().unwrap()), "{error}");
        }
        for content in [&b""[..], b"\n", b" host_1", b"host_1 \n", b"host/1", b"../x", b"\xff", &[b'x'; MAX_LEN + 1]] {
            let error = read(content).unwrap_err();
            assert!(error.contains("no line end") && error.contains(path.to_str().unwrap()), "{error}");
        }
        assert!(Prefix::from_file(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn the_boot_time_is_rounded_down_as_the_library_does() {
        let now = Timestamp::from_parts(1_795_218_624, 500_000_000);
        for (uptime, boot) in [
            ("24.50 40.00\n", Some(1_795_218_600)),
            ("24.51 40.00\n", Some(1_795_218_599)),
            ("0.00 0.00\n", Some(1_795_218_624)),
            ("24.50", None),
            ("soon 40.00", None),
            ("inf 0", None),
        ] {
            assert_eq!(boot_time(uptime, now), boot, "{uptime:?}");
        }
    }

    #[test]
    fn the_default_is_the_pod_or_the_host_and_its_boot() {
        let now = crate::capture::clock::now();
        let boot_of = |prefix: &Prefix, host: &str| {
            let rest = prefix.as_str().strip_prefix(host).unwrap().strip_prefix('_').unwrap();
            rest.strip_suffix("_unsafe").unwrap().parse::<u64>().unwrap()
        };
        let pod = Prefix::of_this_boot(Some("ndt-abcde".into()), now).unwrap();
        assert!((1..=now.secs()).contains(&boot_of(&pod, "ndt-abcde")));
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let plain = Prefix::of_this_boot(Some(String::new()), now).unwrap();
        assert!((1..=now.secs()).contains(&boot_of(&plain, host.trim_end())));
        assert!(matches!(Prefix::of_this_boot(Some("a b".into()), now), Err(PrefixError::BadHost { .. })));
    }
}
