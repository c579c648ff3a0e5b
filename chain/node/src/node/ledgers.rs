//! The logs that this node keeps, open, each with the driver that makes its blocks.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use assent_consensus::contract::Contract;
use assent_consensus::contract::consensus::ConsensusContracts;
use assent_consensus::contract::process::ProcessContracts;
use assent_consensus::genesis::{Chain, Genesis};
use assent_consensus::name::Name;
use assent_ledger::{Ledger, LedgerError, LedgerReader, Solo, SoloHandle};
use tokio::sync::watch;

use crate::api::LedgerKind;

use super::config::Config;
use super::now;
use super::validator::{ValidatorError, ValidatorKey};

/// The mode of the data directory.
const DIRECTORY_MODE: u32 = 0o700;

/// All logs of this node.
pub struct Ledgers {
    genesis: Arc<Genesis>,
    logs: Vec<Log>,
    changes: watch::Receiver<u64>,
}

/// One log.
pub struct Log {
    /// Its name and validators, as genesis has them.
    pub chain: Chain,
    /// What it records.
    pub kind: LedgerKind,
    /// Its driver, which takes transactions.
    pub driver: SoloHandle,
    /// Its reader. Every call blocks on the disk.
    pub reader: LedgerReader,
    /// The key that signs its blocks and receipts.
    pub validator: Arc<ValidatorKey>,
    tip: watch::Receiver<u64>,
}

/// Why the logs cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory `{}`: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The configuration names a log that genesis does not have.
    #[error("`[validator_keys]` names the log `{found}`, and genesis has {known}; name one of those")]
    UnknownLog {
        /// The name in the configuration.
        found: Name,
        /// The names in genesis.
        known: String,
    },
    /// A validator key.
    #[error(transparent)]
    Validator(#[from] ValidatorError),
    /// A log.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Ledgers {
    /// Opens every log that the configuration gives a key for, and starts their drivers.
    ///
    /// # Errors
    /// [`OpenError`]: of the first log that does not open; those that did are closed again.
    pub fn open(config: &Config, genesis: Arc<Genesis>) -> Result<Ledgers, OpenError> {
        let directory = &config.data_directory;
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
        let (changed, changes) = watch::channel(0);
        let changed = Arc::new(changed);
        let mut logs = Vec::new();
        for (name, key) in &config.validator_keys {
            let chain = genesis.chain(name).cloned().ok_or_else(|| unknown_log(&genesis, name))?;
            let validator = Arc::new(ValidatorKey::read(key, &chain)?);
            let path = directory.join(format!("{name}.ledger"));
            let kind = kind(&genesis, name);
            let contract: Arc<dyn Contract> = match kind {
                LedgerKind::Process => Arc::new(ProcessContracts::new(genesis.clone(), name.clone())),
                LedgerKind::Consensus => Arc::new(ConsensusContracts::new(genesis.clone(), name.clone())),
            };
            let ledger = Ledger::open(&path, genesis.id(), name.clone(), chain.validators.clone(), contract)?;
            let (tip, tips) = watch::channel(ledger.tip().height);
            let driver = Solo::start(ledger, validator.clone(), Arc::new(now))?;
            let changed = changed.clone();
            driver.tip_changes(move |height| {
                tip.send_replace(height);
                changed.send_modify(|count| *count += 1);
            });
            let reader = driver.reader();
            logs.push(Log { chain, kind, driver, reader, validator, tip: tips });
        }
        Ok(Ledgers { genesis, logs, changes })
    }

    /// The deployment.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    /// All logs, in order of name.
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The log of this name, if this node keeps it.
    pub fn log(&self, chain: &Name) -> Option<&Log> {
        self.logs.iter().find(|log| log.chain.id == *chain)
    }

    /// The logs that record cases.
    pub fn process_logs(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(|log| log.kind == LedgerKind::Process)
    }

    /// The logs that record requests.
    pub fn consensus_logs(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(|log| log.kind == LedgerKind::Consensus)
    }

    /// The log on which a consensus contract decides, if this node keeps it.
    pub fn of_contract(&self, contract: &Name) -> Option<&Log> {
        self.log(&self.genesis.contract(contract)?.chain)
    }

    /// Changes whenever any log has a new block.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Stops all drivers and closes the files.
    pub fn stop(&self) {
        for log in &self.logs {
            log.driver.stop();
        }
    }
}

impl Log {
    /// The height of the newest block; changes with it.
    pub fn tip(&self) -> watch::Receiver<u64> {
        self.tip.clone()
    }
}

/// What a log records: genesis gives processes and contracts logs of their own.
fn kind(genesis: &Genesis, chain: &Name) -> LedgerKind {
    match genesis.contracts().iter().any(|contract| contract.chain == *chain) {
        true => LedgerKind::Consensus,
        false => LedgerKind::Process,
    }
}

fn unknown_log(genesis: &Genesis, name: &Name) -> OpenError {
    let known: Vec<_> = genesis.chains().iter().map(|chain| format!("`{}`", chain.id)).collect();
    OpenError::UnknownLog { found: name.clone(), known: known.join(", ") }
}
