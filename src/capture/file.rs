//! Frames from capture files: pcap and pcapng, plain or compressed with gzip or zstd, by path or from standard input.
//!
//! What a file is, its first bytes say, not its name. Everything is read as a stream, once, without seeking, so a
//! pipe serves as well as a file. `unpack` decompresses, `input` buffers, `pcap` and `pcapng` say what lies in the buffered
//! bytes and do no I/O, [`FileSource`] brings them together. Frames are lent out of the buffer; none is copied.
//!
//! A file that is cut or damaged gives every whole frame before that place, then one error, then the end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use self::fields::{ByteOrder, Fields};
use self::input::Input;
use crate::capture::{Frame, PacketSource, Progress};

mod error;
mod fields;
mod input;
mod pcap;
mod pcapng;
#[cfg(test)]
mod testing;
mod unpack;

pub use self::error::{Damage, FileError, Position};
pub use self::unpack::Compression;

/// A capture file, read from its start to its end.
pub struct FileSource {
    name: String,
    input: Input,
    format: Format,
    state: State,
    frames: u64,
}

/// What has been read of a file so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FileStats {
    /// Frames handed out.
    pub frames: u64,
    /// Interfaces that the file has declared; those of a later pcapng section are others than those of an earlier one.
    pub interfaces: u32,
    /// Whether reading ended in an error, so that the file may have held more frames than were handed out.
    pub truncated: bool,
}

impl FileSource {
    /// Opens a capture file; `-` is standard input.
    ///
    /// Reads the start of the file, and so waits for it where it is a pipe.
    ///
    /// # Errors
    /// Fails when the file cannot be opened or read, is empty, or is no capture file.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        if path.as_os_str() == STANDARD_INPUT {
            return Self::from_reader("standard input".to_owned(), Box::new(io::stdin()));
        }
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_reader(name, Box::new(file)),
            Err(source) => Err(FileError::Open { name, source }),
        }
    }

    /// Reads a capture file from any reader, which need not be buffered; errors call it `name`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_reader(name: String, reader: Box<dyn Read + Send>) -> Result<Self, FileError> {
        let mut input = match Input::new(reader) {
            Ok(input) => input,
            Err(source) => {
                return Err(FileError::Read { name, at: Position { offset: 0, compression: Compression::None }, source });
            }
        };
        match Format::detect(&mut input) {
            Ok(format) => Ok(Self { name, input, format, state: State::Reading, frames: 0 }),
            Err(Undetected::Empty) => Err(FileError::Empty { name }),
            Err(Undetected::Unknown(found)) => {
                Err(FileError::UnknownFormat { name, found, compression: input.position().compression })
            }
            Err(Undetected::Stop(stop)) => Err(stop.into_error(name, &input, 0)),
        }
    }

    /// What has been read so far.
    pub fn stats(&self) -> FileStats {
        let interfaces = match &self.format {
            Format::Pcap(_) => 1,
            Format::Pcapng(reader) => reader.interfaces(),
        };
        FileStats { frames: self.frames, interfaces, truncated: self.state == State::Failed }
    }

    fn fail(&mut self, stop: Stop) -> FileError {
        self.state = State::Failed;
        stop.into_error(self.name.clone(), &self.input, self.frames)
    }
}

impl PacketSource for FileSource {
    type Error = FileError;

    /// Hands out up to 256 frames. A batch ends early where the next frame must be read first, so that frames of a
    /// slow pipe do not wait for those behind them. After an error, the next call returns [`Progress::Ended`].
    fn next_batch(&mut self, sink: &mut dyn FnMut(Frame<'_>)) -> Result<Progress, FileError> {
        if self.state != State::Reading {
            return Ok(Progress::Ended);
        }
        let mut frames = 0;
        while frames < BATCH_FRAMES {
            match self.format.parse(self.input.buffered()) {
                Ok(Step::Record { len, frame }) => {
                    if let Some(frame) = frame {
                        sink(frame);
                        frames += 1;
                    }
                    self.input.consume(len);
                }
                // The next call comes to the same place, with nothing handed out.
                Ok(Step::Need(_)) | Err(_) if frames > 0 => break,
                Ok(Step::Need(len)) => match self.input.fill(len) {
                    Ok(0) => {
                        self.state = State::Complete;
                        return Ok(Progress::Ended);
                    }
                    Ok(available) if available < len => return Err(self.fail(Stop::Short(self.format.unit()))),
                    Ok(_) => {}
                    Err(error) => return Err(self.fail(Stop::Read(error))),
                },
                Err(damage) => return Err(self.fail(Stop::Damage(damage))),
            }
        }
        self.frames += frames as u64;
        Ok(Progress::Frames(frames))
    }
}

/// What the bytes at the start of the buffer are.
enum Step<'a> {
    /// A record that is not there whole; it can go on once this many bytes are buffered.
    Need(usize),
    /// A whole record of this many bytes, and the frame in it, if it holds one.
    Record { len: usize, frame: Option<Frame<'a>> },
}

enum Format {
    Pcap(pcap::Reader),
    Pcapng(pcapng::Reader),
}

impl Format {
    fn detect(input: &mut Input) -> Result<Self, Undetected> {
        input.fill(MAGIC_LEN).map_err(Stop::Read)?;
        let Some(&start) = input.buffered().first_chunk() else {
            let found = input.buffered().to_vec();
            return Err(if found.is_empty() { Undetected::Empty } else { Undetected::Unknown(found) });
        };
        if start == pcapng::MAGIC {
            return Ok(Self::Pcapng(pcapng::Reader::new()));
        }
        let magic = pcap::Magic::of(start).ok_or_else(|| Undetected::Unknown(start.to_vec()))?;
        input.fill(pcap::FILE_HEADER_LEN).map_err(Stop::Read)?;
        let header = input.buffered().first_chunk().ok_or(Stop::Short("file header"))?;
        let reader = pcap::Reader::new(magic, header).map_err(Stop::Damage)?;
        input.consume(pcap::FILE_HEADER_LEN);
        Ok(Self::Pcap(reader))
    }

    fn parse<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Damage> {
        match self {
            Self::Pcap(reader) => reader.parse(bytes),
            Self::Pcapng(reader) => reader.parse(bytes),
        }
    }

    fn unit(&self) -> &'static str {
        match self {
            Self::Pcap(_) => "record",
            Self::Pcapng(_) => "block",
        }
    }
}

/// Why it is not known what a file is.
enum Undetected {
    Empty,
    Unknown(Vec<u8>),
    Stop(Stop),
}

impl From<Stop> for Undetected {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Why reading cannot go on.
enum Stop {
    /// The input ends within this.
    Short(&'static str),
    Damage(Damage),
    Read(io::Error),
}

impl Stop {
    fn into_error(self, name: String, input: &Input, frames: u64) -> FileError {
        let at = input.position();
        match self {
            Self::Short(unit) => FileError::Truncated { name, at, unit, frames },
            Self::Damage(reason) => FileError::Damaged { name, at, reason, frames },
            // The decompressors' word for a stream that ends too early.
            Self::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                FileError::Truncated { name, at, unit: "compressed stream", frames }
            }
            // What the operating system did not say, the decompressor did.
            Self::Read(error) if at.compression != Compression::None && error.raw_os_error().is_none() => {
                FileError::Damaged { name, at, reason: Damage::Compressed(error), frames }
            }
            Self::Read(source) => FileError::Read { name, at, source },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    Failed,
}

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Enough to make a batch's fixed costs vanish, few enough that timers and counters stay current.
const BATCH_FRAMES: usize = 256;

/// Longest captured length that is believed, in bytes. BIG TCP makes frames of some 512 KiB; beyond this a length is
/// a damaged field, and believing it would swallow the rest of the file.
const MAX_CAPTURED_LEN: u32 = 16 << 20;

const MAGIC_LEN: usize = 4;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::testing::{Precision, TestFrame, Trickle, frames, gzip, open, pcap, read, trickle, variants, zstd};
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_file_of_only_a_header_ends_at_once() {
        for (variant, file) in variants(&[]) {
            assert_eq!(frames(&file), [], "{variant}");
        }
    }

    #[test]
    fn a_batch_ends_at_its_limit() {
        let frames = vec![some_frames()[1].clone(); BATCH_FRAMES + 1];
        let mut source = open(&pcap(ByteOrder::Little, Precision::Nanos, 1, &frames)).expect("is a capture file");
        for expected in [Progress::Frames(BATCH_FRAMES), Progress::Frames(1), Progress::Ended] {
            assert_eq!(source.next_batch(&mut |_| {}).expect("is sound"), expected);
        }
    }

    #[test]
    fn a_batch_does_not_wait_for_bytes_behind_its_last_whole_frame() {
        let file = pcap(ByteOrder::Little, Precision::Nanos, 1, &some_frames());
        let reader = Cursor::new(file).chain(Trickle {
            bytes: Vec::new().into_iter(),
            interrupted: true,
            end: || panic!("read on before the frames were handed out"),
        });
        let mut source = FileSource::from_reader("pipe".to_owned(), Box::new(reader)).expect("begins well");
        assert_eq!(source.next_batch(&mut |_| {}).expect("is sound"), Progress::Frames(4));
    }

    #[test]
    fn a_stream_may_come_in_any_pieces() {
        for (variant, file) in variants(&some_frames()) {
            let (frames, end) = trickle(file, || Ok(0));
            assert_eq!(frames, some_frames(), "{variant}");
            end.expect("is sound");
        }
    }

    #[test]
    fn frames_larger_than_the_buffer_are_read() {
        let frame = TestFrame { wire_len: 262_144, data: vec![7; 262_144], ..some_frames()[0].clone() };
        for (variant, file) in variants(&[frame.clone(), frame.clone(), frame.clone()]) {
            assert!(frames(&file) == [frame.clone(), frame.clone(), frame.clone()], "{variant}");
        }
    }

    #[test]
    fn an_empty_file_is_named_as_such() {
        for file in [Vec::new(), gzip(&[b""]), zstd(&[b""])] {
            assert!(matches!(open(&file), Err(FileError::Empty { .. })));
        }
    }

    #[test]
    fn an_unknown_file_is_refused_with_what_was_found_and_what_would_be_right() {
        let error = open(b"snoop\0\0\0").err().expect("is refused").to_string();
        assert_eq!(
            error,
            "test.pcap is no capture file: the file begins with \"snoo\" and not with a magic number of pcap \
             (a1b2c3d4, a1b23c4d) or pcapng (0a0d0d0a), plain or within gzip or zstd; editcap converts other capture \
             formats"
        );
        let error = open(&gzip(&[b"\n\r"])).err().expect("is refused").to_string();
        assert!(error.contains("what gzip unpacks begins with \"\\n\\r\""), "{error}");
    }

    #[test]
    fn a_file_that_does_not_exist_is_named() {
        let error = FileSource::open(Path::new("/nonexistent/a.pcap")).err().expect("there is none").to_string();
        assert!(error.starts_with("open /nonexistent/a.pcap: "), "{error}");
    }

    #[test]
    fn a_truncated_file_says_where() {
        let file = pcap(ByteOrder::Little, Precision::Nanos, 1, &some_frames());
        let (frames, end) = read(&file[..file.len() - 1]);
        assert_eq!(frames, some_frames()[..3]);
        assert_eq!(
            end.expect_err("is cut").to_string(),
            "test.pcap is truncated: it ends within the record at byte 78 of the file; the 3 frames before it are used"
        );
    }

    #[test]
    fn damaged_compression_is_damage_and_not_a_failure_to_read() {
        let file = pcap(ByteOrder::Little, Precision::Nanos, 1, &some_frames());
        for mut packed in [gzip(&[&file]), [&gzip(&[&file])[..], b"garbage behind"].concat()] {
            let crc = packed.len() - 8;
            packed[crc] ^= 1;
            let (frames, end) = read(&packed);
            assert_eq!(frames, some_frames());
            assert!(matches!(end, Err(FileError::Damaged { reason: Damage::Compressed(_), frames: 4, .. })), "{end:?}");
        }
    }

    #[test]
    fn a_failure_to_read_is_reported_after_the_frames_before_it() {
        for (variant, file) in variants(&some_frames()) {
            let (frames, end) = trickle(file, || Err(io::Error::from_raw_os_error(5)));
            assert_eq!(frames, some_frames(), "{variant}");
            assert!(matches!(end, Err(FileError::Read { .. })), "{variant}: {end:?}");
        }
    }

    #[test]
    fn cutting_a_file_anywhere_yields_the_frames_before_the_cut() {
        for (variant, file) in variants(&some_frames()) {
            for cut in 0..file.len() {
                let (frames, end) = read(&file[..cut]);
                assert!(some_frames().starts_with(&frames), "{variant} cut at {cut}");
                match end {
                    Ok(()) | Err(FileError::Empty { .. } | FileError::Truncated { .. }) => {}
                    Err(FileError::UnknownFormat { .. }) if cut < MAGIC_LEN => {}
                    Err(error) => panic!("{variant} cut at {cut}: {error}"),
                }
            }
        }
    }

    fn some_frames() -> Vec<TestFrame> {
        let frame = |(i, len): (u32, usize)| TestFrame {
            ts: Timestamp::from_parts(1_700_000_000, i),
            wire_len: len as u32 + i,
            interface: 0,
            data: (0..len).map(|byte| byte as u8).collect(),
        };
        [0, 5, 1, 40].into_iter().enumerate().map(|(i, len)| frame((i as u32, len))).collect()
    }

    fn any_frame() -> impl Strategy<Value = TestFrame> {
        let data = prop::collection::vec(any::<u8>(), 0..200);
        (0..u32::MAX, 0..1_000_000_000u32, 0..2_000u32, data).prop_map(|(secs, nanos, more, data)| TestFrame {
            ts: Timestamp::from_parts(secs.into(), nanos),
            wire_len: data.len() as u32 + more,
            interface: 0,
            data,
        })
    }

    // PROPTEST_CASES=1000000 makes these a fuzzer for the stable tool chain; fuzz/ has the guided one.
    proptest! {
        #[test]
        fn frames_survive_every_variant(frames in prop::collection::vec(any_frame(), 0..20)) {
            for (variant, file) in variants(&frames) {
                prop_assert_eq!(super::testing::frames(&file), frames.clone(), "{}", variant);
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(magic in 0..7usize, bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let magic: &[u8] = match magic {
                0 => &[],
                1 => b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00",
                2 => b"\xa1\xb2\x3c\x4d\x00\x02\x00\x04",
                3 => b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x01\x00",
                4 => b"\x0a\x0d\x0d\x0a\x00\x00\x00\x1c\x1a\x2b\x3c\x4d\x00\x01",
                5 => b"\x1f\x8b\x08\x00",
                _ => b"\x28\xb5\x2f\xfd",
            };
            let _ = read(&[magic, &bytes].concat());
        }

        #[test]
        fn damage_anywhere_is_survived(
            frames in prop::collection::vec(any_frame(), 1..5),
            variant in any::<prop::sample::Index>(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut variants = variants(&frames);
            let (_, file) = &mut variants[variant.index(18)];
            let undamaged = file.clone();
            let mut first = file.len();
            for (at, byte) in damages {
                let at = at.index(file.len());
                file[at] = byte;
                first = first.min(at);
            }
            let (before, _) = read(&undamaged[..first]);
            prop_assert!(read(file).0.starts_with(&before));
        }
    }
}
