//! A Python that has DuckDB.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Installed below target/ the first time; `None`, loudly, where it cannot be had: then `what` is left out.
pub fn python(what: &str) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("duckdb");
    let python = venv.join("bin/python");
    let works = || Command::new(&python).args(["-c", "import duckdb"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !works() {
        let _ = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let _ = Command::new(venv.join("bin/pip")).args(["install", "-q", "duckdb"]).status();
    }
    if works() {
        return Some(python);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with DuckDB");
    eprintln!("SKIPPED: {what}: needs DuckDB (pip install duckdb) or the network");
    None
}
