//! `assent-bench`: measures Assent against the raw loops beneath it. `scripts/bench` builds and runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use assent_tests::bench::{Report, ballots, bare_loop, kms_sign, parsec};
use clap::{Parser, Subcommand};

/// The benches, in the order in which they are run.
const BENCHES: [&str; 4] = ["kms-sign", "kms-sign-slow", "parsec", "ballots"];

/// Measures Assent, and prints each figure as a ratio to a loop that does the same cryptography and nothing else
#[derive(Parser)]
#[command(name = "assent-bench", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Which benches [default: all]: kms-sign, kms-sign-slow, parsec, ballots
    names: Vec<String>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    /// How often each case is measured; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// What a duty costs without Assent; it is started by `kms-sign`
    #[command(hide = true)]
    BareLoop { module: PathBuf, pin_file: PathBuf, serial: String, home: PathBuf },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Part::BareLoop { module, pin_file, serial, home }) = &arguments.part {
        return bare_loop::run(module, pin_file, serial, home);
    }
    if let Some(unknown) = arguments.names.iter().find(|name| !BENCHES.contains(&name.as_str())) {
        bail!(
            "there is no bench `{unknown}`; there are {}",
            BENCHES.map(|name| format!("`{name}`")).join(", ")
        );
    }
    let wanted =
        |name: &str| arguments.names.is_empty() || arguments.names.iter().any(|wanted| wanted == name);
    let (report, rounds) = (Report { json: arguments.json }, arguments.rounds.max(1));
    report.head();
    if wanted("kms-sign") {
        kms_sign::run(report, rounds)?;
    }
    if wanted("kms-sign-slow") {
        kms_sign::run_slow(report, rounds)?;
    }
    if wanted("parsec") {
        parsec::run(report, rounds)?;
    }
    if wanted("ballots") {
        ballots::run(report, rounds)?;
    }
    Ok(())
}
