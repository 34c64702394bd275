//! What is kept of every frame of the corpus does not depend on its payload.

use crate::manifest::captures;
use crate::memory::{Setup, check_payload_independence};
use flowarc::capture::file::FileSource;
use flowarc::capture::{PacketSource, Progress};

#[test]
fn another_payload_gives_the_same_archive() {
    let Some(captures) = captures() else { return };
    let mut checked = 0;
    for capture in &captures {
        let Ok(mut source) = FileSource::open(&capture.path) else { continue };
        while let Ok(Progress::Frames(_)) = source.next_batch(&mut |frame| {
            for setup in [0b0000, 0b0011, 0b1101] {
                checked += u64::from(check_payload_independence(&frame, Setup::number(setup).policy));
            }
        }) {}
    }
    let tcp: u64 = captures.iter().map(|c| c.tcp).sum();
    assert!(checked >= 3 * tcp, "only {checked} checks of {tcp} packets");
}
