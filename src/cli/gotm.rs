//! gotm's command line: the same flags and output layout, read as gotm's users mean them.
//!
//! Go's flag syntax with one dash or two. docs/CAPTURE.md says where the result differs from gotm's, and why.

use super::Exit;
use super::capture::CaptureConfig;
use super::config::{ConfigError, Input, MAX_SNAP_LEN, MAX_THREADS, admin, count, non_empty, positive};
use super::headers::path;
use super::values::{ByteCount, GoDuration, GoInt, parse_bool};
use crate::sandbox::Policy;
use crate::spool::cutoff::{CutoffConfig, Limits, Scope};
use crate::spool::filter::Filter;
use crate::spool::format::{Compress, Format};
use crate::spool::retention::Retention;
use crate::spool::segment::{Naming, SegmentConfig};
use clap::{ArgAction, Parser};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// gotm's flags.
#[derive(Parser, Clone, Debug)]
#[command(name = "gotm", no_binary_name = true, args_override_self = true)]
struct GotmArgs {
    /// Interfaces, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "eth0")]
    interface: Vec<String>,

    /// Which frames to look at, in the language of pcap-filter(7)
    #[arg(long, value_name = "FILTER", default_value = "ip or ip6")]
    filter: String,

    /// Bytes of payload kept of each direction of a flow
    #[arg(long, value_name = "N", default_value = "8192")]
    bytecutoff: GoInt,

    /// Packets kept of each direction of a flow
    #[arg(long, value_name = "N", default_value = "100")]
    packetcutoff: GoInt,

    /// How long a flow lives without a packet
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    flowtimeout: GoDuration,

    /// How often gotm_expired_flow_count is told anew; flows end when their time is over
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    timeinterval: GoDuration,

    /// Time of a file, aligned to the clock
    #[arg(long, value_name = "DURATION", default_value = "300s")]
    rotationinterval: GoDuration,

    /// Folder below which files appear as yyyy/mm/dd/ts.pcap
    #[arg(long, value_name = "DIR", default_value = "out", value_parser = path())]
    write: PathBuf,

    /// Compress files with gzip
    #[arg(long, default_value = "false")]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: bool,

    /// Program to run for each flow of a gigabyte, and again at each doubling, with the flow in JSON on its standard input
    #[arg(long = "large.command", value_name = "PROGRAM", value_parser = path())]
    large_command: Option<PathBuf>,

    /// Where to serve /metrics over HTTP
    #[arg(long = "metrics-address", value_name = "HOST:PORT", default_value = ":8080")]
    metrics_address: String,

    /// What the process gives up once it is set up: auto, required or off; no flag of gotm's
    #[arg(long, value_name = "POLICY", value_enum, default_value = "auto", env = "FLOWARC_SANDBOX", hide_env_values = true)]
    sandbox: Policy,
}

/// The arguments behind what calls for gotm's grammar: the program's name, or `capture --gotm`.
pub fn arguments<'a>(program: &OsStr, args: &'a [OsString]) -> Option<&'a [OsString]> {
    if Path::new(program).file_name().is_some_and(|name| name == "gotm") {
        return Some(args);
    }
    match args {
        [capture, gotm, rest @ ..] if capture == "capture" && gotm == "--gotm" => Some(rest),
        _ => None,
    }
}

/// Parses gotm's arguments; `workers` is what its environment says of their number (`SNF_NUM_RINGS`).
///
/// # Errors
/// Exit code 0 with the usage text where that is asked for, 2 where the grammar is broken, 64 where a value makes no sense.
pub fn parse(args: &[OsString], workers: Option<OsString>) -> Result<CaptureConfig, Exit> {
    let two_dashes = args.iter().map(|arg| match arg.as_bytes() {
        [b'-', second, _, ..] if *second != b'-' => OsString::from_vec([b"-", arg.as_bytes()].concat()),
        _ => arg.clone(),
    });
    let args = GotmArgs::try_parse_from(two_dashes).map_err(|e| Exit::new(e.exit_code() as u8, e.render().to_string()))?;
    let workers = match workers {
        None => GoInt(1),
        Some(n) if n.is_empty() => GoInt(1),
        Some(n) => n.to_string_lossy().parse().map_err(|e| Exit::new(2, format!("SNF_NUM_RINGS={n:?}: {e}")))?,
    };
    config(&args, workers).map_err(|e| Exit::new(super::BAD_MEANING, format!("gotm: {e}")))
}

fn config(args: &GotmArgs, workers: GoInt) -> Result<CaptureConfig, ConfigError> {
    let limit = |flag, n| count(flag, n, 1, i64::MAX).map(|n| Some(n as u64));
    let filter = Filter::parse(&args.filter).map_err(|e| ConfigError::new("filter", &args.filter, e.to_string()))?;
    Ok(CaptureConfig {
        input: Input::of(&args.interface, &[], ByteCount(0))?,
        filter: Some(filter),
        snap_len: MAX_SNAP_LEN,
        promiscuous: true,
        shards: count("SNF_NUM_RINGS", workers, 1, MAX_THREADS)?,
        cutoff: CutoffConfig {
            limits: Limits { bytes: limit("bytecutoff", args.bytecutoff)?, packets: limit("packetcutoff", args.packetcutoff)? },
            scope: Scope::Direction,
            classes: Vec::new(),
            keep_ends: false,
            tail: 0,
            idle: positive("flowtimeout", args.flowtimeout)?,
            flows: FLOWS,
            large: Some(LARGE),
            report: false,
        },
        // Its metrics count every packet.
        shunt: false,
        data_dir: non_empty("write", &args.write, "name a folder")?,
        segment: SegmentConfig {
            format: Format::Pcap,
            compress: if args.compress { Compress::Gzip } else { Compress::None },
            rotate_bytes: None,
            snaplen: MAX_SNAP_LEN,
            fsync: false,
            naming: Naming::Seconds,
            shard: None,
        },
        rotate: Some(positive("rotationinterval", args.rotationinterval)?),
        queue_bytes: QUEUE,
        retention: Retention::default(),
        large_command: args.large_command.clone(),
        control: None,
        report: false,
        gotm_metrics: Some(positive("timeinterval", args.timeinterval)?),
        admin: admin(Some(&args.metrics_address), true)?,
        sandbox: args.sandbox,
    })
}

/// Flows of a shard: more than its maps held in production.
const FLOWS: usize = 1 << 20;
/// gotm logs flows from a gigabyte on.
const LARGE: u64 = 1 << 30;
const QUEUE: usize = 256_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_arguments_of_its_deployment_are_understood() {
        let line = "-interface ens1,ens4 -timeinterval 31s -flowtimeout 30s -rotationinterval 60s -write pcaps \
                    -packetcutoff 1000 --bytecutoff=65536 -compress -metrics-address :9102";
        let mut args: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
        args.extend(["-filter".into(), "vlan or not vlan".into()]);
        let config = parse(&args, Some("8".into())).unwrap();
        assert_eq!(config.input, Input::Live { interfaces: vec!["ens1".into(), "ens4".into()], ring_size: None });
        assert_eq!(config.cutoff.limits, Limits { bytes: Some(65_536), packets: Some(1000) });
        assert_eq!((config.cutoff.scope, config.cutoff.idle), (Scope::Direction, Duration::from_secs(30)));
        assert_eq!((config.rotate, config.segment.compress), (Some(Duration::from_secs(60)), Compress::Gzip));
        assert_eq!((config.shards, config.data_dir), (8, PathBuf::from("pcaps")));
    }

    #[test]
    fn its_defaults_are_its_own() {
        let config = parse(&[], None).unwrap();
        assert_eq!(config.cutoff.limits, Limits { bytes: Some(8192), packets: Some(100) });
        assert_eq!((config.rotate, config.cutoff.idle), (Some(Duration::from_secs(300)), Duration::from_secs(5)));
        assert_eq!((config.segment.compress, config.segment.naming), (Compress::None, Naming::Seconds));
        assert_eq!(config.data_dir, PathBuf::from("out"));
    }

    #[test]
    fn grammar_and_meaning_have_their_exit_codes() {
        for (args, code) in
            [(&["-help"][..], 0), (&["-bogus"], 2), (&["-flowtimeout", "5"], 2), (&["-bytecutoff=0"], 64), (&["-filter=x y"], 64)]
        {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            assert_eq!(parse(&args, None).unwrap_err().code, code, "{args:?}");
        }
        assert_eq!(parse(&[], Some("many".into())).unwrap_err().code, 2);
    }

    #[test]
    fn it_is_called_by_its_name_or_by_a_flag() {
        let args: Vec<OsString> = ["capture", "--gotm", "-compress"].map(Into::into).to_vec();
        assert_eq!(arguments(OsStr::new("flowarc"), &args), Some(&args[2..]));
        assert_eq!(arguments(OsStr::new("/usr/bin/gotm"), &args[2..]), Some(&args[2..]));
        assert_eq!(arguments(OsStr::new("flowarc"), &args[..1]), None);
    }
}
