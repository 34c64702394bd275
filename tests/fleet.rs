//! deploy/ as its operators use it: Kubernetes manifests, alert rules and dashboards.
//!
//! The scripts of tests/fleet/ do the work, in a Python environment below target/.

mod support;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::lab::privileged;
use support::process::binary;

#[test]
fn the_manifests_fit_the_schemas_of_the_api_the_program_and_each_other() {
    let Some(python) = python("the manifests") else { return };
    run(&python, "manifests.py", &[binary().as_ref()]);
}

#[test]
fn each_pod_captures_with_the_users_capabilities_mounts_and_probes_of_its_manifest() {
    let Some(python) = python("the pods") else { return };
    if privileged("the pods") {
        run(&python, "pod.py", &[binary().as_ref()]);
    }
}

#[test]
fn the_dashboards_are_what_grafana_takes_them_for() {
    let Some(python) = python("the dashboards") else { return };
    run(&python, "boards.py", &[]);
}

#[test]
fn each_alert_fires_on_bad_series_and_not_on_good_ones_and_has_a_runbook() {
    let (Some(python), Some(promtool)) = (python("the alerts"), prometheus("promtool")) else { return };
    run(&python, "rules.py", &[promtool.as_ref()]);
}

#[test]
fn prometheus_evaluates_every_panel_and_alert_on_a_real_run() {
    let (Some(python), Some(prometheus)) = (python("the panels"), prometheus("prometheus")) else { return };
    if privileged("the panels") {
        run(&python, "expressions.py", &[binary().as_ref(), prometheus.as_ref()]);
    }
}

#[track_caller]
fn run(python: &Path, script: &str, arguments: &[&OsStr]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fleet").join(script);
    let out = Command::new(python).arg(script).args(arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}");
    println!("{said}");
}

/// A Python that has the API's schemas and Grafana's model of a dashboard, installed below target/ the first time; `None`
/// where it cannot be had.
fn python(test: &str) -> Option<PathBuf> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet");
    let python = venv.join("bin/python");
    let works = || {
        let modules = "import cloudcoil.models.prometheus_operator, grafana_foundation_sdk, kubernetes_validate, yaml";
        Command::new(&python).args(["-c", modules]).stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
    };
    ONCE.call_once(|| {
        if !works() {
            let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fleet/requirements.txt");
            let _ = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
            let _ = Command::new(venv.join("bin/pip")).args(["install", "-q", "-r"]).arg(packages).status();
        }
    });
    if works() {
        return Some(python);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run {test} with the packages from PyPI");
    eprintln!("SKIPPED: {test}: needs Python packages from PyPI, or the network");
    None
}

/// A program of Debian's package prometheus, installed or where scripts/install-deps.sh unpacks it in CI.
fn prometheus(program: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus/usr/bin");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).chain([unpacked]).map(|folder| folder.join(program)).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with {program}");
        eprintln!("SKIPPED: alerts and panels: no {program}");
    }
    found
}
