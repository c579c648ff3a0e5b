//! What this crate's tests run: a contract of a few words, a key, a clock.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use assent_consensus::contract::{Context, Contract, Rejection, State};
use assent_consensus::digest::Digest;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{Certificate, CommitSignature, Validators, commit_digest};
use assent_consensus::json::Integer;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::Jws;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use assent_consensus::transaction::Transaction;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;

use crate::block::Block;
use crate::{CommitSigner, Ledger, LedgerError, Solo, SoloHandle};

/// Transactions are words: `put K V`, `del K`, `once K`, `at K MILLIS` (puts `K` at that time), `bad K` (writes, then is
/// rejected). Further words are ignored, and make transactions differ.
pub(crate) struct Words;

impl Contract for Words {
    fn signatures(&self, _: &dyn State, _: &Transaction) -> Vec<(Jws, PublicKey)> {
        Vec::new()
    }

    fn execute(
        &self,
        state: &mut dyn State,
        transaction: &Transaction,
        _: &Context<'_>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let text = String::from_utf8_lossy(transaction.bytes()).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let event = |name: &str, key: &str| {
            vec![EventBytes(format!("{{\"type\":\"{name}\",\"key\":\"{key}\"}}").into_bytes())]
        };
        match *words.as_slice() {
            ["put", key, value, ..] => {
                state.put(key.as_bytes(), value.into());
                Ok(event("put", key))
            }
            ["del", key, ..] => {
                state.delete(key.as_bytes());
                Ok(event("deleted", key))
            }
            ["once", key, ..] => {
                if state.get(key.as_bytes()).is_some() {
                    return Err(Rejection::new("there", format!("`{key}` is there")));
                }
                state.put(key.as_bytes(), b"once".to_vec());
                Ok(Vec::new())
            }
            ["at", key, millis, ..] => {
                state.put(format!("due/{millis:0>20}/{key}").as_bytes(), key.into());
                Ok(Vec::new())
            }
            ["bad", key, ..] => {
                state.put(key.as_bytes(), b"bad".to_vec());
                state.delete(b"a");
                Err(Rejection::new("bad", "it is bad"))
            }
            _ => Err(Rejection::new("unknown", "unknown word")),
        }
    }

    fn due(&self, state: &dyn State) -> Option<UnixMillis> {
        let (key, _) = state.scan(b"due/", 1).pop()?;
        std::str::from_utf8(&key).ok()?.split('/').nth(1)?.parse().ok().map(UnixMillis::new)
    }

    fn fire(&self, state: &mut dyn State, context: &Context<'_>) -> Vec<EventBytes> {
        let mut events = Vec::new();
        while self.due(state).is_some_and(|due| due <= context.time) {
            let (key, value) = state.scan(b"due/", 1).remove(0);
            state.delete(&key);
            state.put(&value, b"fired".to_vec());
            events.push(EventBytes([b"{\"type\":\"fired\"}", value.as_slice()].concat()));
        }
        events
    }
}

/// A key in memory.
pub(crate) struct Key(SigningKey, PublicKey);

impl Key {
    pub(crate) fn new(seed: u8) -> Key {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey::from_point(point.as_bytes().try_into().unwrap()).unwrap();
        Key(key, public)
    }

    pub(crate) fn certificate(&self, block: &Block) -> Certificate {
        let header = block.header().header();
        let round = Integer::saturating(0);
        let id = block.header().id();
        let digest = commit_digest(header.deployment, &header.chain, header.height, round, id);
        let signature = self.sign(&digest).unwrap();
        let signatures = vec![CommitSignature { kid: self.1.thumbprint(), signature }];
        Certificate { height: header.height, round, block: id, signatures }
    }
}

impl CommitSigner for Key {
    fn key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, String> {
        let signature: p256::ecdsa::Signature =
            self.0.sign_prehash(digest.as_bytes()).map_err(|error| error.to_string())?;
        Ok(signature.to_bytes().into())
    }
}

/// A clock that stands until it is set.
#[derive(Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::SeqCst);
    }

    pub(crate) fn read(&self) -> Arc<dyn Fn() -> UnixMillis + Send + Sync> {
        let now = self.0.clone();
        Arc::new(move || UnixMillis::new(now.load(Ordering::SeqCst)))
    }
}

pub(crate) fn deployment() -> DeploymentId {
    DeploymentId(Digest::of(b"a genesis file"))
}

pub(crate) fn chain() -> Name {
    "main".parse().unwrap()
}

pub(crate) fn validators() -> Validators {
    Validators::new([Key::new(1).1])
}

pub(crate) fn open(path: &Path) -> Result<Ledger, LedgerError> {
    Ledger::open(path, deployment(), chain(), validators(), Arc::new(Words))
}

pub(crate) fn start(path: &Path, clock: &Clock) -> SoloHandle {
    Solo::start(open(path).unwrap(), Arc::new(Key::new(1)), clock.read()).unwrap()
}

pub(crate) fn transaction(text: &str) -> Transaction {
    Transaction::parse(text.as_bytes().to_vec()).unwrap()
}

pub(crate) fn transactions(texts: &[&str]) -> Vec<Transaction> {
    texts.iter().map(|text| transaction(text)).collect()
}
