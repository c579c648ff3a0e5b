//! The one writer of a ledger.

use std::path::Path;
use std::sync::Arc;

use assent_consensus::contract::Contract;
use assent_consensus::digest::Digest;
use assent_consensus::header::{Certificate, Validators};
use assent_consensus::json;
use assent_consensus::merkle::{self, Frontier};
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;

use crate::block::Block;
use crate::error::{BlockError, LedgerError};
use crate::reader::LedgerReader;
use crate::sql;
use crate::state::View;
use crate::store::{BlockRow, Store, WriterLock, integer, prefix};

/// A ledger, open for writing. There is at most one for a file, in all processes.
pub struct Ledger {
    pub(crate) store: Store,
    pub(crate) deployment: DeploymentId,
    pub(crate) chain: Name,
    pub(crate) validators: Validators,
    pub(crate) contract: Arc<dyn Contract>,
    pub(crate) tip: Tip,
    /// Dropped after the store is closed.
    lock: Option<WriterLock>,
}

/// What the next block builds on. At height 0 there is no block yet.
#[derive(Clone, Debug)]
pub struct Tip {
    /// The newest block's height; 0 if there is none.
    pub height: u64,
    /// Its id; the deployment id if there is none.
    pub id: Digest,
    /// Its time, in milliseconds since the Unix epoch; 0 if there is none.
    pub time: u64,
    /// How many transactions there are.
    pub transactions_total: u64,
    /// How many events there are.
    pub events_total: u64,
    /// The digest of the state.
    pub state_digest: Digest,
    /// The Merkle tree over all block ids.
    pub frontier: Frontier,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes an empty one if there is no such file. Costs the same whatever the size.
    ///
    /// # Errors
    /// [`LedgerError`]: another deployment's or chain's file, a file that is no ledger, a file in use, or one that
    /// cannot be read and written. A file that is there is never replaced.
    pub fn open(
        path: &Path,
        deployment: DeploymentId,
        chain: Name,
        validators: Validators,
        contract: Arc<dyn Contract>,
    ) -> Result<Ledger, LedgerError> {
        let lock = WriterLock::take(path)?;
        let store = Store::open(path, deployment, &chain)?;
        let mut ledger = Ledger::on(store, deployment, chain, validators, contract)?;
        ledger.lock = Some(lock);
        Ok(ledger)
    }

    /// A ledger on a store that is open.
    pub(crate) fn on(
        store: Store,
        deployment: DeploymentId,
        chain: Name,
        validators: Validators,
        contract: Arc<dyn Contract>,
    ) -> Result<Ledger, LedgerError> {
        let tip = store.reading(|store| Tip::read(store, deployment))?;
        Ok(Ledger { store, deployment, chain, validators, contract, tip, lock: None })
    }

    /// What the next block builds on.
    pub fn tip(&self) -> &Tip {
        &self.tip
    }

    /// A reader of the same file.
    pub fn reader(&self) -> LedgerReader {
        LedgerReader::new(self.store.path(), self.deployment, self.chain.clone())
    }

    /// When something happens next by time alone.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn due(&self) -> Result<Option<UnixMillis>, LedgerError> {
        self.store.reading(|store| {
            let view = View::new(store);
            let due = self.contract.due(&view);
            view.into_writes().map(|_| due)
        })
    }

    /// Records a block for good: all of it is on disk when this returns, or nothing is. A block that is there already is
    /// not recorded again.
    pub(crate) fn record(&mut self, block: &Block, certificate: &Certificate) -> Result<(), LedgerError> {
        let height = block.height();
        let refuse = |why| Err(LedgerError::Refused { height, why });
        if height <= self.tip.height {
            let there = self.store.block(height)?.ok_or_else(|| self.store.damaged("a block is missing"))?;
            let same = there.header.id() == block.header.id();
            return if same { Ok(()) } else { refuse(BlockError::Fork(there.header.id())) };
        }
        // A block that was made on another parent is not one of this ledger.
        if height != self.tip.height + 1 || block.header.header().previous != self.tip.id {
            return refuse(BlockError::NotNext { expected: self.tip.height + 1 });
        }
        if let Err(error) = certificate.verify(&block.header, &self.validators) {
            return refuse(error.into());
        }
        let mut frontier = self.tip.frontier.clone();
        let mut completed = Vec::new();
        frontier.push(merkle::leaf_hash(block.header.id().as_bytes()), |level, place, hash| {
            completed.push((level, place, hash));
        });
        let tip = &self.tip;
        self.store.writing(|store| write(store, tip, block, certificate, &completed))?;
        let header = block.header.header();
        self.tip = Tip {
            height,
            id: block.header.id(),
            time: header.time.get(),
            transactions_total: header.transactions_total.get(),
            events_total: self.tip.events_total + block.events.len() as u64,
            state_digest: header.state_digest,
            frontier,
        };
        Ok(())
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("path", &self.store.path()).field("tip", &self.tip).finish()
    }
}

impl Tip {
    fn read(store: &Store, deployment: DeploymentId) -> Result<Tip, LedgerError> {
        let Some(BlockRow { header, first_event, .. }) = store.tip()? else {
            return Ok(Tip {
                height: 0,
                id: deployment.0,
                time: 0,
                transactions_total: 0,
                events_total: 0,
                state_digest: Digest::ZERO,
                frontier: Frontier::default(),
            });
        };
        let height = header.header().height.get();
        let subtrees = (0..u64::BITS)
            .rev()
            .filter(|level| height >> level & 1 == 1)
            .map(|level| store.subtree(level, (height >> level) - 1))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Tip {
            height,
            id: header.id(),
            time: header.header().time.get(),
            transactions_total: header.header().transactions_total.get(),
            events_total: first_event + header.header().events_count.get(),
            state_digest: header.header().state_digest,
            frontier: Frontier::new(height, subtrees)
                .ok_or_else(|| store.damaged("the tree of headers has a gap"))?,
        })
    }
}

fn write(
    store: &Store,
    tip: &Tip,
    block: &Block,
    certificate: &Certificate,
    completed: &[(u32, u64, Digest)],
) -> Result<(), LedgerError> {
    let height = integer(block.height());
    store.sql(store.statement(sql::INSERT_BLOCK)?.execute((
        height,
        block.header.bytes(),
        json::write(certificate),
        integer(tip.transactions_total),
        integer(tip.events_total),
    )))?;
    let mut statement = store.statement(sql::INSERT_RECORDED)?;
    for (number, transaction) in (tip.transactions_total..).zip(&block.transactions) {
        let row = (integer(number), height, prefix(transaction.digest()), transaction.bytes());
        store.sql(statement.execute(row))?;
    }
    let mut statement = store.statement(sql::INSERT_EVENT)?;
    for (number, event) in (tip.events_total..).zip(&block.events) {
        store.sql(statement.execute((integer(number), event.0.as_slice())))?;
    }
    let (mut put, mut delete) = (store.statement(sql::PUT_STATE)?, store.statement(sql::DELETE_STATE)?);
    for (key, value) in &block.writes {
        store.sql(match value {
            Some(value) => put.execute((key.as_slice(), value.as_slice())),
            None => delete.execute([key.as_slice()]),
        })?;
    }
    let mut statement = store.statement(sql::INSERT_SUBTREE)?;
    for (level, place, hash) in completed {
        store.sql(statement.execute((level, integer(*place), hash.as_bytes())))?;
    }
    store.sql(store.statement(sql::DELETE_UNDECIDED)?.execute([height]))?;
    Ok(())
}
