//! Gives memory back to the system after load (`-maxidleram`).

use crate::cli::config::HeadersConfig;
use crate::flow::ledger::Ledger;
use std::fs;
use tracing::warn;

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

/// Leaves flows what code, the catalogue and `rings` bytes do not take, and says so once where that is too little.
pub(super) fn set_aside(ledger: &Ledger, config: &HeadersConfig, rings: u64) {
    let was_cramped = ledger.is_cramped();
    let catalogue = if config.output.catalogue.is_some() { CATALOGUE } else { 0 };
    ledger.set_aside(PROCESS + catalogue + rings);
    if ledger.is_cramped() && !was_cramped {
        let aside = ledger.aside();
        warn!(
            "-maxheap is less than twice the {aside} bytes that rings, catalogue and code take: flows have half of it all the same, and \
             it will be passed; raise it to {} at least",
            2 * aside
        );
    }
}

/// Bytes that a process without flows and rings takes: code, libraries, tables, stacks, the writers' buffers.
const PROCESS: u64 = 28 << 20;

/// The columns of a row group (65,536 rows) of the catalogue while a Parquet file is made.
const CATALOGUE: u64 = 48 << 20;

/// Half a slab of the arena.
const MAPPED_FROM: libc::c_int = 512 * 1024;

/// Resident bytes of this process (proc_pid_statm(5)).
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?)
}
