//! The `flowarc` command: parse arguments, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let jobs = flowarc::cli::Jobs { headers: flowarc::daemon::run_headers, capture: flowarc::daemon::run_capture };
    flowarc::cli::main(jobs)
}
