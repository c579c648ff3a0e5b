//! A writer that is killed: what it had acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use assent_consensus::digest::Digest;

use crate::Ledger;
use crate::testing::{Clock, Words, chain, deployment, open, start, transaction, validators};

/// Names the file for the process that is to be killed.
const FILE: &str = "ASSENT_LEDGER_CRASH_FILE";
/// How many times a writer is killed.
const KILLS: usize = 12;

/// Not a test by itself: the process that [`what_was_acknowledged_survives_a_kill`] kills.
#[test]
fn writer_to_be_killed() {
    let Ok(path) = std::env::var(FILE) else { return };
    let solo = start(Path::new(&path), &Clock::default());
    let generation = solo.reader().tip().unwrap().map_or(0, |(header, _)| header.header().height.get());
    for i in 0u64.. {
        let batch =
            (0..=i % 7).map(|j| transaction(&format!("put k{} {generation}-{i}-{j}", i % 50))).collect();
        for answer in solo.submit(batch) {
            // One write for a line, so that a kill cuts no line that is then believed.
            let line = format!("\nacknowledged {} .\n", answer.unwrap().transaction);
            std::io::stdout().write_all(line.as_bytes()).unwrap();
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let mut acknowledged: Vec<Digest> = Vec::new();
    for kill in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::writer_to_be_killed", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        // Killed after a number of answers, in the middle of whatever it does by then.
        for line in lines.by_ref().take(40 + kill * 37) {
            acknowledged.extend(digest(&line.unwrap()));
        }
        writer.kill().unwrap();
        for line in lines {
            acknowledged.extend(line.ok().as_deref().and_then(digest));
        }
        writer.wait().unwrap();
        let reader = open(&path).unwrap().reader();
        for digest in &acknowledged {
            assert!(reader.transaction(*digest).unwrap().is_some(), "{digest} after kill {kill}");
        }
    }
    assert!(acknowledged.len() > KILLS * 10, "{}", acknowledged.len());
    let checked =
        Ledger::check(&path, deployment(), chain(), validators(), Arc::new(Words), |_, _, _| ()).unwrap();
    assert!(checked.transactions >= acknowledged.len() as u64);
}

fn digest(line: &str) -> Option<Digest> {
    line.strip_prefix("acknowledged ")?.strip_suffix(" .")?.parse().ok()
}
