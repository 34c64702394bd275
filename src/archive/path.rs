//! Where files are: final paths, temporary paths, the folders of both, and the step from one to the other.
//!
//! A temporary file is `TEMP/SLOT/YYYY-MM-DD.UUID.SERIAL.part`: its name tells the final path, so that a file found after
//! a crash can still be published. A slot is a process's own folder, held by a lock that ends with the process.
//! No folder is assumed to exist because it did before: uploaders remove empty ones.
//!
//! Files are made and renamed relative to open handles of their folders: walking two absolute paths takes the kernel a third
//! of the time that a short flow's file costs.

use super::{Refusal, Stage};
use crate::identity::{FlowUuid, Name};
use crate::time::CivilDate;
use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::Mode;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::warn;

/// The data folder and its temporary folder.
#[derive(Debug)]
pub struct Tree {
    data: PathBuf,
    temp: PathBuf,
    /// What the names of all slots for this data folder begin with: a temporary folder may serve several.
    slot_prefix: String,
    slot: Mutex<Slot>,
    day: Mutex<Option<Day>>,
    next_temp: AtomicU64,
}

/// A process's own folder within the temporary folder.
#[derive(Debug)]
pub(super) struct Slot {
    /// The folder.
    pub(super) path: PathBuf,
    /// Its open handle, locked; the lock ends when the last of these is dropped.
    handle: Arc<File>,
}

/// The folder of the day that files went to last.
#[derive(Debug)]
struct Day {
    date: CivilDate,
    handle: Arc<File>,
    opened: Instant,
}

/// How a temporary file came to its final name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// There was no file of that name.
    New,
    /// There is one already; nothing was done.
    Exists,
}

/// Why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The data folder.
    #[error("open data folder {}: {source} (needs a folder that this user may write to)", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The temporary folder.
    #[error("make and lock a temporary folder in {}: {source} (choose a folder of the data folder's file system with -tmpdir)", path.display())]
    Temp {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Tree {
    /// Opens a data folder, making it where it does not exist, and takes a slot in the temporary folder: `tmpdir`, or a hidden
    /// sibling of the data folder. Where that one cannot be used, it is a hidden folder inside the data folder, with a
    /// warning, because whoever watches the tree sees temporary files come and go.
    ///
    /// # Errors
    /// Fails where files can be written to neither.
    pub fn open(data: &Path, tmpdir: Option<&Path>) -> Result<Self, TreeError> {
        let in_data = |source| TreeError::Data { path: data.to_owned(), source };
        fs::create_dir_all(data).map_err(in_data)?;
        let data = data.canonicalize().map_err(in_data)?;
        let slot_prefix = format!("{:x}-", fs::metadata(&data).map_err(in_data)?.ino());
        let wanted = tmpdir.map(Path::to_owned).or_else(|| hidden_sibling(&data));
        let inside = inside(&data);
        let (temp, slot) = match wanted.as_deref().map(|temp| Slot::take(temp, &slot_prefix, &data)) {
            Some(Ok(found)) => found,
            refused => {
                let reason = refused.and_then(Result::err).map(|e| e.to_string()).unwrap_or_default();
                warn!(
                    wanted = %wanted.unwrap_or_default().display(), used = %inside.display(), reason,
                    "temporary files will be inside the data folder; choose a folder of the same mount with -tmpdir"
                );
                Slot::take(&inside, &slot_prefix, &data).map_err(|source| TreeError::Temp { path: inside, source })?
            }
        };
        Ok(Self { data, temp, slot_prefix, slot: Mutex::new(slot), day: Mutex::default(), next_temp: AtomicU64::new(0) })
    }

    /// Makes a day's folder ahead of its first file: a watcher that must first notice the folder could miss the file.
    ///
    /// # Errors
    /// Fails where the folder cannot be made.
    pub fn prepare(&self, date: CivilDate) -> io::Result<()> {
        fs::create_dir_all(self.data.join(date.to_string()))
    }

    /// The data folder, absolute.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The temporary folder in use.
    pub fn temp(&self) -> &Path {
        &self.temp
    }

    /// Where a name's file appears.
    pub fn final_path(&self, name: &Name) -> PathBuf {
        self.data.join(name.to_string())
    }

    /// A path for a temporary file that nobody else has.
    pub(super) fn temp_path(&self, name: &Name) -> PathBuf {
        self.slot().path.join(self.temp_name(name))
    }

    /// Makes a temporary file, in a slot that exists.
    ///
    /// # Errors
    /// Fails where the file cannot be made, or where the slot has vanished and no other can be made.
    pub(super) fn create(&self, name: &Name) -> Result<(PathBuf, File), Refusal> {
        let file_name = self.temp_name(name);
        let mut made = false;
        loop {
            let mut slot = self.slot();
            let path = slot.path.join(&file_name);
            match create_new(&slot.handle, &file_name) {
                Ok(file) => return Ok((path, file)),
                // A folder that was removed takes no files, though its handle lives.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !made => {
                    warn!(folder = %slot.path.display(), "the temporary folder vanished; what was in it is lost, another is made");
                    // A sandboxed process cannot make a folder outside of those that it had.
                    (_, *slot) = Slot::take(&self.temp, &self.slot_prefix, &self.data)
                        .or_else(|_| Slot::take(&inside(&self.data), &self.slot_prefix, &self.data))
                        .map_err(Stage::Mkdir.on(&self.temp))?;
                    made = true;
                }
                Err(e) => return Err(Stage::FileOpen.on(path)(e)),
            }
        }
    }

    /// Gives a temporary file its final name unless that is taken, making the day's folder where it is missing.
    ///
    /// # Errors
    /// Fails with the step that the system refused; the temporary file is then where it was.
    pub(super) fn place(&self, temp: &Path, name: &Name) -> Result<Placed, PlaceError> {
        let slot = Some(self.slot()).filter(|slot| temp.parent() == Some(&slot.path)).map(|slot| Arc::clone(&slot.handle));
        let from = match (&slot, temp.file_name()) {
            (Some(slot), Some(file_name)) => (slot.as_raw_fd(), Path::new(file_name)),
            _ => (libc::AT_FDCWD, temp),
        };
        let file_name = PathBuf::from(file_name(name));
        let mut made = false;
        loop {
            let renamed = self.day(name.date).and_then(|day| {
                rename_no_replace(from, (day.as_raw_fd(), &file_name), || (temp.to_owned(), self.final_path(name)))
            });
            match renamed {
                Ok(()) => return Ok(Placed::New),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Placed::Exists),
                // Either the day's folder or the temporary file is missing; the second try tells.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) && !made => {
                    self.prepare(name.date).map_err(PlaceError::Mkdir)?;
                    *lock(&self.day) = None;
                    made = true;
                }
                Err(e) => return Err(PlaceError::Rename(e)),
            }
        }
    }

    /// Has the names in a day's folder outlive a loss of power.
    ///
    /// # Errors
    /// Fails where the disk refuses.
    pub(super) fn sync_day(&self, date: CivilDate) -> io::Result<()> {
        self.day(date)?.sync_all()
    }

    /// Keeps every other thread and process that shares the temporary folder from working on this name's existing file.
    ///
    /// # Errors
    /// Fails with `WouldBlock` where another process holds on to it for longer than [`LOCK_PATIENCE`].
    pub(super) fn lock_name(&self, name: &Name) -> io::Result<File> {
        // Every process must come to the same number, whatever its version.
        let stripe = name.uuid.as_str().bytes().fold(0u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into())) % LOCKS;
        // Beside the slot, wherever that is: the temporary folder may have vanished.
        let slot = self.slot().path.clone();
        let temp = slot.parent().unwrap_or(&self.temp);
        let path = temp.join(format!(".lock-{stripe}"));
        fs::create_dir_all(temp)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if waited < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_PAUSE);
                    waited += LOCK_PAUSE;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Slots of this data folder whose process has ended, locked for the caller.
    ///
    /// # Errors
    /// Fails where the temporary folder cannot be listed.
    pub(super) fn abandoned(&self) -> io::Result<Vec<Slot>> {
        let own = self.slot().path.clone();
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.temp)? {
            let entry = entry?;
            let ours = entry.file_name().to_str().is_some_and(|n| n.starts_with(&self.slot_prefix));
            if ours && entry.path() != own && entry.file_type()?.is_dir() {
                slots.extend(Slot::lock(entry.path()).ok().flatten());
            }
        }
        slots.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(slots)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.slot)
    }

    fn temp_name(&self, name: &Name) -> String {
        let serial = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let CivilDate { year, month, day } = name.date;
        format!("{year:04}-{month:02}-{day:02}.{}.{serial}{TEMP_SUFFIX}", name.uuid)
    }

    /// An open handle of a day's folder.
    fn day(&self, date: CivilDate) -> io::Result<Arc<File>> {
        let mut day = lock(&self.day);
        let known = day.as_ref().filter(|day| day.date == date && day.opened.elapsed() < HANDLE_AGE);
        if let Some(known) = known {
            return Ok(Arc::clone(&known.handle));
        }
        let handle = Arc::new(File::open(self.data.join(date.to_string()))?);
        *day = Some(Day { date, handle: Arc::clone(&handle), opened: Instant::now() });
        Ok(handle)
    }
}

impl Drop for Tree {
    /// Leaves no empty folder behind; one that holds files stays for the next start's salvage.
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = fs::remove_dir(&slot.path);
    }
}

impl Drop for Slot {
    /// Unlocks at once: a child process that is just being started has a copy of the handle until it runs its program.
    fn drop(&mut self) {
        let _ = self.handle.unlock();
    }
}

/// The step of [`Tree::place`] that was refused.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// Making the day's folder.
    Mkdir(io::Error),
    /// The rename.
    Rename(io::Error),
}

impl Slot {
    /// Makes and locks a slot in `temp` from where files can be renamed into `data`; returns `temp`'s absolute path too.
    fn take(temp: &Path, prefix: &str, data: &Path) -> io::Result<(PathBuf, Self)> {
        fs::create_dir_all(temp)?;
        let temp = temp.canonicalize()?;
        // The kernel compares the mounts before it looks for the file (do_renameat2 in fs/namei.c), so renaming a file
        // that does not exist tells whether real ones could be renamed, without an event for the tree's watchers.
        match fs::rename(temp.join(".missing"), data.join(".missing")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(()) => return Err(io::Error::other("a file named .missing was in the way")),
        }
        let process = std::process::id();
        // Process ids repeat, in containers above all; the loop passes over folders of the dead and of other containers.
        for n in 0u32.. {
            let path = temp.join(format!("{prefix}{process}-{n}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            if let Some(slot) = Self::lock(path)? {
                return Ok((temp, slot));
            }
        }
        Err(io::Error::other("every slot name is taken"))
    }

    /// Locks a slot; `None` where its process lives, or where it was removed meanwhile.
    fn lock(path: PathBuf) -> io::Result<Option<Self>> {
        let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let folder = match File::open(&path) {
            Err(e) if missing(&e) => return Ok(None),
            folder => folder?,
        };
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        // Another process's salvage may have removed it between its making and this lock.
        match fs::metadata(&path) {
            Ok(there) if there.ino() == folder.metadata()?.ino() => Ok(Some(Self { path, handle: Arc::new(folder) })),
            Ok(_) => Ok(None),
            Err(e) if missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The name that a temporary file's name carries; `None` where it is not one of ours.
pub(super) fn name_of_temp(path: &Path) -> Option<Name> {
    let rest = path.file_name()?.to_str()?.strip_suffix(TEMP_SUFFIX)?;
    let (rest, serial) = rest.rsplit_once('.')?;
    serial.parse::<u64>().ok()?;
    let (date, uuid) = rest.split_once('.')?;
    let mut parts = date.split('-');
    let mut part = |digits: usize| parts.next().filter(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_digit()));
    let date = CivilDate { year: part(4)?.parse().ok()?, month: part(2)?.parse().ok()?, day: part(2)?.parse().ok()? };
    let real = (1..=12).contains(&date.month) && (1..=31).contains(&date.day) && parts.next().is_none();
    Some(Name { date, uuid: FlowUuid::parse(uuid).ok()? }).filter(|_| real)
}

/// Makes a new file that must not exist.
fn create_new(folder: &File, name: &str) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    Ok(File::from(fcntl::openat(folder, name, flags, Mode::from_bits_truncate(FILE_MODE))?))
}

fn file_name(name: &Name) -> String {
    format!("{}.pcap.gz", name.uuid)
}

fn hidden_sibling(data: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(data.file_name()?);
    name.push(".tmp");
    Some(data.parent()?.join(name))
}

/// Where temporary files lie when they cannot lie beside the data folder.
fn inside(data: &Path) -> PathBuf {
    data.join(".flowarc.tmp")
}

/// Renames a file to a name that no file has yet.
///
/// # Errors
/// Fails with `AlreadyExists` rather than replace a file, and as a rename fails.
pub fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_no_replace((libc::AT_FDCWD, from), (libc::AT_FDCWD, to), || (from.to_owned(), to.to_owned()))
}

/// Renames between a folder's handle and name and another's; fails with `AlreadyExists` rather than replace a file. `paths`
/// are the same, whole.
fn rename_no_replace(from: (RawFd, &Path), to: (RawFd, &Path), paths: impl FnOnce() -> (PathBuf, PathBuf)) -> io::Result<()> {
    let renamed = from.1.with_nix_path(|from_name| {
        to.1.with_nix_path(|to_name| {
            // SAFETY: both pointers are to NUL-terminated strings that outlive the call. By number, since not every C library
            // that Rust runs on has a wrapper.
            let result = unsafe {
                libc::syscall(libc::SYS_renameat2, from.0, from_name.as_ptr(), to.0, to_name.as_ptr(), libc::RENAME_NOREPLACE)
            };
            Errno::result(result)
        })
    });
    match renamed.flatten().flatten() {
        Ok(_) => Ok(()),
        // The file system lacks the flag (renameat2(2)). A look before the rename leaves a gap for another process,
        // but a link, which has none, raises no event that uploaders wait for.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            let (from, to) = paths();
            match to.symlink_metadata() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(from, to),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// A thread that panicked while it held the lock has left a handle that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a day's folder is taken to be in its place without another look. Files go where the folder went that somebody moved.
const HANDLE_AGE: Duration = Duration::from_secs(1);

const TEMP_SUFFIX: &str = ".part";

/// Less the umask.
const FILE_MODE: u32 = 0o664;

/// Names that are merged at the same time wait for each other once in this many.
const LOCKS: u32 = 16;

/// A merge takes milliseconds; one that takes longer than this is another process that hangs.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::name;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_temporary_folder_is_a_hidden_sibling() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        assert_eq!(tree.temp(), dir.path().canonicalize().unwrap().join(".pcap.tmp"));
    }

    #[test]
    fn where_no_sibling_can_be_made_the_temporary_folder_is_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".pcap.tmp"), "in the way").unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        assert_eq!(tree.temp(), dir.path().canonicalize().unwrap().join("pcap/.flowarc.tmp"));
    }

    #[test]
    fn a_temporary_folder_of_another_mount_is_refused() {
        let (dir, shm) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        if !shm.is_dir() || fs::metadata(shm).unwrap().dev() == fs::metadata(dir.path()).unwrap().dev() {
            eprintln!("SKIPPED: /dev/shm is no file system of its own");
            return;
        }
        let other = tempfile::tempdir_in(shm).unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), Some(other.path())).unwrap();
        assert!(tree.temp().ends_with("pcap/.flowarc.tmp"));
    }

    #[test]
    fn two_trees_on_one_folder_have_a_slot_each_and_neither_looks_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = [(); 2].map(|()| Tree::open(&dir.path().join("pcap"), None).unwrap());
        assert_ne!(a.temp_path(&name("x")).parent(), b.temp_path(&name("x")).parent());
        assert!(a.abandoned().unwrap().is_empty());
        assert!(b.abandoned().unwrap().is_empty());
    }

    #[test]
    fn a_slot_that_still_holds_files_when_its_process_ends_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let dead = Tree::open(&dir.path().join("pcap"), None).unwrap();
        let (left, _) = dead.create(&name("x")).unwrap();
        drop(dead);
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        let found: Vec<PathBuf> = tree.abandoned().unwrap().iter().map(|s| s.path.clone()).collect();
        assert_eq!(found, [left.parent().unwrap()]);
        let other = Tree::open(&dir.path().join("other"), Some(tree.temp())).unwrap();
        assert!(other.abandoned().unwrap().is_empty(), "a shared temporary folder mixes no data folders");
    }

    #[test]
    fn a_vanished_day_or_slot_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        for _ in 0..2 {
            let (temp, _) = tree.create(&name("x")).unwrap();
            assert_eq!(tree.place(&temp, &name("x")).unwrap(), Placed::New);
            fs::remove_dir_all(tree.data().join("2026")).unwrap();
            fs::remove_dir_all(tree.temp()).unwrap();
        }
    }

    #[test]
    fn an_existing_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        let temps = [(); 2].map(|()| tree.temp_path(&name("x")));
        for (temp, placed) in temps.iter().zip([Placed::New, Placed::Exists]) {
            fs::write(temp, temp.to_str().unwrap()).unwrap();
            assert_eq!(tree.place(temp, &name("x")).unwrap(), placed);
        }
        assert_eq!(fs::read(tree.final_path(&name("x"))).unwrap(), temps[0].to_str().unwrap().as_bytes());
        assert!(temps[1].exists());
    }

    #[test]
    fn files_are_readable_and_writable_by_the_group_but_for_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let mode = create_new(&File::open(dir.path()).unwrap(), "x").unwrap().metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !FILE_MODE, 0);
        assert_eq!(mode & 0o600, 0o600);
    }

    #[test]
    fn a_taken_name_lock_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
        let held = tree.lock_name(&name("x")).unwrap();
        assert_eq!(tree.lock_name(&name("x")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        tree.lock_name(&name("x")).unwrap();
    }

    #[test]
    fn names_that_are_not_ours_are_not_taken_from_temporary_files() {
        for bad in [
            "x",
            "2026-11-21.x.part",
            "2026-11-21.x.1",
            "2026-13-21.x.1.part",
            "2026-11-00.x.1.part",
            "+026-11-21.x.1.part",
            "2026-11-21-1.x.1.part",
            "2026-11-21.a..b.1.part",
            "2026-11-21..1.part",
        ] {
            assert_eq!(name_of_temp(Path::new(bad)), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_temporary_path_carries_its_name(uuid in "[a-zA-Z0-9_:.-]{1,200}", month in 1u8..=12, day in 1u8..=31) {
            let Ok(uuid) = FlowUuid::parse(&uuid) else { return Ok(()) };
            let name = Name { date: CivilDate { year: 2026, month, day }, uuid };
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree::open(&dir.path().join("pcap"), None).unwrap();
            let path = tree.temp_path(&name);
            prop_assert!(path.file_name().unwrap().len() <= 255);
            prop_assert_eq!(name_of_temp(&path), Some(name));
        }
    }
}
