//! A ledger that says whatever a test puts into it, with proofs as a real one gives them.

use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{
    Certificate, CommitSignature, EventProof, Finality, Header, Inclusion, SealedHeader, TrustedHeader,
    Validators, commit_digest,
};
use assent_consensus::json::Integer;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::{Jws, Payload, Unsigned};
use assent_consensus::merkle;
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as P256Signature, SigningKey};

/// A key pair in memory.
#[derive(Clone)]
pub(super) struct Key {
    secret: SigningKey,
    pub(super) public: PublicKey,
}

impl Key {
    pub(super) fn new(seed: u8) -> Key {
        let secret = SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        Key { public: PublicKey::from_point(point.as_bytes().try_into().unwrap()).unwrap(), secret }
    }

    pub(super) fn sign_digest(&self, digest: &Digest) -> Signature {
        let signature: P256Signature = self.secret.sign_prehash(digest.as_bytes()).unwrap();
        signature.to_bytes().into()
    }

    pub(super) fn sign<P: Payload>(&self, payload: P) -> Jws {
        let unsigned = Unsigned::new(self.public.thumbprint(), payload);
        let signature = self.sign_digest(&unsigned.digest());
        unsigned.attach(&signature, &self.public).unwrap().jws().clone()
    }

    pub(super) fn toml(&self) -> String {
        let point = self.public.point();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        format!(r#"{{ kty = "EC", crv = "P-256", x = "{x}", y = "{y}" }}"#)
    }
}

fn encode(bytes: &[u8]) -> String {
    assent_consensus::encoding::encode(bytes)
}

pub(super) fn number(value: u64) -> Integer {
    Integer::new(value).unwrap()
}

#[derive(Clone)]
struct Block {
    header: SealedHeader,
    certificate: Certificate,
    events: Vec<EventBytes>,
}

/// A ledger of one validator.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) deployment: DeploymentId,
    pub(super) chain: Name,
    pub(super) validator: Key,
    blocks: Vec<Block>,
    /// What its validator says of the time, but for the height.
    time: u64,
}

/// Where an event is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    height: usize,
    index: usize,
}

impl Log {
    pub(super) fn new(deployment: DeploymentId, chain: &Name, validator: Key) -> Log {
        Log { deployment, chain: chain.clone(), validator, blocks: Vec::new(), time: 0 }
    }

    /// Blocks are of this time from now on.
    pub(super) fn set_time(&mut self, time: u64) {
        self.time = time;
    }

    pub(super) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// A block with this event, and one before and after it.
    pub(super) fn append(&mut self, event: EventBytes) -> Place {
        let other = EventBytes(b"{}".to_vec());
        self.block(vec![other.clone(), event, other]);
        Place { height: self.blocks.len(), index: 1 }
    }

    fn block(&mut self, events: Vec<EventBytes>) {
        let leaves: Vec<Digest> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
        let height = number(self.height() + 1);
        let header = SealedHeader::seal(Header {
            deployment: self.deployment,
            chain: self.chain.clone(),
            height,
            time: UnixMillis::new(self.time + height.get()),
            previous: self.blocks.last().map_or(self.deployment.0, |block| block.header.id()),
            validators_hash: Validators::new([self.validator.public.clone()]).hash(),
            headers_root: merkle::root(&self.ids(self.blocks.len())),
            transactions_root: Digest::ZERO,
            transactions_total: number(0),
            events_root: merkle::root(&leaves),
            events_count: number(events.len() as u64),
            state_digest: Digest::ZERO,
        });
        let certificate = self.certificate(&header, &self.validator);
        self.blocks.push(Block { header, certificate, events });
    }

    pub(super) fn certificate(&self, header: &SealedHeader, validator: &Key) -> Certificate {
        let (height, round) = (header.header().height, number(0));
        let digest = commit_digest(self.deployment, &self.chain, height, round, header.id());
        let signature = validator.sign_digest(&digest);
        let signatures = vec![CommitSignature { kid: validator.public.thumbprint(), signature }];
        Certificate { height, round, block: header.id(), signatures }
    }

    /// The leaves of the tree over the first `count` block ids.
    fn ids(&self, count: usize) -> Vec<Digest> {
        self.blocks[..count].iter().map(|block| merkle::leaf_hash(block.header.id().as_bytes())).collect()
    }

    /// The path from the header of a height to the newest one.
    fn ancestry(&self, height: usize) -> Vec<Digest> {
        let newest = self.blocks.len();
        if height == newest { Vec::new() } else { merkle::path(&self.ids(newest - 1), height - 1) }
    }

    pub(super) fn newest(&self) -> &SealedHeader {
        &self.blocks[self.blocks.len() - 1].header
    }

    pub(super) fn trusted(&self) -> TrustedHeader {
        TrustedHeader { height: number(self.height()), id: self.newest().id() }
    }

    /// The newest header, tied to the one of the height `trusted`.
    pub(super) fn finality(&self, trusted: Option<u64>) -> Finality {
        let newest = &self.blocks[self.blocks.len() - 1];
        Finality {
            chain: self.chain.clone(),
            header: Bytes(newest.header.bytes().to_vec()),
            certificate: newest.certificate.clone(),
            consistency: trusted.map_or_else(Vec::new, |height| self.ancestry(height as usize)),
        }
    }

    /// The proof of an event against the newest header.
    pub(super) fn proof(&self, place: Place) -> EventProof {
        let Block { header, events, .. } = &self.blocks[place.height - 1];
        let leaves: Vec<Digest> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
        EventProof {
            header: Bytes(header.bytes().to_vec()),
            ancestry: self.ancestry(place.height),
            event: Bytes(events[place.index].0.clone()),
            index: number(place.index as u64),
            size: number(events.len() as u64),
            path: merkle::path(&leaves, place.index),
        }
    }

    /// The proof of an event that needs nothing but validators' keys.
    pub(super) fn inclusion(&self, place: Place) -> Inclusion {
        let EventProof { header, event, index, size, path, .. } = self.proof(place);
        let certificate = self.blocks[place.height - 1].certificate.clone();
        Inclusion { chain: self.chain.clone(), header, certificate, event, index, size, path }
    }
}
