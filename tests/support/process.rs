//! The program as a process.

use super::archive::{self, Archive};
use super::events::EventServer;
use super::lab::Namespace;
use super::{PATIENCE, secs, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_flowarc")
}

/// The program with no environment but what finds it its libraries, so that flags come from the test alone.
pub fn flowarc() -> Command {
    let mut command = Command::new(binary());
    clear_env(&mut command);
    command
}

pub fn clear_env(command: &mut Command) {
    command.env_clear();
    for name in ["PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Folders for one run, removed with this: data, temporary files, sockets, logs.
pub struct Place {
    pub top: TempDir,
    pub data: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let top = tempfile::Builder::new().prefix("flowarc-test-").tempdir().unwrap();
        let data = top.path().join("data");
        Self { top, data }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub fn events(&self) -> EventServer {
        EventServer::new(&self.path("events.sock"))
    }

    #[track_caller]
    pub fn archive(&self) -> Archive {
        archive::read(&self.data)
    }

    /// The UUIDs of all files.
    pub fn uuids(&self) -> Vec<String> {
        archive::uuids(&self.data)
    }

    /// The one file of this UUID.
    #[track_caller]
    pub fn file(&self, uuid: &str) -> archive::Stored {
        let found: Vec<_> = self.archive().into_iter().filter(|(name, _)| archive::uuid(name) == uuid).collect();
        assert_eq!(found.len(), 1, "files of {uuid} among {:?}", self.uuids());
        found.into_iter().next().unwrap().1
    }

    #[track_caller]
    pub fn wait_for_file(&self, uuid: &str) -> Duration {
        until(&format!("there is a file of {uuid}"), || self.uuids().iter().any(|u| u == uuid))
    }
}

/// Replays a capture file with a file of events (none for an empty text); the archive, and what was said.
#[track_caller]
pub fn replay(place: &Place, capture: &Path, events: &str, flags: &[&str]) -> (Archive, Output) {
    let out = replay_output(place, capture, events, flags);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    (place.archive(), out)
}

/// [`replay`], whatever comes of it.
pub fn replay_output(place: &Place, capture: &Path, events: &str, flags: &[&str]) -> Output {
    let mut command = flowarc();
    command.args(["headers", "--read"]).arg(capture).arg("--datadir").arg(&place.data).args(flags);
    if !events.is_empty() {
        let path = place.path("events.jsonl");
        fs::write(&path, events).unwrap();
        command.arg("--events").arg(path);
    }
    command.output().unwrap()
}

/// Replays a scenario of testdata/ as its description says.
#[track_caller]
pub fn replay_scenario(name: &str, flags: &[&str]) -> (Archive, Output) {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let about = fs::read_to_string(testdata.join(format!("{name}.expect.json"))).unwrap();
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    let place = Place::new();
    let own: Vec<_> = about["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    let events = fs::read(testdata.join(about["events"].as_str().unwrap())).unwrap();
    let path = place.path("scenario.events.jsonl");
    fs::write(&path, events).unwrap();
    let capture = testdata.join(about["capture"].as_str().unwrap());
    let all: Vec<_> = [&own[..], flags, &["--events", path.to_str().unwrap()]].concat();
    replay(&place, &capture, "", &all)
}

/// A running program that is ended when this is dropped.
pub struct Running {
    pub child: Child,
    log: PathBuf,
    namespace: Option<Namespace>,
}

impl Running {
    /// Starts a command in a namespace; its log goes to a file of the place.
    pub fn start(command: &mut Command, place: &Place, namespace: Option<&Namespace>) -> Self {
        let log = place.path("flowarc.log");
        let file = File::options().append(true).create(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = match namespace {
            Some(namespace) => namespace.run(|| command.spawn()),
            None => command.spawn(),
        };
        Self { child: child.unwrap(), log, namespace: namespace.cloned() }
    }

    /// Starts `flowarc headers` with these flags in a namespace and waits until it captures.
    #[track_caller]
    pub fn headers<S: AsRef<OsStr>>(place: &Place, namespace: &Namespace, flags: impl IntoIterator<Item = S>) -> Self {
        let mut running = Self::headers_unready(place, namespace, flags);
        running.wait_until_ready();
        running
    }

    /// [`Self::headers`] without waiting.
    pub fn headers_unready<S: AsRef<OsStr>>(place: &Place, namespace: &Namespace, flags: impl IntoIterator<Item = S>) -> Self {
        let mut command = flowarc();
        command.arg("headers").arg("--datadir").arg(&place.data).args(ADMIN_FLAG).args(flags);
        Self::start(&mut command, place, Some(namespace))
    }

    /// Starts it with an event socket, and waits until it captures and listens.
    #[track_caller]
    pub fn with_events(place: &Place, namespace: &Namespace, flags: &[&str]) -> (Self, EventServer) {
        let mut events = place.events();
        let mut running = Self::headers_unready(place, namespace, [&["--tcpinfo.eventsocket", events.path()], flags].concat());
        events.accept();
        running.wait_until_ready();
        (running, events)
    }

    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        until("the program is ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the program ended with {status}: {}", self.log());
            }
            self.http("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end: how, and after how long.
    #[track_caller]
    pub fn wait(&mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, begin.elapsed());
            }
            assert!(begin.elapsed() < PATIENCE, "the program does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal and expects exit code 0; the time that the end took.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> Duration {
        self.signal(signal);
        let (status, took) = self.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", self.log());
        took
    }

    /// Status and body of an answer of the program; none while nobody listens.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(ADMIN)?;
            stream.set_read_timeout(Some(secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.namespace.as_ref().expect("the program runs in a namespace").run(get).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Why the program is not ready; empty if it is.
    pub fn unready(&self) -> String {
        match self.http("/readyz") {
            Some((200, _)) => String::new(),
            Some((_, reasons)) => reasons,
            None => "nobody listens".to_owned(),
        }
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.http("/metrics").expect("the program serves metrics");
        assert_eq!(status, 200);
        Metrics::parse(&text)
    }

    /// Waits until a sum of metrics has this value at least.
    #[track_caller]
    pub fn wait_for(&self, name: &str, least: f64) {
        until(&format!("{name} is {least} or more"), || self.metrics().sum(name) >= least);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking()
            && self.namespace.is_some()
            && self.child.try_wait().is_ok_and(|ended| ended.is_none())
            && let Some((_, metrics)) = self.http("/metrics")
        {
            let counted = |line: &&str| !line.starts_with('#') && !line.ends_with(" 0");
            eprintln!("what the program has counted:\n{}", metrics.lines().filter(counted).collect::<Vec<_>>().join("\n"));
        }
        // Only now has it not ended, where a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the program's log:\n{}", self.log());
        }
    }
}

/// Samples by name with labels, such as `flowarc_frames_total{outcome="kept"}`.
#[derive(Clone, Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// The sum of all samples whose name begins so and continues, if at all, with labels.
    pub fn sum(&self, name: &str) -> f64 {
        let is_it = |sample: &str| sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0.iter().filter(|(sample, _)| is_it(sample)).map(|(_, value)| value).sum()
    }

    /// One child of a metric with one label.
    #[track_caller]
    pub fn child(&self, name: &str, label: &str, value: &str) -> f64 {
        let sample = format!("{name}{{{label}=\"{value}\"}}");
        *self.0.get(&sample).unwrap_or_else(|| panic!("no metric {sample}"))
    }
}

/// Every namespace has a loopback, and so this port, of its own.
pub const ADMIN: &str = "127.0.0.1:9990";
pub const ADMIN_FLAG: [&str; 2] = ["--prometheusx.listen-address", ADMIN];
