//! Pinning: every key of genesis must be one that this KMS generated under that name.

use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::json::Integer;
use assent_consensus::message::KeyVersion;
use assent_consensus::name::Name;
use assent_consensus::operational_key::VerificationKey;
use assent_consensus::time::UnixMillis;

use super::{AdminError, PinnedView};
use crate::audit::Entry;
use crate::pins::KeyState;
use crate::signing::KeyName;
use crate::store::{Batch, KeyRow, StoreError};

/// A genesis whose keys are all ours.
pub(super) struct Pinning {
    genesis: Genesis,
    keys: Vec<Activation>,
    unused: Vec<String>,
}

struct Activation {
    name: KeyName,
    version: KeyVersion,
    governed_by: Option<Name>,
    policy: Digest,
}

/// Checks genesis, and its keys against the table.
pub(super) fn check(bytes: &[u8], rows: &[KeyRow]) -> Result<Pinning, AdminError> {
    let genesis = Genesis::parse(bytes)?;
    let (mut keys, mut foreign) = (Vec::new(), Vec::new());
    let mut activate =
        |name: KeyName, key: &VerificationKey, governed_by: Option<&Name>, policy: Digest| match find(
            rows, &name, key,
        ) {
            Ok(row) => keys.push(Activation {
                name: row.name.clone(),
                version: row.version,
                governed_by: governed_by.cloned(),
                policy,
            }),
            Err(why) => foreign.push(format!("{name} is `{}` there, and {why}", key.thumbprint())),
        };
    for contract in genesis.contracts() {
        let governor = contract.governed_by.as_ref();
        let key = contract.key.clone().into();
        activate(KeyName::Contract(contract.name.clone()), &key, governor, contract.policy.digest());
    }
    for key in genesis.keys() {
        // Genesis was checked whole: the governor is there.
        let policy =
            genesis.contract(&key.governed_by).map_or(Digest::ZERO, |governor| governor.policy.digest());
        activate(KeyName::Operational(key.name.clone()), &key.key, Some(&key.governed_by), policy);
    }
    if !foreign.is_empty() {
        return Err(AdminError::ForeignKeys(foreign));
    }
    let is_used = |row: &&KeyRow| keys.iter().any(|key| key.name == row.name && key.version == row.version);
    let unused = rows.iter().filter(|row| !is_used(row)).map(|row| row.name.to_string()).collect();
    Ok(Pinning { genesis, keys, unused })
}

fn find<'r>(rows: &'r [KeyRow], name: &KeyName, key: &VerificationKey) -> Result<&'r KeyRow, String> {
    let named = rows.iter().find(|row| row.name == *name && row.version == KeyVersion::first());
    match named {
        Some(row) if row.public_key != *key => Err(format!("`{}` here", row.public_key.thumbprint())),
        Some(row) if row.state != KeyState::PreActivation => Err(format!("is {} here", row.state)),
        Some(row) => Ok(row),
        None => match rows.iter().find(|row| row.public_key == *key) {
            Some(row) => Err(format!("that key has another name here: it is {}", row.name)),
            None => Err("there is no such key here; `assent-kms key create` makes it".into()),
        },
    }
}

impl Pinning {
    pub(super) fn view(&self) -> PinnedView {
        PinnedView {
            deployment: self.genesis.id(),
            name: self.genesis.name().clone(),
            environment: self.genesis.environment().as_str().to_owned(),
            activated: self.keys.len(),
            unused: self.unused.clone(),
        }
    }

    pub(super) fn write(&self, batch: &mut Batch<'_>, at: UnixMillis, by: Integer) -> Result<(), StoreError> {
        batch.insert_genesis(self.genesis.bytes(), at)?;
        for key in &self.keys {
            batch.activate_key(&key.name, key.version, key.governed_by.as_ref(), &key.policy, at)?;
        }
        batch.append(&Entry::Pinned { at, by, deployment: self.genesis.id() }).map(drop)
    }
}
