use super::*;
use crate::archive::tcp_info::FinalTcpInfo;
use crate::archive::testing::{BUFFERED, Bench, STREAM, finish, name, record, segment};
use crate::identity::kernel::{LastWord, TcpInfo};
use crate::shard::EndReason;
use proptest::prelude::*;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn writer(bench: &Bench, config: ArchiveConfig) -> Writer {
    Writer::new(config, Arc::clone(&bench.tree), Arc::clone(&bench.ledger), bench.metrics.clone(), Arc::default())
}

fn run(bench: &Bench, config: ArchiveConfig, ops: impl IntoIterator<Item = ArchiveOp>) -> Vec<Outcome> {
    let mut writer = writer(bench, config);
    let now = Instant::now();
    ops.into_iter().for_each(|op| writer.handle_op(op, now));
    std::iter::from_fn(|| writer.poll_outcome()).map(|(_, outcome)| outcome).collect()
}

fn content(bench: &Bench, uuid: &str) -> ArchiveFile {
    let file = ArchiveFile::parse(&fs::read(bench.tree.final_path(&name(uuid))).unwrap()).unwrap();
    assert!(file.whole);
    file
}

fn flags(bench: &Bench, uuid: &str) -> FlowFlags {
    content(bench, uuid).metadata.unwrap().flags
}

#[test]
fn a_short_flow_is_one_member_with_its_metadata() {
    let bench = Bench::new();
    let outcomes = run(&bench, BUFFERED, [finish(&bench, 1, &["x"], &[(5, b"a"), (6, b"b")])]);
    let path = bench.tree.final_path(&name("x"));
    let len = fs::metadata(&path).unwrap().len();
    assert!(matches!(&outcomes[..], [Outcome::Saved { name: n, bytes, merged: false }] if *n == name("x") && *bytes == len));
    assert_eq!(bench.files(), std::slice::from_ref(&path));
    assert_eq!(gzip::decode(&fs::read(path).unwrap()).unwrap().members, 1);
    let file = content(&bench, "x");
    assert_eq!(file.records, [record(5, b"a"), record(6, b"b")].concat());
    let metadata = file.metadata.unwrap();
    assert_eq!((metadata.end, metadata.packets_kept, metadata.first.as_nanos()), (Some(EndReason::Fin), 2, 5));
}

#[test]
fn segments_become_members_in_both_modes() {
    for config in [BUFFERED, STREAM] {
        let bench = Bench::new();
        let ops = [
            segment(&bench, 1, None, &[(1, b"a")]),
            segment(&bench, 1, Some("x"), &[(2, b"b")]),
            segment(&bench, 1, Some("x"), &[(3, b"c")]),
            finish(&bench, 1, &["x"], &[(4, b"d")]),
        ];
        assert!(matches!(run(&bench, config, ops)[..], [Outcome::Saved { .. }]));
        let path = bench.tree.final_path(&name("x"));
        assert_eq!(bench.files(), std::slice::from_ref(&path));
        assert_eq!(gzip::decode(&fs::read(path).unwrap()).unwrap().members, 4);
        let file = content(&bench, "x");
        assert_eq!(file.records, [record(1, b"a"), record(2, b"b"), record(3, b"c"), record(4, b"d")].concat());
        assert_eq!(file.metadata.unwrap().end, Some(EndReason::Fin));
    }
}

#[test]
fn the_kernels_last_word_is_in_the_file_however_it_was_written() {
    let word =
        LastWord { cookie: 0x1a2b, tcp_info: TcpInfo { rtt: 130, min_rtt: u32::MAX, bytes_acked: 7, ..TcpInfo::default() } };
    for (config, told, disordered) in [BUFFERED, STREAM]
        .into_iter()
        .flat_map(|config| [(config, true, false), (config, true, true), (config, false, false), (config, false, true)])
    {
        let bench = Bench::new();
        let mut ops =
            [segment(&bench, 1, Some("x"), &[(2, b"a")]), finish(&bench, 1, &["x"], &[(if disordered { 1 } else { 3 }, b"b")])];
        if let (ArchiveOp::Finish { summary, .. }, true) = (&mut ops[1], told) {
            summary.last_word = Some(Arc::new(word.clone()));
        }
        run(&bench, ArchiveConfig { tcp_info: true, ..config }, ops);
        let file = content(&bench, "x");
        assert_eq!(file.packets(), 2);
        let metadata = file.metadata.unwrap();
        assert_eq!(metadata.end, Some(EndReason::Fin));
        let expected = FinalTcpInfo { cookie: 0x1a2b, rtt: 130, bytes_acked: 7, ..FinalTcpInfo::default() };
        assert_eq!(metadata.tcp_info, told.then_some(expected), "{config:?}, disordered: {disordered}");
    }
}

#[test]
fn a_streamed_flow_holds_no_memory_once_it_has_a_name() {
    let bench = Bench::new();
    let mut writer = writer(&bench, STREAM);
    writer.handle_op(segment(&bench, 1, None, &[(1, &[0; 1000])]), Instant::now());
    assert!((1..200).contains(&bench.ledger.held()), "compressed, still charged");
    writer.handle_op(segment(&bench, 1, Some("x"), &[(2, b"b")]), Instant::now());
    assert_eq!(bench.ledger.held(), 0);
    assert_eq!(bench.files().len(), 1);
    writer.handle_op(ArchiveOp::Discard { flow: FlowSerial(1) }, Instant::now());
    assert!(bench.files().is_empty(), "a discarded flow leaves no temporary file");
}

#[test]
fn packets_out_of_order_are_sorted_within_and_across_segments() {
    for config in [BUFFERED, STREAM] {
        let bench = Bench::new();
        let ops = [
            segment(&bench, 1, Some("within"), &[(2, b"b"), (1, b"a")]),
            finish(&bench, 1, &["within"], &[(3, b"c")]),
            segment(&bench, 2, Some("across"), &[(1, b"a"), (3, b"c")]),
            finish(&bench, 2, &["across"], &[(2, b"b")]),
            finish(&bench, 3, &["sorted"], &[(1, b"a"), (2, b"b"), (3, b"c")]),
        ];
        assert_eq!(run(&bench, config, ops).len(), 3);
        for uuid in ["within", "across", "sorted"] {
            assert_eq!(content(&bench, uuid).records, [record(1, b"a"), record(2, b"b"), record(3, b"c")].concat());
            assert_eq!(flags(&bench, uuid).has(FlowFlags::SORTED), uuid != "sorted", "{uuid}");
        }
        assert_eq!(bench.files().len(), 3);
    }
}

#[test]
fn two_names_are_one_file() {
    for config in [BUFFERED, STREAM] {
        let bench = Bench::new();
        let ops = [segment(&bench, 1, Some("x"), &[(1, b"a")]), finish(&bench, 1, &["x", "y"], &[(2, b"b")])];
        assert!(matches!(run(&bench, config, ops)[..], [Outcome::Saved { .. }]));
        let inodes: HashSet<u64> = bench.files().iter().map(|p| fs::metadata(p).unwrap().ino()).collect();
        assert_eq!((bench.files().len(), inodes.len()), (2, 1));
    }
}

#[test]
fn the_same_name_again_is_merged() {
    for config in [BUFFERED, STREAM] {
        let bench = Bench::new();
        let ops = [
            finish(&bench, 1, &["x"], &[(1, b"a"), (2, b"b")]),
            segment(&bench, 2, Some("x"), &[(2, b"b")]),
            finish(&bench, 2, &["x"], &[(3, b"c")]),
        ];
        assert!(matches!(
            run(&bench, config, ops)[..],
            [Outcome::Saved { merged: false, .. }, Outcome::Saved { merged: true, .. }]
        ));
        assert_eq!(content(&bench, "x").records, [record(1, b"a"), record(2, b"b"), record(3, b"c")].concat());
        assert!(flags(&bench, "x").has(FlowFlags::MERGED));
        assert_eq!(bench.files().len(), 1);
    }
}

#[test]
fn a_refused_file_waits_on_the_ledger_and_appears_when_the_disk_takes_it() {
    for config in [BUFFERED, STREAM] {
        let bench = Bench::new();
        let mut writer = writer(&bench, config);
        let obstacle = bench.tree.data().join("2026");
        fs::write(&obstacle, "a file in the folder's place").unwrap();
        let start = Instant::now();
        writer.handle_op(finish(&bench, 1, &["x"], &[(1, b"a")]), start);
        assert!(writer.poll_outcome().is_none() && !writer.health.ok());
        assert!(bench.ledger.held() > 0);
        let mut due = start;
        for _ in 0..8 {
            due = writer.next_attempt().unwrap();
            writer.advance(due);
        }
        assert_eq!(writer.next_attempt().unwrap() - due, LONGEST_DELAY);
        fs::remove_file(obstacle).unwrap();
        writer.advance(writer.next_attempt().unwrap());
        assert!(matches!(writer.poll_outcome(), Some((FlowSerial(1), Outcome::Saved { .. }))));
        assert!(writer.health.ok() && writer.next_attempt().is_none());
        assert_eq!(bench.metrics.retries.with_label_values(&["mkdir"]).get(), 9);
        assert_eq!(bench.files(), [bench.tree.final_path(&name("x"))]);
    }
}

#[test]
fn files_that_wait_are_tried_one_at_a_time() {
    let bench = Bench::new();
    fs::write(bench.tree.data().join("2026"), "a file in the folder's place").unwrap();
    let mut writer = writer(&bench, BUFFERED);
    let now = Instant::now();
    for flow in 0..3 {
        writer.handle_op(finish(&bench, flow, &[&format!("f{flow}")], &[(1, b"a")]), now);
    }
    fs::remove_file(bench.tree.data().join("2026")).unwrap();
    assert!(!writer.advance(now), "none is due yet");
    writer.stop_waiting();
    for files in 1..=3 {
        assert!(writer.advance(now));
        assert_eq!(bench.files().len(), files);
    }
    assert!(!writer.advance(now));
}

#[test]
fn over_the_budget_a_refused_file_is_given_up() {
    let bench = Bench::new();
    let mut writer = writer(&bench, BUFFERED);
    fs::write(bench.tree.data().join("2026"), "a file in the folder's place").unwrap();
    let rest_of_the_budget = bench.ledger.charge(1 << 20);
    writer.handle_op(finish(&bench, 1, &["x"], &[(1, b"a")]), Instant::now());
    assert!(matches!(writer.poll_outcome(), Some((_, Outcome::GivenUp(Refusal { stage: Stage::Mkdir, .. })))));
    assert!(writer.health.ok(), "nothing waits for the disk any more");
    assert_eq!(bench.ledger.held(), 1 << 20);
    assert_eq!(bench.metrics.predecessor.saver_states.with_label_values(&["writefinal"]).get(), 0);
    drop(rest_of_the_budget);
}

#[test]
fn a_streamed_file_that_vanishes_costs_only_what_was_in_it() {
    let bench = Bench::new();
    let mut writer = writer(&bench, STREAM);
    writer.handle_op(segment(&bench, 1, Some("x"), &[(1, b"a")]), Instant::now());
    fs::remove_dir_all(bench.tree.temp()).unwrap();
    writer.handle_op(segment(&bench, 1, Some("x"), &[(2, b"b")]), Instant::now());
    writer.handle_op(finish(&bench, 1, &["x"], &[(3, b"c")]), Instant::now());
    assert!(matches!(writer.poll_outcome(), Some((_, Outcome::Saved { .. }))));
    assert_eq!(content(&bench, "x").records, [record(2, b"b"), record(3, b"c")].concat());
    assert!(flags(&bench, "x").has(FlowFlags::TRUNCATED));
    assert_eq!(bench.metrics.lost_packets.get(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_segments_become_a_file_of_the_same_packets_in_order(
        segments in proptest::collection::vec(proptest::collection::vec((0u64..50, any::<[u8; 3]>()), 0..6), 1..6),
        streamed: bool,
        named_from in 0usize..6,
    ) {
        let bench = Bench::new();
        let config = if streamed { STREAM } else { BUFFERED };
        let mut writer = writer(&bench, config);
        let mut expected: Vec<(u64, &[u8])> = Vec::new();
        for (i, packets) in segments.iter().enumerate() {
            let packets: Vec<(u64, &[u8])> = packets.iter().map(|(ts, data)| (*ts, &data[..])).collect();
            expected.extend(&packets);
            let op = if i + 1 < segments.len() {
                segment(&bench, 1, (i >= named_from).then_some("x"), &packets)
            } else {
                finish(&bench, 1, &["x"], &packets)
            };
            writer.handle_op(op, Instant::now());
        }
        let in_order = expected.is_sorted_by_key(|(ts, _)| *ts);
        expected.sort_by_key(|(ts, _)| *ts);
        let expected: Vec<u8> = expected.iter().flat_map(|(ts, data)| record(*ts, data)).collect();
        prop_assert_eq!(content(&bench, "x").records, expected);
        prop_assert_eq!(flags(&bench, "x").has(FlowFlags::SORTED), !in_order);
        prop_assert_eq!(bench.files().len(), 1);
    }
}

/// Mounts a tmpfs for one test, and unmounts it.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "flowarc-test"]).arg(dir.path()).output();
        if mounted.is_ok_and(|o| o.status.success()) {
            return Some(Self(dir));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI promised the capability to mount");
        eprintln!("SKIPPED: cannot mount a tmpfs");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 1u64;
    let mut step = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 56) as u8
    };
    (0..len).map(|_| step()).collect()
}

#[test]
fn files_that_a_full_disk_refuses_appear_when_there_is_room() {
    for config in [BUFFERED, STREAM] {
        let Some(disk) = Tmpfs::mount("size=256k") else { return };
        let bench = Bench::within(disk.0.path());
        let mut writer = writer(&bench, config);
        let data = noise(60_000);
        let ballast = disk.0.path().join("ballast");
        fs::write(&ballast, noise(150_000)).unwrap();
        for i in 0..4 {
            writer.handle_op(segment(&bench, 1, Some("x"), &[(2 * i, &data)]), Instant::now());
        }
        writer.handle_op(finish(&bench, 1, &["x"], &[(9, b"end")]), Instant::now());
        assert!(writer.poll_outcome().is_none(), "it waits");
        assert!(!writer.health.ok() && bench.ledger.held() > 0);
        assert!(!bench.tree.final_path(&name("x")).exists(), "no partial file");
        fs::remove_file(&ballast).unwrap();
        disk.remount("size=1m");
        writer.advance(writer.next_attempt().unwrap());
        assert!(matches!(writer.poll_outcome(), Some((_, Outcome::Saved { .. }))));
        assert_eq!(content(&bench, "x").packets(), 5);
        assert_eq!(bench.files(), [bench.tree.final_path(&name("x"))]);
    }
}

#[test]
fn a_disk_that_turns_read_only_gives_nothing_up_while_memory_lasts() {
    let Some(disk) = Tmpfs::mount("size=1m") else { return };
    let bench = Bench::within(disk.0.path());
    let mut writer = writer(&bench, BUFFERED);
    disk.remount("ro");
    for flow in 0..3 {
        writer.handle_op(finish(&bench, flow, &[&format!("f{flow}")], &[(1, b"a")]), Instant::now());
    }
    assert_eq!(bench.metrics.waiting.get(), 3);
    disk.remount("rw");
    let later = Instant::now() + LONGEST_DELAY;
    while writer.advance(later) {}
    assert_eq!(std::iter::from_fn(|| writer.poll_outcome()).count(), 3);
    assert_eq!(bench.files().len(), 3);
}
