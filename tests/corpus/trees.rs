//! What the program archives of every capture, judged by programs that share no code with it.

use crate::manifest::{Capture, captures};
use crate::memory;
use crate::program::{each, replay, tree};
use flowarc::archive::file::ArchiveFile;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use tempfile::TempDir;

#[test]
fn with_netblock_no_file_holds_payload_or_an_address_that_can_be_had_back() {
    let Some(captures) = captures() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unlike = Mutex::new(Vec::new());
    // A run for each capture that has something to archive, so that none can hide what another does.
    each(&captures, |i, capture| {
        let bytes = std::fs::read(&capture.path).expect("the manifest lists files that are there");
        let expected = memory::replay(bytes, memory::Setup::number(0b0100_0001));
        if expected.archived == 0 {
            return;
        }
        let data = folder.path().join(i.to_string());
        let whole = replay(&[&capture.path], &data, &["--anonymize.ip=netblock", "--maxheadersize=0"]);
        let joined = JOINED.iter().find(|(path, _)| capture.name.ends_with(path)).map_or(0, |(_, packets)| *packets);
        let found = packets(&data) + joined;
        if (whole, found) != (expected.whole, expected.archived) {
            let counted = (expected.whole, expected.archived);
            unlike.lock().expect("no job panicked").push(format!("{}: {:?}, not {counted:?}", capture.name, (whole, found)));
        }
    });
    let unlike = unlike.into_inner().expect("no job panicked");
    assert!(unlike.is_empty(), "captures that the shard counts otherwise than their files do:\n{}", unlike.join("\n"));
    check(folder.path(), &["--anonymized"]);
}

#[test]
fn without_masking_and_with_the_captures_link_types_files_hold_nothing_but_headers() {
    let Some(captures) = captures() else { return };
    for flags in [&[][..], &["--keep-linktype"], &["--keep-linktype", "--anonymize.ip=netblock"], &["--stream"]] {
        let folder = archived(&captures, flags);
        let masked = flags.contains(&"--anonymize.ip=netblock");
        check(folder.path(), if masked { &["--anonymized"] } else { &[] });
    }
}

#[test]
fn tshark_reads_the_files_and_counts_their_packets() {
    let Some(captures) = captures() else { return };
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no tshark");
        return;
    }
    // Captures of all kinds, and the longest.
    let mut captures = captures;
    captures.sort_by_key(|c| c.tcp);
    let captures: Vec<_> = captures.into_iter().rev().enumerate().filter(|(i, _)| *i < 5 || i % 8 == 0).map(|(_, c)| c).collect();
    let mut files = Vec::new();
    let folders = [archived(&captures, &["--keep-linktype"]), archived(&captures, &["--stream", "--anonymize.ip=netblock"])];
    for folder in &folders {
        let archive = tree(folder.path()).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "gz"));
        let mut paths: Vec<_> = archive.map(|(path, content)| (content.len(), folder.path().join(path))).collect();
        paths.sort();
        // The largest, which have several gzip members, and some of all sizes.
        files.extend(paths.iter().rev().take(5).cloned());
        files.extend(paths.iter().step_by(paths.len() / 15).take(15).cloned());
    }
    assert_eq!(files.len(), 40);
    each(&files, |_, (_, path)| {
        let output = Command::new("tshark").args(["-n", "-T", "fields", "-e", "frame.number", "-r"]).arg(path).output();
        let output = output.expect("tshark starts");
        let complaints = String::from_utf8_lossy(&output.stderr).replace(AS_ROOT, "");
        assert!(output.status.success() && complaints.trim().is_empty(), "{}: {complaints}", path.display());
        let counted = output.stdout.iter().filter(|&&b| b == b'\n').count() as u64;
        let content = std::fs::read(path).expect("the file is there");
        assert_eq!(counted, ArchiveFile::parse(&content).expect("an archive file").packets(), "{}", path.display());
    });
}

/// All captures, replayed in runs of many: flows of different captures meet in one process.
fn archived(captures: &[Capture], flags: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths: Vec<&Path> = captures.iter().map(|c| c.path.as_path()).collect();
    let groups: Vec<&[&Path]> = paths.chunks(100).collect();
    each(&groups, |i, group| {
        replay(group, &folder.path().join(i.to_string()), &[&["--shards=2"], flags].concat());
    });
    folder
}

/// Runs the independent checker over a folder, and the program's own, which must come to the same.
fn check(folder: &Path, flags: &[&str]) {
    let masking: &[&str] = if flags.contains(&"--anonymized") { &["--anonymize.ip=netblock"] } else { &[] };
    let own = Command::new(assert_cmd::cargo::cargo_bin!("flowarc")).arg("verify").arg(folder).args(masking).output();
    let own = own.expect("flowarc starts");
    assert!(own.status.success(), "verify:\n{}", String::from_utf8_lossy(&own.stdout));
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/check_archive.py");
    let output = Command::new("python3").arg(checker).args(flags).arg("--json").arg(folder).output().expect("python3 starts");
    let report = String::from_utf8_lossy(&output.stdout);
    let shown: Vec<&str> = report.lines().rev().take(20).collect();
    assert!(output.status.success(), "{flags:?}:\n{}\n{}", shown.join("\n"), String::from_utf8_lossy(&output.stderr));
    eprintln!("{flags:?}: {}", shown[0]);
}

/// Packets in all archive files of a folder.
fn packets(folder: &Path) -> u64 {
    if !folder.exists() {
        return 0;
    }
    tree(folder).values().map(|content| ArchiveFile::parse(content).expect("an archive file").packets()).sum()
}

/// Captures of two flows that begin with the same packet at the same time, once the clock was set back in between (packets
/// that differ in a masked hardware address are the same too): they have one name, and their file holds that packet once. With how
/// many packets are missing therefore.
const JOINED: [(&str, u64); 3] =
    [("tcpdump/tests/kday3.pcap", 1), ("tcpdump/tests/kday4.pcap", 1), ("tcpdump/tests/kday7.pcap", 1)];

/// What tshark says where the tests run as root.
const AS_ROOT: &str = "Running as user \"root\" and group \"root\". This could be dangerous.";
