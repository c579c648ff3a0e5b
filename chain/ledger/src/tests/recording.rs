//! Submitting, answers, time, and proofs.

use std::sync::mpsc;
use std::time::Duration;

use assent_consensus::contract::State;
use assent_consensus::header::Anchor;

use crate::testing::{Clock, chain, deployment, open, start, transaction, transactions, validators};
use crate::{Placed, SubmitError};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_is_submitted_is_recorded_once_and_stays_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let clock = Clock::default();
    let solo = start(&path, &clock);
    let first: Vec<_> = solo.submit(transactions(&["put a 1", "put b 2", "bad c", "put a 1"])).collect();
    let place = |text: &str, height, index| Placed { transaction: transaction(text).digest(), height, index };
    assert_eq!(first[0], Ok(place("put a 1", 1, 0)));
    assert_eq!(first[1], Ok(place("put b 2", 1, 1)));
    assert!(matches!(&first[2], Err(SubmitError::Rejected(rejection)) if rejection.code == "bad"));
    assert_eq!(first[3], first[0]);
    assert_eq!(solo.submit(vec![transaction("put a 1")]).next(), Some(first[0].clone()));
    solo.stop();
    assert_eq!(solo.submit(vec![transaction("put c 1")]).next(), Some(Err(SubmitError::Stopped)));
    drop(solo);

    let solo = start(&path, &clock);
    assert_eq!(solo.submit(vec![transaction("put a 1")]).next(), Some(first[0].clone()));
    let reader = solo.reader();
    assert_eq!(reader.tip().unwrap().unwrap().0.header().height.get(), 1);
    assert_eq!(reader.transactions(1).unwrap(), [b"put a 1".to_vec(), b"put b 2".to_vec()]);
    let (bytes, height, index) = reader.transaction(transaction("put b 2").digest()).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), height, index), (b"put b 2".as_slice(), 1, 1));
    let snapshot = reader.snapshot().unwrap();
    assert_eq!(snapshot.get(b"a"), Some(b"1".to_vec()));
    assert_eq!(snapshot.get(b"c"), None);
    snapshot.verified().unwrap();
}

#[test]
fn a_rejected_transaction_alone_makes_no_block() {
    let folder = tempfile::tempdir().unwrap();
    let solo = start(&folder.path().join("main.ledger"), &Clock::default());
    assert!(matches!(solo.submit(vec![transaction("bad a")]).next(), Some(Err(SubmitError::Rejected(_)))));
    assert!(solo.reader().tip().unwrap().is_none());
}

#[test]
fn what_is_due_makes_a_block_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    clock.set(100);
    let solo = start(&folder.path().join("main.ledger"), &clock);
    let (sender, heights) = mpsc::channel();
    solo.tip_changes(move |height| sender.send(height).unwrap_or_default());
    assert!(solo.submit(vec![transaction("at k 5000")]).all(|answer| answer.is_ok()));
    assert_eq!(heights.recv_timeout(PATIENCE), Ok(1));
    clock.set(5000);
    solo.nudge();
    assert_eq!(heights.recv_timeout(PATIENCE), Ok(2));
    let header = solo.reader().header(2).unwrap().unwrap();
    assert_eq!(header.header().time.get(), 5000);
    assert_eq!(solo.reader().snapshot().unwrap().get(b"k"), Some(b"fired".to_vec()));
    // The clock was set back: block times still grow.
    clock.set(7);
    solo.submit(vec![transaction("put x 1")]).for_each(drop);
    assert_eq!(solo.reader().header(3).unwrap().unwrap().header().time.get(), 5001);
}

#[test]
fn proofs_verify_from_every_block_to_every_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.ledger");
    let solo = start(&path, &Clock::default());
    for block in 0..20 {
        let batch: Vec<_> = (0..=block % 5).map(|i| transaction(&format!("put k{block}-{i} v"))).collect();
        assert!(solo.submit(batch).all(|answer| answer.is_ok()));
    }
    let reader = solo.reader();
    for later in 1..=20 {
        let finality = reader.finality_at(later, None).unwrap();
        let anchor = Anchor::verify(&finality, deployment(), &validators(), None).unwrap();
        for earlier in 1..=later {
            let trusted = Anchor::verify(
                &reader.finality_at(earlier, None).unwrap(),
                deployment(),
                &validators(),
                None,
            )
            .unwrap()
            .trusted();
            let finality = reader.finality_at(later, Some(trusted)).unwrap();
            Anchor::verify(&finality, deployment(), &validators(), Some(&trusted)).unwrap();
            for (index, event) in (0..).zip(reader.events(earlier).unwrap()) {
                let proof = reader.event_proof(later, earlier, index).unwrap();
                assert_eq!(proof.event.0, event.0);
                assert_eq!(anchor.check(&proof).unwrap().header().height.get(), earlier);
            }
        }
        for (index, event) in (0..).zip(reader.events(later).unwrap()) {
            let inclusion = reader.inclusion(later, index).unwrap();
            assert_eq!((&inclusion.chain, &inclusion.event.0), (&chain(), &event.0));
            inclusion.verify(deployment(), &validators()).unwrap();
        }
    }
    assert!(reader.inclusion(20, 99).is_err());
    assert!(reader.event_proof(3, 4, 0).is_err());
    drop(solo);
    // The tree of headers is found again.
    assert_eq!(open(&path).unwrap().tip().frontier.size(), 20);
}
