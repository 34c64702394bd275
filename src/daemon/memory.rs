//! Gives memory back to the system after load (`-maxidleram`).

use std::fs;

/// Gives back what the allocator holds free, if the process has more than `idle` bytes beyond what flows hold.
pub(super) fn give_back(held: u64, idle: u64) {
    if resident().is_some_and(|rss| rss.saturating_sub(held) > idle) {
        // SAFETY: takes no pointers and may be called at any time from any thread (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
    }
}

/// Resident bytes of this process (proc_pid_statm(5)).
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?)
}
