//! What the end-to-end tests share: the program as a process, namespaces, capture files, archives, an event socket.
//!
//! Nothing here uses the library under test: files are read and frames are built the slow and obvious way.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod archive;
pub mod duckdb;
pub mod events;
pub mod frames;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod lab;
pub mod process;

use std::time::{Duration, Instant};

/// What every payload in these tests holds, so that a leak is found by searching for it.
pub const MARKER: &[u8] = b"PAYLOAD-MUST-NOT-LEAK";

/// How long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Waits until something is so; the time that it took.
#[track_caller]
pub fn until(what: &str, is_so: impl FnMut() -> bool) -> Duration {
    until_within(PATIENCE, what, is_so)
}

/// [`until`], with another patience.
#[track_caller]
pub fn until_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < patience, "waited {patience:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
