//! Removes the oldest segments, until what is left is small, young and leaves room enough.
//!
//! A segment that somebody reads is passed over: the kernel grants a write lease only on a file that nobody else has open
//! (fcntl(2), F_SETLEASE).

use super::metrics::SpoolMetrics;
use super::segment::{HIDDEN, INDEX, index_path};
use crate::time::{CivilDate, Timestamp};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tracing::{info, warn};

/// What may stay. Nothing is removed for a limit that is not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Bytes of all segments and indexes.
    pub bytes: Option<u64>,
    /// Age of a segment's last write.
    pub age: Option<Duration>,
    /// Bytes that the file system has left for others.
    pub min_free: Option<u64>,
}

/// A segment on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of it and its index.
    pub len: u64,
    /// When it was written to last.
    pub modified: Timestamp,
}

impl Retention {
    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        *self != Self::default()
    }

    /// Removes what is too much of a data folder.
    ///
    /// # Errors
    /// Fails where the folder cannot be read or a segment cannot be removed.
    pub fn enforce(&self, dir: &Path, now: Timestamp, metrics: &SpoolMetrics) -> io::Result<()> {
        let stored = segments(dir)?;
        let mut bytes: u64 = stored.iter().map(|s| s.len).sum();
        let mut free = free_bytes(dir)?;
        for segment in stored {
            let reason = self.reason(&segment, bytes, free, now);
            let Some(reason) = reason else {
                if self.age.is_none() {
                    break;
                }
                continue;
            };
            if is_open(&segment.path) {
                continue;
            }
            // The index first: one without a segment would stay for ever.
            match fs::remove_file(index_path(&segment.path)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => fs::remove_file(&segment.path)?,
            }
            info!(segment = %segment.path.display(), bytes = segment.len, reason, "removed");
            metrics.removed_segments.inc();
            metrics.removed_bytes.inc_by(segment.len);
            bytes -= segment.len;
            free += segment.len;
            remove_empty_days(dir, &segment.path, now);
        }
        Ok(())
    }

    fn reason(&self, segment: &Stored, bytes: u64, free: u64, now: Timestamp) -> Option<&'static str> {
        if self.age.is_some_and(|most| now.since(segment.modified) > most) {
            Some("age")
        } else if self.bytes.is_some_and(|most| bytes > most) {
            Some("bytes")
        } else if self.min_free.is_some_and(|least| free < least) {
            Some("free space")
        } else {
            None
        }
    }
}

/// The published segments below a data folder, oldest first by name.
///
/// # Errors
/// Fails where the folder cannot be read; what vanishes meanwhile is left out.
pub fn segments(dir: &Path) -> io::Result<Vec<Stored>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(e) if folder != dir && e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let is_folder = entry.file_type()?.is_dir();
            // Only the folders of years, months and days are ours.
            if is_folder && name != HIDDEN && name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                folders.push(path);
            } else if !is_folder && folder != dir && is_segment(&path) {
                let Ok(about) = entry.metadata() else { continue };
                let index = fs::metadata(index_path(&path)).map_or(0, |m| m.len());
                let since = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
                found.push(Stored { path, len: about.len() + index, modified: Timestamp::ZERO + since });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether a name is that of a segment.
pub fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut parts = name.split('.').skip(1);
    matches!(parts.next(), Some("pcap" | "pcapng")) && !name.ends_with(INDEX) && !name.starts_with('.')
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let about = statvfs(dir)?;
    Ok(about.blocks_available() * about.fragment_size())
}

/// Whether somebody has a file open. Where the file system has no leases, nobody can tell, and nobody is assumed.
fn is_open(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    // SAFETY: the descriptor is open, and the call takes an integer. The lease ends with the descriptor.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    status != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Removes the folders of days that are past and have nothing left in them; today's is about to be written to.
fn remove_empty_days(dir: &Path, removed: &Path, now: Timestamp) {
    let today = dir.join(CivilDate::from_utc(now).to_string());
    let empty = removed.ancestors().skip(1).take(3).take_while(|folder| !today.starts_with(folder));
    for folder in empty {
        // Fails, as it should, where something is left.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// Runs [`Retention::enforce`] and says when it fails, once for each run of failures.
#[derive(Debug, Default)]
pub struct Keeper {
    failed: bool,
}

impl Keeper {
    /// Enforces limits once.
    pub fn turn(&mut self, retention: &Retention, dir: &Path, now: Timestamp, metrics: &SpoolMetrics) {
        let Err(error) = retention.enforce(dir, now, metrics) else {
            self.failed = false;
            return;
        };
        metrics.removal_errors.inc();
        if !self.failed {
            self.failed = true;
            warn!(%error, "cannot remove old segments");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;
    use tempfile::TempDir;

    #[test]
    fn the_oldest_go_first_until_what_is_left_is_small_enough() {
        for (bytes, left) in [(400, 4), (399, 3), (200, 2), (0, 0)] {
            let dir = spool();
            enforce(&dir, Retention { bytes: Some(bytes), ..Retention::default() });
            let names = left_over(&dir);
            assert_eq!(names.len(), left, "{bytes}");
            assert!(names.iter().rev().zip(["d", "c", "b", "a"]).all(|(path, name)| path.contains(name)), "{names:?}");
        }
    }

    #[test]
    fn what_is_too_old_goes_and_its_empty_day_with_it() {
        let dir = spool();
        let old = File::options().write(true).open(dir.path().join("2026/11/20/a.pcap.zst")).unwrap();
        old.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).unwrap();
        drop(old);
        enforce(&dir, Retention { age: Some(Duration::from_secs(3600)), ..Retention::default() });
        assert_eq!(left_over(&dir).len(), 3);
        assert!(!dir.path().join("2026/11/20").exists() && dir.path().join("2026/11/21").exists());
    }

    #[test]
    fn more_free_space_than_the_disk_has_removes_everything_and_none_removes_nothing() {
        for (least, left) in [(u64::MAX, 0), (0, 4)] {
            let dir = spool();
            enforce(&dir, Retention { min_free: Some(least), ..Retention::default() });
            assert_eq!(left_over(&dir).len(), left);
        }
    }

    #[test]
    fn a_segment_that_is_being_read_stays_and_the_next_goes() {
        let dir = spool();
        let reader = File::open(dir.path().join("2026/11/20/a.pcap.zst")).unwrap();
        enforce(&dir, Retention { bytes: Some(300), ..Retention::default() });
        let names = left_over(&dir);
        assert!(names.len() == 3 && names[0].contains('a') && names[1].contains('c'), "{names:?}");
        drop(reader);
        enforce(&dir, Retention { bytes: Some(200), ..Retention::default() });
        assert!(left_over(&dir)[0].contains('c'));
    }

    #[test]
    fn files_of_others_are_not_touched() {
        let dir = spool();
        for other in ["2026/11/21/notes.txt", "top.pcap", "2026/x.pcap/y"] {
            let path = dir.path().join(other);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"mine").unwrap();
        }
        enforce(&dir, Retention { bytes: Some(0), ..Retention::default() });
        for other in ["2026/11/21/notes.txt", "top.pcap", "2026/x.pcap/y"] {
            assert!(dir.path().join(other).exists(), "{other}");
        }
    }

    #[test]
    fn each_turn_that_the_file_system_refuses_is_counted() {
        let dir = spool();
        let metrics = SpoolMetrics::register(&Registry::new(), &[]);
        let (mut keeper, nothing) = (Keeper::default(), Retention { bytes: Some(0), ..Retention::default() });
        let index = index_path(&dir.path().join("2026/11/20/a.pcap.zst"));
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        for turns in 1..=2 {
            keeper.turn(&nothing, dir.path(), Timestamp::ZERO, &metrics);
            assert_eq!((metrics.removal_errors.get(), left_over(&dir).len()), (turns, 4));
        }
        fs::remove_dir(&index).unwrap();
        keeper.turn(&nothing, dir.path(), Timestamp::ZERO, &metrics);
        assert_eq!((metrics.removal_errors.get(), left_over(&dir).len()), (2, 0));
    }

    /// Four segments of 90 bytes with indexes of 10.
    fn spool() -> TempDir {
        let dir = TempDir::new().unwrap();
        for name in ["20/a", "21/b", "21/c", "21/d"] {
            let path = dir.path().join(format!("2026/11/{name}.pcap.zst"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, [0; 90]).unwrap();
            fs::write(index_path(&path), [0; 10]).unwrap();
        }
        dir
    }

    fn enforce(dir: &TempDir, retention: Retention) {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        retention.enforce(dir.path(), Timestamp::ZERO + since, &SpoolMetrics::register(&Registry::new(), &[])).unwrap();
    }

    fn left_over(dir: &TempDir) -> Vec<String> {
        segments(dir.path()).unwrap().iter().map(|s| s.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}
