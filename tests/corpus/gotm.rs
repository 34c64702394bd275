//! The cutoff of every plain capture, beside gotm's as an oracle has it, which names the rule behind each difference.

use crate::manifest::captures;
use flowarc::capture::file::FileSource;
use flowarc::capture::{PacketSource, Progress};
use flowarc::spool::cutoff::{Cutoff, CutoffConfig, Limits, Scope, Verdict};
use flowarc::time::Timeline;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn what_is_kept_differs_from_gotm_only_where_a_rule_says_so() {
    let Some(captures) = captures() else { return };
    for (bytes, packets) in [(8192, 100), (65_536, 1000)] {
        let paths: String = captures.iter().map(|c| format!("{}\n", c.path.display())).collect();
        let (mut files, mut reasons) = (0, BTreeMap::<char, u64>::new());
        for line in oracle(bytes, packets, &paths).lines() {
            let [path, kept, why] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            files += 1;
            let ours = kept_of(Path::new(path), bytes, packets);
            assert_eq!(ours.len(), why.len(), "{path}");
            for (n, ((ours, judged), why)) in ours.chars().zip(kept.chars()).zip(why.chars()).enumerate() {
                assert!(why == '.' || ours == judged, "{path}: frame {n}: {ours} for {judged}");
                *reasons.entry(why).or_default() += 1;
            }
        }
        println!("{bytes} bytes, {packets} packets: {files} files, {reasons:?}");
        assert!(files > 1000 && reasons[&'='] > 20_000, "{files} files, {reasons:?}");
    }
}

/// A letter for each frame, as the oracle has them.
fn kept_of(path: &Path, bytes: u64, packets: u64) -> String {
    let mut cutoff = Cutoff::new(CutoffConfig {
        limits: Limits { bytes: Some(bytes), packets: Some(packets) },
        scope: Scope::Direction,
        classes: Vec::new(),
        keep_ends: false,
        tail: 0,
        idle: Duration::from_secs(3600),
        flows: 1 << 20,
        large: None,
        report: false,
    });
    let (mut timeline, mut kept) = (Timeline::new(), String::new());
    let mut source = FileSource::open(path).expect("the oracle reads it");
    while let Progress::Frames(_) = source
        .next_batch(&mut |frame| {
            let (_, verdict) = cutoff.handle_frame(&frame, timeline.observe(frame.ts));
            kept.push(if verdict == Verdict::Kept { 'K' } else { '-' });
        })
        .expect("the oracle reads it")
    {}
    kept
}

fn oracle(bytes: u64, packets: u64, paths: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gotm_oracle.py");
    let mut command = Command::new("python3");
    command.args([script, &bytes.to_string(), &packets.to_string(), "3600"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    let (mut stdin, paths) = (child.stdin.take().expect("it is piped"), paths.to_owned());
    let feeder = std::thread::spawn(move || stdin.write_all(paths.as_bytes()));
    let out = child.wait_with_output().expect("it was started above");
    feeder.join().expect("it does not panic").expect("the oracle reads all names");
    assert!(out.status.success());
    String::from_utf8(out.stdout).expect("names of the corpus are text")
}
