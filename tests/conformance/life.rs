//! Start and end: ports, privileges, signals, the service manager.

use crate::support::archive::{SHUTDOWN, names};
use crate::support::lab::{Lab, Namespace, privileged};
use crate::support::process::{ADMIN_FLAG, Place, Running, binary, clear_env, flowarc};
use crate::support::{ms, secs, until};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

/// T4: the port is taken before anything is captured; the data folder is there by then.
#[test]
fn a_busy_metrics_port_is_told_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    let mut command = flowarc();
    command.arg("-datadir").arg(&place.data).args(["-tcpinfo.eventsocket=s", "-prometheusx.listen-address", &address]);
    let out = command.output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("prometheusx.listen-address"), "{said}");
    assert!(place.data.is_dir());
}

/// T19, D2, D4: an idle process ends at once and well, in all-interfaces mode, whichever signal it gets.
#[test]
fn an_idle_process_exits_with_0_within_a_second_of_either_signal() {
    if !privileged("an_idle_process_exits_with_0_within_a_second_of_either_signal") {
        return;
    }
    let lab = Lab::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for flags in [&[][..], &["--shards=2", "--stream"], &["--sigtermwait=30s"]] {
            let place = Place::new();
            let mut events = place.events();
            let named = ["--tcpinfo.eventsocket", events.path()];
            let mut running = Running::headers_unready(&place, &lab.near, [&named[..], flags].concat());
            events.accept();
            // A probe of readiness would be a connection on loopback, which is captured too.
            until("it has begun", || running.log().contains("connected to the event socket"));
            let took = running.stop(signal);
            assert!(took < secs(1), "{signal} {flags:?}: {took:?}");
        }
    }
}

/// D1, D4: what is open is on disk after the wait, whichever signal came, and nothing is cut.
#[test]
fn every_open_connection_is_on_disk_after_a_signal() {
    if !privileged("every_open_connection_is_on_disk_after_a_signal") {
        return;
    }
    let lab = Lab::new();
    for (signal, flags) in [(Signal::SIGTERM, &["--interface=near"][..]), (Signal::SIGINT, &["--interface=near", "--stream"])] {
        let place = Place::new();
        let (mut running, mut events) = Running::with_events(&place, &lab.near, flags);
        let mut conversations = lab.connect_many(MANY);
        for (n, c) in conversations.iter_mut().enumerate() {
            events.open(&format!("open_{n}"), c.local, c.remote);
            c.talk();
        }
        running.wait_for("flowarc_events_total{outcome=\"claimed\"}", MANY as f64);
        let took = running.stop(signal);
        assert!(took >= secs(1) && took < secs(3), "{signal}: the wait and at most 2 s of writing, not {took:?}");
        let archive = place.archive();
        assert_eq!(archive.len(), MANY, "{signal}");
        assert!(archive.values().all(|file| file.end == SHUTDOWN && file.records.len() >= 5));
    }
}

/// D1: capture goes on during the wait, and the wait ends with the last connection.
#[test]
fn connections_may_finish_during_the_wait_which_ends_with_the_last_of_them() {
    if !privileged("connections_may_finish_during_the_wait_which_ends_with_the_last_of_them") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let flags = ["--interface=near", "--sigtermwait=12s"];
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &flags);
    let mut conversation = lab.connect("192.0.2.1");
    events.open("last", conversation.local, conversation.remote);
    conversation.talk();
    running.wait_for("flowarc_events_total{outcome=\"claimed\"}", 1.0);
    let begin = Instant::now();
    running.signal(Signal::SIGTERM);
    until("it says that it is stopping", || running.unready().contains("stopping"));
    conversation.talk();
    conversation.close();
    let (status, _) = running.wait();
    assert_eq!(status.code(), Some(0), "{}", running.log());
    assert!(begin.elapsed() < secs(6), "{:?}", begin.elapsed());
    let file = place.file("last");
    assert_eq!((file.end, file.records.len() >= 10), (crate::support::archive::FIN, true));
}

/// D3: a second signal writes all at once.
#[test]
fn a_second_signal_writes_all_at_once() {
    if !privileged("a_second_signal_writes_all_at_once") {
        return;
    }
    let lab = Lab::new();
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new();
        let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", "--sigtermwait=60s"]);
        let mut conversation = lab.connect("192.0.2.1");
        events.open("held", conversation.local, conversation.remote);
        conversation.talk();
        running.wait_for("flowarc_events_total{outcome=\"claimed\"}", 1.0);
        running.signal(Signal::SIGTERM);
        until("it says that it is stopping", || running.unready().contains("stopping"));
        let took = running.stop(second);
        assert!(took < secs(2), "{took:?}");
        assert_eq!(place.uuids(), ["held"]);
    }
}

#[test]
fn the_service_manager_is_told_of_readiness_life_and_end() {
    if !privileged("the_service_manager_is_told_of_readiness_life_and_end") {
        return;
    }
    let (namespace, place) = (Namespace::new(), Place::new());
    let path = place.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(secs(10))).unwrap();
    let mut command = flowarc();
    command.args(["headers", "--uuid.source=generated", "--datadir"]).arg(&place.data).args(ADMIN_FLAG);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000000");
    let mut running = Running::start(&mut command, &place, Some(&namespace));
    let hear = || {
        let mut said = [0; 256];
        let len = manager.recv(&mut said).expect("the program says something");
        String::from_utf8_lossy(&said[..len]).trim().to_owned()
    };
    let begin = Instant::now();
    assert_eq!(hear(), "READY=1");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    assert!(begin.elapsed() >= ms(1500), "the watchdog is told about once a second");
    running.signal(Signal::SIGTERM);
    until("the end is told", || hear() == "STOPPING=1");
    assert_eq!(running.wait().0.code(), Some(0));
}

#[test]
fn an_ordinary_user_with_cap_net_raw_alone_captures_and_without_it_is_told() {
    if !privileged("an_ordinary_user_with_cap_net_raw_alone_captures_and_without_it_is_told") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    // Where that user may reach it, whoever owns the folder of the build.
    let program = place.path("flowarc");
    std::fs::copy(binary(), &program).unwrap();
    chown(place.top.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        clear_env(&mut command);
        command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups");
        command.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}"));
        command.arg(format!("--bounding-set={capabilities}")).arg(&program);
        command.args(["headers", "--uuid.source=generated", "--interface=near", "--shards=2", "--datadir"]);
        command.arg(&place.data).args(ADMIN_FLAG);
        command
    };
    let mut running = Running::start(&mut as_nobody("-all"), &place, Some(&lab.near));
    assert_eq!(running.wait().0.code(), Some(1));
    assert!(running.log().contains("CAP_NET_RAW"), "{}", running.log());

    let mut running = Running::start(&mut as_nobody("-all,+net_raw"), &place, Some(&lab.near));
    running.wait_until_ready();
    let mut conversation = lab.connect("192.0.2.1");
    conversation.talk();
    conversation.close();
    until("the connection is archived", || place.uuids().len() == 1);
    running.stop(Signal::SIGTERM);
    assert!(place.archive().values().all(|file| file.records.len() >= 8));
}

/// A process that was killed leaves nothing partial; the next one finds what was sealed. tests/live.rs does this at random
/// moments.
#[test]
fn what_a_killed_process_had_sealed_appears_whole_at_the_next_start() {
    if !privileged("what_a_killed_process_had_sealed_appears_whole_at_the_next_start") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", "--stream"]);
    let mut conversation = lab.connect("192.0.2.1");
    events.open("killed", conversation.local, conversation.remote);
    conversation.talk();
    running.wait_for("flowarc_archive_members_total", 1.0);
    // The member is written right after it was counted.
    std::thread::sleep(Duration::from_millis(300));
    running.signal(Signal::SIGKILL);
    running.wait();
    assert!(names(&place.data).is_empty(), "{:?}", names(&place.data));
    drop(events);
    std::fs::remove_file(place.path("events.sock")).unwrap();
    let (mut running, _events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    place.wait_for_file("killed");
    assert!(place.file("killed").records.len() >= 5);
    // Counted once it is there.
    until("it is counted", || running.metrics().child("flowarc_archive_salvaged_total", "outcome", "published") == 1.0);
    running.stop(Signal::SIGTERM);
}

/// Connections held open at once: both ends are descriptors of the test, of which it may have 1024.
const MANY: usize = 300;
const NOBODY: u32 = 65_534;
