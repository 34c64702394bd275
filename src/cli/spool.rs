//! `flowarc find` and `flowarc get` on a spool: what full capture keeps, by address, port, protocol, time and BPF, and by the
//! UUIDs that the catalogue of a header archive of the same traffic knows.

use super::BadMeaning;
use super::flows::{ArchiveArgs, FilterArgs, Progress};
use crate::archive::catalogue::Row;
use crate::archive::catalogue::columns::Micros;
use crate::key::{Endpoint, FlowKey};
use crate::query::filter::{Filter, Network};
use crate::spool::Tuple;
use crate::spool::filter::Filter as Bpf;
use crate::spool::query::{self, Found, Query, be_idle};
use crate::spool::segment::{FILE_MODE, HIDDEN};
use crate::time::Timestamp;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Whether a folder is one that full capture writes to.
pub fn is_spool(path: &Path) -> bool {
    path.join(HIDDEN).is_dir()
}

/// Prints the flows of a spool: a line for each segment that holds one.
///
/// # Errors
/// Fails where the filters make no sense for a spool, or it cannot be read.
pub fn find(archive: &ArchiveArgs, args: &FilterArgs, filter: &Filter, limit: Option<u64>, as_json: bool) -> Result<()> {
    let queries = queries(archive, args, filter)?;
    if args.bpf.is_some() {
        return Err(BadMeaning("--bpf means packets, which find does not read; use flowarc get".to_owned()).into());
    }
    let mut found = Vec::new();
    for query in queries {
        found.extend(query::find(&archive.archive, &query)?);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let header = !as_json && io::stdout().is_terminal();
    let lines = found.iter().take(limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)));
    let written = print(&mut out, lines, header, as_json).and_then(|()| out.flush());
    written.context("write to standard output")?;
    if found.is_empty() {
        eprintln!("no flow matches");
    }
    Ok(())
}

/// Writes the packets of matching flows as one capture, to standard output or to a new file.
///
/// # Errors
/// Fails where the filters make no sense for a spool, where it cannot be read, where nothing matches and where the file exists.
pub fn get(archive: &ArchiveArgs, args: &FilterArgs, filter: &Filter, output: Option<&Path>) -> Result<()> {
    let dir = &archive.archive;
    let [query] = &queries(archive, args, filter)?[..] else {
        return Err(BadMeaning(
            "several flows have such UUIDs; give one, as long as it is (find says which there are)".to_owned(),
        )
        .into());
    };
    let got = match output {
        None => query::get(dir, query, &mut BufWriter::new(io::stdout().lock()))?,
        Some(path) => {
            let create = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
            let file = create.with_context(|| format!("make {}", path.display()))?;
            let got = query::get(dir, query, &mut BufWriter::new(file));
            if !got.as_ref().is_ok_and(|got| got.packets > 0) {
                let _ = fs::remove_file(path);
            }
            got?
        }
    };
    if got.packets == 0 {
        bail!("no packet matches in {}", dir.display());
    }
    if got.vanished > 0 {
        eprintln!("note: {} segments were removed by retention before they could be read", got.vanished);
    }
    Ok(())
}

/// What is asked: one question, or one for each flow that has a UUID which is asked for.
fn queries(archive: &ArchiveArgs, args: &FilterArgs, filter: &Filter) -> Result<Vec<Query>> {
    let known = Filter {
        uuids: filter.uuids.clone(),
        since: filter.since,
        until: filter.until,
        networks: filter.networks.clone(),
        ports: filter.ports.clone(),
        ..Filter::default()
    };
    if *filter != known || args.key.is_some() {
        let reason = "a spool knows flows by --addr, --port, --proto, --since, --until and --bpf; leave the other filters out";
        return Err(BadMeaning(reason.to_owned()).into());
    }
    if !filter.uuids.is_empty() && archive.catalog.is_none() {
        let reason = "a spool knows no UUIDs; name the catalogue of a header archive of the same traffic by --catalog";
        return Err(BadMeaning(reason.to_owned()).into());
    }
    be_idle();
    let protocol = args.proto.as_deref().map(protocol_of).transpose()?;
    let bpf = |text: &String| Bpf::parse(text).map_err(|e| BadMeaning(format!("--bpf={text}: {e}")));
    let mut query = Query {
        flow: None,
        networks: known.networks.iter().map(Network::parts).collect(),
        ports: known.ports.clone(),
        protocol,
        from: known.since.map(Timestamp::from),
        to: known.until.map(Timestamp::from),
        filter: args.bpf.as_ref().map(bpf).transpose()?,
    };
    if filter.uuids.is_empty() {
        query.flow = whole_flow(&archive.archive, &query)?;
        return Ok(vec![query]);
    }
    let asked = Filter { uuids: filter.uuids.clone(), ..Filter::default() };
    let (mut rows, progress) = (Vec::new(), Progress::new());
    archive.open()?.scan(&asked, &progress, &mut |row| {
        rows.push(row);
        ControlFlow::Continue(())
    })?;
    progress.finish();
    if rows.is_empty() {
        bail!("no flow of the catalogue has the UUID {}", filter.uuids.join(" or "));
    }
    rows.iter().map(|row| of_row(row, &query)).collect()
}

/// The question for a flow of a catalogue: its ends, from its beginning to its end, if that was seen. The catalogue's last
/// packet is no end where the header archive kept the first seconds only.
fn of_row(row: &Row, query: &Query) -> Result<Query> {
    if row.anonymized {
        bail!("{}: the catalogue has its addresses masked; ask by --since, --until and --port", row.uuid);
    }
    let end = |addr: &str, port| -> Result<Endpoint> {
        let ip: IpAddr = addr.parse().with_context(|| format!("{}: address {addr} of the catalogue", row.uuid))?;
        Ok(Endpoint { addr: ip.into(), port })
    };
    let ends = FlowKey::new(end(&row.client_addr, row.client_port)?, end(&row.server_addr, row.server_port)?).0;
    let (first, last) = (Timestamp::from(row.start) - SLACK, Timestamp::from(row.end) + SLACK);
    let is_over = OVER.contains(&row.end_reason.as_str());
    Ok(Query {
        flow: Some(Tuple::tcp(ends)),
        from: query.from.max(Some(first)),
        to: if is_over { Some(query.to.map_or(last, |to| to.min(last))) } else { query.to },
        ..query.clone()
    })
}

/// The one flow that is meant where both ends are given: looked up by its key, which reads a few blocks of each index and
/// not all of it. Which port belongs to which address is tried.
fn whole_flow(dir: &Path, query: &Query) -> Result<Option<Tuple>> {
    let ([(a, 128), (b, 128)], [p, q]) = (&query.networks[..], &query.ports[..]) else { return Ok(None) };
    let mut meant = None;
    for protocol in query.protocol.map_or(vec![TCP, UDP], |p| vec![p]) {
        for [p, q] in [[*p, *q], [*q, *p]] {
            let ends = FlowKey::new(Endpoint { addr: *a, port: p }, Endpoint { addr: *b, port: q }).0;
            let tuple = Tuple { ends, protocol };
            if meant != Some(tuple) && !query::find(dir, &Query { flow: Some(tuple), ..query.clone() })?.is_empty() {
                // More than one: all of them.
                if meant.replace(tuple).is_some() {
                    return Ok(None);
                }
            }
        }
    }
    Ok(meant)
}

fn protocol_of(text: &str) -> Result<u16> {
    let number = Tuple::protocol_number(&text.to_ascii_lowercase());
    Ok(number.ok_or_else(|| BadMeaning(format!("--proto={text}: want tcp, udp, icmp, icmp6, sctp or a number up to 255")))?)
}

fn print<'a>(out: &mut dyn Write, found: impl Iterator<Item = &'a Found>, header: bool, as_json: bool) -> io::Result<()> {
    if header {
        writeln!(
            out,
            "{:<30} {:>9} {:<5} {:<28} {:<28} {:>9} SEGMENT",
            "FIRST (UTC)", "DURATION", "PROTO", "END", "END", "PACKETS"
        )?;
    }
    for Found { segment, row } in found {
        let [a, b] = [row.tuple.ends.lo(), row.tuple.ends.hi()].map(|end| SocketAddr::new(end.addr.into(), end.port).to_string());
        let seconds = row.last.since(row.first).as_secs_f64();
        let (first, protocol, segment) = (Micros::from(row.first).to_string(), row.tuple.protocol_name(), segment.display());
        if as_json {
            let line = json!({
                "segment": segment.to_string(), "first": first, "duration_s": seconds, "protocol": protocol,
                "a": a, "b": b, "packets": row.packets,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{first:<30} {seconds:>8.3}s {protocol:<5} {a:<28} {b:<28} {:>9} {segment}", row.packets)?;
        }
    }
    Ok(())
}

/// By how much two processes that capture the same packets may differ about their times.
const SLACK: Duration = Duration::from_millis(20);
/// Reasons with which a connection's last packet is its last.
const OVER: [&str; 3] = ["fin", "reset", "reused"];
const TCP: u16 = 6;
const UDP: u16 = 17;
