//! Capabilities: of what the process was given it keeps what it still needs (capabilities(7)).
//!
//! They belong to threads, so each thread can have fewer than the process. The bounding set is emptied too where that is
//! allowed, so that no program that is run by any means gets them back.

use super::{Needs, Role, is_abstract};
use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::unistd::{AccessFlags, access};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

/// What the process keeps, and for whose sake beyond the usual.
#[derive(Debug)]
pub(super) struct Kept {
    capabilities: Vec<Capability>,
    /// What could not be written or read without a capability that passes over permissions.
    because_of: Option<PathBuf>,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, capability) in self.capabilities.iter().enumerate() {
            write!(f, "{}{capability}", if i > 0 { " " } else { "" })?;
        }
        match &self.because_of {
            Some(path) => write!(f, " (because of {})", path.display()),
            None => Ok(()),
        }
    }
}

/// Keeps what is needed, or says why that is not possible.
///
/// # Errors
/// Fails where no thread can be started.
pub(super) fn give_up(needs: &Needs) -> io::Result<Result<Kept, String>> {
    // Whether files can be used is tried without any, by a thread: it loses them alone, and for ever.
    let tried = on_a_thread(|| {
        set_all(&CapsHashSet::new())?;
        let folders = needs.write.iter().find_map(|top| unwritable(top, DEPTH));
        let sockets = || needs.listen.iter().find_map(|folder| unwritable(folder, 0)).or_else(|| deaf(needs));
        Ok::<_, CapsError>((folders.or_else(sockets), unreadable(needs)))
    })?;
    Ok(tried.and_then(|(write, read)| keep(needs, write, read)).map_err(|e| e.to_string()))
}

/// What a thread keeps.
pub(super) fn narrow(role: Role, keep_bpf: bool) -> Result<(), String> {
    let mut kept = caps::read(None, CapSet::Permitted).map_err(|e| e.to_string())?;
    kept.retain(|capability| match capability {
        Capability::CAP_BPF => role == Role::Shard && keep_bpf,
        Capability::CAP_DAC_OVERRIDE | Capability::CAP_DAC_READ_SEARCH => role == Role::Files,
        _ => false,
    });
    set_all(&kept).map_err(|e| e.to_string())
}

fn keep(needs: &Needs, unwritable: Option<PathBuf>, unreadable: Option<PathBuf>) -> Result<Kept, CapsError> {
    let mut wanted = CapsHashSet::new();
    wanted.extend(needs.capture.then_some(Capability::CAP_NET_RAW));
    // Before Linux 6.0 every look into a map takes it (kernel.unprivileged_bpf_disabled); seccomp refuses the rest of bpf(2).
    wanted.extend(needs.shunt.then_some(Capability::CAP_BPF));
    wanted.extend(unwritable.is_some().then_some(Capability::CAP_DAC_OVERRIDE));
    wanted.extend(unreadable.is_some().then_some(Capability::CAP_DAC_READ_SEARCH));
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = wanted.intersection(&permitted).copied().collect();
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    set_all(&kept)?;
    let over = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH].iter().any(|c| kept.contains(c));
    let because_of = unwritable.or(unreadable).filter(|_| over);
    let mut capabilities: Vec<_> = kept.into_iter().collect();
    capabilities.sort_by_key(Capability::index);
    Ok(Kept { capabilities, because_of })
}

/// Sets the calling thread's sets.
fn set_all(kept: &CapsHashSet) -> Result<(), CapsError> {
    // A kernel that knows no ambient set has none.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable)?;
    // What is not permitted cannot be effective, so the smaller set comes first.
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)
}

/// The first folder in a tree that cannot be written to: itself, or one that was made before, by somebody else perhaps.
fn unwritable(top: &Path, depth: usize) -> Option<PathBuf> {
    let mut folders = vec![(top.to_owned(), depth)];
    let mut looked = 0;
    while let Some((folder, depth)) = folders.pop() {
        looked += 1;
        if access(&folder, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
            return Some(folder);
        }
        if depth > 0 && looked < FOLDERS {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(entries.filter(is_dir).map(|entry| (entry.path(), depth - 1)));
        }
    }
    None
}

/// A socket that cannot be connected to, or is not there to be asked.
fn deaf(needs: &Needs) -> Option<PathBuf> {
    let refused = |path: &&PathBuf| !is_abstract(path) && access(path.as_path(), AccessFlags::W_OK).is_err();
    needs.connect.iter().find(refused).cloned()
}

/// A file that is there and cannot be read.
fn unreadable(needs: &Needs) -> Option<PathBuf> {
    let refused = |path: &&PathBuf| access(path.as_path(), AccessFlags::R_OK) == Err(nix::errno::Errno::EACCES);
    needs.read.iter().find(refused).cloned()
}

/// Runs something on a thread of its own, to its end.
fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("capabilities".into()).spawn_scoped(scope, run)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// YYYY/MM/DD below the data folder.
const DEPTH: usize = 3;
/// Folders looked at in one tree: ten years of days.
const FOLDERS: usize = 4096;
