//! The `flowarc` command: parse arguments, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    flowarc::cli::main(flowarc::daemon::run_headers)
}
