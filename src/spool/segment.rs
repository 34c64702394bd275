//! Segments on disk: appended block by block under a hidden name, published whole.
//!
//! An open segment lies in `DATADIR/.spool/` with its journal beside it. When it is over, its index is written, and index
//! and segment get their names in `DATADIR/YYYY/MM/DD/` by a rename each, the index first. One process writes a folder:
//! `.spool/lock` says so for as long as it lives.

use super::block::{Block, SpoolOp, StreamId};
use super::format::{Compress, Format, Packer};
use super::index::{BlockAt, Index, IndexBuilder, SegmentHead, journal_entry, read_journal};
use crate::archive::path::rename_to_new;
use crate::time::{CivilDate, Timestamp};
use libdeflater::crc32;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How segments are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentConfig {
    /// The file format.
    pub format: Format,
    /// How blocks are compressed.
    pub compress: Compress,
    /// Bytes of a file at which another is begun; `None` for no limit.
    pub rotate_bytes: Option<u64>,
    /// The snap length that file headers state.
    pub snaplen: u32,
    /// Whether a segment is forced to disk before it gets its name.
    pub fsync: bool,
    /// How segments are called.
    pub naming: Naming,
    /// The number of the shard, where there are several.
    pub shard: Option<u16>,
}

/// How segments are called by their first frame's time, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// `YYYY-MM-DDThh-mm-ss-nnnnnnnnn`: sorts as time does.
    Nanoseconds,
    /// `YYYY-MM-DDThh-mm-ss`, as gotm has it.
    Seconds,
}

/// A folder of segments that this process may write.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    /// Held for as long as this lives.
    _lock: Flock<File>,
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process has it.
    #[error("spool {0}: another flowarc capture writes there (give each its own --datadir)")]
    Locked(PathBuf),
    /// The system refused.
    #[error("spool {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// What a call has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Frames that are in the file now.
    pub packets: u64,
    /// Bytes that were written, indexes not counted.
    pub bytes: u64,
    /// Segments that have their names now.
    pub published: u64,
}

/// What was found of a process that did not end well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvaged {
    /// The segment's name; none where no block of it was whole.
    pub segment: Option<PathBuf>,
    /// Frames that are in it.
    pub packets: u64,
    /// The time of the last of them.
    pub last: Option<Timestamp>,
    /// Bytes behind the last whole block, cut off.
    pub cut: u64,
}

impl Spool {
    /// Opens a folder, and makes it where it is not there.
    ///
    /// # Errors
    /// Fails where the folder cannot be made or locked.
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        let io = |e| SpoolError::Io(dir.to_owned(), e);
        let hidden = dir.join(HIDDEN);
        fs::create_dir_all(&hidden).map_err(io)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(hidden.join("lock")).map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SpoolError::Locked(dir.to_owned())),
            Err((_, e)) => Err(io(e.into())),
        }
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The segments that a process that is gone has left, to be salvaged; to be called before anything is written. Removes
    /// what belongs to none of them.
    ///
    /// # Errors
    /// Fails where the hidden folder cannot be read or a file in it cannot be removed.
    pub fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut names: Vec<_> = fs::read_dir(self.dir.join(HIDDEN))?.filter_map(|e| Some(e.ok()?.path())).collect();
        names.sort();
        let mut segments = Vec::new();
        for path in names.iter().filter(|p| p.file_name().is_some_and(|n| n != "lock")) {
            match path.extension().and_then(|e| e.to_str()) {
                // An index that was being written, which is made again.
                Some("new") => fs::remove_file(path)?,
                Some(INDEX) if names.binary_search(&path.with_extension("")).is_ok() => {}
                // A journal whose segment has its name already, or was never made.
                Some(INDEX) => fs::remove_file(path)?,
                _ => segments.push(path.clone()),
            }
        }
        Ok(segments)
    }

    /// Publishes one of [`Spool::leftovers`]: every block that is whole, by its checksum. Others may be written meanwhile.
    ///
    /// # Errors
    /// Fails where it cannot be read or published; it stays for the next time.
    pub fn salvage(&self, path: &Path) -> io::Result<Salvaged> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let journal_path = index_path(path);
        let journal = fs::read(&journal_path).unwrap_or_default();
        let mut bytes = Vec::new();
        let index = read_journal(&journal, |at| {
            bytes.resize(at.len as usize, 0);
            file.read_exact_at(&mut bytes, at.offset).is_ok() && crc32(&bytes) == at.crc
        });
        let Some(index) = index.filter(|index| index.last().is_some()) else {
            fs::remove_file(path)?;
            let _ = fs::remove_file(&journal_path);
            return Ok(Salvaged { segment: None, packets: 0, last: None, cut: len });
        };
        let (end, last) = (index.end(), index.last());
        file.set_len(end)?;
        let index = index.build();
        let packets = index.blocks.iter().map(|b| u64::from(b.packets)).sum();
        // The name was made of the first block's first frame; the day is that of the name.
        let first = index.blocks.first().map_or(Timestamp::ZERO, |b| b.first);
        let segment = publish(&self.dir, path, Some(&index), first)?;
        Ok(Salvaged { segment: Some(segment), packets, last, cut: len - end })
    }
}

/// Makes segments of blocks.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    config: SegmentConfig,
    packer: Packer,
    open: Vec<(StreamId, Segment)>,
}

#[derive(Debug)]
struct Segment {
    window: Timestamp,
    first: Timestamp,
    path: PathBuf,
    file: File,
    journal: File,
    journal_len: u64,
    index: IndexBuilder,
}

impl SegmentWriter {
    /// A writer into a spool.
    ///
    /// # Errors
    /// Fails for want of memory.
    pub fn new(spool: &Spool, config: SegmentConfig) -> io::Result<Self> {
        let packer = Packer::new(config.compress)?;
        Ok(Self { dir: spool.dir.clone(), config, packer, open: Vec::new() })
    }

    /// Does one thing. After an error nothing of it is in a file, and the same may be tried again.
    ///
    /// # Errors
    /// Fails where the disk refuses.
    pub fn handle_op(&mut self, op: &SpoolOp) -> io::Result<Written> {
        match op {
            SpoolOp::Block(block) => self.append(block),
            SpoolOp::Close(stream) => self.close(*stream),
        }
    }

    /// Publishes every open segment.
    ///
    /// # Errors
    /// Fails with the first refusal; the others are published.
    pub fn finish(&mut self) -> io::Result<Written> {
        let streams: Vec<_> = self.open.iter().map(|(id, _)| *id).collect();
        let mut written = Written::default();
        let mut outcome = Ok(());
        for stream in streams {
            match self.close(stream).map(drop).or_else(|_| self.close_without_index(stream)) {
                Ok(()) => written.published += 1,
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome.map(|()| written)
    }

    fn append(&mut self, block: &Block) -> io::Result<Written> {
        let mut written = Written::default();
        let over = |s: &Segment, most: Option<u64>| {
            s.window != block.window || s.index.flows() >= FLOWS_MAX || most.is_some_and(|most| s.index.end() >= most)
        };
        if self.open.iter().any(|(id, s)| *id == block.stream && over(s, self.config.rotate_bytes)) {
            written.published = self.close(block.stream)?.published;
        }
        if !self.open.iter().any(|(id, _)| *id == block.stream) {
            let segment = self.begin(block)?;
            written.bytes += segment.index.end();
            self.open.push((block.stream, segment));
        }
        let (_, segment) = self.open.iter_mut().find(|(id, _)| *id == block.stream).expect("it was opened above");
        let packed = self.packer.pack(&block.data)?;
        segment.append(block, packed)?;
        written.packets = block.packets.into();
        written.bytes += packed.len() as u64;
        Ok(written)
    }

    fn begin(&mut self, block: &Block) -> io::Result<Segment> {
        let prologue = self.config.format.prologue(block.stream.link, self.config.snaplen, block.interface.as_deref());
        let prologue = self.packer.pack(&prologue)?.to_vec();
        let path = self.free_name(block.first);
        let head = SegmentHead {
            format: self.config.format,
            compress: self.config.compress,
            link: block.stream.link,
            prologue_len: prologue.len() as u32,
        };
        let create = |path: &Path, content: &[u8]| {
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
            // A half-written file is of no use and would stand in the way.
            file.write_all(content).inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok::<_, io::Error>(file)
        };
        let journal_path = index_path(&path);
        let journal = create(&journal_path, &head.journal())?;
        let file = create(&path, &prologue).inspect_err(|_| drop(fs::remove_file(&journal_path)))?;
        let index = IndexBuilder::new(head);
        let journal_len = head.journal().len() as u64;
        Ok(Segment { window: block.window, first: block.first, path, file, journal, journal_len, index })
    }

    /// A hidden name that neither an open segment nor a published one has.
    fn free_name(&self, first: Timestamp) -> PathBuf {
        let stem = match self.config.naming {
            Naming::Nanoseconds => format!("{}-{:09}", second(first), first.subsec_nanos()),
            Naming::Seconds => second(first),
        };
        let shard = self.config.shard.map_or(String::new(), |n| format!("-s{n}"));
        let end = format!("{}{}", self.config.format.extension(), self.config.compress.suffix());
        let names = (1u32..).map(|n| match n {
            1 => format!("{stem}{shard}.{end}"),
            n => format!("{stem}{shard}-{n}.{end}"),
        });
        let day = self.dir.join(CivilDate::from_utc(first).to_string());
        let mut free = names.filter(|name| !day.join(name).exists()).map(|name| self.dir.join(HIDDEN).join(name));
        free.find(|path| !path.exists()).expect("there are more numbers than files")
    }

    fn close(&mut self, stream: StreamId) -> io::Result<Written> {
        let Some(at) = self.open.iter().position(|(id, _)| *id == stream) else { return Ok(Written::default()) };
        let segment = &self.open[at].1;
        if self.config.fsync {
            segment.file.sync_data()?;
        }
        publish(&self.dir, &segment.path, Some(&segment.index.build()), segment.first)?;
        self.open.remove(at);
        Ok(Written { published: 1, ..Written::default() })
    }

    /// Publishes a segment whose index the disk does not take: readers make one from the segment itself.
    fn close_without_index(&mut self, stream: StreamId) -> io::Result<()> {
        if let Some(at) = self.open.iter().position(|(id, _)| *id == stream) {
            publish(&self.dir, &self.open[at].1.path, None, self.open[at].1.first)?;
            self.open.remove(at);
        }
        Ok(())
    }
}

impl Segment {
    fn append(&mut self, block: &Block, packed: &[u8]) -> io::Result<()> {
        let at = BlockAt::of(block, packed, self.index.end());
        let entry = journal_entry(&at, &block.flows);
        let written =
            self.file.write_all_at(packed, at.offset).and_then(|()| self.journal.write_all_at(&entry, self.journal_len));
        if let Err(e) = written {
            // What was written in part is not there.
            let _ = self.file.set_len(at.offset);
            let _ = self.journal.set_len(self.journal_len);
            return Err(e);
        }
        self.journal_len += entry.len() as u64;
        self.index.add(at, &block.flows);
        Ok(())
    }
}

/// Gives a segment its name, after its index. The journal goes last: with it, all of this can be done again.
fn publish(dir: &Path, hidden: &Path, index: Option<&Index>, first: Timestamp) -> io::Result<PathBuf> {
    let day = dir.join(CivilDate::from_utc(first).to_string());
    fs::create_dir_all(&day)?;
    let name = hidden.file_name().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
    let (stem, end) = name.split_once('.').ok_or(io::ErrorKind::InvalidFilename)?;
    for n in 1u32.. {
        let path = day.join(if n == 1 { name.to_owned() } else { format!("{stem}-{n}.{end}") });
        if path.exists() {
            continue;
        }
        if let Some(index) = index {
            let unfinished = with_ending(hidden, "new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&unfinished)?;
            file.write_all(&index.encode()).inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
            fs::rename(&unfinished, index_path(&path))?;
        }
        match rename_to_new(hidden, &path) {
            Ok(()) => {
                let _ = fs::remove_file(index_path(hidden));
                return Ok(path);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    unreachable!("there are more numbers than files")
}

/// Where a segment's index or journal is.
pub fn index_path(segment: &Path) -> PathBuf {
    with_ending(segment, INDEX)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// `YYYY-MM-DDThh-mm-ss`, UTC.
fn second(ts: Timestamp) -> String {
    let CivilDate { year, month, day } = CivilDate::from_utc(ts);
    let of_day = ts.secs() % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}")
}

/// The folder of open segments.
pub const HIDDEN: &str = ".spool";
/// What an index's or journal's name ends with.
pub const INDEX: &str = "idx";
/// The mode of files with packets, less the umask: they are nobody else's business, and neither is who talked to whom.
pub const FILE_MODE: u32 = 0o660;
/// Flows in one segment's index: some 100 MiB while it is gathered. A flood of flows turns segments sooner.
const FLOWS_MAX: usize = 1 << 20;

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
