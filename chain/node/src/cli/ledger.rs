//! `assent ledger check`: replays a whole log and verifies everything in it.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use assent_consensus::contract::Contract;
use assent_consensus::contract::consensus::ConsensusContracts;
use assent_consensus::contract::process::ProcessContracts;
use assent_consensus::genesis::Genesis;
use assent_consensus::name::Name;
use assent_consensus::transaction::{Content, Transaction};
use assent_ledger::{Checked, Ledger, LedgerError};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::failure::{Exit, Failure};
use super::read;
use super::screen::{Screen, quoted};

/// How long a check may take before a progress bar is shown.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum LedgerCommand {
    /// Replay a log's file from its first block, and verify everything in it: exit 0 sound, 4 not. Nothing is written, and
    /// a node may be using it
    Check(Check),
}

#[derive(Args)]
pub(super) struct Check {
    /// The log's file
    file: PathBuf,
    /// The deployment's genesis file, which you trust
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Which log it is, as genesis names it
    #[arg(long, value_name = "NAME")]
    chain: Name,
    /// Write the heads of the KMS's audit log that are in this log, one a line and oldest first, for `assent-kms audit
    /// verify --heads`
    #[arg(long, value_name = "FILE")]
    audit_heads: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: LedgerCommand) -> Result<(), Failure> {
    let LedgerCommand::Check(arguments) = command;
    let screen = Screen::new(arguments.json);
    let genesis = Arc::new(read::genesis(&arguments.genesis, Exit::DoesNotVerify)?);
    let mut heads = String::new();
    let Checked { blocks, transactions, events } =
        check(&genesis, &arguments.chain, &arguments.file, |transaction| {
            if let Content::Carrier(carrier) = transaction.content()
                && let Some(head) = carrier.audit()
            {
                heads += &format!("{head}\n");
            }
        })?;
    if let Some(path) = &arguments.audit_heads {
        std::fs::write(path, &heads)
            .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display())))?;
    }
    screen.line(format!("{} is sound", quoted(arguments.file.display())))?;
    screen.line(format!("{blocks} blocks, {transactions} transactions, {events} events"))?;
    screen.result(&json!({
        "sound": true,
        "chain": arguments.chain,
        "blocks": blocks,
        "transactions": transactions,
        "events": events,
    }))
}

fn check(
    genesis: &Arc<Genesis>,
    chain: &Name,
    file: &Path,
    mut seen: impl FnMut(&Transaction),
) -> Result<Checked, Failure> {
    let validators = genesis.chain(chain).map(|chain| chain.validators.clone()).ok_or_else(|| {
        let known: Vec<_> = genesis.chains().iter().map(|chain| format!("`{}`", chain.id)).collect();
        Failure::usage(format!("genesis has no log `{chain}`; it has {}", known.join(", ")))
    })?;
    // Genesis gives processes and contracts logs of their own.
    let contract: Arc<dyn Contract> =
        match genesis.contracts().iter().any(|contract| contract.chain == *chain) {
            true => Arc::new(ConsensusContracts::new(Arc::clone(genesis), chain.clone())),
            false => Arc::new(ProcessContracts::new(Arc::clone(genesis), chain.clone())),
        };
    let begun = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let progress = |done, blocks, transactions: &[Transaction]| {
        transactions.iter().for_each(&mut seen);
        if bar.is_none() && begun.elapsed() > PATIENCE && io::stderr().is_terminal() {
            bar = Some(
                ProgressBar::new(blocks).with_style(
                    ProgressStyle::with_template("checking {bar:40} {pos}/{len} blocks, {eta} left")
                        .expect("the template is well formed"),
                ),
            );
        }
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
    };
    let checked = Ledger::check(file, genesis.id(), chain.clone(), validators, contract, progress);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    checked.map_err(|error| match error {
        LedgerError::Refused { .. } | LedgerError::Damaged { .. } => {
            Failure::does_not_verify(format!("`{}` is not sound: {error}", file.display()))
                .help("stop the node, keep the file, and restore it from a backup")
        }
        error => Failure::failed(error),
    })
}
