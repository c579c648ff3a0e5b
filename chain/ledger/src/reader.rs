//! Reading a ledger while it is written: blocks, transactions, events, state, and proofs of what is final.

use std::collections::VecDeque;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use assent_consensus::contract::{Contract, State};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{Certificate, EventProof, Finality, Inclusion, SealedHeader, TrustedHeader};
use assent_consensus::json::Integer;
use assent_consensus::jws::CheckedSignatures;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::transaction::Transaction;

use crate::error::LedgerError;
use crate::proof::{self, EventTree};
use crate::signatures;
use crate::state::View;
use crate::store::{BlockRow, Store};

/// How many connections a ledger is read with at once, snapshots included.
const CONNECTIONS: usize = 32;
/// How many of them are kept open for the next reader.
const IDLE_CONNECTIONS: usize = 8;
/// How long a reader waits for a connection, in seconds.
const PATIENCE_S: u64 = 10;
/// Of how many blocks the tree of events is kept for further proofs.
const EVENT_TREES: usize = 16;

/// A reader of a ledger. Cheap to clone; each call uses a read-only connection of its own and blocks on the disk.
#[derive(Clone)]
pub struct LedgerReader(Arc<Shared>);

struct Shared {
    path: PathBuf,
    chain: Name,
    deployment: DeploymentId,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// The newest at the end. Blocks never change, so neither do their trees.
    trees: Mutex<VecDeque<(u64, Arc<EventTree>)>>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Store>,
    in_use: usize,
}

impl LedgerReader {
    pub(crate) fn new(path: &Path, deployment: DeploymentId, chain: Name) -> LedgerReader {
        LedgerReader(Arc::new(Shared {
            path: path.to_owned(),
            chain,
            deployment,
            pool: Mutex::default(),
            returned: Condvar::new(),
            trees: Mutex::default(),
        }))
    }

    /// The deployment.
    pub fn deployment(&self) -> DeploymentId {
        self.0.deployment
    }

    /// The ledger's name.
    pub fn chain(&self) -> &Name {
        &self.0.chain
    }

    /// The newest block's header and what makes it final; nothing if there is no block yet.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn tip(&self) -> Result<Option<(SealedHeader, Certificate)>, LedgerError> {
        Ok(self.connection()?.tip()?.map(|row| (row.header, row.certificate)))
    }

    /// A block's header.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn header(&self, height: u64) -> Result<Option<SealedHeader>, LedgerError> {
        Ok(self.connection()?.block(height)?.map(|row| row.header))
    }

    /// What makes a block final.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn certificate(&self, height: u64) -> Result<Option<Certificate>, LedgerError> {
        Ok(self.connection()?.block(height)?.map(|row| row.certificate))
    }

    /// The exact bytes of a block's transactions, in order; none if there is no such block.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn transactions(&self, height: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let store = self.connection()?;
        store.block(height)?.map_or(Ok(Vec::new()), |row| store.transactions(&row))
    }

    /// A transaction's exact bytes, the height of its block, and its place there.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn transaction(&self, digest: Digest) -> Result<Option<(Vec<u8>, u64, u64)>, LedgerError> {
        Ok(self.connection()?.recorded(digest)?.map(|row| (row.bytes, row.height, row.index)))
    }

    /// A block's events, in order; none if there is no such block.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn events(&self, height: u64) -> Result<Vec<EventBytes>, LedgerError> {
        let store = self.connection()?;
        store.block(height)?.map_or(Ok(Vec::new()), |row| store.events(&row))
    }

    /// The state as it is now; it stays so however long this is kept. Keep it short: meanwhile the file cannot be tidied.
    ///
    /// # Errors
    /// [`LedgerError`]
    pub fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        let store = self.connection()?;
        store.begin_reading()?;
        let height = store.tip()?.map_or(0, |row| row.header.header().height.get());
        Ok(Snapshot { height, view: View::new(Reading(store)) })
    }

    /// The proof that an event is final, which needs nothing but the validators' keys.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`], and those of reading.
    pub fn inclusion(&self, height: u64, index: u64) -> Result<Inclusion, LedgerError> {
        let store = self.connection()?;
        let (row, tree, event) = self.event(&store, height, index)?;
        Ok(Inclusion {
            chain: self.0.chain.clone(),
            header: Bytes(row.header.bytes().to_vec()),
            certificate: row.certificate,
            event: Bytes(event.0),
            index: Integer::saturating(index),
            size: row.header.header().events_count,
            path: tree.path(index),
        })
    }

    /// The newest block's header, what makes it final, and what ties it to the header that its reader trusts.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] if there is no block yet; [`LedgerError::NotAncestor`] if the trusted header is of
    /// another history; and those of reading.
    pub fn finality(&self, trusted: Option<TrustedHeader>) -> Result<Finality, LedgerError> {
        let store = self.connection()?;
        let row = store.tip()?.ok_or(LedgerError::NotThere { what: "a block".into(), tip: 0 })?;
        self.finality_of(&store, row, trusted)
    }

    /// The same for the header of a given height.
    ///
    /// # Errors
    /// See [`LedgerReader::finality`].
    pub fn finality_at(&self, height: u64, trusted: Option<TrustedHeader>) -> Result<Finality, LedgerError> {
        let store = self.connection()?;
        let row = self.block(&store, height)?;
        self.finality_of(&store, row, trusted)
    }

    /// The proof that an event is in the block of height `anchor` or in one before it.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`], also if the event's block comes after the anchor; and those of reading.
    pub fn event_proof(&self, anchor: u64, height: u64, index: u64) -> Result<EventProof, LedgerError> {
        let store = self.connection()?;
        let tip = self.tip_height(&store)?;
        if anchor > tip || height > anchor {
            let what = format!("block {height}, as seen from block {anchor},");
            return Err(LedgerError::NotThere { what, tip });
        }
        let (row, tree, event) = self.event(&store, height, index)?;
        Ok(EventProof {
            header: Bytes(row.header.bytes().to_vec()),
            ancestry: ancestry(&store, height, anchor)?,
            event: Bytes(event.0),
            index: Integer::saturating(index),
            size: row.header.header().events_count,
            path: tree.path(index),
        })
    }

    /// Verifies the signatures that executing `transactions` on the newest state will need.
    pub(crate) fn verify_signatures(
        &self,
        contract: &dyn Contract,
        transactions: &[&Transaction],
    ) -> Result<CheckedSignatures, LedgerError> {
        let store = self.connection()?;
        store.reading(|store| signatures::verify(store, contract, transactions))
    }

    fn finality_of(
        &self,
        store: &Store,
        row: BlockRow,
        trusted: Option<TrustedHeader>,
    ) -> Result<Finality, LedgerError> {
        let consistency = match trusted {
            None => Vec::new(),
            Some(trusted) => {
                let (earlier, later) = (trusted.height.get(), row.header.header().height.get());
                let there = store.block(earlier)?.is_some_and(|there| there.header.id() == trusted.id);
                if !there || earlier > later {
                    return Err(LedgerError::NotAncestor { path: self.0.path.clone(), height: earlier });
                }
                ancestry(store, earlier, later)?
            }
        };
        Ok(Finality {
            chain: self.0.chain.clone(),
            header: Bytes(row.header.bytes().to_vec()),
            certificate: row.certificate,
            consistency,
        })
    }

    fn event(
        &self,
        store: &Store,
        height: u64,
        index: u64,
    ) -> Result<(BlockRow, Arc<EventTree>, EventBytes), LedgerError> {
        let row = self.block(store, height)?;
        let tree = self.tree(store, &row)?;
        let event = usize::try_from(index).ok().and_then(|index| tree.events.get(index)).cloned();
        match event {
            Some(event) => Ok((row, tree, event)),
            None => {
                let what = format!("event {index} of block {height}");
                Err(LedgerError::NotThere { what, tip: self.tip_height(store)? })
            }
        }
    }

    fn block(&self, store: &Store, height: u64) -> Result<BlockRow, LedgerError> {
        match store.block(height)? {
            Some(row) => Ok(row),
            None => {
                Err(LedgerError::NotThere { what: format!("block {height}"), tip: self.tip_height(store)? })
            }
        }
    }

    fn tip_height(&self, store: &Store) -> Result<u64, LedgerError> {
        Ok(store.tip()?.map_or(0, |row| row.header.header().height.get()))
    }

    fn tree(&self, store: &Store, row: &BlockRow) -> Result<Arc<EventTree>, LedgerError> {
        let height = row.header.header().height.get();
        let lock = || self.0.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tree)) = lock().iter().find(|(kept, _)| *kept == height) {
            return Ok(tree.clone());
        }
        let tree = Arc::new(EventTree::new(store.events(row)?));
        let mut trees = lock();
        if trees.len() == EVENT_TREES {
            trees.pop_front();
        }
        trees.push_back((height, tree.clone()));
        Ok(tree)
    }

    fn connection(&self) -> Result<Pooled, LedgerError> {
        let shared = &self.0;
        let pool = shared.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut pool, _) = shared
            .returned
            .wait_timeout_while(pool, Duration::from_secs(PATIENCE_S), |pool| pool.in_use >= CONNECTIONS)
            .unwrap_or_else(PoisonError::into_inner);
        if pool.in_use >= CONNECTIONS {
            return Err(LedgerError::Busy { path: shared.path.clone() });
        }
        let store = match pool.idle.pop() {
            Some(store) => store,
            None => Store::open_reader(&shared.path)?,
        };
        pool.in_use += 1;
        Ok(Pooled { store: Some(store), shared: shared.clone() })
    }
}

/// What makes the block of height `earlier` the one of `later` or one before it.
fn ancestry(store: &Store, earlier: u64, later: u64) -> Result<Vec<Digest>, LedgerError> {
    if earlier == later {
        return Ok(Vec::new());
    }
    proof::path(earlier - 1, later - 1, &|level, place| store.subtree(level, place))
}

/// The state at one height. Writing to it changes nothing but itself.
pub struct Snapshot {
    height: u64,
    view: View<Reading>,
}

impl Snapshot {
    /// The height of the newest block that it has seen; 0 if there is none.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Says whether every read so far has worked: if not, what was read is of no account.
    ///
    /// # Errors
    /// The read that failed.
    pub fn verified(&self) -> Result<(), LedgerError> {
        self.view.failure().map_or(Ok(()), Err)
    }
}

impl State for Snapshot {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.view.get(key)
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.view.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.view.delete(key);
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.view.scan(prefix, limit)
    }

    fn scan_after(&self, prefix: &[u8], after: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.view.scan_after(prefix, after, limit)
    }
}

/// A connection that goes back to the pool.
struct Pooled {
    /// Taken only when this is dropped.
    store: Option<Store>,
    shared: Arc<Shared>,
}

impl Deref for Pooled {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().expect("it is taken only by `drop`")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut pool = self.shared.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.in_use -= 1;
        if pool.idle.len() < IDLE_CONNECTIONS {
            pool.idle.extend(self.store.take());
        }
        drop(pool);
        self.shared.returned.notify_one();
    }
}

/// A connection within a read transaction.
struct Reading(Pooled);

impl Deref for Reading {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.0.end().is_err() {
            // A connection whose transaction did not end would show old state to the next reader.
            self.0.store = None;
        }
    }
}
