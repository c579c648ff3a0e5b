//! Uses of keys that are limited: each is counted in the transaction of its intent, so that two at once cannot overrun.

use std::collections::VecDeque;

use assent_consensus::json::{self, Integer};
use assent_consensus::message::KeyVersion;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use rusqlite::OptionalExtension as _;

use super::batch::key_columns;
use super::{Batch, Store, StoreError, integer, sql};
use crate::audit::{Entry, LoggedKey};
use crate::life::{Limits, Rate};
use crate::signing::{KeyName, Order};

/// Why a key is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// It was used as often as it may be.
    UsedUp,
    /// It was used as often as it may be in so long.
    Rate {
        /// The rate.
        rate: Rate,
        /// When it may be used again.
        again: UnixMillis,
    },
}

/// What the log says of the uses of a key version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    key: LoggedKey,
    count: u64,
    /// When the last ones were, as many as are to be kept.
    last: VecDeque<UnixMillis>,
    kept: usize,
    /// The entry up to which the log was read.
    read: u64,
}

impl Uses {
    /// Those of a key of which nothing was read yet. `limits` say how many of them are to be kept.
    pub fn of(name: &KeyName, version: KeyVersion, limits: &Limits) -> Uses {
        let key = LoggedKey::new(name, version);
        let kept = usize::try_from(limits.kept_uses()).unwrap_or(usize::MAX);
        Uses { key, count: 0, last: VecDeque::new(), kept, read: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Reads on to the end of the log.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn read_on(&mut self, store: &Store) -> Result<(), StoreError> {
        store.each_entry(self.read + 1, |number, bytes, _| {
            self.read = number;
            match json::read(bytes) {
                Ok(Entry::Intent { at, purpose, key, .. }) if purpose.begins() && key == self.key => {
                    self.add(at);
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) => {
                    Err(store.damaged(format!("entry {number} of the audit log cannot be read: {error}")))
                }
            }
        })
    }

    fn add(&mut self, at: UnixMillis) {
        self.count += 1;
        self.last.push_back(at);
        if self.last.len() > self.kept {
            self.last.pop_front();
        }
    }
}

impl Batch<'_> {
    /// Limits a key, and keeps of its uses what the new limits look back on. A use that the clock dated after `at` counts as
    /// of `at`: so a person gets a rate going again after the clock was wrong.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_limits(
        &mut self,
        at: UnixMillis,
        by: Option<Integer>,
        (name, version): (&KeyName, KeyVersion),
        limits: &Limits,
        uses: &Uses,
    ) -> Result<(), StoreError> {
        let (kind, column) = key_columns(name);
        let key = (kind, column.as_str(), integer(version.0.get()));
        let text = (!limits.is_empty()).then(|| json::write(limits));
        self.run(sql::SET_LIMITS, (key.0, key.1, key.2, text))?;
        self.run(sql::FORGET_USES, (key.0, key.1, key.2, i64::MAX))?;
        if limits.is_counted() {
            let before = uses.count - uses.last.len() as u64;
            for (nth, used) in (before + 1..).zip(&uses.last) {
                self.run(
                    sql::INSERT_USE,
                    (key.0, key.1, key.2, integer(nth), integer(used.get().min(at.get()))),
                )?;
            }
        }
        self.counted = None;
        let key = LoggedKey::new(name, version);
        self.append(&Entry::KeyLimits { at, by, key, limits: limits.clone() }).map(drop)
    }

    /// Limits a key that is new, if it has limits at all.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn set_first_limits(
        &mut self,
        at: UnixMillis,
        by: Option<Integer>,
        (name, version): (&KeyName, KeyVersion),
        limits: &Limits,
    ) -> Result<(), StoreError> {
        if limits.is_empty() {
            return Ok(());
        }
        self.set_limits(at, by, (name, version), limits, &Uses::of(name, version, limits))
    }

    /// The limits of the key that an order uses, if it begins something with it, and its uses are counted.
    pub(super) fn counted(&mut self, order: &Order) -> Result<Option<Limits>, StoreError> {
        if !order.purpose.begins() {
            return Ok(None);
        }
        let store = self.store;
        let counted = match &mut self.counted {
            Some(counted) => counted,
            none => none.insert(store.counted()?),
        };
        let is_it = |(name, version, _): &&(KeyName, KeyVersion, Limits)| {
            *name == order.key && *version == order.version
        };
        Ok(counted.iter().find(is_it).map(|(.., limits)| limits.clone()))
    }

    /// Counts a use of a key: how many there are with it.
    pub(super) fn use_key(
        &self,
        order: &Order,
        limits: &Limits,
        at: UnixMillis,
    ) -> Result<Result<u64, LimitReached>, StoreError> {
        let (kind, name) = key_columns(&order.key);
        let key = (kind, name.as_str(), integer(order.version.0.get()));
        let store = self.store;
        let used: Option<i64> = store.sql(store.statement(sql::USED)?.query_row(key, |row| row.get(0)))?;
        let used = used.map_or(0, i64::cast_unsigned);
        if limits.are_used_up(used) {
            return Ok(Err(LimitReached::UsedUp));
        }
        if let Some(rate) = limits.rate
            && let Some(first) = (used + 1).checked_sub(rate.uses()).filter(|first| *first > 0)
        {
            let params = (key.0, key.1, key.2, integer(first));
            let kept = store.statement(sql::USE)?.query_row(params, |row| row.get::<_, i64>(0)).optional();
            let first =
                store.sql(kept)?.ok_or_else(|| store.damaged("a use that a rate counts is not kept"))?;
            let again = UnixMillis::new(first.cast_unsigned()).after(rate.window());
            if again > at {
                return Ok(Err(LimitReached::Rate { rate, again }));
            }
        }
        let used = used + 1;
        self.run(sql::INSERT_USE, (key.0, key.1, key.2, integer(used), integer(at.get())))?;
        let forgotten = used.saturating_sub(limits.kept_uses());
        self.run(sql::FORGET_USES, (key.0, key.1, key.2, integer(forgotten)))?;
        Ok(Ok(used))
    }
}

impl Store {
    /// Uses that are kept, each with its number and moment, in order of key and number.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn kept_uses(&self) -> Result<Vec<(LoggedKey, u64, UnixMillis)>, StoreError> {
        let mut statement = self.statement(sql::USES)?;
        let mut rows = self.sql(statement.query([]))?;
        let mut uses = Vec::new();
        while let Some(row) = self.sql(rows.next())? {
            let (name, version) = self.key_of(row, "key_use")?;
            let number = |at| Ok::<u64, StoreError>(self.sql(row.get::<_, i64>(at))?.cast_unsigned());
            uses.push((LoggedKey::new(&name, version), number(3)?, UnixMillis::new(number(4)?)));
        }
        Ok(uses)
    }

    /// The limits of the keys whose uses are counted.
    fn counted(&self) -> Result<Vec<(KeyName, KeyVersion, Limits)>, StoreError> {
        let mut statement = self.statement(sql::LIMITED)?;
        let mut rows = self.sql(statement.query([]))?;
        let mut counted = Vec::new();
        while let Some(row) = self.sql(rows.next())? {
            let limits = self.limits(self.sql(row.get(3))?)?;
            if limits.is_counted() {
                let (name, version) = self.key_of(row, "key")?;
                counted.push((name, version, limits));
            }
        }
        Ok(counted)
    }

    pub(super) fn limits(&self, column: Option<Vec<u8>>) -> Result<Limits, StoreError> {
        let read = column.map(|bytes| json::read(&bytes)).transpose();
        Ok(read
            .map_err(|error| self.damaged(format!("limits of a row of `key` cannot be read: {error}")))?
            .unwrap_or_default())
    }

    /// The key of a row that begins with kind, name and version.
    fn key_of(&self, row: &rusqlite::Row<'_>, table: &str) -> Result<(KeyName, KeyVersion), StoreError> {
        let wrong = |what: &str| self.damaged(format!("a row of `{table}` has a {what} that is none"));
        let (kind, name): (String, String) = (self.sql(row.get(0))?, self.sql(row.get(1))?);
        let name: Name = name.parse().map_err(|_| wrong("name"))?;
        let name = match kind.as_str() {
            "contract" => KeyName::Contract(name),
            _ => KeyName::Operational(name),
        };
        let version = Integer::new(self.sql(row.get::<_, i64>(2))?.cast_unsigned());
        Ok((name, KeyVersion(version.ok_or_else(|| wrong("version"))?)))
    }
}
