//! Where in an archive a connection's file is.

use crate::key::FlowUuid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of a UUID below an archive folder: looks into each day's folder, the newest first. `None` if there is none.
///
/// # Errors
/// Fails where a folder cannot be read.
pub fn locate(archive: &Path, uuid: &FlowUuid) -> io::Result<Option<PathBuf>> {
    let name = format!("{uuid}.pcap.gz");
    for year in folders(archive, 4)? {
        for month in folders(&year, 2)? {
            for day in folders(&month, 2)? {
                let path = day.join(&name);
                if path.is_file() {
                    return Ok(Some(path));
                }
            }
        }
    }
    Ok(None)
}

/// The folders whose names are this many digits, the highest first.
fn folders(parent: &Path, digits: usize) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.len() == digits && name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_any_day_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        for (day, name) in [("2026/11/21", "a"), ("2025/01/02", "b"), ("2025/01/xx", "c"), (".tmp/01/02", "d")] {
            fs::create_dir_all(dir.path().join(day)).unwrap();
            fs::write(dir.path().join(day).join(format!("{name}.pcap.gz")), "").unwrap();
        }
        let find = |uuid: &str| locate(dir.path(), &FlowUuid::parse(uuid).unwrap()).unwrap();
        assert_eq!(find("a"), Some(dir.path().join("2026/11/21/a.pcap.gz")));
        assert_eq!(find("b"), Some(dir.path().join("2025/01/02/b.pcap.gz")));
        assert_eq!((find("c"), find("d"), find("e")), (None, None, None));
    }
}
