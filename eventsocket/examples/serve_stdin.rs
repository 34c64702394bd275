//! Serves the event lines of its standard input: `cargo run -p flowarc-eventsocket --example serve_stdin -- /tmp/events.sock < events.jsonl`.

use flowarc_eventsocket::{CHUNK, Decoder, Server};
use std::time::Duration;
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: serve_stdin SOCKET");
        std::process::exit(2);
    };
    let server = Server::bind(path).await?;
    let mut input = tokio::io::stdin();
    let mut decoder = Decoder::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = input.read(&mut chunk).await?;
        decoder.handle_bytes(&chunk[..n]);
        let last = if n == 0 { decoder.finish() } else { None };
        for line in std::iter::from_fn(|| decoder.poll()).chain(last) {
            match line {
                Ok(event) => server.send(&event),
                Err(bad) => eprintln!("skipped a line: {bad}"),
            }
        }
        if n == 0 {
            server.shutdown(Duration::from_secs(1)).await;
            return Ok(());
        }
    }
}
