//! An archive to read: a folder or an object store with archived files and bundles of them, one bundle, or one file.
//!
//! A file is named by its path below the archive; within a bundle by `BUNDLE!PATH`.

use super::bundle::{Bundle, BundleError};
use super::catalogue::{self, CatalogueError, Parts};
use super::filter::{Exact, Filter, is_whole};
use super::parallel::parallel_on;
use super::remote;
use super::store::{Listing, Local, Store};
use crate::archive::catalogue::folder::midnight;
use crate::archive::catalogue::row::{is_capture, uuid_of};
use crate::archive::catalogue::{Folder, Row};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// An archive.
#[derive(Debug)]
pub struct Archive {
    store: Box<dyn Store>,
    /// The one file or bundle that was named instead of a folder.
    only: Option<String>,
    catalogue: Option<Box<dyn Parts>>,
    /// The bundle that was read last: its next member is often wanted next.
    last: Mutex<Option<(String, Bundle)>>,
}

/// Takes the paths of some files, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[String]) -> Result<ControlFlow<()>, ArchiveError> + 'a;

/// What a scan tells while it goes on.
pub trait Watch {
    /// Files that were looked at.
    fn files(&self, n: u64);

    /// A file that cannot be read.
    fn unreadable(&self, file: &str, error: &dyn std::error::Error);

    /// A bundle is being read from its beginning to its end, for the first time.
    fn indexing(&self, bundle: &str);
}

/// Says nothing: for threads that read.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Watch for Silent {
    fn files(&self, _: u64) {}
    fn unreadable(&self, _: &str, _: &dyn std::error::Error) {}
    fn indexing(&self, _: &str) {}
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A folder or file.
    #[error("read {path}: {source}")]
    Io {
        /// Which one.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A path that is neither folder nor file.
    #[error("{0}: no such archive (want a folder, a .tgz bundle or a capture file)")]
    Missing(String),
    /// A file that was named is not there.
    #[error("{0}: the file is no longer in the archive (its row is still in the catalogue)")]
    Gone(String),
    /// The folder given as catalogue is none.
    #[error("{0}: no catalogue (flowarc catalog makes one)")]
    NoCatalogue(String),
    /// An object store that cannot be used.
    #[error("{url}: {reason}")]
    Store {
        /// Its address.
        url: String,
        /// Why, and what would help.
        reason: String,
    },
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl Archive {
    /// Opens a folder, a bundle or a file; `catalogue` is the catalogue's folder, or `None` to look for it beside the archive:
    /// within the archive itself, then as `ARCHIVE.catalog`.
    ///
    /// # Errors
    /// Fails where there is nothing, and where the catalogue that was named is none.
    pub fn open(path: &Path, catalogue: Option<&Path>) -> Result<Self, ArchiveError> {
        if let Some(url) = url(path) {
            let (store, only) = remote::open(url)?;
            let catalogue = catalogue.map(open_catalogue).transpose()?;
            return Ok(Self { store, only, catalogue, last: Mutex::default() });
        }
        let missing = || ArchiveError::Missing(path.display().to_string());
        let kind = fs::metadata(path).map_err(|_| missing())?;
        if kind.is_dir() {
            let found = || Folder::open(path).or_else(|| Folder::open(&beside(path))).map(|f| Box::new(f) as Box<dyn Parts>);
            let catalogue = catalogue.map(open_catalogue).transpose()?.or_else(found);
            let store = Box::new(Local { root: path.to_owned() });
            return Ok(Self { store, only: None, catalogue, last: Mutex::default() });
        }
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(missing)?;
        let root = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let store = Box::new(Local { root: root.to_owned() });
        Ok(Self { store, only: Some(name.to_owned()), catalogue: None, last: Mutex::default() })
    }

    /// The one file or bundle that was named instead of a folder.
    pub fn only(&self) -> Option<&str> {
        self.only.as_deref()
    }

    /// What messages call a file or a bundle's member.
    pub fn name(&self, file: &str) -> String {
        self.store.name(file)
    }

    /// Where its files are.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Reads it without the catalogue from here on.
    pub fn without_catalogue(self) -> Self {
        Self { catalogue: None, ..self }
    }

    /// Gives the rows of wanted flows to `sink`: from the catalogue hour by hour, else folder by folder.
    ///
    /// # Errors
    /// Fails where the archive or its catalogue cannot be read. A file that cannot be read is told to `watch` and left out.
    pub fn scan(
        &self,
        filter: &Filter,
        watch: &dyn Watch,
        sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let Some(folder) = self.catalogue.as_deref() else { return self.scan_files(filter, watch, sink) };
        if filter.uuids.is_empty() {
            return Ok(catalogue::scan(folder, filter, Exact::No, sink)?);
        }
        // Whole UUIDs first: they are what is nearly always given, and much quicker to find than beginnings. What has no row
        // may be a file whose row was lost.
        let mut missing = filter.clone();
        let mut found = BTreeSet::new();
        let mut flow = ControlFlow::Continue(());
        for exact in [Exact::Yes, Exact::No] {
            let wanted = missing.clone();
            catalogue::scan(folder, &wanted, exact, &mut |row| {
                let named =
                    wanted.uuids.iter().find(|u| if exact == Exact::Yes { **u == row.uuid } else { row.uuid.starts_with(*u) });
                if let Some(uuid) = named {
                    found.insert(uuid.clone());
                    flow = sink(row);
                }
                flow
            })?;
            missing.uuids.retain(|uuid| !found.contains(uuid));
            if missing.uuids.is_empty() || flow.is_break() {
                return Ok(());
            }
            if missing.uuids.iter().all(|uuid| is_whole(uuid)) {
                break;
            }
        }
        self.scan_files(&missing, watch, sink)
    }

    /// The files of a UUID, or of those that begin so: the newest days' first where the UUID is whole. A file of a whole UUID is
    /// found even where it cannot be read.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn locate(&self, uuid: &str, watch: &dyn Watch) -> Result<Vec<String>, ArchiveError> {
        let filter = Filter { uuids: vec![uuid.to_owned()], ..Filter::default() };
        let mut files = Vec::new();
        if let Some(folder) = self.catalogue.as_deref() {
            catalogue::scan(folder, &filter, Exact::Yes, &mut |row| {
                files.extend((row.uuid == uuid).then_some(row.file));
                ControlFlow::Continue(())
            })?;
        }
        if files.is_empty() {
            files = self.whole_uuids(&filter)?;
        }
        files.reverse();
        if files.is_empty() {
            self.scan(&filter, watch, &mut |row| {
                files.push(row.file);
                ControlFlow::Continue(())
            })?;
        }
        Ok(files)
    }

    fn scan_files(
        &self,
        filter: &Filter,
        watch: &dyn Watch,
        sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let exact = self.whole_uuids(filter)?;
        if !exact.is_empty() {
            return self.scan_list(&exact, filter, watch, sink).map(|_| ());
        }
        self.walk(filter, &mut |folder| self.scan_list(folder, filter, watch, sink))
    }

    /// The paths of the files that a filter names by their whole UUIDs, where each day's folder can be asked for the name.
    fn whole_uuids(&self, filter: &Filter) -> Result<Vec<String>, ArchiveError> {
        let mut found = Vec::new();
        if self.only.is_some() || filter.uuids.is_empty() {
            return Ok(found);
        }
        for day in self.days()? {
            for uuid in filter.uuids.iter().filter(|u| !u.contains('/')) {
                let path = format!("{day}/{uuid}.pcap.gz");
                if self.store.exists(&path).map_err(|e| self.failed(&path, e))? {
                    found.push(path);
                }
            }
        }
        let all = filter.uuids.iter().all(|u| found.iter().any(|path| uuid_of(path) == u));
        Ok(if all { found } else { Vec::new() })
    }

    /// Gives the wanted files of each folder to `visit`, in order.
    ///
    /// # Errors
    /// Fails where a folder cannot be read, and as `visit`.
    pub fn walk(&self, filter: &Filter, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
        if let Some(only) = &self.only {
            return visit(std::slice::from_ref(only)).map(|_| ());
        }
        self.walk_folder("", filter, visit).map(|_| ())
    }

    fn walk_folder(&self, folder: &str, filter: &Filter, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, ArchiveError> {
        let Listing { files, folders } = self.store.list(folder).map_err(|e| self.failed(folder, e))?;
        let path = |name: &String| if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let wanted = |name: &&String| is_bundle(name) || is_capture(name) && filter.wants_uuid(uuid_of(name));
        let mut files: Vec<String> = files.iter().filter(wanted).map(path).collect();
        let mut folders: Vec<String> = folders.iter().filter(|name| !name.starts_with('.')).map(path).collect();
        files.sort();
        folders.sort();
        if !files.is_empty() && visit(&files)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        for folder in folders {
            if begins_before(&folder, filter) && self.walk_folder(&folder, filter, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scan_list(
        &self,
        files: &[String],
        filter: &Filter,
        watch: &dyn Watch,
        sink: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ArchiveError> {
        let (bundles, files): (Vec<&String>, Vec<&String>) = files.iter().partition(|f| is_bundle(f));
        for chunk in files.chunks(CHUNK * self.store.threads()) {
            let rows = parallel_on(self.store.threads(), chunk, |file| self.store.row(file, filter));
            let mut found = Vec::new();
            for (file, row) in chunk.iter().zip(rows) {
                match row {
                    Ok(row) => found.extend(row),
                    Err(error) => watch.unreadable(file, &error),
                }
            }
            watch.files(chunk.len() as u64);
            found.sort_by(|a: &Row, b| (a.start, &a.file).cmp(&(b.start, &b.file)));
            if found.into_iter().try_for_each(&mut *sink).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for name in bundles {
            let mut rows = self.in_bundle(name, watch, |bundle| bundle.rows(filter))?;
            rows.sort_by(|a, b| (a.start, &a.file).cmp(&(b.start, &b.file)));
            for row in rows {
                if sink(Row { file: format!("{name}!{}", row.file), ..row }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// Fails where it is gone or cannot be read.
    pub fn read(&self, file: &str, watch: &dyn Watch) -> Result<Vec<u8>, ArchiveError> {
        if let Some((bundle, member)) = file.split_once('!') {
            let found = self.in_bundle(bundle, watch, |bundle| bundle.read(member))?;
            return found.ok_or_else(|| ArchiveError::Gone(file.to_owned()));
        }
        self.store.read(file).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ArchiveError::Gone(file.to_owned()),
            _ => self.failed(file, source),
        })
    }

    /// Gives the files of each folder and each bundle to `visit`, in order.
    ///
    /// # Errors
    /// Fails where a folder or bundle cannot be read, and as `visit`.
    pub fn files(&self, watch: &dyn Watch, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
        self.walk(&Filter::default(), &mut |files| {
            let (bundles, files): (Vec<String>, Vec<String>) = files.iter().cloned().partition(|f| is_bundle(f));
            if !files.is_empty() && visit(&files)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            for name in bundles {
                let members = self.in_bundle(&name, watch, |bundle| bundle.members())?;
                let members: Vec<String> = members.into_iter().map(|member| format!("{name}!{member}")).collect();
                if visit(&members)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn in_bundle<R>(
        &self,
        name: &str,
        watch: &dyn Watch,
        work: impl FnOnce(&mut Bundle) -> Result<R, BundleError>,
    ) -> Result<R, ArchiveError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, bundle) = match last.take() {
            Some(open) if open.0 == name => last.insert(open),
            _ => last.insert((name.to_owned(), self.store.bundle(name, watch)?)),
        };
        Ok(work(bundle)?)
    }

    /// The folders `YYYY/MM/DD`, in order.
    fn days(&self) -> Result<Vec<String>, ArchiveError> {
        let mut found = vec![String::new()];
        for digits in [4, 2, 2] {
            let mut next = Vec::new();
            for folder in found {
                let Listing { folders, .. } = self.store.list(&folder).map_err(|e| self.failed(&folder, e))?;
                for name in folders.into_iter().filter(|n| n.len() == digits && n.bytes().all(|b| b.is_ascii_digit())) {
                    next.push(if folder.is_empty() { name } else { format!("{folder}/{name}") });
                }
            }
            next.sort();
            found = next;
        }
        Ok(found)
    }

    fn failed(&self, path: &str, source: io::Error) -> ArchiveError {
        ArchiveError::Io { path: self.store.name(path), source }
    }
}

/// Where an archive's catalogue is looked for and made where nobody says: `ARCHIVE.catalog`.
pub fn beside(archive: &Path) -> PathBuf {
    let archive = archive.canonicalize().unwrap_or_else(|_| archive.to_owned());
    let mut name = archive.file_name().unwrap_or_default().to_owned();
    name.push(".catalog");
    archive.with_file_name(name)
}

/// Whether a file is a bundle of archived files.
pub fn is_bundle(name: &str) -> bool {
    name.ends_with(".tgz") || name.ends_with(".tar.gz")
}

/// A path that is the address of an object store.
pub fn url(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| ["s3://", "gs://", "https://", "http://"].iter().any(|scheme| text.starts_with(scheme)))
}

fn open_catalogue(dir: &Path) -> Result<Box<dyn Parts>, ArchiveError> {
    if let Some(url) = url(dir) {
        return remote::open_catalogue(url);
    }
    let folder = Folder::open(dir).ok_or_else(|| ArchiveError::NoCatalogue(dir.display().to_string()))?;
    Ok(Box::new(folder))
}

/// Whether flows of a folder can have started before the filter's end: a folder of a day has that day's flows, in the time
/// zone of who announced them.
fn begins_before(folder: &str, filter: &Filter) -> bool {
    let mut parts = folder.split('/').map(|p| p.parse::<i64>().ok());
    let (Some(until), Some(Some(year)), month, day) = (filter.until, parts.next(), parts.next(), parts.next()) else {
        return true;
    };
    let (month, day) = (month.flatten().unwrap_or(1), day.flatten().unwrap_or(1));
    !(1_970..=9_999).contains(&year) || midnight(year, month, day).0.saturating_sub(DAY) < until.0
}

/// Files that one core reads between two looks at the results.
const CHUNK: usize = 256;

/// Microseconds; no time zone is further from UTC.
const DAY: i64 = 86_400_000_000;
