//! Walking the whole log: is it the one that was written, and does it fit itself and the tables beside it?

use std::collections::{BTreeMap, BTreeSet};

use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::operational_key::{MessageDigest, VerificationKey};
use assent_consensus::time::UnixMillis;
use serde::Serialize;

use super::{Entry, LoggedKey, next_head};
use crate::device::yubihsm::log::LogMark;
use crate::life::Limits;
use crate::pins::KeyState;
use crate::store::{KeyRow, PolicyRow, Store, StoreError};

/// What a whole log says.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// How many entries.
    pub entries: u64,
    /// How many signatures, each verified.
    pub signatures: u64,
    /// How many intents without one: cut short, and carried out when their duty comes again.
    pub open_intents: u64,
    /// The head.
    pub head: Digest,
}

/// Why a log is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry is wrong.
    #[error("entry {number} of the audit log is the first that is wrong: {why}")]
    Entry {
        /// Its number.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A table does not say what the log says.
    #[error("the audit log is whole, but {0}")]
    Table(String),
    /// A head that somebody knows is not in it.
    #[error(
        "the head `{0}` is not in the audit log: entries were cut off, or changed together with all heads after them"
    )]
    UnknownHead(Digest),
    /// The file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Walks the log from its first entry, and looks for the heads in `known`, which came with results. The daemon may write
/// meanwhile.
///
/// # Errors
/// [`AuditError`], with the first entry that is wrong.
pub fn verify(store: &Store, known: &[Digest]) -> Result<AuditReport, AuditError> {
    store.at_one_moment(|| walk(store, known))
}

fn walk(store: &Store, known: &[Digest]) -> Result<AuditReport, AuditError> {
    store.check_integrity().map_err(|error| AuditError::Table(error.to_string()))?;
    let mut walk = Walk { instance: store.identity()?.instance, ..Walk::default() };
    let mut missing: BTreeSet<Digest> = known.iter().copied().collect();
    store.each_entry(0, |number, bytes, head| {
        missing.remove(&head);
        walk.step(number, bytes, head).map_err(|why| AuditError::Entry { number, why })
    })?;
    if walk.entries == 0 {
        return Err(AuditError::Entry { number: 1, why: "the log is empty".into() });
    }
    walk.compare(store)?;
    match known.iter().find(|head| missing.contains(head)) {
        Some(head) => Err(AuditError::UnknownHead(*head)),
        None => Ok(walk.report()),
    }
}

#[derive(Default)]
struct Walk {
    instance: [u8; 16],
    entries: u64,
    signatures: u64,
    head: Option<Digest>,
    keys: Vec<KnownKey>,
    deployment: Option<DeploymentId>,
    /// By contract and place: the policy, and the decision that approved it.
    policies: Vec<(Name, Digest, UnixMillis, Digest)>,
    fence: Option<UnixMillis>,
    duties: BTreeSet<Digest>,
    /// Intents without a result, by number: duty, key, digest to be signed.
    open: BTreeMap<u64, (Digest, VerificationKey, MessageDigest)>,
    /// By device and serial number, how far its log was read: number of the entry that says so, and the device's last entry.
    device_logs: BTreeMap<(Name, String), (u64, LogMark)>,
    /// Intent and result of each duty, as the index should have them.
    index: Vec<(Digest, u64, Option<u64>)>,
}

struct KnownKey {
    key: LoggedKey,
    device: Name,
    object: Vec<u8>,
    public_key: VerificationKey,
    is_adopted: bool,
    state: String,
    was_active: bool,
    limits: Limits,
    uses: Vec<UnixMillis>,
}

impl KnownKey {
    /// The uses that the table must have, each with its number.
    fn kept_uses(&self) -> impl Iterator<Item = (LoggedKey, u64, UnixMillis)> {
        let kept = if self.limits.is_counted() { self.limits.kept_uses() } else { 0 };
        let before = (self.uses.len() as u64).saturating_sub(kept);
        let numbered = (1..).zip(&self.uses).filter(move |(nth, _)| *nth > before);
        numbered.map(|(nth, at)| (self.key.clone(), nth, *at))
    }
}

impl Walk {
    fn step(&mut self, number: u64, bytes: &[u8], head: Digest) -> Result<(), String> {
        if number != self.entries + 1 {
            return Err(format!("it comes after entry {}, so some are missing", self.entries));
        }
        let expected = next_head(&self.head.unwrap_or(Digest::ZERO), bytes);
        if head != expected {
            return Err("its head does not follow from its content and the head before".into());
        }
        (self.entries, self.head) = (number, Some(head));
        let entry: Entry = json::read(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
        match (number, &entry) {
            (1, Entry::Created { instance, .. }) if instance.0 == self.instance => return Ok(()),
            (1, _) | (_, Entry::Created { .. }) => {
                return Err("the log does not begin with the making of this KMS, or does so twice".into());
            }
            _ => {}
        }
        self.take(number, entry)
    }

    fn take(&mut self, number: u64, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::KeyCreated { .. } | Entry::KeyAdopted { .. } => self.begin(entry)?,
            Entry::Pinned { deployment, .. } if self.deployment.is_none() => {
                self.deployment = Some(deployment)
            }
            Entry::Pinned { .. } => return Err("a deployment is pinned twice".into()),
            Entry::KeyState { key, to, .. } => {
                let known = self.key(&key)?;
                known.was_active |= to == KeyState::Active.as_str();
                known.state = to;
            }
            Entry::KeyRemoved { key, .. } => {
                let known = self.key(&key)?;
                if known.was_active || known.key.is_first() {
                    return Err("a key was removed that was in force".into());
                }
                self.keys.retain(|known| known.key != key);
            }
            Entry::PolicyChanged { contract, to, effective, decision, .. } => {
                self.policies.push((contract, to, effective, decision));
            }
            Entry::Restored { fence, .. } => self.fence = Some(fence),
            Entry::KeyLimits { at, key, limits, .. } => {
                let known = self.key(&key)?;
                known.limits = limits;
                known.uses.iter_mut().for_each(|used| *used = (*used).min(at));
            }
            Entry::Intent { .. } => self.intend(number, entry)?,
            Entry::Result { intent, .. } => {
                let signature = entry.signature().ok_or("it has no signature")?;
                let (duty, key, digest) = self
                    .open
                    .remove(&intent.get())
                    .ok_or_else(|| format!("it is the result of entry {intent}, which is no open intent"))?;
                key.verify(&digest, &signature).map_err(|_| "its signature does not verify")?;
                self.signatures += 1;
                let place = self.index.iter_mut().rfind(|(known, ..)| *known == duty);
                place.ok_or("its duty is not known")?.2 = Some(number);
            }
            Entry::DeviceLog { device, serial, last, digest, .. } => {
                let item = u16::try_from(last.get()).map_err(|_| "a device has no entry of this number")?;
                let digest =
                    digest.0.try_into().map_err(|_| "the digest of a device's entry has 16 bytes")?;
                self.device_logs.insert((device, serial), (number, LogMark { item, digest }));
            }
            _ => {}
        }
        Ok(())
    }

    /// A key that is there from this entry on.
    fn begin(&mut self, entry: Entry) -> Result<(), String> {
        let is_adopted = matches!(entry, Entry::KeyAdopted { .. });
        let (Entry::KeyCreated { key, device, object, alg, public_key, .. }
        | Entry::KeyAdopted { key, device, object, alg, public_key, .. }) = entry
        else {
            return Ok(());
        };
        let public_key = VerificationKey::new(alg, public_key).map_err(|error| error.to_string())?;
        let state = "pre-activation".to_owned();
        let (limits, uses) = (Limits::default(), Vec::new());
        let object = object.0;
        if self.keys.iter().any(|known| known.key == key) {
            return Err("a key is made twice".into());
        }
        let was_active = false;
        self.keys.push(KnownKey {
            key,
            device,
            object,
            public_key,
            is_adopted,
            state,
            was_active,
            limits,
            uses,
        });
        Ok(())
    }

    fn intend(&mut self, number: u64, entry: Entry) -> Result<(), String> {
        let Entry::Intent { at, purpose, key, .. } = &entry else { return Ok(()) };
        let known = self.key(key)?;
        if purpose.begins() {
            known.uses.push(*at);
        }
        let public_key = known.public_key.clone();
        let order = entry.into_order().ok_or("it does not say what is to be signed")?;
        let duty = *order.duty().digest();
        if !self.duties.insert(duty) {
            return Err("it is a second intent for one duty".into());
        }
        let digest = order.to_sign.digest(public_key.algorithm());
        self.open.insert(number, (duty, public_key, digest));
        self.index.push((duty, number, None));
        Ok(())
    }

    fn key(&mut self, key: &LoggedKey) -> Result<&mut KnownKey, String> {
        let known = self.keys.iter_mut().find(|known| known.key == *key);
        known.ok_or_else(|| "it is about a key that was never made".into())
    }

    fn compare(&self, store: &Store) -> Result<(), AuditError> {
        let table = |why: String| Err(AuditError::Table(why));
        if store.duties()? != self.index {
            return table("the tables `duty` and `result` do not list its intents and results".into());
        }
        let pinned = store.genesis()?.map(|bytes| DeploymentId(Digest::of(&bytes)));
        if pinned != self.deployment {
            return table("another deployment is pinned than the one in the log".into());
        }
        if store.fence()? != self.fence {
            return table("the table `fence` does not say when the database was put back".into());
        }
        let signed = store.policies()?.into_iter().filter(|row| row.is_signed);
        let row =
            |row: PolicyRow| (row.contract, Digest::of(&row.document), row.says.effective, row.says.decision);
        let mut policies = self.policies.clone();
        policies.sort_by(|one, other| one.0.cmp(&other.0));
        if signed.map(row).collect::<Vec<_>>() != policies {
            return table("the table `policy` does not list the policies that followed genesis".into());
        }
        if store.device_logs()? != self.device_logs {
            return table("the table `device_log` does not say how far it was read".into());
        }
        let rows = store.keys()?;
        for known in &self.keys {
            let row = rows.iter().find(|row| LoggedKey::new(&row.name, row.version) == known.key);
            let is_same = |row: &KeyRow| {
                let is_there = row.device == known.device && row.object.as_bytes() == known.object;
                let is_it = row.public_key == known.public_key && row.is_adopted == known.is_adopted;
                is_there && is_it && row.limits == known.limits
            };
            match row {
                Some(row) if is_same(row) && self.fits(row, &known.state) => {}
                Some(row) => {
                    return table(format!("the table says something else of {}", row.name));
                }
                None => return table("a key is not in the table any more".into()),
            }
        }
        if rows.len() != self.keys.len() {
            return table("the table has keys that were never made".into());
        }
        let mut kept: Vec<_> = self.keys.iter().flat_map(KnownKey::kept_uses).collect();
        kept.sort_unstable();
        let mut uses = store.kept_uses()?;
        uses.sort_unstable();
        match uses == kept {
            true => Ok(()),
            false => table("the table `key_use` does not count the uses of limited keys".into()),
        }
    }

    /// Pinning activates keys without an entry for each.
    fn fits(&self, row: &KeyRow, state: &str) -> bool {
        let is_activated = state == "pre-activation" && row.state.as_str() == "active";
        row.state.as_str() == state || (is_activated && self.deployment.is_some())
    }

    fn report(&self) -> AuditReport {
        AuditReport {
            entries: self.entries,
            signatures: self.signatures,
            open_intents: self.open.len() as u64,
            head: self.head.unwrap_or(Digest::ZERO),
        }
    }
}
