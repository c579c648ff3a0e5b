//! The commands of the `assent` program (DESIGN section 10), one file each.
//!
//! ```text
//! settings (flags, environment, configuration) ─▶ command ─▶ screen (lines for people, or JSON)
//!                                                    └─▶ failure (error, help, exit code)
//! ```

mod deployment;
#[allow(dead_code, reason = "the commands that follow use it")]
mod failure;
mod init;
mod key;
#[allow(dead_code, reason = "the commands that follow use it")]
mod moment;
mod policy;
#[allow(dead_code, reason = "the commands that follow use it")]
mod read;
#[allow(dead_code, reason = "the commands that follow use it")]
mod screen;
#[allow(dead_code, reason = "the commands that follow use it")]
mod settings;
mod toml_file;
#[allow(dead_code, reason = "the commands that follow use it")]
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use failure::Failure;

/// Approvals that sign: nothing is signed until the votes that its rules ask for are there
#[derive(Parser)]
#[command(name = "assent", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not approved, 4 does not verify.";

#[derive(Subcommand)]
enum Command {
    /// Make the genesis file of a deployment, and the configuration of its node
    Init(init::Init),
    /// Check, play and explain policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Make and show keys of requesters and voters
    #[command(subcommand)]
    Key(key::KeyCommand),
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    // Passphrases, PINs and keys pass through this process: none of them may end in a core dump. A system that has no such
    // switch makes none either.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Policy(command) => policy::run(command),
        Command::Key(command) => key::run(command),
    }
}
