//! Turns the work of the shards into files that appear whole or not at all.
//!
//! ```text
//! pool (threads) -> writer (per-flow members, retries) -> merge::publish -> path (rename)
//!                                                            ^
//!                                              salvage (leftovers of a crash)
//! ```
//!
//! [`mod@file`] reads and writes whole files, out of [`pcap`] records in [`gzip`] members ([`deflate`] is the compressor of
//! ours) with [`metadata`] in the first.
//! docs/FORMAT.md specifies what is written. Held bytes stay on the ledger until their file has its final name.

pub mod catalogue;
pub mod deflate;
pub mod file;
pub mod gzip;
pub mod merge;
pub mod metadata;
pub mod metrics;
pub mod path;
pub mod pcap;
pub mod pool;
pub mod priority;
pub mod salvage;
pub mod tcp_info;
pub mod writer;

use std::io;
use std::path::PathBuf;

/// The steps that a disk can refuse, by the predecessor's reasons for flows without a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Making the day's folder or the temporary one.
    Mkdir,
    /// Making the temporary file.
    FileOpen,
    /// The first write to a streamed file.
    WritePartial,
    /// A later write to a streamed file.
    Streaming,
    /// Everything after the flow's end.
    WriteFinal,
}

impl Stage {
    /// The metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mkdir => "mkdir",
            Self::FileOpen => "fileopen",
            Self::WritePartial => "writepartial",
            Self::Streaming => "streaming",
            Self::WriteFinal => "writefinal",
        }
    }

    /// A wrapper for this stage's errors on `path`.
    fn on(self, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Refusal {
        move |source| Refusal { stage: self, path: path.into(), source }
    }
}

/// The disk refused a step; it may succeed later.
#[derive(Debug, thiserror::Error)]
#[error("{} {}: {source}", stage.as_str(), path.display())]
pub struct Refusal {
    /// The step.
    pub stage: Stage,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod testing;
