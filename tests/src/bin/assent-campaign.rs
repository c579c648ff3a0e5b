//! `assent-campaign`: long hunts for what no example would show. `scripts/campaign` builds and runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use assent_tests::{chance, crash, faults, rotation, rules};
use clap::{Args, Parser, Subcommand};

/// Long hunts; each ends with "N passed, N failed", and says how to repeat what failed
#[derive(Parser)]
#[command(name = "assent-campaign", version)]
struct Arguments {
    #[command(subcommand)]
    campaign: Campaign,
}

#[derive(Subcommand)]
enum Campaign {
    /// Policies and ballots by chance: `assent policy simulate` against an evaluator that reads the rules as they are written
    Rules(#[command(flatten)] Extent),
    /// `kill -9` of node or KMS at random moments of running cases, and a restart
    Crash(#[command(flatten)] Extent),
    /// Cases that go on while their keys are replaced, three times each, and one is compromised
    Rotation(#[command(flatten)] Extent),
    /// A PKCS#11 module that fails: every return code of every function once, or with --count, signatures under faults by chance
    Faults {
        #[command(flatten)]
        extent: Extent,
        /// For how many minutes at least, if --count is given
        #[arg(long, default_value_t = 0)]
        minutes: u64,
        /// Where the table of every return code is written
        #[arg(long, value_name = "FILE", default_value = "target/fault-matrix.md")]
        table: PathBuf,
    },
}

#[derive(Args)]
struct Extent {
    /// How many trials
    #[arg(long)]
    count: Option<u64>,
    /// The first trial's number; those that follow count on from it [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
}

impl Extent {
    fn count(&self, default: u64) -> u64 {
        self.count.unwrap_or(default)
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(chance::fresh_seed)
    }
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().campaign {
        Campaign::Rules(extent) => rules::run(extent.count(1_000), extent.seed()),
        Campaign::Crash(extent) => crash::run(extent.count(50), extent.seed()),
        Campaign::Rotation(extent) => rotation::run(extent.count(5_000), extent.seed()),
        Campaign::Faults { extent, minutes, table } => match extent.count {
            Some(count) => faults::soak::run(count, Duration::from_secs(60 * minutes), extent.seed()),
            None => faults::matrix::run(&table),
        },
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
