//! The command as a process: which exit code, on which stream, for which arguments and environment.

use assert_cmd::Command;
use std::process::Output;

#[test]
fn without_arguments_help_and_exit_2() {
    let out = run(&mut flowarc(), &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("Usage: flowarc <COMMAND>"), "{out:?}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (args, text) in [
        (&["--help"][..], "headers"),
        (&["-h"], "completions"),
        (&["headers", "--help"], "[env: ANONYMIZE_IP]"),
        (&["--version"], concat!("flowarc ", env!("CARGO_PKG_VERSION"))),
        (&["-V"], concat!("flowarc ", env!("CARGO_PKG_VERSION"))),
    ] {
        let out = run(&mut flowarc(), args);
        assert_eq!(out.status.code(), Some(0), "{args:?}");
        assert!(stdout(&out).contains(text), "{args:?}: {out:?}");
        assert_eq!(stderr(&out), "", "{args:?}");
    }
}

#[test]
fn the_modern_form_tells_grammar_from_meaning() {
    for (args, code) in [
        (&["headers", "--bogus"][..], 2),
        (&["headers", "--maxflows=many"], 2),
        (&["headers", "--captureduration=30"], 2),
        (&["headers", "--anonymize.ip=foo"], 2),
        (&["headers", "stray"], 2),
        (&["bogus"], 2),
        (&["completions", "dosbox"], 2),
        (&["headers", "--uuidwaitduration=2s", "--captureduration=1s"], 64),
        (&["headers", "--flowtimeout=0"], 64),
        (&["headers", "--datadir="], 64),
        (&["headers", "--events=e"], 64),
        (&["headers", "--read=f", "--interface=lo"], 64),
        (&["headers", "--prometheusx.listen-address=9990"], 64),
    ] {
        let out = run(&mut flowarc(), args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {out:?}");
        assert_ne!(stderr(&out), "", "{args:?}");
        assert_eq!(stdout(&out), "", "{args:?}");
    }
}

#[test]
fn the_modern_form_has_the_same_environment_behind_it() {
    for (variable, value, code) in [
        ("MAXFLOWS", "many", 2),
        ("MAXFLOWS", "", 2),
        ("FLOWTIMEOUT", "0", 64),
        ("DATADIR", "", 64),
        ("INTERFACE", "", 64),
        ("STREAM", "maybe", 2),
    ] {
        let out = run(flowarc().env(variable, value), &["headers"]);
        assert_eq!(out.status.code(), Some(code), "{variable}={value}: {out:?}");
    }
    let out = run(flowarc().env("FLOWTIMEOUT", "30s"), &["headers", "--flowtimeout=0"]);
    assert_eq!(out.status.code(), Some(64), "the command line comes first");
}

#[test]
fn a_message_names_flag_value_and_remedy_on_one_line() {
    let out = run(&mut flowarc(), &["headers", "--uuidwaitduration=2s", "--captureduration=1s"]);
    let text = stderr(&out);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("--uuidwaitduration=2s") && text.contains("at most --captureduration=1s"), "{text}");
}

#[test]
fn the_predecessors_form_exits_with_its_codes() {
    for (args, code) in [
        (&["-bogus"][..], 2),
        (&["-maxflows", "many"], 2),
        (&["-captureduration", "30"], 2),
        (&["-maxheap=8GiB"], 2),
        (&["-stream=maybe"], 2),
        (&["-anonymize.ip=foo"], 2),
        (&["-help"], 0),
        (&["-stream", "-h"], 0),
        (&["-maxheap=99999999999999999999"], 1),
        (&["-uuidwaitduration=2s", "-captureduration=1s"], 1),
        (&["-datadir="], 1),
        (&["-stream"], 1),
        (&["-tcpinfo.eventsocket="], 1),
        (&["-stream", "stray", "-maxflows=1"], 2),
    ] {
        let out = run(&mut flowarc(), args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {out:?}");
        assert_ne!(stderr(&out), "", "{args:?}");
        assert_eq!(stdout(&out), "", "{args:?}");
    }
}

#[test]
fn a_missing_event_socket_is_told_with_its_remedy() {
    let out = run(&mut flowarc(), &["-datadir=."]);
    assert!(stderr(&out).contains("--tcpinfo.eventsocket") && stderr(&out).contains("--uuid.source=generated"), "{out:?}");
}

#[test]
fn the_predecessors_environment_is_behind_its_flags() {
    for (args, env, code, text) in [
        (&["-datadir=."][..], &[("MAXFLOWS", "")][..], 1, "MAXFLOWS"),
        (&["-datadir=."], &[("STREAM", "x"), ("UUIDWAITDURATION", "5")], 1, "UUIDWAITDURATION"),
        (&["-bogus"], &[("STREAM", "x")], 2, "-bogus"),
        (&["-maxflows=x"], &[("STREAM", "x")], 2, "-maxflows"),
        (&["-tcpinfo.eventsocket="], &[("TCPINFO_EVENTSOCKET", "/s")], 1, "overrides"),
        (&["-datadir=."], &[("CAPTUREDURATION", "1s"), ("UUIDWAITDURATION", "2s")], 1, "--uuidwaitduration=2s"),
    ] {
        let out = run(flowarc().envs(env.iter().copied()), args);
        assert_eq!(out.status.code(), Some(code), "{args:?} {env:?}: {out:?}");
        assert!(stderr(&out).contains(text), "{args:?} {env:?}: {out:?}");
    }
}

#[test]
fn the_program_called_packet_headers_speaks_the_predecessors_grammar() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let link = dir.path().join("packet-headers");
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("flowarc"), &link).expect("a link");
    for (args, code) in [(&[][..], 1), (&["-h"], 0), (&["--help"], 0), (&["--version"], 2), (&["-stream"], 1)] {
        let out = run(Command::new(&link).env_clear(), args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {out:?}");
        assert_eq!(stdout(&out), "", "{args:?}");
    }
}

#[test]
fn every_shell_gets_completions_of_every_flag() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = run(&mut flowarc(), &["completions", shell]);
        assert_eq!(out.status.code(), Some(0), "{shell}");
        assert!(stdout(&out).contains("uuidwaitduration"), "{shell}");
    }
}

/// The command with an empty environment, so that flags come from the test alone.
fn flowarc() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("flowarc"));
    command.env_clear();
    command
}

fn run(command: &mut Command, args: &[&str]) -> Output {
    command.args(args).output().expect("the command runs")
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}
