//! The frames of every file of the corpus of real captures, counted against its manifest.

use crate::manifest::captures;
use flowarc::capture::file::{FileError, FileSource};
use flowarc::capture::{LinkType, PacketSource, Progress};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_capture_of_the_corpus_gives_the_frames_of_the_manifest() {
    let Some(captures) = captures() else { return };
    let mut differences = Vec::new();
    for capture in &captures {
        let listed = Outcome {
            frames: capture.frames,
            links: capture.link.split(';').filter(|name| !name.is_empty()).map(|name| link_type(name).number()).collect(),
            end: End::Clean,
        };
        let (expected, reason) = match DIFFERENCES.iter().find(|difference| capture.name.ends_with(difference.path)) {
            Some(known) => {
                let links = if known.frames == 0 { BTreeSet::new() } else { listed.links };
                (Outcome { frames: known.frames, end: known.end, links }, known.reason)
            }
            None => (listed, "as the manifest says"),
        };
        let found = read(&capture.path);
        if found != expected {
            differences.push(format!("{}: expected {expected:?} ({reason}), found {found:?}", capture.name));
        }
    }
    assert!(differences.is_empty(), "{} of {} files differ:\n{}", differences.len(), captures.len(), differences.join("\n"));
}

#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    frames: u64,
    /// Numbers of the link types that its frames have; one for all kinds of raw IP.
    links: BTreeSet<u16>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Clean,
    Truncated,
    Damaged,
    NoCapture,
}

fn read(path: &Path) -> Outcome {
    let (mut frames, mut links) = (0, BTreeSet::new());
    let mut read = || -> Result<(), FileError> {
        let mut source = FileSource::open(path)?;
        while let Progress::Frames(_) = source.next_batch(&mut |frame| {
            frames += 1;
            links.insert(frame.link.number());
        })? {}
        Ok(())
    };
    let end = match read() {
        Ok(()) => End::Clean,
        Err(FileError::Truncated { .. }) => End::Truncated,
        Err(FileError::Damaged { .. }) => End::Damaged,
        Err(FileError::UnknownFormat { .. }) => End::NoCapture,
        Err(error) => panic!("{error}"),
    };
    Outcome { frames, links, end }
}

/// The manifest names the link types that have a name in it and numbers the others.
fn link_type(name: &str) -> LinkType {
    LinkType::from_number(match name {
        "NULL" => 0,
        "ETHERNET" => 1,
        "PPP" => 9,
        "RAW12" => 12,
        "RAW" => 101,
        "802.11" => 105,
        "SLL" => 113,
        "RADIOTAP" => 127,
        "IPV4" => 228,
        "IPV6" => 229,
        "SLL2" => 276,
        number => number.parse().expect("a link type is a known name or a number"),
    })
}

/// A file that is read otherwise than the manifest says, and why.
struct Difference {
    /// The end of its path.
    path: &'static str,
    frames: u64,
    end: End,
    reason: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        path: "m-lab+packet-headers/testdata/v6.pcap",
        frames: 8,
        end: End::Truncated,
        reason: "cut within its ninth record",
    },
    Difference { path: "pcapgo/tests/be/test901.pcapng", frames: 1, end: End::Damaged, reason: "second section of version 2.0" },
    Difference { path: "pcapgo/tests/le/test901.pcapng", frames: 1, end: End::Damaged, reason: "second section of version 2.0" },
    Difference { path: "ExamplesTest/pcap_examples/solaris.snoop", frames: 0, end: End::NoCapture, reason: "snoop is not read" },
    Difference { path: "Pcap++Test/PcapExamples/solaris.snoop", frames: 0, end: End::NoCapture, reason: "snoop is not read" },
    Difference { path: "libpcap/tests/pcap-invalid-version-1.pcap", frames: 0, end: End::Damaged, reason: "version 1.4" },
    Difference { path: "libpcap/tests/pcap-invalid-version-2.pcap", frames: 0, end: End::Damaged, reason: "version 2.5" },
    Difference { path: "libpcap/tests/pcapng-invalid-vers-1.pcapng", frames: 0, end: End::Damaged, reason: "version 0.1" },
    Difference {
        path: "libpcap/tests/shb-option-too-long.pcapng",
        frames: 0,
        end: End::Damaged,
        reason: "the lengths of the section header differ",
    },
];
