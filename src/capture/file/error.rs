//! What can be wrong with a capture file, said so that the reader of the message knows what to do.

use std::fmt;
use std::io;

use super::Compression;

/// Why a capture file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("open {name}: {source}")]
    Open {
        /// The file's path.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is not one byte.
    #[error("{name} is empty: a capture file has at least a file header (was the capture stopped before it began?)")]
    Empty {
        /// The file's path.
        name: String,
    },
    /// The first bytes are those of no format that is read here.
    #[error(
        "{name} is no capture file: {} begins with \"{}\" and not with a magic number of pcap (a1b2c3d4, a1b23c4d) or \
         pcapng (0a0d0d0a), plain or within gzip or zstd; editcap converts other capture formats",
        .compression.content(), .found.escape_ascii()
    )]
    UnknownFormat {
        /// The file's path.
        name: String,
        /// Its first bytes, four at most; the unpacked ones if it is compressed.
        found: Vec<u8>,
        /// How it is compressed.
        compression: Compression,
    },
    /// The file ends too early; it may have been copied while it grew.
    #[error("{name} is truncated: it ends within the {unit} at {at}; the {frames} frames before it are used")]
    Truncated {
        /// The file's path.
        name: String,
        /// Where the incomplete part begins.
        at: Position,
        /// What is incomplete.
        unit: &'static str,
        /// Frames handed out before.
        frames: u64,
    },
    /// The file holds something that makes no sense, and where the next frame begins is unknown.
    #[error("{name} cannot be read on from {at}: {reason}; the {frames} frames before it are used")]
    Damaged {
        /// The file's path.
        name: String,
        /// Where the damaged record or block begins.
        at: Position,
        /// What is wrong with it.
        reason: Damage,
        /// Frames handed out before.
        frames: u64,
    },
    /// The operating system failed to read.
    #[error("read {name} at {at}: {source}")]
    Read {
        /// The file's path.
        name: String,
        /// Where.
        at: Position,
        /// What the system said.
        source: io::Error,
    },
}

/// A place in a capture file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Bytes from the start, counted in the unpacked data where the file is compressed.
    pub offset: u64,
    /// How the file is compressed.
    pub compression: Compression,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of {}", self.offset, self.compression.content())
    }
}

/// What is wrong with a record, a block or a header.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A pcap file of another version.
    #[error("pcap version {major}.{minor} is not supported, only 2.4 is (editcap rewrites files of older versions)")]
    PcapVersion {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A pcapng section of another version.
    #[error("pcapng version {major}.{minor} is not supported, only 1.x is")]
    PcapngVersion {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A captured length that no capture makes.
    #[error("a captured length of {captured} bytes is not believed, at most {limit} can be")]
    CapturedLength {
        /// The length found.
        captured: u32,
        /// The largest length believed here.
        limit: u32,
    },
    /// A block length that no block can have.
    #[error("a block length of {length} bytes is impossible: it must be a multiple of 4 from 12 to {limit}")]
    BlockLength {
        /// The length found.
        length: u32,
        /// The largest length believed.
        limit: u32,
    },
    /// The two copies of a block's length differ.
    #[error("the block's length is {first} at its start and {last} at its end")]
    BlockLengthsDiffer {
        /// At its start.
        first: u32,
        /// At its end.
        last: u32,
    },
    /// A section that does not say its byte order.
    #[error("the section's byte-order magic is \"{}\" and not 1a2b3c4d in either order", .0.escape_ascii())]
    ByteOrder([u8; 4]),
    /// A block too short for its fixed fields.
    #[error("a block of type {kind:#x} is too short for its fixed fields")]
    ShortBlock {
        /// The block's type.
        kind: u32,
    },
    /// A captured length past the end of its block.
    #[error("a captured length of {captured} bytes passes the end of its block, which has room for {room}")]
    BeyondBlock {
        /// The length found.
        captured: u32,
        /// Bytes left in the block.
        room: usize,
    },
    /// A frame of an interface that its section has not described.
    #[error("a frame is of interface {interface}, and its section has described {described} so far")]
    UnknownInterface {
        /// The interface's number within the section.
        interface: u32,
        /// Interfaces described.
        described: usize,
    },
    /// More interfaces than a host has.
    #[error("a section describes more than {limit} interfaces")]
    TooManyInterfaces {
        /// The largest number believed.
        limit: usize,
    },
    /// Options of an interface that cannot be read, so that the unit of its timestamps is unknown.
    #[error("the options of an interface description are malformed")]
    InterfaceOptions,
    /// The decompressor cannot go on.
    #[error("the compressed data is damaged ({0})")]
    Compressed(io::Error),
}
