//! The seam between a ledger and whatever decides which block comes next.
//!
//! Everything is synchronous and deterministic. The driver brings the clock, the candidates, and the validators'
//! signatures; a replica executes, checks, and keeps.

use std::ops::RangeInclusive;
use std::time::Instant;

use assent_consensus::header::{Certificate, SealedHeader, Validators};
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::time::UnixMillis;
use assent_consensus::transaction::Transaction;

use crate::block::{self, Block, Built, Proposal};
use crate::error::{BlockError, LedgerError};
use crate::ledger::Ledger;
use crate::signatures;
use crate::sql;
use crate::store::integer;

/// What a block may be built from.
#[derive(Debug)]
pub struct Candidates<'a> {
    /// The proposer's clock; later than the block before.
    pub time: UnixMillis,
    /// Transactions, in order.
    pub transactions: Vec<Transaction>,
    /// Their signatures that are verified already.
    pub checked: &'a CheckedSignatures,
    /// After this moment no further transaction is taken.
    pub deadline: Instant,
}

/// One copy of a ledger, as a driver sees it.
pub trait Replica {
    /// The newest final block, if there is one.
    ///
    /// # Errors
    /// [`LedgerError`]
    fn tip(&self) -> Result<Option<(SealedHeader, Certificate)>, LedgerError>;

    /// Who makes the block of `height` final.
    fn validators(&self, height: u64) -> &Validators;

    /// Builds the block of `height`, which must be the next. Nothing is recorded.
    ///
    /// # Errors
    /// [`LedgerError`]
    fn build(&self, height: u64, candidates: Candidates<'_>) -> Result<Built, LedgerError>;

    /// Executes a proposed block of `height`, which must be the next, at this replica's time `now`. Nothing is recorded.
    ///
    /// # Errors
    /// [`LedgerError::Refused`]: the block is wrong; others: this replica cannot tell.
    fn check(&self, height: u64, proposal: Proposal, now: UnixMillis) -> Result<Block, LedgerError>;

    /// Keeps a proposal that may become final; it is on disk when this returns.
    ///
    /// # Errors
    /// [`LedgerError`]
    fn save_undecided(&mut self, round: u64, proposal: &Proposal) -> Result<(), LedgerError>;

    /// The proposals that were kept for heights that are not final yet, with their rounds.
    ///
    /// # Errors
    /// [`LedgerError`]
    fn undecided(&self) -> Result<Vec<(u64, Proposal)>, LedgerError>;

    /// Records a block and what makes it final; it is on disk when this returns. The same block again changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] if the certificate does not make it final, or another block of that height is.
    fn commit(&mut self, block: &Block, certificate: &Certificate) -> Result<(), LedgerError>;

    /// Final blocks, for those that are behind; fewer if not all are there.
    ///
    /// # Errors
    /// [`LedgerError`]
    fn decided(&self, heights: RangeInclusive<u64>) -> Result<Vec<(Proposal, Certificate)>, LedgerError>;

    /// The lowest height that [`Replica::decided`] can give.
    fn min_height(&self) -> u64;
}

impl Replica for Ledger {
    fn tip(&self) -> Result<Option<(SealedHeader, Certificate)>, LedgerError> {
        Ok(self.store.tip()?.map(|row| (row.header, row.certificate)))
    }

    fn validators(&self, _height: u64) -> &Validators {
        &self.validators
    }

    fn build(&self, height: u64, candidates: Candidates<'_>) -> Result<Built, LedgerError> {
        let expected = self.tip.height + 1;
        if height != expected {
            return Err(LedgerError::Refused { height, why: BlockError::NotNext { expected } });
        }
        if candidates.time.get() <= self.tip.time {
            let why = BlockError::Time { before: self.tip.time, found: candidates.time.get() };
            return Err(LedgerError::Refused { height, why });
        }
        self.store.reading(|_| block::build(self, candidates))
    }

    fn check(&self, height: u64, proposal: Proposal, now: UnixMillis) -> Result<Block, LedgerError> {
        let found = proposal.header.header().height.get();
        if found != height {
            let why = BlockError::NotNext { expected: height };
            return Err(LedgerError::Refused { height: found, why });
        }
        self.store.reading(|store| {
            let checked = signatures::verify(
                store,
                &*self.contract,
                &proposal.transactions.iter().collect::<Vec<_>>(),
            )?;
            block::check(self, proposal, &checked, now)
        })
    }

    fn save_undecided(&mut self, round: u64, proposal: &Proposal) -> Result<(), LedgerError> {
        let height = proposal.header.header().height.get();
        if height <= self.tip.height {
            return Ok(());
        }
        self.store.writing(|store| {
            store
                .sql(store.statement(sql::INSERT_UNDECIDED)?.execute((
                    integer(height),
                    integer(round),
                    proposal.header.id().as_bytes(),
                    proposal.header.bytes(),
                    pack(&proposal.transactions),
                )))
                .map(drop)
        })
    }

    fn undecided(&self) -> Result<Vec<(u64, Proposal)>, LedgerError> {
        let store = &self.store;
        let mut statement = store.statement(sql::UNDECIDED)?;
        let mut rows = store.sql(statement.query([integer(self.tip.height)]))?;
        let mut found = Vec::new();
        while let Some(row) = store.sql(rows.next())? {
            let blob = |at| store.sql(row.get_ref(at).and_then(|value| Ok(value.as_blob()?)));
            let round = store.sql(row.get::<_, i64>(0))?.cast_unsigned();
            let transactions = unpack(blob(2)?)
                .ok_or_else(|| store.damaged("an undecided block's transactions cannot be read"))?;
            found.push((round, proposal(store, blob(1)?, transactions)?));
        }
        Ok(found)
    }

    fn commit(&mut self, block: &Block, certificate: &Certificate) -> Result<(), LedgerError> {
        self.record(block, certificate)
    }

    fn decided(&self, heights: RangeInclusive<u64>) -> Result<Vec<(Proposal, Certificate)>, LedgerError> {
        self.store.reading(|store| {
            let mut found = Vec::new();
            for height in heights {
                let Some(row) = store.block(height)? else { break };
                let transactions = store.transactions(&row)?;
                found.push((proposal(store, row.header.bytes(), transactions)?, row.certificate));
            }
            Ok(found)
        })
    }

    fn min_height(&self) -> u64 {
        1
    }
}

fn proposal(
    store: &crate::store::Store,
    header: &[u8],
    transactions: Vec<Vec<u8>>,
) -> Result<Proposal, LedgerError> {
    let unreadable =
        |what: &str, why: String| store.damaged(format!("a stored {what} cannot be read: {why}"));
    Ok(Proposal {
        header: SealedHeader::parse(header).map_err(|error| unreadable("header", error.to_string()))?,
        transactions: transactions
            .into_iter()
            .map(|bytes| {
                Transaction::parse(bytes).map_err(|error| unreadable("transaction", error.to_string()))
            })
            .collect::<Result<_, _>>()?,
    })
}

/// Transactions one after the other, each as its length (u64, big-endian) and its bytes.
fn pack(transactions: &[Transaction]) -> Vec<u8> {
    let mut packed = Vec::new();
    for transaction in transactions {
        packed.extend((transaction.bytes().len() as u64).to_be_bytes());
        packed.extend(transaction.bytes());
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut transactions = Vec::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<8>()?;
        let (bytes, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        transactions.push(bytes.to_vec());
        packed = rest;
    }
    Some(transactions)
}
