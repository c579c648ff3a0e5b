//! Files that are not this ledger, and disks that do not take what is written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use assent_consensus::digest::Digest;
use assent_consensus::message::DeploymentId;

use crate::testing::{Clock, Key, Words, chain, deployment, open, start, transaction, validators};
use crate::{Ledger, LedgerError, Solo, SubmitError};

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(LedgerError::InUse { .. })));
    drop(first);
    open(&path).unwrap();
}

#[test]
fn a_ledger_of_another_deployment_or_chain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    drop(open(&path).unwrap());
    let open_as = |deployment, chain: &str| {
        Ledger::open(&path, deployment, chain.parse().unwrap(), validators(), Arc::new(Words))
    };
    let other = DeploymentId(Digest::of(b"another"));
    assert!(matches!(open_as(other, "main"), Err(LedgerError::OtherDeployment { .. })));
    assert!(matches!(open_as(deployment(), "other"), Err(LedgerError::OtherChain { .. })));
    open_as(deployment(), "main").unwrap();
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        assert!(matches!(open(path), Err(LedgerError::NotALedger { .. })), "{}", path.display());
        assert!(!path.with_extension("ledger.new").exists());
    };
    for (name, content) in [("empty.ledger", ""), ("text.ledger", "these are more than sixteen bytes")] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        refused(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    let path = folder.path().join("folder.ledger");
    fs::create_dir(&path).unwrap();
    refused(&path);
    let path = folder.path().join("other.ledger");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
    refused(&path);
    let path = folder.path().join("gone.ledger");
    fs::write(folder.path().join("gone.ledger-wal"), "what was written last").unwrap();
    refused(&path);
    assert!(!path.exists());
    let path = folder.path().join("no/such/folder.ledger");
    assert!(matches!(open(&path), Err(LedgerError::CannotOpen { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    drop(open(&path).unwrap());
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(open(&path), Err(LedgerError::TooNew { found: 99, .. })));
}

#[test]
fn a_ledger_cut_in_half_is_refused_or_reported_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let clock = Clock::default();
    let solo = start(&path, &clock);
    for i in 0..20 {
        solo.submit(vec![transaction(&format!("put k{i} {}", "v".repeat(3000)))]).for_each(drop);
    }
    solo.stop();
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let damaged = |error: &LedgerError| matches!(error, LedgerError::Damaged { .. });
    let checked = Ledger::check(&path, deployment(), chain(), validators(), Arc::new(Words), |_, _, _| ());
    assert!(damaged(&checked.unwrap_err()));
    match open(&path) {
        Err(error) => assert!(damaged(&error), "{error}"),
        Ok(ledger) => {
            let solo = Solo::start(ledger, Arc::new(Key::new(1)), clock.read()).unwrap();
            let answer =
                solo.submit(vec![transaction("put k0 new"), transaction("put more")]).last().unwrap();
            assert!(matches!(&answer, Err(SubmitError::Store(error)) if damaged(error)), "{answer:?}");
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), length / 2);
}

#[test]
fn only_the_validator_may_make_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder.path().join("main.ledger")).unwrap();
    let result = Solo::start(ledger, Arc::new(Key::new(2)), Clock::default().read());
    assert!(matches!(result.map(drop), Err(LedgerError::NotTheValidator(_))));
}
