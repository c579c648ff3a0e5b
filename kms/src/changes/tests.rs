//! Changes that are cut short at each step, and what is in force meanwhile.

use assent_consensus::artifact::ToSign;
use assent_consensus::digest::Digest;
use assent_consensus::json::Integer;
use assent_consensus::jws::Signed;
use assent_consensus::message::{Change, KeyTransition, KeyVersion, TransitionReason};
use assent_consensus::standing::Standing;
use assent_consensus::time::UnixMillis;

use super::{LEAD, MARGIN, Mandate, PolicyChange, Rotation};
use crate::life::LimitsChange;
use crate::pins::KeyState;
use crate::signing::{KeyName, Order, Purpose, SigningError};
use crate::testing::{
    DAY, NOW, OVERLAP, PERSON, SmallKms, destruction, governing_key, governor, mandate, policy_change,
    release, rotation, with_deadline,
};

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
async fn a_version_that_is_given_up_before_it_is_in_force_leaves_the_old_one_and_its_number() {
    for calls in [2, 3] {
        let kms = SmallKms::pinned().await;
        let before = kms.token.token().keys.len();
        // The token goes before the first message is signed, or before the second.
        kms.token.token().gone_after = Some(calls);
        kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect_err("no token");
        let kms = kms.restart();
        (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
        let second = KeyVersion::first().next();
        kms.admin().compromised(release(), Some(second), PERSON).await.expect("said");
        let later = NOW + LEAD.get() + 1;
        assert_eq!(version_at(&kms, later), (1, KeyState::Active), "the old one stays in force");
        // What was approved was for the key that was given up.
        let again = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await;
        let reason = again.expect_err("it signs nothing").reason();
        assert_eq!(reason, "key-compromised");
        kms.set_clock(LEAD.get() + 1);
        let given_up = kms.pins.key_row(&release(), second).expect("there").public_key;
        let rotated = kms.changes().rotate(rotation(2, TransitionReason::Rotation)).await.expect("rotated");
        let says = Signed::<KeyTransition>::from_jws(rotated.transition.new).expect("one");
        assert_eq!(says.unverified().version, second);
        assert_ne!(says.unverified().to.thumbprint(), given_up.thumbprint());
        assert_eq!(version_at(&kms, later + LEAD.get() + 1), (2, KeyState::Active));
        assert_eq!(kms.token.token().keys.len(), before + 1, "the one that was given up is gone");
        // Its case has nothing left to be done with.
        let late = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await;
        assert!(matches!(late, Err(SigningError::Conflict { .. } | SigningError::Busy)), "{late:?}");
        kms.settled().await;
        let kms = kms.restart();
        assert_eq!(version_at(&kms, later + LEAD.get() + 1), (2, KeyState::Active));
        crate::audit::verify(&kms.store(), &[rotated.audit]).expect("the log and the tables agree");
    }
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
    let retires = NOW + LEAD.get() + OVERLAP;
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

    kms.set_clock(LEAD.get() + OVERLAP);
    let retired = NOW + LEAD.get() + OVERLAP;
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
    for after in [0, 1_000, OVERLAP - 1] {
        kms.set_clock(after);
        let refused = kms.changes().destroy(destruction(2, &key, first)).await.expect_err("it is needed");
        assert_eq!((refused.reason(), refused.is_retry()), ("key-in-use", false), "{after}");
        kms.live_until(after).await;
    }
    kms.set_clock(OVERLAP);
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

/// The policies in force, now and once what is known comes into force.
fn policies(kms: &SmallKms) -> Vec<Digest> {
    let genesis = kms.pins.genesis().expect("pinned");
    let contract = genesis.contract(&governor()).expect("there is one");
    let standing = Standing::new(&genesis, kms.pins.successions());
    let at = |after: u64| standing.policy_at(contract, UnixMillis::new(NOW + after));
    vec![at(0), at(LEAD.get()), at(DAY)]
}

fn decided_later(mut change: PolicyChange) -> PolicyChange {
    change.mandate.decided = UnixMillis::new(NOW + 1);
    change
}

#[tokio::test]
async fn a_change_of_a_policy_that_is_cut_short_anywhere_goes_on_where_it_stopped() {
    let mut cut_short = 0;
    for calls in 0..3 {
        let kms = SmallKms::pinned().await;
        let change = policy_change(1, None);
        let (old, new) = (change.from, change.policy.digest());
        kms.token.token().gone_after = Some(calls);
        let first = kms.changes().change_policy(change.clone()).await;
        cut_short += usize::from(first.is_err());
        let kms = kms.restart();
        (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
        if first.is_err() {
            // What is on disk says when nothing is opened by the old policy any more.
            let awaited = |after| kms.changes().awaits_policy(&governor(), UnixMillis::new(NOW + after));
            assert_eq!([0, LEAD.get(), DAY - 1, DAY].map(awaited), [false, true, true, false]);
            assert_eq!(policies(&kms), [old, old, old]);
            kms.set_clock(2 * LEAD.get());
        }
        let done = kms.changes().change_policy(change.clone()).await.expect("done");
        assert_eq!(kms.changes().change_policy(change).await, Ok(done.clone()), "{calls} calls");
        assert!(first.is_err() || first == Ok(done.clone()));
        let says = Signed::<Change>::from_jws(done.change).expect("one");
        assert_eq!(says.unverified().effective, UnixMillis::new(NOW + LEAD.get()));
        assert_eq!(policies(&kms), [old, new, new]);
        assert!(!kms.changes().awaits_policy(&governor(), UnixMillis::new(NOW + LEAD.get())));
        kms.settled().await;
        let kms = kms.restart();
        assert_eq!(policies(&kms), [old, new, new]);
        crate::audit::verify(&kms.store(), &[done.audit]).expect("the log and the tables agree");
    }
    assert!(cut_short >= 1, "the signature: {cut_short}");
}

#[tokio::test]
async fn a_policy_follows_the_last_one_and_no_other() {
    let kms = SmallKms::pinned().await;
    kms.changes().change_policy(policy_change(1, None)).await.expect("done");
    let second = kms.changes().change_policy(policy_change(2, None)).await.expect_err("another was first");
    assert_eq!((second.reason(), second.is_retry()), ("policy-not-in-force", false));
    let again = kms.changes().change_policy(policy_change(3, Some(1))).await.expect_err("both at once");
    assert_eq!(again.reason(), "overtaken");
    let third = decided_later(policy_change(3, Some(1)));
    kms.changes().change_policy(third).await.expect("it follows that");
    let changes: Vec<_> = kms.store().policies().expect("read").into_iter().map(|row| row.says).collect();
    assert_eq!(changes.len(), 2);
    assert!(changes[0].effective < changes[1].effective, "each is in force for a while");
    let pinned = |name: &KeyName| {
        let sql = "SELECT policy FROM key WHERE name = ?1";
        let name = match name {
            KeyName::Contract(name) | KeyName::Operational(name) => name.as_str().to_owned(),
        };
        kms.file().query_row(sql, [name], |row| row.get::<_, Vec<u8>>(0)).expect("a row")
    };
    let last = policy_change(3, Some(1)).policy.digest();
    for key in [release(), governing_key()] {
        assert_eq!(pinned(&key), last.as_bytes());
    }
}

#[tokio::test]
async fn a_change_that_was_never_signed_keeps_no_other_from_being_done() {
    let kms = SmallKms::pinned().await;
    kms.token.token().gone_after = Some(0);
    kms.changes().change_policy(policy_change(1, None)).await.expect_err("no token");
    let kms = kms.restart();
    (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
    kms.changes().change_policy(policy_change(2, None)).await.expect("done");
    let late = kms.changes().change_policy(policy_change(1, None)).await.expect_err("another was first");
    assert_eq!(late.reason(), "policy-not-in-force");
    assert_eq!(policies(&kms)[2], policy_change(2, None).policy.digest());
}

#[tokio::test]
async fn what_would_lapse_before_the_logs_have_it_is_not_begun() {
    let kms = SmallKms::pinned().await;
    kms.set_clock(DAY - MARGIN.get());
    let late = kms.changes().change_policy(policy_change(1, None)).await.expect_err("too late");
    assert_eq!((late.reason(), late.is_retry()), ("lapsing", false));
    assert!(kms.store().policies().expect("read").is_empty());
    let rotation = rotation(2, TransitionReason::Rotation);
    let mandate = Mandate { act_by: UnixMillis::new(NOW + DAY), ..rotation.mandate };
    let short = Rotation { mandate, ..rotation };
    let late = kms.changes().rotate(short.clone()).await.expect_err("too late");
    assert_eq!(late.reason(), "lapsing");
    assert_eq!(kms.pins.keys().len(), 2, "no key was generated");
    kms.set_clock(DAY - MARGIN.get() - 1);
    kms.changes().rotate(short).await.expect("in time");
    kms.changes().change_policy(policy_change(1, None)).await.expect("in time");
}

#[tokio::test]
async fn a_policy_that_the_log_does_not_know_is_found() {
    let kms = SmallKms::pinned().await;
    kms.changes().change_policy(policy_change(1, None)).await.expect("done");
    kms.settled().await;
    crate::audit::verify(&kms.store(), &[]).expect("whole");
    kms.file().execute("UPDATE policy SET document = x'00'", []).expect("changed");
    let error = crate::audit::verify(&kms.store(), &[]).expect_err("found");
    assert!(error.to_string().contains("`policy`"), "{error}");
}

#[tokio::test]
async fn of_two_changes_that_are_both_cut_short_one_is_done() {
    let kms = SmallKms::pinned().await;
    kms.token.token().gone_after = Some(0);
    for request in [1, 2] {
        kms.changes().change_policy(policy_change(request, None)).await.expect_err("no token");
    }
    let kms = kms.restart();
    (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
    kms.set_clock(2 * LEAD.get());
    // It is on record with a moment that is past, and another took its place.
    let first =
        kms.changes().change_policy(policy_change(1, None)).await.expect_err("another took its place");
    assert_eq!(first.reason(), "conflict");
    let done = kms.changes().change_policy(policy_change(2, None)).await.expect("it goes on");
    assert_eq!(policies(&kms)[2], policy_change(2, None).policy.digest());
    assert!(!kms.changes().awaits_policy(&governor(), UnixMillis::new(NOW + DAY - 1)));
    kms.settled().await;
    crate::audit::verify(&kms.store(), &[done.audit]).expect("the log and the tables agree");
}

#[tokio::test]
async fn a_change_whose_signature_nobody_gets_any_more_is_in_nobodys_way() {
    let kms = SmallKms::pinned().await;
    kms.token.token().gone_after = Some(0);
    kms.changes().change_policy(policy_change(1, None)).await.expect_err("no token");
    let kms = kms.restart();
    (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
    let rotated = Rotation { key: governing_key(), ..rotation(2, TransitionReason::Compromise) };
    kms.changes().rotate(rotated).await.expect("rotated");
    kms.set_clock(2 * LEAD.get());
    let now = UnixMillis::new(NOW + 2 * LEAD.get());
    assert!(!kms.changes().awaits_policy(&governor(), now), "the key that was to sign it is compromised");
    let mut later = policy_change(3, None);
    later.mandate.governor_version = KeyVersion::first().next();
    kms.changes().change_policy(later).await.expect("done");
    let first = kms.changes().change_policy(policy_change(1, None)).await;
    assert_eq!(first.expect_err("another was first").reason(), "policy-not-in-force");
    assert!(!kms.changes().awaits_policy(&governor(), UnixMillis::new(NOW + DAY - 1)));
}

#[tokio::test]
async fn a_version_retires_when_what_it_began_by_any_policy_is_over() {
    let long = || with_deadline(policy_change(1, None), "480h");
    let retires = |rotated: crate::changes::Rotated| {
        let says = Signed::<KeyTransition>::from_jws(rotated.transition.new).expect("one");
        let says = says.unverified().clone();
        says.old_retires.get() - says.activates.get()
    };
    // The policy is pinned, or its signature is still missing, since the rotation was verified to be due.
    for is_signed in [true, false] {
        let kms = SmallKms::pinned().await;
        kms.token.token().gone_after = (!is_signed).then_some(0);
        assert_eq!(kms.changes().change_policy(long()).await.is_ok(), is_signed);
        let kms = kms.restart();
        (kms.token.token().gone_after, kms.token.token().is_gone) = (None, false);
        let rotated = kms.changes().rotate(rotation(2, TransitionReason::Rotation)).await.expect("rotated");
        assert_eq!(retires(rotated), 27 * DAY);
    }
    // It is in force only after a version whose end is settled.
    let kms = SmallKms::pinned().await;
    let mut ahead = rotation(2, TransitionReason::Rotation);
    ahead.mandate.decided = UnixMillis::new(NOW + 60_000);
    let rotated = kms.changes().rotate(ahead).await.expect("rotated");
    assert_eq!(retires(rotated), OVERLAP);
    let done = kms.changes().change_policy(long()).await.expect("done");
    let says = Signed::<Change>::from_jws(done.change).expect("one");
    assert!(says.unverified().effective > UnixMillis::new(NOW + 60_000));
}
