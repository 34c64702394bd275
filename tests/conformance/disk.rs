//! A disk that is full or read-only, on a small file system that only the program and this test see.

use crate::support::archive::{self, uuid};
use crate::support::events::EventServer;
use crate::support::lab::{Lab, privileged};
use crate::support::process::{ADMIN_FLAG, Place, Running, binary, clear_env};
use crate::support::{secs, until};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// D27.
#[test]
fn what_a_full_disk_refuses_waits_in_memory_and_appears_when_there_is_room() {
    if !privileged("what_a_full_disk_refuses_waits_in_memory_and_appears_when_there_is_room") {
        return;
    }
    for mode in ["--stream=false", "--stream"] {
        let (mut small, mut events) = SmallDisk::start(&[mode]);
        small.fill();
        for n in 0..20 {
            small.archive_connection(&mut events, &format!("full_{n}"));
        }
        small.expect_refusal();
        fs::remove_file(small.root().join("filler")).unwrap();
        small.expect_files(20);
        small.running.stop(Signal::SIGTERM);
    }
}

/// D27.
#[test]
fn what_a_read_only_disk_refuses_waits_in_memory_and_appears_when_it_is_writable_again() {
    if !privileged("what_a_read_only_disk_refuses_waits_in_memory_and_appears_when_it_is_writable_again") {
        return;
    }
    let (mut small, mut events) = SmallDisk::start(&[]);
    small.archive_connection(&mut events, "before");
    small.expect_files(1);
    small.remount("ro");
    small.archive_connection(&mut events, "meanwhile");
    small.expect_refusal();
    small.remount("rw");
    small.expect_files(2);
    small.running.stop(Signal::SIGTERM);
}

/// D27, D1: a process that ends while the disk refuses says so, in time, and leaves nothing partial.
#[test]
fn an_end_on_a_full_disk_is_in_time_and_is_told_by_exit_code_1() {
    if !privileged("an_end_on_a_full_disk_is_in_time_and_is_told_by_exit_code_1") {
        return;
    }
    let (mut small, mut events) = SmallDisk::start(&[]);
    small.fill();
    small.archive_connection(&mut events, "lost");
    small.expect_refusal();
    let data = File::open(small.data()).unwrap();
    small.running.signal(Signal::SIGTERM);
    let (status, took) = small.running.wait();
    assert_eq!(status.code(), Some(1));
    assert!(took < secs(5), "{took:?}");
    assert!(small.running.log().contains("disk full"), "{}", small.running.log());
    let data = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&data));
    assert_eq!(archive::names(data.as_ref()), [""; 0]);
}

/// The program on a file system of 400 KB, which goes with it.
struct SmallDisk {
    running: Running,
    place: Place,
    lab: Lab,
}

impl SmallDisk {
    fn start(flags: &[&str]) -> (Self, EventServer) {
        let (lab, place) = (Lab::new(), Place::new());
        let mut events = place.events();
        let disk = place.path("disk");
        fs::create_dir(&disk).unwrap();
        // The shell becomes the program, so that its id is the program's, and its view of the mount is ours by that id.
        let mount = r#"mount -t tmpfs -o size=400k tmpfs "$0" && exec "$@""#;
        let mut command = Command::new("unshare");
        clear_env(&mut command);
        command.args(["--mount", "sh", "-c", mount]).arg(&disk).arg(binary()).arg("headers");
        command.arg("--datadir").arg(disk.join("data")).args(["--interface=near", "--tcpinfo.eventsocket", events.path()]);
        let mut running = Running::start(command.args(ADMIN_FLAG).args(flags), &place, Some(&lab.near));
        events.accept();
        running.wait_until_ready();
        (Self { running, place, lab }, events)
    }

    /// The small file system, as the program sees it.
    fn root(&self) -> PathBuf {
        let disk = self.place.path("disk");
        PathBuf::from(format!("/proc/{}/root{}", self.running.child.id(), disk.display()))
    }

    fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    fn fill(&self) {
        let mut filler = File::create(self.root().join("filler")).unwrap();
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn remount(&self, how: &str) {
        let id = self.running.child.id().to_string();
        let status = Command::new("nsenter")
            // With its root too, which is another one than the mount namespace's where the tests run in a chroot.
            .args(["-t", &id, "-m", "-r", "mount", "-o", &format!("remount,{how}")])
            .arg(self.place.path("disk"))
            .status();
        assert!(status.unwrap().success());
    }

    fn archive_connection(&self, events: &mut EventServer, uuid: &str) {
        let mut conversation = self.lab.connect("192.0.2.1");
        events.open(uuid, conversation.local, conversation.remote);
        conversation.talk();
        conversation.close();
    }

    fn expect_refusal(&self) {
        self.running.wait_for("flowarc_archive_retries_total", 2.0);
        until("the probe tells of the disk", || self.running.unready().contains("disk"));
        assert_eq!(self.running.metrics().child("flowarc_archive_flows_total", "outcome", "givenup"), 0.0);
        assert!(!archive::names(&self.data()).iter().any(|name| name.contains("full_")));
    }

    fn expect_files(&mut self, count: usize) {
        until("the files are there", || archive::names(&self.data()).len() == count);
        // Reading them checks that they are whole.
        let archive = archive::read(&self.data());
        assert!(
            archive.values().all(|file| file.records.len() >= 8),
            "{:?}",
            archive.keys().map(|n| uuid(n)).collect::<Vec<_>>()
        );
        self.running.wait_until_ready();
    }
}
