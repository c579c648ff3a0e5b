//! A ledger in memory that makes every block final at once, and keys made for the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use p256::ecdsa::signature::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as P256Signature, SigningKey};

use crate::contract::{Context, Contract, Rejection, State};
use crate::digest::Digest;
use crate::encoding::{self, Bytes};
use crate::event::EventBytes;
use crate::genesis::Genesis;
use crate::header::{
    Certificate, CommitSignature, Header, Inclusion, SealedHeader, Validators, commit_digest,
};
use crate::json::Integer;
use crate::jwk::PublicKey;
use crate::jws::{CheckedSignatures, Jws, Payload, Unsigned};
use crate::merkle;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::transaction::Transaction;

pub(super) fn number(value: u64) -> Integer {
    Integer::new(value).unwrap()
}

/// A key pair.
pub(crate) struct Key {
    secret: SigningKey,
    pub(crate) public: PublicKey,
}

impl Key {
    pub(crate) fn new(seed: u8) -> Key {
        let secret = SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        Key { public: PublicKey::from_point(point.as_bytes().try_into().unwrap()).unwrap(), secret }
    }

    pub(crate) fn sign<P: Payload>(&self, payload: P) -> Jws {
        let unsigned = Unsigned::new(self.public.thumbprint(), payload);
        let signature: P256Signature = self.secret.sign(unsigned.signing_input());
        unsigned.attach(&signature.to_bytes().into(), &self.public).unwrap().jws().clone()
    }

    pub(crate) fn sign_digest(&self, digest: &[u8]) -> P256Signature {
        self.secret.sign_prehash(digest).unwrap()
    }

    pub(crate) fn toml(&self) -> String {
        let point = self.public.point();
        let (x, y) = (encoding::encode(&point[1..33]), encoding::encode(&point[33..]));
        format!(r#"{{ kty = "EC", crv = "P-256", x = "{x}", y = "{y}" }}"#)
    }
}

/// State in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl State for Memory {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let from = self.0.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        from.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A block's header, what makes it final, and its events.
struct Block {
    header: SealedHeader,
    certificate: Certificate,
    events: Vec<EventBytes>,
}

/// One ledger.
pub(crate) struct Ledger {
    pub(crate) contracts: Box<dyn Contract>,
    pub(crate) chain: Name,
    pub(crate) state: Memory,
    genesis: Arc<Genesis>,
    validator: Key,
    blocks: Vec<Block>,
}

impl Ledger {
    pub(super) fn new(
        genesis: &Arc<Genesis>,
        contracts: Box<dyn Contract>,
        chain: &str,
        validator: Key,
    ) -> Ledger {
        let state = Memory::default();
        Ledger {
            contracts,
            chain: chain.parse().unwrap(),
            state,
            genesis: genesis.clone(),
            validator,
            blocks: Vec::new(),
        }
    }

    pub(crate) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Makes a block at `time`; a rejected transaction must not have written anything.
    pub(crate) fn block(
        &mut self,
        time: UnixMillis,
        transactions: &[Vec<u8>],
    ) -> Vec<Result<Vec<EventBytes>, Rejection>> {
        // Every other block as the ledger does it, with signatures that were verified before.
        let mut checked = CheckedSignatures::default();
        let parsed = |bytes: &Vec<u8>| Transaction::parse(bytes.clone()).unwrap();
        for transaction in transactions.iter().map(parsed).filter(|_| self.height().is_multiple_of(2)) {
            for (jws, key) in self.contracts.signatures(&self.state, &transaction) {
                checked.check(&jws, &key);
            }
        }
        let context = Context { height: self.height() + 1, time, checked: &checked };
        let mut events = self.contracts.fire(&mut self.state, &context);
        let mut results = Vec::new();
        for bytes in transactions {
            let transaction = parsed(bytes);
            let signatures = self.contracts.signatures(&self.state, &transaction);
            assert!(signatures.len() <= 1, "a transaction of ours has one message at most");
            let before = self.state.clone();
            let result = self.contracts.execute(&mut self.state, &transaction, &context);
            match &result {
                Ok(told) => {
                    let signed = signatures.iter().all(|(jws, key)| jws.verify(key).is_ok());
                    assert!(signed, "a signature that was announced does not verify");
                    events.extend(told.iter().cloned());
                }
                Err(rejection) => {
                    assert_eq!(self.state, before, "`{}` was rejected and left a trace", rejection.code);
                }
            }
            results.push(result);
        }
        self.seal(time, events);
        results
    }

    fn seal(&mut self, time: UnixMillis, events: Vec<EventBytes>) {
        let leaves: Vec<Digest> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
        let (deployment, zero) = (self.genesis.id(), Digest::ZERO);
        let height = number(self.height() + 1);
        let header = SealedHeader::seal(Header {
            deployment,
            chain: self.chain.clone(),
            height,
            time,
            previous: zero,
            validators_hash: Validators::new([self.validator.public.clone()]).hash(),
            headers_root: zero,
            transactions_root: zero,
            transactions_total: number(0),
            events_root: merkle::root(&leaves),
            events_count: number(events.len() as u64),
            state_digest: zero,
        });
        let round = number(0);
        let digest = commit_digest(deployment, &self.chain, height, round, header.id());
        let signature = self.validator.sign_digest(digest.as_bytes()).to_bytes().into();
        let kid = self.validator.public.thumbprint();
        let signatures = vec![CommitSignature { kid, signature }];
        let certificate = Certificate { height, round, block: header.id(), signatures };
        self.blocks.push(Block { header, certificate, events });
    }

    /// A block with an event that no contract told; gives its proof.
    pub(crate) fn record(&mut self, time: UnixMillis, event: EventBytes) -> Inclusion {
        self.seal(time, vec![event]);
        self.inclusion(self.height(), 0)
    }

    /// The proof of an event of a block.
    pub(crate) fn inclusion(&self, height: u64, index: usize) -> Inclusion {
        let Block { header, certificate, events } = &self.blocks[height as usize - 1];
        let leaves: Vec<Digest> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
        Inclusion {
            chain: self.chain.clone(),
            header: Bytes(header.bytes().to_vec()),
            certificate: certificate.clone(),
            event: Bytes(events[index].0.clone()),
            index: number(index as u64),
            size: number(events.len() as u64),
            path: merkle::path(&leaves, index),
        }
    }

    pub(crate) fn events(&self, height: u64) -> &[EventBytes] {
        &self.blocks[height as usize - 1].events
    }

    /// All events since genesis, each as text.
    pub(crate) fn story(&self) -> Vec<String> {
        let events = self.blocks.iter().flat_map(|block| &block.events);
        events.map(|event| String::from_utf8(event.0.clone()).unwrap()).collect()
    }

    /// The types of all events since genesis.
    pub(crate) fn types(&self) -> Vec<String> {
        let typ = |event: &String| event.split('"').nth(3).unwrap().to_owned();
        self.story().iter().map(typ).collect()
    }
}
