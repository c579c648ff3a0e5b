//! The second verifier and ours agree: on bundles made by others, and on those of the real programs and whatever can be made
//! of them.

mod changes;
mod scenes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use assent_consensus::bundle::{self, Bundle};
use assent_consensus::genesis::Genesis;
use assent_consensus::json;
use assent_tests::deployment::Deployment;
use assent_tests::second_verifier;
use serde::Deserialize;

use changes::{Changed, by_parts_of, in_one_character, in_order, padded_by, write};

#[derive(Deserialize)]
struct Vector {
    name: String,
    genesis: String,
    bundle: String,
    valid: bool,
}

/// Invalid bundles that are found out only by counting ballots, which the second verifier does not.
const COUNTED: [&str; 3] = ["decided-late", "outcome-changed", "window-cut"];

#[test]
fn every_bundle_by_others_is_judged_as_it_should_be() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let vectors = fs::read(directory.join("vectors.json")).expect("the vectors are there");
    let vectors: Vec<Vector> = serde_json::from_slice(&vectors).expect("they are JSON");
    assert!(COUNTED.iter().all(|name| vectors.iter().any(|vector| vector.name == *name && !vector.valid)));
    let mut by_genesis = BTreeMap::<_, Vec<_>>::new();
    for vector in &vectors {
        by_genesis.entry(&vector.genesis).or_default().push(vector);
    }
    for (genesis, vectors) in by_genesis {
        let bundles: Vec<PathBuf> = vectors.iter().map(|vector| directory.join(&vector.bundle)).collect();
        let verdicts = second_verifier::verdicts(&directory.join(genesis), &bundles).expect("it runs");
        for (vector, verdict) in vectors.iter().zip(verdicts) {
            let expected = vector.valid || COUNTED.contains(&vector.name.as_str());
            assert_eq!(verdict.is_ok(), expected, "{}: {verdict:?}", vector.name);
        }
    }
}

#[test]
fn every_history_of_the_real_programs_is_judged_alike_and_so_is_all_that_is_made_of_it() {
    let deployment = Deployment::start().unwrap_or_else(|error| panic!("{error:#}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let played = runtime.expect("a runtime").block_on(scenes::play(&deployment));
    let scenes: Vec<Changed> = played
        .unwrap_or_else(|error| panic!("{error:#}"))
        .into_iter()
        .map(|(name, bundle)| (name.to_owned(), serde_json::from_slice(&bundle).expect("JSON")))
        .collect();
    assert_eq!(valid(&deployment, &scenes), scenes.len());
    let longest =
        |chain: &str| scenes.iter().map(|(_, bundle)| bundle[chain].as_array().map_or(0, Vec::len)).max();
    assert_eq!(
        ["history", "contract_transitions", "key_transitions"].map(longest),
        [Some(4), Some(1), Some(2)]
    );

    for (place, (name, bundle)) in scenes.iter().enumerate() {
        let mut changed = in_one_character(bundle);
        changed.extend(in_order(bundle));
        for step in [1, 4] {
            let (other, its) = &scenes[(place + step) % scenes.len()];
            changed.extend(by_parts_of(its, other, bundle));
        }
        for (other, its) in scenes.iter().filter(|(other, _)| other != name) {
            changed.extend(padded_by(its, other, bundle));
        }
        changed.iter_mut().for_each(|(what, _)| what.insert_str(0, &format!("`{name}`, ")));
        assert_eq!(valid(&deployment, &changed), 0);
    }
}

/// How many of these both find valid, who must agree on each.
fn valid(deployment: &Deployment, bundles: &[Changed]) -> usize {
    let directory = tempfile::tempdir_in(deployment.directory()).expect("writable");
    let texts: Vec<String> = bundles.iter().map(|(_, bundle)| write(bundle)).collect();
    let files = texts.iter().enumerate().map(|(place, text)| {
        let file = directory.path().join(place.to_string());
        fs::write(&file, text).expect("writable");
        file
    });
    let files: Vec<PathBuf> = files.collect();
    let (ours, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| second_verifier::verdicts(&deployment.genesis_file(), &files));
        let ours: Vec<_> = texts.iter().map(|text| judge(deployment.desk().genesis(), text)).collect();
        (ours, second.join().expect("it does not panic").expect("it runs"))
    });
    let verdicts = || bundles.iter().zip(ours.iter().zip(&second));
    let quarrels: Vec<_> = verdicts().filter(|(_, (ours, second))| ours.is_ok() != second.is_ok()).collect();
    let told = quarrels.iter().map(|((what, _), verdicts)| format!("{what}: {verdicts:?}"));
    assert!(quarrels.is_empty(), "ours and the second: {:#?}", told.collect::<Vec<_>>());
    ours.iter().filter(|ours| ours.is_ok()).count()
}

fn judge(genesis: &Genesis, bundle: &str) -> Result<(), String> {
    let bundle: Bundle = json::read(bundle.as_bytes()).map_err(|error| error.to_string())?;
    bundle::verify(genesis, &bundle, &BTreeSet::new()).map_err(|error| error.to_string())?;
    Ok(())
}
