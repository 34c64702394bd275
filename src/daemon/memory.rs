//! Gives memory back to the system after load (`-maxidleram`).

use crate::cli::config::HeadersConfig;
use crate::flow::ledger::Ledger;
use std::fs;

/// Has blocks of a slab's size come from the system one by one, so that they go back to it when they are freed. The
/// allocator would give that up at the first one freed, for speed (M_MMAP_THRESHOLD in mallopt(3)).
pub(super) fn prepare() {
    // SAFETY: takes no pointers; called before there are other threads.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) };
}

/// Gives back what the allocator holds free, if the process has more than `idle` bytes beyond what it needs, or than the
/// budget leaves.
pub(super) fn give_back(ledger: &Ledger, idle: u64) {
    let held = ledger.held();
    let idle = idle.min(ledger.budget().saturating_sub(held));
    if resident().is_some_and(|rss| rss.saturating_sub(held + ledger.aside()) > idle) {
        // SAFETY: takes no pointers and may be called at any time from any thread (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
    }
}

/// Bytes that a process without flows and rings takes.
pub(super) fn process(config: &HeadersConfig) -> u64 {
    PROCESS + if config.output.catalogue.is_some() { CATALOGUE } else { 0 }
}

/// Code, libraries, tables, stacks, the writers' buffers.
const PROCESS: u64 = 24 << 20;

/// The columns of a row group (65,536 rows) of the catalogue while a Parquet file is made.
const CATALOGUE: u64 = 56 << 20;

/// Half a slab of the arena.
const MAPPED_FROM: libc::c_int = 512 * 1024;

/// Resident bytes of this process (proc_pid_statm(5)).
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?)
}
