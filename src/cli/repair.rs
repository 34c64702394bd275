//! `flowarc repair`: recovers what is whole of a damaged file.

use super::BadMeaning;
use super::headers::path;
use super::show::print;
use crate::query::repair::repair;
use crate::query::text::grouped;
use anyhow::Context;
use clap::Args;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What was typed for `flowarc repair`.
#[derive(Args, Clone, Debug)]
pub struct RepairArgs {
    /// The damaged capture file; it is not changed
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,

    /// Where to write what was recovered; must not exist [default: NAME.pcap.gz.repaired or NAME.pcap.repaired beside it, which is no flow of an archive]
    #[arg(short, long, value_name = "OUT", value_parser = path())]
    pub out: Option<PathBuf>,
}

/// Recovers a file and says what was lost.
///
/// # Errors
/// Fails where nothing can be recovered, and where a file cannot be read or written.
pub fn run(args: &RepairArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let bytes = fs::read(&args.file).with_context(|| format!("read {name}"))?;
    let repaired = repair(&name.to_string(), &bytes).with_context(|| format!("nothing of {name} can be recovered"))?;
    if repaired.was_sound() {
        return print(&format!("{name} is sound: {} packets; nothing was written\n", grouped(repaired.packets)));
    }
    let suffix = if repaired.bytes.starts_with(&[0x1f, 0x8b]) { ".pcap.gz" } else { ".pcap" };
    let target = sibling(&args.file, suffix);
    // Readers take every capture file of an archive for a flow, by its name: that of the same flow must not look like one.
    let out = args.out.clone().unwrap_or_else(|| sibling(&args.file, &format!("{suffix}.repaired")));
    if out == args.file {
        return Err(BadMeaning(format!("--out={}: the damaged file itself is not changed", out.display())).into());
    }
    // What exists is never replaced: it may be the only copy of something.
    // And who may not read the damaged file may not read this one.
    let mode = fs::metadata(&args.file).with_context(|| format!("read {name}"))?.permissions().mode() & 0o666;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&out)
        .with_context(|| format!("make {}", out.display()))?;
    file.write_all(&repaired.bytes).with_context(|| format!("write {}", out.display()))?;
    let of = repaired.stated.map(|stated| format!(" of {}", grouped(stated))).unwrap_or_default();
    let mut text = format!("{}{of} packets recovered into {}\n", grouped(repaired.packets), out.display());
    for (range, what) in &repaired.lost {
        let place = if range.is_empty() { String::new() } else { format!("bytes {} to {}: ", range.start, range.end) };
        text += &format!("lost: {place}{what}\n");
    }
    if args.out.is_none() {
        text += &format!("to put it in the damaged one's place: mv {} {}\n", out.display(), target.display());
    }
    print(&text)
}

/// The file's path with another suffix than that of a capture.
fn sibling(file: &Path, suffix: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem =
        [".pcap.gz", ".pcap", ".pcapng", ".gz", ".zst"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
    file.with_file_name(format!("{stem}{suffix}"))
}

pub(super) const EXAMPLES: &str = "\
Exit code: 0 recovered or sound, 1 nothing to recover, 2 or 64 wrong arguments

What is recovered of an archive's file keeps its metadata, with end reason 10 (recovered).";
