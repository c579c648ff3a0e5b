//! Bundles made by another implementation, each with its verdict (`tests/vectors/`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use assent_consensus::bundle::{self, Bundle, VerifiedBundle};
use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::json;
use assent_consensus::subject::Subject;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    genesis: String,
    bundle: String,
    file: String,
    valid: bool,
    why: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn judge<'g>(genesis: &'g Genesis, bundle: &[u8], file: &[u8]) -> Result<VerifiedBundle<'g>, String> {
    let bundle: Bundle = json::read(bundle).map_err(|error| format!("malformed: {error}"))?;
    let proof = bundle::verify(genesis, &bundle, &BTreeSet::new())
        .map_err(|error| format!("{}: {error}", error.reason()))?;
    match proof.subject() {
        Subject::Sign { digest, size, .. }
            if *digest == Digest::of(file) && size.get() == file.len() as u64 =>
        {
            Ok(proof)
        }
        _ => Err("other-file: it is about another file".into()),
    }
}

/// The reason for which each wrong one is refused: the one that the vector is about, and not some other.
const REASONS: &[(&str, &str)] = &[
    ("ballots-swapped", "out-of-order"),
    ("ballot-missing", "too-few-votes"),
    ("ballot-time-changed", "ballots-differ"),
    ("outcome-changed", "too-few-votes"),
    ("decided-late", "decided-differs"),
    ("window-cut", "decided-differs"),
    ("decision-of-another-request", "other-request"),
    ("result-for-other-file", "bad-signature"),
    ("result-by-strangers-key", "other-key-version"),
    ("result-without-approval", "not-approved"),
    ("inclusion-index", "not-in-log"),
    ("inclusion-size", "not-in-log"),
    ("inclusion-of-another-event", "other-record"),
    ("certificate-empty", "not-final"),
    ("certificate-by-stranger", "unknown-validator"),
    ("decision-signature", "bad-signature"),
    ("alg-none", "malformed"),
    ("header-order", "malformed"),
    ("header-extra", "malformed"),
    ("typ-confusion", "wrong-typ"),
    ("unknown-member", "malformed"),
    ("other-genesis", "other-deployment"),
];

#[test]
fn every_bundle_made_elsewhere_gets_its_verdict_for_its_own_reason() {
    let vectors: Vec<Vector> = serde_json::from_slice(&read("vectors.json")).expect("a list of vectors");
    let mut reasons: BTreeMap<&str, &str> = REASONS.iter().copied().collect();
    assert!(vectors.len() >= 28, "some vectors are gone");
    for Vector { name, genesis, bundle, file, valid, why } in &vectors {
        let genesis = Genesis::parse(&read(genesis)).expect("every genesis of the vectors is good");
        let verdict = judge(&genesis, &read(bundle), &read(file));
        match (valid, &verdict) {
            (true, Ok(_)) => {}
            (false, Err(found)) => {
                let expected = reasons.remove(name.as_str()).unwrap_or_default();
                let reason = found.split(':').next();
                assert_eq!(reason, Some(expected), "{name} ({why}): {found}");
            }
            (true, Err(found)) => panic!("{name} is valid ({why}), and was refused: {found}"),
            (false, Ok(_)) => panic!("{name} is wrong ({why}), and was believed"),
        }
    }
    assert!(reasons.is_empty(), "these vectors are gone: {reasons:?}");
}
