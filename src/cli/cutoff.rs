//! `flowarc cutoff`: suspends and resumes the cutoff of a running `flowarc capture`.

use super::headers::path;
use crate::spool::cutoff::Target;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What was typed for `flowarc cutoff`.
#[derive(Subcommand, Clone, Debug)]
pub enum CutoffCommand {
    /// Keep every packet of a flow, or of all flows of an address, from now on
    Suspend(TargetArgs),
    /// Let the cutoff hold for it again
    Resume(TargetArgs),
    /// Print what is suspended, one a line
    List {
        /// The capture's control socket
        #[arg(long, value_name = "PATH", value_parser = path())]
        control: PathBuf,
    },
}

/// Whom it is about.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// An address (192.0.2.1), or protocol and ends of a flow (tcp 192.0.2.1:80 198.51.100.2:50000)
    #[arg(value_name = "TARGET", num_args = 1..=3, required = true)]
    pub target: Vec<String>,

    /// The capture's control socket
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub control: PathBuf,
}

/// Asks, and prints the answer.
///
/// # Errors
/// Fails where nobody listens, and where the answer is a refusal.
pub fn run(command: &CutoffCommand) -> Result<()> {
    let (control, line) = match command {
        CutoffCommand::Suspend(args) => (&args.control, format!("suspend {}\n", target(args)?)),
        CutoffCommand::Resume(args) => (&args.control, format!("resume {}\n", target(args)?)),
        CutoffCommand::List { control } => (control, "list\n".to_owned()),
    };
    let name = || format!("control socket {} (does flowarc capture run with --control?)", control.display());
    let mut socket = UnixStream::connect(control).with_context(name)?;
    socket.write_all(line.as_bytes()).with_context(name)?;
    socket.shutdown(Shutdown::Write).with_context(name)?;
    for line in BufReader::new(socket).lines() {
        match line.with_context(name)?.as_str() {
            "ok" => return Ok(()),
            line => match line.strip_prefix("error: ") {
                Some(reason) => bail!("{reason}"),
                None => println!("{line}"),
            },
        }
    }
    bail!("control socket {}: the capture ended before it answered", control.display())
}

fn target(args: &TargetArgs) -> Result<Target> {
    args.target.join(" ").parse().map_err(|bad| super::BadMeaning(format!("{:?}: {bad}", args.target.join(" "))).into())
}
