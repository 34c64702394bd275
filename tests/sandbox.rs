//! The sandbox, on the real program: what each thread may do, what it is refused, and that the work goes on.

mod support;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use support::inject::{Argument::Number, Argument::Text, Captive, threads};
use support::lab::{Lab, Namespace, privileged};
use support::process::{ADMIN_FLAG, Place, Running, flowarc};
use support::until;

#[test]
fn every_thread_has_only_the_capabilities_and_system_calls_of_its_work() {
    if !privileged("every_thread_has_only_the_capabilities_and_system_calls_of_its_work") {
        return;
    }
    // A shunt needs one capability more: to look into the map of what is dropped in the kernel.
    for (shunt, bpf) in [("--shunt=off", 0), ("--shunt=auto", CAP_BPF)] {
        let (place, namespace) = (Place::new(), Namespace::new());
        let catalogue = place.path("catalogue");
        let running = Running::headers(&place, &namespace, ["--catalog", catalogue.to_str().unwrap(), "--shards=2", shunt]);
        if lacks_landlock(&running) {
            return;
        }
        for role in ["flowarc", "control", "shard", "writer", "catalogue", "kernel-uuids"] {
            until(&format!("there is a thread {role}"), || roles(&running).iter().any(|(name, _)| name == role));
        }
        for (name, status) in roles(&running) {
            let kept = match name.as_str() {
                "flowarc" | "control" => CAP_NET_RAW | bpf,
                "shard" => bpf,
                _ => 0,
            };
            assert_eq!((status.permitted, status.effective, status.ambient), (kept, kept, 0), "{name} {shunt}");
            assert_eq!((status.bounding, status.no_new_privs, status.seccomp), (CAP_NET_RAW | bpf, 1, 2), "{name} {shunt}");
        }
        let metrics = running.metrics();
        for mechanism in MECHANISMS {
            assert_eq!(metrics.child("flowarc_sandbox", "mechanism", mechanism), 1.0, "{mechanism}");
        }
        assert!(
            fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap().contains("Max core file size        1")
        );
    }
}

#[test]
fn a_capture_of_files_and_a_capture_of_packets_are_sandboxed_too() {
    if !privileged("a_capture_of_files_and_a_capture_of_packets_are_sandboxed_too") {
        return;
    }
    let (place, namespace) = (Place::new(), Namespace::new());
    // Held open, so that the program waits for more.
    let mut command = flowarc();
    command.args(["headers", "--read", "-", "--datadir"]).arg(&place.data);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    until("the reader waits", || threads(child.id()).iter().any(|(_, name)| name == "shard-0"));
    until("the reader has no privilege", || {
        threads(child.id()).iter().all(|(thread, _)| Status::read(*thread).is_some_and(|s| s.effective == 0 && s.seccomp == 2))
    });
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1), "an empty input is no capture file");

    let mut command = flowarc();
    command.args(["capture", "--cutoff.bytes=1KB", "--retain.age=1h", "--datadir"]).arg(&place.data);
    let mut running = Running::start(command.args(ADMIN_FLAG), &place, Some(&namespace));
    running.wait_until_ready();
    for (name, status) in roles(&running) {
        let kept = match name.as_str() {
            "flowarc" | "control" => CAP_NET_RAW | CAP_BPF,
            // It looks into the map of what is dropped in the kernel.
            "shard" => CAP_BPF,
            _ => 0,
        };
        assert_eq!((status.effective, status.no_new_privs, status.seccomp), (kept, 1, 2), "{name}");
    }
    #[cfg(target_arch = "x86_64")]
    for (thread, name) in threads(running.child.id()) {
        // Another program in the kernel instead of a look into the map: BPF_PROG_LOAD.
        let loaded = Captive::take(thread).call(libc::SYS_bpf, &[Number(5), Number(0), Number(0)]);
        assert_eq!(loaded, Err(Errno::EPERM), "{name}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn who_takes_a_thread_over_can_write_nowhere_else_and_run_nothing() {
    if !privileged("who_takes_a_thread_over_can_write_nowhere_else_and_run_nothing") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    if lacks_landlock(&running) {
        return;
    }
    for (thread, name) in threads(running.child.id()) {
        let outside = place.path(&format!("outside-{name}"));
        let attempts = Attempts::of(&Captive::take(thread), &outside, &place.data);
        let writes_files = name != "shard-0";
        assert_eq!(attempts.write_outside, Err(if writes_files { Errno::EACCES } else { Errno::EPERM }), "{name}");
        assert_eq!(attempts.write_inside.map(|_| ()), if writes_files { Ok(()) } else { Err(Errno::EPERM) }, "{name}");
        assert_eq!([attempts.read_passwords, attempts.read_others], [Err(Errno::EACCES); 2], "{name}");
        assert_eq!(
            [attempts.run, attempts.fork, attempts.internet, attempts.code, attempts.trace],
            [Err(Errno::EPERM); 5],
            "{name}"
        );
        assert!(!outside.exists(), "{name} made {}", outside.display());
        let opens_rings = ["flowarc", "control"].contains(&name.as_str());
        assert_eq!(attempts.ring.map(|_| ()), if opens_rings { Ok(()) } else { Err(Errno::EPERM) }, "{name}");
    }
    running.wait_for("flowarc_sandbox_refusals_total", 1.0);
    assert!(running.log().contains("the sandbox refused system calls"), "{}", running.log());

    // And all of them go on with their work.
    let mut conversation = lab.connect("192.0.2.1");
    events.open("after_all", conversation.local, conversation.remote);
    conversation.talk();
    conversation.close();
    place.wait_for_file("after_all");
    running.stop(Signal::SIGTERM);
}

/// Without this, the refusals of the test above could be the test's own mistakes.
#[test]
#[cfg(target_arch = "x86_64")]
fn without_the_sandbox_a_thread_that_is_taken_over_can_do_all_of_that() {
    if !privileged("without_the_sandbox_a_thread_that_is_taken_over_can_do_all_of_that") {
        return;
    }
    let (namespace, place) = (Namespace::new(), Place::new());
    let running = Running::headers(&place, &namespace, ["--sandbox=off"]);
    assert!(running.log().contains("not sandboxed, as asked"));
    let (thread, _) = threads(running.child.id()).into_iter().find(|(_, name)| name == "shard-0").unwrap();
    let outside = place.path("outside");
    let attempts = Attempts::of(&Captive::take(thread), &outside, &place.data);
    assert!(outside.exists());
    for done in [
        attempts.write_outside,
        attempts.write_inside,
        attempts.read_passwords,
        attempts.read_others,
        attempts.internet,
        attempts.code,
    ] {
        done.unwrap();
    }
    assert_eq!(attempts.run, Err(Errno::ENOENT), "it is a program that is not there");
    assert_eq!(running.metrics().child("flowarc_sandbox", "mechanism", "seccomp"), 0.0);
}

/// A folder of a day that leads elsewhere is what somebody can make who may write to the archive, and no more.
#[test]
fn a_link_out_of_the_archive_is_not_followed() {
    if !privileged("a_link_out_of_the_archive_is_not_followed") {
        return;
    }
    for (policy, follows) in [("--sandbox=off", true), ("--sandbox=auto", false)] {
        let (lab, place) = (Lab::new(), Place::new());
        let elsewhere = place.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::create_dir(&place.data).unwrap();
        symlink(&elsewhere, place.data.join("2031")).unwrap();
        let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near", policy]);
        if !follows && lacks_landlock(&running) {
            return;
        }
        let mut conversation = lab.connect("192.0.2.1");
        let at = "2031-01-01T00:00:00Z";
        events.say(support::events::open_line("led_away", at, conversation.local, conversation.remote));
        conversation.talk();
        conversation.close();
        if follows {
            until("the file is elsewhere", || elsewhere.join("01/01/led_away.pcap.gz").exists());
            running.stop(Signal::SIGTERM);
        } else {
            until("the disk refuses the file", || running.unready().contains("the disk refuses files"));
            running.signal(Signal::SIGTERM);
            assert_eq!(running.wait().0.code(), Some(1), "a file was lost");
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_temporary_folder_that_vanishes_is_made_again_inside_the_data_folder() {
    if !privileged("a_temporary_folder_that_vanishes_is_made_again_inside_the_data_folder") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let (mut running, mut events) = Running::with_events(&place, &lab.near, &["--interface=near"]);
    fs::remove_dir_all(place.path(".data.tmp")).unwrap();
    // Twice the same name, so that files are merged there too.
    for _ in 0..2 {
        let mut conversation = lab.connect("192.0.2.1");
        events.open("same", conversation.local, conversation.remote);
        conversation.talk();
        conversation.close();
        place.wait_for_file("same");
    }
    running.wait_for("flowarc_archive_merges_total", 1.0);
    running.stop(Signal::SIGTERM);
    let uuids = place.uuids();
    let visible: Vec<_> = uuids.iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(visible, ["same"]);
}

#[test]
fn root_writes_to_a_folder_of_another_user_and_says_what_it_keeps_for_that() {
    if !privileged("root_writes_to_a_folder_of_another_user_and_says_what_it_keeps_for_that") {
        return;
    }
    for (owner, keeps) in [(0, false), (65534, true)] {
        let place = Place::new();
        fs::create_dir(&place.data).unwrap();
        fs::set_permissions(&place.data, Permissions::from_mode(0o755)).unwrap();
        chown(&place.data, Some(owner), Some(owner)).unwrap();
        let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/closed.pcap");
        let out = support::process::replay_output(&place, &capture, "", &[]);
        let log = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{log}");
        assert!(!place.uuids().is_empty());
        let told = format!("capabilities=\"CAP_DAC_OVERRIDE (because of {})\"", place.data.display());
        assert_eq!(log.contains(&told), keeps, "{log}");
        assert_eq!(log.contains("CAP_DAC_OVERRIDE"), keeps, "{log}");
    }
}

/// As in a container whose runtime has a seccomp profile from before Landlock.
#[test]
fn what_the_kernel_does_not_offer_is_a_warning_or_the_end() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/closed.pcap");
    for (policy, code) in [("auto", 0), ("required", 1)] {
        let place = Place::new();
        let mut command = flowarc();
        command.args(["headers", "--read"]).arg(&capture).arg("--datadir").arg(&place.data).env("FLOWARC_SANDBOX", policy);
        without_landlock(&mut command);
        let out = command.output().unwrap();
        let log = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{log}");
        assert_eq!(place.uuids().is_empty(), code != 0);
        assert_eq!(log.lines().filter(|line| line.contains("landlock: needs Linux")).count(), 1, "{log}");
        assert_eq!(log.contains("WARN"), policy == "auto", "{log}");
        assert!(log.contains(if policy == "auto" { "sandboxed in part" } else { "flowarc: sandbox: landlock: needs" }), "{log}");
    }
}

/// Has a command run where landlock_create_ruleset(2) is refused, as an unknown call is by an old profile.
fn without_landlock(command: &mut Command) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    use std::os::unix::process::CommandExt;
    let refused = [(libc::SYS_landlock_create_ruleset, vec![])].into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (others, landlock) = (SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32));
    let program: BpfProgram = SeccompFilter::new(refused, others, landlock, arch).unwrap().try_into().unwrap();
    // SAFETY: between fork and exec it makes two system calls, and allocates nothing unless they fail.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other)) };
}

/// What somebody would try, and what came of it.
#[cfg(target_arch = "x86_64")]
struct Attempts {
    write_outside: Result<i64, Errno>,
    write_inside: Result<i64, Errno>,
    read_passwords: Result<i64, Errno>,
    read_others: Result<i64, Errno>,
    run: Result<i64, Errno>,
    fork: Result<i64, Errno>,
    internet: Result<i64, Errno>,
    ring: Result<i64, Errno>,
    code: Result<i64, Errno>,
    trace: Result<i64, Errno>,
}

#[cfg(target_arch = "x86_64")]
impl Attempts {
    fn of(captive: &Captive, outside: &Path, data: &Path) -> Self {
        let create = Number((libc::O_WRONLY | libc::O_CREAT).into());
        let open = |path: &str, flags| {
            captive.call(libc::SYS_openat, &[Number(libc::AT_FDCWD.into()), Text(path), flags, Number(0o600)])
        };
        let inside = data.join("inside");
        let attempts = Self {
            write_outside: open(outside.to_str().unwrap(), create),
            write_inside: open(inside.to_str().unwrap(), create),
            read_passwords: open("/etc/passwd", Number(0)),
            // The environment of another process of the same user: of this one.
            read_others: open(&format!("/proc/{}/environ", std::process::id()), Number(0)),
            // Not there, so that the program goes on where it may run one.
            run: captive.call(libc::SYS_execve, &[Text("/no/such/program"), Number(0), Number(0)]),
            // A flag that no kernel takes without another, for the same reason.
            fork: captive.call(libc::SYS_clone, &[Number((libc::CLONE_SIGHAND | libc::SIGCHLD).into()), Number(0)]),
            internet: captive
                .call(libc::SYS_socket, &[Number(libc::AF_INET.into()), Number(libc::SOCK_STREAM.into()), Number(0)]),
            ring: captive.call(libc::SYS_socket, &[Number(libc::AF_PACKET.into()), Number(libc::SOCK_RAW.into()), Number(0)]),
            code: captive.call(
                libc::SYS_mmap,
                &[
                    Number(0),
                    Number(4096),
                    Number(7),
                    Number((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into()),
                    Number(-1),
                    Number(0),
                ],
            ),
            trace: captive.call(libc::SYS_ptrace, &[Number(libc::PTRACE_ATTACH.into()), Number(1)]),
        };
        let _ = fs::remove_file(inside);
        attempts
    }
}

/// Whether the kernel is too old for what the test is about. Says so, and fails where CI=true promised that it is not.
fn lacks_landlock(running: &Running) -> bool {
    let in_part = running.log().contains("sandboxed in part");
    assert!(!in_part || std::env::var("CI").as_deref() != Ok("true"), "CI must run this on Linux 6.12 or later");
    if in_part {
        eprintln!("SKIPPED: a test of the sandbox: needs Linux 6.12 with Landlock");
    }
    in_part
}

/// The threads of a program by what they are for, a number at the end left out.
fn roles(running: &Running) -> Vec<(String, Status)> {
    let role = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
    threads(running.child.id()).into_iter().filter_map(|(thread, name)| Some((role(&name), Status::read(thread)?))).collect()
}

/// What /proc/TID/status says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Status {
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privs: u64,
    seccomp: u64,
}

impl Status {
    /// None of a thread that has ended.
    fn read(thread: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
            u64::from_str_radix(value, 16).ok()
        };
        Some(Self {
            permitted: field("CapPrm")?,
            effective: field("CapEff")?,
            bounding: field("CapBnd")?,
            ambient: field("CapAmb")?,
            no_new_privs: field("NoNewPrivs")?,
            seccomp: field("Seccomp")?,
        })
    }
}

const MECHANISMS: [&str; 7] =
    ["capabilities", "landlock", "landlock_net", "landlock_scope", "no_core_dumps", "no_new_privs", "seccomp"];
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_BPF: u64 = 1 << 39;
