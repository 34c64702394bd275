//! A capture file of any bytes goes the whole way to archive files: every frame and flow has one outcome, the ledger returns
//! to zero, files read back as written. The input's first byte says how the shard is set up, the rest is the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use memory::{Setup, replay};

#[path = "../../tests/corpus/memory.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod memory;

fuzz_target!(|data: &[u8]| {
    if let [setup, capture @ ..] = data {
        replay(capture.to_vec(), Setup::number(*setup));
    }
});
