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
use crate::query::survey::each_frame;
use crate::shard::FlowFlags;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Checks files, and all capture files below folders, with as many threads as there are processors. `each` gets every
/// report, in the order of the paths.
///
/// # Errors
/// Fails where a path does not exist or a folder cannot be read.
pub fn verify(paths: &[PathBuf], expect: &Expect, mut each: impl FnMut(&Report)) -> io::Result<Sum> {
    let mut files = Vec::new();
    for path in paths {
        list(path, &mut files)?;
    }
    let mut sum = Sum::default();
    // In runs, so that a tree of millions of files neither waits for its end nor is held in memory as reports.
    for run in files.chunks(RUN) {
        for report in verify_run(run, expect) {
            sum.files += 1;
            sum.packets += report.packets;
            sum.findings += report.total();
            sum.files_with_findings += u64::from(report.total() > 0);
            each(&report);
        }
    }
    Ok(sum)
}

fn verify_run(files: &[PathBuf], expect: &Expect) -> Vec<Report> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::with_capacity(files.len()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = verify_file(path, expect);
                    reports.lock().unwrap_or_else(|e| e.into_inner()).push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(|e| e.into_inner());
    reports.sort_by(|a, b| a.path.cmp(&b.path));
    reports
}

/// Takes a file as it is; of folders all capture files, but for hidden ones: those are not published yet.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if !fs::metadata(path).map_err(named)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(path).and_then(|dir| dir.collect::<Result<Vec<_>, _>>()).map_err(named)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let base = name.trim_end_matches(".gz").trim_end_matches(".zst");
        // Of what is linked, files alone: a folder could lead back to this one.
        if entry.file_type().map_err(named)?.is_dir() {
            list(&entry.path(), files)?;
        } else if [".pcap", ".pcapng", ".cap"].iter().any(|suffix| base.ends_with(suffix)) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn verify_file(path: &Path, expect: &Expect) -> Report {
    let mut report = Report::new(path.to_owned());
    if is_gzip(path) {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) => {
                report.find(Check::Read, None, || e.to_string());
                return report;
            }
        };
        // What is larger than any archive file, or no pcap, is read as a stream.
        if let Ok(decoded) = gzip::decode(&bytes)
            && let Some(()) = archive_file(path, &decoded, expect, &mut report)
        {
            return report;
        }
    }
    capture_file(path, expect, &mut report);
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
    if metadata.is_some() && decoded.bytes[..8] != pcap::file_header(file.link, file.snaplen)[..8] {
        report.find(Check::Pcap, None, || "the file header is not the archive's: little-endian, nanoseconds, 2.4".to_owned());
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
fn capture_file(path: &Path, expect: &Expect, report: &mut Report) {
    let archived = path.as_os_str().as_encoded_bytes().ends_with(b".pcap.gz");
    let mut judge = Packets::new(expect, expect.headers == HeaderOnly::All || archived, Masked::No);
    let read = each_frame(path, |frame| judge.handle_packet(frame.ts, frame.link, frame.wire_len, frame.data, report));
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

fn is_gzip(path: &Path) -> bool {
    let mut start = [0; 2];
    fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start)).is_ok() && start == [0x1f, 0x8b]
}

/// Files checked before their reports are given out.
const RUN: usize = 4096;
