//! Removes the oldest segments, until what is left is small, young and leaves room enough.
//!
//! A segment that somebody reads is passed over: the kernel grants a write lease only on a file that nobody else has open
//! (fcntl(2), F_SETLEASE).

use super::metrics::SpoolMetrics;
use super::segment::{HIDDEN, INDEX, index_path};
use crate::time::{CivilDate, Timestamp};
use nix::sys::statvfs::statvfs;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
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

    /// Removes what is too much of a data folder. After an error the inventory is to be made anew.
    ///
    /// # Errors
    /// Fails where the folder cannot be read or a segment cannot be removed.
    pub fn enforce(&self, inventory: &mut Inventory, now: Timestamp, metrics: &SpoolMetrics) -> io::Result<()> {
        inventory.refresh()?;
        let mut bytes = inventory.bytes;
        let mut free = free_bytes(&inventory.dir)?;
        let mut removed = Vec::new();
        for (path, segment) in &inventory.segments {
            let reason = self.reason(segment, bytes, free, now);
            let Some(reason) = reason else {
                if self.age.is_none() {
                    break;
                }
                continue;
            };
            if is_open(path) {
                continue;
            }
            // The index first: one without a segment would stay for ever.
            match fs::remove_file(index_path(path)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => fs::remove_file(path)?,
            }
            info!(segment = %path.display(), bytes = segment.len, reason, "removed");
            metrics.removed_segments.inc();
            metrics.removed_bytes.inc_by(segment.len);
            bytes -= segment.len;
            free += segment.len;
            remove_empty_days(&inventory.dir, path, now);
            removed.push(path.clone());
        }
        removed.iter().for_each(|path| inventory.forget(path));
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

/// The published segments of a data folder, kept up to date for little: a folder is listed again when it has changed, and
/// only segments that are new in it are looked at, since a published one never changes.
#[derive(Debug)]
pub struct Inventory {
    dir: PathBuf,
    folders: HashMap<PathBuf, Folder>,
    segments: BTreeMap<PathBuf, Stored>,
    bytes: u64,
}

#[derive(Debug)]
struct Folder {
    /// When it was last changed; `None` if that was so shortly before it was listed that the next change could look the same.
    changed: Option<SystemTime>,
    folders: Vec<PathBuf>,
}

impl Inventory {
    /// Of a folder that has not been looked at.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), folders: HashMap::new(), segments: BTreeMap::new(), bytes: 0 }
    }

    /// Looks for what has come and gone.
    ///
    /// # Errors
    /// Fails where a folder cannot be read; what vanishes meanwhile is left out.
    pub fn refresh(&mut self) -> io::Result<()> {
        let mut folders = vec![self.dir.clone()];
        while let Some(path) = folders.pop() {
            let changed = match fs::metadata(&path).and_then(|about| about.modified()) {
                Err(e) if path != self.dir && e.kind() == io::ErrorKind::NotFound => {
                    self.forget_folder(&path);
                    continue;
                }
                changed => changed?,
            };
            if self.folders.get(&path).is_none_or(|known| known.changed != Some(changed)) {
                self.list(&path, changed)?;
            }
            folders.extend(self.folders.get(&path).iter().flat_map(|known| known.folders.iter().cloned()));
        }
        Ok(())
    }

    fn list(&mut self, folder: &Path, changed: SystemTime) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(e) if folder != self.dir && e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age >= SETTLED);
        let mut now = Folder { changed: settled.then_some(changed), folders: Vec::new() };
        let mut found = HashSet::new();
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let is_folder = entry.file_type()?.is_dir();
            // Only the folders of years, months and days are ours.
            if is_folder && name != HIDDEN && name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                now.folders.push(path);
            } else if !is_folder && folder != self.dir && is_segment(&path) {
                if !self.segments.contains_key(&path) {
                    let Ok(about) = entry.metadata() else { continue };
                    let index = fs::metadata(index_path(&path)).map_or(0, |m| m.len());
                    let since = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
                    let len = about.len() + index;
                    self.bytes += len;
                    self.segments.insert(path.clone(), Stored { len, modified: Timestamp::ZERO + since });
                }
                found.insert(path);
            }
        }
        if let Some(before) = self.folders.remove(folder) {
            let gone: Vec<_> = self.within(folder).filter(|path| !found.contains(*path)).cloned().collect();
            gone.iter().for_each(|path| self.forget(path));
            let gone: Vec<_> = before.folders.into_iter().filter(|path| !now.folders.contains(path)).collect();
            gone.iter().for_each(|path| self.forget_folder(path));
        }
        self.folders.insert(folder.to_owned(), now);
        Ok(())
    }

    /// The segments that lie in a folder itself; paths sort by their components, so they stand together.
    fn within<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
        let from = self.segments.range::<Path, _>((Bound::Excluded(folder), Bound::Unbounded)).map(|(path, _)| path);
        from.take_while(move |path| path.starts_with(folder)).filter(move |path| path.parent() == Some(folder))
    }

    fn forget(&mut self, segment: &Path) {
        if let Some(stored) = self.segments.remove(segment) {
            self.bytes -= stored.len;
        }
    }

    fn forget_folder(&mut self, path: &Path) {
        if let Some(known) = self.folders.remove(path) {
            let gone: Vec<_> = self.within(path).cloned().collect();
            gone.iter().for_each(|segment| self.forget(segment));
            known.folders.iter().for_each(|folder| self.forget_folder(folder));
        }
    }
}

/// The published segments below a data folder, oldest first by name.
///
/// # Errors
/// Fails where the folder cannot be read; what vanishes meanwhile is left out.
pub fn segments(dir: &Path) -> io::Result<Vec<(PathBuf, Stored)>> {
    let mut inventory = Inventory::new(dir);
    inventory.refresh()?;
    Ok(inventory.segments.into_iter().collect())
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
#[derive(Debug)]
pub struct Keeper {
    inventory: Inventory,
    failed: bool,
}

impl Keeper {
    /// Of a data folder.
    pub fn new(dir: &Path) -> Self {
        Self { inventory: Inventory::new(dir), failed: false }
    }

    /// Enforces limits once.
    pub fn turn(&mut self, retention: &Retention, now: Timestamp, metrics: &SpoolMetrics) {
        let Err(error) = retention.enforce(&mut self.inventory, now, metrics) else {
            self.failed = false;
            return;
        };
        self.inventory = Inventory::new(&self.inventory.dir);
        metrics.removal_errors.inc();
        if !std::mem::replace(&mut self.failed, true) {
            warn!(%error, "cannot remove old segments");
        }
    }
}

/// A folder's time of change is as fine as the kernel's tick, or a second or two on old file systems.
const SETTLED: Duration = Duration::from_secs(3);

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
    fn an_inventory_follows_what_comes_and_goes() {
        let dir = spool();
        let mut inventory = Inventory::new(dir.path());
        let age = |folder: &str, secs| {
            let at = SystemTime::now() - Duration::from_secs(secs);
            File::open(dir.path().join(folder)).unwrap().set_modified(at).unwrap();
        };
        let mut check = |what: &str| {
            inventory.refresh().unwrap();
            let expected = segments(dir.path()).unwrap();
            assert_eq!(inventory.segments.clone().into_iter().collect::<Vec<_>>(), expected, "{what}");
            assert_eq!(inventory.bytes, expected.iter().map(|(_, s)| s.len).sum::<u64>(), "{what}");
        };
        check("at first");
        fs::write(dir.path().join("2026/11/21/e.pcap"), [0; 7]).unwrap();
        check("one more, at once");
        ["", "2026", "2026/11", "2026/11/20", "2026/11/21"].iter().for_each(|folder| age(folder, 100));
        check("after a while");
        fs::remove_file(dir.path().join("2026/11/21/b.pcap.zst")).unwrap();
        check("one less");
        fs::create_dir_all(dir.path().join("2027/01/01")).unwrap();
        fs::write(dir.path().join("2027/01/01/f.pcapng.gz"), [0; 9]).unwrap();
        check("another year");
        fs::remove_dir_all(dir.path().join("2026/11/20")).unwrap();
        check("a day gone");
        fs::remove_dir_all(dir.path().join("2026")).unwrap();
        check("a year gone");
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
        let (mut keeper, nothing) = (Keeper::new(dir.path()), Retention { bytes: Some(0), ..Retention::default() });
        let index = index_path(&dir.path().join("2026/11/20/a.pcap.zst"));
        fs::remove_file(&index).unwrap();
        fs::create_dir(&index).unwrap();
        for turns in 1..=2 {
            keeper.turn(&nothing, Timestamp::ZERO, &metrics);
            assert_eq!((metrics.removal_errors.get(), left_over(&dir).len()), (turns, 4));
        }
        fs::remove_dir(&index).unwrap();
        keeper.turn(&nothing, Timestamp::ZERO, &metrics);
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
        retention
            .enforce(&mut Inventory::new(dir.path()), Timestamp::ZERO + since, &SpoolMetrics::register(&Registry::new(), &[]))
            .unwrap();
    }

    fn left_over(dir: &TempDir) -> Vec<String> {
        segments(dir.path()).unwrap().iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}
