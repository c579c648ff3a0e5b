use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assent_consensus::digest::Digest;

use super::*;
use crate::testing::{SmallKms, order};

/// A log of seven entries: made, key made, key active, two intents with their results.
async fn kms() -> SmallKms {
    let kms = SmallKms::new().await;
    for number in 1..=2 {
        kms.signing.sign(order(number, "x")).await.expect("signed");
    }
    kms.settled().await;
    kms
}

#[tokio::test]
async fn a_whole_log_verifies_and_says_what_is_in_it() {
    let kms = kms().await;
    let report = verify(&kms.store(), &[]).expect("whole");
    assert_eq!((report.entries, report.signatures, report.open_intents), (7, 2, 0));
    assert_eq!(verify(&kms.store(), &[report.head]).expect("whole").entries, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_whole_at_every_moment_while_it_is_written() {
    let kms = kms().await;
    let (store, is_done) = (kms.store(), Arc::new(AtomicBool::new(false)));
    let done = is_done.clone();
    let verified = tokio::task::spawn_blocking(move || {
        while !done.load(Ordering::Relaxed) {
            verify(&store, &[])?;
        }
        verify(&store, &[])
    });
    for number in 3..=100 {
        kms.signing.sign(order(number, "x")).await.expect("signed");
    }
    is_done.store(true, Ordering::Relaxed);
    verified.await.expect("it does not panic").expect("whole");
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
            match verify(&kms.store(), &[]) {
                Err(AuditError::Entry { number: found, .. }) => assert_eq!(found, number),
                other => panic!("entry {number}: {other:?}"),
            }
        }
        file.execute("UPDATE audit SET entry = ?2 WHERE number = ?1", (number.cast_signed(), &original))
            .expect("put back");
    }
    verify(&kms.store(), &[]).expect("whole again");
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
        match verify(&kms.store(), &[]) {
            Err(AuditError::Entry { number: found, .. }) => assert_eq!(found, number, "{change}"),
            other => panic!("{change}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_log_that_was_cut_short_is_found_by_a_head_that_somebody_knows() {
    let kms = kms().await;
    let known = verify(&kms.store(), &[]).expect("whole").head;
    kms.file()
        .execute_batch("DELETE FROM audit WHERE number > 5; DELETE FROM duty WHERE intent > 5; DELETE FROM result WHERE intent > 5")
        .expect("cut");
    verify(&kms.store(), &[]).expect("it looks whole");
    assert_eq!(verify(&kms.store(), &[known]).map(drop), Err(AuditError::UnknownHead(known)));
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
    match verify(&kms.store(), &[]) {
        Err(AuditError::Entry { number: 5, why }) => assert_eq!(why, "its signature does not verify"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tables_must_say_what_the_log_says() {
    for change in [
        "DELETE FROM duty WHERE intent = 4",
        "DELETE FROM result WHERE intent = 4",
        "UPDATE result SET entry = 7 WHERE intent = 4",
        "INSERT INTO result VALUES (1, 5)",
        "INSERT INTO result VALUES (1000000, 5)",
        "UPDATE key SET state = 'compromised'",
        "UPDATE key SET name = 'other'",
        "UPDATE key SET object = zeroblob(16)",
        "UPDATE key SET adopted = 1",
        "UPDATE key SET limits = CAST('{\"uses\":9}' AS BLOB)",
        "INSERT INTO key_use VALUES ('key', 'release', 1, 1, 1)",
        "DELETE FROM key",
        "INSERT INTO genesis VALUES (1, x'00', 1)",
    ] {
        let kms = kms().await;
        kms.file().execute_batch(change).expect("changed");
        assert!(matches!(verify(&kms.store(), &[]), Err(AuditError::Table(_))), "{change}");
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
        .each_entry(1, |number, bytes, _| {
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

fn exported(kms: &SmallKms, from: Option<&str>, to: Option<&str>, format: Format) -> Vec<String> {
    let bound = |text: &str| text.parse::<Bound>().expect("a bound");
    let mut lines = Vec::new();
    export(&kms.store(), from.map(bound), to.map(bound), format, |line| {
        lines.push(line.to_owned());
        Ok::<_, AuditError>(())
    })
    .expect("whole");
    lines
}

#[tokio::test]
async fn who_receives_an_export_can_compute_every_head_again() {
    let kms = kms().await;
    let mut head = Digest::ZERO;
    let lines = exported(&kms, None, None, Format::JsonLines);
    assert_eq!(lines.len(), 7);
    for (place, line) in lines.iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["number"], place + 1);
        let (_, entry) = line.split_once(r#""entry":"#).expect("the last member");
        head = next_head(&head, entry.strip_suffix('}').expect("an object").as_bytes());
        assert_eq!(value["head"], head.to_string());
    }
    assert_eq!(verify(&kms.store(), &[]).expect("whole").head, head);
}

#[tokio::test]
async fn an_export_is_what_lies_between_its_bounds() {
    let kms = kms().await;
    let numbers = |from: Option<&str>, to: Option<&str>| -> Vec<u64> {
        let lines = exported(&kms, from, to, Format::JsonLines);
        let number =
            |line: &String| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["number"].as_u64();
        lines.iter().filter_map(number).collect()
    };
    assert_eq!(numbers(Some("3"), Some("5")), [3, 4, 5]);
    assert_eq!(numbers(Some("7"), None), [7]);
    assert_eq!(numbers(Some("8"), None), [0_u64; 0]);
    assert_eq!(numbers(None, Some("1")), [1]);
    // All of them are of this moment.
    assert_eq!(numbers(Some("2027-01-15T08:00:00Z"), Some("2027-01-15T08:00:00Z")).len(), 7);
    assert_eq!(numbers(Some("2027-01-15T08:00:00.001Z"), None), [0_u64; 0]);
    assert_eq!(numbers(None, Some("2027-01-15T07:59:59Z")), [0_u64; 0]);
    for wrong in ["", "-1", "yesterday", "2027-01-15"] {
        assert!(wrong.parse::<Bound>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_line_of_syslog_says_how_much_it_matters() {
    let kms = kms().await;
    let lines = exported(&kms, Some("5"), None, Format::Syslog);
    assert!(lines[0].starts_with("<110>1 2027-01-15T08:00:00.000Z "), "{}", lines[0]);
    assert!(lines[0].contains(r#" assent-kms - result - {"number":5,"head":"sha256:"#), "{}", lines[0]);
}

#[tokio::test]
async fn an_export_ends_before_the_first_entry_that_is_wrong() {
    let kms = kms().await;
    kms.file().execute_batch("UPDATE audit SET entry = x'7b7d' WHERE number = 6").expect("changed");
    for from in [None, Some(Bound::Number(4)), Some(Bound::Number(6))] {
        let mut given = 0;
        let result = export(&kms.store(), from, None, Format::JsonLines, |_| {
            given += 1;
            Ok(())
        });
        assert!(matches!(result, Err(AuditError::Entry { number: 6, .. })), "{result:?}");
        assert!(given <= 5);
    }
    kms.file().execute_batch("DELETE FROM audit WHERE number = 2").expect("changed");
    let result = export(&kms.store(), Some(Bound::Number(3)), None, Format::JsonLines, |_| Ok(()));
    assert!(matches!(result, Err(AuditError::Entry { number: 3, .. })), "{result:?}");
}

/// Cuts, edits and swaps at random, each in a log with twenty signatures that is put right again afterwards.
#[tokio::test]
async fn a_thousand_random_cuts_edits_and_swaps_are_all_found_at_their_first_entry() {
    let kms = SmallKms::new().await;
    for number in 1..=20 {
        kms.signing.sign(order(number, "x")).await.expect("signed");
    }
    kms.settled().await;
    let report = verify(&kms.store(), &[]).expect("whole");
    let file = kms.file();
    file.execute_batch("CREATE TEMP TABLE spare AS SELECT * FROM audit").expect("kept");
    let mut random = 0x5eed_u64;
    // Knuth's generator: the same changes on every machine.
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for change in 0..1_000 {
        let one = 1 + draw(report.entries);
        let other = 1 + (one + draw(report.entries - 1)) % report.entries;
        let numbers = (one.cast_signed(), other.cast_signed());
        let (sql, first) = match change % 3 {
            0 => ("DELETE FROM audit WHERE number = ?1 AND ?1 <> ?2".to_owned(), one + 1),
            1 => {
                let (_, mut bytes) = entry_bytes(&kms, one);
                let place = usize::try_from(draw(bytes.len() as u64)).expect("short");
                bytes[place] ^= 1 << draw(8);
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                (format!("UPDATE audit SET entry = x'{hex}' WHERE number = ?1 AND ?1 <> ?2"), one)
            }
            _ => {
                let swap =
                    "UPDATE audit SET (entry, head) = (SELECT entry, head FROM spare WHERE spare.number =
                    CASE audit.number WHEN ?1 THEN ?2 ELSE ?1 END) WHERE number IN (?1, ?2)";
                (swap.to_owned(), one.min(other))
            }
        };
        assert!(file.execute(&sql, numbers).expect("changed") > 0);
        match verify(&kms.store(), &[report.head]) {
            Err(AuditError::Entry { number, .. }) => assert_eq!(number, first, "change {change}: {sql}"),
            // What is left after the last one was cut off is whole: its result is missed elsewhere.
            Err(AuditError::Table(_) | AuditError::UnknownHead(_)) if first > report.entries => {}
            found => panic!("change {change} at {one}, {sql}: {found:?}"),
        }
        file.execute_batch("DELETE FROM audit; INSERT INTO audit SELECT * FROM spare").expect("put right");
    }
    verify(&kms.store(), &[report.head]).expect("whole again");
}
