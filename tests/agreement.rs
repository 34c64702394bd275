//! The analysis beside tshark, tcptrace and the kernel: on generated captures, and on live connections as root.
//!
//! `tests/agreement/agreement.py --corpus FOLDER` is the long form, whose table is in docs/ANALYSIS.md.

use std::path::Path;
use std::process::Command;

#[test]
fn figures_agree_with_other_tools_and_with_what_really_happened() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agreement/agreement.py");
    let mut command = Command::new("python3");
    command.arg(script).arg("--flowarc").arg(assert_cmd::cargo::cargo_bin!("flowarc"));
    let live = nix::unistd::geteuid().is_root() && ["tcpdump", "ethtool"].iter().all(|tool| found(tool));
    if live {
        command.arg("--live");
    } else {
        skip("live connections: needs root, tcpdump and ethtool");
    }
    let out = command.output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    match out.status.code() {
        Some(0) => {}
        Some(77) => skip(&format!("the agreement with other tools: {wrong}")),
        code => panic!("exit {code:?}\n{said}\n{wrong}"),
    }
}

fn found(tool: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(tool).exists())
}

fn skip(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this: {what}");
    eprintln!("SKIPPED: {what}");
}
