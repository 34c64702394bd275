//! `flowarc health`: asks a running flowarc on this host how it is, for health checks where there is no shell and no curl.

use super::BadMeaning;
use super::config;
use super::show::print;
use super::values::GoDuration;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What was typed for `flowarc health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Where the flowarc that is asked listens: the value of its own flag [default: :9990]
    #[arg(
        long = "prometheusx.listen-address",
        value_name = "HOST:PORT",
        env = "PROMETHEUSX_LISTEN_ADDRESS",
        hide_env_values = true
    )]
    pub listen_address: Option<String>,

    /// Ask whether it archives (/readyz), not only whether it is alive (/healthz)
    #[arg(long)]
    pub ready: bool,

    /// How long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    pub timeout: GoDuration,
}

/// Asks, and prints the answer.
///
/// # Errors
/// Fails where nobody answers in time, and where the answer is not that all is well.
pub fn run(args: &HealthArgs) -> Result<()> {
    let address = config::admin(args.listen_address.as_deref(), true).map_err(|e| BadMeaning(e.to_string()))?;
    let address = address
        .ok_or_else(|| BadMeaning("--prometheusx.listen-address=: nothing listens, so nothing can be asked".to_owned()))?;
    let timeout = config::positive("timeout", args.timeout).map_err(|e| BadMeaning(e.to_string()))?;
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let addresses = address.reached_at().with_context(|| format!("find the address of {address}"))?;
    let asked = || {
        let at = addresses.iter().map(|a| format!("http://{a}{path}")).collect::<Vec<_>>().join(" and ");
        format!("ask {at} (does flowarc run, with this --prometheusx.listen-address?)")
    };
    let answer = ask(&addresses, path, timeout).with_context(asked)?;
    match parse(&answer) {
        Some((200, body)) => print(body),
        Some((status, body)) => bail!("{path} says {status}: {}", body.trim_end()),
        None => bail!("{path}: the answer is not HTTP (what else listens on {address}?)"),
    }
}

/// The answer of the first address that takes the connection.
fn ask(addresses: &[SocketAddr], path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut connected = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        connected = left().and_then(|left| TcpStream::connect_timeout(address, left));
        if connected.is_ok() {
            break;
        }
    }
    let mut stream = connected?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while answer.len() < LONGEST {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part)? {
            0 => break,
            n => answer.extend_from_slice(&part[..n]),
        }
    }
    Ok(answer)
}

/// Status and body of an HTTP/1 answer (RFC 9112 section 4) that ends with its connection.
fn parse(answer: &[u8]) -> Option<(u16, &str)> {
    let (head, body) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
    Some((status.parse().ok().filter(|_| is_status)?, body))
}

pub(super) const EXAMPLES: &str = "\
Exit code: 0 all is well, 1 it is not or nobody answers, 2 or 64 wrong arguments

Examples:
  flowarc health
      Is flowarc alive on this host? As a container's health check: [\"flowarc\", \"health\"]
  flowarc health --ready --prometheusx.listen-address 127.0.0.1:9993
      Does the one on port 9993 archive connections?";

/// More than any answer of flowarc's, in bytes.
const LONGEST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    #[test]
    fn status_and_body_are_read() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nalive\n"), Some((200, "alive\n")));
        assert_eq!(parse(b"HTTP/1.0 503 Service Unavailable\r\n\r\n"), Some((503, "")));
        for other in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 +20 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn who_takes_the_connection_and_does_not_answer_is_waited_for_no_longer_than_asked() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound");
        let error = ask(&[address], "/healthz", Duration::from_millis(20)).expect_err("no answer");
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "HTTP/1\\.[01 ]{0,3}[0-9 ]{0,5}(\r\n){0,3}\\PC{0,4}".prop_map(String::into_bytes),
        ]) {
            if let Some((status, _)) = parse(&answer) {
                prop_assert!(status < 1000);
            }
        }
    }
}
