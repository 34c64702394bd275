//! `flowarc anonymize`: masks an archive anew.

use super::BadMeaning;
use super::flows::{Progress, read_key};
use super::headers::{ScrubField, path};
use crate::key::Address;
use crate::query::anonymize::{Masking, Method, anonymize};
use crate::query::archive::Archive;
use crate::scrub::ScrubPolicy;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// What was typed for `flowarc anonymize`.
#[derive(Args, Clone, Debug)]
pub struct AnonymizeArgs {
    /// Folder of archived files, a .tgz bundle, or a capture file
    #[arg(value_name = "ARCHIVE", value_parser = path())]
    pub archive: PathBuf,

    /// Folder to make, with the same files
    #[arg(short, long, value_name = "DIR", value_parser = path())]
    pub output: PathBuf,

    /// How addresses are masked
    #[arg(long, value_name = "METHOD", value_enum, default_value = "netblock")]
    pub method: MethodChoice,

    /// File with Crypto-PAn's key: 32 bytes, or 64 hexadecimal digits
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub key: Option<PathBuf>,

    /// Address that is not masked; repeat or separate by commas
    #[arg(long = "local.addr", value_name = "ADDR", value_delimiter = ',')]
    pub local_addr: Vec<IpAddr>,

    /// More to zero: hardware addresses, IP identifications, TCP timestamps, TCP checksums; separate by commas
    #[arg(long, value_name = "FIELD", value_enum, value_delimiter = ',')]
    pub scrub: Vec<ScrubField>,
}

/// How addresses are masked.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MethodChoice {
    /// IPv4 keeps /24 and IPv6 /48: cannot be undone
    Netblock,
    /// Crypto-PAn: one to one, common prefixes stay common; can be undone with the key
    Cryptopan,
}

/// Masks it.
///
/// # Errors
/// Fails where the archive or the key cannot be read, where the output cannot be written, and where a file was left out.
pub fn run(args: &AnonymizeArgs) -> Result<()> {
    let method = match (args.method, &args.key) {
        (MethodChoice::Netblock, None) => Method::Netblock,
        (MethodChoice::Netblock, Some(_)) => {
            return Err(BadMeaning("--key: only --method=cryptopan has a key; give that, or leave the key out".to_owned()).into());
        }
        (MethodChoice::Cryptopan, None) => {
            let remedy = "--method=cryptopan: name the key's file with --key; head -c 32 /dev/urandom > FILE makes one";
            return Err(BadMeaning(remedy.to_owned()).into());
        }
        (MethodChoice::Cryptopan, Some(key)) => Method::CryptoPan(Box::new(read_key(key)?)),
    };
    let also = ScrubPolicy {
        mac: args.scrub.contains(&ScrubField::Mac),
        ip_id: args.scrub.contains(&ScrubField::IpId),
        tcp_timestamps: args.scrub.contains(&ScrubField::TcpTimestamps),
        tcp_checksums: args.scrub.contains(&ScrubField::TcpChecksums),
        ..ScrubPolicy::default()
    };
    let local = args.local_addr.iter().map(|ip| Address::from(*ip)).collect();
    let archive = Archive::open(&args.archive, None)?.without_catalogue();
    let progress = Progress::new();
    let done = anonymize(&archive, &args.output, &Masking { method, local, also }, &progress)?;
    progress.finish();
    eprintln!(
        "{} files with {} packets in {}; {} packets that cannot be parsed are left out",
        done.files,
        done.packets,
        args.output.display(),
        done.dropped
    );
    if done.unreadable > 0 {
        bail!("{} files could not be read and are left out", done.unreadable);
    }
    Ok(())
}
