//! Archived files, read back with nothing but gunzip and the layout of docs/FORMAT.md.

use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Files by their path below the data folder, such as `2026/11/21/uuid.pcap.gz`.
pub type Archive = BTreeMap<String, Stored>;

/// A whole archived file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The file as it lies there, compressed.
    pub packed: Vec<u8>,
    /// The pcap header.
    pub header: Vec<u8>,
    pub records: Vec<Record>,
    /// The end reason and the flags of the metadata.
    pub end: u8,
    pub flags: u16,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub ts: u64,
    pub wire_len: u32,
    pub data: Vec<u8>,
}

impl Stored {
    /// Reads a file that must be whole and in order of time.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let packed = fs::read(path).unwrap();
        let mut raw = Vec::new();
        let read = MultiGzDecoder::new(&packed[..]).read_to_end(&mut raw);
        assert!(read.is_ok() && raw.len() >= 24, "{} is not whole: {read:?}, {} bytes", path.display(), raw.len());
        let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(8), word(12)), (0xa1b2_3c4d, 0x0004_0002, 0, 0), "{}", path.display());
        let (mut records, mut at) = (Vec::new(), 24);
        while at < raw.len() {
            let (len, wire_len) = (word(at + 8), word(at + 12));
            assert!(len <= word(16) && len <= wire_len && word(at + 4) < 1_000_000_000, "{}", path.display());
            let ts = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
            let data = raw[at + 16..at + 16 + len as usize].to_vec();
            records.push(Record { ts, wire_len, data });
            at += 16 + len as usize;
        }
        assert!(records.is_sorted_by_key(|r| r.ts), "{} is not in order of time", path.display());
        // The extra field's first subfield: `FA`, length, version, end reason, flags (docs/FORMAT.md).
        assert!(packed[3] & 4 != 0 && &packed[12..14] == b"FA", "{} has no metadata", path.display());
        Self { header: raw[..24].to_vec(), records, end: packed[17], flags: u16::from_le_bytes([packed[18], packed[19]]), packed }
    }

    pub fn snaplen(&self) -> u32 {
        u32::from_le_bytes(self.header[16..20].try_into().unwrap())
    }

    pub fn link(&self) -> u32 {
        u32::from_le_bytes(self.header[20..24].try_into().unwrap())
    }

    pub fn is_anonymized(&self) -> bool {
        self.flags & 1 != 0
    }

    pub fn is_midstream(&self) -> bool {
        self.flags & 2 != 0
    }

    pub fn is_late(&self) -> bool {
        self.flags & 16 != 0
    }
}

/// Every file below a data folder. Anything that is not a whole archived file, or holds payload, fails.
#[track_caller]
pub fn read(data: &Path) -> Archive {
    let archive: Archive = names(data).into_iter().map(|name| (name.clone(), Stored::read(&data.join(name)))).collect();
    for (name, stored) in &archive {
        assert!(name.ends_with(".pcap.gz"), "{name} in the data folder");
        assert!(stored.records.iter().all(|r| !contains(&r.data, b"MUST-NOT-LEAK")), "{name} holds payload");
    }
    archive
}

/// The paths of all files below a folder, relative to it, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => found.push(entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// UUIDs, without day and suffix, in order.
pub fn uuids(data: &Path) -> Vec<String> {
    let mut uuids: Vec<_> = names(data).iter().map(|name| uuid(name).to_owned()).collect();
    uuids.sort();
    uuids
}

/// The UUID of a path.
pub fn uuid(name: &str) -> &str {
    name.rsplit('/').next().unwrap().trim_end_matches(".pcap.gz")
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// End reasons of docs/FORMAT.md.
pub const FIN: u8 = 1;
pub const RESET: u8 = 2;
pub const CLOSED: u8 = 3;
pub const CAPTURE_WINDOW: u8 = 4;
pub const IDLE: u8 = 5;
pub const SHUTDOWN: u8 = 7;
