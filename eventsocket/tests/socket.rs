//! Client and server over real sockets.

use flowarc_eventsocket::{
    BadKind, Client, ClientEvent, Disconnect, Event, MAX_LINE, MAX_QUEUED_LINES, Server, SocketId, Timestamp,
};
use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

#[tokio::test]
async fn an_event_arrives_as_it_was_sent() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let mut client = connected(&place).await;
    clients(&server, 1).await;
    let (local, remote) = ("[2001:db8::1]:443".parse().unwrap(), "[2001:db8::2]:50000".parse().unwrap());
    let opened = Event::open(Timestamp::from_unix_nanos(1), "a", SocketId::new(local, remote, 7));
    server.send(&opened);
    server.send(&close("a"));
    assert_eq!(event(&mut client).await, opened);
    assert_eq!(event(&mut client).await, close("a"));
    assert_eq!(client.stats().events(), 2);
    assert_eq!(client.stats().bytes(), (opened.encode().len() + close("a").encode().len() + 2) as u64);
}

#[tokio::test]
async fn all_clients_hear_all_events() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let mut all = [connected(&place).await, connected(&place).await, connected(&place).await];
    clients(&server, 3).await;
    server.send(&close("a"));
    for client in &mut all {
        assert_eq!(event(client).await.uuid, "a");
    }
}

#[tokio::test]
async fn an_abstract_socket_works() {
    let name = format!("@flowarc-eventsocket-test-{}", std::process::id());
    let server = Server::bind(&name).await.unwrap();
    assert_eq!(Server::bind(&name).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut client = Client::start(&name).unwrap();
    assert!(matches!(next(&mut client).await, ClientEvent::Connected));
    clients(&server, 1).await;
    server.send(&close("a"));
    assert_eq!(event(&mut client).await.uuid, "a");
}

#[tokio::test]
async fn a_client_that_was_there_first_connects_as_soon_as_the_socket_appears() {
    let place = Place::new();
    let missing_folders = Place { socket: place.folder.path().join("a/b/events.sock"), ..place };
    let mut client = Client::start(&missing_folders.socket).unwrap();
    assert!(
        matches!(next(&mut client).await, ClientEvent::Disconnected { reason: Disconnect::Unreachable(e) } if e.kind() == ErrorKind::NotFound)
    );
    assert!(!client.stats().connected());
    // Long enough for pauses of a second and more, which the appearance of the path must cut short.
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::fs::create_dir_all(missing_folders.socket.parent().unwrap()).unwrap();
    let _server = Server::bind(&missing_folders.socket).await.unwrap();
    let since = Instant::now();
    assert!(matches!(next(&mut client).await, ClientEvent::Connected));
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert_eq!(client.stats().reconnects(), 0);
}

#[tokio::test]
async fn a_client_finds_the_server_again_however_often_its_path_is_made_anew() {
    let place = Place::new();
    let mut server = Server::bind(&place.socket).await.unwrap();
    let mut client = connected(&place).await;
    for round in 1..=3 {
        drop(server);
        assert!(!place.socket.exists());
        assert!(matches!(next(&mut client).await, ClientEvent::Disconnected { reason: Disconnect::Closed }));
        assert!(!client.stats().connected());
        server = Server::bind(&place.socket).await.unwrap();
        assert!(matches!(next(&mut client).await, ClientEvent::Connected));
        clients(&server, 1).await;
        server.send(&close("again"));
        assert_eq!(event(&mut client).await.uuid, "again");
        assert_eq!(client.stats().reconnects(), round);
    }
}

#[tokio::test]
async fn a_client_that_is_cut_off_comes_again_though_the_path_stayed() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.socket).unwrap();
    let mut client = Client::start(&place.socket).unwrap();
    for _ in 0..3 {
        drop(listener.accept().await.unwrap());
        assert!(matches!(next(&mut client).await, ClientEvent::Connected));
        assert!(matches!(next(&mut client).await, ClientEvent::Disconnected { reason: Disconnect::Closed }));
    }
}

#[tokio::test]
async fn bad_lines_are_skipped_and_counted() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.socket).unwrap();
    let mut client = Client::start(&place.socket).unwrap();
    let mut server = listener.accept().await.unwrap().0;
    let line = close("a").encode();
    let (first, second) = line.split_at(30);
    let writing = tokio::spawn({
        let chunks = [
            "\nnot json\n".to_string(),
            "x".repeat(3 * MAX_LINE),
            "rest\n".to_string(),
            first.to_string(),
            format!("{second}\n"),
            first.to_string(),
        ];
        async move {
            for chunk in chunks {
                server.write_all(chunk.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    assert!(matches!(next(&mut client).await, ClientEvent::Connected));
    for kind in [BadKind::Empty, BadKind::Malformed, BadKind::TooLong] {
        assert!(matches!(next(&mut client).await, ClientEvent::Bad(bad) if bad.kind == kind), "{kind}");
    }
    assert_eq!(event(&mut client).await.uuid, "a");
    writing.await.unwrap();
    assert!(matches!(next(&mut client).await, ClientEvent::Bad(bad) if bad.kind == BadKind::HalfLine));
    assert!(matches!(next(&mut client).await, ClientEvent::Disconnected { .. }));
    for kind in BadKind::ALL {
        assert_eq!(client.stats().bad(kind), 1, "{kind}");
    }
    assert_eq!(client.stats().events(), 1);
}

#[tokio::test]
async fn a_caller_that_never_asks_does_not_stall_the_server() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.socket).unwrap();
    let client = Client::start(&place.socket).unwrap();
    let mut server = listener.accept().await.unwrap().0;
    let lines = (close("a").encode() + "\n").repeat(1000);
    for _ in 0..70 {
        within(server.write_all(lines.as_bytes())).await.unwrap();
    }
    drop(server);
    let stats = client.stats();
    within(async {
        while stats.connected() || stats.events() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stats.events(), 70_000);
    assert!(stats.dropped() >= 70_000 - flowarc_eventsocket::MAX_QUEUED as u64);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_delays_no_one() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let mut slow = UnixStream::connect(&place.socket).await.unwrap();
    let mut fast = connected(&place).await;
    clients(&server, 2).await;
    let mut sent = 0;
    while server.cut_off() == 0 {
        for _ in 0..100 {
            server.send(&close("a"));
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(sent < 10 * MAX_QUEUED_LINES);
    }
    assert!(sent > MAX_QUEUED_LINES);
    for _ in 0..sent {
        assert_eq!(event(&mut fast).await.uuid, "a");
    }
    assert_eq!((server.clients(), server.cut_off()), (1, 1));
    let mut left_in_the_kernel = Vec::new();
    within(slow.read_to_end(&mut left_in_the_kernel)).await.unwrap();
    assert!(left_in_the_kernel.len() < sent * 50);
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten_without_an_event() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let client = connected(&place).await;
    clients(&server, 1).await;
    drop(client);
    clients(&server, 0).await;
    assert_eq!(server.cut_off(), 0);
}

#[tokio::test]
async fn a_client_that_closed_its_sending_half_still_hears() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let mut client = UnixStream::connect(&place.socket).await.unwrap();
    client.shutdown().await.unwrap();
    clients(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.send(&close("a"));
    server.shutdown(PATIENCE).await;
    let mut heard = String::new();
    within(client.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, close("a").encode() + "\n");
}

#[tokio::test]
async fn shutdown_delivers_what_waits_and_removes_the_path() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let mut client = connected(&place).await;
    clients(&server, 1).await;
    for _ in 0..MAX_QUEUED_LINES {
        server.send(&close("a"));
    }
    server.shutdown(PATIENCE).await;
    assert!(!place.socket.exists());
    for _ in 0..MAX_QUEUED_LINES {
        event(&mut client).await;
    }
    assert!(matches!(next(&mut client).await, ClientEvent::Disconnected { reason: Disconnect::Closed }));
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_told() {
    let place = Place::new();
    let server = Server::bind(&place.socket).await.unwrap();
    let _slow = UnixStream::connect(&place.socket).await.unwrap();
    clients(&server, 1).await;
    let large = "x".repeat(1000);
    for _ in 0..MAX_QUEUED_LINES {
        server.send(&close(&large));
    }
    within(server.shutdown(Duration::from_millis(20))).await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let place = Place::new();
    drop(UnixListener::bind(&place.socket).unwrap());
    assert!(place.socket.exists());
    let _server = Server::bind(&place.socket).await.unwrap();
    let error = Server::bind(&place.socket).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().ends_with("another server is listening there"), "{error}");
}

#[tokio::test]
async fn a_file_in_the_place_of_the_socket_is_left_alone() {
    let place = Place::new();
    std::fs::write(&place.socket, "precious").unwrap();
    assert_eq!(Server::bind(&place.socket).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&place.socket).unwrap(), "precious");
}

#[tokio::test]
async fn a_server_does_not_remove_the_path_of_its_successor() {
    let place = Place::new();
    let old = Server::bind(&place.socket).await.unwrap();
    std::fs::remove_file(&place.socket).unwrap();
    let _new = Server::bind(&place.socket).await.unwrap();
    drop(old);
    assert!(place.socket.exists());
}

const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    folder: TempDir,
    socket: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("events.sock");
        Self { folder, socket }
    }
}

fn close(uuid: &str) -> Event {
    Event::close(Timestamp::from_unix_nanos(1_795_219_875_670_925_147), uuid)
}

/// A limit that only a hanging test reaches.
async fn within<F: Future>(f: F) -> F::Output {
    tokio::time::timeout(PATIENCE, f).await.expect("the test hangs")
}

async fn next(client: &mut Client) -> ClientEvent {
    within(client.next()).await
}

async fn event(client: &mut Client) -> Event {
    match next(client).await {
        ClientEvent::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

async fn connected(place: &Place) -> Client {
    let mut client = Client::start(&place.socket).unwrap();
    assert!(matches!(next(&mut client).await, ClientEvent::Connected));
    client
}

/// Waits until the server has this many clients.
async fn clients(server: &Server, count: usize) {
    within(async {
        while server.clients() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
