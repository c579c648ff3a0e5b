//! The `assent-kms` program; see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    assent_kms::cli::main()
}
