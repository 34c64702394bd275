//! `flowarc show` as a user runs it: on a file, on an archive, on captures with several connections.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

#[test]
fn a_capture_of_one_connection_is_explained() {
    let text = screen(&["show", &data("closed.pcap"), "--flow=1"]);
    for part in
        ["192.0.2.10:443", "Trust", "the end is missing", "Handshake  complete", "MSS 1460 WS 7 SACK TS", "min/median/p95"]
    {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    assert!(text.lines().count() < 45 && text.lines().all(|l| l.chars().count() <= 110), "one screen:\n{text}");
}

#[test]
fn json_has_every_figure_and_the_trust() {
    let shown: Value = serde_json::from_str(&screen(&["show", &data("super-packets.pcap"), "--flow=1", "--json"])).unwrap();
    assert_eq!(shown["trust"]["verdict"], "complete");
    assert_eq!(shown["tcp"]["handshake"], "complete");
    assert_eq!(shown["tcp"]["server"]["super_packets"], 3);
    assert_eq!(shown["tcp"]["closed_by"], "client");
}

#[test]
fn a_capture_of_several_connections_lists_them_and_lets_one_be_picked() {
    let list = screen(&["show", &data("reuse.pcap")]);
    assert!(list.contains("4 connections") && list.contains("203.0.113.45:51000"), "{list}");
    let one = screen(&["show", &data("reuse.pcap"), "--flow", "198.51.100.254:40030"]);
    assert!(one.contains("not answered"), "{one}");
    for wrong in ["5", "0", "192.0.2.10:443", "192.0.2.10:444"] {
        let out = flowarc(&["show", &data("reuse.pcap"), "--flow", wrong]);
        assert_eq!(out.status.code(), Some(64), "{wrong}: {out:?}");
    }
}

#[test]
fn a_connection_of_an_archive_is_found_by_its_uuid_with_what_its_file_says() {
    let (_dir, archive, uuids) = archive("capture-window");
    let shown: Value = serde_json::from_str(&screen(&["show", &archive, &uuids[0], "--json"])).unwrap();
    assert_eq!(shown["metadata"]["end"], "capture_window");
    let text = screen(&["show", &archive, &uuids[0]]);
    assert!(text.contains("the capture duration was over") && text.contains("archived by flowarc"), "{text}");
    let out = flowarc(&["show", &archive, "nowhere"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no flow of UUID nowhere in"), "{out:?}");
    assert_eq!(flowarc(&["show", &archive]).status.code(), Some(64));
    assert_eq!(flowarc(&["show", &archive, "../x"]).status.code(), Some(64));
}

#[test]
fn a_connection_in_a_bundle_is_shown_as_in_its_folder_and_drawn() {
    let (dir, archive, uuids) = archive("reuse");
    let bundles = dir.path().join("bundles");
    std::fs::create_dir(&bundles).unwrap();
    let bundle = bundles.join("20261121T100000.tgz");
    let packed = std::process::Command::new("tar").arg("czf").arg(&bundle).arg("-C").arg(&archive).arg(".").status().unwrap();
    assert!(packed.success());
    let (bundles, bundle) = (bundles.to_str().unwrap(), bundle.to_str().unwrap());
    let figures = |target: &str, uuid: &str| {
        let mut shown: Value = serde_json::from_str(&screen(&["show", target, uuid, "--json"])).unwrap();
        let file = shown["file"].take();
        assert!(file.as_str().unwrap().contains(&format!("{}.pcap.gz", uuids[1])), "{file}");
        shown
    };
    let plain = figures(&archive, &uuids[1]);
    assert_eq!(figures(bundle, &uuids[1]), plain);
    assert_eq!(figures(bundles, &uuids[1]), plain);
    let out = flowarc(&["show", bundle, &uuids[1][..8]]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("flows begin with"), "{out:?}");
    let plot = dir.path().join("plot.svg");
    screen(&["show", bundle, &uuids[1], "--plot", plot.to_str().unwrap()]);
    assert!(std::fs::read_to_string(plot).unwrap().contains("<svg"));
    for (args, code) in [(&["show", bundle][..], 64), (&["show", bundles], 64), (&["show", bundle, "nowhere"], 1)] {
        assert_eq!(flowarc(args).status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn a_damaged_file_is_shown_by_its_uuid_and_the_newest_of_one_name_is() {
    let (_dir, archive, uuids) = archive("capture-window");
    let archive = Path::new(&archive);
    let file = archive.join("2026/11/21").join(format!("{}.pcap.gz", uuids[0]));
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 60]).unwrap();
    let text = screen(&["show", archive.to_str().unwrap(), &uuids[0]]);
    assert!(text.contains("damaged"), "{text}");
    let older = archive.join("2026/11/20");
    std::fs::create_dir_all(&older).unwrap();
    std::fs::write(older.join(file.file_name().unwrap()), &bytes).unwrap();
    let out = flowarc(&["show", archive.to_str().unwrap(), &uuids[0]]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("2 files have this name"), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("2026/11/21/"), "{out:?}");
}

#[test]
fn a_file_that_was_cut_is_shown_as_far_as_it_goes_and_said_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(data("v4.pcap")).unwrap();
    let cut = dir.path().join("cut.pcap");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let text = screen(&["show", cut.to_str().unwrap(), "--flow=1"]);
    assert!(text.contains("is truncated"), "{text}");
}

fn data(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name).display().to_string()
}

/// An archive made of a scenario, and the UUIDs in it.
fn archive(scenario: &str) -> (tempfile::TempDir, String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let out = flowarc(&[
        "headers",
        "--read",
        &data(&format!("{scenario}.pcap")),
        "--events",
        &data(&format!("{scenario}.events.jsonl")),
        "--datadir",
        archive.to_str().unwrap(),
    ]);
    assert!(out.status.success(), "{out:?}");
    let mut uuids = Vec::new();
    let mut folders: Vec<PathBuf> = vec![archive.clone()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                uuids.push(uuid(&path));
            }
        }
    }
    uuids.sort();
    (dir, archive.display().to_string(), uuids)
}

fn uuid(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().trim_end_matches(".pcap.gz").to_owned()
}

fn screen(args: &[&str]) -> String {
    let out = flowarc(args);
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn flowarc(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("flowarc")).env_clear().args(args).output().unwrap()
}
