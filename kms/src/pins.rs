//! What the KMS goes by: the pinned genesis, its keys, and what a person or a verified header changed since. Nothing that
//! comes with a request changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use assent_consensus::digest::Digest;
use assent_consensus::duty::{TrustedChain, TrustedHeaders};
use assent_consensus::genesis::Genesis;
use assent_consensus::header::TrustedHeader;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyTransition, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::VerificationKey;
use assent_consensus::policy::Policy;
use assent_consensus::standing::{AdoptedPolicy, Successions};
use assent_consensus::time::UnixMillis;

use crate::life;
use crate::signing::{KeyName, SigningError};
use crate::store::{KeyRow, PolicyRow, Store, StoreError};

/// The state of a key version, in the words of NIST SP 800-57 Part 1 section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Generated, and not yet in a pinned genesis, or not before its activation date.
    PreActivation,
    /// Signs.
    Active,
    /// Signs nothing until a person looked.
    Suspended,
    /// Signs no more.
    Deactivated,
    /// Not trusted any more; signs nothing.
    Compromised,
    /// Gone from the device.
    Destroyed,
}

impl KeyState {
    /// Every state.
    pub const ALL: [KeyState; 6] = [
        KeyState::PreActivation,
        KeyState::Active,
        KeyState::Suspended,
        KeyState::Deactivated,
        KeyState::Compromised,
        KeyState::Destroyed,
    ];

    /// Whether a key may go from this state to another one: no way leads back from deactivated or compromised, and what is
    /// in use is deactivated, or found to be compromised, before it is destroyed.
    pub const fn may_become(self, next: KeyState) -> bool {
        use KeyState::{Active, Compromised, Deactivated, Destroyed, PreActivation, Suspended};
        matches!(
            (self, next),
            (PreActivation, Active | Compromised | Destroyed)
                | (Active, Suspended | Deactivated | Compromised)
                | (Suspended, Active | Deactivated | Compromised)
                | (Deactivated, Compromised | Destroyed)
                | (Compromised, Destroyed)
        )
    }

    /// What becomes of a key that somebody else may have used: a person looks at one that is in use; one that never was is
    /// given up. Nothing, if it signs nothing anyway.
    pub const fn under_suspicion(self) -> Option<KeyState> {
        match self {
            KeyState::PreActivation => Some(KeyState::Compromised),
            KeyState::Active => Some(KeyState::Suspended),
            KeyState::Suspended | KeyState::Deactivated | KeyState::Compromised | KeyState::Destroyed => None,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyState::PreActivation => "pre-activation",
            KeyState::Active => "active",
            KeyState::Suspended => "suspended",
            KeyState::Deactivated => "deactivated",
            KeyState::Compromised => "compromised",
            KeyState::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyState {
    type Err = ();

    fn from_str(text: &str) -> Result<KeyState, ()> {
        KeyState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// A key of the pinned deployment, in the version that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The version.
    pub version: KeyVersion,
    /// Its public key, and how it signs.
    pub public_key: VerificationKey,
    /// Its state.
    pub state: KeyState,
}

/// A contract's next policy, whose change is fixed and not signed yet.
#[derive(Clone)]
pub(crate) struct AwaitedPolicy {
    /// What approved it.
    pub(crate) request: RequestId,
    /// From when on it is in force, if it comes to that.
    pub(crate) effective: UnixMillis,
    /// Until when that may be done.
    pub(crate) act_by: UnixMillis,
    /// The policy.
    pub(crate) policy: Arc<Policy>,
}

/// What the KMS goes by. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Pins(Arc<RwLock<State>>);

/// Changed only after the change is in the file, but for trusted headers, which are written with what relies on them.
#[derive(Default)]
struct State {
    genesis: Option<Arc<Genesis>>,
    keys: Vec<KeyRow>,
    suspended: BTreeSet<Thumbprint>,
    released: BTreeSet<RequestId>,
    fence: Option<UnixMillis>,
    trusted: BTreeMap<Name, Trusted>,
    successions: Arc<Successions>,
    /// Policies whose change is not signed yet.
    awaited: BTreeMap<Name, AwaitedPolicy>,
    /// The documents of policies that were read before, by digest.
    documents: BTreeMap<Digest, Arc<Policy>>,
}

impl State {
    fn pinned(&self, row: &KeyRow, now: UnixMillis) -> PinnedKey {
        let state = self.state_at(row, now);
        PinnedKey { version: row.version, public_key: row.public_key.clone(), state }
    }

    fn state_at(&self, row: &KeyRow, now: UnixMillis) -> KeyState {
        let next = self.successions.after(&row.name, row.version);
        life::state(row, next, now)
    }

    fn is_given_up(&self, row: &KeyRow) -> bool {
        let leads_there = |next: &KeyTransition| next.version == row.version;
        matches!(row.state, KeyState::Compromised | KeyState::Destroyed)
            && !row.version.is_first()
            && !self.successions.of(&row.name).iter().any(leads_there)
    }

    fn ends(&self, row: &KeyRow) -> Option<UnixMillis> {
        life::end(row, self.successions.after(&row.name, row.version))
    }
}

#[derive(Clone, Copy)]
struct Trusted {
    header: TrustedHeader,
    is_written: bool,
}

impl Pins {
    /// Reads everything from the file.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn load(store: &Store) -> Result<Pins, StoreError> {
        let pins = Pins(Arc::default());
        pins.reload(store)?;
        Ok(pins)
    }

    /// Reads everything again that is changed by people. Trusted headers stay as they are.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn reload(&self, store: &Store) -> Result<(), StoreError> {
        let genesis = match (self.genesis(), store.genesis()?) {
            (Some(genesis), Some(bytes)) if genesis.bytes() == bytes => Some(genesis),
            (_, Some(bytes)) => Some(Arc::new(Genesis::parse(&bytes).map_err(|error| {
                let why = format!("the pinned genesis cannot be read: {error}");
                StoreError::Damaged { path: store.path().to_owned(), why }
            })?)),
            (_, None) => None,
        };
        let (keys, suspended, released) = (store.keys()?, store.suspended_voters()?, store.released()?);
        let (trusted, mut successions) = (store.trusted()?, store.successions()?);
        let mut documents = self.read().documents.clone();
        let awaited = adopt(store, &mut successions, &mut documents)?;
        let fence = store.fence()?;
        let mut state = self.write();
        state.genesis = genesis;
        let before = std::mem::replace(&mut state.keys, keys);
        // What was read may be older than the last use that is known here.
        for row in state.keys.iter_mut().filter(|row| row.limits.is_counted()) {
            let known = before.iter().find(|known| known.is(&row.name, row.version));
            row.used = row.used.max(known.map_or(0, |known| known.used));
        }
        state.suspended = suspended.into_iter().collect();
        state.released = released.into_iter().collect();
        state.fence = fence;
        state.successions = Arc::new(successions);
        (state.awaited, state.documents) = (awaited, documents);
        for (chain, header) in trusted {
            state.trusted.entry(chain).or_insert(Trusted { header, is_written: true });
        }
        Ok(())
    }

    /// The pinned genesis, once there is one.
    pub fn genesis(&self) -> Option<Arc<Genesis>> {
        self.read().genesis.clone()
    }

    /// The key of this name in the version that is in force at `now`: the last one that activated by then, and was not given
    /// up before.
    pub fn key(&self, name: &KeyName, now: UnixMillis) -> Option<PinnedKey> {
        let state = self.read();
        let is_active = |row: &KeyRow| row.activated.is_some_and(|activated| activated <= now);
        let is_it = |row: &&KeyRow| row.name == *name && is_active(row) && !state.is_given_up(row);
        let row = state.keys.iter().rfind(is_it)?;
        Some(state.pinned(row, now))
    }

    /// Whether a version was given up before it was in force: its transition is not signed, and never will be.
    pub(crate) fn is_given_up(&self, row: &KeyRow) -> bool {
        self.read().is_given_up(row)
    }

    /// The key of this name in one version, whatever its state.
    pub fn key_version(&self, name: &KeyName, version: KeyVersion, now: UnixMillis) -> Option<PinnedKey> {
        let state = self.read();
        let row = state.keys.iter().find(|row| row.is(name, version))?;
        Some(state.pinned(row, now))
    }

    /// The state of a key version at `now`, on record or not: see [`crate::life`].
    pub fn state_at(&self, row: &KeyRow, now: UnixMillis) -> KeyState {
        self.read().state_at(row, now)
    }

    /// When a key version is to be deactivated, if that is settled: see [`crate::life`].
    pub fn ends(&self, row: &KeyRow) -> Option<UnixMillis> {
        self.read().ends(row)
    }

    /// The approved transitions of all keys and the approved policies of all contracts, those alone that are signed.
    pub fn successions(&self) -> Arc<Successions> {
        self.read().successions.clone()
    }

    /// The next policy of a contract, if its change is fixed and not signed yet.
    pub(crate) fn awaited_policy(&self, contract: &Name) -> Option<AwaitedPolicy> {
        self.read().awaited.get(contract).cloned()
    }

    /// One version of a key, whatever its state.
    pub(crate) fn key_row(&self, name: &KeyName, version: KeyVersion) -> Option<KeyRow> {
        self.read().keys.iter().find(|row| row.is(name, version)).cloned()
    }

    pub(crate) fn set_key_state(&self, name: &KeyName, version: KeyVersion, to: KeyState) {
        if let Some(row) = self.write().keys.iter_mut().find(|row| row.is(name, version)) {
            row.state = to;
        }
    }

    /// Says how often a key whose uses are counted was used.
    pub(crate) fn set_used(&self, name: &KeyName, version: KeyVersion, used: u64) {
        if let Some(row) = self.write().keys.iter_mut().find(|row| row.is(name, version)) {
            row.used = row.used.max(used);
        }
    }

    /// All keys, in order of name and version.
    pub fn keys(&self) -> Vec<KeyRow> {
        self.read().keys.clone()
    }

    /// Whether a person said that this voter's ballots count no more.
    pub fn is_suspended(&self, voter: Thumbprint) -> bool {
        self.read().suspended.contains(&voter)
    }

    /// Whether a person released this request although it is late, or older than the fence.
    pub fn is_released(&self, request: RequestId) -> bool {
        self.read().released.contains(&request)
    }

    /// The moment before which a request must have been opened for what was signed for it to be possibly unknown here.
    pub fn fence(&self) -> Option<UnixMillis> {
        self.read().fence
    }

    /// The last trusted header of each ledger.
    pub fn trusted(&self) -> TrustedHeaders {
        let state = self.read();
        let chains = state
            .trusted
            .iter()
            .map(|(chain, trusted)| TrustedChain { chain: chain.clone(), trusted: trusted.header });
        TrustedHeaders { chains: chains.collect() }
    }

    /// Trusts a later header of a ledger: it is on disk with or before the next intent. One that is not later changes
    /// nothing.
    ///
    /// # Errors
    /// None yet: it is written with the next intent, which fails if it cannot be written.
    pub fn advance_trusted(&self, chain: &Name, header: TrustedHeader) -> Result<(), SigningError> {
        let mut state = self.write();
        let is_later = state.trusted.get(chain).is_none_or(|known| known.header.height < header.height);
        if is_later {
            state.trusted.insert(chain.clone(), Trusted { header, is_written: false });
        }
        Ok(())
    }

    pub(crate) fn unwritten_trusted(&self) -> Vec<(Name, TrustedHeader)> {
        let state = self.read();
        let unwritten = state.trusted.iter().filter(|(_, trusted)| !trusted.is_written);
        unwritten.map(|(chain, trusted)| (chain.clone(), trusted.header)).collect()
    }

    pub(crate) fn trusted_are_written(&self, written: &[(Name, TrustedHeader)]) {
        if written.is_empty() {
            return;
        }
        let mut state = self.write();
        for (chain, header) in written {
            if let Some(trusted) = state.trusted.get_mut(chain).filter(|trusted| trusted.header == *header) {
                trusted.is_written = true;
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the policies that are signed; gives those that are not yet. `documents` keeps what was read.
fn adopt(
    store: &Store,
    successions: &mut Successions,
    documents: &mut BTreeMap<Digest, Arc<Policy>>,
) -> Result<BTreeMap<Name, AwaitedPolicy>, StoreError> {
    let mut awaited = BTreeMap::new();
    for PolicyRow { request, decided, contract, says, document, act_by, is_signed } in store.policies()? {
        let effective = says.effective;
        let digest = Digest::of(&document);
        let policy = match documents.get(&digest) {
            Some(policy) => policy.clone(),
            None => Arc::new(Policy::parse(&document).map_err(|error| {
                let why = format!("a policy of `{contract}` cannot be read: {error}");
                StoreError::Damaged { path: store.path().to_owned(), why }
            })?),
        };
        documents.insert(digest, policy.clone());
        if !is_signed {
            awaited.insert(contract, AwaitedPolicy { request, effective, act_by, policy });
            continue;
        }
        successions.learn(policy);
        let (earliest, latest) = (effective, effective);
        successions.adopt(contract, AdoptedPolicy { digest, decided, earliest, latest });
    }
    Ok(awaited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_only_where_its_life_leads() {
        use KeyState::{Active, Compromised, Deactivated, Destroyed, PreActivation, Suspended};
        let legal = [
            (PreActivation, Active),
            (PreActivation, Compromised),
            (PreActivation, Destroyed),
            (Active, Suspended),
            (Active, Deactivated),
            (Active, Compromised),
            (Suspended, Active),
            (Suspended, Deactivated),
            (Suspended, Compromised),
            (Deactivated, Compromised),
            (Deactivated, Destroyed),
            (Compromised, Destroyed),
        ];
        for from in KeyState::ALL {
            for to in KeyState::ALL {
                assert_eq!(from.may_become(to), legal.contains(&(from, to)), "{from} to {to}");
            }
            assert!(from.under_suspicion().is_none_or(|to| from.may_become(to)), "{from}");
        }
    }
}
