//! Rows that are not in a Parquet file yet: appended to a file as they come, so that a crash loses none and `find` sees them.
//!
//! A journal belongs to the process that holds its lock (flock, which ends with the process). One that nobody holds was
//! left by a crash, and whoever takes its lock publishes it. Each row carries a checksum and the journal names its
//! columns, so that a cut end is noticed and another version of the program can read it.

use super::columns::{Table, Value};
use libdeflater::crc32;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A journal that is being written; locked.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are whole.
    len: u64,
    /// Rows that are not in the file yet.
    pending: Vec<u8>,
    pending_rows: usize,
    rows: usize,
    table: PhantomData<T>,
}

impl<T: Table> Journal<T> {
    /// Makes a journal at a path where there is none.
    ///
    /// # Errors
    /// Fails where the system refuses, and with `AlreadyExists` where the path is taken, if only for a moment.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // Another process may take a new journal for one that a crash left, in the moment before it is locked.
        if file.try_lock().is_err() || !is_at(&file, &path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Self { path, file, len: 0, pending: header::<T>(), pending_rows: 0, rows: 0, table: PhantomData })
    }

    /// Takes a journal over that a crash left; `None` where its process lives, or where it is gone.
    ///
    /// # Errors
    /// Fails where the system refuses.
    pub fn adopt(path: PathBuf) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        let len = file.metadata()?.len();
        Ok(Some(Self { path, file, len, pending: Vec::new(), pending_rows: 0, rows: 0, table: PhantomData }))
    }

    /// Adds a row, in memory only.
    pub fn push(&mut self, row: &T) {
        let at = self.pending.len();
        self.pending.extend([0; ROW_HEADER]);
        let mut values = Vec::with_capacity(T::COLUMNS.len());
        row.values(&mut values);
        for value in values {
            encode(value, &mut self.pending);
        }
        let (header, payload) = self.pending[at..].split_at_mut(ROW_HEADER);
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&crc32(payload).to_le_bytes());
        self.rows += 1;
        self.pending_rows += 1;
    }

    /// Brings the rows in memory to the file, where other processes see them.
    ///
    /// # Errors
    /// Fails where the disk refuses; the rows then wait for another attempt.
    pub fn flush(&mut self) -> io::Result<()> {
        // At a place and not at the end: what a write that failed has left there is written over.
        self.file.write_all_at(&self.pending, self.len)?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        self.pending_rows = 0;
        Ok(())
    }

    /// Rows added.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of rows that the disk has not taken yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Rows that the disk has not taken yet.
    pub fn pending_rows(&self) -> usize {
        self.pending_rows
    }

    /// Its rows, those in memory included, as rows of any table.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn reader<U: Table>(&self) -> io::Result<Reader<'_, T, U>> {
        let mut reader = Reader { journal: self, places: Vec::new(), begin: 0, window: Vec::new(), at: 0, table: PhantomData };
        let bytes = reader.bytes(0, MAX_HEADER)?;
        if let Some((places, rest)) = places::<U>(bytes) {
            (reader.begin, reader.places) = ((bytes.len() - rest.len()) as u64, places);
        }
        Ok(reader)
    }

    /// Replaces `out` by the bytes at a place: fewer than `len` at the end.
    fn read(&self, place: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let stored = usize::try_from(self.len.saturating_sub(place)).unwrap_or(usize::MAX).min(len);
        out.clear();
        out.resize(stored, 0);
        self.file.read_exact_at(out, place)?;
        let pending = usize::try_from(place.saturating_sub(self.len)).ok().and_then(|at| self.pending.get(at..)).unwrap_or(&[]);
        out.extend_from_slice(&pending[..pending.len().min(len - stored)]);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it: its rows are published.
    ///
    /// # Errors
    /// Fails where the system refuses.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Reads rows of a journal in any order, which it never has in memory as a whole.
pub struct Reader<'a, T, U> {
    journal: &'a Journal<T>,
    /// The table's place of each of the journal's columns.
    places: Vec<Option<usize>>,
    begin: u64,
    /// Bytes of the journal, the first of them at `at`: the next row is often among them.
    window: Vec<u8>,
    at: u64,
    table: PhantomData<U>,
}

impl<T: Table, U: Table> Reader<'_, T, U> {
    /// Where the first row begins.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The row that begins at a place, and where it ends; `None` at the end, and where it is not whole.
    ///
    /// # Errors
    /// Fails where the file cannot be read.
    pub fn row(&mut self, place: u64) -> io::Result<Option<(U, u64)>> {
        let header = self.bytes(place, ROW_HEADER)?.first_chunk::<ROW_HEADER>().copied();
        let Some(header) = header.filter(|_| self.begin > 0) else { return Ok(None) };
        let (len, checksum) = sizes(header);
        if len > MAX_ROW {
            return Ok(None);
        }
        let whole = ROW_HEADER + len;
        self.bytes(place, whole)?;
        let from = (place - self.at) as usize;
        let payload = self.window.get(from + ROW_HEADER..from + whole);
        let row = payload.and_then(|payload| row::<U>(payload, checksum, &self.places));
        Ok(row.map(|row| (row, place + whole as u64)))
    }

    /// The bytes from a place on: at least `len`, unless the journal ends before.
    fn bytes(&mut self, place: u64, len: usize) -> io::Result<&[u8]> {
        let from = place.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        if let Some(from) = from.filter(|from| from + len <= self.window.len()) {
            return Ok(&self.window[from..]);
        }
        self.journal.read(place, len.max(WINDOW), &mut self.window)?;
        self.at = place;
        Ok(&self.window)
    }
}

/// The rows in a journal's bytes; ends before the first that is not whole.
pub struct Rows<'a, T> {
    rest: &'a [u8],
    /// The table's place of each of the journal's columns.
    places: Vec<Option<usize>>,
    table: PhantomData<T>,
}

impl<'a, T: Table> Rows<'a, T> {
    /// The rows of a journal; none where its beginning is not whole.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (places, rest) = places::<T>(bytes).unwrap_or_default();
        Self { rest, places, table: PhantomData }
    }
}

impl<T: Table> Iterator for Rows<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let (header, rest) = self.rest.split_first_chunk::<ROW_HEADER>()?;
        let (len, checksum) = sizes(*header);
        let (payload, rest) = rest.split_at_checked(len)?;
        let row = row(payload, checksum, &self.places)?;
        self.rest = rest;
        Some(row)
    }
}

/// A table's place of each column that the first line names, and what follows the line; `None` where that is not whole.
fn places<T: Table>(bytes: &[u8]) -> Option<(Vec<Option<usize>>, &[u8])> {
    let (line, rest) = bytes.split_at(bytes.iter().position(|b| *b == b'\n')? + 1);
    let names = std::str::from_utf8(line).ok()?.trim_end().strip_prefix(MAGIC)?;
    Some((names.split_whitespace().map(|name| T::COLUMNS.iter().position(|c| c.name == name)).collect(), rest))
}

/// Length and checksum of the payload that follows.
fn sizes(header: [u8; ROW_HEADER]) -> (usize, u32) {
    let [len, checksum] = [0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|i| header[at + i])));
    (len as usize, checksum)
}

fn row<T: Table>(mut payload: &[u8], checksum: u32, places: &[Option<usize>]) -> Option<T> {
    if crc32(payload) != checksum {
        return None;
    }
    let mut row = T::default();
    for place in places {
        let value = decode(&mut payload)?;
        if let Some(column) = place {
            row.set(*column, value);
        }
    }
    Some(row)
}

fn header<T: Table>() -> Vec<u8> {
    let mut line = MAGIC.to_owned();
    for column in T::COLUMNS {
        line.push(' ');
        line.push_str(column.name);
    }
    line.push('\n');
    line.into_bytes()
}

fn encode(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0),
        Value::Text(text) => {
            out.push(1);
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::Int(n) => {
            out.push(2);
            out.extend(n.to_le_bytes());
        }
        Value::Double(n) => {
            out.push(3);
            out.extend(n.to_le_bytes());
        }
        Value::Bool(b) => out.extend([4, b.into()]),
        Value::Time(n) => {
            out.push(5);
            out.extend(n.to_le_bytes());
        }
    }
}

fn decode<'a>(bytes: &mut &'a [u8]) -> Option<Value<'a>> {
    fn eight(bytes: &mut &[u8]) -> Option<[u8; 8]> {
        let (head, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*head)
    }
    let (tag, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match tag {
        0 => Value::Null,
        1 => {
            let (len, rest) = bytes.split_first_chunk()?;
            let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            *bytes = rest;
            Value::Text(std::str::from_utf8(text).ok()?)
        }
        2 => Value::Int(i64::from_le_bytes(eight(bytes)?)),
        3 => Value::Double(f64::from_le_bytes(eight(bytes)?)),
        4 => {
            let (b, rest) = bytes.split_first()?;
            *bytes = rest;
            Value::Bool(*b != 0)
        }
        5 => Value::Time(i64::from_le_bytes(eight(bytes)?)),
        _ => return None,
    })
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), fs::metadata(path)), (Ok(open), Ok(there)) if open.ino() == there.ino() && open.dev() == there.dev())
}

/// What the first line begins with; the columns' names follow.
const MAGIC: &str = "flowarc-rows-1";

/// Length and CRC-32 of what follows.
const ROW_HEADER: usize = 8;

/// The longest first line that is believed.
const MAX_HEADER: usize = 64 << 10;

/// The longest row that is believed: a thousand times an ordinary one.
const MAX_ROW: usize = 1 << 20;

/// Some twenty rows: they are nearly in the order in which they are read.
const WINDOW: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::super::columns::{Micros, table};
    use super::*;
    use proptest::prelude::*;

    table! {
        /// A row.
        struct Pair {
            /// Words.
            text: String,
            /// Perhaps a number.
            number: Option<i64>,
            /// When.
            at: Micros,
        }
    }

    table! {
        /// What a later version might have made of it.
        struct Later {
            /// When.
            at: Micros,
            /// New.
            new: bool,
            /// Words.
            text: String,
        }
    }

    fn pair(n: i64) -> Pair {
        Pair { text: format!("t{n}"), number: (n % 2 == 0).then_some(n), at: Micros(n) }
    }

    #[test]
    fn rows_come_back_from_memory_and_file_and_the_lock_keeps_others_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::create(path.clone()).unwrap();
        journal.push(&pair(1));
        journal.flush().unwrap();
        journal.push(&pair(2));
        assert_eq!((rows_of(&journal), journal.rows()), (vec![pair(1), pair(2)], 2));
        assert_eq!(Rows::<Pair>::new(&fs::read(&path).unwrap()).count(), 1);
        assert!(Journal::<Pair>::adopt(path.clone()).unwrap().is_none());
        drop(journal);
        let left = Journal::<Pair>::adopt(path.clone()).unwrap().unwrap();
        assert_eq!(rows_of(&left), [pair(1)]);
        left.remove().unwrap();
        assert!(Journal::<Pair>::adopt(path).unwrap().is_none());
    }

    /// By the reader, which looks for each again at the end, the last one first.
    fn rows_of(journal: &Journal<Pair>) -> Vec<Pair> {
        let mut reader = journal.reader::<Pair>().unwrap();
        let (mut place, mut found) = (reader.begin(), Vec::new());
        while let Some((row, next)) = reader.row(place).unwrap() {
            found.push((place, row));
            place = next;
        }
        for (place, row) in found.iter().rev() {
            assert_eq!(reader.row(*place).unwrap().unwrap().0, *row);
        }
        found.into_iter().map(|(_, row)| row).collect()
    }

    #[test]
    fn a_journal_longer_than_the_window_is_read_in_any_order_and_up_to_its_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path().join("j")).unwrap();
        let all: Vec<Pair> = (0..3_000).map(pair).collect();
        for (n, row) in all.iter().enumerate() {
            journal.push(row);
            if n == 2_000 {
                journal.flush().unwrap();
            }
        }
        assert!(journal.len > 2 * WINDOW as u64 && journal.pending() > WINDOW);
        assert_eq!(rows_of(&journal), all);
        journal.file.write_all_at(&[0xff; 4], journal.len / 2).unwrap();
        let rest = rows_of(&journal);
        assert!(all.starts_with(&rest) && (900..1_100).contains(&rest.len()), "{}", rest.len());
    }

    #[test]
    fn another_version_reads_the_columns_that_it_knows() {
        let mut bytes = header::<Pair>();
        let mut journal = Journal::create(tempfile::tempdir().unwrap().keep().join("j")).unwrap();
        journal.push(&pair(3));
        bytes = [bytes, journal.pending[header::<Pair>().len()..].to_vec()].concat();
        let rows: Vec<Later> = Rows::new(&bytes).collect();
        assert_eq!(rows, [Later { at: Micros(3), new: false, text: "t3".into() }]);
        fs::remove_dir_all(journal.path().parent().unwrap()).unwrap();
    }

    proptest! {
        #[test]
        fn a_cut_journal_gives_its_whole_rows(cut in 0usize..200) {
            let dir = tempfile::tempdir().unwrap();
            let mut journal = Journal::create(dir.path().join("j")).unwrap();
            for n in 0..4 {
                journal.push(&pair(n));
            }
            let bytes = journal.pending.clone();
            let rows: Vec<Pair> = Rows::new(&bytes[..cut.min(bytes.len())]).collect();
            prop_assert_eq!(&rows, &(0..rows.len() as i64).map(pair).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole: bool) {
            let bytes = if whole { [header::<Pair>(), bytes].concat() } else { bytes };
            let _ = Rows::<Pair>::new(&bytes).count();
        }
    }
}
