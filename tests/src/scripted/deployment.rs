//! A deployment: genesis from public keys that the real KMS printed, everybody's keys, two logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use assent_consensus::duty::{Duty, DutyBatch, TrustedHeaders};
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{
    ChainDocument, ContractDocument, Genesis, GenesisDocument, KeyDocument, ProcessDocument,
};
use assent_consensus::header::TrustedHeader;
use assent_consensus::json::Integer;
use assent_consensus::jwk::PublicKey;
use assent_consensus::name::Name;
use assent_consensus::operational_key::Algorithm;
use assent_consensus::subject::SignatureFormat;

use super::{Key, Log, name, now};

/// How many voters there are: `v0` and so on.
pub const VOTERS: u8 = 100;

/// A contract that is to be: its rule, and the key that it governs, if any.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The contract's name. The process that asks it has the same.
    pub contract: &'static str,
    /// The rule, in TOML, over the group `all`.
    pub rule: &'static str,
    /// How many voters it has: `v0` and so on, all in the group `all`.
    pub voters: u8,
    /// For how long an approved action may still be done.
    pub act_within: &'static str,
    /// The operational key that it governs. The process then asks to sign; without one, to record.
    pub key: Option<(&'static str, SignatureFormat)>,
}

/// Public keys that the KMS printed, by the names of contracts and of operational keys.
#[derive(Debug, Default)]
pub struct DeploymentKeys {
    /// By contract.
    pub contracts: BTreeMap<&'static str, PublicKey>,
    /// By operational key.
    pub operational: BTreeMap<&'static str, PublicKey>,
}

/// All that a hostile node, its requesters and its voters have.
pub struct Deployment {
    /// What is pinned.
    pub genesis: Arc<Genesis>,
    /// The process log.
    pub processes: Log,
    /// The consensus log.
    pub consensus: Log,
    /// May start every case.
    pub requester: Key,
    /// May start every case too.
    pub other_requester: Key,
    /// `v0` and so on.
    pub voters: Vec<Key>,
    /// Has no role.
    pub stranger: Key,
    /// What the KMS is known to trust.
    pub trusted: BTreeMap<Name, TrustedHeader>,
}

impl Deployment {
    /// Makes genesis and everything else.
    ///
    /// # Errors
    /// A key is missing, or genesis is refused.
    pub fn new(plans: &[Plan], keys: &DeploymentKeys) -> Result<Deployment> {
        let (requester, other_requester) = (Key::new(1), Key::new(2));
        let validators = [Key::new(3), Key::new(4)];
        let voters: Vec<Key> = (0..VOTERS).map(|voter| Key::new(10 + voter)).collect();
        let mut document = GenesisDocument {
            version: Integer::saturating(1),
            name: name("scripted"),
            environment: "test".parse()?,
            created: now(),
            chains: ["process", "consensus"]
                .into_iter()
                .zip(&validators)
                .map(|(id, key)| ChainDocument { id: name(id), validators: vec![key.public.clone()] })
                .collect(),
            contracts: Vec::new(),
            processes: Vec::new(),
            keys: Vec::new(),
            recovery: None,
        };
        for plan in plans {
            let contract = name(plan.contract);
            let key = |keys: &BTreeMap<_, PublicKey>, of| keys.get(of).cloned();
            document.contracts.push(ContractDocument {
                name: contract.clone(),
                chain: name("consensus"),
                governed_by: None,
                policy: Bytes(plan.policy(&voters).into_bytes()),
                key: key(&keys.contracts, plan.contract).context("a contract has no key")?,
                attestation: None,
            });
            document.processes.push(ProcessDocument {
                name: contract.clone(),
                chain: name("process"),
                governed_by: contract.clone(),
                definition: Bytes(plan.definition(&[&requester, &other_requester]).into_bytes()),
            });
            if let Some((operational, format)) = plan.key {
                document.keys.push(KeyDocument {
                    name: name(operational),
                    governed_by: contract,
                    alg: Algorithm::ES256,
                    format,
                    key: key(&keys.operational, operational).context("an operational key is missing")?.into(),
                    attestation: None,
                    adopted: false,
                });
            }
        }
        let genesis = Arc::new(document.to_genesis()?);
        let [process_validator, consensus_validator] = validators;
        let mut deployment = Deployment {
            processes: Log::new(genesis.id(), name("process"), process_validator),
            consensus: Log::new(genesis.id(), name("consensus"), consensus_validator),
            genesis,
            requester,
            other_requester,
            voters,
            stranger: Key::new(250),
            trusted: BTreeMap::new(),
        };
        // A header can be handed over from the beginning.
        deployment.processes.tell(now(), Vec::new());
        deployment.consensus.tell(now(), Vec::new());
        Ok(deployment)
    }

    /// Remembers what the KMS trusts.
    pub fn know(&mut self, trusted: TrustedHeaders) {
        self.trusted = trusted.chains.into_iter().map(|chain| (chain.chain, chain.trusted)).collect();
    }

    /// Duties, proven against the newest headers of both logs.
    pub fn batch(&self, duties: Vec<Duty>) -> DutyBatch {
        let finality =
            [&self.processes, &self.consensus].map(|log| log.finality(self.trusted.get(&log.chain))).into();
        DutyBatch { finality, duties }
    }
}

impl Plan {
    /// The policy.
    fn policy(&self, voters: &[Key]) -> String {
        let kind = if self.key.is_some() { "sign" } else { "record" };
        let head = format!(
            "name = \"{}\"\nkinds = [\"{kind}\"]\ndeadline = \"24h\"\nact_within = \"{}\"\nrule = {}\n",
            self.contract, self.act_within, self.rule
        );
        let voter = |(place, key): (usize, &Key)| {
            format!("[[voter]]\nname = \"v{place}\"\nkey = {}\ngroups = [\"all\"]\n", key.toml())
        };
        voters.iter().take(self.voters.into()).enumerate().map(voter).fold(head, |text, voter| text + &voter)
    }

    /// The process. The key to sign with is the requester's word, so that he can name one that is not his contract's.
    fn definition(&self, requesters: &[&Key]) -> String {
        let mut text = format!(
            "name = \"{}\"\ninput = {{ key = \"text\", artifact = \"digest\", name = \"text\", size = \"integer\" }}\n",
            self.contract
        );
        for (place, key) in requesters.iter().enumerate() {
            text += &format!("[[requester]]\nname = \"r{place}\"\nkey = {}\n", key.toml());
        }
        text += &format!("[[step]]\nname = \"approval\"\nask = \"{}\"\n", self.contract);
        text += match self.key {
            Some(_) => {
                "subject = { kind = \"sign\", key = \"{key}\", name = \"{name}\", digest = \"{artifact}\", \
                 size = \"{size}\" }\n[[step]]\nname = \"signature\"\nact = \"approval\"\n"
            }
            None => "subject = { kind = \"record\", title = \"{name}\", digest = \"{artifact}\" }\n",
        };
        text
    }
}
