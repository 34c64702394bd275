//! The command line: one file per subcommand, and the predecessor's grammar.

use std::process::ExitCode;

/// Parses the process's arguments and runs what they ask for.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
