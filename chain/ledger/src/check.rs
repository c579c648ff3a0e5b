//! Replaying a whole ledger, and comparing everything that is stored with what comes out.

use std::path::Path;
use std::sync::Arc;

use assent_consensus::contract::Contract;
use assent_consensus::header::Validators;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::transaction::Transaction;
use rusqlite::types::Value;

use crate::block::{self, Block, Proposal};
use crate::error::{BlockError, LedgerError};
use crate::ledger::Ledger;
use crate::signatures;
use crate::sql;
use crate::store::Store;

/// What was found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// How many blocks there are.
    pub blocks: u64,
    /// How many transactions there are.
    pub transactions: u64,
    /// How many events there are.
    pub events: u64,
}

impl Ledger {
    /// Verifies everything that is in the ledger at `path`: the file's structure, every certificate, and, by executing
    /// every transaction again, every header, event and value of the state, and all indexes. Nothing is written, and the
    /// ledger may be in use; what is recorded meanwhile is not looked at. `progress` is told how many blocks are done, of
    /// how many, and what the last one holds.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] names the first block that is wrong, [`LedgerError::Damaged`] what else is; and those of
    /// [`Ledger::open`].
    pub fn check(
        path: &Path,
        deployment: DeploymentId,
        chain: Name,
        validators: Validators,
        contract: Arc<dyn Contract>,
        mut progress: impl FnMut(u64, u64, &[Transaction]),
    ) -> Result<Checked, LedgerError> {
        let stored = Store::open_existing(path, deployment, &chain)?;
        let scratch = Store::scratch(deployment, &chain)?;
        let mut replay = Ledger::on(scratch, deployment, chain, validators, contract)?;
        stored.reading(|stored| {
            let sound: String =
                stored.sql(stored.statement(sql::INTEGRITY)?.query_row([], |row| row.get(0)))?;
            if sound != "ok" {
                return Err(stored.damaged(sound));
            }
            let blocks = stored.tip()?.map_or(0, |row| row.header.header().height.get());
            for height in 1..=blocks {
                let block = replay.repeat(stored, height)?;
                progress(height, blocks, &block.transactions);
            }
            for (what, query) in [
                ("state", sql::ALL_STATE),
                ("header tree", sql::ALL_SUBTREES),
                ("transaction index", sql::ALL_PLACES),
                ("block index", sql::ALL_FIRSTS),
                ("number of events", sql::EVENT_NUMBERS),
            ] {
                compare(stored, &replay.store, what, query)?;
            }
            let tip = &replay.tip;
            Ok(Checked { blocks, transactions: tip.transactions_total, events: tip.events_total })
        })
    }

    /// Executes the stored block of `height` again, and records it here too.
    fn repeat(&mut self, stored: &Store, height: u64) -> Result<Block, LedgerError> {
        let refuse = |why| LedgerError::Refused { height, why };
        let row =
            stored.block(height)?.ok_or_else(|| stored.damaged(format!("block {height} is missing")))?;
        if row.first_transaction != self.tip.transactions_total || row.first_event != self.tip.events_total {
            return Err(refuse(BlockError::StoredDiffers("places of its transactions and events")));
        }
        let unreadable = |why: String| refuse(BlockError::Unreadable { what: "transaction", why });
        let transactions = stored
            .transactions(&row)?
            .into_iter()
            .map(|bytes| Transaction::parse(bytes).map_err(|error| unreadable(error.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let checked =
            signatures::verify(&self.store, &*self.contract, &transactions.iter().collect::<Vec<_>>())?;
        let now = row.header.header().time;
        let proposal = Proposal { header: row.header.clone(), transactions };
        let block = block::check(self, proposal, &checked, now)?;
        if stored.events(&row)? != block.events {
            return Err(refuse(BlockError::StoredDiffers("events")));
        }
        self.record(&block, &row.certificate)?;
        Ok(block)
    }
}

/// Compares what a query of two columns or three gives in both files.
fn compare(stored: &Store, replayed: &Store, what: &str, query: &str) -> Result<(), LedgerError> {
    let (mut left, mut right) = (stored.statement(query)?, replayed.statement(query)?);
    let columns = left.column_count();
    let (mut left, mut right) = (stored.sql(left.query([]))?, replayed.sql(right.query([]))?);
    loop {
        let (left, right) = (stored.sql(left.next())?, replayed.sql(right.next())?);
        let (left, right) = match (left, right) {
            (None, None) => return Ok(()),
            (Some(left), Some(right)) => (left, right),
            _ => return Err(stored.damaged(format!("the {what} has more or fewer rows than a replay gives"))),
        };
        for column in 0..columns {
            let values: (Value, Value) = (stored.sql(left.get(column))?, replayed.sql(right.get(column))?);
            if values.0 != values.1 {
                return Err(stored.damaged(format!("the {what} is not what a replay gives")));
            }
        }
    }
}
