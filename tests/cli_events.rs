//! `flowarc events` as a process: what is served is heard, recorded, replayed and printed.

use assert_cmd::cargo::cargo_bin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const OPEN: &str = r#"{"Event":0,"Timestamp":"2026-11-21T00:11:14.659974346Z","UUID":"vm_1795218624_0000000000000004","ID":{"SPort":8080,"DPort":58594,"SrcIP":"10.9.0.1","DstIP":"10.9.0.2","Interface":0,"Cookie":4}}"#;
const CLOSE: &str =
    r#"{"Event":1,"Timestamp":"2026-11-21T00:11:14.670925147Z","UUID":"vm_1795218624_0000000000000004","ID":null}"#;

#[test]
fn a_replayed_file_is_printed_and_recorded_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file, copy) = (folder.path().join("s"), folder.path().join("events"), folder.path().join("copy"));
    let lines = format!("{OPEN}\n{CLOSE}\n");
    std::fs::write(&file, &lines).unwrap();
    let replay = |socket: &Path| start(&["replay", text(&file), "--eventsocket.serve", text(socket), "--speed=0"]);

    let mut replaying = replay(&socket);
    let mut printing = start(&["print", "--json", "--tcpinfo.eventsocket", text(&socket)]);
    assert_eq!([line(&mut printing), line(&mut printing)], [OPEN, CLOSE]);
    assert!(replaying.0.wait().unwrap().success());
    // A replay begins when its first client connects, which must be the recorder.
    assert_eq!(printing.end(), Some(0));

    let mut recording = start(&["record", text(&copy), "--tcpinfo.eventsocket", text(&socket)]);
    let mut replaying = replay(&socket);
    assert!(replaying.0.wait().unwrap().success());
    until(|| std::fs::read_to_string(&copy).is_ok_and(|copy| copy == lines));
    assert_eq!(recording.end(), Some(0));
    let again = Command::new(cargo_bin("flowarc")).args(["events", "record", text(&copy)]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("does not exist"));
}

#[test]
fn connections_of_this_host_are_served_as_tcp_info_does() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, prefix) = (folder.path().join("s"), folder.path().join("prefix"));
    std::fs::write(&prefix, "host_123").unwrap();
    let mut serving = start(&["serve", "--eventsocket.serve", text(&socket), "--uuid.prefix-file", text(&prefix)]);
    until(|| UnixStream::connect(&socket).is_ok());
    let mut client = BufReader::new(UnixStream::connect(&socket).unwrap());
    client.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // A client that connected a moment ago may not have been accepted yet.
    std::thread::sleep(Duration::from_millis(100));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut near = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.write_all(b"x").unwrap();
    drop(far);
    near.read_to_end(&mut Vec::new()).ok();
    let near_port = near.local_addr().unwrap().port();
    drop(near);

    let ends =
        format!(r#""ID":{{"SPort":{port},"DPort":{near_port},"SrcIP":"127.0.0.1","DstIP":"127.0.0.1","Interface":0,"Cookie":"#);
    let mut next = |is_wanted: &dyn Fn(&str) -> bool| loop {
        let mut line = String::new();
        assert!(client.read_line(&mut line).unwrap() > 0);
        if is_wanted(&line) {
            return line;
        }
    };
    let open = next(&|line| line.contains(&ends));
    let uuid = open.split(r#""UUID":""#).nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(open.starts_with(r#"{"Event":0,"Timestamp":""#) && uuid.starts_with("host_123_"), "{open}");
    let cookie = u64::from_str_radix(uuid.rsplit('_').next().unwrap(), 16).unwrap();
    assert!(open.ends_with(&format!("{ends}{cookie}}}}}\n")), "{open}");
    let close = next(&|line| line.contains(&uuid));
    assert!(close.starts_with(r#"{"Event":1,"#) && close.ends_with(&format!("\"UUID\":\"{uuid}\",\"ID\":null}}\n")), "{close}");
    assert_eq!(serving.end(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn arguments_that_make_no_sense_are_told_with_what_would() {
    for (args, code, remedy) in [
        (&["print", "--uuid.source=eventsocket"][..], 64, "--tcpinfo.eventsocket=PATH"),
        (&["print", "--uuid.source=kernel", "--tcpinfo.eventsocket=s"], 64, "name one"),
        (&["serve", "--eventsocket.serve=s", "--list.every=0"], 64, "100ms"),
        (&["replay", "f", "--eventsocket.serve=s", "--speed=-1"], 64, "0 or more"),
        (&["replay", "absent", "--eventsocket.serve=s"], 1, "absent"),
        (&["print", "--uuid.prefix-file=absent"], 1, "absent"),
        (&["serve"], 2, "--eventsocket.serve"),
        (&["bogus"], 2, "bogus"),
    ] {
        let out = Command::new(cargo_bin("flowarc")).arg("events").args(args).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(remedy), "{args:?}: {said}");
    }
}

/// A `flowarc events` that is ended when the test is.
struct Events(Child, BufReader<std::process::ChildStdout>);

fn start(args: &[&str]) -> Events {
    let mut command = Command::new(cargo_bin("flowarc"));
    let mut child = command.arg("events").args(args).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    Events(child, output)
}

impl Events {
    /// Ends it as an operator does; its exit code.
    fn end(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn line(events: &mut Events) -> String {
    let mut line = String::new();
    events.1.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
