//! `flowarc verify`: holds files to what the archive promises.

use super::flows::Progress;
use super::headers::path;
use super::show::print;
use crate::key::Address;
use crate::query::text::{Colour, Ink, grouped};
use crate::query::verify::{Expect, Finding, HeaderOnly, Report, Sum, verify};
use crate::scrub::Anonymize;
use clap::Args;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::PathBuf;

/// What was typed for `flowarc verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Capture files, .tgz bundles of them, and folders of both
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    pub paths: Vec<PathBuf>,

    /// How addresses must be masked [default: as each file says]
    #[arg(long = "anonymize.ip", value_name = "METHOD", value_enum)]
    pub anonymize_ip: Option<Anonymize>,

    /// Address that may be there whole; repeat or separate by commas [default: any one end of each connection]
    #[arg(long = "local.addr", value_name = "ADDR", value_delimiter = ',')]
    pub local_addr: Vec<IpAddr>,

    /// Hold every file to headers only, and not just those of an archive
    #[arg(long = "header-only")]
    pub header_only: bool,

    /// Print one JSON object for each file with findings, and one with the sum
    #[arg(long)]
    pub json: bool,
}

/// Checks files and prints what is wrong with them.
///
/// # Errors
/// Fails where something is wrong, where nothing was found to check, and where a path cannot be read.
pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let expect = Expect {
        anonymize: args.anonymize_ip,
        local: args.local_addr.iter().map(|addr| Address::from(*addr)).collect(),
        headers: if args.header_only { HeaderOnly::All } else { HeaderOnly::Archives },
    };
    let colour = if io::stdout().is_terminal() { Colour::Always } else { Colour::Never };
    let mut printed = Ok(());
    let progress = Progress::new();
    let sum = verify(&args.paths, &expect, &progress, &mut |report| {
        if report.total() > 0 && printed.is_ok() {
            printed = progress.around(|| print(&if args.json { format!("{}\n", json!(report)) } else { text(report, colour) }));
        }
    })?;
    progress.finish();
    printed?;
    let Sum { files, packets, files_with_findings, findings } = sum;
    if args.json {
        print(&format!("{}\n", json!({ "sum": sum })))?;
    }
    if files == 0 {
        anyhow::bail!("nothing to check: no capture file and no bundle in the folders that were named");
    }
    if findings > 0 {
        let s = if findings == 1 { "" } else { "s" };
        anyhow::bail!("{} finding{s} in {} of {} files", grouped(findings), grouped(files_with_findings), grouped(files));
    }
    if !args.json {
        print(&format!("{} files, {} packets: all sound\n", grouped(files), grouped(packets)))?;
    }
    Ok(())
}

fn text(report: &Report, colour: Colour) -> String {
    let mut out = String::new();
    let path = colour.paint(Ink::Strong, &report.path.display().to_string());
    for Finding { check, packet, text } in &report.findings {
        let check = colour.paint(Ink::Bad, check.word());
        let at = packet.map(|n| format!("packet {n}: ")).unwrap_or_default();
        out += &format!("{path}: {check}: {at}{text}\n");
    }
    if report.more_findings > 0 {
        out += &format!("{path}: and {} more like these\n", grouped(report.more_findings));
    }
    out
}

pub(super) const EXAMPLES: &str = "\
Exit code: 0 all sound, 1 findings or a path that cannot be read, 2 or 64 wrong arguments

Examples:
  flowarc verify archive
      Everything below the folder, bundles too: gzip and pcap, order, headers only, masking and metadata
  flowarc verify day.tgz
      A bundle, read once without unpacking it on the disk
  flowarc verify archive --anonymize.ip netblock --local.addr 192.0.2.1
      That every address but this one is masked beyond recovery, whatever the files say";
