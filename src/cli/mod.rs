//! The command line: one file per subcommand, and the predecessor's grammar.
//!
//! What was typed becomes a typed configuration or a message with an exit code before anything is opened.

pub mod anonymize;
pub mod capture;
pub mod catalog;
pub mod compat;
pub mod config;
pub mod cutoff;
pub mod events;
pub mod export;
pub mod find;
pub mod flows;
pub mod get;
pub mod gotm;
pub mod headers;
pub mod health;
pub mod man;
pub mod repair;
pub mod show;
pub mod spool;
pub mod values;
pub mod verify;

use crate::admin::{GIT_COMMIT, VERSION};
use capture::{CaptureArgs, CaptureConfig};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use compat::Note;
use config::HeadersConfig;
use headers::{HeadersArgs, LogLevel};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;

/// What the process does once its arguments are understood.
#[derive(Clone, Copy, Debug)]
pub struct Jobs {
    /// `flowarc headers`.
    pub headers: fn(HeadersConfig) -> anyhow::Result<()>,
    /// `flowarc capture`.
    pub capture: fn(CaptureConfig) -> anyhow::Result<()>,
}

/// Parses the process's arguments and runs the job that they ask for.
///
/// Exit codes: 0 done, 1 failed, 2 the arguments break the grammar, 64 they make no sense (1 in the predecessor's form).
pub fn main(jobs: Jobs) -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let program = if args.is_empty() { OsString::from("flowarc") } else { args.remove(0) };
    let done = match gotm::arguments(&program, &args) {
        Some(args) => run_gotm(args, jobs),
        None if compat::is_spoken(&program, &args) => run_compat(&args, jobs),
        None => run_modern(args, jobs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("{}", exit.message.trim_end());
            ExitCode::from(exit.code)
        }
    }
}

/// Why the process ends now: what it says on standard error, and its exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// The last words.
    pub message: String,
}

impl Exit {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Arguments that turned out to make no sense, or a failure.
    fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<BadMeaning>() {
            Some(bad) => Self::new(BAD_MEANING, format!("flowarc: {bad}")),
            None => Self::failure(error),
        }
    }

    /// A failure while running: the whole chain of causes on one line.
    fn failure(error: &anyhow::Error) -> Self {
        Self::new(RUN_FAILED, format!("flowarc: {}", one_line(error)))
    }
}

/// Arguments that make no sense, with what would.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadMeaning(String);

/// Archives the headers of every TCP connection, one small pcap per connection, named by its UUID.
#[derive(Parser)]
#[command(name = "flowarc", subcommand_required = true, arg_required_else_help = true, after_help = GRAMMARS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Archive the packet headers of each TCP connection in a file of its own
    #[command(args_override_self = true, after_help = EXAMPLES)]
    Headers(Box<HeadersArgs>),
    /// Keep whole packets of every protocol in rotating files, with a cutoff per flow
    #[command(args_override_self = true, after_help = CAPTURE_EXAMPLES)]
    Capture(Box<CaptureArgs>),
    /// Suspend and resume the cutoff of a running capture
    #[command(subcommand)]
    Cutoff(cutoff::CutoffCommand),
    /// Print, record, serve or replay the announcements of connections
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Find flows in an archive: by UUID, time, address, port, bytes, duration or retransmissions
    #[command(after_help = FIND_EXAMPLES)]
    Find(Box<find::FindArgs>),
    /// Get flows out of an archive: to standard output, to files, or merged into one capture
    #[command(after_help = GET_EXAMPLES)]
    Get(Box<get::GetArgs>),
    /// Export flows and their packets as Parquet, CSV or JSON lines
    Export(Box<export::ExportArgs>),
    /// Mask the addresses of an archive: by netblock, or one to one with a key (Crypto-PAn)
    Anonymize(anonymize::AnonymizeArgs),
    /// Make the catalogue of an archive, or add what it lacks
    Catalog(catalog::CatalogArgs),
    /// Explain one connection: round-trip times, retransmissions, options, and how far to trust its file
    #[command(after_help = show::EXAMPLES)]
    Show(show::ShowArgs),
    /// Check files: whole, in order, headers only, masked as they say, and true in what they say
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Recover what is whole of a truncated or damaged file, and say what was lost
    #[command(after_help = repair::EXAMPLES)]
    Repair(repair::RepairArgs),
    /// Ask the flowarc that runs on this host how it is
    #[command(after_help = health::EXAMPLES)]
    Health(health::HealthArgs),
    /// Write the manual pages into a folder
    Man(man::ManArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn run_modern(args: Vec<OsString>, jobs: Jobs) -> Result<(), Exit> {
    let program = OsString::from("flowarc");
    let parsed = command().try_get_matches_from([program].into_iter().chain(args)).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version go to standard output, with colours where it is a terminal: clap knows how.
        Err(e) if e.exit_code() == 0 => return e.print().or_else(allow_broken_pipe),
        Err(e) => return Err(Exit::new(BAD_GRAMMAR, e.render().to_string())),
    };
    match cli.command {
        Command::Headers(args) => {
            start_logs(args.log_level);
            let config = HeadersConfig::from_args(*args).map_err(|e| Exit::new(BAD_MEANING, format!("flowarc: {e}")))?;
            (jobs.headers)(config).map_err(|e| Exit::failure(&e))
        }
        Command::Capture(args) => {
            start_logs(args.log_level);
            let config = CaptureConfig::from_args(&args).map_err(|e| Exit::new(BAD_MEANING, format!("flowarc: {e}")))?;
            (jobs.capture)(config).map_err(|e| Exit::failure(&e))
        }
        Command::Events(command) => {
            start_logs(LogLevel::Info);
            events::run(command).or_else(|e| reader_exit(&e))
        }
        Command::Cutoff(command) => cutoff::run(&command).or_else(|e| reader_exit(&e)),
        Command::Find(args) => find::run(&args).or_else(|e| reader_exit(&e)),
        Command::Get(args) => get::run(&args).or_else(|e| reader_exit(&e)),
        Command::Export(args) => export::run(&args).or_else(|e| reader_exit(&e)),
        Command::Anonymize(args) => anonymize::run(&args).or_else(|e| reader_exit(&e)),
        Command::Catalog(args) => catalog::run(&args).or_else(|e| reader_exit(&e)),
        Command::Show(args) => show::run(&args).or_else(|e| reader_exit(&e)),
        Command::Verify(args) => verify::run(&args).or_else(|e| reader_exit(&e)),
        Command::Repair(args) => repair::run(&args).or_else(|e| reader_exit(&e)),
        Command::Health(args) => health::run(&args).or_else(|e| reader_exit(&e)),
        Command::Man(args) => man::run(&args, command()).or_else(|e| reader_exit(&e)),
        Command::Completions { shell } => print_completions(shell),
    }
}

fn run_compat(args: &[OsString], jobs: Jobs) -> Result<(), Exit> {
    let compat::Parsed { args, notes } = compat::parse(args, |name| std::env::var_os(name))?;
    start_logs(args.log_level);
    for note in notes {
        match note {
            Note::FromEnv { flag, value } => info!(flag, value, "flag set by the environment"),
            Note::EnvOverridden { flag, variable, value } => {
                warn!(flag, variable, value, "the command line overrides an environment variable");
            }
            Note::Ignored { arguments } => warn!(arguments, "arguments after the flags are ignored"),
        }
    }
    let config = HeadersConfig::from_args(args).map_err(|e| Exit::new(RUN_FAILED, format!("flowarc: {e}")))?;
    (jobs.headers)(config).map_err(|e| Exit::failure(&e))
}

fn run_gotm(args: &[OsString], jobs: Jobs) -> Result<(), Exit> {
    let config = gotm::parse(args, std::env::var_os("SNF_NUM_RINGS"))?;
    start_logs(LogLevel::Info);
    (jobs.capture)(config).map_err(|e| Exit::failure(&e))
}

/// The modern grammar, with environment variables behind the flags of the main job.
pub fn command() -> clap::Command {
    let version = match GIT_COMMIT {
        Some(commit) => format!("{VERSION} ({commit})"),
        None => VERSION.to_owned(),
    };
    Cli::command().version(version).mut_subcommand("headers", |headers| headers.mut_args(headers::with_env))
}

fn print_completions(shell: Shell) -> Result<(), Exit> {
    // Into memory first, because clap_complete panics where a pipe's reader has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "flowarc", &mut script);
    io::stdout().write_all(&script).or_else(allow_broken_pipe)
}

/// How a reader ends: quietly where who read its output has gone.
fn reader_exit(error: &anyhow::Error) -> Result<(), Exit> {
    let gone = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref().is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) { Ok(()) } else { Err(Exit::of(error)) }
}

fn allow_broken_pipe(error: io::Error) -> Result<(), Exit> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Exit::new(RUN_FAILED, format!("flowarc: write to standard output: {error}"))),
    }
}

/// Sends log lines to standard error from here on.
fn start_logs(level: LogLevel) {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

const GRAMMARS: &str =
    "Called as packet-headers, or with a flag as its first argument, it reads the command line as packet-headers does.";

const EXAMPLES: &str = "\
Examples:
  flowarc headers --interface eth0 --datadir archive
      Live, with the UUIDs of this host's sockets, from the kernel; needs CAP_NET_RAW
  flowarc headers --interface eth0 --tcpinfo.eventsocket /run/tcpevents.sock --datadir archive
      Live, with tcp-info's UUIDs
  flowarc headers --read in.pcap --anonymize.ip netblock --datadir archive
      A capture file, with all addresses masked";

const FIND_EXAMPLES: &str = "\
Prints a table on a terminal, and UUIDs on a pipe.

Examples:
  flowarc find archive --since 10m --addr 192.0.2.0/24
  flowarc find archive --min-retrans 5 --json | jq .client_rtt_min_ms
  flowarc find bundles --uuid ndt-abcde_1795";

const GET_EXAMPLES: &str = "\
Examples:
  flowarc get archive ndt-abcde_1795218624_0000000000000004 | tcpdump -r -
  flowarc get archive --since 5m --port 443 | wireshark -k -i -
  flowarc get archive --addr 192.0.2.7 -o found/
  flowarc get 20261121T000000.tgz ndt-abcde_1795218624_0000000000000004 -o flow.pcap.gz";

const CAPTURE_EXAMPLES: &str = "\
Examples:
  flowarc capture --interface eth0 --cutoff.bytes 64KB --datadir spool --retain.bytes 500GB
      The first 64 KB of every flow, the last 500 GB of them; needs CAP_NET_RAW
  flowarc capture --interface eth0 --cutoff.bytes 64KB --class 'dns=port 53:all' --keep.ends --datadir spool
      The same, but all of DNS, and how connections end
  flowarc capture --read in.pcap --report
      What a cutoff would keep of a capture file

Called as gotm, or as flowarc capture --gotm, it reads gotm's command line (-help), and writes and counts as gotm does.";

/// The exit code of a failure while running, and of all but grammar in the predecessor's form.
const RUN_FAILED: u8 = 1;

/// The exit code of arguments that cannot be parsed: clap's and Go's.
const BAD_GRAMMAR: u8 = 2;

/// The exit code of arguments that make no sense: EX_USAGE of sysexits.h.
const BAD_MEANING: u8 = 64;

/// An error and its causes on one line. A cause that an error has in its own words, with the remedy behind it, is not said again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cause_is_said_once() {
        let busy = || std::io::Error::other("address in use");
        #[derive(Debug, thiserror::Error)]
        #[error("listen on :1: {source} (choose another)")]
        struct Bind {
            source: std::io::Error,
        }
        let error = anyhow::Error::from(Bind { source: busy() }).context("start");
        assert_eq!(one_line(&error), "start: listen on :1: address in use (choose another)");
        assert_eq!(one_line(&anyhow::Error::from(busy()).context("listen")), "listen: address in use");
    }

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn a_failure_is_one_line_with_every_cause() {
        let error = anyhow::anyhow!("permission denied\n(needs CAP_NET_RAW)").context("open eth0").context("start capture");
        let exit = Exit::failure(&error);
        assert_eq!(exit.code, 1);
        assert_eq!(exit.message, "flowarc: start capture: open eth0: permission denied (needs CAP_NET_RAW)");
    }
}
