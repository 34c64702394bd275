//! Live capture against the real kernel, in network namespaces that each test makes and removes.
//!
//! A test starts itself again inside its namespace (`ip netns exec`), where the sockets that it opens belong. Needs root,
//! iproute2, tcpdump and python3; without root the tests say that they are skipped, and fail where CI=true.

use flowarc::capture::filter::RingFilter;
use flowarc::capture::interfaces::{Link, Monitor, Snapshot};
use flowarc::capture::live::{LiveError, LiveSource, RingOptions};
use flowarc::capture::{LinkType, PacketSource, Progress};
use flowarc::time::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn one_shard_sees_every_packet_that_tcpdump_sees() {
    in_namespace("one_shard_sees_every_packet_that_tcpdump_sees", |lab| drop(compare_with_tcpdump(lab, 1)));
}

#[test]
fn two_shards_see_every_packet_that_tcpdump_sees_and_split_no_flow() {
    in_namespace("two_shards_see_every_packet_that_tcpdump_sees_and_split_no_flow", |lab| {
        let shards = compare_with_tcpdump(lab, 2);
        let flows: Vec<BTreeSet<_>> = shards.iter().map(|frames| frames.iter().map(|f| flow(f)).collect()).collect();
        assert!(flows.iter().all(|flows| !flows.is_empty()), "a shard has no flow");
        assert!(flows[0].is_disjoint(&flows[1]), "a flow is in both shards");
        assert_eq!(flows[0].len() + flows[1].len(), 2 * CONNECTIONS);
    });
}

#[test]
fn tags_are_put_back_where_the_kernel_took_them_and_only_tcp_passes() {
    in_namespace("tags_are_put_back_where_the_kernel_took_them_and_only_tcp_passes", |lab| {
        let (tcp4, udp4) = (ipv4(6), ipv4(17));
        let delivered = [
            ethernet(&[], 0x0800, &tcp4),
            ethernet(&[0x8100], 0x0800, &tcp4),
            ethernet(&[0x88a8, 0x8100], 0x0800, &tcp4),
            ethernet(&[0x8100, 0x8100], 0x86dd, &ipv6(6)),
            ethernet(&[], 0x86dd, &ipv6(0)),
            ethernet(&[], 0x8864, &pppoe(&tcp4)),
            ethernet(&[0x8100], 0x8864, &pppoe(&tcp4)),
        ];
        let rejected = [
            ethernet(&[], 0x0800, &udp4),
            ethernet(&[0x8100], 0x0800, &udp4),
            ethernet(&[0x88a8, 0x8100], 0x0800, &udp4),
            ethernet(&[], 0x8864, &pppoe(&udp4)),
            ethernet(&[], 0x0806, &[0; 46]),
        ];
        let sent: Vec<_> = rejected.iter().chain(&delivered).cloned().collect();
        for (namespace, interface, tap) in [(&lab.far, "far", "receive"), (&lab.near, "near", "transmit")] {
            for shards in [1, 2] {
                let mut rings = open("near", shards);
                inject(namespace, interface, &sent);
                let mut frames = without_mld(collect(&mut rings).concat());
                let mut expected = delivered.to_vec();
                frames.sort();
                expected.sort();
                assert_eq!(hex(&frames), hex(&expected), "{tap} tap, {shards} shards");
            }
        }
    });
}

#[test]
fn frames_of_a_tunnel_begin_with_ip() {
    in_namespace("frames_of_a_tunnel_begin_with_ip", |_| {
        let mut tunnel = Python::start(TUN, &[]);
        tunnel.wait_for("ready");
        ip("address add 198.51.100.1/24 dev tun7");
        ip("link set tun7 up");
        let mut rings = open("tun7", 1);
        assert_eq!(rings[0].link(), LinkType::Raw);
        tunnel.write(&hex(&[ipv4(17), ipv4(6), ipv6(6)]).join("\n"));
        // Nobody answers: the connection's SYN is all that is sent.
        let attempt = TcpStream::connect_timeout(&"198.51.100.2:9".parse().unwrap(), Duration::from_millis(100));
        assert!(attempt.is_err());
        let frames = collect(&mut rings).concat();
        let frames: Vec<_> = frames.into_iter().filter(|f| f[0] >> 4 == 4 || f[6] != 0).collect();
        assert_eq!(frames.iter().filter(|f| **f == ipv4(6)).count(), 1);
        assert_eq!(frames.iter().filter(|f| **f == ipv6(6)).count(), 1);
        assert_eq!(frames.iter().filter(|f| f[16..20] == [198, 51, 100, 2]).count(), 1);
        assert_eq!(frames.len(), 3);
    });
}

#[test]
fn frames_of_other_devices_are_cooked_or_refused() {
    in_namespace("frames_of_other_devices_are_cooked_or_refused", |_| {
        // Hardware types of include/uapi/linux/if_arp.h: PPP, and GRE, which libpcap does not know.
        for hardware in ["512", "778"] {
            let mut tunnel = Python::start(TUN, &[hardware]);
            tunnel.wait_for("ready");
            ip("link set tun7 up");
            let mut rings = open("tun7", 1);
            assert_eq!(rings[0].link(), LinkType::LinuxSll);
            tunnel.write(&hex(&[ipv4(17), ipv4(6), ipv6(6)]).join("\n"));
            let frames: Vec<_> = collect(&mut rings).concat().iter().map(|frame| frame[16..].to_vec()).collect();
            assert_eq!(hex(&frames), hex(&[ipv4(6), ipv6(6)]), "hardware type {hardware}");
        }
        // 802.11 without and with the header that monitor mode adds.
        for (hardware, expected) in [("801", 105), ("803", 127)] {
            let mut tunnel = Python::start(TUN, &[hardware]);
            tunnel.wait_for("ready");
            ip("link set tun7 up");
            let error = LiveSource::open("tun7", NonZeroUsize::MIN, OPTIONS).err().unwrap();
            assert!(matches!(error, LiveError::UnsupportedLink { datalink, .. } if datalink == expected), "{error}");
        }
    });
}

#[test]
fn rings_opened_amid_traffic_have_no_frame_and_no_flow_in_common() {
    in_namespace("rings_opened_amid_traffic_have_no_frame_and_no_flow_in_common", |lab| {
        let frame = hex(&[ethernet(&[], 0x0800, &ipv4(6))]).remove(0);
        let mut flood = Python::start_in(&lab.far, FLOOD, &["far", &frame]);
        flood.wait_for("ready");
        for _ in 0..3 {
            let mut rings = open("near", 2);
            std::thread::sleep(Duration::from_millis(50));
            let mut frames = [BTreeSet::new(), BTreeSet::new()];
            for (ring, frames) in rings.iter_mut().zip(&mut frames) {
                while let Progress::Frames(_) = ring.next_batch(&mut |f| frames.extend([f.data.to_vec()])).unwrap() {}
                assert!(frames.len() > 100, "only {} frames: the flood is too thin to say anything", frames.len());
            }
            assert!(frames[0].is_disjoint(&frames[1]), "a frame is in both rings");
            let flows = frames.map(|frames| frames.iter().map(|f| flow(f)).collect::<BTreeSet<_>>());
            assert!(flows[0].is_disjoint(&flows[1]), "a flow is in both rings");
        }
    });
}

#[test]
fn on_loopback_each_packet_is_seen_once() {
    in_namespace("on_loopback_each_packet_is_seen_once", |_| {
        let mut rings = open("lo", 1);
        let mut server = Python::start(ECHO, &["127.0.0.1"]);
        let port = server.wait_for("port ");
        converse("127.0.0.1", &port, 0);
        let frames = collect(&mut rings).concat();
        let syns = frames.iter().filter(|f| f[14 + 20 + 13] & 0x02 != 0).count();
        assert_eq!(syns, 2, "one SYN and one SYN with ACK");
    });
}

#[test]
fn counters_follow_the_ring() {
    in_namespace("counters_follow_the_ring", |lab| {
        let mut rings = open("near", 1);
        inject(&lab.far, "far", &vec![ethernet(&[], 0x0800, &ipv4(6)); 10]);
        inject(&lab.far, "far", &vec![ethernet(&[], 0x0800, &ipv4(17)); 10]);
        let frames = collect(&mut rings).concat();
        let stats = rings[0].stats();
        assert_eq!((stats.received, stats.dropped, stats.if_dropped), (frames.len() as u64, 0, 0));
        assert_eq!(without_mld(frames).len(), 10);
        assert_eq!(rings[0].stats(), stats);
    });
}

#[test]
fn frames_that_find_the_ring_full_are_counted_as_dropped() {
    in_namespace("frames_that_find_the_ring_full_are_counted_as_dropped", |lab| {
        let options = RingOptions { snaplen: 256, ring_bytes: 1, filter: RingFilter::Tcp, promiscuous: false };
        let mut rings = LiveSource::open("near", NonZeroUsize::MIN, options).unwrap();
        inject(&lab.far, "far", &vec![ethernet(&[], 0x0800, &ipv4(6)); 5_000]);
        let frames = collect(&mut rings).concat().len() as u64;
        let stats = rings[0].stats();
        assert!(stats.received >= 5_000);
        assert!(stats.dropped > 0);
        assert_eq!(frames, stats.received - stats.dropped);
    });
}

#[test]
fn a_deleted_interface_is_gone() {
    in_namespace("a_deleted_interface_is_gone", |_| {
        let mut rings = open("near", 2);
        ip("link delete near");
        for ring in &mut rings {
            let deadline = Instant::now() + Duration::from_secs(5);
            let error = loop {
                match ring.next_batch(&mut |_| ()) {
                    Ok(_) => assert!(Instant::now() < deadline, "the ring goes on without its interface"),
                    Err(error) => break error,
                }
                wait(ring, 10);
            };
            assert!(matches!(&error, LiveError::Gone { interface } if interface == "near"), "{error}");
        }
    });
}

#[test]
fn an_interface_that_is_missing_or_down_cannot_be_opened() {
    in_namespace("an_interface_that_is_missing_or_down_cannot_be_opened", |_| {
        ip("link set near down");
        for interface in ["near", "absent"] {
            let error = LiveSource::open(interface, NonZeroUsize::MIN, OPTIONS).err().unwrap();
            assert!(matches!(&error, LiveError::Gone { interface: name } if name == interface), "{error}");
        }
    });
}

#[test]
fn a_ring_goes_on_when_its_interface_was_down_for_a_while() {
    in_namespace("a_ring_goes_on_when_its_interface_was_down_for_a_while", |lab| {
        let mut rings = open("near", 2);
        ip("link set near down");
        assert!(without_mld(collect(&mut rings).concat()).is_empty());
        ip("link set near up");
        inject(&lab.far, "far", &[ethernet(&[], 0x0800, &ipv4(6))]);
        assert_eq!(without_mld(collect(&mut rings).concat()).len(), 1);
    });
}

#[test]
fn without_the_capability_the_error_says_what_to_do() {
    in_namespace("without_the_capability_the_error_says_what_to_do", |_| {
        if std::env::var_os(UNPRIVILEGED).is_none() {
            // In a user namespace of its own, root has no power over this network namespace.
            return run_again(Command::new("unshare").arg("--user"), "without_the_capability_the_error_says_what_to_do");
        }
        let error = LiveSource::open("near", NonZeroUsize::MIN, OPTIONS).err().unwrap();
        assert!(matches!(error, LiveError::NotPermitted { .. }), "{error}");
    });
}

#[test]
fn the_monitor_tells_of_links_and_addresses_that_come_change_and_go() {
    in_namespace("the_monitor_tells_of_links_and_addresses_that_come_change_and_go", |lab| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut monitor = Monitor::start().await.unwrap();
            let near = named(monitor.snapshot(), "near").unwrap();
            assert!(near.up && !near.loopback);
            assert!(named(monitor.snapshot(), "lo").unwrap().loopback);
            for address in ["127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"] {
                assert!(has(monitor.snapshot(), address), "{address}");
            }

            ip("address add 203.0.113.5/32 dev near");
            until(&mut monitor, |s| has(s, "203.0.113.5")).await;
            ip("address add 2001:db8:5::5/128 dev near nodad");
            until(&mut monitor, |s| has(s, "2001:db8:5::5")).await;
            ip("address delete 203.0.113.5/32 dev near");
            until(&mut monitor, |s| !has(s, "203.0.113.5")).await;

            ip("link set near down");
            until(&mut monitor, |s| named(s, "near").is_some_and(|l| !l.up)).await;
            ip("link set near name other");
            until(&mut monitor, |s| named(s, "other").is_some_and(|l| l.index == near.index)).await;
            ip("link set other up");
            until(&mut monitor, |s| named(s, "other").is_some_and(|l| l.up)).await;
            ip("link delete other");
            until(&mut monitor, |s| named(s, "other").is_none()).await;

            ip(&format!("link add near type veth peer name far netns {}", lab.far));
            until(&mut monitor, |s| named(s, "near").is_some_and(|l| l.index != near.index)).await;
        });
    });
}

#[test]
fn the_monitor_is_right_after_more_changes_than_its_socket_holds() {
    in_namespace("the_monitor_is_right_after_more_changes_than_its_socket_holds", |_| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut monitor = Monitor::start().await.unwrap();
            // The runtime has this one thread: while it waits for ip, nobody reads the notifications.
            let changes: String = (0..6_000).map(|i| format!("address add 10.0.{}.{}/32 dev near\n", i / 250, i % 250)).collect();
            let mut batch = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            batch.stdin.take().unwrap().write_all(changes.as_bytes()).unwrap();
            assert!(batch.wait().unwrap().success());
            assert!(lost_notifications() > 0, "the socket held all changes");
            until(&mut monitor, |s| has(s, "10.0.0.0") && has(s, "10.0.23.249")).await;
            assert_eq!(monitor.snapshot().addresses.iter().filter(|a| a.to_string().starts_with("10.0.")).count(), 6_000);
        });
    });
}

/// Captures TCP connections and datagrams beside tcpdump; returns the frames of each shard.
fn compare_with_tcpdump(lab: &Lab, shards: usize) -> Vec<Vec<Vec<u8>>> {
    let mut tcpdump = Tcpdump::start("near", "ip proto 6 or ip6 proto 6");
    let mut rings = open("near", shards);
    for address in ["192.0.2.2", "2001:db8::2"] {
        let mut server = Python::start_in(&lab.far, ECHO, &[address]);
        let port = server.wait_for("port ");
        let udp = UdpSocket::bind(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        for connection in 0..CONNECTIONS {
            udp.send_to(b"not TCP", (address, 9)).unwrap();
            converse(address, &port, connection);
        }
    }
    let mut shards = collect(&mut rings);
    let before = shards.concat().len() as u64;
    let received: u64 = rings.iter_mut().map(|ring| ring.stats().received).sum();
    // A multicast report may come between the last look into a ring and the reading of its counter.
    shards.iter_mut().zip(collect(&mut rings)).for_each(|(frames, late)| frames.extend(late));
    assert!((before..=shards.concat().len() as u64).contains(&received), "{received} counted, {before} seen");
    let shards: Vec<_> = shards.into_iter().map(without_mld).collect();
    let (mut ours, mut theirs) = (shards.concat(), tcpdump.stop());
    assert!(theirs.len() > 2 * CONNECTIONS * 8, "tcpdump saw only {} packets", theirs.len());
    ours.sort();
    theirs.sort();
    assert!(ours == theirs, "{} frames, tcpdump has {}", ours.len(), theirs.len());
    shards
}

/// Opens a connection, sends some bytes, and reads them back to the end.
fn converse(address: &str, port: &str, seed: usize) {
    let message: Vec<u8> = (0..5_000 + seed).map(|i| (i * 7 + seed) as u8).collect();
    let mut stream = TcpStream::connect((address, port.parse().unwrap())).unwrap();
    stream.write_all(&message).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer == message);
}

fn open(interface: &str, shards: usize) -> Vec<LiveSource> {
    LiveSource::open(interface, NonZeroUsize::new(shards).unwrap(), OPTIONS).unwrap()
}

/// The frames of each ring, until all have been quiet for a while; checks times and watermarks on the way.
fn collect(rings: &mut [LiveSource]) -> Vec<Vec<Vec<u8>>> {
    let mut frames = vec![Vec::new(); rings.len()];
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(400) {
        for (ring, frames) in rings.iter_mut().zip(&mut frames) {
            let (index, link) = (ring.interface_index(), ring.link());
            let (mut oldest, mut newest) = (Timestamp::MAX, Timestamp::ZERO);
            let progress = ring.next_batch(&mut |frame| {
                assert_eq!((frame.interface, frame.link), (index, link));
                assert!(frame.wire_len as usize >= frame.data.len());
                (oldest, newest) = (oldest.min(frame.ts), newest.max(frame.ts));
                frames.push(frame.data.to_vec());
            });
            match progress.unwrap() {
                Progress::Frames(_) => {
                    let now = flowarc::capture::clock::now();
                    assert!(newest <= now && now.since(oldest) < Duration::from_secs(60), "{oldest:?} is not of today");
                    quiet_since = Instant::now();
                }
                Progress::Idle { watermark } => {
                    let late = flowarc::capture::clock::now().since(watermark);
                    assert!(late >= Duration::from_millis(20), "frames of {late:?} ago may still be in a block");
                    assert!(late < Duration::from_secs(2));
                }
                Progress::Ended => panic!("an interface does not end"),
            }
        }
        wait(&rings[0], 5);
    }
    frames
}

/// Leaves out what the hosts themselves send now and then: reports of multicast groups (ICMPv6), which the filter passes
/// because a hop-by-hop header comes first.
fn without_mld(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let is_mld = |f: &Vec<u8>| f[12..14] == [0x86, 0xdd] && f[20] == 0 && f[54] == 58;
    frames.into_iter().filter(|f| !is_mld(f)).collect()
}

fn wait(ring: &LiveSource, millis: u16) {
    let mut fds = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(millis)).unwrap();
}

/// The unordered pair of ends of an untagged TCP frame.
fn flow(frame: &[u8]) -> [Vec<u8>; 2] {
    let (addresses, ports) = match frame[12..14] {
        [0x08, 0x00] => (&frame[26..34], &frame[34..38]),
        _ => (&frame[22..54], &frame[54..58]),
    };
    let half = addresses.len() / 2;
    let mut ends = [[&addresses[..half], &ports[..2]].concat(), [&addresses[half..], &ports[2..]].concat()];
    ends.sort();
    ends
}

fn ethernet(tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x01];
    for (depth, tag) in tags.iter().enumerate() {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x60, 0x64 + depth as u8]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn ipv4(protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60, 0, 1, 0, 0, 64, protocol, 0, 0, 203, 0, 113, 1, 203, 0, 113, 2];
    packet.extend([0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    packet.resize(60, 1);
    packet
}

fn ipv6(next_header: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 28, next_header, 64];
    packet.resize(40, 0x20);
    packet.extend([6, 0, 5, 2, 0, 0, 1, 0]);
    packet.resize(68, 0);
    packet
}

fn pppoe(packet: &[u8]) -> Vec<u8> {
    let len = (packet.len() + 2) as u16;
    [&[0x11, 0, 0, 1][..], &len.to_be_bytes(), &[0x00, 0x21], packet].concat()
}

fn inject(namespace: &str, interface: &str, frames: &[Vec<u8>]) {
    let mut sender = Python::start_in(namespace, INJECT, &[interface]);
    sender.write(&hex(frames).join("\n"));
    sender.wait_for("sent");
}

fn hex(frames: &[Vec<u8>]) -> Vec<String> {
    frames.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

fn named(snapshot: &Snapshot, name: &str) -> Option<Link> {
    snapshot.links.iter().find(|link| link.name == name).cloned()
}

fn has(snapshot: &Snapshot, address: &str) -> bool {
    snapshot.addresses.contains(&address.parse::<IpAddr>().unwrap())
}

/// How many notifications the kernel dropped for the monitor, by its multicast groups (1, 5 and 9).
fn lost_notifications() -> u32 {
    let sockets = fs::read_to_string("/proc/net/netlink").unwrap();
    let columns = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns.filter(|columns| columns[3] == "00000111").map(|columns| columns[8].parse::<u32>().unwrap()).sum()
}

async fn until(monitor: &mut Monitor, is_so: impl Fn(&Snapshot) -> bool) {
    let changes = async {
        while !is_so(monitor.snapshot()) {
            monitor.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changes).await.expect("the monitor tells of the change");
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// Two namespaces joined by a veth pair: `near`, where the test runs and captures, and `far`.
struct Lab {
    near: String,
    far: String,
}

/// Runs a test's body in a namespace of its own. The test gives its name, by which it is started again there.
fn in_namespace(test: &str, body: fn(&Lab)) {
    if let Ok(lab) = std::env::var(LAB) {
        let (near, far) = lab.split_once(' ').unwrap();
        return body(&Lab { near: near.to_owned(), far: far.to_owned() });
    }
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run {test} as root");
        return eprintln!("SKIPPED: {test}: needs root for network namespaces");
    }
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let id = format!("flowarc-{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let lab = NamespaceGuard(Lab { near: format!("{id}-near"), far: format!("{id}-far") });
    let Lab { near, far } = &lab.0;
    for namespace in [near, far] {
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {namespace} link set lo up"));
    }
    ip(&format!("link add near netns {near} type veth peer name far netns {far}"));
    for (namespace, interface, host) in [(near, "near", 1), (far, "far", 2)] {
        ip(&format!("-n {namespace} address add 192.0.2.{host}/24 dev {interface}"));
        ip(&format!("-n {namespace} address add 2001:db8::{host}/64 dev {interface} nodad"));
        ip(&format!("-n {namespace} link set {interface} up"));
    }
    run_again(Command::new("ip").args(["netns", "exec", near]).env(LAB, format!("{near} {far}")), test);
}

/// Runs one test of this binary in another process, by a command that is given a program to run.
fn run_again(runner: &mut Command, test: &str) {
    let this = std::env::current_exe().unwrap();
    if std::env::var_os(LAB).is_some() {
        runner.env(UNPRIVILEGED, "1");
    }
    let status = runner.arg(this).args(["--exact", test, "--nocapture", "--test-threads=1"]).status().unwrap();
    assert!(status.success(), "{test} failed in its namespace");
}

struct NamespaceGuard(Lab);

impl Drop for NamespaceGuard {
    fn drop(&mut self) {
        for namespace in [&self.0.near, &self.0.far] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// A python program that is ended when the test is.
struct Python {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Python {
    fn start(program: &str, arguments: &[&str]) -> Self {
        Self::spawn(&mut Command::new("python3"), program, arguments)
    }

    fn start_in(namespace: &str, program: &str, arguments: &[&str]) -> Self {
        Self::spawn(Command::new("ip").args(["netns", "exec", namespace, "python3"]), program, arguments)
    }

    fn spawn(command: &mut Command, program: &str, arguments: &[&str]) -> Self {
        let command = command.args(["-c", program]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Writes a line, and the end of the input.
    fn write(&mut self, text: &str) {
        writeln!(self.input.take().unwrap(), "{text}").unwrap();
    }

    /// The rest of the next line that begins in this way.
    fn wait_for(&mut self, beginning: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the python program ended without saying {beginning:?}");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Tcpdump {
    child: Child,
    folder: tempfile::TempDir,
}

impl Tcpdump {
    fn start(interface: &str, filter: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("tcpdump");
        command.args(["-Z", "root", "--immediate-mode", "-B", "8192", "-s", "256", "-U", "-i", interface, "-w"]);
        let mut child =
            command.arg(folder.path().join("pcap")).arg(filter).stderr(Stdio::piped()).spawn().expect("tcpdump is installed");
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("listening on") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "tcpdump: {said}");
        }
        Self { child, folder }
    }

    /// Ends tcpdump and returns what it captured.
    fn stop(&mut self) -> Vec<Vec<u8>> {
        let id = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let file = fs::read(self.folder.path().join("pcap")).unwrap();
        let (mut rest, mut frames) = (&file[24..], Vec::new());
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
            frames.push(rest[16..16 + len].to_vec());
            rest = &rest[16 + len..];
        }
        frames
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CONNECTIONS: usize = 20;
const OPTIONS: RingOptions = RingOptions { snaplen: 256, ring_bytes: 4 << 20, filter: RingFilter::Tcp, promiscuous: false };
/// Set inside the namespace: the names of both.
const LAB: &str = "FLOWARC_TEST_NAMESPACES";
/// Set in the process without capabilities.
const UNPRIVILEGED: &str = "FLOWARC_TEST_UNPRIVILEGED";

/// Sends back what a connection brings.
const ECHO: &str = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
server = socket.socket(family, socket.SOCK_STREAM)
server.bind((sys.argv[1], 0))
server.listen(16)
print('port', server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
";

/// Sends the frames that it reads in hexadecimal.
const INJECT: &str = "
import socket, sys
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packet.bind((sys.argv[1], 0))
for line in sys.stdin:
    packet.send(bytes.fromhex(line))
print('sent', flush=True)
";

/// Sends one frame again and again, in 64 flows and with another sequence number each time.
const FLOOD: &str = "
import socket, struct, sys, time
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packet.bind((sys.argv[1], 0))
frame = bytearray.fromhex(sys.argv[2])
print('ready', flush=True)
for number in range(10_000_000):
    struct.pack_into('!HHI', frame, 34, 1024 + number % 64, 80, number)
    packet.send(frame)
    if number % 16 == 0:
        time.sleep(0.0002)
";

/// Is the other end of a tunnel, from which the packets come that it reads in hexadecimal. Its hardware type can be given.
const TUN: &str = "
import fcntl, os, struct, sys, time
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH', b'tun7', 0x1001))
if len(sys.argv) > 1:
    fcntl.ioctl(tun, 0x400454cd, int(sys.argv[1]))
print('ready', flush=True)
for line in sys.stdin:
    os.write(tun, bytes.fromhex(line))
time.sleep(60)
";
