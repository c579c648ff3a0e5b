//! The commands of the `assent` program (DESIGN section 10), one file each.
//!
//! ```text
//! settings (flags, environment, configuration) ─▶ command ─▶ screen (lines for people, or JSON)
//!                                                    └─▶ failure (error, help, exit code)
//! ```

mod cancel;
mod case;
mod deployment;
mod doctor;
mod failure;
mod fetch;
mod follow;
mod init;
mod key;
mod ledger;
mod moment;
mod node;
mod policy;
mod proof;
mod proposal;
mod propose;
mod read;
mod receipt;
mod requests;
mod screen;
mod settings;
mod show;
mod toml_file;
mod verify;
mod vote;
mod watch;
mod write;

use std::process::ExitCode;

use assent_edge::core_dump;
use clap::{CommandFactory as _, Parser, Subcommand};

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
    /// Run the node
    Node(node::Node),
    /// Start a case, which asks for approval
    Propose(propose::Propose),
    /// Take a case of your own back
    Cancel(cancel::Cancel),
    /// List what waits for votes
    Requests(requests::Requests),
    /// Verify what is asked, see it in full, and vote
    Vote(vote::Vote),
    /// See what happens, as it happens
    Watch(watch::Watch),
    /// See how far a case is
    Case(case::Case),
    /// Bring signature and proof of a case, verified
    Fetch(fetch::Fetch),
    /// Verify a bundle with nothing but genesis: exit 0 valid, 4 not valid
    Verify(verify::Verify),
    /// Check, play and explain policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Verify a whole log
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Check a node and what it needs, and say what to do about each thing that is wrong
    Doctor(doctor::Doctor),
    /// Make and show keys of requesters and voters
    #[command(subcommand)]
    Key(key::KeyCommand),
}

/// The grammar of the command line, against which the commands in documents are checked.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    match forbid_core_dumps().and_then(|()| run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Passphrases, PINs and keys pass through this process: none of them may end in a core dump.
fn forbid_core_dumps() -> Result<(), Failure> {
    core_dump::forbid().map_err(|error| {
        Failure::failed(format!("a core dump, with keys in it, cannot be forbidden: {error}"))
    })
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Propose(arguments) => propose::run(&arguments),
        Command::Cancel(arguments) => cancel::run(&arguments),
        Command::Requests(arguments) => requests::run(&arguments),
        Command::Vote(arguments) => vote::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Case(arguments) => case::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Policy(command) => policy::run(command),
        Command::Ledger(command) => ledger::run(command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Key(command) => key::run(command),
    }
}
