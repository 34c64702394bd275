//! `flowarc capture`: its flags, and what they mean.

use super::config::{self, ConfigError, Input, MAX_SNAP_LEN, MAX_THREADS, count, non_empty, positive};
use super::headers::{LogLevel, ShuntChoice, path};
use super::values::{ByteCount, GoDuration, GoInt, parse_bool};
use crate::admin::ListenAddr;
use crate::sandbox::Policy;
use crate::spool::cutoff::{Class, CutoffConfig, Limits, Scope};
use crate::spool::filter::Filter;
use crate::spool::format::{Compress, Format};
use crate::spool::retention::Retention;
use crate::spool::segment::{Naming, SegmentConfig};
use clap::{ArgAction, Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// What was typed for `flowarc capture`.
#[derive(Args, Clone, Debug)]
pub struct CaptureArgs {
    /// Interface to capture on; repeat or separate by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = INPUT)]
    pub interface: Vec<String>,

    /// Capture file (pcap or pcapng) to read instead of interfaces; repeatable, - is standard input
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = INPUT)]
    pub read: Vec<PathBuf>,

    /// Which frames to look at at all, in the language of pcap-filter(7); it looks through VLAN tags [default: all]
    #[arg(long, value_name = "FILTER", help_heading = INPUT)]
    pub filter: Option<String>,

    /// Bytes captured of each frame, 1 to 262144
    #[arg(long, value_name = "BYTES", default_value = "262144", help_heading = INPUT)]
    pub snaplen: GoInt,

    /// Capture frames that are not for this host too
    #[arg(long, default_value = "true", help_heading = INPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub promiscuous: bool,

    /// Kernel buffer of each interface in each shard; 0 chooses 2 to 32 MiB by their number
    #[arg(long = "ring.size", value_name = "BYTES", default_value = "0", help_heading = INPUT)]
    pub ring_size: ByteCount,

    /// Threads that share live capture, each with segments of its own, 1 to 64
    #[arg(long, value_name = "N", default_value = "1", help_heading = INPUT)]
    pub shards: GoInt,

    /// Bytes of payload kept of each flow [default: all]
    #[arg(long = "cutoff.bytes", value_name = "BYTES", help_heading = CUTOFF)]
    pub cutoff_bytes: Option<ByteCount>,

    /// Packets kept of each flow [default: all]
    #[arg(long = "cutoff.packets", value_name = "N", help_heading = CUTOFF)]
    pub cutoff_packets: Option<GoInt>,

    /// Whether both directions of a flow share its cutoff or each has its own
    #[arg(long = "cutoff.per", value_name = "SCOPE", value_enum, default_value = "connection", help_heading = CUTOFF)]
    pub cutoff_per: CutoffPer,

    /// Flows with a cutoff of their own, as NAME=FILTER:bytes=64KB,packets=100 or NAME=FILTER:all; the first whose filter matches a flow's first packet decides; repeatable
    #[arg(long, value_name = "CLASS", help_heading = CUTOFF)]
    pub class: Vec<String>,

    /// Keep the headers of FIN and RST behind the cutoff, at most 8 of each flow
    #[arg(long = "keep.ends", default_value = "false", help_heading = CUTOFF)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub keep_ends: bool,

    /// Keep the last packets of a flow behind the cutoff, up to so many bytes, at most 64KB; they are held in memory until it ends
    #[arg(long = "keep.tail", value_name = "BYTES", default_value = "0", help_heading = CUTOFF)]
    pub keep_tail: ByteCount,

    /// Where the packets of a flow behind its cutoff are dropped; auto: in the kernel where it allows that, and --keep.tail is not given
    #[arg(long, value_name = "WHERE", value_enum, default_value = "auto", help_heading = CUTOFF)]
    pub shunt: ShuntChoice,

    /// How long a flow lives without a packet; after that it begins anew
    #[arg(long, value_name = "DURATION", default_value = "1m", help_heading = CUTOFF)]
    pub idletimeout: GoDuration,

    /// Flows followed at once in each shard, 1 to 100000000; one more pushes out the longest idle
    #[arg(long, value_name = "N", default_value = "1048576", help_heading = CUTOFF)]
    pub maxflows: GoInt,

    /// Folder below which segments appear as YYYY/MM/DD/TIME.pcap.zst
    #[arg(long, value_name = "DIR", default_value = ".", value_parser = path(), help_heading = OUTPUT)]
    pub datadir: PathBuf,

    /// Time of a segment, aligned to the clock; 0 turns by size only
    #[arg(long = "rotate.time", value_name = "DURATION", default_value = "5m", help_heading = OUTPUT)]
    pub rotate_time: GoDuration,

    /// Size of a segment; 0 turns by time only
    #[arg(long = "rotate.size", value_name = "BYTES", default_value = "1GB", help_heading = OUTPUT)]
    pub rotate_size: ByteCount,

    /// File format of segments
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "pcap", help_heading = OUTPUT)]
    pub format: FormatChoice,

    /// Compression of segments, block by block
    #[arg(long, value_name = "METHOD", value_enum, default_value = "zstd", help_heading = OUTPUT)]
    pub compress: CompressChoice,

    /// Force each segment to disk before it gets its name
    #[arg(long, default_value = "false", help_heading = OUTPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fsync: bool,

    /// Bytes of packets of each shard that may wait for a slow disk; more are lost, and counted
    #[arg(long = "queue.bytes", value_name = "BYTES", default_value = "256MB", help_heading = OUTPUT)]
    pub queue_bytes: ByteCount,

    /// Remove the oldest segments when all have more bytes than this [default: never]
    #[arg(long = "retain.bytes", value_name = "BYTES", help_heading = RETENTION)]
    pub retain_bytes: Option<ByteCount>,

    /// Remove segments that are older than this [default: never]
    #[arg(long = "retain.age", value_name = "DURATION", help_heading = RETENTION)]
    pub retain_age: Option<GoDuration>,

    /// Remove the oldest segments when the file system has fewer bytes free than this [default: never]
    #[arg(long = "retain.min-free", value_name = "BYTES", help_heading = RETENTION)]
    pub retain_min_free: Option<ByteCount>,

    /// Log a flow when it has this much payload, and again at each doubling [default: never]
    #[arg(long = "large.bytes", value_name = "BYTES", help_heading = OPERATION)]
    pub large_bytes: Option<ByteCount>,

    /// Program to run for each such log line, with the flow in JSON on its standard input
    #[arg(long = "large.command", value_name = "PROGRAM", value_parser = path(), help_heading = OPERATION)]
    pub large_command: Option<PathBuf>,

    /// Unix socket on which flowarc cutoff suspends and resumes the cutoff of flows
    #[arg(long, value_name = "PATH", value_parser = path(), help_heading = OPERATION)]
    pub control: Option<PathBuf>,

    /// Print which share of flows would be whole, and which share of bytes kept, for a row of cutoffs; writes nothing
    #[arg(long, help_heading = OPERATION)]
    #[arg(default_value = "false", value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub report: bool,

    /// Where to serve /metrics, /healthz and /readyz over HTTP [default: :9990 live, nowhere with --read]
    #[arg(long = "prometheusx.listen-address", value_name = "HOST:PORT", help_heading = OPERATION)]
    pub listen_address: Option<String>,

    /// What the process gives up once it is set up; auto: all that the kernel can take away; required: that, or exit with 1
    #[arg(long, value_name = "POLICY", value_enum, default_value = "auto", env = "FLOWARC_SANDBOX", hide_env_values = true, help_heading = OPERATION)]
    pub sandbox: Policy,

    /// Log lines of this level and above go to standard error
    #[arg(long = "log.level", value_name = "LEVEL", value_enum, default_value = "info", help_heading = OPERATION)]
    pub log_level: LogLevel,
}

/// What a cutoff is for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutoffPer {
    /// Both directions together.
    Connection,
    /// Each direction.
    Direction,
}

/// The file format of segments.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormatChoice {
    /// Classic pcap; one segment for all interfaces of a link type.
    Pcap,
    /// One segment for each interface, which it names.
    Pcapng,
}

/// The compression of segments.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompressChoice {
    /// None.
    None,
    /// gzip members.
    Gzip,
    /// zstd frames.
    Zstd,
}

/// What `flowarc capture` was asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureConfig {
    /// Where frames come from.
    pub input: Input,
    /// Which frames are looked at.
    pub filter: Option<Filter>,
    /// Bytes captured of each frame.
    pub snap_len: u32,
    /// Whether interfaces shall take frames that are not for this host.
    pub promiscuous: bool,
    /// Threads that share live capture.
    pub shards: usize,
    /// What is kept.
    pub cutoff: CutoffConfig,
    /// Whether packets behind the cutoff are dropped in the kernel where it allows that.
    pub shunt: bool,
    /// The data folder.
    pub data_dir: PathBuf,
    /// How segments are made.
    pub segment: SegmentConfig,
    /// Time of a segment.
    pub rotate: Option<Duration>,
    /// Bytes of packets that may wait for the disk.
    pub queue_bytes: usize,
    /// What may stay.
    pub retention: Retention,
    /// What is run for large flows.
    pub large_command: Option<PathBuf>,
    /// Where cutoffs are suspended and resumed.
    pub control: Option<PathBuf>,
    /// Whether only the report is wanted.
    pub report: bool,
    /// Whether gotm's metrics are exported beside ours, and how often it tells of ended flows.
    pub gotm_metrics: Option<Duration>,
    /// Where metrics and health are served; `None` where nowhere.
    pub admin: Option<ListenAddr>,
    /// Whether to sandbox.
    pub sandbox: Policy,
}

impl CaptureConfig {
    /// Judges what was typed.
    ///
    /// # Errors
    /// Names the first flag whose value makes no sense, alone or beside the others, and what would.
    pub fn from_args(args: &CaptureArgs) -> Result<Self, ConfigError> {
        let live = args.read.is_empty();
        let input = Input::of(&args.interface, &args.read, args.ring_size)?;
        let snap_len = count("snaplen", args.snaplen, 1, MAX_SNAP_LEN.into())? as u32;
        let shards = count("shards", args.shards, 1, MAX_THREADS)?;
        if !live && shards > 1 {
            let reason = "a file is read by one thread, so that the same input gives the same segments; leave the flag out";
            return Err(ConfigError::new("shards", args.shards, reason));
        }
        let filter = args.filter.as_deref().filter(|text| !text.is_empty());
        Ok(Self {
            input,
            filter: filter.map(|f| Filter::parse(f).map_err(|e| ConfigError::new("filter", f, e.to_string()))).transpose()?,
            snap_len,
            promiscuous: args.promiscuous,
            shards,
            cutoff: cutoff(args)?,
            // The tail must be seen, and a report counts all.
            shunt: args.shunt == ShuntChoice::Auto && args.keep_tail.0 == 0 && !args.report && is_limited(args),
            data_dir: non_empty("datadir", &args.datadir, "name a folder, or . for the working folder")?,
            segment: SegmentConfig {
                format: match args.format {
                    FormatChoice::Pcap => Format::Pcap,
                    FormatChoice::Pcapng => Format::Pcapng,
                },
                compress: match args.compress {
                    CompressChoice::None => Compress::None,
                    CompressChoice::Gzip => Compress::Gzip,
                    CompressChoice::Zstd => Compress::Zstd,
                },
                rotate_bytes: (args.rotate_size.0 > 0).then_some(args.rotate_size.0),
                snaplen: snap_len,
                fsync: args.fsync,
                naming: Naming::Nanoseconds,
                shard: None,
            },
            rotate: match args.rotate_time.non_negative() {
                None => return Err(ConfigError::new("rotate.time", args.rotate_time, "want 0 or a time, such as 5m")),
                Some(d) if d.is_zero() => None,
                Some(d) if d < LEAST_ROTATION => {
                    return Err(ConfigError::new("rotate.time", args.rotate_time, "a segment is 1s or longer"));
                }
                some => some,
            },
            queue_bytes: usize::try_from(args.queue_bytes.0).unwrap_or(usize::MAX),
            retention: retention(args, live)?,
            large_command: command(args)?,
            control: control(args, live)?,
            report: args.report,
            gotm_metrics: None,
            admin: config::admin(args.listen_address.as_deref(), live)?,
            sandbox: args.sandbox,
        })
    }
}

fn cutoff(args: &CaptureArgs) -> Result<CutoffConfig, ConfigError> {
    let packets = args.cutoff_packets.map(|n| count("cutoff.packets", n, 1, i64::MAX)).transpose()?;
    let tail = match args.keep_tail.0 {
        n if n <= MOST_TAIL => n as usize,
        _ => return Err(ConfigError::new("keep.tail", args.keep_tail, format!("want {}B or less", MOST_TAIL))),
    };
    let limits = if args.report {
        // What would be kept at one cutoff says nothing about the others.
        Limits::default()
    } else {
        Limits { bytes: args.cutoff_bytes.map(|n| n.0), packets: packets.map(|n| n as u64) }
    };
    Ok(CutoffConfig {
        limits,
        scope: match args.cutoff_per {
            CutoffPer::Connection => Scope::Connection,
            CutoffPer::Direction => Scope::Direction,
        },
        classes: args.class.iter().map(|text| class(text)).collect::<Result<_, _>>()?,
        keep_ends: args.keep_ends,
        tail,
        idle: positive("idletimeout", args.idletimeout)?,
        flows: count("maxflows", args.maxflows, 1, MOST_FLOWS)?,
        large: args.large_bytes.map(|n| n.0.max(1)),
        report: args.report,
    })
}

/// Whether anything is ever cut off.
fn is_limited(args: &CaptureArgs) -> bool {
    args.cutoff_bytes.is_some() || args.cutoff_packets.is_some() || !args.class.is_empty()
}

/// Reads `NAME=FILTER:LIMITS`. A filter may hold colons, so the limits begin behind the last one.
fn class(text: &str) -> Result<Class, ConfigError> {
    let bad = |reason: &str| ConfigError::new("class", text, reason);
    let form = "want NAME=FILTER:bytes=64KB,packets=100, with either limit, or all";
    let (name, rest) = text.split_once('=').ok_or_else(|| bad(form))?;
    let (filter, limits) = rest.rsplit_once(':').ok_or_else(|| bad(form))?;
    if name.is_empty() || filter.is_empty() {
        return Err(bad(form));
    }
    if name == "none" {
        return Err(bad("the metrics call flows of no class so; give another name"));
    }
    let mut parsed = Limits::default();
    for limit in limits.split(',').filter(|limit| *limit != "all") {
        match limit.split_once('=') {
            Some(("bytes", n)) => parsed.bytes = Some(n.parse::<ByteCount>().map_err(|e| bad(&e.to_string()))?.0),
            Some(("packets", n)) => parsed.packets = Some(n.parse().map_err(|_| bad("packets: want a number, such as 100"))?),
            _ => return Err(bad(form)),
        }
    }
    let filter = Filter::parse(filter).map_err(|e| bad(&e.to_string()))?;
    Ok(Class { name: name.to_owned(), filter, limits: parsed })
}

fn retention(args: &CaptureArgs, live: bool) -> Result<Retention, ConfigError> {
    let retention = Retention {
        bytes: args.retain_bytes.map(|n| n.0),
        age: args.retain_age.map(|d| positive("retain.age", d)).transpose()?,
        min_free: args.retain_min_free.map(|n| n.0),
    };
    if !live && retention.is_limited() {
        let given = [
            ("retain.bytes", args.retain_bytes.map(|n| n.to_string())),
            ("retain.age", args.retain_age.map(|d| d.to_string())),
            ("retain.min-free", args.retain_min_free.map(|n| n.to_string())),
        ];
        let (flag, value) =
            given.into_iter().find_map(|(flag, value)| Some((flag, value?))).unwrap_or(("retain.bytes", String::new()));
        return Err(ConfigError::new(flag, value, "a replay removes nothing; leave the flag out"));
    }
    Ok(retention)
}

fn command(args: &CaptureArgs) -> Result<Option<PathBuf>, ConfigError> {
    let Some(program) = &args.large_command else { return Ok(None) };
    if args.large_bytes.is_none() {
        let reason = "no flow is large without --large.bytes; give it, such as --large.bytes=1GB";
        return Err(ConfigError::new("large.command", program.display(), reason));
    }
    non_empty("large.command", program, "name a program or leave the flag out").map(Some)
}

fn control(args: &CaptureArgs, live: bool) -> Result<Option<PathBuf>, ConfigError> {
    match &args.control {
        Some(path) if !live => Err(ConfigError::new("control", path.display(), "a replay is not controlled; leave the flag out")),
        Some(path) => non_empty("control", path, "name a socket or leave the flag out").map(Some),
        None => Ok(None),
    }
}

/// Shorter segments are blocks.
const LEAST_ROTATION: Duration = Duration::from_secs(1);
/// A million flows hold 64 GB then, which is a slip of the finger.
const MOST_TAIL: u64 = 64_000;
const MOST_FLOWS: i64 = 100_000_000;

const INPUT: &str = "Input";
const CUTOFF: &str = "Cutoff (bytes such as 64KB, 1MB)";
const OUTPUT: &str = "Output";
const RETENTION: &str = "Retention, live";
const OPERATION: &str = "Operation";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    #[test]
    fn every_flag_has_one_line_of_help_and_a_value_name() {
        for arg in CaptureArgs::augment_args(Command::new("capture")).get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty() && !help.contains('\n') && !help.ends_with('.'), "{arg}: {help:?}");
            assert!(arg.get_value_names().is_some_and(|n| n.len() == 1), "{arg}");
            assert!(arg.get_help_heading().is_some(), "{arg}");
        }
    }

    #[test]
    fn the_default_keeps_everything_in_segments_of_five_minutes() {
        let config = config(&[]).unwrap();
        assert_eq!((config.cutoff.limits, config.cutoff.scope), (Limits::default(), Scope::Connection));
        assert_eq!((config.rotate, config.segment.rotate_bytes), (Some(Duration::from_secs(300)), Some(1_000_000_000)));
        assert_eq!((config.segment.format, config.segment.compress), (Format::Pcap, Compress::Zstd));
        assert_eq!((config.snap_len, config.promiscuous), (262_144, true));
        assert!(!config.retention.is_limited());
    }

    #[test]
    fn a_class_is_a_name_a_filter_with_colons_and_limits() {
        let classes =
            config(&["--class=v6=host 2001:db8::1 or ether host 02:00:00:00:00:01:bytes=1MB,packets=7", "--class", "all=ip:all"]);
        let classes = classes.unwrap().cutoff.classes;
        assert_eq!(classes[0].name, "v6");
        assert_eq!(classes[0].limits, Limits { bytes: Some(1_000_000), packets: Some(7) });
        assert_eq!((classes[1].name.as_str(), classes[1].limits), ("all", Limits::default()));
        for bad in [
            "dns",
            "dns=udp",
            "=udp:all",
            "dns=:all",
            "dns=udp port:bytes=1KB",
            "dns=udp:bytes=1kb",
            "dns=udp:packets=x",
            "dns=udp:5",
            "none=udp:all",
        ] {
            let error = config(&["--class", bad]).unwrap_err();
            assert_eq!((error.flag, error.value.as_str()), ("class", bad));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_flag() {
        for (args, flag) in [
            (&["--snaplen=0"][..], "snaplen"),
            (&["--cutoff.packets=0"], "cutoff.packets"),
            (&["--rotate.time=10ms"], "rotate.time"),
            (&["--rotate.time=-1s"], "rotate.time"),
            (&["--idletimeout=0"], "idletimeout"),
            (&["--keep.tail=65KB"], "keep.tail"),
            (&["--filter=no such thing"], "filter"),
            (&["--read=x", "--shards=2"], "shards"),
            (&["--read=x", "--retain.age=1h"], "retain.age"),
            (&["--read=x", "--interface=lo"], "interface"),
            (&["--large.command=true"], "large.command"),
            (&["--read=x", "--control=y"], "control"),
            (&["--datadir="], "datadir"),
        ] {
            assert_eq!(config(args).unwrap_err().flag, flag, "{args:?}");
        }
    }

    fn config(args: &[&str]) -> Result<CaptureConfig, ConfigError> {
        let command = CaptureArgs::augment_args(Command::new("capture").no_binary_name(true));
        let matches = command.try_get_matches_from(args).expect("the grammar is right");
        CaptureConfig::from_args(&CaptureArgs::from_arg_matches(&matches).expect("as the derive says"))
    }
}
