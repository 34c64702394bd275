//! Runs of the program over captures, and the trees that they leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Replays captures into `data`, flows named by what they are, and says whether all could be read to the end.
///
/// # Panics
/// Where the program panics, or fails other than by telling that a capture is damaged.
pub(crate) fn replay(captures: &[&Path], data: &Path, flags: &[&str]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowarc"));
    command.args(["headers", "--uuid.source=generated", "--log.level=warn", "--datadir"]).arg(data).args(flags);
    for capture in captures {
        command.arg("--read").arg(capture);
    }
    let output = command.output().expect("the program starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!log.contains("panicked"), "{captures:?} {flags:?}: {log}");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{captures:?} {flags:?}: {:?}: {log}", output.status);
    output.status.success()
}

/// Does `job` for each item on as many threads as there are processors.
pub(crate) fn each<T: Sync>(items: &[T], job: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { return };
                    job(i, item);
                }
            });
        }
    });
}

/// Every file below a folder, by its path in it, with its content.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(&inner).expect("the folder is there") {
            let entry = entry.expect("the folder can be read");
            let path = entry.path();
            if entry.file_type().expect("the file is there").is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).expect("the file can be read");
                files.insert(path.strip_prefix(folder).expect("it is below the folder").to_owned(), content);
            }
        }
    }
    files
}
