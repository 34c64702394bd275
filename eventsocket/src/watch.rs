//! Tells when a path may have come into being, by inotify(7).

use inotify::{EventMask, Inotify, WatchMask};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Waits for a path, or for the first missing folder on the way to it, to appear.
///
/// It works for one change: after it, arm a new watch, which may then stand one folder deeper. A path that is a
/// symbolic link to elsewhere, and file systems whose changes come from another host, tell nothing.
pub(crate) struct PathWatch {
    inotify: AsyncFd<Inotify>,
    awaited: OsString,
}

impl PathWatch {
    /// Watches the deepest folder of `path` that exists. What appears after this returned is not missed.
    pub(crate) fn arm(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut target = path;
        loop {
            let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let watch = match inotify.watches().add(folder, APPEARS.union(FOLDER_GOES).union(WatchMask::ONLYDIR)) {
                Ok(watch) => watch,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    target = folder;
                    continue;
                }
                Err(e) => return Err(e),
            };
            if target != path && target.exists() {
                // The folder appeared between looking for it and watching its parent.
                inotify.watches().remove(watch)?;
                target = path;
                continue;
            }
            // Its successor, `register`, is unsafe, and this crate has no unsafe code. What `new` cannot rule out is an owner
            // that closes or replaces its descriptor; `Inotify` does neither before it is dropped.
            #[allow(deprecated)]
            let inotify = AsyncFd::new(inotify)?;
            return Ok(Self { awaited: name.to_owned(), inotify });
        }
    }

    /// Returns when it is worth looking again; never, should the kernel stop telling.
    pub(crate) async fn changed(&mut self) {
        let Self { inotify, awaited } = self;
        while let Ok(mut guard) = inotify.readable_mut().await {
            match guard.try_io(|fd| read_changes(fd.get_mut(), awaited)) {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(_)) => break,
            }
        }
        std::future::pending().await
    }
}

/// Reads one buffer of changes: is there one that matters?
fn read_changes(inotify: &mut Inotify, awaited: &OsStr) -> io::Result<bool> {
    // An entry is 16 bytes and a name of at most 256.
    let mut buffer = [0; 4096];
    let lost = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::Q_OVERFLOW;
    Ok(inotify.read_events(&mut buffer)?.any(|e| e.name == Some(awaited) || e.mask.intersects(lost)))
}

const APPEARS: WatchMask = WatchMask::CREATE.union(WatchMask::MOVED_TO);
const FOLDER_GOES: WatchMask = WatchMask::DELETE_SELF.union(WatchMask::MOVE_SELF);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;
    use tokio::time::timeout;

    async fn tells(watch: &mut PathWatch) -> bool {
        timeout(Duration::from_secs(5), watch.changed()).await.is_ok()
    }

    async fn is_silent(watch: &mut PathWatch) -> bool {
        timeout(Duration::from_millis(20), watch.changed()).await.is_err()
    }

    #[tokio::test]
    async fn a_created_and_a_moved_in_path_are_told_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut watch = PathWatch::arm(&path).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        assert!(is_silent(&mut watch).await);
        fs::write(&path, "").unwrap();
        assert!(tells(&mut watch).await);
        fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(tells(&mut watch).await);
    }

    #[tokio::test]
    async fn missing_folders_are_awaited_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/sock");
        for step in ["a", "a/b"] {
            let mut watch = PathWatch::arm(&path).unwrap();
            fs::create_dir(dir.path().join(step)).unwrap();
            assert!(tells(&mut watch).await, "{step}");
        }
        let mut watch = PathWatch::arm(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(tells(&mut watch).await);
    }

    #[tokio::test]
    async fn a_folder_that_goes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        fs::create_dir(&folder).unwrap();
        let mut watch = PathWatch::arm(&folder.join("sock")).unwrap();
        fs::remove_dir(&folder).unwrap();
        assert!(tells(&mut watch).await);
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_a_folder_cannot_be_watched() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(PathWatch::arm(&file.path().join("sock")).is_err());
        assert!(PathWatch::arm(Path::new("/")).is_err());
    }
}
