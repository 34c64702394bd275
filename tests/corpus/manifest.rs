//! The corpus of real captures and its manifest, which another program has made.

use std::path::{Path, PathBuf};

/// A file of the corpus and what the manifest says of it.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    /// Repository and path: how the tests name it.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The names of its link types, joined by semicolons.
    pub(crate) link: String,
    pub(crate) frames: u64,
    pub(crate) tcp: u64,
    /// What it is a sample of: `ts_backwards` and the like, those that are not zero.
    pub(crate) traits: Vec<&'static str>,
}

/// Every file of the corpus; `None`, and a line that says so, where there is no corpus: a fresh clone has none.
pub(crate) fn captures() -> Option<Vec<Capture>> {
    let corpus = std::env::var_os("FLOWARC_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from);
    let Ok(manifest) = std::fs::read_to_string(corpus.join("manifest.csv")) else {
        eprintln!("SKIPPED: no corpus at {} (set FLOWARC_CORPUS to where its manifest.csv is)", corpus.display());
        return None;
    };
    let mut lines = manifest.lines();
    let header: Vec<&str> = lines.next().expect("the manifest has a header").split(',').collect();
    let column = |name| header.iter().position(|&column| column == name).expect("the manifest has the column");
    let [repo, path, link, frames, tcp] = ["repo", "path", "link", "packets", "tcp_packets"].map(column);
    let traits = TRAITS.map(|name| (name, column(name)));
    let captures: Vec<Capture> = lines
        .map(|line| {
            let row: Vec<&str> = line.split(',').collect();
            let number = |column: usize| row[column].parse().expect("a count of the manifest is a number");
            let name = format!("{}/{}", row[repo], row[path]);
            Capture {
                path: corpus.join(&name),
                name,
                link: row[link].to_owned(),
                frames: number(frames),
                tcp: number(tcp),
                traits: traits.iter().filter(|(_, column)| number(*column) > 0).map(|(name, _)| *name).collect(),
            }
        })
        .collect();
    assert!(captures.len() >= 1_900, "the manifest lists only {} files", captures.len());
    Some(captures)
}

const TRAITS: [&str; 12] = [
    "ipv6",
    "vlan",
    "qinq",
    "frags",
    "v6ext",
    "v4opt",
    "snapped",
    "ts_backwards",
    "ip_short",
    "tcp_short",
    "syns",
    "tcp_packets",
];
