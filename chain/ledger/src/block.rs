//! Making a block from transactions, and making it again to check it.

use std::collections::HashMap;
use std::time::Instant;

use assent_consensus::contract::{Context, Contract, Rejection};
use assent_consensus::digest::Digest;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{Header, SealedHeader};
use assent_consensus::json::Integer;
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::merkle::{self, Frontier};
use assent_consensus::time::UnixMillis;
use assent_consensus::transaction::Transaction;

use crate::error::{BlockError, LedgerError};
use crate::ledger::{Ledger, Tip};
use crate::replica::Candidates;
use crate::state::{self, View, Writes};
use crate::store::Store;

/// How many transactions a block has at most.
pub(crate) const BLOCK_TRANSACTIONS: usize = 4_096;
/// How many bytes of transactions a block has at most, unless a single transaction has more.
pub(crate) const BLOCK_BYTES: usize = 16 * 1024 * 1024;
/// How far ahead of a checking replica's clock a block's time may be, in milliseconds.
const AHEAD_MS: u64 = 10_000;

/// A block as it travels: its header and its transactions.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The header.
    pub header: SealedHeader,
    /// The transactions, in order.
    pub transactions: Vec<Transaction>,
}

/// A block that was executed here: what its transactions give is what its header says.
#[derive(Debug)]
pub struct Block {
    pub(crate) header: SealedHeader,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) events: Vec<EventBytes>,
    pub(crate) writes: Writes,
}

impl Block {
    /// The header.
    pub fn header(&self) -> &SealedHeader {
        &self.header
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// The events, in order.
    pub fn events(&self) -> &[EventBytes] {
        &self.events
    }

    /// The block's height.
    pub fn height(&self) -> u64 {
        self.header.header().height.get()
    }
}

/// What became of candidates.
#[derive(Debug)]
pub struct Built {
    /// The block, if there is a reason for one: a transaction, or something that was due.
    pub block: Option<Block>,
    /// What became of each candidate, in order.
    pub fates: Vec<Fate>,
}

/// What became of one candidate for a block.
#[derive(Debug)]
pub enum Fate {
    /// It is in the block.
    Taken {
        /// SHA-256 of the transaction.
        transaction: Digest,
        /// Its place in the block, from 0.
        index: u64,
    },
    /// It has been in the log before.
    Recorded {
        /// SHA-256 of the transaction.
        transaction: Digest,
        /// The height of its block.
        height: u64,
        /// Its place in that block, from 0.
        index: u64,
    },
    /// The contract rejected it.
    Rejected(Rejection),
    /// There was no room or time for it.
    Left(Transaction),
}

/// Builds the next block of `ledger` from as many candidates as there is room and time for.
pub(crate) fn build(ledger: &Ledger, candidates: Candidates<'_>) -> Result<Built, LedgerError> {
    let Candidates { time, transactions, checked, deadline } = candidates;
    let mut execution = Execution::begin(ledger, time, checked)?;
    let mut taken: Vec<Transaction> = Vec::with_capacity(transactions.len());
    let mut places: HashMap<Digest, u64> = HashMap::new();
    let mut bytes = 0;
    let mut fates = Vec::with_capacity(transactions.len());
    for transaction in transactions {
        let index = taken.len() as u64;
        let digest = transaction.digest();
        if let Some(&index) = places.get(&digest) {
            fates.push(Fate::Taken { transaction: digest, index });
            continue;
        }
        if let Some(row) = execution.view.store().recorded(digest)? {
            fates.push(Fate::Recorded { transaction: digest, height: row.height, index: row.index });
            continue;
        }
        let room = bytes + transaction.bytes().len() <= BLOCK_BYTES && taken.len() < BLOCK_TRANSACTIONS;
        if !taken.is_empty() && (!room || Instant::now() >= deadline) {
            fates.push(Fate::Left(transaction));
            continue;
        }
        match execution.execute(&transaction)? {
            Ok(()) => {
                bytes += transaction.bytes().len();
                places.insert(digest, index);
                taken.push(transaction);
                fates.push(Fate::Taken { transaction: digest, index });
            }
            Err(rejection) => fates.push(Fate::Rejected(rejection)),
        }
    }
    let needed = execution.fired || !taken.is_empty();
    let block = if needed { Some(execution.finish(taken)?) } else { None };
    Ok(Built { block, fates })
}

/// Executes a proposed next block; it is refused unless its header is what comes out.
pub(crate) fn check(
    ledger: &Ledger,
    proposal: Proposal,
    checked: &CheckedSignatures,
    now: UnixMillis,
) -> Result<Block, LedgerError> {
    let found = proposal.header.header();
    let height = found.height.get();
    let refuse = |why| Err(LedgerError::Refused { height, why });
    let (time, before) = (found.time.get(), ledger.tip.time);
    if height != ledger.tip.height + 1 {
        return refuse(BlockError::NotNext { expected: ledger.tip.height + 1 });
    }
    if time <= before {
        return refuse(BlockError::Time { before, found: time });
    }
    if time > now.get().saturating_add(AHEAD_MS) {
        return refuse(BlockError::Ahead { now: now.get(), found: time });
    }
    let mut execution = Execution::begin(ledger, found.time, checked)?;
    if proposal.transactions.is_empty() && !execution.fired {
        return refuse(BlockError::Empty);
    }
    let mut seen = std::collections::HashSet::new();
    for transaction in &proposal.transactions {
        let digest = transaction.digest();
        if !seen.insert(digest) || execution.view.store().recorded(digest)?.is_some() {
            return refuse(BlockError::Repeated(digest));
        }
        if let Err(rejection) = execution.execute(transaction)? {
            return refuse(BlockError::Rejected { digest, message: rejection.message });
        }
    }
    let block = execution.finish(proposal.transactions)?;
    match difference(found, block.header.header()) {
        None if proposal.header.bytes() == block.header.bytes() => Ok(block),
        member => refuse(BlockError::Differs(member.unwrap_or("form"))),
    }
}

/// The execution of one block on top of the newest one.
struct Execution<'a> {
    contract: &'a dyn Contract,
    ledger: &'a Ledger,
    view: View<&'a Store>,
    context: Context<'a>,
    events: Vec<EventBytes>,
    fired: bool,
}

impl<'a> Execution<'a> {
    /// Begins a block, and does what is due.
    fn begin(
        ledger: &'a Ledger,
        time: UnixMillis,
        checked: &'a CheckedSignatures,
    ) -> Result<Execution<'a>, LedgerError> {
        let mut execution = Execution {
            contract: &*ledger.contract,
            ledger,
            view: View::new(&ledger.store),
            context: Context { height: ledger.tip.height + 1, time, checked },
            events: Vec::new(),
            fired: false,
        };
        if execution.contract.due(&execution.view).is_some_and(|due| due <= time) {
            execution.fired = true;
            execution.events = execution.contract.fire(&mut execution.view, &execution.context);
            execution.view.keep();
        }
        execution.view.failure().map_or(Ok(execution), Err)
    }

    fn execute(&mut self, transaction: &Transaction) -> Result<Result<(), Rejection>, LedgerError> {
        let result = self.contract.execute(&mut self.view, transaction, &self.context);
        if let Some(failure) = self.view.failure() {
            return Err(failure);
        }
        Ok(match result {
            Ok(events) => {
                self.view.keep();
                self.events.extend(events);
                Ok(())
            }
            Err(rejection) => {
                self.view.drop_pending();
                Err(rejection)
            }
        })
    }

    fn finish(self, transactions: Vec<Transaction>) -> Result<Block, LedgerError> {
        let writes = self.view.into_writes()?;
        let Tip { id, transactions_total, state_digest, frontier, .. } = &self.ledger.tip;
        let header = Header {
            deployment: self.ledger.deployment,
            chain: self.ledger.chain.clone(),
            height: Integer::saturating(self.context.height),
            time: self.context.time,
            previous: *id,
            validators_hash: self.ledger.validators.hash(),
            headers_root: frontier.root(),
            transactions_root: root(transactions.iter().map(Transaction::bytes)),
            transactions_total: Integer::saturating(transactions_total + transactions.len() as u64),
            events_root: root(self.events.iter().map(|event| event.0.as_slice())),
            events_count: Integer::saturating(self.events.len() as u64),
            state_digest: state::digest(*state_digest, &writes),
        };
        Ok(Block { header: SealedHeader::seal(header), transactions, events: self.events, writes })
    }
}

fn root<'a>(leaves: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(merkle::leaf_hash(leaf), |_, _, _| ());
    }
    frontier.root()
}

/// The first member in which two headers differ.
fn difference(found: &Header, made: &Header) -> Option<&'static str> {
    let members = [
        ("deployment", found.deployment == made.deployment),
        ("chain", found.chain == made.chain),
        ("previous", found.previous == made.previous),
        ("validators_hash", found.validators_hash == made.validators_hash),
        ("headers_root", found.headers_root == made.headers_root),
        ("transactions_root", found.transactions_root == made.transactions_root),
        ("transactions_total", found.transactions_total == made.transactions_total),
        ("events_root", found.events_root == made.events_root),
        ("events_count", found.events_count == made.events_count),
        ("state_digest", found.state_digest == made.state_digest),
    ];
    members.into_iter().find(|(_, same)| !same).map(|(member, _)| member)
}
