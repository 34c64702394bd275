//! The manual pages: one for each subcommand, with what `--help` says, and readable by man.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use support::process::{Place, flowarc};

#[test]
fn each_subcommand_has_a_page_with_its_flags_and_their_variables() {
    let place = Place::new();
    let written = write_pages(&place);
    let mut expected = BTreeSet::new();
    expect_pages(&[], &mut expected, &place);
    assert_eq!(written, expected);
    assert!(written.contains("flowarc-events-serve.1"), "{written:?}");
}

#[test]
fn headers_page_names_variables_defaults_and_examples() {
    let place = Place::new();
    write_pages(&place);
    let page = page(&place, "flowarc-headers.1");
    for text in
        ["ANONYMIZE_IP", "[default: 30s]", ".SS \"Times (such as 30s, 1m30s, 500ms)\"", ".SH EXAMPLES", "--interface eth0"]
    {
        assert!(page.contains(text), "{text} in {page}");
    }
    assert!(!page.contains("[default: ]"), "{page}");
}

#[test]
fn man_reads_the_pages_without_a_warning() {
    if Command::new("man").arg("--version").output().is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI has man (scripts/install-deps.sh)");
        eprintln!("SKIPPED: man_reads_the_pages_without_a_warning: man is not installed");
        return;
    }
    let place = Place::new();
    for name in write_pages(&place) {
        let mut man = Command::new("man");
        let out = man.args(["--warnings", "-l"]).arg(place.path("man").join(&name)).env("LC_ALL", "C.UTF-8").output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty() && !out.stdout.is_empty(), "{name}: {out:?}");
    }
}

/// Follows `--help` from command to subcommand; each flag of each must be on its page.
fn expect_pages(command: &[&str], expected: &mut BTreeSet<String>, place: &Place) {
    let name = [&["flowarc"], command].concat().join("-") + ".1";
    let help = stdout(&flowarc().args(command).arg("--help").env("COLUMNS", "1000").output().unwrap());
    let page = page(place, &name);
    for line in help.lines().map(str::trim) {
        let flag = line.split([' ', '=', '[']).next().unwrap().trim_end_matches(',');
        if flag.starts_with("--") {
            assert!(page.contains(&format!("\\fB{flag}\\fR")), "{flag} on {name}");
        }
        if let Some(variable) = line.strip_prefix("[env: ") {
            let variable = variable.trim_end_matches(['=', ']']);
            assert!(page.contains(variable), "{variable} on {name}");
        }
    }
    expected.insert(name);
    let list = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap();
    for subcommand in list.lines().filter_map(|line| line.split_whitespace().next()).filter(|&name| name != "help") {
        expect_pages(&[command, &[subcommand]].concat(), expected, place);
    }
}

fn write_pages(place: &Place) -> BTreeSet<String> {
    let out = flowarc().arg("man").arg(place.path("man")).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    fs::read_dir(place.path("man")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A page, with roff's escapes of dashes and points undone.
fn page(place: &Place, name: &str) -> String {
    fs::read_to_string(place.path("man").join(name)).unwrap().replace("\\-", "-").replace("\\&", "")
}

fn stdout(out: &Output) -> String {
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout.clone()).unwrap()
}
