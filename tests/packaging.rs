//! What packages and services hold is what the program offers: flags, variables, licences, files.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::process::{Place, flowarc};

#[test]
fn the_services_start_the_program_with_flags_that_it_has() {
    for unit in ["flowarc", "flowarc-capture"] {
        let text = read(&format!("deploy/systemd/{unit}.service"));
        let words: Vec<_> = setting(&text, "ExecStart").split(' ').collect();
        let ["/usr/bin/flowarc", command, flags @ ..] = &words[..] else { panic!("ExecStart of {unit}: {words:?}") };
        let help = help(command);
        for flag in flags.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{flag} <")), "flowarc {command} has no {flag}");
        }
        let defaults = setting(&text, "EnvironmentFile").strip_prefix("/etc/default/").unwrap();
        assert!(root().join(format!("deploy/debian/{defaults}.default")).exists(), "{unit} reads {defaults}");
    }
}

#[test]
fn the_settings_of_the_header_service_are_variables_of_the_program() {
    let help = help("headers");
    let known: BTreeSet<_> = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap()).collect();
    let defaults = read("deploy/debian/flowarc.default");
    // Also those that are proposed: a comment that is no sentence.
    let named = defaults.lines().map(|line| line.trim_start_matches('#')).filter_map(|line| line.split_once('='));
    let named: BTreeSet<_> = named.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
    assert!(named.len() > 6 && named.is_subset(&known), "{:?}", named.difference(&known));
}

#[test]
fn the_program_takes_the_settings_of_the_header_service() {
    let place = Place::new();
    let mut command = flowarc();
    command.args(["headers", "--read", "testdata/reuse.pcap", "--events", "testdata/reuse.events.jsonl"]).current_dir(root());
    for (name, value) in
        read("deploy/debian/flowarc.default").lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='))
    {
        command.env(name, value.replace("/var/lib/flowarc", place.top.path().to_str().unwrap()));
    }
    let out = command.env("PROMETHEUSX_LISTEN_ADDRESS", "").output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(place.path("pcap/2026/11/21").is_dir() && place.path("catalog").is_dir(), "{out:?}");
}

#[test]
fn the_program_takes_the_settings_of_the_capture_service() {
    let place = Place::new();
    let flags = read("deploy/debian/flowarc-capture.default");
    // A replay listens nowhere and removes nothing.
    let flags =
        setting(&flags, "FLOWARC_CAPTURE_FLAGS").replace("127.0.0.1:9991", "127.0.0.1:0").replace("--retain.bytes 50GB ", "");
    let mut command = flowarc();
    command.args(["capture", "--shunt", "off", "--read", "testdata/reuse.pcap", "--datadir"]).arg(place.path("spool"));
    let out = command.args(flags.split(' ')).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_services_and_little_that_they_may_do() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI has systemd-analyze (scripts/install-deps.sh)");
        return eprintln!("SKIPPED: systemd_finds_nothing_wrong_with_the_services: no systemd-analyze here");
    }
    let place = Place::new();
    for unit in ["flowarc.service", "flowarc-capture.service"] {
        // As if it were installed.
        let text = read(&format!("deploy/systemd/{unit}")).replace("/usr/bin/flowarc", support::process::binary());
        let path = place.path(unit);
        fs::write(&path, text).unwrap();
        let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&verify.stderr);
        let about_it: Vec<_> = said.lines().filter(|line| line.contains("flowarc")).collect();
        assert!(about_it.is_empty(), "{about_it:#?}");
        let mut security = Command::new("systemd-analyze");
        let security = security.args(["security", "--offline=true", "--threshold=21"]).arg(&path).output().unwrap();
        assert!(security.status.success(), "an exposure of more than 2.1: {}", text_of(&security));
    }
}

#[test]
fn health_follows_the_daemon() {
    let mut running = flowarc();
    running.args(["headers", "--read", "-", "--prometheusx.listen-address", "127.0.0.1:0", "--datadir"]);
    let place = Place::new();
    let mut running = running.arg(&place.data).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Kept open until the end: the program goes on to log.
    let mut log = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = log.by_ref().find(|line| line.contains("served over HTTP")).unwrap();
    let address = said.rsplit("address=").next().unwrap().trim();

    let by_flag = flowarc().args(["health", "--prometheusx.listen-address", address]).output().unwrap();
    assert_eq!((by_flag.status.code(), &by_flag.stdout[..]), (Some(0), &b"alive\n"[..]), "{by_flag:?}");
    let by_variable = flowarc().arg("health").env("PROMETHEUSX_LISTEN_ADDRESS", address).output().unwrap();
    assert_eq!(by_variable.status.code(), Some(0), "{by_variable:?}");

    // Its input ends, and so does it.
    drop(running.stdin.take());
    assert_eq!(running.wait().unwrap().code(), Some(1), "empty input: {:?}", log.collect::<Vec<_>>());
    let gone = flowarc().args(["health", "--ready", "--prometheusx.listen-address", address]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(said.contains(address) && said.contains("does flowarc run") && said.lines().count() == 1, "{said}");
}

#[test]
fn health_refuses_what_makes_no_sense() {
    for args in [["--prometheusx.listen-address="], ["--prometheusx.listen-address=x"], ["--timeout=0s"]] {
        let out = flowarc().arg("health").args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(64), "{out:?}");
    }
}

#[test]
fn every_library_has_a_licence_that_deny_toml_allows() {
    let policy = read("deny.toml");
    let list = policy.split("allow = [").nth(1).unwrap().split(']').next().unwrap();
    let allowed: BTreeSet<_> = list.split('"').skip(1).step_by(2).collect();
    // What is built and linked, and no more: metadata would also list what features could ask for and do not.
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--locked", "--workspace", "--edges=all", "--prefix=none", "--format={p}|{l}|"]);
    let tree = text_of(&command.current_dir(root()).output().unwrap());
    let packages: BTreeSet<_> = tree.lines().filter_map(|line| line.split_once('|')).collect();
    for (package, licence) in &packages {
        let licence = licence.split('|').next().unwrap();
        assert!(!licence.is_empty(), "{package} states no licence");
        assert!(is_allowed(licence, &allowed), "{package} is under {licence}");
    }
    assert!(packages.len() > 100, "{}", packages.len());
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, verdict) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-2.0 OR MIT", true),
        ("GPL-2.0 AND MIT", false),
        ("(MIT OR GPL-2.0) AND Zlib", false),
        ("(MIT OR GPL-2.0) AND MIT", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), verdict, "{expression}");
    }
}

#[test]
fn the_files_that_packaging_names_are_there() {
    let mut named = 0;
    for file in ["Dockerfile", "Makefile", "Cargo.toml", "docs/INSTALL.md", ".ci/run", "README.md"] {
        for word in read(file).split(|c: char| c.is_whitespace() || "\"'`()[],;".contains(c)) {
            let ours = ["deploy/", "scripts/"].iter().any(|folder| word.starts_with(folder));
            if ours && !word.contains(['*', '$']) {
                assert!(root().join(word.trim_end_matches(['.', ':'])).exists(), "{file} names {word}");
                named += 1;
            }
        }
    }
    assert!(named > 15, "{named}");
}

#[test]
fn page_and_image_name_the_rust_that_cargo_toml_states() {
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("docs/INSTALL.md").contains(&format!("Rust {rust} or later")));
    assert!(read("Dockerfile").contains(&format!("/rust:{rust}-")));
}

/// Whether a licence expression (SPDX 2.3 annex D; a slash is an old way to write OR) can be kept with these licences.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut verdict = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        verdict |= all_of(words, allowed);
    }
    verdict
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut verdict = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        verdict &= one(words, allowed);
    }
    verdict
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let word = words.next().expect("an expression ends with a licence");
    if word == "(" {
        let verdict = any_of(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return verdict;
    }
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(format!("{word} WITH {exception}").as_str()),
        None => allowed.contains(word),
    }
}

/// The value of a line `name=value`.
fn setting<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name}="))
}

fn help(command: &str) -> String {
    text_of(&flowarc().args([command, "--help"]).env("COLUMNS", "1000").output().unwrap())
}

fn text_of(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
