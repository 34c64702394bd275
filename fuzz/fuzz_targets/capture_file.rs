//! A capture file of any bytes is read to an end, and what it gives keeps the promises of a frame.

#![no_main]

use std::io::Cursor;

use flowarc::capture::file::FileSource;
use flowarc::capture::{PacketSource, Progress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut source) = FileSource::from_reader("fuzz".to_owned(), Box::new(Cursor::new(data.to_vec()))) else {
        return;
    };
    let mut frames = 0;
    while let Ok(Progress::Frames(_)) = source.next_batch(&mut |frame| {
        assert!(frame.wire_len as usize >= frame.data.len());
        frames += 1;
    }) {}
    assert_eq!(source.stats().frames, frames);
    assert!(matches!(source.next_batch(&mut |_| panic!("nothing follows the end")), Ok(Progress::Ended)));
});
