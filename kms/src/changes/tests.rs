//! Changes that are cut short at each step, and what is in force meanwhile.

use assent_consensus::artifact::ToSign;
use assent_consensus::json::Integer;
use assent_consensus::message::{KeyTransition, KeyVersion, TransitionReason};
use assent_consensus::time::UnixMillis;

use super::rotation::LEAD;
use crate::life::LimitsChange;
use crate::pins::KeyState;
use crate::signing::{Order, Purpose, SigningError};
use crate::testing::{DAY, NOW, PERSON, SmallKms, destruction, governing_key, mandate, release, rotation};

fn version_at(kms: &SmallKms, moment: u64) -> (u64, KeyState) {
    let key = kms.pins.key(&release(), UnixMillis::new(moment)).expect("there is one");
    (key.version.0.get(), key.state)
}

#[tokio::test]
async fn a_rotation_that_is_cut_short_anywhere_goes_on_where_it_stopped() {
    let mut cut_short = 0;
    for calls in 0..8 {
        let kms = SmallKms::pinned().await;
        let before = kms.token.token().keys.len();
        kms.token.token().gone_after = Some(calls);
        let first = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await;
        cut_short += usize::from(first.is_err());
        // As after a power cut, with the token in again.
        let kms = kms.restart();
        (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
        let rotated = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("rotated");
        let again = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("the same");
        assert_eq!(again.transition, rotated.transition, "{calls} calls");
        assert!(first.is_err() || first.is_ok_and(|first| first.transition == rotated.transition));
        assert_eq!(kms.token.token().keys.len(), before + 1, "one new key after {calls} calls");
        assert_eq!(version_at(&kms, NOW), (1, KeyState::Active));
        assert_eq!(version_at(&kms, NOW + LEAD.get()), (2, KeyState::Active));
        kms.settled().await;
        let successions = kms.store().successions().expect("read");
        assert_eq!(successions.of(&release()).len(), 1);
        let pair =
            assent_consensus::jws::Signed::<KeyTransition>::from_jws(rotated.transition.new).expect("one");
        assert_eq!(pair.unverified(), &successions.of(&release())[0]);
    }
    assert!(cut_short >= 3, "generation and both signatures: {cut_short}");
}

#[tokio::test]
async fn nothing_is_begun_with_the_old_version_while_the_new_one_is_not_signed_yet() {
    let kms = SmallKms::pinned().await;
    // The token goes after the key was generated.
    kms.token.token().gone_after = Some(2);
    kms.changes().rotate(rotation(1, TransitionReason::Compromise)).await.expect_err("no token");
    let kms = kms.restart();
    assert_eq!(version_at(&kms, NOW + 1), (2, KeyState::PreActivation));
    // Another rotation of the key waits for it.
    (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
    let other = kms.changes().rotate(rotation(2, TransitionReason::Rotation)).await;
    assert_eq!(other, Err(SigningError::Busy));
    kms.changes().rotate(rotation(1, TransitionReason::Compromise)).await.expect("rotated");
    assert_eq!(version_at(&kms, NOW + 1), (2, KeyState::Active));
    let old = kms.pins.key_row(&release(), KeyVersion::first()).expect("it is kept");
    assert_eq!(old.state, KeyState::Compromised);
}

#[tokio::test]
async fn a_rotation_waits_until_the_one_before_is_in_force() {
    let kms = SmallKms::pinned().await;
    kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("rotated");
    let early = kms.changes().rotate(rotation(2, TransitionReason::Compromise)).await;
    assert_eq!(early, Err(SigningError::Busy));
    kms.set_clock(LEAD.get());
    kms.changes().rotate(rotation(2, TransitionReason::Compromise)).await.expect("rotated");
    assert_eq!(version_at(&kms, NOW + LEAD.get() + 1), (3, KeyState::Active));
}

#[tokio::test]
async fn the_old_version_is_deactivated_when_what_it_has_begun_is_over() {
    let kms = SmallKms::pinned().await;
    kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("rotated");
    let old = kms.pins.key_row(&release(), KeyVersion::first()).expect("it is kept");
    let retires = NOW + LEAD.get() + DAY;
    assert_eq!(kms.pins.state_at(&old, UnixMillis::new(retires - 1)), KeyState::Active);
    assert_eq!(kms.pins.state_at(&old, UnixMillis::new(retires)), KeyState::Deactivated);
}

#[tokio::test]
async fn a_version_is_destroyed_when_it_is_retired_and_not_before() {
    let mut kms = SmallKms::pinned().await;
    let first = KeyVersion::first();
    let refused = kms.changes().destroy(destruction(2, &release(), first)).await.expect_err("it is in use");
    assert_eq!((refused.reason(), refused.is_retry()), ("key-in-use", false));
    kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("rotated");
    let refused = kms
        .changes()
        .destroy(destruction(2, &release(), first))
        .await
        .expect_err("it finishes what it began");
    assert_eq!(refused.reason(), "key-in-use");

    kms.set_clock(LEAD.get() + DAY);
    let retired = NOW + LEAD.get() + DAY;
    let before = kms.token.token().keys.len();
    for calls in [0, 1, 2] {
        kms.token.token().gone_after = Some(calls);
        let _ = kms.changes().destroy(destruction(2, &release(), first)).await;
        kms = kms.restart();
        (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
    }
    let destroyed = kms.changes().destroy(destruction(2, &release(), first)).await.expect("destroyed");
    let again = kms.changes().destroy(destruction(2, &release(), first)).await.expect("the same");
    assert_eq!(destroyed, again);
    assert_eq!(kms.token.token().keys.len(), before - 1);
    let row = kms.pins.key_row(&release(), first).expect("its row is kept");
    assert_eq!(row.state, KeyState::Destroyed);
    assert_eq!(version_at(&kms, retired), (2, KeyState::Active));
}

#[tokio::test]
async fn a_contracts_version_is_kept_until_what_it_has_opened_is_over() {
    let kms = SmallKms::pinned().await;
    let (key, first) = (governing_key(), KeyVersion::first());
    let uses = LimitsChange { uses: Some(Integer::new(1)), ..LimitsChange::default() };
    kms.admin().limit(key.clone(), None, uses, PERSON).await.expect("limited");
    // The request that is to approve the destruction is the last one that it opens.
    let to_sign = ToSign::Message(b"a vote request".to_vec());
    let request = mandate(2).request;
    let opening = Order { purpose: Purpose::VoteRequest, request, key: key.clone(), version: first, to_sign };
    kms.signing.sign(opening).await.expect("signed");
    for after in [0, 1_000, DAY - 1] {
        kms.set_clock(after);
        let refused = kms.changes().destroy(destruction(2, &key, first)).await.expect_err("it is needed");
        assert_eq!((refused.reason(), refused.is_retry()), ("key-in-use", false), "{after}");
        kms.live_until(after).await;
    }
    kms.set_clock(DAY);
    kms.changes().destroy(destruction(2, &key, first)).await.expect("destroyed");
    let row = kms.pins.key_row(&key, first).expect("its row is kept");
    assert_eq!(row.state, KeyState::Destroyed);
}

#[tokio::test]
async fn a_compromised_version_is_destroyed_at_once() {
    let kms = SmallKms::pinned().await;
    kms.changes().rotate(rotation(1, TransitionReason::Compromise)).await.expect("rotated");
    kms.changes().destroy(destruction(2, &release(), KeyVersion::first())).await.expect("destroyed");
    kms.settled().await;
    let row = kms.pins.key_row(&release(), KeyVersion::first()).expect("its row is kept");
    assert_eq!(row.state, KeyState::Destroyed);
}
