//! What `flowarc headers` was asked to do, judged once and held in types that cannot say anything senseless.

use super::headers::{Form, HeadersArgs, ScrubField, ShuntChoice, UuidSourceChoice};
use super::values::{ByteCount, GoDuration, GoInt};
use crate::admin::ListenAddr;
use crate::sandbox::Policy;
use crate::scrub::ScrubPolicy;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration of `flowarc headers`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeadersConfig {
    /// Where frames come from.
    pub input: Input,
    /// Bytes captured of each frame at most: 256 to 262,144.
    pub snap_len: u32,
    /// Threads that share the flows, 1 to 64.
    pub shards: usize,
    /// Who names the flows.
    pub identity: Identity,
    /// How long things last.
    pub timers: Timers,
    /// How much is held.
    pub limits: Limits,
    /// Whether packets behind the capture duration are dropped in the kernel where it allows that.
    pub shunt: bool,
    /// What happens to flows that end.
    pub output: Output,
    /// What is removed beside payload.
    pub scrub: ScrubPolicy,
    /// Addresses never masked, beside the host's own when live; IPv4 ones not in their mapped form.
    pub local_addrs: Vec<IpAddr>,
    /// Where metrics and health are served; `None` where nowhere.
    pub admin: Option<ListenAddr>,
    /// Whether to sandbox.
    pub sandbox: Policy,
}

/// Where frames come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Interfaces of this host.
    Live {
        /// Their names, none twice; empty for all there are.
        interfaces: Vec<String>,
        /// Bytes of each interface's kernel buffer; `None` to choose by the number of interfaces.
        ring_size: Option<u32>,
    },
    /// Capture files, one after the other; never empty.
    Files(Vec<CaptureFile>),
}

/// A capture file to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaptureFile {
    /// Standard input; at most one of the inputs.
    Stdin,
    /// A file.
    Path(PathBuf),
}

/// Who names the flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// tcp-info's event socket, live.
    EventSocket {
        /// Its path; `@NAME` is an abstract socket.
        path: PathBuf,
        /// Whether the program ends with 1 when the socket cannot be reached or is lost.
        required: bool,
    },
    /// The event socket and the kernel, live, and compared: the event socket's names count.
    Both {
        /// The event socket's path; `@NAME` is an abstract socket.
        path: PathBuf,
        /// Whether the program ends with 1 when the socket cannot be reached or is lost.
        required: bool,
        /// The file with the beginning of the kernel's UUIDs; `None` for one made of host and boot.
        prefix_file: Option<PathBuf>,
        /// Where to announce connections to others, as tcp-info does.
        serve: Option<PathBuf>,
    },
    /// Recorded announcements, with capture files only.
    EventsFile(PathBuf),
    /// This host's kernel, live.
    Kernel {
        /// The file with the beginning of UUIDs; `None` for one made of host and boot.
        prefix_file: Option<PathBuf>,
        /// Where to announce connections to others, as tcp-info does.
        serve: Option<PathBuf>,
    },
    /// The flow itself.
    Generated,
}

impl Identity {
    /// The event socket's path and whether it is required, if it is a source.
    pub fn event_socket(&self) -> Option<(&Path, bool)> {
        match self {
            Self::EventSocket { path, required } | Self::Both { path, required, .. } => Some((path, *required)),
            _ => None,
        }
    }

    /// The prefix file and the socket to announce on, each if it is named, if the kernel is a source.
    pub fn kernel(&self) -> Option<(Option<&Path>, Option<&Path>)> {
        match self {
            Self::Kernel { prefix_file, serve } | Self::Both { prefix_file, serve, .. } => {
                Some((prefix_file.as_deref(), serve.as_deref()))
            }
            _ => None,
        }
    }
}

/// How long things last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// From a flow's beginning to the end of its capture; never zero.
    pub capture: Duration,
    /// From a flow's first packet until it counts as unnamed; at most `capture`, may be zero.
    pub uuid_wait: Duration,
    /// Idle time of an unclaimed flow, and the period of memory clean-up; never zero.
    pub flow_timeout: Duration,
    /// Idle time of a claimed flow; never zero.
    pub idle: Duration,
    /// From SIGTERM to the end of capture; may be zero.
    pub sigterm_wait: Duration,
}

/// How much is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The ledger's budget in bytes; never zero.
    pub heap: u64,
    /// Freed bytes that may stay with the process.
    pub idle_ram: u64,
    /// Established flows at once; `None` for no limit.
    pub flows: Option<usize>,
    /// Half-open flows at once; never zero.
    pub half_open: usize,
    /// Whether fewer flows are begun while the kernel drops frames.
    pub shed: bool,
}

/// What happens to flows that end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// The data folder; not made yet, and relative to the working folder.
    pub data_dir: PathBuf,
    /// The folder for unfinished files; `None` to choose one.
    pub tmp_dir: Option<PathBuf>,
    /// The catalogue's folder; `None` for no catalogue.
    pub catalogue: Option<PathBuf>,
    /// Whether flows are written while they go on.
    pub stream: bool,
    /// Whether files are forced to disk before they get their names.
    pub fsync: bool,
    /// Threads that compress and write, 1 to 64.
    pub writers: usize,
    /// Whether connections whose handshake never completed get files too.
    pub keep_half_open: bool,
}

impl HeadersConfig {
    /// Judges what was typed.
    ///
    /// # Errors
    /// Names the first flag whose value makes no sense, alone or beside the others, and what would.
    pub fn from_args(args: HeadersArgs) -> Result<Self, ConfigError> {
        let live = args.read.is_empty();
        Ok(Self {
            input: input(&args)?,
            snap_len: snap_len(args.maxheadersize),
            shards: count("shards", args.shards, 1, MAX_THREADS)?,
            timers: timers(&args)?,
            limits: limits(&args)?,
            shunt: live && args.shunt == ShuntChoice::Auto,
            scrub: ScrubPolicy {
                anonymize: args.anonymize_ip,
                keep_linktype: args.keep_linktype,
                mac: args.scrub.contains(&ScrubField::Mac),
                ip_id: args.scrub.contains(&ScrubField::IpId),
                tcp_timestamps: args.scrub.contains(&ScrubField::TcpTimestamps),
                tcp_checksums: args.scrub.contains(&ScrubField::TcpChecksums),
            },
            local_addrs: args.local_addr.iter().map(IpAddr::to_canonical).collect(),
            admin: admin(args.listen_address.as_deref(), live)?,
            sandbox: args.sandbox,
            output: output(&args, live)?,
            // Last, so that in the predecessor's form a value that is wrong is told before a socket that is missing.
            identity: if live { live_identity(&args)? } else { offline_identity(&args)? },
        })
    }
}

/// A flag whose value has the right form and makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("--{flag}={value}: {reason}")]
pub struct ConfigError {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl ConfigError {
    pub(super) fn new(flag: &'static str, value: impl Display, reason: impl Into<String>) -> Self {
        Self { flag, value: value.to_string(), reason: reason.into() }
    }
}

fn input(args: &HeadersArgs) -> Result<Input, ConfigError> {
    if let (true, Some(events)) = (args.read.is_empty(), &args.events) {
        return Err(ConfigError::new(
            "events",
            events.display(),
            "an event file names the flows of capture files only; add --read FILE, or use --tcpinfo.eventsocket for live capture",
        ));
    }
    Input::of(&args.interface, &args.read, args.ring_size)
}

impl Input {
    /// Judges what names the source of frames.
    pub(super) fn of(names: &[String], read: &[PathBuf], ring_size: ByteCount) -> Result<Self, ConfigError> {
        if read.is_empty() { interfaces(names, ring_size) } else { files(names, read) }
    }
}

fn interfaces(names: &[String], ring_size: ByteCount) -> Result<Input, ConfigError> {
    let mut interfaces: Vec<String> = Vec::new();
    for name in names {
        if name.is_empty() {
            let typed = names.join(",");
            return Err(ConfigError::new("interface", typed, "an interface name is empty; leave the flag out to capture on all"));
        }
        if !interfaces.contains(name) {
            interfaces.push(name.clone());
        }
    }
    let ring_size = match ring_size.0 {
        0 => None,
        // libpcap takes the size as a C int.
        n if n <= i32::MAX as u64 => Some(n as u32),
        _ => return Err(ConfigError::new("ring.size", ring_size, "a kernel buffer is at most 2147483647B")),
    };
    Ok(Input::Live { interfaces, ring_size })
}

fn files(interfaces: &[String], read: &[PathBuf]) -> Result<Input, ConfigError> {
    if !interfaces.is_empty() {
        let names = interfaces.join(",");
        return Err(ConfigError::new("interface", names, "--read takes frames from files; give the one flag or the other"));
    }
    let mut files = Vec::new();
    for path in read {
        if path.as_os_str().is_empty() {
            return Err(ConfigError::new("read", "", "name a capture file, or - for standard input"));
        }
        let file = if path == Path::new("-") { CaptureFile::Stdin } else { CaptureFile::Path(path.clone()) };
        if file == CaptureFile::Stdin && files.contains(&file) {
            return Err(ConfigError::new("read", "-", "standard input can be read once only"));
        }
        files.push(file);
    }
    Ok(Input::Files(files))
}

fn live_identity(args: &HeadersArgs) -> Result<Identity, ConfigError> {
    let path = &args.tcpinfo_eventsocket;
    let named = !path.as_os_str().is_empty();
    // The predecessor cannot run without a socket: a forgotten flag must not quietly change what files are named.
    let auto = named || args.tcpinfo_required || args.form == Form::Compat;
    match args.uuid_source {
        UuidSourceChoice::EventSocket => kernel_flags_unused(args)?,
        UuidSourceChoice::Auto if auto => kernel_flags_unused(args)?,
        UuidSourceChoice::Both => {}
        UuidSourceChoice::Auto | UuidSourceChoice::Kernel => {
            socket_not_required(args, "kernel")?;
            let (prefix_file, serve) = kernel_flags(args)?;
            return Ok(Identity::Kernel { prefix_file, serve });
        }
        UuidSourceChoice::Generated => {
            socket_not_required(args, "generated")?;
            kernel_flags_unused(args)?;
            return Ok(Identity::Generated);
        }
    }
    if !named {
        return Err(ConfigError::new(
            "tcpinfo.eventsocket",
            "",
            "no event socket is named, so connections would have no UUIDs; give tcp-info's socket, or do without: --uuid.source=kernel for \
             this host's own UUIDs, --uuid.source=generated for names made from the flows",
        ));
    }
    let (path, required) = (path.clone(), args.tcpinfo_required);
    if args.uuid_source == UuidSourceChoice::Both {
        let (prefix_file, serve) = kernel_flags(args)?;
        return Ok(Identity::Both { path, required, prefix_file, serve });
    }
    Ok(Identity::EventSocket { path, required })
}

fn kernel_flags(args: &HeadersArgs) -> Result<(Option<PathBuf>, Option<PathBuf>), ConfigError> {
    let given = |flag, path: &Option<PathBuf>| {
        path.as_deref().map(|path| non_empty(flag, path, "name a file or leave the flag out")).transpose()
    };
    Ok((given("uuid.prefix-file", &args.uuid_prefix_file)?, given("eventsocket.serve", &args.eventsocket_serve)?))
}

fn socket_not_required(args: &HeadersArgs, source: &str) -> Result<(), ConfigError> {
    if args.tcpinfo_required {
        let reason = format!("the event socket is not used with --uuid.source={source}; leave one of the two out");
        return Err(ConfigError::new("tcpinfo.required", "true", reason));
    }
    Ok(())
}

fn kernel_flags_unused(args: &HeadersArgs) -> Result<(), ConfigError> {
    for (flag, value) in [("uuid.prefix-file", &args.uuid_prefix_file), ("eventsocket.serve", &args.eventsocket_serve)] {
        if let Some(value) = value {
            return Err(ConfigError::new(
                flag,
                value.display(),
                "needs the kernel's UUIDs: use --uuid.source=kernel or both, live",
            ));
        }
    }
    Ok(())
}

fn offline_identity(args: &HeadersArgs) -> Result<Identity, ConfigError> {
    kernel_flags_unused(args)?;
    for (choice, name) in [(UuidSourceChoice::Kernel, "kernel"), (UuidSourceChoice::Both, "both")] {
        if args.uuid_source == choice {
            let reason =
                "the kernel knows the sockets of now, not those of a capture file; use --events FILE or --uuid.source=generated";
            return Err(ConfigError::new("uuid.source", name, reason));
        }
    }
    if args.tcpinfo_required {
        return Err(ConfigError::new("tcpinfo.required", "true", "the event socket is not used with --read; leave the flag out"));
    }
    match (&args.events, args.uuid_source) {
        (Some(events), UuidSourceChoice::Generated) => Err(ConfigError::new(
            "events",
            events.display(),
            "the event file would not be used with --uuid.source=generated; leave one of the two out",
        )),
        (Some(events), _) => non_empty("events", events, "name a file or leave the flag out").map(Identity::EventsFile),
        (None, UuidSourceChoice::EventSocket) => Err(ConfigError::new(
            "uuid.source",
            "eventsocket",
            "the flows of capture files are named by a file of events; add --events FILE, or use --uuid.source=generated",
        )),
        (None, _) => Ok(Identity::Generated),
    }
}

fn timers(args: &HeadersArgs) -> Result<Timers, ConfigError> {
    let capture = positive("captureduration", args.captureduration)?;
    let wait = args.uuidwaitduration;
    let uuid_wait =
        wait.non_negative().ok_or_else(|| ConfigError::new("uuidwaitduration", wait, "a wait is 0 or longer, such as 5s"))?;
    if uuid_wait > capture {
        let reason =
            format!("the capture of a flow would end before the wait for its UUID; at most --captureduration={capture:?}");
        return Err(ConfigError::new("uuidwaitduration", wait, reason));
    }
    let flow_timeout = positive("flowtimeout", args.flowtimeout)?;
    let idle = args.idletimeout.map(|d| positive("idletimeout", d)).transpose()?;
    Ok(Timers {
        capture,
        uuid_wait,
        flow_timeout,
        idle: idle.unwrap_or(flow_timeout.max(LEAST_DEFAULT_IDLE)),
        sigterm_wait: args.sigtermwait.non_negative().unwrap_or_default(),
    })
}

fn limits(args: &HeadersArgs) -> Result<Limits, ConfigError> {
    if args.maxheap.0 == 0 {
        return Err(ConfigError::new("maxheap", args.maxheap, "no flow could be kept; give a number of bytes, such as 2GB"));
    }
    let flows = count("maxflows", args.maxflows, 0, i64::MAX)?;
    Ok(Limits {
        heap: args.maxheap.0,
        idle_ram: args.maxidleram.0,
        flows: (flows > 0).then_some(flows),
        half_open: count("halfopen.max", args.halfopen_max, 1, i64::MAX)?,
        shed: args.overload_shed,
    })
}

fn output(args: &HeadersArgs, live: bool) -> Result<Output, ConfigError> {
    let tmp_dir = args.tmpdir.as_deref().map(|dir| non_empty("tmpdir", dir, "name a folder or leave the flag out"));
    let catalogue = args.catalog.as_deref().map(|dir| non_empty("catalog", dir, "name a folder or leave the flag out"));
    Ok(Output {
        data_dir: non_empty("datadir", &args.datadir, "name a folder, or . for the working folder")?,
        tmp_dir: tmp_dir.transpose()?,
        catalogue: catalogue.transpose()?,
        stream: args.stream,
        fsync: args.fsync,
        writers: count("writers", args.writers, 1, MAX_THREADS)?,
        keep_half_open: args.halfopen_keep.unwrap_or(!live),
    })
}

pub(super) fn admin(listen_address: Option<&str>, live: bool) -> Result<Option<ListenAddr>, ConfigError> {
    let text = match listen_address {
        Some("") => return Ok(None),
        Some(text) => text,
        None if live => DEFAULT_LISTEN_ADDRESS,
        None => return Ok(None),
    };
    text.parse().map(Some).map_err(|e| ConfigError::new("prometheusx.listen-address", text, format!("{e}")))
}

fn snap_len(size: GoInt) -> u32 {
    if size.0 <= 0 { MAX_SNAP_LEN } else { size.0.clamp(MIN_SNAP_LEN.into(), MAX_SNAP_LEN.into()) as u32 }
}

pub(super) fn positive(flag: &'static str, d: GoDuration) -> Result<Duration, ConfigError> {
    d.positive().ok_or_else(|| ConfigError::new(flag, d, "want a time longer than 0, such as 30s"))
}

pub(super) fn count(flag: &'static str, n: GoInt, least: i64, most: i64) -> Result<usize, ConfigError> {
    if n.0 < least || n.0 > most {
        let bounds = if most == i64::MAX { format!("want {least} or more") } else { format!("want {least} to {most}") };
        return Err(ConfigError::new(flag, n, bounds));
    }
    Ok(usize::try_from(n.0).unwrap_or(usize::MAX))
}

pub(super) fn non_empty(flag: &'static str, path: &Path, remedy: &str) -> Result<PathBuf, ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::new(flag, "", format!("the path is empty; {remedy}")));
    }
    Ok(path.to_owned())
}

/// The predecessor's address for metrics.
const DEFAULT_LISTEN_ADDRESS: &str = ":9990";

/// More shards or writers than any machine of this kind has cores for: a slip of the finger.
pub(super) const MAX_THREADS: i64 = 64;

/// Connections of people are often silent for some seconds: shorter than this must be asked for.
const LEAST_DEFAULT_IDLE: Duration = Duration::from_secs(30);

/// Below this, a frame's headers might not fit: Ethernet with tags, IPv6 with extensions and 60 bytes of TCP.
const MIN_SNAP_LEN: u32 = 256;

/// The most that libpcap captures of a frame (MAXIMUM_SNAPLEN in pcap-int.h).
pub(super) const MAX_SNAP_LEN: u32 = 262_144;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::Anonymize;
    use clap::FromArgMatches;

    #[test]
    fn the_defaults_capture_live_on_all_interfaces_with_the_kernels_uuids() {
        let config = config("").expect("defaults make sense");
        assert_eq!(config.input, Input::Live { interfaces: vec![], ring_size: None });
        assert_eq!(config.identity, Identity::Kernel { prefix_file: None, serve: None });
        assert_eq!(config.snap_len, 256);
        assert_eq!((config.shards, config.output.writers), (1, 2));
        assert_eq!(
            config.timers,
            Timers { capture: secs(30), uuid_wait: secs(5), flow_timeout: secs(30), idle: secs(30), sigterm_wait: secs(1) }
        );
        assert_eq!(
            config.limits,
            Limits { heap: 8_000_000_000, idle_ram: 3_000_000_000, flows: None, half_open: 262_144, shed: true }
        );
        assert_eq!(
            config.output,
            Output {
                data_dir: ".".into(),
                tmp_dir: None,
                catalogue: None,
                stream: false,
                fsync: false,
                writers: 2,
                keep_half_open: false
            }
        );
        assert_eq!(config.scrub, ScrubPolicy::default());
        assert_eq!(config.admin, ":9990".parse().ok());
    }

    #[test]
    fn capture_files_change_the_defaults_that_suit_live_capture() {
        let config = config("--read=a.pcap --read=-").expect("sensible");
        assert_eq!(config.input, Input::Files(vec![CaptureFile::Path("a.pcap".into()), CaptureFile::Stdin]));
        assert_eq!(config.identity, Identity::Generated);
        assert!(config.output.keep_half_open);
        assert_eq!(config.admin, None);
    }

    #[test]
    fn the_production_flags_mean_what_they_say() {
        let config = config(
            "--prometheusx.listen-address=127.0.0.1:9993 --datadir=/var/spool/e/pcap --tcpinfo.eventsocket=/s --stream=false \
             --anonymize.ip=netblock --maxidleram=1500MB --maxheap=2GB --flowtimeout=5s --maxflows=150 --interface=eth0,eth1,eth0",
        )
        .expect("sensible");
        assert_eq!(config.input, Input::Live { interfaces: vec!["eth0".into(), "eth1".into()], ring_size: None });
        assert_eq!(config.identity, Identity::EventSocket { path: "/s".into(), required: false });
        assert_eq!(config.scrub.anonymize, Anonymize::Netblock);
        assert_eq!(config.limits.flows, Some(150));
        assert_eq!((config.timers.flow_timeout, config.timers.idle), (secs(5), secs(30)));
    }

    #[test]
    fn every_senseless_value_is_refused_under_its_flag() {
        for (line, flag) in [
            ("--uuidwaitduration=31s", "uuidwaitduration"),
            ("--uuidwaitduration=-1ns", "uuidwaitduration"),
            ("--captureduration=0", "captureduration"),
            ("--captureduration=-1s", "captureduration"),
            ("--flowtimeout=0", "flowtimeout"),
            ("--flowtimeout=-5s", "flowtimeout"),
            ("--idletimeout=0s", "idletimeout"),
            ("--datadir=", "datadir"),
            ("--tmpdir=", "tmpdir"),
            ("--events=e.jsonl", "events"),
            ("--read=a --events=", "events"),
            ("--read=a --events=e --uuid.source=generated", "events"),
            ("--read=a --interface=eth0", "interface"),
            ("--read=a --uuid.source=eventsocket", "uuid.source"),
            ("--read=a --tcpinfo.required", "tcpinfo.required"),
            ("--read=", "read"),
            ("--read=- --read=-", "read"),
            ("--interface=", "interface"),
            ("--interface=eth0,", "interface"),
            ("--ring.size=2147483648", "ring.size"),
            ("--shards=0", "shards"),
            ("--shards=65", "shards"),
            ("--writers=0", "writers"),
            ("--writers=65", "writers"),
            ("--maxflows=-1", "maxflows"),
            ("--maxheap=0", "maxheap"),
            ("--halfopen.max=0", "halfopen.max"),
            ("--uuid.source=eventsocket", "tcpinfo.eventsocket"),
            ("--tcpinfo.required", "tcpinfo.eventsocket"),
            ("--tcpinfo.required --tcpinfo.eventsocket=/s --uuid.source=generated", "tcpinfo.required"),
            ("--tcpinfo.required --uuid.source=kernel", "tcpinfo.required"),
            ("--uuid.prefix-file=/p --uuid.source=generated", "uuid.prefix-file"),
            ("--uuid.source=kernel --uuid.prefix-file=", "uuid.prefix-file"),
            ("--eventsocket.serve=/e --tcpinfo.eventsocket=/s", "eventsocket.serve"),
            ("--read=a --uuid.source=kernel", "uuid.source"),
            ("--read=a --uuid.source=both", "uuid.source"),
            ("--uuid.source=both", "tcpinfo.eventsocket"),
            ("--uuid.source=both --tcpinfo.eventsocket=/s --eventsocket.serve=", "eventsocket.serve"),
            ("--prometheusx.listen-address=9990", "prometheusx.listen-address"),
        ] {
            let error = config(line).expect_err(line);
            assert_eq!(error.flag, flag, "{line}: {error}");
        }
    }

    #[test]
    fn values_at_a_limit_are_taken() {
        for line in [
            "--uuidwaitduration=30s",
            "--uuidwaitduration=0",
            "--captureduration=1ns --uuidwaitduration=0",
            "--shards=64 --writers=64",
            "--ring.size=2147483647",
            "--maxheap=1 --halfopen.max=1",
            "--tcpinfo.eventsocket=/s --uuid.source=generated",
            "--read=a --events=e --uuid.source=eventsocket",
        ] {
            assert!(config(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_snap_length_is_between_256_and_262144() {
        for (typed, snap_len) in [
            ("-1", 262_144),
            ("0", 262_144),
            ("1", 256),
            ("255", 256),
            ("257", 257),
            ("65535", 65_535),
            ("0x7fffffffffff", 262_144),
        ] {
            assert_eq!(config(&format!("--maxheadersize={typed}")).map(|c| c.snap_len), Ok(snap_len));
        }
    }

    #[test]
    fn a_negative_sigtermwait_is_none_and_idle_follows_a_long_flowtimeout() {
        let timers = config("--sigtermwait=-5s --flowtimeout=2m").expect("sensible").timers;
        assert_eq!((timers.sigterm_wait, timers.idle), (Duration::ZERO, secs(120)));
    }

    #[test]
    fn both_sources_take_the_flags_of_both() {
        let config =
            config("--uuid.source=both --tcpinfo.eventsocket=/s --tcpinfo.required --uuid.prefix-file=/p --eventsocket.serve=/e");
        let identity = config.expect("sensible").identity;
        assert_eq!(identity.event_socket(), Some((Path::new("/s"), true)));
        assert_eq!(identity.kernel(), Some((Some(Path::new("/p")), Some(Path::new("/e")))));
    }

    #[test]
    fn half_open_flows_are_kept_or_not_as_told() {
        assert!(config("--halfopen.keep").expect("sensible").output.keep_half_open);
        assert!(!config("--read=a --halfopen.keep=false").expect("sensible").output.keep_half_open);
    }

    #[test]
    fn scrub_fields_and_local_addresses_come_in_lists() {
        let config =
            config("--scrub=mac,tsopt --local.addr=192.0.2.1,::ffff:192.0.2.2 --local.addr=2001:db8::1").expect("sensible");
        assert!(config.scrub.mac && config.scrub.tcp_timestamps && !config.scrub.ip_id);
        assert_eq!(
            config.local_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        );
    }

    #[test]
    fn a_wrong_value_is_told_before_a_missing_socket() {
        for line in ["--flowtimeout=0", "--datadir=", "--prometheusx.listen-address=x"] {
            let mut args = args(line);
            args.form = Form::Compat;
            assert_ne!(HeadersConfig::from_args(args).expect_err(line).flag, "tcpinfo.eventsocket", "{line}");
        }
    }

    #[test]
    fn only_the_predecessors_form_needs_an_event_socket() {
        let args = HeadersArgs { form: Form::Compat, ..args("") };
        let error = HeadersConfig::from_args(args.clone()).expect_err("no socket");
        assert_eq!(error.flag, "tcpinfo.eventsocket");
        assert!(error.to_string().contains("--uuid.source=generated"), "{error}");
        for source in [UuidSourceChoice::Generated, UuidSourceChoice::Kernel] {
            assert!(HeadersConfig::from_args(HeadersArgs { uuid_source: source, ..args.clone() }).is_ok(), "{source:?}");
        }
    }

    fn config(line: &str) -> Result<HeadersConfig, ConfigError> {
        HeadersConfig::from_args(args(line))
    }

    fn args(line: &str) -> HeadersArgs {
        let matches = HeadersArgs::table().try_get_matches_from(line.split_whitespace()).expect("grammatical");
        HeadersArgs::from_arg_matches(&matches).expect("grammatical")
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }
}
