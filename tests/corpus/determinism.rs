//! A replay gives the same files, byte by byte, from run to run and at any number of shards.

use crate::manifest::{Capture, captures};
use crate::program::{each, replay, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn a_replay_is_the_same_from_run_to_run_and_at_any_number_of_shards() {
    let Some(captures) = captures() else { return };
    let sample = sample(&captures);
    assert!((130..=220).contains(&sample.len()), "a sample of {}", sample.len());
    // Several captures a run, so that there are flows for every shard.
    let groups: Vec<&[&Path]> = sample.chunks(5).collect();
    each(&groups, |_, group| {
        for mode in [&["--stream=false"][..], &["--stream=true", "--anonymize.ip=netblock"]] {
            let mut first = None;
            for shards in ["1", "1", "2", "3", "8"] {
                let folder = tempfile::tempdir().expect("a temporary folder");
                replay(group, folder.path(), &[mode, &["--shards", shards]].concat());
                let files = tree(folder.path());
                let expected = first.get_or_insert_with(|| files.clone());
                assert!(!files.is_empty(), "{group:?}");
                assert!(files == *expected, "{group:?} {mode:?} at {shards} shards: {}", difference(expected, &files));
            }
        }
    });
}

/// Captures of every kind: a few with each trait, and all with several link types.
fn sample(captures: &[Capture]) -> Vec<&Path> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    captures
        .iter()
        .filter(|c| c.tcp > 0)
        .filter(|c| {
            let mut wanted = c.link.contains(';');
            for kind in &c.traits {
                let n = taken.entry(kind).or_default();
                wanted |= *n < 32;
                *n += 1;
            }
            wanted
        })
        .map(|c| c.path.as_path())
        .collect()
}

fn difference(a: &Tree, b: &Tree) -> String {
    let names = a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name));
    names
        .take(3)
        .map(|n| format!("{} ({:?} and {:?} bytes)", n.display(), a.get(n).map(Vec::len), b.get(n).map(Vec::len)))
        .collect()
}

type Tree = BTreeMap<PathBuf, Vec<u8>>;
