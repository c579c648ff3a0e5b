use assent_consensus::digest::Digest;

use super::*;
use crate::testing::{SmallKms, order};

/// A log of seven entries: made, key made, key active, two intents with their results.
async fn kms() -> SmallKms {
    let kms = SmallKms::new().await;
    for number in 1..=2 {
        kms.signing.sign(order(number, "x")).await.expect("signed");
    }
    kms
}

#[tokio::test]
async fn a_whole_log_verifies_and_says_what_is_in_it() {
    let kms = kms().await;
    let report = verify(&kms.store(), None).expect("whole");
    assert_eq!((report.entries, report.signatures, report.open_intents), (7, 2, 0));
    assert_eq!(verify(&kms.store(), Some(report.head)).expect("whole").entries, 7);
}

#[tokio::test]
async fn every_changed_byte_of_the_log_is_found_at_its_entry() {
    let kms = kms().await;
    let file = kms.file();
    for number in 1..=7_u64 {
        let (_, original) = entry_bytes(&kms, number);
        // One in the middle and the last one.
        for place in [original.len() / 2, original.len() - 1] {
            let mut changed = original.clone();
            changed[place] ^= 1;
            file.execute("UPDATE audit SET entry = ?2 WHERE number = ?1", (number.cast_signed(), &changed))
                .expect("changed");
            match verify(&kms.store(), None) {
                Err(AuditError::Entry { number: found, .. }) => assert_eq!(found, number),
                other => panic!("entry {number}: {other:?}"),
            }
        }
        file.execute("UPDATE audit SET entry = ?2 WHERE number = ?1", (number.cast_signed(), &original))
            .expect("put back");
    }
    verify(&kms.store(), None).expect("whole again");
}

#[tokio::test]
async fn an_entry_that_was_taken_out_or_put_elsewhere_is_found() {
    for (change, number) in [
        ("DELETE FROM audit WHERE number = 4", 5),
        ("DELETE FROM audit WHERE number = 1", 2),
        ("UPDATE audit SET number = 40 WHERE number = 4", 5),
        ("UPDATE audit SET head = (SELECT head FROM audit WHERE number = 3) WHERE number = 5", 5),
    ] {
        let kms = kms().await;
        kms.file().execute_batch(change).expect("changed");
        match verify(&kms.store(), None) {
            Err(AuditError::Entry { number: found, .. }) => assert_eq!(found, number, "{change}"),
            other => panic!("{change}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_log_that_was_cut_short_is_found_by_a_head_that_somebody_knows() {
    let kms = kms().await;
    let known = verify(&kms.store(), None).expect("whole").head;
    kms.file()
        .execute_batch("DELETE FROM audit WHERE number > 5; DELETE FROM duty WHERE intent > 5")
        .expect("cut");
    verify(&kms.store(), None).expect("it looks whole");
    assert_eq!(verify(&kms.store(), Some(known)).map(drop), Err(AuditError::UnknownHead(known)));
}

#[tokio::test]
async fn a_log_that_was_written_anew_with_another_signature_or_key_is_found() {
    let kms = kms().await;
    let (first, second) = (entry_bytes(&kms, 5).0, entry_bytes(&kms, 7).0);
    let (Entry::Result { at, intent, .. }, Entry::Result { signature, .. }) = (first, second) else {
        panic!("results")
    };
    let mut forged = signature.clone();
    forged.0[5] ^= 1;
    rewrite(&kms, 5, &Entry::Result { at, intent, signature: forged });
    match verify(&kms.store(), None) {
        Err(AuditError::Entry { number: 5, why }) => assert_eq!(why, "its signature does not verify"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tables_must_say_what_the_log_says() {
    for change in [
        "DELETE FROM duty WHERE intent = 4",
        "UPDATE duty SET result = NULL WHERE intent = 4",
        "UPDATE duty SET result = 7 WHERE intent = 4",
        "UPDATE key SET state = 'compromised'",
        "UPDATE key SET name = 'other'",
        "UPDATE key SET object = zeroblob(16)",
        "DELETE FROM key",
        "INSERT INTO genesis VALUES (1, x'00', 1)",
    ] {
        let kms = kms().await;
        kms.file().execute_batch(change).expect("changed");
        assert!(matches!(verify(&kms.store(), None), Err(AuditError::Table(_))), "{change}");
    }
}

fn entry_bytes(kms: &SmallKms, number: u64) -> (Entry, Vec<u8>) {
    let bytes: Vec<u8> = kms
        .file()
        .query_row("SELECT entry FROM audit WHERE number = ?1", [number.cast_signed()], |row| row.get(0))
        .expect("there");
    (assent_consensus::json::read(&bytes).expect("an entry"), bytes)
}

/// Replaces an entry and makes all heads follow from it.
fn rewrite(kms: &SmallKms, number: u64, entry: &Entry) {
    let file = kms.file();
    let bytes = assent_consensus::json::write(entry);
    file.execute("UPDATE audit SET entry = ?2 WHERE number = ?1", (number.cast_signed(), bytes))
        .expect("replaced");
    let mut heads: Vec<(u64, Digest)> = Vec::new();
    let mut head = Digest::ZERO;
    kms.store()
        .each_entry(|number, bytes, _| {
            head = next_head(&head, bytes);
            heads.push((number, head));
            Ok::<_, crate::store::StoreError>(())
        })
        .expect("read");
    for (number, head) in heads {
        file.execute("UPDATE audit SET head = ?2 WHERE number = ?1", (number.cast_signed(), head.as_bytes()))
            .expect("replaced");
    }
}
