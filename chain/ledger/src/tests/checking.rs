//! `check` finds whatever was changed in the file.

use std::path::Path;
use std::sync::Arc;

use crate::testing::{Clock, Words, chain, deployment, start, transaction, validators};
use crate::{Checked, Ledger, LedgerError};

fn check(path: &Path) -> Result<Checked, LedgerError> {
    Ledger::check(path, deployment(), chain(), validators(), Arc::new(Words), |_, _, _| ())
}

fn ledger(path: &Path) {
    let clock = Clock::default();
    let solo = start(path, &clock);
    for i in 0..9 {
        let batch = vec![transaction(&format!("put k{i} v")), transaction(&format!("at t{i} {}", 1 + i % 4))];
        assert!(solo.submit(batch).all(|answer| answer.is_ok()));
    }
    solo.stop();
}

#[test]
fn a_ledger_that_nobody_touched_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    ledger(&path);
    let Checked { blocks, transactions, events } = check(&path).unwrap();
    assert!(blocks >= 9, "{blocks}");
    // The last one that is due may not have been done before the stop.
    assert_eq!(transactions, 18);
    assert!((17..=18).contains(&events), "{events}");
}

#[test]
fn every_change_of_a_row_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    ledger(&path);
    for change in [
        "UPDATE recorded SET bytes = CAST('put k3 w' AS BLOB) WHERE number = 6",
        "UPDATE recorded SET prefix = prefix + 1 WHERE number = 6",
        "UPDATE recorded SET height = 1 WHERE number = 6",
        "DELETE FROM recorded WHERE number = 17",
        "UPDATE event SET bytes = CAST('x' AS BLOB) WHERE number = 2",
        "INSERT INTO event VALUES (99, x'00')",
        "UPDATE state SET value = x'00' WHERE key = CAST('k1' AS BLOB)",
        "DELETE FROM state WHERE key = CAST('k1' AS BLOB)",
        "INSERT INTO state VALUES (x'00', x'00')",
        "UPDATE header_tree SET hash = zeroblob(32) WHERE level = 1 AND place = 1",
        "UPDATE block SET certificate = (SELECT certificate FROM block WHERE height = 1) WHERE height = 2",
        "UPDATE block SET header = (SELECT header FROM block WHERE height = 1) WHERE height = 2",
        "UPDATE block SET first_event = first_event + 1 WHERE height = 4",
        "DELETE FROM block WHERE height = 3",
        "DELETE FROM block WHERE height = (SELECT max(height) FROM block)",
    ] {
        let changed = folder.path().join("changed.ledger");
        std::fs::copy(&path, &changed).unwrap();
        let connection = rusqlite::Connection::open(&changed).unwrap();
        assert_eq!(connection.execute(change, []).unwrap(), 1, "{change}");
        connection.close().unwrap();
        let result = check(&changed);
        assert!(
            matches!(result, Err(LedgerError::Damaged { .. } | LedgerError::Refused { .. })),
            "{change}: {result:?}"
        );
    }
}
