//! Holds files to what the archive promises: whole, in order, headers only, masked as they say, and telling the truth.
//!
//! `packets` judges each packet, `claims` what a file's metadata says of them, `files` walks trees in parallel. That
//! nothing but headers is kept and that masking is whole is proven by scrubbing each packet again: it must change nothing.

mod claims;
mod files;
mod packets;

pub use self::files::{Sum, verify};

use crate::key::Address;
use crate::scrub::Anonymize;
use serde::Serialize;
use std::path::PathBuf;

/// What files are held to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expect {
    /// How addresses must be masked; `None` for what each file says of itself.
    pub anonymize: Option<Anonymize>,
    /// Addresses that may stay, where addresses are masked; empty if any one end of a connection may.
    pub local: Vec<Address>,
    /// Whether packets must end with their headers.
    pub headers: HeaderOnly,
}

/// Which files must hold headers only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HeaderOnly {
    /// Those of an archive: by their metadata, or by a name that ends in `.pcap.gz`.
    #[default]
    Archives,
    /// All.
    All,
}

/// What was checked of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Packets that could be read.
    pub packets: u64,
    /// What is wrong, the first few of each kind.
    pub findings: Vec<Finding>,
    /// How many more there are of the same kinds.
    pub more_findings: u64,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Which check found it.
    pub check: Check,
    /// The packet, counted from 1, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<u64>,
    /// What is wrong.
    pub text: String,
}

/// The checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The file can be read at all.
    Read,
    /// A bundle is whole.
    Bundle,
    /// Compressed members are whole, with nothing behind them.
    Gzip,
    /// The pcap file header and the records are sound.
    Pcap,
    /// Packets are in the order of time.
    Order,
    /// Nothing but headers is kept.
    Headers,
    /// Addresses are masked, beyond recovery.
    Anonymized,
    /// The metadata is true of the packets.
    Metadata,
    /// The file is named by a UUID and holds one connection.
    Name,
}

impl Check {
    /// The word for it, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Bundle => "bundle",
            Self::Gzip => "gzip",
            Self::Pcap => "pcap",
            Self::Order => "order",
            Self::Headers => "headers",
            Self::Anonymized => "anonymized",
            Self::Metadata => "metadata",
            Self::Name => "name",
        }
    }
}

impl Report {
    fn new(path: PathBuf) -> Self {
        Self { path, packets: 0, findings: Vec::new(), more_findings: 0 }
    }

    /// How many things are wrong.
    pub fn total(&self) -> u64 {
        self.findings.len() as u64 + self.more_findings
    }

    fn find(&mut self, check: Check, packet: Option<u64>, text: impl FnOnce() -> String) {
        if self.findings.iter().filter(|found| found.check == check).count() < LISTED {
            self.findings.push(Finding { check, packet, text: text() });
        } else {
            self.more_findings += 1;
        }
    }
}

/// Findings of one kind in one file that are listed; more would hide those of other kinds.
const LISTED: usize = 5;
