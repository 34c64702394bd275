//! The catalogue of a running daemon: the kernel's figures in its rows, and a disk that refuses it.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::lab::{Conversation, Lab, privileged};
use support::process::{ADMIN_FLAG, Place, Running, binary, clear_env, flowarc};
use support::until;

#[test]
fn the_tcp_info_columns_are_what_the_socket_itself_says() {
    if !privileged("the_tcp_info_columns_are_what_the_socket_itself_says") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let catalogue = place.path("rows");
    let flags = ["--interface=near", "--uuid.source=kernel", "--catalog", catalogue.to_str().unwrap()];
    let mut running = Running::headers(&place, &lab.near, flags);
    for near_connects in [false, true] {
        let (near, far) = if near_connects {
            let listener = lab.far.listen("192.0.2.2:0");
            (lab.near.connect(listener.local_addr().unwrap()), listener.accept().unwrap().0)
        } else {
            let Conversation { client, server, .. } = lab.connect("192.0.2.1");
            (server, client)
        };
        expect_row_of(near, far, near_connects, &|args| find(&place.data, &catalogue, args));
    }
    running.stop(Signal::SIGTERM);
}

/// Sends known bytes each way and compares the row with what the near socket says before it goes.
fn expect_row_of(mut near: TcpStream, mut far: TcpStream, near_connects: bool, find: &dyn Fn(&[&str]) -> Vec<Value>) {
    let ports = [&near, &far].map(|end| end.local_addr().unwrap().port().to_string());
    let (received, sent) = (5_000, 300_000);
    far.write_all(&vec![1; received]).unwrap();
    near.read_exact(&mut vec![0; received]).unwrap();
    let mut reading = far.try_clone().unwrap();
    let reader = std::thread::spawn(move || reading.read_exact(&mut vec![0; sent]));
    near.write_all(&vec![2; sent]).unwrap();
    reader.join().unwrap().unwrap();
    // Both FINs while the socket is still there to be asked: what it says then is its last word.
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    near.shutdown(Shutdown::Write).unwrap();
    until("the FIN is acknowledged", || tcp_info(&near)[0] == CLOSED);
    let info = tcp_info(&near);
    drop(near);

    let rows = || find(&["--port", &ports[0], "--port", &ports[1]]);
    until("its row is there", || rows().len() == 1);
    let row = rows().remove(0);
    let int = |at: usize| u64::from(u32::from_ne_bytes(std::array::from_fn(|i| info[at + i])));
    let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| info[at + i]));
    for (column, expected) in [
        ("snd_mss", int(16)),
        ("snd_cwnd", int(80)),
        ("total_retrans", int(100)),
        ("bytes_acked", long(120)),
        ("bytes_received", long(128)),
        ("segs_out", int(136)),
        ("segs_in", int(140)),
        ("data_segs_in", int(152)),
        ("data_segs_out", int(156)),
        ("delivery_rate", long(160)),
        ("bytes_retrans", long(208)),
        ("dsack_dups", int(216)),
        ("reord_seen", int(220)),
        ("rcv_ooopack", int(224)),
    ] {
        assert_eq!(row[format!("tcp_info_{column}")].as_u64(), Some(expected), "{column} in {row}");
    }
    for (column, micros) in [
        ("rtt", int(68)),
        ("rttvar", int(72)),
        ("min_rtt", int(148)),
        ("busy", long(168)),
        ("rwnd_limited", long(176)),
        ("sndbuf_limited", long(184)),
    ] {
        assert_eq!(row[format!("tcp_info_{column}_ms")].as_f64(), Some(micros as f64 / 1e3), "{column} in {row}");
    }
    // And what is known without the kernel: the SYN of who connects and the FIN count as a byte acknowledged, the other end's FIN
    // as one received.
    assert_eq!(row["tcp_info_bytes_acked"], sent as u64 + 1 + u64::from(near_connects));
    assert_eq!(row["tcp_info_bytes_received"], received as u64 + 1);
    let [near, far] = if near_connects { ["client", "server"] } else { ["server", "client"] };
    assert_eq!(row[format!("{near}_payload_bytes")], sent);
    assert_eq!(row[format!("{far}_payload_bytes")], received);
}

#[test]
fn rows_that_a_full_disk_refuses_wait_and_those_that_wait_in_vain_are_counted_and_made_again() {
    if !privileged("rows_that_a_full_disk_refuses_wait_and_those_that_wait_in_vain_are_counted_and_made_again") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let disk = place.path("small");
    fs::create_dir(&disk).unwrap();
    // The shell becomes the program, so that its view of the mount is ours by its id.
    let mount = r#"mount -t tmpfs -o size=400k tmpfs "$0" && exec "$@""#;
    let mut command = Command::new("unshare");
    clear_env(&mut command);
    command.args(["--mount", "sh", "-c", mount]).arg(&disk).arg(binary()).arg("headers").arg("--datadir").arg(&place.data);
    command.args(["--interface=near", "--uuid.source=kernel"]).arg("--catalog").arg(disk.join("rows"));
    let mut running = Running::start(command.args(ADMIN_FLAG), &place, Some(&lab.near));
    running.wait_until_ready();
    let root = PathBuf::from(format!("/proc/{}/root{}", running.child.id(), disk.display()));
    let filler = root.join("filler");
    let fill = || {
        let mut file = File::create(&filler).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    };
    let rows = |outcome: &str| running.metrics().child("flowarc_catalogue_rows_total", "outcome", outcome);
    let found = || find(&place.data, &root.join("rows"), &["--since", "1h"]).len();
    let talk = || {
        let mut conversation = lab.connect("192.0.2.1");
        conversation.talk();
        conversation.close();
    };
    talk();
    until("the first row is there", || rows("recorded") == 1.0 && found() == 1);

    fill();
    // More than the rest of the journal's last page has room for.
    (0..20).for_each(|_| talk());
    running.wait_for("flowarc_catalogue_errors_total", 1.0);
    until("all files are there", || place.uuids().len() == 21);
    assert!(rows("recorded") < 21.0, "what is in memory alone is not recorded");
    assert_eq!(rows("lost"), 0.0);
    fs::remove_file(&filler).unwrap();
    until("what waited is there", || rows("recorded") == 21.0 && found() == 21);

    fill();
    (0..20).for_each(|_| talk());
    until("all files are there", || place.uuids().len() == 41);
    let seen = root.join("rows");
    let folder = File::open(&seen).unwrap();
    running.signal(Signal::SIGTERM);
    let (status, _) = running.wait();
    assert!(status.success(), "the archive is whole: {}", running.log());
    assert!(running.log().contains("has not taken these rows of the catalogue"), "{}", running.log());

    // The catalogue on a disk with room: rows that were left behind, and those that were not, each once.
    let kept = place.path("kept");
    copy(format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd()).as_ref(), &kept);
    let out = flowarc().arg("catalog").arg(&place.data).arg("--catalog").arg(&kept).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(find(&place.data, &kept, &["--since", "1h"]).len(), 41);
}

fn find(archive: &Path, catalogue: &Path, args: &[&str]) -> Vec<Value> {
    let out = flowarc().arg("find").arg(archive).arg("--json").arg("--catalog").arg(catalogue).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}

/// The socket's `struct tcp_info` (include/uapi/linux/tcp.h), as far as this kernel has it.
fn tcp_info(socket: &TcpStream) -> [u8; 232] {
    let mut info = [0; 232];
    let mut len = info.len() as u32;
    // SAFETY: both pointers are to live values, the buffer has the length given, and the call keeps neither.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    info
}

/// TCP_CLOSE (include/net/tcp_states.h).
const CLOSED: u8 = 7;
