//! A vault in memory: software keys, and records that a test can read and change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use assent_consensus::digest::Digest;
use assent_consensus::duty::{TrustedChain, TrustedHeaders};
use assent_consensus::genesis::Genesis;
use assent_consensus::header::TrustedHeader;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, MessageDigest, RawSignature};
use assent_consensus::standing::Successions;
use assent_consensus::time::UnixMillis;
use tokio::sync::Semaphore;

use super::super::vault::{Later, Vault};
use super::log::Key;
use crate::changes::{Changed, Destruction, PolicyChange, Rotated, Rotation};
use crate::pins::{KeyState, PinnedKey};
use crate::signing::{DutyId, KeyName, Order, Purpose, SignedOrder, SigningError};

#[derive(Default)]
pub(super) struct Pages {
    pub(super) genesis: Option<Arc<Genesis>>,
    pub(super) keys: HashMap<KeyName, (Key, PinnedKey)>,
    pub(super) suspended: HashSet<Thumbprint>,
    pub(super) released: HashSet<RequestId>,
    pub(super) fence: Option<UnixMillis>,
    pub(super) trusted: BTreeMap<Name, TrustedHeader>,
    pub(super) orders: HashMap<DutyId, SignedOrder>,
    pub(super) refusals: Vec<(Purpose, RequestId, String)>,
    pub(super) successions: Arc<Successions>,
    /// Policies that were to be put into force.
    pub(super) changes: Vec<PolicyChange>,
    /// Contracts whose next policy is not signed yet.
    pub(super) awaited: HashSet<Name>,
    /// What is signed, and pinned, while it is being asked whether something is awaited.
    pub(super) signed_meanwhile: Option<Arc<Successions>>,
    /// Whether nothing can be written.
    pub(super) disk_is_full: bool,
}

/// How many signatures can be made at once.
pub(super) const GATE: u32 = 1_000;

/// The vault.
pub(super) struct Books {
    pages: Mutex<Pages>,
    /// One permit is taken for each signature and given back.
    pub(super) gate: Semaphore,
}

impl Books {
    pub(super) fn new(genesis: Arc<Genesis>, keys: impl IntoIterator<Item = (KeyName, Key)>) -> Books {
        let pinned = |key: &Key| PinnedKey {
            version: KeyVersion::first(),
            public_key: key.public.clone().into(),
            state: KeyState::Active,
        };
        let keys = keys.into_iter().map(|(name, key)| (name, (key.clone(), pinned(&key)))).collect();
        let pages = Pages { genesis: Some(genesis), keys, ..Pages::default() };
        Books { pages: Mutex::new(pages), gate: Semaphore::new(GATE as usize) }
    }

    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }

    pub(super) fn set_state(&self, name: &KeyName, state: KeyState) {
        self.pages().keys.get_mut(name).unwrap().1.state = state;
    }

    pub(super) fn order(&self, purpose: Purpose, request: RequestId) -> Option<Order> {
        self.pages().orders.get(&DutyId::of(purpose, request)).map(|signed| signed.order.clone())
    }
}

impl Vault for Books {
    fn genesis(&self) -> Option<Arc<Genesis>> {
        self.pages().genesis.clone()
    }

    fn key(&self, name: &KeyName, _now: UnixMillis) -> Option<PinnedKey> {
        self.pages().keys.get(name).map(|(_, pinned)| pinned.clone())
    }

    fn key_version(&self, name: &KeyName, version: KeyVersion, now: UnixMillis) -> Option<PinnedKey> {
        self.key(name, now).filter(|key| key.version == version)
    }

    fn successions(&self) -> Arc<Successions> {
        self.pages().successions.clone()
    }

    fn destroy(&self, _: Destruction) -> Later<'_, Result<Changed, SigningError>> {
        Box::pin(async { Err(SigningError::DeviceFailed("there is no device".into())) })
    }

    fn change_policy(&self, change: PolicyChange) -> Later<'_, Result<Changed, SigningError>> {
        self.pages().changes.push(change);
        Box::pin(async { Err(SigningError::DeviceFailed("there is no device".into())) })
    }

    fn awaits_policy(&self, contract: &Name, _now: UnixMillis) -> bool {
        let mut pages = self.pages();
        if let Some(signed) = pages.signed_meanwhile.take() {
            pages.awaited.clear();
            pages.successions = signed;
        }
        pages.awaited.contains(contract)
    }

    fn rotate(&self, _: Rotation) -> Later<'_, Result<Rotated, SigningError>> {
        Box::pin(async { Err(SigningError::DeviceFailed("there is no device".into())) })
    }

    fn is_suspended(&self, voter: Thumbprint) -> bool {
        self.pages().suspended.contains(&voter)
    }

    fn is_released(&self, request: RequestId) -> bool {
        self.pages().released.contains(&request)
    }

    fn fence(&self) -> Option<UnixMillis> {
        self.pages().fence
    }

    fn trusted(&self) -> TrustedHeaders {
        let pages = self.pages();
        let chains = pages.trusted.iter();
        let chains = chains.map(|(chain, trusted)| TrustedChain { chain: chain.clone(), trusted: *trusted });
        TrustedHeaders { chains: chains.collect() }
    }

    fn advance_trusted(&self, chain: &Name, trusted: TrustedHeader) -> Result<(), SigningError> {
        let mut pages = self.pages();
        if pages.disk_is_full {
            return Err(SigningError::AuditFailed("no space left on device".into()));
        }
        pages.trusted.insert(chain.clone(), trusted);
        Ok(())
    }

    fn ordered(&self, duty: DutyId) -> Result<Option<Arc<Order>>, SigningError> {
        Ok(self.pages().orders.get(&duty).map(|signed| Arc::new(signed.order.clone())))
    }

    fn sign(&self, order: Order) -> Later<'_, Result<SignedOrder, SigningError>> {
        Box::pin(async move {
            let _turn = self.gate.acquire().await.unwrap();
            let mut pages = self.pages();
            let Order { purpose, request, .. } = order;
            if let Some(signed) = pages.orders.get(&order.duty()) {
                let is_same = signed.order == order;
                return if is_same {
                    Ok(signed.clone())
                } else {
                    Err(SigningError::Conflict { purpose, request })
                };
            }
            let (key, _) = pages.keys.get(&order.key).unwrap();
            let MessageDigest::Sha256(digest) = order.to_sign.digest(Algorithm::ES256) else {
                unreachable!("ES256 signs SHA-256");
            };
            let signature = RawSignature(key.sign_digest(&digest).to_vec());
            let audit = Digest::of(pages.orders.len().to_string().as_bytes());
            let signed = SignedOrder { order: order.clone(), signature, audit };
            pages.orders.insert(order.duty(), signed.clone());
            Ok(signed)
        })
    }

    fn record_refusal<'a>(
        &'a self,
        purpose: Purpose,
        request: RequestId,
        reason: &'a str,
        _: &'a str,
    ) -> Later<'a, Result<(), SigningError>> {
        Box::pin(async move {
            let mut pages = self.pages();
            if pages.disk_is_full {
                return Err(SigningError::AuditFailed("no space left on device".into()));
            }
            pages.refusals.push((purpose, request, reason.into()));
            Ok(())
        })
    }
}
