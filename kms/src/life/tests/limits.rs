//! Dates, counts and rates, at their edges.

use assent_consensus::message::TransitionReason;
use tokio::task::JoinSet;

use super::*;
use crate::store::{LimitReached, Uses};
use crate::testing::{DAY, NOW, governing_key, rotation};

#[tokio::test]
async fn a_key_signs_from_its_activation_date_on_and_until_its_deactivation_date() {
    let (activates, over) = (NOW + 1_000, NOW + 5_000);
    let kms = SmallKms::made(read(&format!(r#"{{"activates":{activates},"deactivates":{over}}}"#))).await;
    kms.pin().await.expect("pinned");
    assert_eq!(refusal(kms.signing.sign(action(1)).await), Some(("key-not-yet-active", true)));
    let rotated = kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await;
    assert_eq!(refusal(rotated), Some(("key-not-yet-active", true)), "there is nothing to follow yet");
    kms.set_clock(999);
    assert_eq!(kms.state(KeyVersion::first()), KeyState::PreActivation);
    kms.set_clock(1_000);
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Active);
    kms.signing.sign(action(1)).await.expect("signed");
    kms.live_until(4_999).await;
    kms.signing.sign(action(2)).await.expect("signed");
    kms.set_clock(5_000);
    assert_eq!(refusal(kms.signing.sign(action(3)).await), Some(("key-not-active", false)));
    kms.live_until(5_000).await;
    kms.live_until(6_000).await;
    assert_eq!(
        kms.recorded_states(KeyVersion::first()),
        [
            "pre-activation -> active: its activation date came",
            "active -> deactivated: its deactivation date came"
        ]
    );
    kms.verify_log();
    // A clock that goes back takes nothing back, and neither does a start.
    let kms = kms.restart();
    kms.set_clock(0);
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Deactivated);
    assert_eq!(refusal(kms.signing.sign(action(4)).await), Some(("key-not-active", false)));
}

#[tokio::test]
async fn a_life_that_passed_while_the_kms_was_off_is_put_on_record_in_its_order() {
    let kms =
        SmallKms::made(read(&format!(r#"{{"activates":{},"deactivates":{}}}"#, NOW + 1, NOW + 2))).await;
    kms.pin().await.expect("pinned");
    let kms = kms.restart();
    kms.set_clock(DAY);
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Deactivated);
    // By hand, before the watch comes to it.
    for refused in
        [kms.admin().suspend(release(), None, PERSON).await, kms.limit(r#"{"deactivates":null}"#).await]
    {
        let refused = refused.expect_err("it is over").to_string();
        assert!(refused.contains("is deactivated"), "{refused}");
    }
    kms.admin().compromised(release(), None, PERSON).await.expect("legal");
    assert_eq!(
        kms.recorded_states(KeyVersion::first()),
        [
            "pre-activation -> active: its activation date came",
            "active -> deactivated: its deactivation date came",
            "deactivated -> compromised: a person says that it is compromised"
        ]
    );
    kms.verify_log();
}

#[tokio::test]
async fn a_key_that_was_used_as_often_as_it_may_be_is_deactivated_and_what_was_signed_stays_to_be_had() {
    let kms = SmallKms::pinned().await;
    kms.limit(r#"{"uses":3}"#).await.expect("limited");
    let first = kms.signing.sign(action(1)).await.expect("signed");
    for _ in 0..3 {
        assert_eq!(kms.signing.sign(action(1)).await.as_ref(), Ok(&first), "again: it is no other use");
    }
    kms.signing.sign(action(2)).await.expect("signed");
    let kms = kms.restart();
    let third = kms.signing.sign(action(3)).await.expect("signed");
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Deactivated);
    let kms = kms.restart();
    assert_eq!(refusal(kms.signing.sign(action(4)).await), Some(("key-not-active", false)));
    assert_eq!(kms.signing.sign(action(3)).await, Ok(third));
    let more = kms.limit(r#"{"uses":9}"#).await.expect_err("nothing leads back");
    assert_eq!(more.code(), "limits");
    kms.live_until(1).await;
    assert_eq!(kms.recorded_states(KeyVersion::first()), ["active -> deactivated: its uses are used up"]);
    kms.verify_log();
}

#[tokio::test]
async fn callers_at_once_do_not_overrun_a_limit() {
    for (limits, reason) in
        [(r#"{"uses":10}"#, ("key-not-active", false)), (r#"{"rate":"10/1h"}"#, ("rate-reached", true))]
    {
        let kms = SmallKms::pinned().await;
        kms.limit(limits).await.expect("limited");
        let mut callers = JoinSet::new();
        for number in 0..64 {
            let signing = kms.signing.clone();
            callers.spawn(async move { signing.sign(action(number)).await });
        }
        let signed = callers.join_all().await;
        let (good, refused): (Vec<_>, Vec<_>) = signed.into_iter().partition(Result::is_ok);
        assert_eq!(good.len(), 10, "{limits}");
        assert!(refused.into_iter().all(|refused| refusal(refused) == Some(reason)), "{limits}");
        assert_eq!(kms.token.token().signed.len(), 10, "{limits}");
        kms.settled().await;
        kms.verify_log();
    }
}

#[tokio::test]
async fn a_rate_is_for_any_stretch_of_time_and_a_moment_that_is_told_is_waited_for() {
    let kms = SmallKms::pinned().await;
    kms.limit(r#"{"rate":"2/1h"}"#).await.expect("limited");
    let hour = DAY / 24;
    for (after, number) in [(0, 1), (hour / 2, 2)] {
        kms.set_clock(after);
        kms.signing.sign(action(number)).await.expect("signed");
    }
    let kms = kms.restart();
    kms.set_clock(hour - 1);
    let refused = kms.signing.sign(action(3)).await.expect_err("a third one in an hour");
    assert_eq!(
        refused.to_string(),
        "version 1 of the key `release` may be used 2/1h, and was: it may be used again at 2027-01-15T09:00:00Z"
    );
    kms.set_clock(hour);
    kms.signing.sign(action(3)).await.expect("signed");
    assert_eq!(refusal(kms.signing.sign(action(4)).await), Some(("rate-reached", true)));
    kms.set_clock(hour + hour / 2);
    kms.signing.sign(action(4)).await.expect("signed");
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Active);
    assert_eq!(kms.store().kept_uses().expect("read").len(), 2, "no more are kept than are looked at");
    kms.settled().await;
    kms.verify_log();
}

#[tokio::test]
async fn a_rate_allows_what_a_count_of_the_last_stretch_of_time_allows() {
    let (window, allowed) = (1_000, 5);
    let kms = SmallKms::pinned().await;
    kms.limit(&format!(r#"{{"rate":"{allowed}/1s"}}"#)).await.expect("limited");
    let write = move |batch: &mut Batch<'_>| {
        // Knuth's generator: the same moments on every machine.
        let mut random = 0x5eed_u64;
        let (mut now, mut uses, mut refused) = (NOW, Vec::new(), 0);
        for number in 0..1_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += (random >> 33) % 350;
            let count = uses.iter().filter(|used| *used + window > now).count();
            let used = batch.intend(UnixMillis::new(now), action(number))?.is_ok();
            assert_eq!(used, count < allowed, "use {number} at {now}, after {uses:?}");
            if used { uses.push(now) } else { refused += 1 }
        }
        Ok((uses.len(), refused))
    };
    let (used, refused) = kms.writer.write(write).await.expect("written");
    assert!(used > 100 && refused > 100, "{used} {refused}");
    kms.verify_log();
}

#[tokio::test]
async fn a_clock_that_was_wrong_stops_a_rate_until_a_person_sets_it_again() {
    let kms = SmallKms::pinned().await;
    kms.limit(r#"{"rate":"1/1h"}"#).await.expect("limited");
    kms.set_clock(365 * DAY);
    kms.signing.sign(action(1)).await.expect("signed");
    kms.set_clock(DAY);
    assert_eq!(refusal(kms.signing.sign(action(2)).await), Some(("rate-reached", true)));
    kms.limit(r#"{"rate":"1/1h"}"#).await.expect("limited");
    assert_eq!(refusal(kms.signing.sign(action(2)).await), Some(("rate-reached", true)));
    kms.set_clock(DAY + DAY / 24);
    kms.signing.sign(action(2)).await.expect("signed");
    kms.settled().await;
    kms.verify_log();
}

#[tokio::test]
async fn a_count_is_of_all_uses_since_the_key_was_made() {
    let kms = SmallKms::pinned().await;
    for number in 1..=5 {
        kms.signing.sign(action(number)).await.expect("signed");
    }
    let refused = kms.limit(r#"{"uses":5}"#).await.expect_err("it would be deactivated at once");
    assert!(refused.to_string().contains("was used 5 times already"), "{refused}");
    let row = kms.limit(r#"{"uses":7,"rate":"6/1h"}"#).await.expect("limited");
    assert_eq!((row.used, row.limits), (5, read(r#"{"uses":7,"rate":"6/1h"}"#)));
    kms.signing.sign(action(6)).await.expect("signed");
    assert_eq!(refusal(kms.signing.sign(action(7)).await), Some(("rate-reached", true)));
    kms.limit(r#"{"rate":null}"#).await.expect("limited");
    kms.signing.sign(action(7)).await.expect("signed");
    assert_eq!(refusal(kms.signing.sign(action(8)).await), Some(("key-not-active", false)));
    kms.settled().await;
    kms.verify_log();
}

#[tokio::test]
async fn a_count_that_was_changed_in_the_file_is_found() {
    for change in [
        "UPDATE key SET limits = NULL",
        "UPDATE key SET limits = CAST('{\"uses\":9,\"rate\":\"3/1h\"}' AS BLOB)",
        "DELETE FROM key_use WHERE nth = 3",
        "UPDATE key_use SET nth = 1 WHERE nth = 3",
        "UPDATE key_use SET at = at - 1",
        "UPDATE key_use SET version = 2",
    ] {
        let kms = SmallKms::pinned().await;
        kms.limit(r#"{"uses":9,"rate":"2/1h"}"#).await.expect("limited");
        for (number, after) in [(1, 0), (2, 1), (3, DAY)] {
            kms.set_clock(after);
            kms.signing.sign(action(number)).await.expect("signed");
        }
        kms.settled().await;
        kms.verify_log();
        kms.file().execute_batch(change).expect("changed");
        let found = crate::audit::verify(&kms.store(), &[]);
        assert!(matches!(found, Err(crate::audit::AuditError::Table(_))), "{change}: {found:?}");
    }
}

#[tokio::test]
async fn a_limit_that_is_lifted_counts_no_more() {
    let kms = SmallKms::pinned().await;
    kms.limit(r#"{"uses":2}"#).await.expect("limited");
    kms.signing.sign(action(1)).await.expect("signed");
    let row = kms.limit(r#"{"uses":null}"#).await.expect("lifted");
    assert!(row.limits.is_empty());
    for number in 2..5 {
        kms.signing.sign(action(number)).await.expect("signed");
    }
    assert_eq!(kms.store().kept_uses().expect("read"), []);
    kms.settled().await;
    kms.verify_log();
}

#[tokio::test]
async fn a_limit_that_is_set_while_the_key_is_in_use_misses_no_use() {
    let kms = SmallKms::pinned().await;
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let signing = kms.signing.clone();
        callers.spawn(async move { signing.sign(action(number)).await.map(drop) });
    }
    let limited = kms.limit(r#"{"uses":100000,"rate":"50/1h"}"#).await.map(drop);
    limited.expect("limited");
    let signed = callers.join_all().await.into_iter().filter(Result::is_ok).count();
    kms.settled().await;
    kms.verify_log();
    let used = kms.store().key(&release(), KeyVersion::first()).expect("read").used;
    assert_eq!(usize::try_from(used), Ok(signed));
}

#[tokio::test]
async fn a_limit_counts_from_the_next_piece_of_work_on_that_is_written() {
    let kms = SmallKms::pinned().await;
    let (at, first) = (UnixMillis::new(NOW), KeyVersion::first());
    let write = move |batch: &mut Batch<'_>| {
        let limits: Limits = read(r#"{"uses":2}"#);
        let before = batch.intend(at, action(1))?;
        let mut uses = Uses::of(&release(), first, &limits);
        uses.read_on(batch.store())?;
        batch.set_limits(at, None, (&release(), first), &limits, &uses)?;
        let used = [before, batch.intend(at, action(2))?, batch.intend(at, action(3))?];
        Ok(used.map(|intended| intended.map(|intended| intended.used)))
    };
    let used = kms.writer.write(write).await.expect("written");
    assert_eq!(used, [Ok(None), Ok(Some(2)), Err(LimitReached::UsedUp)]);
    kms.verify_log();
}

#[tokio::test]
async fn a_contract_whose_key_is_deactivated_ends_what_it_has_opened_and_opens_nothing() {
    for limits in [r#"{"uses":2}"#.to_owned(), format!(r#"{{"deactivates":{}}}"#, NOW + 1_000)] {
        let kms = SmallKms::pinned().await;
        let key = governing_key();
        let by_contract = |purpose, request| order(purpose, request, &key, KeyVersion::first());
        kms.admin().limit(key.clone(), None, read(&limits), PERSON).await.expect("limited");
        // The second vote request is on disk, and not signed: there is no token.
        kms.signing.sign(by_contract(Purpose::VoteRequest, 1)).await.expect("signed");
        kms.token.token().is_gone = true;
        kms.signing.sign(by_contract(Purpose::VoteRequest, 2)).await.expect_err("no token");
        kms.token.token().is_gone = false;
        kms.live_until(1_000).await;
        let kms = kms.restart();
        let row = kms.pins.key_row(&key, KeyVersion::first()).expect("it is there");
        assert_eq!(row.state, KeyState::Deactivated, "{limits}");

        let refused = Some(("key-not-active", false));
        assert_eq!(refusal(kms.signing.sign(by_contract(Purpose::VoteRequest, 3)).await), refused);
        // Only the key that opened a request ends it.
        kms.limit(&format!(r#"{{"deactivates":{}}}"#, NOW + 2_000)).await.expect("limited");
        kms.set_clock(2_000);
        let other_key = order(Purpose::Decision, 2, &release(), KeyVersion::first());
        assert_eq!(refusal(kms.signing.sign(other_key).await), refused);
        for request in [1, 2] {
            use Purpose::{Change, Decision, TransitionFirst, VoteRequest};
            for purpose in [VoteRequest, Decision, TransitionFirst, Change] {
                kms.signing.sign(by_contract(purpose, request)).await.expect("signed");
            }
            // An intent is carried out, and nothing else in its place.
            let other = ToSign::Message(b"something else".to_vec());
            let other = Order { to_sign: other, ..by_contract(Purpose::Decision, request) };
            assert_eq!(refusal(kms.signing.sign(other).await), Some(("conflict", false)));
        }
        // What nobody opened with it here is not ended with it.
        for purpose in [Purpose::Decision, Purpose::TransitionFirst, Purpose::Change] {
            assert_eq!(refusal(kms.signing.sign(by_contract(purpose, 3)).await), refused, "{purpose:?}");
        }
        kms.settled().await;
        kms.verify_log();

        kms.admin().compromised(key.clone(), None, PERSON).await.expect("legal");
        let begun = by_contract(Purpose::Decision, 1);
        assert_eq!(refusal(kms.signing.sign(begun).await), Some(("key-compromised", false)));
    }
}

#[tokio::test]
async fn a_wrong_signature_suspends_no_key_that_ends_what_it_has_begun() {
    let kms = SmallKms::pinned().await;
    kms.limit(r#"{"uses":1}"#).await.expect("limited");
    kms.token.token().signs_wrongly = true;
    assert_eq!(refusal(kms.signing.sign(action(1)).await), Some(("device-failed", false)));
    kms.token.token().signs_wrongly = false;
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Deactivated);
    kms.signing.sign(action(1)).await.expect("the intent is carried out");
    kms.live_until(1).await;
    assert_eq!(kms.recorded_states(KeyVersion::first()), ["active -> deactivated: its uses are used up"]);
    kms.verify_log();
}

#[tokio::test]
async fn the_next_version_has_the_same_count_and_rate_and_dates_of_its_own() {
    let kms = SmallKms::pinned().await;
    let over = NOW + DAY;
    kms.limit(&format!(r#"{{"deactivates":{over},"uses":1,"rate":"1/1h"}}"#)).await.expect("limited");
    kms.signing.sign(action(1)).await.expect("signed");
    assert_eq!(kms.state(KeyVersion::first()), KeyState::Deactivated);
    // A key that is used up is followed by its next version as any other.
    kms.changes().rotate(rotation(1, TransitionReason::Rotation)).await.expect("rotated");
    kms.set_clock(DAY);
    let second = KeyVersion::first().next();
    let row = kms.pins.key_row(&release(), second).expect("it is there");
    assert_eq!((row.limits, row.used), (read(r#"{"uses":1,"rate":"1/1h"}"#), 0));
    let dated = kms.limit(&format!(r#"{{"activates":{}}}"#, over + DAY)).await.expect_err("it is active");
    assert_eq!(dated.code(), "limits");
    kms.signing.sign(order(Purpose::Action, 2, &release(), second)).await.expect("signed");
    let third = kms.signing.sign(order(Purpose::Action, 3, &release(), second)).await;
    assert_eq!(refusal(third), Some(("key-not-active", false)));
    kms.live_until(DAY).await;
    kms.verify_log();
}

#[tokio::test]
async fn a_key_that_was_to_end_before_it_began_is_not_pinned() {
    let kms = SmallKms::made(read(&format!(r#"{{"deactivates":{}}}"#, NOW + 1_000))).await;
    kms.set_clock(1_000);
    let refused = kms.pin().await.expect_err("refused");
    assert!(refused.to_string().contains("`assent-kms key limit` sets another date"), "{refused}");
    kms.limit(&format!(r#"{{"deactivates":{}}}"#, NOW + DAY)).await.expect("another date");
    kms.pin().await.expect("pinned");
    kms.signing.sign(action(1)).await.expect("signed");
}

#[tokio::test]
async fn what_is_soon_to_become_of_a_key_is_said_before() {
    let kms = SmallKms::pinned().await;
    let month = assent_consensus::time::Millis::new(30 * DAY);
    let said = |kms: &SmallKms| {
        let (row, now) =
            (kms.pins.key_row(&release(), KeyVersion::first()).expect("it is there"), (kms.clock())());
        notice(&row, kms.pins.state_at(&row, now), now, month)
    };
    let remedy = "approve a `rotate-key` case before that";
    kms.limit(&format!(r#"{{"deactivates":{},"uses":10}}"#, NOW + 31 * DAY)).await.expect("limited");
    assert_eq!(said(&kms), None);
    kms.set_clock(DAY);
    let date = "is to be deactivated at 2027-02-15T08:00:00Z, in 30days";
    assert_eq!(said(&kms), Some(format!("{date}: {remedy}")));
    for number in 1..=8 {
        kms.signing.sign(action(number)).await.expect("signed");
    }
    assert_eq!(said(&kms), Some(format!("{date}: {remedy}")));
    kms.signing.sign(action(9)).await.expect("signed");
    assert_eq!(said(&kms), Some(format!("{date}, and has 1 of 10 uses left: {remedy}")));
    kms.signing.sign(action(10)).await.expect("signed");
    assert_eq!(said(&kms), None, "it is over");
}
