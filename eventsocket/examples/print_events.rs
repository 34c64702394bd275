//! Prints what an event server tells: `cargo run -p flowarc-eventsocket --example print_events -- /var/local/tcpeventsocket.sock`.

use flowarc_eventsocket::{Client, ClientEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: print_events SOCKET");
        std::process::exit(2);
    };
    let mut client = Client::start(path)?;
    loop {
        match client.next().await {
            ClientEvent::Event(event) => println!("{}", event.encode()),
            ClientEvent::Connected => eprintln!("connected"),
            ClientEvent::Disconnected { reason } => eprintln!("disconnected: {reason}"),
            ClientEvent::Bad(line) => eprintln!("skipped a line: {line}"),
        }
    }
}
