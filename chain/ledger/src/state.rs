//! The state that contracts see: the store, with what the block has written above it, and above that what the
//! transaction has written, which goes away if it is rejected.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::{Bound, Deref};

use assent_consensus::contract::State;
use assent_consensus::digest::{Digest, Tuple};

use crate::error::LedgerError;
use crate::sql;
use crate::store::{Store, optional};

/// What was written: a value, or nothing for a key that was removed.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// A view of the state over one connection.
pub(crate) struct View<S> {
    store: S,
    written: Writes,
    pending: Writes,
    failure: RefCell<Option<LedgerError>>,
}

impl<S: Deref<Target = Store>> View<S> {
    /// What the store has, and nothing written yet.
    pub(crate) fn new(store: S) -> View<S> {
        View { store, written: Writes::new(), pending: Writes::new(), failure: RefCell::new(None) }
    }

    /// Keeps what was written since the last call.
    pub(crate) fn keep(&mut self) {
        self.written.extend(std::mem::take(&mut self.pending));
    }

    /// Drops what was written since [`View::keep`].
    pub(crate) fn drop_pending(&mut self) {
        self.pending.clear();
    }

    /// The first read that failed: since then nothing that was read counts.
    pub(crate) fn failure(&self) -> Option<LedgerError> {
        self.failure.borrow().clone()
    }

    /// All that was written and kept.
    ///
    /// # Errors
    /// The read that failed.
    pub(crate) fn into_writes(self) -> Result<Writes, LedgerError> {
        self.failure.into_inner().map_or(Ok(self.written), Err)
    }

    /// The connection.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    fn remember<T>(&self, result: Result<T, LedgerError>, otherwise: T) -> T {
        result.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            otherwise
        })
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let store = &*self.store;
        store.sql(optional(store.statement(sql::STATE)?.query_row([key], |row| row.get(0))))
    }

    /// The pairs whose keys begin with `prefix`, from the key `first` on.
    fn merged(&self, prefix: &[u8], first: &[u8], limit: usize) -> Result<Vec<Pair>, LedgerError> {
        let store = &*self.store;
        let mut statement = store.statement(sql::STATE_FROM)?;
        let mut rows = store.sql(statement.query([first]))?;
        let mut next_stored = || -> Result<Option<Pair>, LedgerError> {
            let Some(row) = store.sql(rows.next())? else { return Ok(None) };
            let pair: Pair = (store.sql(row.get(0))?, store.sql(row.get(1))?);
            Ok(pair.0.starts_with(prefix).then_some(pair))
        };
        let (mut pending, mut written) =
            (from(&self.pending, prefix, first), from(&self.written, prefix, first));
        let mut stored = next_stored()?;
        let mut found = Vec::new();
        while found.len() < limit {
            let keys = [
                pending.peek().map(|(key, _)| key.as_slice()),
                written.peek().map(|(key, _)| key.as_slice()),
                stored.as_ref().map(|(key, _)| key.as_slice()),
            ];
            let Some(key) = keys.iter().flatten().min().map(|key| key.to_vec()) else { break };
            let newest = pending.next_if(|(other, _)| **other == key).map(|(_, value)| value.clone());
            let newer = written.next_if(|(other, _)| **other == key).map(|(_, value)| value.clone());
            let old = match stored.take_if(|(other, _)| *other == key) {
                None => None,
                Some((_, value)) => {
                    stored = next_stored()?;
                    Some(Some(value))
                }
            };
            if let Some(value) = newest.or(newer).or(old).flatten() {
                found.push((key, value));
            }
        }
        Ok(found)
    }
}

fn from<'a>(
    writes: &'a Writes,
    prefix: &[u8],
    first: &[u8],
) -> Peekable<impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>> {
    let prefix = prefix.to_vec();
    writes
        .range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(&prefix))
        .peekable()
}

impl<S: Deref<Target = Store>> State for View<S> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.pending.get(key).or_else(|| self.written.get(key)) {
            Some(value) => value.clone(),
            None => self.remember(self.stored(key), None),
        }
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.pending.insert(key.to_vec(), Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.pending.insert(key.to_vec(), None);
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.remember(self.merged(prefix, prefix, limit), Vec::new())
    }

    fn scan_after(&self, prefix: &[u8], after: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        // No key lies between `after` and `after` with a zero byte behind it.
        let next = [after, &[0]].concat();
        self.remember(self.merged(prefix, prefix.max(&next), limit), Vec::new())
    }
}

/// The digest of the state after `writes`: H(`assent-state-v1`, the one before, each written key in order: key, `1` and
/// the value, or `0`).
pub(crate) fn digest(before: Digest, writes: &Writes) -> Digest {
    let tuple = Tuple::new("assent-state-v1").digest(&before);
    writes
        .iter()
        .fold(tuple, |tuple, (key, value)| match value {
            Some(value) => tuple.bytes(key).text("1").bytes(value),
            None => tuple.bytes(key).text("0"),
        })
        .hash()
}
