//! The catalogue's folder: `YYYY/MM/DD/HH-END-ID.parquet` by the hour in which flows started, and the journals of the
//! processes that write to it.
//!
//! `END` is the second in which the last flow of the file ended, so that a reader that looks for a time passes over files
//! without opening them. `ID` is that of the journal that the file was made of: publishing again after a crash replaces
//! the file by its equal. Nobody changes a published file, so any number of processes share a folder.

use super::columns::{Micros, table};
use super::journal::{Journal, Reader};
use super::parquet::{Layout, ParquetWriter};
use super::row::Row;
use crate::time::{CivilDate, Timestamp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// Hours since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Hour(pub i64);

impl Hour {
    /// The hour of a time.
    pub fn of(time: Micros) -> Self {
        Self(time.0.div_euclid(HOUR))
    }

    /// Its first microsecond.
    pub fn start(self) -> Micros {
        Micros(self.0 * HOUR)
    }
}

/// A catalogue's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// A published file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Part {
    /// The hour in which its flows started.
    pub hour: Hour,
    /// No flow in it ended later.
    pub end: Micros,
    /// Where it is.
    pub path: PathBuf,
}

impl Folder {
    /// A folder to write to, made where it does not exist.
    ///
    /// # Errors
    /// Fails where it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.join(JOURNALS))?;
        Ok(Self { path: path.canonicalize()? })
    }

    /// A folder to read; `None` where it is no catalogue's.
    pub fn open(path: &Path) -> Option<Self> {
        path.join(JOURNALS).is_dir().then(|| Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new journal for an hour.
    ///
    /// # Errors
    /// Fails where the disk refuses.
    pub fn journal(&self, hour: Hour) -> io::Result<Journal<Row>> {
        loop {
            // Seeded by the system; unique among processes, hosts and restarts.
            let id = RandomState::new().hash_one(std::process::id());
            match Journal::create(self.path.join(JOURNALS).join(format!("{:08}-{id:016x}.rows", hour.0))) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(self.path.join(JOURNALS))?,
                journal => return journal,
            }
        }
    }

    /// The paths of all journals.
    ///
    /// # Errors
    /// Fails where the folder cannot be read.
    pub fn journals(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.path.join(JOURNALS))? {
            let path = entry?.path();
            if journal_hour(&path).is_some() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The published files with flows that ended at `from` or later and started at `to` or earlier, in the order of hours.
    ///
    /// # Errors
    /// Fails where a folder cannot be read.
    pub fn parts(&self, from: Micros, to: Micros) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (year, y) in numbered(&self.path, 4)? {
            for (month, m) in numbered(&y, 2)? {
                for (day, d) in numbered(&m, 2)? {
                    let midnight = midnight(year, month, day);
                    if midnight > to {
                        continue;
                    }
                    for entry in fs::read_dir(&d)? {
                        let path = entry?.path();
                        parts.extend(part(midnight, path).filter(|p| p.end >= from && p.hour.start() <= to));
                    }
                }
            }
        }
        parts.sort();
        Ok(parts)
    }

    /// Makes a Parquet file of a journal's rows, those in memory included, sorted by start. The columns of one row group are in
    /// memory meanwhile.
    ///
    /// # Errors
    /// Fails where the disk refuses.
    pub fn publish(&self, journal: &Journal<Row>) -> Result<usize, PublishError> {
        let mut times = journal.reader::<Times>()?;
        let (mut order, mut end) = (Vec::new(), Micros(i64::MIN));
        let mut place = times.begin();
        while let Some((row, next)) = times.row(place)? {
            order.push((row.start, place));
            end = end.max(row.end);
            place = next;
        }
        order.sort();
        let name = journal.path().file_stem().and_then(|n| n.to_str()).unwrap_or_default();
        if let (Some(hour), Some((_, id)), false) = (journal_hour(journal.path()), name.split_once('-'), order.is_empty()) {
            let start = hour.start();
            let day = self.path.join(CivilDate::from_utc(Timestamp::from(start)).to_string());
            fs::create_dir_all(&day)?;
            let temp = self.path.join(JOURNALS).join(format!("{name}.part"));
            let seconds = end.0.div_euclid(1_000_000);
            let part = day.join(format!("{:02}-{seconds}-{id}.parquet", hour.0.rem_euclid(24)));
            if let Err(e) = write(&temp, &order, &mut journal.reader()?).and_then(|()| Ok(fs::rename(&temp, part)?)) {
                // On a full disk it would take the room that the next attempt needs.
                let _ = fs::remove_file(&temp);
                return Err(e);
            }
        }
        Ok(order.len())
    }
}

table! {
    /// What the order of a file's rows and its name are made of.
    struct Times {
        /// As in [`Row`].
        start: Micros,
        /// As in [`Row`].
        end: Micros,
    }
}

fn write(path: &Path, order: &[(Micros, u64)], rows: &mut Reader<'_, Row, Row>) -> Result<(), PublishError> {
    let notes = [("flowarc.rows", order.len().to_string())];
    let mut writer = ParquetWriter::<Row, _>::new(BufWriter::new(File::create(path)?), LAYOUT, &notes)?;
    for (_, place) in order {
        let (row, _) = rows.row(*place)?.ok_or_else(|| io::Error::other("a journal has changed while it was read"))?;
        writer.push(&row)?;
    }
    let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(file.sync_all()?)
}

/// Gathers rows by hour until they are published; each row is in a journal by then.
#[derive(Debug)]
pub struct Collector {
    folder: Folder,
    open: BTreeMap<Hour, Journal<Row>>,
    /// Journals that are full or whose hour is over, which wait to be published.
    closed: Vec<Journal<Row>>,
    /// Bytes of rows that wait in memory.
    pending: usize,
}

impl Collector {
    /// A collector without rows.
    pub fn new(folder: Folder) -> Self {
        Self { folder, open: BTreeMap::new(), closed: Vec::new(), pending: 0 }
    }

    /// Takes the journals that a crash left; they are published with the next.
    ///
    /// # Errors
    /// Fails where the folder cannot be read.
    pub fn adopt(&mut self) -> io::Result<usize> {
        let before = self.closed.len();
        for path in self.folder.journals()? {
            self.closed.extend(Journal::adopt(path)?);
        }
        Ok(self.closed.len() - before)
    }

    /// Adds a row, in memory until the next [`Self::flush`].
    ///
    /// # Errors
    /// Fails where a journal is needed and the disk refuses; the row is then lost.
    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        let hour = Hour::of(row.start);
        let journal = match self.open.entry(hour) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(self.folder.journal(hour)?),
        };
        if self.pending > MOST_PENDING {
            return Err(io::Error::other("the disk takes no more rows"));
        }
        let before = journal.pending();
        journal.push(row);
        self.pending += journal.pending() - before;
        if journal.rows() >= MOST_ROWS {
            self.closed.extend(self.open.remove(&hour));
        }
        Ok(())
    }

    /// Brings all rows to the disk, where `find` sees them.
    ///
    /// # Errors
    /// Fails where the disk refuses; rows then wait in memory.
    pub fn flush(&mut self) -> io::Result<()> {
        let flushed = self.open.values_mut().chain(&mut self.closed).filter(|j| j.pending() > 0).try_for_each(Journal::flush);
        self.pending = self.open.values().chain(&self.closed).map(Journal::pending).sum();
        flushed
    }

    /// Bytes of rows that wait in memory.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Rows that wait in memory, because the disk has refused them so far.
    pub fn waiting(&self) -> usize {
        self.open.values().chain(&self.closed).map(Journal::pending_rows).sum()
    }

    /// Publishes the hours before `now`, and what is full. Returns the rows that were published.
    ///
    /// # Errors
    /// Fails where the disk refuses; what is not published waits for the next call.
    pub fn publish_before(&mut self, now: Hour) -> Result<usize, PublishError> {
        while let Some(entry) = self.open.first_entry().filter(|e| *e.key() < now) {
            self.closed.push(entry.remove());
        }
        let mut rows = 0;
        while let Some(journal) = self.closed.pop() {
            match self.folder.publish(&journal) {
                Ok(n) => rows += n,
                Err(e) => {
                    self.closed.push(journal);
                    return Err(e);
                }
            }
            journal.remove()?;
        }
        Ok(rows)
    }

    /// Publishes everything.
    ///
    /// # Errors
    /// As [`Self::publish_before`].
    pub fn publish(&mut self) -> Result<usize, PublishError> {
        self.publish_before(Hour(i64::MAX))
    }

    /// Whether something is full and waits to be published.
    pub fn is_due(&self) -> bool {
        !self.closed.is_empty()
    }
}

/// Why rows could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Parquet could not be written.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
}

/// The hour of a journal's name.
pub fn journal_hour(path: &Path) -> Option<Hour> {
    let name = path.file_name()?.to_str()?.strip_suffix(".rows")?;
    name.split_once('-')?.0.parse().ok().map(Hour)
}

/// The part of a path, in the folder of the day that begins at `midnight`; `None` where it is something else.
pub fn part(midnight: Micros, path: PathBuf) -> Option<Part> {
    let name = path.file_name()?.to_str()?.strip_suffix(".parquet")?;
    let mut words = name.splitn(3, '-');
    let hour: i64 = words.next()?.parse().ok().filter(|h| (0..24).contains(h))?;
    let end: i64 = words.next()?.parse().ok()?;
    words.next()?;
    let end = Micros(end.saturating_mul(1_000_000).saturating_add(999_999));
    Some(Part { hour: Hour(Hour::of(midnight).0 + hour), end, path })
}

/// The folders in `path` whose names are numbers of so many digits, with the numbers, in order.
fn numbered(path: &Path, digits: usize) -> io::Result<Vec<(i64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().filter(|n| n.len() == digits && n.bytes().all(|b| b.is_ascii_digit()))
            && entry.file_type()?.is_dir()
        {
            found.push((number.parse().unwrap_or(0), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The time at which a UTC day begins.
pub fn midnight(year: i64, month: i64, day: i64) -> Micros {
    // Civil date to days, Howard Hinnant's algorithm ("chrono-Compatible Low-Level Date Algorithms").
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    Micros((era * 146_097 + doe - 719_468) * 24 * HOUR)
}

/// How the catalogue's files are laid out.
pub const LAYOUT: Layout =
    Layout { looked_up: &["uuid", "client_addr", "server_addr"], distinct: &["uuid", "file"], group: 64 * 1024 };

/// Where journals are within the folder.
const JOURNALS: &str = ".flowarc.rows";

/// Microseconds.
const HOUR: i64 = 3_600_000_000;

/// Rows of a file.
const MOST_ROWS: usize = 128 * 1024;

/// Bytes of rows that wait in memory where the disk refuses them.
const MOST_PENDING: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::super::columns::Table;
    use super::super::parquet::ParquetReader;
    use super::*;

    fn row(n: i64, uuid: &str) -> Row {
        let (start, end) = (Micros(n * 1_000_000), Micros(n * 1_000_000 + 500));
        Row { uuid: uuid.into(), start, end, client_addr: "192.0.2.1".into(), tool: None, client_port: 7, ..Row::default() }
    }

    fn all(folder: &Folder) -> Vec<Row> {
        let mut rows = Vec::new();
        for part in folder.parts(Micros(i64::MIN), Micros(i64::MAX)).unwrap() {
            let reader = ParquetReader::<Row, _>::open(File::open(part.path).unwrap()).unwrap();
            (0..reader.groups()).for_each(|g| rows.extend(reader.group(g).unwrap()));
        }
        rows
    }

    #[test]
    fn midnights_are_those_of_the_calendar() {
        for days in [0u64, 59, 10_957, 11_016, 20_777, 47_482] {
            let CivilDate { year, month, day } = CivilDate::from_utc(Timestamp::from_parts(days * 86_400, 0));
            assert_eq!(midnight(year.into(), month.into(), day.into()).0, days as i64 * 24 * HOUR);
        }
    }

    #[test]
    fn rows_are_published_by_hour_and_sorted_by_start() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        let mut collector = Collector::new(folder.clone());
        for (n, uuid) in [(7_300, "late"), (100, "b"), (50, "a"), (3_599, "c")] {
            collector.add(&row(n, uuid)).unwrap();
        }
        collector.flush().unwrap();
        assert_eq!(folder.journals().unwrap().len(), 2);
        assert_eq!(collector.publish_before(Hour(1)).unwrap(), 3);
        assert_eq!(all(&folder), [row(50, "a"), row(100, "b"), row(3_599, "c")]);
        assert_eq!(collector.publish().unwrap(), 1);
        let hours: Vec<_> = folder.parts(Micros(0), Micros(i64::MAX)).unwrap().iter().map(|p| p.hour.0).collect();
        assert_eq!(hours, [0, 2]);
        assert!(folder.journals().unwrap().is_empty());
        assert_eq!(
            folder.parts(Micros(3_600_000_000), Micros(i64::MAX)).unwrap().len(),
            1,
            "nothing of the first hour ended after it"
        );
        assert_eq!(folder.parts(Micros(0), Micros(7_199_000_000)).unwrap().len(), 1, "the third hour had not begun");
    }

    #[test]
    fn what_a_crash_leaves_is_published_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        let mut dead = Collector::new(folder.clone());
        dead.add(&row(1, "x")).unwrap();
        dead.flush().unwrap();
        let mut next = Collector::new(folder.clone());
        assert_eq!(next.adopt().unwrap(), 0, "its process lives");
        let journal = folder.journals().unwrap().remove(0);
        let copy = fs::read(&journal).unwrap();
        drop(dead);
        assert_eq!((next.adopt().unwrap(), next.publish().unwrap()), (1, 1));
        // As if the process had died between publishing and removing.
        fs::write(&journal, copy).unwrap();
        assert_eq!((next.adopt().unwrap(), next.publish().unwrap()), (1, 1));
        assert_eq!(all(&folder), [row(1, "x")]);
    }

    #[test]
    fn the_reader_finds_rows_by_bloom_filter_pages_and_ranges() {
        let rows: Vec<Row> = (0..20_000).map(|n| row(n, &format!("u{n}"))).collect();
        let mut writer = ParquetWriter::<Row, _>::new(Vec::new(), LAYOUT, &[]).unwrap();
        rows.iter().for_each(|r| writer.push(r).unwrap());
        let bytes = writer.finish().unwrap();
        let mut reader = ParquetReader::<Row, _>::open(bytes::Bytes::from(bytes)).unwrap();
        let [uuid, start, port] = ["uuid", "start", "client_port"].map(Row::column);
        assert_eq!((reader.groups(), reader.rows(0), reader.bounds(0, start)), (1, 20_000, Some((0, 19_999_000_000))));
        assert!(reader.may_contain(0, uuid, &["x", "u777"]).unwrap());
        assert!((0..50).filter(|n| reader.may_contain(0, uuid, &[&format!("u{n}x")]).unwrap()).count() < 3);
        reader.load_pages(0).unwrap();
        let beginnings = |texts: &[&str]| (reader.may_begin(0, uuid, texts), reader.pages_of_text(0, uuid, texts));
        assert_eq!(beginnings(&["t", "v"]), (false, vec![]), "before the first and behind the last");
        assert_eq!(beginnings(&["u"]).1, std::slice::from_ref(&(0..20_000)));
        // The second page has u4096 to u8191, the fourth u12288 to u16383.
        assert_eq!(beginnings(&["u19"]).1.as_slice(), &[0..4_096, 8_192..12_288, 16_384..20_000]);
        let pages = reader.pages(0, start, (9_000_000_000, 9_000_000_000));
        assert_eq!(pages.as_slice(), std::slice::from_ref(&(8_192..12_288)));
        let ranges = [5..7, 9_000..9_001, 19_999..20_000];
        let mut found: Vec<Row> = (0..4).map(|_| Row::default()).collect();
        let every: Vec<usize> = (0..Row::COLUMNS.len()).collect();
        reader.fill(0, &every, &ranges, &mut found).unwrap();
        assert_eq!(found, [5, 6, 9_000, 19_999].map(|n: usize| rows[n].clone()));
        let mut ports: Vec<Row> = vec![Row::default()];
        reader.fill(0, &[port], &ranges[1..2], &mut ports).unwrap();
        assert_eq!(ports, [Row { client_port: 7, ..Row::default() }]);
    }
}
