//! The second verifier and ours agree wherever signatures alone decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assent_tests::second_verifier;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    name: String,
    genesis: String,
    bundle: String,
    valid: bool,
}

/// Invalid bundles in which a signature is missing, wrong, or not by the one whose it must be.
const BADLY_SIGNED: [&str; 10] = [
    "alg-none",
    "certificate-by-stranger",
    "certificate-empty",
    "decision-of-another-request",
    "decision-signature",
    "other-genesis",
    "result-by-strangers-key",
    "result-for-other-file",
    "result-without-approval",
    "typ-confusion",
];

#[test]
fn every_signature_is_judged_as_a_stock_jose_library_judges_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let vectors = std::fs::read(directory.join("vectors.json")).expect("the vectors are there");
    let vectors: Vec<Vector> = serde_json::from_slice(&vectors).expect("they are JSON");
    assert!(
        BADLY_SIGNED.iter().all(|name| vectors.iter().any(|vector| vector.name == *name && !vector.valid))
    );
    let mut by_genesis = BTreeMap::<_, Vec<_>>::new();
    for vector in &vectors {
        by_genesis.entry(&vector.genesis).or_default().push(vector);
    }
    for (genesis, vectors) in by_genesis {
        let bundles: Vec<PathBuf> = vectors.iter().map(|vector| directory.join(&vector.bundle)).collect();
        let verdicts = second_verifier::verdicts(&directory.join(genesis), &bundles).expect("it runs");
        for (vector, verdict) in vectors.iter().zip(verdicts) {
            let expected = vector.valid || !BADLY_SIGNED.contains(&vector.name.as_str());
            assert_eq!(verdict.is_ok(), expected, "{}: {verdict:?}", vector.name);
        }
    }
}
