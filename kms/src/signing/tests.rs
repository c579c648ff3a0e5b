use assent_consensus::header::TrustedHeader;
use assent_consensus::name::Name;

use super::*;
use crate::audit;
use crate::reload::Settings;
use crate::testing::{NOW, SmallKms, in_force, order, release};

#[tokio::test]
async fn a_signature_is_verified_with_s_in_the_low_half_and_that_of_an_action_is_on_disk_when_it_is_returned()
{
    let kms = SmallKms::new().await;
    let order = Order { purpose: Purpose::Action, ..order(1, "a") };
    let signed = kms.signing.sign(order.clone()).await.expect("signed");
    let key = kms.pins.key(&release(), UnixMillis::new(NOW)).expect("pinned").public_key;
    key.verify(&key.algorithm().digest(b"a"), &signed.signature).expect("it verifies");
    let low = p256::ecdsa::Signature::from_slice(&signed.signature.0).expect("a signature");
    assert_eq!(low, low.normalize_s());
    assert_eq!(kms.store().head().expect("read").digest, signed.audit);
    let recorded = kms.store().recorded(order.duty()).expect("read").expect("recorded");
    let concluded = Concluded { signature: signed.signature, audit: signed.audit };
    assert_eq!((recorded.order, recorded.result), (order, Some(concluded)));
}

#[tokio::test]
async fn the_intent_of_a_message_is_on_disk_when_it_is_returned_and_its_signature_before_the_next_intent() {
    let kms = SmallKms::new().await;
    let signed = kms.signing.sign(order(1, "a")).await.expect("signed");
    let recorded = kms.store().recorded(order(1, "a").duty()).expect("read").expect("recorded");
    assert_eq!((recorded.order, recorded.intent.digest), (order(1, "a"), signed.audit));
    let next = kms.signing.sign(order(2, "b")).await.expect("signed");
    let recorded = kms.store().recorded(order(1, "a").duty()).expect("read").expect("recorded");
    assert_eq!(recorded.result.map(|result| result.signature), Some(signed.signature));
    for head in [signed.audit, next.audit] {
        audit::verify(&kms.store(), &[head]).expect("the log has this head");
    }
}

#[tokio::test]
async fn a_message_whose_signature_was_not_written_is_made_again_of_the_same_bytes_and_no_others() {
    let kms = SmallKms::new().await;
    let first = kms.signing.sign(order(1, "a")).await.expect("signed");
    let kms = kms.restart();
    // What a power cut before the next transaction leaves.
    let result = "DELETE FROM audit WHERE number = (SELECT entry FROM result); DELETE FROM result";
    kms.file().execute_batch(result).expect("changed");
    assert!(matches!(kms.signing.sign(order(1, "b")).await, Err(SigningError::Conflict { .. })));
    let again = kms.signing.sign(order(1, "a")).await.expect("signed");
    assert_eq!((&again.order, again.audit), (&first.order, first.audit));
    let kms = kms.restart();
    assert_eq!(kms.token.token().signed, [Digest::of(b"a"), Digest::of(b"a")]);
    audit::verify(&kms.store(), &[first.audit]).expect("the log is whole");
}

#[tokio::test]
async fn a_signature_that_was_changed_in_the_file_is_not_returned() {
    let kms = SmallKms::new().await;
    let order = Order { purpose: Purpose::Action, ..order(1, "a") };
    kms.signing.sign(order.clone()).await.expect("signed");
    let file = kms.file();
    let number: i64 = file.query_row("SELECT entry FROM result", [], |row| row.get(0)).expect("read");
    let entry = Entry::Result {
        at: UnixMillis::new(1),
        intent: Integer::saturating(1),
        signature: assent_consensus::encoding::Bytes(vec![1; 64]),
    };
    let changed = assent_consensus::json::write(&entry);
    file.execute("UPDATE audit SET entry = ?1 WHERE number = ?2", (changed, number)).expect("changed");
    let error = kms.signing.sign(order).await.expect_err("refused");
    assert_eq!(error.reason(), "audit-failed");
}

#[tokio::test]
async fn the_same_order_again_gives_the_same_signature_and_asks_the_device_once() {
    let kms = SmallKms::new().await;
    let first = kms.signing.sign(order(1, "a")).await.expect("signed");
    assert_eq!(kms.signing.sign(order(1, "a")).await, Ok(first.clone()));
    let kms = kms.restart();
    assert_eq!(kms.signing.sign(order(1, "a")).await, Ok(first));
    assert_eq!(kms.token.token().signed.len(), 1);
}

#[tokio::test]
async fn the_same_order_by_many_at_once_gives_one_signature() {
    let kms = SmallKms::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let signing = kms.signing.clone();
        tasks.spawn(async move { signing.sign(order(1, "a")).await.expect("signed") });
    }
    let signed = tasks.join_all().await;
    assert!(signed.iter().all(|one| *one == signed[0]));
    assert_eq!(kms.token.token().signed.len(), 1);
}

#[tokio::test]
async fn other_bytes_for_the_same_duty_are_refused_also_after_a_restart() {
    let kms = SmallKms::new().await;
    kms.signing.sign(order(1, "a")).await.expect("signed");
    let conflict = |error| matches!(error, Err(SigningError::Conflict { .. }));
    assert!(conflict(kms.signing.sign(order(1, "b")).await));
    let kms = kms.restart();
    assert!(conflict(kms.signing.sign(order(1, "b")).await));
    assert_eq!(kms.token.token().signed.len(), 1);
}

#[tokio::test]
async fn an_intent_without_a_signature_is_on_disk_and_only_its_bytes_are_signed_later() {
    let kms = SmallKms::new().await;
    kms.token.token().is_gone = true;
    let error = kms.signing.sign(order(1, "a")).await.expect_err("there is no token");
    assert!(error.is_retry() && error.reason() == "device-gone", "{error}");
    let kms = kms.restart();
    let recorded = kms.store().recorded(order(1, "a").duty()).expect("read").expect("recorded");
    assert_eq!((recorded.order, recorded.result), (order(1, "a"), None));
    assert_eq!(kms.signing.ordered(order(1, "a").duty()), Ok(Some(Arc::new(order(1, "a")))));
    kms.token.token().is_gone = false;
    assert!(matches!(kms.signing.sign(order(1, "b")).await, Err(SigningError::Conflict { .. })));
    let signed = kms.signing.sign(order(1, "a")).await.expect("the token is back");
    assert_eq!(signed.order, order(1, "a"));
    assert_eq!(kms.token.token().signed, [Digest::of(b"a")]);
    kms.settled().await;
    let report = audit::verify(&kms.store(), &[signed.audit]);
    assert_eq!(report.map(|report| (report.signatures, report.open_intents)), Ok((1, 0)));
}

#[tokio::test]
async fn a_token_that_went_and_came_back_is_used_again() {
    let kms = SmallKms::new().await;
    kms.signing.sign(order(1, "a")).await.expect("signed");
    kms.token.token().is_gone = true;
    for _ in 0..8 {
        assert_eq!(kms.signing.sign(order(2, "b")).await.map_err(|error| error.is_retry()), Err(true));
    }
    kms.token.token().is_gone = false;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while kms.signing.sign(order(2, "b")).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "it is not used again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_wrong_signature_is_not_returned_and_suspends_its_key() {
    let kms = SmallKms::new().await;
    kms.token.token().signs_wrongly = true;
    let error = kms.signing.sign(order(1, "a")).await.expect_err("refused");
    assert_eq!((error.reason(), error.is_retry()), ("wrong-signature", false));
    kms.token.token().signs_wrongly = false;
    let kms = kms.restart();
    let error = kms.signing.sign(order(2, "b")).await.expect_err("suspended");
    assert_eq!((error.reason(), error.is_retry()), ("key-suspended", false));
    let recorded = kms.store().recorded(order(1, "a").duty()).expect("read").expect("recorded");
    assert_eq!(recorded.result, None);
    assert_eq!(audit::verify(&kms.store(), &[]).map(|report| report.open_intents), Ok(1));
}

#[tokio::test]
async fn a_key_that_is_not_there_signs_nothing_and_leaves_no_intent() {
    let kms = SmallKms::new().await;
    let stranger = Order { key: KeyName::Contract("release".parse().expect("a name")), ..order(1, "a") };
    assert_eq!(kms.signing.sign(stranger).await.map_err(|error| error.reason()), Err("unknown-key"));
    let later = Order { version: KeyVersion(Integer::saturating(2)), ..order(1, "a") };
    assert_eq!(kms.signing.sign(later).await.map_err(|error| error.reason()), Err("unknown-key"));
    assert_eq!(kms.signing.ordered(order(1, "a").duty()), Ok(None));
}

#[tokio::test]
async fn nothing_is_signed_when_the_log_cannot_be_written() {
    let kms = SmallKms::new().await;
    let file = kms.file();
    file.execute_batch("DROP TABLE duty").expect("dropped");
    let error = kms.signing.sign(order(1, "a")).await.expect_err("it cannot be written");
    assert_eq!((error.reason(), error.is_retry()), ("audit-failed", true));
    assert!(kms.token.token().signed.is_empty());
    let entries: i64 = file.query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).expect("read");
    assert_eq!(entries, 3, "nothing of the batch is there");
    let table = "CREATE TABLE duty (id BLOB PRIMARY KEY, intent INTEGER NOT NULL) STRICT, WITHOUT ROWID";
    file.execute_batch(table).expect("made");
    let signed = kms.signing.sign(order(1, "a")).await.expect("it can be written again");
    audit::verify(&kms.store(), &[signed.audit]).expect("the log goes on where it was");
}

#[tokio::test]
async fn what_was_trusted_before_an_intent_is_on_disk_with_it() {
    let kms = SmallKms::new().await;
    let chain: Name = "process".parse().expect("a name");
    let header =
        |height, id: &[u8]| TrustedHeader { height: Integer::saturating(height), id: Digest::of(id) };
    kms.pins.advance_trusted(&chain, header(7, b"7")).expect("later");
    kms.pins.advance_trusted(&chain, header(5, b"5")).expect("earlier: no change");
    assert_eq!(kms.store().trusted().expect("read"), []);
    kms.signing.sign(order(1, "a")).await.expect("signed");
    assert_eq!(kms.store().trusted().expect("read"), [(chain.clone(), header(7, b"7"))]);
    let kms = kms.restart();
    assert_eq!(kms.pins.trusted().chains[0].trusted, header(7, b"7"));
}

#[tokio::test]
async fn many_callers_share_transactions_and_the_log_stays_whole() {
    let kms = SmallKms::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let signing = kms.signing.clone();
        tasks.spawn(async move { signing.sign(order(number, "x")).await.expect("signed") });
    }
    let signed = tasks.join_all().await;
    assert_eq!(signed.len(), 200);
    let store = kms.store();
    let mut head = Digest::ZERO;
    store
        .each_entry(1, |_, bytes, has| {
            head = audit::next_head(&head, bytes);
            assert_eq!(head, has);
            Ok::<_, StoreError>(())
        })
        .expect("read");
    assert_eq!(store.duties().expect("read").len(), 200);
}

#[tokio::test]
async fn a_refusal_is_in_the_log_once() {
    let kms = SmallKms::new().await;
    let request = order(1, "").request;
    for _ in 0..3 {
        kms.signing
            .record_refusal(Purpose::Action, request, "too-few-votes", &"ü".repeat(800))
            .await
            .expect("written");
    }
    kms.signing.record_refusal(Purpose::Action, request, "lapsed", "late").await.expect("written");
    assert_eq!(kms.store().head().expect("read").number, 5);
}

#[tokio::test]
async fn the_epoch_bell_rings_after_every_so_many_signatures() {
    let kms = SmallKms::new().await;
    let (bell, mut due) = tokio::sync::mpsc::channel(1);
    let signing = Signing::new(
        kms.pins.clone(),
        kms.writer.clone(),
        kms.store(),
        kms.devices.clone(),
        Arc::new(|| UnixMillis::new(1)),
    )
    .with_epoch_bell(EpochBell {
        settings: in_force(Settings { epoch_signatures: 3, ..Settings::default() }),
        bell,
    });
    for number in 0..3 {
        assert!(due.try_recv().is_err());
        signing.sign(order(number, "x")).await.expect("signed");
    }
    due.try_recv().expect("it rang");
}
