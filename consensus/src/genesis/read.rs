//! Each part of a genesis file, read: documents of policies and processes, keys and what vouches for them.

use std::sync::Arc;

use super::error::wrong;
use super::{
    Chain, ChainDocument, ContractDocument, ContractEntry, GenesisError, KeyDocument, KeyEntry, LIST_LIMIT,
    Place, ProcessDocument, ProcessEntry,
};
use crate::encoding::Bytes;
use crate::header::Validators;
use crate::jwk::PublicKey;
use crate::name::Name;
use crate::operational_key::VerificationKey;
use crate::policy::Policy;
use crate::process::Process;

pub(super) fn read_chains(documents: Vec<ChainDocument>) -> Result<Vec<Chain>, GenesisError> {
    check_names("chains", documents.iter().map(|chain| &chain.id))?;
    let read = |document: ChainDocument| {
        let place = Place::Chain(document.id.clone());
        check_length(&place, "validators", document.validators.len())?;
        let mut kids: Vec<_> = document.validators.iter().map(PublicKey::thumbprint).collect();
        kids.sort_unstable();
        if let Some(twice) = kids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(wrong(place, format!("the validator `{}` is listed twice", twice[0])));
        }
        Ok(Chain { id: document.id, validators: Validators::new(document.validators) })
    };
    documents.into_iter().map(read).collect()
}

pub(super) fn read_contracts(documents: Vec<ContractDocument>) -> Result<Vec<ContractEntry>, GenesisError> {
    check_names("contracts", documents.iter().map(|contract| &contract.name))?;
    let read = |document: ContractDocument| {
        let ContractDocument { name, chain, governed_by, policy, key, attestation } = document;
        let place = Place::Contract(name.clone());
        let policy = Policy::parse(&policy.0)
            .map_err(|source| GenesisError::Policy { contract: name.clone(), source })?;
        if *policy.name() != name {
            return Err(wrong(
                place,
                format!("its policy is named `{}`; both must be the same", policy.name()),
            ));
        }
        let attestation = read_attestation(&place, attestation)?;
        Ok(ContractEntry { name, chain, governed_by, policy: Arc::new(policy), key, attestation })
    };
    documents.into_iter().map(read).collect()
}

pub(super) fn read_processes(documents: Vec<ProcessDocument>) -> Result<Vec<ProcessEntry>, GenesisError> {
    check_names("processes", documents.iter().map(|process| &process.name))?;
    let read = |document: ProcessDocument| {
        let ProcessDocument { name, chain, governed_by, definition } = document;
        let definition = Process::parse(&definition.0)
            .map_err(|source| GenesisError::Process { process: name.clone(), source })?;
        if *definition.name() != name {
            let why = format!("its definition is named `{}`; both must be the same", definition.name());
            return Err(wrong(Place::Process(name), why));
        }
        Ok(ProcessEntry { name, chain, governed_by, definition: Arc::new(definition) })
    };
    documents.into_iter().map(read).collect()
}

pub(super) fn read_keys(documents: Vec<KeyDocument>) -> Result<Vec<KeyEntry>, GenesisError> {
    check_names("keys", documents.iter().map(|key| &key.name))?;
    let read = |document: KeyDocument| {
        let KeyDocument { name, governed_by, alg, format, key, attestation, adopted } = document;
        let place = Place::Key(name.clone());
        let attestation = read_attestation(&place, attestation)?;
        let key = VerificationKey::new(alg, key).map_err(|error| wrong(place, error.to_string()))?;
        Ok(KeyEntry { name, governed_by, format, key, attestation, adopted })
    };
    documents.into_iter().map(read).collect()
}

/// Checks that an attestation is a list of DER sequences; what the certificates say is for whoever pins the keys.
fn read_attestation(place: &Place, attestation: Option<Vec<Bytes>>) -> Result<Vec<Bytes>, GenesisError> {
    let Some(certificates) = attestation else { return Ok(Vec::new()) };
    check_length(place, "attestation", certificates.len())?;
    match certificates.iter().all(|certificate| is_der_sequence(&certificate.0)) {
        true => Ok(certificates),
        false => Err(wrong(place.clone(), "`attestation` must be X.509 certificates in DER, leaf first")),
    }
}

/// Whether the bytes are one DER SEQUENCE (X.690 section 8.1.3) and nothing more.
fn is_der_sequence(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x82, high, low, rest @ ..] => {
            let length = usize::from(*high) << 8 | usize::from(*low);
            length == rest.len() && length > 0xff
        }
        [0x30, 0x81, length, rest @ ..] => usize::from(*length) == rest.len() && *length >= 0x80,
        [0x30, length @ 1..=0x7f, rest @ ..] => usize::from(*length) == rest.len(),
        _ => false,
    }
}

fn check_names<'n>(list: &str, names: impl ExactSizeIterator<Item = &'n Name>) -> Result<(), GenesisError> {
    if names.len() > LIST_LIMIT {
        return Err(wrong(Place::File, format!("`{list}` must have at most {LIST_LIMIT} entries")));
    }
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(wrong(Place::File, format!("`{list}` has the name `{}` twice", twice[0]))),
        None => Ok(()),
    }
}

pub(super) fn check_length(place: &Place, list: &str, length: usize) -> Result<(), GenesisError> {
    match length {
        1..=LIST_LIMIT => Ok(()),
        _ => Err(wrong(place.clone(), format!("`{list}` must have 1 to {LIST_LIMIT} entries, not {length}"))),
    }
}
