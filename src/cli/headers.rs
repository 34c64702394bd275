//! The flags of `flowarc headers`: the one table that both grammars read.
//!
//! Each flag has a value grammar, a default and a line of help here; [`super::config`] judges what the values mean, and
//! [`super::compat`] reads the predecessor's spelling of the same flags.

use super::values::{ByteCount, GoDuration, GoInt, parse_bool};
use crate::sandbox::Policy;
use crate::scrub::Anonymize;
use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, Args, Command, ValueEnum};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use tracing_subscriber::filter::LevelFilter;

/// What was typed for `flowarc headers`, each value in the form of its type and not yet judged.
#[derive(Args, Clone, Debug)]
pub struct HeadersArgs {
    /// Which grammar the flags came in: it decides what is missing when no event socket is named.
    #[arg(skip)]
    pub form: Form,

    /// Interface to capture on; repeat or separate by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = INPUT)]
    pub interface: Vec<String>,

    /// Capture file (pcap or pcapng) to read instead of interfaces; repeatable, - is standard input
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = INPUT)]
    pub read: Vec<PathBuf>,

    /// Bytes captured of each frame, of which only the headers are kept; at least 256, and 0 or less means 262144
    #[arg(long, value_name = "BYTES", default_value = "256", allow_negative_numbers = true, help_heading = INPUT)]
    pub maxheadersize: GoInt,

    /// Kernel buffer of each interface in each shard; 0 chooses 2 to 32 MiB by their number and --maxheap
    #[arg(long = "ring.size", value_name = "BYTES", default_value = "0", help_heading = INPUT)]
    pub ring_size: ByteCount,

    /// Threads that share the capture and its flows, 1 to 64
    #[arg(long, value_name = "N", default_value = "1", help_heading = INPUT)]
    pub shards: GoInt,

    /// Where UUIDs come from; auto: the event socket or event file that is named, else the kernel when live and generated from files; both: event socket and kernel, compared
    #[arg(long = "uuid.source", value_name = "SOURCE", value_enum, default_value = "auto", help_heading = UUIDS)]
    pub uuid_source: UuidSourceChoice,

    /// Unix socket on which tcp-info announces connections; @NAME for an abstract one; live capture only
    #[arg(long = "tcpinfo.eventsocket", value_name = "PATH", default_value = "", value_parser = path(), help_heading = UUIDS)]
    pub tcpinfo_eventsocket: PathBuf,

    /// Exit with 1 when the event socket cannot be reached or is lost, instead of connecting again
    #[arg(long = "tcpinfo.required", default_value = "false", help_heading = UUIDS)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tcpinfo_required: bool,

    /// File whose content UUIDs from the kernel begin with, as M-Lab's uuid library reads it [default: HOST_BOOT_unsafe]
    #[arg(long = "uuid.prefix-file", value_name = "FILE", value_parser = path(), help_heading = UUIDS)]
    pub uuid_prefix_file: Option<PathBuf>,

    /// Unix socket on which to announce connections as tcp-info does; with --uuid.source=kernel or both
    #[arg(long = "eventsocket.serve", value_name = "PATH", value_parser = path(), help_heading = UUIDS)]
    pub eventsocket_serve: Option<PathBuf>,

    /// File of recorded announcements, one JSON object a line, that names the flows of --read
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = UUIDS)]
    pub events: Option<PathBuf>,

    /// How long packets of a flow are kept from its beginning; later ones are only counted
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = TIMES)]
    pub captureduration: GoDuration,

    /// How long a flow waits for its UUID with all its packets; then it gets none past 8 KiB; at most --captureduration
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = TIMES)]
    pub uuidwaitduration: GoDuration,

    /// How long a flow without UUID may be idle after that wait, and how often unused memory is given back
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = TIMES)]
    pub flowtimeout: GoDuration,

    /// How long a flow with UUID may be idle before its file is written [default: 30s or --flowtimeout, the longer]
    #[arg(long, value_name = "DURATION", help_heading = TIMES)]
    pub idletimeout: Option<GoDuration>,

    /// How long capture goes on after SIGTERM or SIGINT while flows are open; less than 0 is 0
    #[arg(long, value_name = "DURATION", default_value = "1s", allow_hyphen_values = true, help_heading = TIMES)]
    pub sigtermwait: GoDuration,

    /// Established flows kept at once; 0 is no limit
    #[arg(long, value_name = "N", default_value = "0", help_heading = LIMITS)]
    pub maxflows: GoInt,

    /// Memory that the process may take: flows hold what code and rings leave, at least half
    #[arg(long, value_name = "BYTES", default_value = "8GB", help_heading = LIMITS)]
    pub maxheap: ByteCount,

    /// Freed bytes that may stay with the process instead of going back to the system
    #[arg(long, value_name = "BYTES", default_value = "3GB", help_heading = LIMITS)]
    pub maxidleram: ByteCount,

    /// Connections in their handshake that are held at once; one more pushes out the oldest
    #[arg(long = "halfopen.max", value_name = "N", default_value = "262144", help_heading = LIMITS)]
    pub halfopen_max: GoInt,

    /// Begin fewer flows while the kernel drops frames, so that those begun are whole
    #[arg(long = "overload.shed", default_value = "true", help_heading = LIMITS)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub overload_shed: bool,

    /// Where packets behind the capture duration are dropped; auto: in the kernel where it allows that
    #[arg(long, value_name = "WHERE", value_enum, default_value = "auto", help_heading = LIMITS)]
    pub shunt: ShuntChoice,

    /// With generated UUIDs, archive handshakes that never completed too [default: false live, true with --read]
    #[arg(long = "halfopen.keep", help_heading = OUTPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub halfopen_keep: Option<bool>,

    /// Folder below which files appear as YYYY/MM/DD/UUID.pcap.gz
    #[arg(long, value_name = "DIR", default_value = ".", value_parser = path(), help_heading = OUTPUT)]
    pub datadir: PathBuf,

    /// Folder for unfinished files, on the data folder's file system [default: a hidden sibling of it]
    #[arg(long, value_name = "DIR", value_parser = path(), help_heading = OUTPUT)]
    pub tmpdir: Option<PathBuf>,

    /// Folder for a catalogue of the flows: hourly Parquet files with a row for each, for flowarc find and DuckDB
    #[arg(long, value_name = "DIR", value_parser = path(), help_heading = OUTPUT)]
    pub catalog: Option<PathBuf>,

    /// Write flows to disk while they go on, instead of holding them in memory until they end
    #[arg(long, default_value = "false", help_heading = OUTPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub stream: bool,

    /// Force each file to disk before it gets its name
    #[arg(long, default_value = "false", help_heading = OUTPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fsync: bool,

    /// Threads that compress and write files, 1 to 64
    #[arg(long, value_name = "N", default_value = "2", help_heading = OUTPUT)]
    pub writers: GoInt,

    /// Keep the capture's link layer in files, instead of making it Ethernet
    #[arg(long = "keep-linktype", default_value = "false", help_heading = OUTPUT)]
    #[arg(value_name = "BOOL", action = ArgAction::Set, value_parser = parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub keep_linktype: bool,

    /// How addresses other than this host's are masked; netblock keeps IPv4 /24 and IPv6 /48
    #[arg(long = "anonymize.ip", value_name = "METHOD", value_enum, default_value = "none", help_heading = PRIVACY)]
    pub anonymize_ip: Anonymize,

    /// Address that is never masked; live, this host's own are added; repeat or separate by commas
    #[arg(long = "local.addr", value_name = "ADDR", value_delimiter = ',', help_heading = PRIVACY)]
    pub local_addr: Vec<IpAddr>,

    /// More to zero: hardware addresses, IP identifications, TCP timestamps, TCP checksums; separate by commas
    #[arg(long, value_name = "FIELD", value_enum, value_delimiter = ',', help_heading = PRIVACY)]
    pub scrub: Vec<ScrubField>,

    /// Where to serve /metrics, /healthz and /readyz over HTTP [default: :9990 live, nowhere with --read]
    #[arg(long = "prometheusx.listen-address", value_name = "HOST:PORT", help_heading = OPERATION)]
    pub listen_address: Option<String>,

    /// What the process gives up once it is set up; auto: all that the kernel can take away; required: that, or exit with 1
    #[arg(long, value_name = "POLICY", value_enum, default_value = "auto", help_heading = OPERATION)]
    pub sandbox: Policy,

    /// Log lines of this level and above go to standard error
    #[arg(long = "log.level", value_name = "LEVEL", value_enum, default_value = "info", help_heading = OPERATION)]
    pub log_level: LogLevel,
}

impl HeadersArgs {
    /// The flags as a command of their own that looks at no environment: what the compatible grammar parses with.
    pub(super) fn table() -> Command {
        let command = Command::new("packet-headers").no_binary_name(true).disable_help_flag(true).args_override_self(true);
        <Self as Args>::augment_args(command)
    }
}

/// Which grammar arguments came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// `flowarc headers`.
    #[default]
    Modern,
    /// The predecessor's.
    Compat,
}

/// Where UUIDs come from, as chosen by `--uuid.source`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum UuidSourceChoice {
    /// What the other flags name, else the kernel when live and generated from files.
    Auto,
    /// The event socket, or with --read the event file.
    #[value(name = "eventsocket")]
    EventSocket,
    /// This host's kernel, which knows every socket; live capture only
    Kernel,
    /// The event socket and the kernel, compared; where they differ, the event socket counts.
    Both,
    /// Made from the flow itself.
    Generated,
}

/// Where packets that nobody keeps are dropped.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShuntChoice {
    /// In the kernel where possible.
    Auto,
    /// In the program.
    Off,
}

/// A header field that `--scrub` zeroes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubField {
    /// Hardware addresses.
    Mac,
    /// IPv4 identification and IPv6 flow label.
    #[value(name = "ipid")]
    IpId,
    /// The values of the TCP timestamp option.
    #[value(name = "tsopt")]
    TcpTimestamps,
    /// The TCP checksum, which is a sum of the payload too: masking clears it always.
    #[value(name = "tcpsum")]
    TcpChecksums,
}

/// The least important log lines to write.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names of log levels say all")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl ValueEnum for Anonymize {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::None, Self::Netblock]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::None => "none",
            Self::Netblock => "netblock",
        }))
    }
}

impl ValueEnum for Policy {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Required, Self::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Auto => "auto",
            Self::Required => "required",
            Self::Off => "off",
        }))
    }
}

/// The name of the environment variable that stands in for a flag: the predecessor's rule for the predecessor's flags.
///
/// Ours begin with `FLOWARC_` beside that: `TMPDIR`, `LOG_LEVEL` or `READ` may well be there for somebody else, and a
/// deployment that only swaps the binary must not be changed by them.
pub(super) fn env_name(flag: &str) -> String {
    let mangled = flag.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    let prefix = if PREDECESSORS.contains(&flag) { "" } else { "FLOWARC_" };
    prefix.chars().chain(mangled).collect()
}

/// The predecessor's flags.
const PREDECESSORS: [&str; 14] = [
    "anonymize.ip",
    "captureduration",
    "datadir",
    "flowtimeout",
    "interface",
    "maxflows",
    "maxheadersize",
    "maxheap",
    "maxidleram",
    "prometheusx.listen-address",
    "sigtermwait",
    "stream",
    "tcpinfo.eventsocket",
    "uuidwaitduration",
];

/// Lets a flag fall back to its environment variable, as clap does it.
pub(super) fn with_env(arg: Arg) -> Arg {
    match arg.get_long().map(env_name) {
        Some(name) => arg.env(name).hide_env_values(true),
        None => arg,
    }
}

/// Takes an empty path, which is for [`super::config`] to refuse.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(|text: OsString| PathBuf::from(text))
}

const INPUT: &str = "Input";
const UUIDS: &str = "UUIDs";
const TIMES: &str = "Times (such as 30s, 1m30s, 500ms)";
const LIMITS: &str = "Limits (bytes such as 1500MB, 8GB)";
const OUTPUT: &str = "Output";
const PRIVACY: &str = "Privacy";
const OPERATION: &str = "Operation";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_one_line_of_help_and_a_value_name() {
        for arg in HeadersArgs::table().get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty() && !help.contains('\n') && !help.ends_with('.'), "{arg}: {help:?}");
            assert!(arg.get_value_names().is_some_and(|n| n.len() == 1), "{arg}");
            assert!(arg.get_help_heading().is_some(), "{arg}");
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_only_the_predecessors_have_bare_names() {
        let table = HeadersArgs::table().mut_args(with_env);
        for arg in table.get_arguments() {
            let long = arg.get_long().expect("every flag has a long name");
            let bare = long.to_uppercase().replace(['.', '-'], "_");
            let expected = if PREDECESSORS.contains(&long) { bare } else { format!("FLOWARC_{bare}") };
            assert_eq!(arg.get_env().map(|e| e.to_string_lossy().into_owned()), Some(expected));
        }
        assert_eq!(env_name("prometheusx.listen-address"), "PROMETHEUSX_LISTEN_ADDRESS");
        assert_eq!(env_name("tmpdir"), "FLOWARC_TMPDIR");
    }

    #[test]
    fn the_predecessors_flags_are_all_there_with_its_defaults() {
        let table = HeadersArgs::table();
        for (name, default) in [
            ("anonymize.ip", Some("none")),
            ("captureduration", Some("30s")),
            ("datadir", Some(".")),
            ("flowtimeout", Some("30s")),
            ("interface", None),
            ("maxflows", Some("0")),
            ("maxheadersize", Some("256")),
            ("maxheap", Some("8GB")),
            ("maxidleram", Some("3GB")),
            // Its default, :9990, depends on whether capture is live: super::config knows.
            ("prometheusx.listen-address", None),
            ("sigtermwait", Some("1s")),
            ("stream", Some("false")),
            ("tcpinfo.eventsocket", Some("")),
            ("uuidwaitduration", Some("5s")),
        ] {
            let arg = table.get_arguments().find(|a| a.get_long() == Some(name)).unwrap_or_else(|| panic!("no flag {name}"));
            assert_eq!(arg.get_default_values().first().and_then(|v| v.to_str()), default, "{name}");
        }
    }
}
