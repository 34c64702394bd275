//! Files and trees of files, checked in parallel.

use super::claims::{self, Content};
use super::packets::{Masked, Packets};
use super::{Check, Expect, HeaderOnly, Report};
use crate::analysis::Analyzer;
use crate::archive::gzip;
use crate::archive::metadata::Metadata;
use crate::archive::pcap::{self, PcapFile};
use crate::capture::file::{Damage, FileError};
use crate::key::FlowUuid;
use crate::query::archive::{Archive, ArchiveError, Silent, Watch, is_bundle, url};
use crate::query::bundle::stream;
use crate::query::parallel::{parallel, parallel_on};
use crate::query::survey::{Input, each_frame};
use crate::shard::FlowFlags;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What came of all files.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Sum {
    /// Files checked.
    pub files: u64,
    /// Packets in them.
    pub packets: u64,
    /// Files with findings.
    pub files_with_findings: u64,
    /// Findings.
    pub findings: u64,
}

/// Checks files, all capture files below folders and in bundles, and archives in object stores, with as many threads as there
/// are processors. `each` gets every report, in the order of the paths; of a bundle, in the order of its files.
///
/// # Errors
/// Fails where a path does not exist or a folder cannot be read.
pub fn verify(paths: &[PathBuf], expect: &Expect, watch: &dyn Watch, each: &mut dyn FnMut(&Report)) -> Result<Sum, ArchiveError> {
    let mut checker = Checker { expect, watch, each, sum: Sum::default() };
    for path in paths {
        if url(path).is_some() {
            checker.remote(&Archive::open(path, None)?)?;
            continue;
        }
        let mut files = Vec::new();
        let named = |source| ArchiveError::Io { path: path.display().to_string(), source };
        list(path, &mut files).map_err(named)?;
        let is_bundle = |path: &PathBuf| path.to_str().is_some_and(is_bundle);
        for run in files.chunk_by(|a, b| !is_bundle(a) && !is_bundle(b)) {
            match run {
                [bundle] if is_bundle(bundle) => checker.bundle(bundle),
                files => checker.files(files),
            }
        }
    }
    Ok(checker.sum)
}

struct Checker<'a> {
    expect: &'a Expect,
    watch: &'a dyn Watch,
    each: &'a mut dyn FnMut(&Report),
    sum: Sum,
}

impl Checker<'_> {
    fn files(&mut self, files: &[PathBuf]) {
        // In runs, so that a tree of millions of files neither waits for its end nor is held in memory as reports.
        for run in files.chunks(RUN) {
            self.tell(parallel(run, |path| verify_file(path, &Input::Path(path.clone()), self.expect)));
        }
    }

    /// Reads a bundle once, from its beginning to its end, so that its own checksums are held to as well.
    fn bundle(&mut self, bundle: &Path) {
        let mut waiting: Vec<(PathBuf, Input)> = Vec::new();
        let mut bytes = 0;
        let whole = File::open(bundle).and_then(|file| {
            stream(BufReader::with_capacity(READ, file), &mut |path, content| {
                if !is_checked(&path) {
                    return;
                }
                let name = format!("{}!{path}", bundle.display());
                bytes += content.len();
                waiting.push((name.clone().into(), Input::Bytes { name, bytes: content.into() }));
                if waiting.len() >= RUN || bytes >= READ_AHEAD {
                    self.contents(&std::mem::take(&mut waiting));
                    bytes = 0;
                }
            })
        });
        self.contents(&waiting);
        if let Err(e) = whole {
            let mut report = Report::new(bundle.to_owned());
            report.find(Check::Bundle, None, || e.to_string());
            self.tell(vec![report]);
        }
    }

    fn remote(&mut self, archive: &Archive) -> Result<(), ArchiveError> {
        archive.files(self.watch, &mut |files| {
            for run in files.chunks(archive.store().threads()) {
                self.tell(parallel_on(archive.store().threads(), run, |file| {
                    let name = archive.name(file);
                    match archive.read(file, &Silent) {
                        Ok(bytes) => {
                            let path = PathBuf::from(&name);
                            verify_file(&path, &Input::Bytes { name, bytes: bytes.into() }, self.expect)
                        }
                        Err(e) => unreadable(Path::new(&name), &e.to_string()),
                    }
                }));
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn contents(&mut self, files: &[(PathBuf, Input)]) {
        self.tell(parallel(files, |(path, input)| verify_file(path, input, self.expect)));
    }

    fn tell(&mut self, reports: Vec<Report>) {
        self.watch.files(reports.len() as u64);
        for report in reports {
            self.sum.files += 1;
            self.sum.packets += report.packets;
            self.sum.findings += report.total();
            self.sum.files_with_findings += u64::from(report.total() > 0);
            (self.each)(&report);
        }
    }
}

/// Takes a file as it is; of folders all capture files and bundles, but for hidden ones: those are not published yet.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if !fs::metadata(path)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(path).and_then(|dir| dir.collect::<Result<Vec<_>, _>>()).map_err(named)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Of what is linked, files alone: a folder could lead back to this one.
        if entry.file_type().map_err(named)?.is_dir() {
            if !name.starts_with('.') {
                list(&entry.path(), files)?;
            }
        } else if (is_checked(&name) || is_bundle(&name)) && !name.starts_with('.') && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Whether a file of a folder or bundle is one to check.
fn is_checked(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let base = name.trim_end_matches(".gz").trim_end_matches(".zst");
    !name.starts_with('.') && [".pcap", ".pcapng", ".cap"].iter().any(|suffix| base.ends_with(suffix))
}

fn unreadable(path: &Path, reason: &str) -> Report {
    let mut report = Report::new(path.to_owned());
    report.find(Check::Read, None, || reason.to_owned());
    report
}

fn verify_file(path: &Path, input: &Input, expect: &Expect) -> Report {
    let mut report = Report::new(path.to_owned());
    if input.head(2).is_ok_and(|head| head == [0x1f, 0x8b]) {
        let bytes = match input {
            Input::Path(path) => fs::read(path).map(Bytes::from),
            Input::Bytes { bytes, .. } => Ok(bytes.clone()),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(e) => return unreadable(path, &e.to_string()),
        };
        // What is larger than any archive file, or no pcap, is read as a stream.
        if let Ok(decoded) = gzip::decode(&bytes)
            && let Some(()) = archive_file(path, &decoded, expect, &mut report)
        {
            return report;
        }
    }
    capture_file(path, input, expect, &mut report);
    report
}

/// A gzip file that holds a pcap file, as archives do; `None` if it does not.
fn archive_file(path: &Path, decoded: &gzip::Decoded, expect: &Expect, report: &mut Report) -> Option<()> {
    let file = PcapFile::parse(&decoded.bytes).ok()?;
    if decoded.leftover > 0 {
        let (bytes, members) = (decoded.leftover, decoded.members);
        report.find(Check::Gzip, None, || format!("{bytes} bytes behind member {members} are no whole gzip member"));
    }
    if file.leftover > 0 {
        let bytes = file.leftover;
        report.find(Check::Pcap, None, || format!("{bytes} bytes at the end are no whole record"));
    }
    let metadata = decoded.metadata.as_ref();
    if metadata.is_some() && decoded.bytes[..pcap::FILE_HEADER_LEN] != pcap::file_header(file.link, file.snaplen) {
        let wanted = "little-endian, nanoseconds, 2.4, zeroes where nothing is";
        report.find(Check::Pcap, None, || format!("the file header is not the archive's: {wanted}"));
    }
    if metadata.is_some() && decoded.strange_headers > 0 {
        let members = decoded.strange_headers;
        report.find(Check::Gzip, None, || format!("{members} gzip headers hold what this version does not write there"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let uuid = name.strip_suffix(".pcap.gz").map(FlowUuid::parse);
    if metadata.is_some() && !matches!(uuid, Some(Ok(_))) {
        report.find(Check::Name, None, || format!("{name} is not UUID.pcap.gz"));
    }
    let headers_only = expect.headers == HeaderOnly::All || metadata.is_some() || uuid.is_some();
    let mut judge = Packets::new(expect, headers_only, stated(metadata));
    let mut analyzer = Analyzer::new(file.link);
    let mut times = None;
    for record in pcap::records(&file.records) {
        let (ts, wire_len, data) = (record.ts(), record.wire_len(), record.data());
        if data.len() > file.snaplen as usize {
            let number = report.packets + 1;
            report.find(Check::Pcap, Some(number), || format!("{} bytes at a snap length of {}", data.len(), file.snaplen));
        }
        judge.handle_packet(ts, file.link, wire_len, data, report);
        analyzer.handle_packet(ts, wire_len, data);
        let (first, _) = *times.get_or_insert((ts, ts));
        times = Some((first, ts));
    }
    let tcp = analyzer.finish();
    if let Some(metadata) = metadata {
        claims::check(metadata, &Content { packets: report.packets, times, tcp: tcp.as_ref() }, report);
        let foreign = tcp.as_ref().map_or(0, |tcp| tcp.foreign_packets);
        if foreign > 0 {
            report.find(Check::Name, None, || format!("{foreign} packets are of another connection"));
        }
    }
    Some(())
}

/// Any capture file.
fn capture_file(path: &Path, input: &Input, expect: &Expect, report: &mut Report) {
    let archived = path.as_os_str().as_encoded_bytes().ends_with(b".pcap.gz");
    let mut judge = Packets::new(expect, expect.headers == HeaderOnly::All || archived, Masked::No);
    let read = each_frame(input, |frame| judge.handle_packet(frame.ts, frame.link, frame.wire_len, frame.data, report));
    match read {
        Ok(None) => {}
        Ok(Some(damage)) => {
            let packed = matches!(
                damage,
                FileError::Truncated { unit: "compressed stream", .. } | FileError::Damaged { reason: Damage::Compressed(_), .. }
            );
            report.find(if packed { Check::Gzip } else { Check::Pcap }, None, || damage.to_string());
        }
        Err(error) => report.find(Check::Read, None, || error.to_string()),
    }
}

/// The masking that a file says it has.
fn stated(metadata: Option<&Metadata>) -> Masked {
    match metadata.map(|metadata| metadata.flags) {
        Some(flags) if flags.has(FlowFlags::REPLACED) => Masked::Replaced,
        Some(flags) if flags.has(FlowFlags::ANONYMIZED) => Masked::Cut,
        _ => Masked::No,
    }
}

/// Files checked before their reports are given out.
const RUN: usize = 4096;

/// Bytes of a bundle's files that wait for that.
const READ_AHEAD: usize = 64 << 20;

const READ: usize = 256 * 1024;
