//! Policies: one is put into force as it was approved, and what begins goes by the one that is in force then.

use std::sync::Arc;

use assent_consensus::bundle::Bundle;
use assent_consensus::digest::Digest;
use assent_consensus::duty::Duty;
use assent_consensus::encoding::Bytes;
use assent_consensus::jws::Signed;
use assent_consensus::message::VoteRequest;
use assent_consensus::policy::Policy;
use assent_consensus::standing::{AdoptedPolicy, Successions};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};

use super::world::{Asked, HOUR, MINUTE, World, name};

impl World {
    /// The approved change of a policy, with this document.
    async fn change_duty(&mut self, document: Option<&[u8]>) -> (Asked, Bundle, Duty) {
        let (asked, bundle) = self.approve("policy-change", "change").await;
        let due = self.action_due(&asked, &bundle);
        let Duty::Action { bundle: proof, due, .. } = self.action_duty(&bundle, due) else { unreachable!() };
        let document = document.map(|document| Bytes(document.to_vec()));
        (asked, bundle, Duty::Action { bundle: proof, document, due })
    }

    /// Pins the policy that is proposed, from a moment on.
    fn adopt(&self, effective: u64) {
        let policy = Arc::new(Policy::parse(&self.proposed).unwrap());
        let mut successions = Successions::default();
        let (earliest, latest) = (UnixMillis::new(effective), UnixMillis::new(effective));
        let adopted = AdoptedPolicy { digest: policy.digest(), decided: earliest, earliest, latest };
        successions.learn(policy);
        successions.adopt(name("release-approval"), adopted);
        self.books.pages().successions = Arc::new(successions);
    }

    async fn opened(&mut self, case: &str) -> VoteRequest {
        let (start, call) = self.case("release-signing", case);
        let duty = self.vote_request_duty(&start, &call);
        let jws = self.signed(duty).await;
        Signed::<VoteRequest>::from_jws(jws).unwrap().unverified().clone()
    }
}

#[tokio::test]
async fn an_approved_policy_is_put_into_force_as_it_was_approved() {
    let mut world = World::new();
    let proposed = world.proposed.clone();
    let (asked, bundle, duty) = world.change_duty(Some(&proposed)).await;
    world.needs_person(duty, "device-failed").await;
    let pages = world.books.pages();
    let [change] = &pages.changes[..] else { panic!("one change") };
    assert_eq!(change.policy.document(), proposed);
    assert_eq!(change.from, Digest::of(&bundle.policy.0));
    assert_eq!((&change.contract, &change.subject), (&name("release-approval"), &asked.vote_request.subject));
    assert_eq!(change.mandate.decision, bundle.decision.digest());
    assert_eq!(change.mandate.act_by.get() - change.mandate.decided.get(), 7 * 24 * HOUR);
}

#[tokio::test]
async fn a_document_that_is_not_the_approved_policy_is_refused() {
    let mut world = World::new();
    let other = [&world.proposed[..], b"# with a word more\n"].concat();
    for (document, reason) in [(None, "no-document"), (Some(&other[..]), "other-document")] {
        let (_, _, duty) = world.change_duty(document).await;
        world.needs_person(duty, reason).await;
    }
    assert!(world.books.pages().changes.is_empty());
}

#[tokio::test]
async fn a_policy_that_the_contract_could_not_have_is_refused_although_it_was_approved() {
    let good = String::from_utf8(World::new().proposed).unwrap();
    for (policy, reason) in [
        (good.replace("at_least = 1", "at_least = 4"), "bad-policy"),
        (good.replace("name = \"release-approval\"", "name = \"nightly\""), "other-contract"),
        (good.replace(&World::new().voters[0].toml(), &World::new().contract.toml()), "role-conflict"),
    ] {
        let mut world = World::new();
        world.proposed = policy.into_bytes();
        let proposed = world.proposed.clone();
        let (_, _, duty) = world.change_duty(Some(&proposed)).await;
        world.needs_person(duty, reason).await;
        assert!(world.books.pages().changes.is_empty());
    }
}

#[tokio::test]
async fn what_begins_goes_by_the_policy_that_is_in_force_then() {
    let mut world = World::new();
    let old = world.genesis.contract(&name("release-approval")).unwrap().policy.digest();
    let new = Digest::of(&world.proposed);
    world.adopt(world.now() + 5_000);
    assert_eq!(world.opened("1").await.policy, old);
    world.set_clock(world.now() + 5_000);
    assert_eq!(world.opened("2").await.policy, new);
}

#[tokio::test]
async fn nothing_begins_while_the_policy_in_force_is_not_signed_yet() {
    let mut world = World::new();
    world.books.pages().awaited.insert(name("release-approval"));
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.retry(duty.clone(), "policy-not-yet-in-force").await;
    // Other contracts go on.
    let (start, call) = world.case("nightly-signing", "2");
    let other = world.vote_request_duty(&start, &call);
    world.signed(other).await;
    world.books.pages().awaited.clear();
    world.signed(duty).await;
}

#[tokio::test]
async fn nothing_begins_by_the_old_policy_while_the_new_one_is_being_pinned() {
    let mut world = World::new();
    let new = Digest::of(&world.proposed);
    world.adopt(world.now());
    {
        let mut pages = world.books.pages();
        pages.awaited.insert(name("release-approval"));
        pages.signed_meanwhile = Some(std::mem::take(&mut pages.successions));
    }
    assert_eq!(world.opened("1").await.policy, new);
}

#[tokio::test]
async fn what_only_the_next_policy_decides_waits_for_it() {
    let mut world = World::new();
    let kinds = "kinds = [\"sign\", \"change-policy\"]";
    let proposed = String::from_utf8(world.proposed.clone()).unwrap();
    world.proposed = proposed.replace(kinds, "kinds = [\"sign\", \"record\"]").into_bytes();
    world.adopt(world.now());
    let (start, call) = world.case("policy-change", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "may-not-decide").await;
    world.proposed = proposed.replace(kinds, "kinds = [\"record\"]").into_bytes();
    world.adopt(world.now());
    let (start, call) = world.case("release-signing", "2");
    let duty = world.vote_request_duty(&start, &call);
    world.needs_person(duty, "may-not-decide").await;
    // Both policies: the second, from later on, decides it again.
    let mut successions = Successions::clone(&world.books.pages().successions);
    let again = Arc::new(Policy::parse(proposed.as_bytes()).unwrap());
    let later = UnixMillis::new(world.now() + 5_000);
    successions.learn(again.clone());
    let adopted = AdoptedPolicy { digest: again.digest(), decided: later, earliest: later, latest: later };
    successions.adopt(name("release-approval"), adopted);
    world.books.pages().successions = Arc::new(successions);
    let (start, call) = world.case("release-signing", "3");
    let duty = world.vote_request_duty(&start, &call);
    world.retry(duty.clone(), "policy-not-yet-in-force").await;
    world.set_clock(later.get());
    world.signed(duty).await;
}

#[tokio::test]
async fn what_was_open_is_decided_and_done_by_the_policy_that_it_was_opened_by() {
    let mut world = World::new();
    let before = world.ask("release-signing", "before").await;
    world.adopt(world.now() + 1_000);
    world.set_clock(world.now() + 1_000);
    let after = world.ask("release-signing", "after").await;
    let one = |world: &World, asked: &Asked| vec![world.ballot(asked, 0, Choice::Approve, MINUTE)];
    // One approval is enough for the one, and not for the other.
    let ballots = one(&world, &after);
    let decided = ballots[0].at;
    world.set_clock(decided.get());
    let duty = world.decision_duty(&after, &ballots, None, Outcome::Approved, decided);
    let decision = world.signed(duty).await;
    let mut bundle = world.bundle(&after, ballots, decision);
    bundle.policy = Bytes(world.proposed.clone());
    let due = world.action_due(&after, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.done(duty).await;

    let ballots = one(&world, &before);
    let decided = ballots[0].at;
    let duty = world.decision_duty(&before, &ballots, None, Outcome::Approved, decided);
    world.needs_person(duty, "too-few-votes").await;
    let duty = world.approval_duty(&before);
    let decision = world.signed(duty).await;
    let ballots = world.approvals(&before);
    let bundle = world.bundle(&before, ballots, decision);
    let due = world.action_due(&before, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.done(duty).await;
}
