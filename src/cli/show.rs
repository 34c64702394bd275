//! `flowarc show`: one connection explained.

use super::BadMeaning;
use super::flows::Progress;
use super::headers::path;
use crate::analysis::TcpSummary;
use crate::archive::catalogue::row::uuid_of;
use crate::key::FlowUuid;
use crate::query::archive::{Archive, is_bundle, url};
use crate::query::plot::{Plot, html, svg, xplot};
use crate::query::show::{Shown, json, listing, screen};
use crate::query::survey::{Input, Survey, series, survey};
use crate::query::text::{Colour, utc};
use crate::query::trust::weigh;
use crate::time::Timestamp;
use anyhow::Context;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What was typed for `flowarc show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// A capture file (pcap or pcapng, plain or packed; - is standard input), or an archive (a folder, a .tgz bundle, a folder of
    /// bundles) with a UUID behind it
    #[arg(value_name = "FILE|ARCHIVE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub target: PathBuf,

    /// The connection's UUID in the archive, or its beginning
    #[arg(value_name = "UUID")]
    pub uuid: Option<String>,

    /// The archive's catalogue [default: within the archive, or ARCHIVE.catalog]
    #[arg(long, value_name = "DIR", value_parser = path(), env = "FLOWARC_CATALOG", hide_env_values = true)]
    pub catalog: Option<PathBuf>,

    /// The connection to show of a file with several: its number in the listing, or one end as ADDRESS:PORT
    #[arg(long, value_name = "N|END")]
    pub flow: Option<String>,

    /// Print all figures as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Draw it instead: a page that zooms if the name ends in .html, a picture if it ends in .svg; replaces the file
    #[arg(long, value_name = "OUT", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub plot: Option<PathBuf>,

    /// Write files for xplot instead, named PREFIX and c2s_tsg.xpl, s2c_tsg.xpl, c2s_rtt.xpl, s2c_rtt.xpl
    #[arg(long, value_name = "PREFIX")]
    pub xplot: Option<String>,
}

/// Shows a connection, or which ones a file holds.
///
/// # Errors
/// Fails where the file cannot be read or holds no TCP connection, or where a choice names none.
pub fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let format = args.plot.as_deref().map(PlotFormat::of).transpose()?;
    let input = input(args)?;
    let draws = format.is_some() || args.xplot.is_some();
    if draws && matches!(&input, Input::Path(path) if path.as_os_str() == "-") {
        return Err(BadMeaning("a plot reads its file twice: give a file instead of standard input".to_owned()).into());
    }
    let name = input.name();
    let survey = survey(&input)?;
    if survey.flows.is_empty() {
        anyhow::bail!("{name} holds no TCP connection ({} other frames)", survey.other_frames);
    }
    let Some(number) = choose(&survey.flows, args.flow.as_deref())? else {
        return print(&list(&name, &survey, args.json)?);
    };
    let tcp = &survey.flows[number];
    if draws {
        return draw(args, format, &input, number, tcp);
    }
    let damage = survey.damage.as_ref().map(ToString::to_string);
    // The metadata is that of the one connection that an archive's file holds.
    let metadata = survey.metadata.as_ref().filter(|_| survey.flows.len() == 1);
    let trust = weigh(tcp, metadata, damage.as_deref());
    let shown = Shown { file: &name, tcp, metadata, trust: &trust };
    if args.json {
        return print(&format!("{}\n", json(&shown)));
    }
    let colour = if io::stdout().is_terminal() { Colour::Always } else { Colour::Never };
    print(&screen(&shown, colour))
}

/// How to draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PlotFormat {
    Html,
    Svg,
}

impl PlotFormat {
    fn of(out: &Path) -> Result<Self, BadMeaning> {
        match out.extension().and_then(|e| e.to_str()) {
            Some("html") => Ok(Self::Html),
            Some("svg") => Ok(Self::Svg),
            _ => Err(BadMeaning(format!("--plot={}: the name must end in .html or .svg", out.display()))),
        }
    }
}

fn draw(args: &ShowArgs, format: Option<PlotFormat>, input: &Input, number: usize, tcp: &TcpSummary) -> anyhow::Result<()> {
    let series = series(input, number)?;
    let ends = [&tcp.client, &tcp.server].map(|end| end.endpoint.to_string());
    let name = input.name();
    let name = name.rsplit('/').next().unwrap_or_default();
    let title = format!("{name}, {}", utc(Timestamp::from_nanos(tcp.first_ns)));
    let plot = Plot { title: &title, series: &series, ends: ends.each_ref().map(String::as_str) };
    let write = |out: &Path, text: String| std::fs::write(out, text).with_context(|| format!("write {}", out.display()));
    if let (Some(out), Some(format)) = (&args.plot, format) {
        let text = match format {
            PlotFormat::Html => html::write(&plot),
            PlotFormat::Svg => svg::write(&plot),
        };
        write(out, text)?;
    }
    if let Some(prefix) = &args.xplot {
        for (suffix, text) in xplot::write(&plot) {
            write(Path::new(&format!("{prefix}{suffix}")), text)?;
        }
    }
    Ok(())
}

/// The file that was asked for.
fn input(args: &ShowArgs) -> anyhow::Result<Input> {
    let target = &args.target;
    let is_url = url(target).is_some();
    let is_file = !is_url && !target.is_dir() && !target.to_str().is_some_and(is_bundle);
    let Some(uuid) = &args.uuid else {
        if is_file {
            return Ok(Input::Path(target.clone()));
        }
        let archive = Archive::open(target, args.catalog.as_deref())?;
        return match archive.only().filter(|file| !is_bundle(file)) {
            Some(file) => read(&archive, file),
            None => {
                let meaning =
                    format!("{} holds many connections: name a UUID behind it (flowarc find lists them)", target.display());
                Err(BadMeaning(meaning).into())
            }
        };
    };
    FlowUuid::parse(uuid).map_err(|e| BadMeaning(format!("UUID {uuid:?}: {e}")))?;
    let archive = Archive::open(target, args.catalog.as_deref())?;
    let progress = Progress::new();
    let found = archive.locate(uuid, &progress)?;
    progress.finish();
    // Of one name in several days it is the newest; of a beginning the choice is not ours.
    let names: BTreeSet<&str> = found.iter().map(|file| uuid_of(file)).collect();
    match &found[..] {
        [] => anyhow::bail!("no flow of UUID {uuid} in {}", target.display()),
        [first, more @ ..] if names.len() == 1 => {
            if !more.is_empty() {
                eprintln!("note: {} files have this name; this is the newest, {first}", found.len());
            }
            read(&archive, first)
        }
        _ => {
            let some: Vec<&str> = names.iter().copied().take(5).collect();
            anyhow::bail!(
                "{} flows begin with {uuid}: {}{}",
                names.len(),
                some.join(", "),
                if names.len() > 5 { ", ..." } else { "" }
            )
        }
    }
}

fn read(archive: &Archive, file: &str) -> anyhow::Result<Input> {
    let bytes = archive.read(file, &Progress::new())?.into();
    Ok(Input::Bytes { name: archive.name(file), bytes })
}

/// The place of the connection that was asked for; `None` where there are several and none was.
fn choose(flows: &[TcpSummary], choice: Option<&str>) -> anyhow::Result<Option<usize>> {
    let Some(choice) = choice else { return Ok((flows.len() == 1).then_some(0)) };
    if let Ok(number) = choice.parse::<usize>() {
        if (1..=flows.len()).contains(&number) {
            return Ok(Some(number - 1));
        }
        return Err(BadMeaning(format!("--flow={number}: the file holds {} connections", flows.len())).into());
    }
    let end = |tcp: &TcpSummary| tcp.ends().iter().any(|(_, end)| end.endpoint.to_string() == choice);
    let found: Vec<usize> = (0..flows.len()).filter(|i| end(&flows[*i])).collect();
    match found[..] {
        [one] => Ok(Some(one)),
        [] => Err(BadMeaning(format!("--flow={choice}: no connection of the file has this end")).into()),
        _ => Err(BadMeaning(format!("--flow={choice}: {} connections have this end: give a number", found.len())).into()),
    }
}

fn list(name: &str, survey: &Survey, json: bool) -> anyhow::Result<String> {
    if json {
        let mut out = String::new();
        for (i, tcp) in survey.flows.iter().enumerate() {
            out += &format!("{}\n", serde_json::json!({ "file": name, "flow": i + 1, "tcp": tcp }));
        }
        return Ok(out);
    }
    let count = survey.flows.len();
    let damage = survey.damage.as_ref().map(|d| format!("{d}\n")).unwrap_or_default();
    Ok(format!("{name} holds {count} connections; --flow N shows one\n{damage}\n{}", listing(&survey.flows)))
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("write to standard output"),
        _ => Ok(()),
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  flowarc show archive ndt-x7kq2_1700000000_000000000001A2B3
      The connection of this UUID, searched below the folder archive; a bundle or a folder of bundles does as well
  flowarc show some.pcap --flow 192.0.2.1:443
      One of the connections of any capture file";
