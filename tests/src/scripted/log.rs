//! A log that holds whatever it is told: blocks of events, headers, certificates, proofs.

use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::EventBytes;
use assent_consensus::header::{
    Certificate, CommitSignature, EventProof, Finality, Header, Inclusion, SealedHeader, TrustedHeader,
    Validators, commit_digest,
};
use assent_consensus::json::Integer;
use assent_consensus::merkle::{self, Frontier};
use assent_consensus::message::DeploymentId;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;

use super::Key;

/// How many events a block has if there are many, unless a test wants others.
const BLOCK_EVENTS: usize = 64;

/// One log with its single validator.
pub struct Log {
    deployment: DeploymentId,
    /// Its name.
    pub chain: Name,
    /// Who signs its blocks.
    pub validator: Key,
    /// How many events a block has if there are many.
    pub block_events: usize,
    blocks: Vec<Block>,
    ids: Vec<Digest>,
    frontier: Frontier,
}

struct Block {
    header: SealedHeader,
    certificate: Certificate,
    events: Vec<EventBytes>,
    leaves: Vec<Digest>,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The block, from 1.
    pub height: u64,
    /// Within the block, from 0.
    pub index: usize,
}

impl Log {
    /// An empty log.
    pub fn new(deployment: DeploymentId, chain: Name, validator: Key) -> Log {
        let (blocks, ids, frontier) = (Vec::new(), Vec::new(), Frontier::default());
        Log { deployment, chain, validator, block_events: BLOCK_EVENTS, blocks, ids, frontier }
    }

    /// The newest block's height; 0 if there is none.
    pub fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The newest header, as the KMS trusts it once it has seen it.
    ///
    /// # Panics
    /// If there is no block.
    pub fn tip(&self) -> TrustedHeader {
        TrustedHeader {
            height: Integer::saturating(self.height()),
            id: self.block(self.height()).header.id(),
        }
    }

    /// Lets go of the events of all blocks but the newest `kept`: nothing is proven of them any more.
    pub fn forget_events(&mut self, kept: usize) {
        let old = self.blocks.len().saturating_sub(kept);
        for block in self.blocks[..old].iter_mut().rev().take_while(|block| !block.events.is_empty()) {
            (block.events, block.leaves) = (Vec::new(), Vec::new());
        }
    }

    /// Makes a block of these events, and says where each is.
    pub fn tell(&mut self, time: UnixMillis, events: Vec<EventBytes>) -> Vec<Place> {
        let leaves: Vec<Digest> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
        let height = self.height() + 1;
        let header = SealedHeader::seal(Header {
            deployment: self.deployment,
            chain: self.chain.clone(),
            height: Integer::saturating(height),
            time,
            previous: self.blocks.last().map_or(self.deployment.0, |block| block.header.id()),
            validators_hash: Validators::new([self.validator.public.clone()]).hash(),
            headers_root: self.frontier.root(),
            transactions_root: merkle::root(&[]),
            transactions_total: Integer::saturating(0),
            events_root: merkle::root(&leaves),
            events_count: Integer::saturating(events.len() as u64),
            state_digest: Digest::ZERO,
        });
        let id = merkle::leaf_hash(header.id().as_bytes());
        self.ids.push(id);
        self.frontier.push(id, |_, _, _| {});
        let certificate = certificate(&self.validator, &header);
        let places = (0..events.len()).map(|index| Place { height, index }).collect();
        self.blocks.push(Block { header, certificate, events, leaves });
        places
    }

    /// Makes as many blocks of these events as a busy ledger would, and says where each is.
    pub fn tell_all(&mut self, time: UnixMillis, events: Vec<EventBytes>) -> Vec<Place> {
        let blocks: Vec<Vec<EventBytes>> =
            events.chunks(self.block_events).map(<[EventBytes]>::to_vec).collect();
        blocks.into_iter().flat_map(|events| self.tell(time, events)).collect()
    }

    /// The newest header, tied to the one that is trusted.
    ///
    /// # Panics
    /// If there is no block.
    pub fn finality(&self, trusted: Option<&TrustedHeader>) -> Finality {
        let tip = self.block(self.height());
        Finality {
            chain: self.chain.clone(),
            header: Bytes(tip.header.bytes().to_vec()),
            certificate: tip.certificate.clone(),
            consistency: trusted.map_or_else(Vec::new, |trusted| self.ancestry(trusted.height.get())),
        }
    }

    /// The same with a certificate by another key.
    ///
    /// # Panics
    /// If there is no block.
    pub fn finality_by(&self, signer: &Key, trusted: Option<&TrustedHeader>) -> Finality {
        let tip = self.block(self.height());
        Finality { certificate: certificate(signer, &tip.header), ..self.finality(trusted) }
    }

    /// That an event is in the log, under the newest header.
    ///
    /// # Panics
    /// If there is no such event.
    pub fn proof(&self, Place { height, index }: Place) -> EventProof {
        let block = self.block(height);
        EventProof {
            header: Bytes(block.header.bytes().to_vec()),
            ancestry: self.ancestry(height),
            event: Bytes(block.events[index].0.clone()),
            index: Integer::saturating(index as u64),
            size: Integer::saturating(block.events.len() as u64),
            path: merkle::path(&block.leaves, index),
        }
    }

    /// That an event is in the log, by the certificate of its own block.
    ///
    /// # Panics
    /// If there is no such event.
    pub fn inclusion(&self, Place { height, index }: Place) -> Inclusion {
        let block = self.block(height);
        Inclusion {
            chain: self.chain.clone(),
            header: Bytes(block.header.bytes().to_vec()),
            certificate: block.certificate.clone(),
            event: Bytes(block.events[index].0.clone()),
            index: Integer::saturating(index as u64),
            size: Integer::saturating(block.events.len() as u64),
            path: merkle::path(&block.leaves, index),
        }
    }

    fn ancestry(&self, earlier: u64) -> Vec<Digest> {
        let later = self.height();
        match usize::try_from(earlier - 1) {
            Ok(index) if earlier < later => merkle::path(&self.ids[..self.ids.len() - 1], index),
            _ => Vec::new(),
        }
    }

    fn block(&self, height: u64) -> &Block {
        let index = height.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.blocks.get(index)).expect("there is such a block")
    }
}

fn certificate(signer: &Key, header: &SealedHeader) -> Certificate {
    let (round, id) = (Integer::saturating(0), header.id());
    let Header { deployment, chain, height, .. } = header.header();
    let signature = signer.sign_digest(&commit_digest(*deployment, chain, *height, round, id));
    let signatures = vec![CommitSignature { kid: signer.public.thumbprint(), signature }];
    Certificate { height: *height, round, block: id, signatures }
}
