//! What the first reading of a bundle found, as a file beside it.
//!
//! ```text
//! magic | the bundle's length and time | places of what follows | windows (zstd) | points
//!       | blocks of members (zstd) | their directory | rows (Parquet)
//! ```
//!
//! One member is found by reading the points, the directory, one block of members and the pages of one row: the index of a large
//! bundle is never read whole.

use super::gzip::{Point, Points, unpack};
use super::inflate::WINDOW;
use super::members::{self, Block, Member};
use super::tar::{Entry, Reader};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::folder::LAYOUT;
use crate::archive::catalogue::parquet::{Layout, ParquetWriter};
use crate::archive::catalogue::row::is_capture;
use crate::query::store::{ReadAt, Section, Sequential};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open index.
#[derive(Debug)]
pub(super) struct Index {
    file: Arc<File>,
    head: Head,
    points: Vec<(Point, Place)>,
    /// The blocks of members, each with what is in it once it was read.
    blocks: Option<Vec<(Block, Vec<Member>)>>,
}

/// Bytes within the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    at: u64,
    len: u64,
}

/// The index's first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Head {
    /// Length and time of the bundle that this is an index of.
    bundle: [u64; 2],
    points: Place,
    /// The directory of the members' blocks.
    directory: Place,
    rows: Place,
}

impl Index {
    /// Opens a bundle's index, one of `paths`, making it if there is none that fits; `on_build` is told so first.
    pub(super) fn open(paths: &[PathBuf], bundle: &dyn ReadAt, stamp: [u64; 2], on_build: &dyn Fn()) -> io::Result<Self> {
        for path in paths {
            if let Ok(file) = File::open(path)
                && let Some(index) = Self::load(file, stamp)?
            {
                return Ok(index);
            }
        }
        on_build();
        let mut refused = io::Error::other("no folder for its index: set HOME");
        for path in paths {
            // Beside the bundle if that can be, and a cache's folder may have to be made.
            let temp = path.with_extension(format!("{:x}.part", RandomState::new().hash_one(std::process::id())));
            let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
            match folder.and_then(|()| File::create_new(&temp)) {
                Ok(file) => {
                    let built = build(bundle, stamp, file).and_then(|()| fs::rename(&temp, path));
                    if let Err(e) = built {
                        let _ = fs::remove_file(&temp);
                        return Err(e);
                    }
                    let index = Self::load(File::open(path)?, stamp)?;
                    return index.ok_or_else(|| io::Error::other("the bundle changes while it is read"));
                }
                Err(e) => refused = e,
            }
        }
        Err(refused)
    }

    /// The rows, as a Parquet file; their files are members' paths.
    pub(super) fn rows(&self) -> Section {
        let Place { at, len } = self.head.rows;
        Section { file: Arc::clone(&self.file) as Arc<dyn ReadAt>, at, len }
    }

    /// The members, in the order of their content: so read, nothing is unpacked twice.
    pub(super) fn members(&self) -> io::Result<Vec<Member>> {
        let mut all = Vec::new();
        for block in self.directory()? {
            all.extend(self.block(&block)?);
        }
        all.sort_by_key(|member| member.offset);
        Ok(all)
    }

    /// The member of a path.
    pub(super) fn find(&mut self, path: &str) -> io::Result<Option<Member>> {
        let mut blocks = match self.blocks.take() {
            Some(blocks) => blocks,
            None => self.directory()?.into_iter().map(|block| (block, Vec::new())).collect(),
        };
        let after = blocks.partition_point(|(block, _)| *block.first <= *path);
        let mut found = None;
        if let Some((block, members)) = after.checked_sub(1).and_then(|i| blocks.get_mut(i)) {
            if members.is_empty() {
                *members = self.block(block)?;
            }
            found = members.binary_search_by(|member| (*member.path).cmp(path)).ok().map(|i| members[i].clone());
        }
        self.blocks = Some(blocks);
        Ok(found)
    }

    fn directory(&self) -> io::Result<Vec<Block>> {
        Ok(members::blocks(&self.bytes(self.head.directory)?))
    }

    fn block(&self, block: &Block) -> io::Result<Vec<Member>> {
        members::unpack(&self.bytes(Place { at: block.at, len: block.len })?)
    }

    /// The offsets of the point before an offset and of the one behind it, if there is one.
    pub(super) fn span(&self, offset: u64) -> (u64, Option<u64>) {
        let after = self.points.partition_point(|(point, _)| point.offset <= offset);
        let at = |i: usize| self.points.get(i).map(|(point, _)| point.offset);
        (after.checked_sub(1).and_then(at).unwrap_or(0), at(after))
    }

    /// `None` where the index is of another bundle or another version.
    fn load(file: File, stamp: [u64; 2]) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD];
        match file.read_exact_at(&mut head, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let Some(head) = Head::decode(&head).filter(|head| head.bundle == stamp) else { return Ok(None) };
        let mut index = Self { file: Arc::new(file), head, points: Vec::new(), blocks: None };
        for point in index.bytes(head.points)?.chunks_exact(POINT) {
            let [bit, offset, at, len] = std::array::from_fn(|i| word(point, i));
            index.points.push((Point { bit, offset }, Place { at, len }));
        }
        index.check(head.rows)?;
        if !index.points.is_sorted_by_key(|(point, _)| point.offset) {
            return Err(damaged());
        }
        Ok(Some(index))
    }

    /// Whether a place is within the index.
    fn check(&self, place: Place) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        place.at.checked_add(place.len).filter(|end| *end <= len).map(|_| ()).ok_or_else(damaged)
    }

    fn bytes(&self, place: Place) -> io::Result<Vec<u8>> {
        self.check(place)?;
        let mut bytes = vec![0; usize::try_from(place.len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, place.at)?;
        Ok(bytes)
    }
}

impl Points for Index {
    fn before(&self, offset: u64) -> io::Result<(Point, Vec<u8>)> {
        let after = self.points.partition_point(|(point, _)| point.offset <= offset);
        let (point, window) = after.checked_sub(1).map(|i| self.points[i]).ok_or_else(damaged)?;
        let window = if window.len == 0 { Vec::new() } else { zstd::bulk::decompress(&self.bytes(window)?, WINDOW)? };
        Ok((point, window))
    }
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let places = [self.points, self.directory, self.rows].into_iter().flat_map(|p| [p.at, p.len]);
        for word in self.bundle.into_iter().chain(places) {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; HEAD]) -> Option<Self> {
        let words = bytes.strip_prefix(MAGIC)?;
        let place = |i| Place { at: word(words, i), len: word(words, i + 1) };
        Some(Self { bundle: [word(words, 0), word(words, 1)], points: place(2), directory: place(4), rows: place(6) })
    }
}

/// Reads a bundle from its beginning to its end.
fn build(bundle: &dyn ReadAt, stamp: [u64; 2], file: File) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    out.write_all(&[0; HEAD])?;
    let (mut at, mut points) = (HEAD as u64, Vec::new());
    let (mut tar, mut members) = (Reader::new(), Vec::new());
    let mut writer = ParquetWriter::<Row, _>::new(Vec::new(), ROWS, &[]).map_err(io::Error::other)?;
    let (mut refused, mut unwritten) = (None, None);
    let mut found = |entry: Entry| {
        let Entry { path, offset, content } = entry;
        if !is_capture(&path) || path.contains('\n') || path.len() > usize::from(u16::MAX) {
            return;
        }
        members.push(Member { path: path.clone(), offset, len: content.len() as u64 });
        // What cannot be read has no row; it is still a member.
        if let Ok(row) = Row::of_bytes(&path, content)
            && let Err(e) = writer.push(&row)
        {
            unwritten = Some(e);
        }
    };
    let input = BufReader::with_capacity(INPUT, Sequential { file: bundle, at: 0 });
    unpack(input, &mut |bytes| tar.take(bytes, &mut found), &mut |point, window| {
        let packed = match zstd::stream::encode_all(window, 1) {
            Ok(packed) if !window.is_empty() => packed,
            _ => Vec::new(),
        };
        let place = Place { at, len: packed.len() as u64 };
        at += place.len;
        points.extend([point.bit, point.offset, place.at, place.len].into_iter().flat_map(u64::to_le_bytes));
        if let Err(e) = out.write_all(&packed) {
            refused = Some(e);
        }
    })?;
    if let Some(e) = refused.or(unwritten.map(io::Error::other)) {
        return Err(e);
    }
    // Of two of one path the later one counts, as for tar.
    members.sort();
    members.reverse();
    members.dedup_by(|earlier, later| earlier.path == later.path);
    members.reverse();
    let packed = members::pack(&members, at)?;
    out.write_all(&packed.blocks)?;
    at += packed.blocks.len() as u64;
    let rows = writer.finish().map_err(io::Error::other)?;
    let mut places = [Place::default(); 3];
    for (place, bytes) in places.iter_mut().zip([&points, &packed.directory, &rows]) {
        *place = Place { at, len: bytes.len() as u64 };
        out.write_all(bytes)?;
        at += place.len;
    }
    let [points, directory, rows] = places;
    out.rewind()?;
    out.write_all(&Head { bundle: stamp, points, directory, rows }.encode())?;
    out.flush()
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a damaged index; remove it")
}

/// Where a bundle's index is beside it.
pub(super) fn beside(bundle: &Path) -> Option<PathBuf> {
    let mut name = bundle.file_name()?.to_owned();
    name.push(SUFFIX);
    Some(bundle.with_file_name(name))
}

/// Where the index of a bundle of this absolute name is in the user's cache folder.
pub(super) fn in_cache(name: &[u8]) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    // FNV-1a: the same in every version of the program.
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    Some(cache.join("flowarc").join(format!("{hash:016x}{SUFFIX}")))
}

/// A word of 64 bits by its number; zero past the end.
pub(super) fn word(bytes: &[u8], i: usize) -> u64 {
    bytes.get(i * 8..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// Small groups: a bundle is asked for one flow mostly.
const ROWS: Layout = Layout { group: 8 * 1024, ..LAYOUT };

const MAGIC: &[u8; 16] = b"flowarc-bundle-2";
const HEAD: usize = 16 + 8 * 8;
const POINT: usize = 4 * 8;
const SUFFIX: &str = ".flowarc-index";
const INPUT: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What loading gives of an index with points at these offsets and rows there.
    fn load(offsets: &[u64], rows: Place) -> Option<io::ErrorKind> {
        let points = Place { at: HEAD as u64, len: (offsets.len() * POINT) as u64 };
        let mut bytes = Head { bundle: [1, 2], points, directory: Place::default(), rows }.encode();
        bytes.extend(offsets.iter().flat_map(|offset| [0, *offset, 0, 0]).flat_map(u64::to_le_bytes));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        match Index::load(file, [1, 2]) {
            Ok(index) => index.map(|_| None).expect("it is of this bundle"),
            Err(e) => Some(e.kind()),
        }
    }

    #[test]
    fn an_index_whose_places_cannot_be_is_damaged() {
        let damaged = Some(io::ErrorKind::InvalidData);
        assert_eq!(load(&[3, 9], Place { at: HEAD as u64, len: 8 }), None);
        assert_eq!(load(&[9, 3], Place::default()), damaged, "points out of order");
        assert_eq!(load(&[3, 9], Place { at: HEAD as u64, len: 1 << 20 }), damaged, "rows behind its end");
        assert_eq!(load(&[3, 9], Place { at: u64::MAX, len: 1 }), damaged, "rows behind all that can be");
    }
}
