//! UUIDs from the real kernel, in network namespaces that the tests make for themselves.
//!
//! A test starts itself again in a namespace where nobody else has sockets: as root, or in a user namespace where those are
//! allowed. Where neither is, the tests say that they are skipped, and fail where CI=true.

mod support;

use flowarc::identity::kernel::{
    Answer, BATCH, DestroyError, Destroyed, DestroyedSockets, Dump, KernelEvent, KernelSource, Options, SockDiag, Socket,
    TcpState,
};
use flowarc::identity::prefix::{Prefix, cookie_of};
use flowarc::key::{Endpoint, FlowKey};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::lab::{Lab, privileged};
use support::process::{Place, Running};
use support::until;

#[test]
fn a_lookup_gives_the_cookie_that_the_socket_itself_tells() {
    in_namespace("a_lookup_gives_the_cookie_that_the_socket_itself_tells", || {
        let mut diag = SockDiag::open().unwrap();
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let pair = Pair::new(listen, connect);
            let found = diag.lookup_all(&pair.key()).unwrap();
            let mut found: Vec<_> = found.iter().map(|s| (s.local, s.remote, s.cookie, s.state)).collect();
            found.sort_by_key(|socket| socket.2);
            let ends = (pair.server_end(), pair.client_end());
            let mut expected = [
                (ends.0, ends.1, cookie(&pair.server), TcpState::ESTABLISHED),
                (ends.1, ends.0, cookie(&pair.client), TcpState::ESTABLISHED),
            ];
            expected.sort_by_key(|socket| socket.2);
            assert_eq!(found, expected, "{listen} {connect}");
        }
    });
}

#[test]
fn a_listening_socket_is_never_taken_for_the_connection() {
    in_namespace("a_listening_socket_is_never_taken_for_the_connection", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = Endpoint { port: 1, ..end(listener.local_addr().unwrap()) };
        let mut diag = SockDiag::open().unwrap();
        let for_listener = FlowKey::new(end(listener.local_addr().unwrap()), nobody).0;
        let for_nobody = FlowKey::new(Endpoint { port: 2, ..nobody }, nobody).0;
        assert_eq!(diag.lookup_many(&[for_listener, for_nobody]).unwrap(), [Answer::ListenOnly, Answer::Nothing]);
        assert_eq!(diag.lookup(&for_listener).unwrap(), None);
    });
}

#[test]
fn what_time_wait_leaves_has_the_cookie_of_its_socket() {
    in_namespace("what_time_wait_leaves_has_the_cookie_of_its_socket", || {
        let mut diag = SockDiag::open().unwrap();
        let pair = Pair::new("127.0.0.1:0", "127.0.0.1");
        let (key, client_end, expected) = (pair.key(), pair.client_end(), cookie(&pair.client));
        pair.close_client_first();
        let left = diag.lookup(&key).unwrap().unwrap();
        assert_eq!((left.local, left.cookie, left.state, left.remainder), (client_end, expected, TcpState::TIME_WAIT, true));
        let listed = dump();
        assert_eq!(listed, [left]);
    });
}

#[test]
fn a_socket_bound_to_its_interface_is_found() {
    in_namespace("a_socket_bound_to_its_interface_is_found", || {
        ip("link add left type veth peer name right");
        for (name, address) in [("left", "fe80::1/64"), ("right", "fe80::2/64")] {
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name} up"));
            ip(&format!("address add {address} dev {name} nodad"));
        }
        let mut diag = SockDiag::open().unwrap();
        let scope = nix::net::if_::if_nametoindex("left").unwrap();
        let listener = TcpListener::bind(format!("[fe80::1%{scope}]:0")).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let key = FlowKey::new(end(client.local_addr().unwrap()), end(client.peer_addr().unwrap())).0;
        let cookies: Vec<_> = diag.lookup_all(&key).unwrap().iter().map(|s| (s.cookie, s.interface)).collect();
        assert!(cookies.contains(&(cookie(&server), scope)), "{cookies:?}");

        // Bound by its program: found as soon as one such socket was seen.
        let (listener, loopback) = (TcpListener::bind("127.0.0.1:0").unwrap(), nix::net::if_::if_nametoindex("lo").unwrap());
        setsockopt(&listener, sockopt::BindToDevice, &"lo".into()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let key = FlowKey::new(end(client.local_addr().unwrap()), end(client.peer_addr().unwrap())).0;
        diag.learn_interface(loopback);
        let found: Vec<_> = diag.lookup_all(&key).unwrap().iter().map(|s| s.cookie).collect();
        assert!(found.contains(&cookie(&client)) || found.contains(&cookie(&server)));
    });
}

#[test]
fn many_lookups_are_answered_in_their_order() {
    in_namespace("many_lookups_are_answered_in_their_order", || {
        let mut diag = SockDiag::open().unwrap();
        let pairs: Vec<_> = (0..2 * BATCH + 3).map(|_| Pair::new("127.0.0.1:0", "127.0.0.1")).collect();
        let keys: Vec<_> = pairs.iter().map(Pair::key).collect();
        for (answer, pair) in diag.lookup_many(&keys).unwrap().iter().zip(&pairs) {
            let mut expected = [cookie(&pair.client), cookie(&pair.server)];
            let mut found: Vec<_> = answer.sockets().iter().map(|s| s.cookie).collect();
            expected.sort();
            found.sort();
            assert_eq!(found, expected);
        }
        let mut listed: Vec<_> = dump().iter().map(|s| s.cookie).collect();
        let mut expected: Vec<_> = pairs.iter().flat_map(|p| [cookie(&p.client), cookie(&p.server)]).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
    });
}

#[test]
fn the_end_of_a_socket_tells_what_was_sent() {
    in_namespace("the_end_of_a_socket_tells_what_was_sent", || {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let mut ends = DestroyedSockets::subscribe(1 << 20).unwrap();
            let mut pair = Pair::new(listen, connect);
            let (server, client) = (cookie(&pair.server), cookie(&pair.client));
            pair.client.write_all(&[7; 70_000]).unwrap();
            pair.server.read_exact(&mut [0; 70_000]).unwrap();
            pair.server.write_all(&[8; 5_000]).unwrap();
            pair.client.read_exact(&mut [0; 5_000]).unwrap();
            pair.close_client_first();
            let told: HashMap<_, _> =
                next_ends(&mut ends, 2).into_iter().map(|e| (e.socket.cookie, e.tcp_info.unwrap())).collect();
            // A FIN is one more byte for both, and the SYN for who sent it.
            let sums = |cookie| (told[&cookie].bytes_acked, told[&cookie].bytes_received, told[&cookie].total_retrans);
            assert_eq!(sums(client), (70_002, 5_001, 0), "{listen} {connect}");
            assert_eq!(sums(server), (5_001, 70_001, 0), "{listen} {connect}");
            assert!(told[&client].rtt > 0 && told[&client].segs_out > 0 && told[&client].snd_cwnd > 0);
        }
    });
}

#[test]
fn ends_that_find_no_room_are_told_as_lost() {
    in_namespace("ends_that_find_no_room_are_told_as_lost", || {
        let mut ends = DestroyedSockets::subscribe(1).unwrap();
        (0..50).for_each(|_| Pair::new("127.0.0.1:0", "127.0.0.1").close_client_first());
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut told, mut lost) = (0, 0);
        while lost == 0 && Instant::now() < deadline {
            match ends.poll() {
                Ok(Some(_)) => told += 1,
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(DestroyError::Overflow) => lost += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(lost, 1, "{told} told");
        // And it goes on: a socket that is made after the buffer was found empty is told. Which of those that end together
        // fits in so small a buffer is chance.
        let mut later = false;
        loop {
            match ends.poll() {
                Ok(Some(_)) if later => break,
                Ok(Some(_)) | Err(DestroyError::Overflow) => {}
                Ok(None) => {
                    assert!(Instant::now() < deadline);
                    later = true;
                    Pair::new("127.0.0.1:0", "127.0.0.1").close_client_first();
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn a_connection_is_named_when_it_is_asked_for_and_closed_at_its_end() {
    in_namespace("a_connection_is_named_when_it_is_asked_for_and_closed_at_its_end", || {
        let old = Pair::new("127.0.0.1:0", "127.0.0.1");
        let (_source, requests, events) = start(Options::default());
        let known = |pair: &Pair| {
            let mut both = [(pair.client_end(), cookie(&pair.client)), (pair.server_end(), cookie(&pair.server))];
            both.sort();
            both
        };
        assert_eq!(opened(&events, 2), known(&old), "older than the source");
        let new = Pair::new("[::]:0", "127.0.0.1");
        requests.ask(new.key());
        assert_eq!(opened(&events, 2), known(&new));
        requests.ask(new.key());
        assert_eq!(opened(&events, 2), known(&new), "asked again");
        let stranger = FlowKey::new(Endpoint { port: 1, ..new.client_end() }, Endpoint { port: 2, ..new.client_end() }).0;
        requests.ask(stranger);
        assert_eq!(next(&events), KernelEvent::Unknown(stranger));
        let mut expected = known(&new).map(|(end, cookie)| (cookie, end));
        new.close_client_first();
        let mut closed = [closed(next(&events)), closed(next(&events))];
        expected.sort();
        closed.sort();
        assert_eq!(closed, expected);
    });
}

#[test]
fn every_connection_of_5000_is_named_however_short_it_is() {
    in_namespace("every_connection_of_5000_is_named_however_short_it_is", || {
        let (source, requests, events) = start(Options::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients = std::thread::spawn(move || {
            for _ in 0..CONNECTIONS {
                let mut client = TcpStream::connect(address).unwrap();
                client.write_all(b"x").unwrap();
                // The server closes first, so that TIME_WAIT does not use up the client's ports.
                client.read_to_end(&mut Vec::new()).unwrap();
            }
        });
        let mut accepted = HashMap::new();
        for n in 0..CONNECTIONS {
            let (mut server, peer) = listener.accept().unwrap();
            server.read_exact(&mut [0]).unwrap();
            accepted.insert(cookie(&server), end(peer));
            // Half are asked for, as capture would, at once or when they are over.
            if n % 2 == 0 {
                requests.ask(FlowKey::new(end(address), end(peer)).0);
            }
        }
        clients.join().unwrap();
        let (mut opened, mut closed) = (HashMap::new(), HashMap::new());
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut told = Vec::new();
        while closed.len() < 2 * CONNECTIONS && Instant::now() < deadline {
            let event = events.recv_timeout(Duration::from_millis(100));
            told.extend(event.clone().ok());
            match event {
                Ok(KernelEvent::Open { opened: o, .. }) => drop(opened.insert(cookie_of(&o.name.uuid).unwrap(), o.remote)),
                Ok(KernelEvent::Closed { uuid, .. }) => {
                    let cookie = cookie_of(&uuid).unwrap();
                    assert!(opened.contains_key(&cookie), "closed before it was opened");
                    *closed.entry(cookie).or_insert(0) += 1;
                }
                // Its end was not told yet when it was looked up.
                Ok(KernelEvent::Unknown(_)) | Err(_) => {}
            }
        }
        assert_eq!(source.stats().overflows.load(std::sync::atomic::Ordering::Relaxed), 0);
        for (cookie, peer) in &accepted {
            assert_eq!(opened.get(cookie), Some(peer), "{cookie}");
        }
        assert_eq!((opened.len(), closed.len()), (2 * CONNECTIONS, 2 * CONNECTIONS));
        let twice: Vec<_> = closed.iter().filter(|(_, times)| **times > 1).map(|(cookie, _)| *cookie).collect();
        told.retain(|event| match event {
            KernelEvent::Open { opened, .. } => twice.contains(&cookie_of(&opened.name.uuid).unwrap()),
            KernelEvent::Closed { uuid, .. } => twice.contains(&cookie_of(uuid).unwrap()),
            KernelEvent::Unknown(_) => false,
        });
        assert!(told.is_empty(), "closed twice: {told:#?}");
    });
}

/// By the program, since capture is what asks too late: rings hand frames over after the socket is gone.
#[test]
fn connections_that_a_local_program_aborts_at_once_have_their_names() {
    if !privileged("connections_that_a_local_program_aborts_at_once_have_their_names") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let mut running = Running::headers(&place, &lab.near, ["--interface=near", "--uuid.source=kernel"]);
    let mut cookies = Vec::new();
    for n in 0..20 {
        let (near, far) = if n % 2 == 0 {
            let conversation = lab.connect("192.0.2.1");
            (conversation.server, conversation.client)
        } else {
            let listener = lab.far.listen("192.0.2.2:0");
            (lab.near.connect(listener.local_addr().unwrap()), listener.accept().unwrap().0)
        };
        cookies.push(format!("{:016X}", cookie(&near)));
        // SO_LINGER of 0: closing sends a reset and forgets the other end.
        setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop((near, far));
    }
    until("each has its file", || {
        let uuids = place.uuids();
        cookies.iter().all(|cookie| uuids.iter().any(|uuid| uuid.ends_with(cookie.as_str())))
    });
    assert_eq!(place.uuids().len(), cookies.len());
    let aborts = |outcome| running.metrics().child("flowarc_kernel_aborts_total", "outcome", outcome);
    until("some were asked for too late, and that is counted", || aborts("named") > 0.0);
    assert_eq!(aborts("ambiguous"), 0.0);
    running.stop(nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn after_an_overflow_every_connection_that_was_named_is_closed() {
    in_namespace("after_an_overflow_every_connection_that_was_named_is_closed", || {
        let (sender, events) = channel();
        let (gate, wait) = channel::<()>();
        let prefix = Prefix::parse("x").unwrap();
        // The source hears nothing while its sink blocks: after the first Unknown, until the gate is dropped.
        let sink = move |event| {
            let blocks = matches!(event, KernelEvent::Unknown(_));
            let _ = sender.send(event);
            if blocks {
                let _ = wait.recv();
            }
        };
        let (source, requests) =
            KernelSource::start_with(prefix, Options { receive_buffer: 1, ..Options::default() }, sink).unwrap();
        let pairs: Vec<_> = (0..100).map(|_| Pair::new("127.0.0.1:0", "127.0.0.1")).collect();
        pairs.iter().for_each(|pair| requests.ask(pair.key()));
        // In so small a buffer the listening sockets' ends are lost too, after which all sockets are told once more.
        let mut cookies = HashSet::new();
        while cookies.len() < 200 {
            if let KernelEvent::Open { opened, .. } = next(&events) {
                cookies.insert(cookie_of(&opened.name.uuid).unwrap());
            }
        }
        requests
            .ask(FlowKey::new(Endpoint { port: 1, ..pairs[0].client_end() }, Endpoint { port: 2, ..pairs[0].client_end() }).0);
        while !matches!(next(&events), KernelEvent::Unknown(_)) {}
        let before = lost_messages();
        pairs.into_iter().for_each(Pair::close_client_first);
        // A kernel thread tells the ends, and may be late.
        until("ends are lost", || lost_messages() > before);
        drop(gate);
        while !cookies.is_empty() {
            if let KernelEvent::Closed { uuid, .. } = next(&events) {
                assert!(cookies.remove(&cookie_of(&uuid).unwrap()), "closed twice");
            }
        }
        assert!(source.stats().overflows.load(std::sync::atomic::Ordering::Relaxed) > 0);
    });
}

#[test]
fn a_user_without_any_capability_is_told_all() {
    in_namespace("a_user_without_any_capability_is_told_all", || {
        if std::env::var_os(UNPRIVILEGED).is_none() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
            // A test binary below a folder that others may not enter cannot be run by them.
            let folder = tempfile::tempdir().unwrap();
            let copy = folder.path().join("test");
            std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
            std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            return run_again(command.env(UNPRIVILEGED, "1").arg(copy), "a_user_without_any_capability_is_told_all");
        }
        assert_eq!(nix::unistd::geteuid().as_raw(), 65534);
        let (_source, requests, events) = start(Options::default());
        let pair = Pair::new("127.0.0.1:0", "127.0.0.1");
        requests.ask(pair.key());
        opened(&events, 2);
        pair.close_client_first();
        closed(next(&events));
        closed(next(&events));
    });
}

/// Prints what a lookup costs: `cargo test --release --test kernel_uuids -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_lookup() {
    in_namespace("cost_of_a_lookup", || {
        let mut diag = SockDiag::open().unwrap();
        let pairs: Vec<_> = (0..BATCH).map(|_| Pair::new("127.0.0.1:0", "127.0.0.1")).collect();
        let keys: Vec<_> = pairs.iter().map(Pair::key).collect();
        for batch in [1, 8, BATCH] {
            let (rounds, began) = (20_000 / batch, cpu_time());
            for round in 0..rounds {
                let first = (round * batch) % (keys.len() - batch + 1);
                diag.lookup_many(&keys[first..first + batch]).unwrap();
            }
            eprintln!("{} ns of CPU time for a connection in batches of {batch}", (cpu_time() - began) / (rounds * batch) as i64);
        }
    });
}

/// A connection, both ends of it.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(listen: &str, connect: &str) -> Self {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect((connect, listener.local_addr().unwrap().port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    fn client_end(&self) -> Endpoint {
        end(self.client.local_addr().unwrap())
    }

    fn server_end(&self) -> Endpoint {
        end(self.client.peer_addr().unwrap())
    }

    fn key(&self) -> FlowKey {
        FlowKey::new(self.client_end(), self.server_end()).0
    }

    /// Leaves the client's end in TIME_WAIT and nothing of the server's.
    fn close_client_first(mut self) {
        self.client.shutdown(std::net::Shutdown::Write).unwrap();
        while self.server.read(&mut [0; 4096]).unwrap() > 0 {}
        drop(self.server);
        while self.client.read(&mut [0; 4096]).unwrap_or(0) > 0 {}
    }
}

fn start(options: Options) -> (KernelSource, flowarc::identity::kernel::Requests, Receiver<KernelEvent>) {
    let (sender, events) = channel();
    let tell = move |event| drop(sender.send(event));
    let (source, requests) = KernelSource::start_with(Prefix::parse("x").unwrap(), options, tell).unwrap();
    (source, requests, events)
}

fn next(events: &Receiver<KernelEvent>) -> KernelEvent {
    events.recv_timeout(Duration::from_secs(10)).expect("an event comes")
}

/// The next announcements, by their local ends.
fn opened(events: &Receiver<KernelEvent>, count: usize) -> Vec<(Endpoint, u64)> {
    let mut opened: Vec<_> = (0..count)
        .map(|_| match next(events) {
            KernelEvent::Open { opened, .. } => (opened.local, cookie_of(&opened.name.uuid).unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    opened.sort();
    opened
}

fn closed(event: KernelEvent) -> (u64, Endpoint) {
    match event {
        KernelEvent::Closed { uuid, local, .. } => (cookie_of(&uuid).unwrap(), local),
        other => panic!("{other:?}"),
    }
}

fn next_ends(ends: &mut DestroyedSockets, count: usize) -> Vec<Destroyed> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut told = Vec::new();
    while told.len() < count {
        match ends.poll().unwrap() {
            // The listening socket's own end.
            Some(destroyed) if destroyed.socket.remote.port == 0 => {}
            Some(destroyed) => told.push(destroyed),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(Instant::now() < deadline, "{told:?}");
    }
    told
}

/// Messages that netlink sockets of this namespace have lost: the column Drops.
fn lost_messages() -> u64 {
    let table = std::fs::read_to_string("/proc/net/netlink").unwrap();
    table.lines().skip(1).map(|row| row.split_whitespace().nth(8).unwrap().parse::<u64>().unwrap()).sum()
}

fn dump() -> Vec<Socket> {
    let (mut dump, mut sockets) = (Dump::begin().unwrap(), Vec::new());
    while dump.next_batch(&mut |socket| sockets.push(socket)).unwrap() {}
    sockets
}

fn end(address: SocketAddr) -> Endpoint {
    Endpoint { addr: address.ip().into(), port: address.port() }
}

/// SO_COOKIE, as the programs ask for it that name their own sockets.
fn cookie(socket: &TcpStream) -> u64 {
    const SO_COOKIE: libc::c_int = 57; // include/uapi/asm-generic/socket.h
    let (mut cookie, mut len) = (0u64, 8 as libc::socklen_t);
    // SAFETY: the pointers are to a number of eight bytes and to its length.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_COOKIE, (&raw mut cookie).cast(), &raw mut len) };
    assert_eq!((done, len), (0, 8));
    cookie
}

/// Nanoseconds of CPU that the process has used, the kernel's work for it included.
fn cpu_time() -> i64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() * 1000
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// Runs a test's body in a network namespace of its own.
fn in_namespace(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let unshare = |user: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(user).arg("--net");
        command
    };
    let works = |mut command: Command| command.arg("true").output().is_ok_and(|output| output.status.success());
    let user = [&[][..], &["--user", "--map-root-user"]].into_iter().find(|user| works(unshare(user)));
    let Some(user) = user else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must be able to run {test} in a network namespace");
        return eprintln!("SKIPPED: {test}: needs root or user namespaces for a network namespace");
    };
    let up = "ip link set lo up && exec \"$0\" \"$@\"";
    run_again(unshare(user).args(["sh", "-c", up]).env(INSIDE, "1").arg(std::env::current_exe().unwrap()), test);
}

/// Runs one test of this binary again, by a command that ends in a program to run.
fn run_again(command: &mut Command, test: &str) {
    let status = command.args(["--exact", test, "--nocapture", "--include-ignored", "--test-threads=1"]).status().unwrap();
    assert!(status.success(), "{test} failed in its namespace");
}

const CONNECTIONS: usize = 5_000;
const INSIDE: &str = "FLOWARC_TEST_INSIDE";
const UNPRIVILEGED: &str = "FLOWARC_TEST_UNPRIVILEGED";
