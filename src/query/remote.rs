//! Archives and catalogues in an object store: `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, or one file by `https://`.
//!
//! Credentials and endpoints come from the environment, as the stores' own tools read them (`AWS_ACCESS_KEY_ID`,
//! `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS` and so on).

#[cfg(feature = "object-store")]
pub(super) use enabled::{open, open_catalogue};

#[cfg(not(feature = "object-store"))]
mod disabled {
    use crate::query::archive::ArchiveError;
    use crate::query::catalogue::Parts;
    use crate::query::store::Store;

    pub(in crate::query) fn open(url: &str) -> Result<(Box<dyn Store>, Option<String>), ArchiveError> {
        Err(refused(url))
    }

    pub(in crate::query) fn open_catalogue(url: &str) -> Result<Box<dyn Parts>, ArchiveError> {
        Err(refused(url))
    }

    fn refused(url: &str) -> ArchiveError {
        let reason = "this flowarc was built without object stores (build it with --features object-store)";
        ArchiveError::Store { url: url.to_owned(), reason: reason.to_owned() }
    }
}

#[cfg(not(feature = "object-store"))]
pub(super) use disabled::{open, open_catalogue};

#[cfg(feature = "object-store")]
mod enabled {
    use crate::archive::catalogue::Row;
    use crate::archive::catalogue::columns::Micros;
    use crate::archive::catalogue::folder::{Hour, Part, midnight, part};
    use crate::archive::catalogue::row::RowError;
    use crate::query::archive::{ArchiveError, Watch};
    use crate::query::bundle::Bundle;
    use crate::query::catalogue::{Parts, rows};
    use crate::query::filter::{Exact, Filter};
    use crate::query::store::{Listing, ReadAt, Section, Store};
    use bytes::Bytes;
    use object_store::aws::AmazonS3Builder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::http::HttpBuilder;
    use object_store::path::Path;
    use object_store::{ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::io;
    use std::sync::{Arc, OnceLock};
    use tokio::runtime::Runtime;

    /// Objects below a prefix.
    #[derive(Clone, Debug)]
    struct Remote {
        url: String,
        prefix: String,
        store: Arc<dyn ObjectStore>,
        runtime: &'static Runtime,
    }

    /// Opens a store; the name of the one file where the address is that of a file.
    pub(in crate::query) fn open(url: &str) -> Result<(Box<dyn Store>, Option<String>), ArchiveError> {
        let is_file = [".tgz", ".tar.gz", ".pcap", ".pcap.gz", ".pcapng"].iter().any(|suffix| url.ends_with(suffix));
        match url.rsplit_once('/').filter(|_| is_file) {
            Some((folder, file)) => Ok((Box::new(Remote::open(folder)?), Some(file.to_owned()))),
            None => Ok((Box::new(Remote::open(url)?), None)),
        }
    }

    /// Opens a catalogue that was copied to a store.
    pub(in crate::query) fn open_catalogue(url: &str) -> Result<Box<dyn Parts>, ArchiveError> {
        Ok(Box::new(Remote::open(url)?))
    }

    impl Remote {
        fn open(url: &str) -> Result<Self, ArchiveError> {
            let url = url.trim_end_matches('/').to_owned();
            let failed = |reason: String| ArchiveError::Store { url: url.clone(), reason };
            let (scheme, rest) = url.split_once("://").unwrap_or_default();
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let of = |e: object_store::Error| failed(e.to_string());
            let (store, prefix): (Arc<dyn ObjectStore>, &str) = match scheme {
                "s3" => (Arc::new(AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(of)?), prefix),
                "gs" => (Arc::new(GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).build().map_err(of)?), prefix),
                _ => {
                    let options = ClientOptions::new().with_allow_http(true);
                    (Arc::new(HttpBuilder::new().with_url(&url).with_client_options(options).build().map_err(of)?), "")
                }
            };
            let prefix = prefix.to_owned();
            let runtime = runtime().map_err(|e| failed(e.to_string()))?;
            Ok(Self { url, prefix, store, runtime })
        }

        fn path(&self, path: &str) -> Path {
            Path::from_iter([&*self.prefix, path].iter().flat_map(|p| p.split('/')).filter(|p| !p.is_empty()))
        }

        fn meta(&self, path: &str) -> io::Result<ObjectMeta> {
            self.runtime.block_on(self.store.head(&self.path(path))).map_err(io_error)
        }

        fn object(&self, path: &str) -> io::Result<(Object, ObjectMeta)> {
            let meta = self.meta(path)?;
            let remote = self.clone();
            Ok((Object { remote, path: self.path(path), len: meta.size }, meta))
        }
    }

    impl Store for Remote {
        fn list(&self, folder: &str) -> io::Result<Listing> {
            let prefix = self.path(folder);
            let found = self.runtime.block_on(self.store.list_with_delimiter(Some(&prefix))).map_err(io_error)?;
            let name = |path: &Path| path.filename().map(str::to_owned);
            Ok(Listing {
                files: found.objects.iter().filter_map(|object| name(&object.location)).collect(),
                folders: found.common_prefixes.iter().filter_map(name).collect(),
            })
        }

        fn exists(&self, path: &str) -> io::Result<bool> {
            match self.meta(path) {
                Ok(_) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(e) => Err(e),
            }
        }

        fn read(&self, path: &str) -> io::Result<Vec<u8>> {
            let read = async { self.store.get(&self.path(path)).await?.bytes().await };
            self.runtime.block_on(read).map(Vec::from).map_err(io_error)
        }

        fn row(&self, path: &str, filter: &Filter) -> Result<Option<Row>, RowError> {
            let row = Row::of_bytes(path, self.read(path)?)?;
            Ok(filter.matches(&(&row).into()).then_some(row))
        }

        fn bundle(&self, path: &str, watch: &dyn Watch) -> Result<Bundle, ArchiveError> {
            let name = Store::name(self, path);
            let (object, meta) = self.object(path).map_err(|source| ArchiveError::Io { path: name.clone(), source })?;
            let mut hasher = DefaultHasher::new();
            (meta.e_tag.as_deref(), meta.last_modified.timestamp_millis()).hash(&mut hasher);
            let stamp = [meta.size, hasher.finish()];
            Ok(Bundle::remote(name.clone(), Box::new(object), stamp, &|| watch.indexing(&name))?)
        }

        fn name(&self, path: &str) -> String {
            format!("{}/{path}", self.url)
        }

        fn threads(&self) -> usize {
            REQUESTS
        }
    }

    impl Parts for Remote {
        /// A copy of a catalogue has none: they are of hours that were not over.
        fn journals(&self) -> io::Result<Vec<(Hour, Vec<u8>)>> {
            Ok(Vec::new())
        }

        fn parts(&self, from: Micros, to: Micros) -> io::Result<Vec<Part>> {
            let mut folders = vec![(String::new(), Vec::new())];
            for digits in [4, 2, 2] {
                let mut next = Vec::new();
                for (folder, numbers) in folders {
                    for name in Store::list(self, &folder)?.folders {
                        let number = name.parse::<i64>().ok().filter(|_| name.len() == digits);
                        if let Some(number) = number {
                            next.push((format!("{folder}/{name}"), [&numbers[..], &[number]].concat()));
                        }
                    }
                }
                folders = next;
            }
            let mut parts = Vec::new();
            for (folder, numbers) in folders {
                let [year, month, day] = numbers[..] else { continue };
                let midnight = midnight(year, month, day);
                if midnight <= to {
                    let files = Store::list(self, &folder)?.files;
                    let found = files.iter().filter_map(|name| part(midnight, format!("{folder}/{name}").into()));
                    parts.extend(found.filter(|p| p.end >= from && p.hour.start() <= to));
                }
            }
            parts.sort();
            Ok(parts)
        }

        fn rows(&self, part: &Part, filter: &Filter, exact: Exact) -> parquet::errors::Result<Vec<Row>> {
            let (object, meta) = self.object(&part.path.to_string_lossy())?;
            rows(Section { file: Arc::new(object), at: 0, len: meta.size }, filter, exact)
        }

        fn name(&self) -> String {
            self.url.clone()
        }
    }

    /// An object that is read by ranges.
    #[derive(Clone, Debug)]
    struct Object {
        remote: Remote,
        path: Path,
        len: u64,
    }

    impl Object {
        fn range(&self, at: u64, len: usize) -> io::Result<Bytes> {
            let end = self.len.min(at.saturating_add(len as u64));
            if at >= end {
                return Ok(Bytes::new());
            }
            self.remote.runtime.block_on(self.remote.store.get_range(&self.path, at..end)).map_err(io_error)
        }
    }

    impl ReadAt for Object {
        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            let bytes = self.range(at, buffer.len())?;
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }

        fn request(&self) -> usize {
            REQUEST
        }
    }

    fn io_error(error: object_store::Error) -> io::Error {
        match error {
            object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
            error => io::Error::other(error),
        }
    }

    /// One runtime for all requests; readers' own threads wait for it.
    fn runtime() -> io::Result<&'static Runtime> {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(RUNTIME.get_or_init(|| runtime))
    }

    /// Requests under way at once: nearly all of a request's time is waiting.
    const REQUESTS: usize = 32;

    /// Bytes of a request where more will be wanted.
    const REQUEST: usize = 256 * 1024;
}
