//! Policies that are replaced, on both ledgers.

use super::world::{DAY, HOUR, World, code, name};
use crate::contract::record::{CaseStage, RequestState};
use crate::contract::{Rejection, query};
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::event::{CaseOutcome, EventBytes, ProcessEvent};
use crate::header::Inclusion;
use crate::json;
use crate::jws::{Jws, Signed};
use crate::message::{Change, KeyVersion, RequestId};
use crate::policy::Policy;
use crate::subject::Subject;
use crate::time::UnixMillis;
use crate::transaction::Carrier;
use crate::vote::Choice;

use super::ledger::Key;

/// Rules that one engineer fulfils, beside the other lines of a policy.
const ONE: &str = "rule = { at_least = 1, of = \"engineers\" }";

impl World {
    /// The policy of `release-approval` that one engineer can approve by.
    pub(crate) fn lighter(&self) -> Vec<u8> {
        let document = self.policy("release-approval").document().to_vec();
        let document = String::from_utf8(document).unwrap();
        document.replace("rule = { at_least = 2, of = \"engineers\" }", ONE).into_bytes()
    }

    /// A policy of `board` that decides on what it lists, by one of two officers.
    pub(crate) fn officers(&self, kinds: &str) -> Vec<u8> {
        let voter = |voter: usize, key: &Key| {
            format!("[[voter]]\nname = \"v{voter}\"\nkey = {}\ngroups = [\"officers\"]\n", key.toml())
        };
        let rule = "rule = { at_least = 1, of = \"officers\" }";
        let (first, second) = (voter(4, &self.voters[4]), voter(0, &self.voters[0]));
        format!("name = \"board\"\nkinds = [{kinds}]\ndeadline = \"72h\"\n{rule}\n{first}{second}")
            .into_bytes()
    }

    /// A `change-policy` case that was approved; gives what the KMS makes of it.
    pub(crate) fn approve_change(&mut self, contract: &str, case: &str, document: &[u8]) -> Change {
        self.proposed = document.to_vec();
        self.on_process(document).unwrap();
        let process = format!("change-{}", contract.trim_start_matches("release-"));
        let request = self.open(&process, case);
        self.approve_by_all(request);
        self.change_of(request)
    }

    /// Votes until it is decided, and carries the decision back.
    pub(crate) fn approve_by_all(&mut self, request: RequestId) {
        for voter in 0..2 {
            if self.state(request) == RequestState::Open {
                self.vote(request, voter, Choice::Approve).unwrap();
            }
        }
        self.decide(request);
        self.answer(request).unwrap();
    }

    fn change_of(&self, request: RequestId) -> Change {
        Change {
            deployment: self.genesis.id(),
            subject: self.request(request).call.subject,
            decision: self.request(request).decision.unwrap().digest(),
            effective: self.time(),
        }
    }

    pub(crate) fn send_change(
        &mut self,
        change: &Jws,
        document: Option<&[u8]>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let document = document.map(|document| Bytes(document.to_vec()));
        let carrier = Carrier::Change { change: change.clone(), document, audit: Digest::of(b"audit") };
        self.on_process(json::write(&carrier))
    }

    /// The last block's `changed`.
    fn told(&self) -> Inclusion {
        let height = self.processes.height();
        let is_it =
            |event: &EventBytes| matches!(ProcessEvent::parse(&event.0), Ok(ProcessEvent::Changed { .. }));
        let index = self.processes.events(height).iter().position(is_it).unwrap();
        self.processes.inclusion(height, index)
    }

    fn relay_change(
        &mut self,
        change: &Jws,
        document: &[u8],
        inclusion: &Inclusion,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let (document, inclusion) = (Bytes(document.to_vec()), inclusion.clone());
        let carrier = Carrier::RelayedChange { change: change.clone(), document, inclusion };
        self.on_consensus(json::write(&carrier))
    }

    /// All of it.
    pub(crate) fn change_policy(&mut self, contract: &str, case: &str, document: &[u8]) {
        let says = self.approve_change(contract, case, document);
        let change = self.contract.sign(says);
        self.send_change(&change, Some(document)).unwrap();
        let told = self.told();
        self.relay_change(&change, document, &told).unwrap();
    }
}

#[test]
fn what_was_open_ends_by_the_old_policy_and_what_begins_goes_by_the_new_one() {
    let mut world = World::new();
    let before = world.open("release-signing", "before");
    let (old, lighter) = (world.policy("release-approval").digest(), world.lighter());
    world.change_policy("release-approval", "change", &lighter);
    assert!(matches!(world.case("change").status.stage, CaseStage::Ended { outcome: CaseOutcome::Done, .. }));
    let after = world.open("release-signing", "after");
    let policy = |world: &World, request| world.request(request).opened.unwrap().policy;
    assert_eq!((policy(&world, before), policy(&world, after)), (old, Digest::of(&lighter)));

    world.vote(after, 0, Choice::Approve).unwrap();
    world.decide(after);
    world.answer(after).unwrap();
    world.vote(before, 0, Choice::Approve).unwrap();
    assert_eq!(world.state(before), RequestState::Open, "two are needed");
    world.vote(before, 1, Choice::Approve).unwrap();
    world.decide(before);
    world.answer(before).unwrap();
    for (case, request) in [("before", before), ("after", after)] {
        let output = world.output_by(case, KeyVersion::first());
        world.result(request, output).unwrap();
    }
    // And the next change follows this one, not the first.
    let again = world.approve_change("release-approval", "again", &lighter_still(&lighter));
    let Subject::ChangePolicy { from, .. } = again.subject else { panic!("a change of a policy") };
    assert_eq!(from, Digest::of(&lighter));
}

fn lighter_still(document: &[u8]) -> Vec<u8> {
    [document, b"# with a word more\n"].concat()
}

#[test]
fn what_begins_does_not_use_another_policy_than_that_in_force() {
    let mut world = World::new();
    let (old, lighter) = (world.policy("release-approval"), world.lighter());
    let says = world.approve_change("release-approval", "change", &lighter);
    let effective = UnixMillis::new(world.now + HOUR);
    let change = world.contract.sign(Change { effective, ..says });
    world.send_change(&change, Some(&lighter)).unwrap();
    let told = world.told();
    world.relay_change(&change, &lighter, &told).unwrap();
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();

    let early = world.vote_request_of(request);
    assert_eq!(early.policy, old.digest(), "not yet");
    let mut too_early = early.clone();
    too_early.policy = Digest::of(&lighter);
    assert_eq!(code(world.send_vote_request(too_early)), "wrong-policy");
    world.later(2 * HOUR).tick();
    let mut late = world.vote_request_of(request);
    assert_eq!(late.policy, Digest::of(&lighter));
    late.policy = old.digest();
    assert_eq!(code(world.send_vote_request(late)), "wrong-policy");
    // It was opened in time, and comes late.
    world.send_vote_request(early).unwrap();
}

/// Changes what the governing contract says.
type Edit = fn(&World, &mut Change);

#[test]
fn a_change_that_is_not_what_was_approved_is_refused_by_both_ledgers() {
    let mut world = World::new();
    let lighter = world.lighter();
    let good = world.approve_change("release-approval", "change", &lighter);
    let edits: [(&str, Edit); 4] = [
        ("not-approved", |_, says| {
            if let Subject::ChangePolicy { to, .. } = &mut says.subject {
                *to = Digest::of(b"another");
            }
        }),
        ("unknown-decision", |_, says| says.decision = Digest::ZERO),
        ("wrong-effective", |_, says| says.effective = UnixMillis::new(1)),
        ("wrong-effective", |world, says| says.effective = UnixMillis::new(world.now + 8 * DAY)),
    ];
    let signed = world.contract.sign(good.clone());
    let strangers = world.board.sign(good.clone());
    let other = lighter_still(&lighter);
    for (expected, edit) in edits {
        let mut says = good.clone();
        edit(&world, &mut says);
        let change = world.contract.sign(says);
        assert_eq!(code(world.send_change(&change, Some(&lighter))), expected);
    }
    assert_eq!(code(world.send_change(&strangers, Some(&lighter))), "wrong-key");
    assert_eq!(code(world.send_change(&signed, None)), "no-document");
    assert_eq!(code(world.send_change(&signed, Some(&other))), "other-document");
    world.send_change(&signed, Some(&lighter)).unwrap();
    let told = world.told();
    assert_eq!(code(world.send_change(&signed, Some(&lighter))), "not-due");

    for (expected, edit) in edits {
        let mut says = good.clone();
        edit(&world, &mut says);
        let change = world.contract.sign(says);
        // The event is about the message that the process ledger took.
        assert_eq!(code(world.relay_change(&change, &lighter, &told)), "not-a-change", "{expected}");
    }
    assert_eq!(code(world.relay_change(&signed, &other, &told)), "other-document");
    let other_told = world.call_of(world.asked("change"));
    assert_eq!(code(world.relay_change(&signed, &lighter, &other_told)), "not-a-change");
    world.relay_change(&signed, &lighter, &told).unwrap();
    assert_eq!(code(world.relay_change(&signed, &lighter, &told)), "already-changed");
}

#[test]
fn of_two_changes_from_one_policy_the_second_is_refused() {
    let mut world = World::new();
    let lighter = world.lighter();
    world.on_process(lighter.clone()).unwrap();
    world.proposed = lighter.clone();
    let first = world.open("change-approval", "first");
    let second = world.open("change-approval", "second");
    let third = world.start("change-approval", "third");
    world.call(third).unwrap();
    for request in [first, second] {
        world.approve(request);
    }
    let changes = [first, second].map(|request| world.contract.sign(world.change_of(request)));
    world.send_change(&changes[0], Some(&lighter)).unwrap();
    let told = world.told();
    assert_eq!(code(world.send_change(&changes[1], Some(&lighter))), "policy-not-in-force");
    // What was called and is not open is not asked any more.
    world.relay_change(&changes[0], &lighter, &told).unwrap();
    assert!(matches!(world.state(third), RequestState::Refused { .. }));
    assert!(world.consensus.types().ends_with(&["changed".to_owned(), "request-refused".to_owned()]));
    world.answer(third).unwrap();
    let fourth = world.start("release-signing", "fourth");
    world.call(fourth).unwrap();
    assert_eq!(world.state(fourth), RequestState::Called);
}

#[test]
fn what_was_approved_before_a_policy_came_back_does_not_follow_it() {
    let mut world = World::new();
    let (old, lighter) = (world.policy("release-approval").document().to_vec(), world.lighter());
    let still = lighter_still(&lighter);
    let stale = world.approve_change("release-approval", "stale", &still);
    let stale = world.contract.sign(stale);
    world.change_policy("release-approval", "there", &lighter);
    assert_eq!(code(world.send_change(&stale, Some(&still))), "policy-not-in-force");
    world.change_policy("release-approval", "back", &old);
    let now = Signed::<Change>::from_jws(stale).unwrap().unverified().clone();
    let late = world.contract.sign(Change { effective: UnixMillis::new(world.now + HOUR), ..now });
    assert_eq!(code(world.send_change(&late, Some(&still))), "overtaken");
    // What is approved now does.
    world.change_policy("release-approval", "again", &lighter_still(&still));
}

#[test]
fn what_a_new_policy_does_not_decide_is_refused_before_it_is_asked() {
    let mut world = World::new();
    let open = world.open("minutes", "open");
    let called = world.start("minutes", "called");
    world.call(called).unwrap();
    let officers = world.officers("\"sign\"");
    world.change_policy("board", "change", &officers);
    assert!(matches!(world.state(called), RequestState::Refused { .. }));
    assert_eq!(world.state(open), RequestState::Open);
    assert!(query::pending_duties(&world.consensus.state, None, 10).is_empty());
    let later = world.start("minutes", "later");
    world.call(later).unwrap();
    assert!(matches!(world.state(later), RequestState::Refused { .. }));
    // A voter that the new policy alone has votes on what is asked now.
    let signing = world.open("board-signing", "signing");
    world.vote(signing, 0, Choice::Approve).unwrap();
    assert!(matches!(world.state(signing), RequestState::Fixed { .. }));
    assert_eq!(code(world.vote(open, 0, Choice::Approve)), "not-a-voter");
}

#[test]
fn a_policy_that_its_contract_could_not_have_is_refused_when_it_is_proposed() {
    let mut world = World::new();
    let text = |document: Vec<u8>| String::from_utf8(document).unwrap();
    let good = text(world.lighter());
    let never = good.replace(ONE, "rule = { at_least = 9, of = \"engineers\" }");
    let of_contract = good.replace(&world.voters[0].toml(), &world.board.toml());
    let of_validator = good.replace(&world.voters[0].toml(), &Key::new(5).toml());
    let of_board = text(world.officers("\"record\""));
    for (document, why) in [
        ("a file that is none", "`assent policy check`"),
        (&never, "`assent policy check`"),
        (&of_contract, "one role"),
        (&of_validator, "one role"),
        (&of_board, "`board`"),
        (&good[1..], "no policy"),
    ] {
        world.proposed = document.as_bytes().to_vec();
        world.on_process(document).unwrap();
        let start = world.requester.sign(world.start_of("change-approval", "a"));
        let rejection = world.on_process(start.as_str()).expect_err(document);
        assert_eq!(rejection.code, "bad-policy", "{document}");
        assert!(rejection.message.contains(why), "{}", rejection.message);
    }
    // A key that became a contract's since genesis is no voter's either.
    world.rotate("rotate-board", "rotation");
    let later = &world.later_keys[&super::rotation::contract("board")][0];
    let of_later = good.replace(&world.voters[0].toml(), &later.toml());
    assert!(Policy::parse(of_later.as_bytes()).is_ok());
    world.proposed = of_later.clone().into_bytes();
    world.on_process(of_later).unwrap();
    let start = world.requester.sign(world.start_of("change-approval", "a"));
    assert_eq!(code(world.on_process(start.as_str())), "bad-policy");
}

#[test]
fn an_attachment_that_is_no_policy_leaves_no_more_than_its_digest() {
    let mut world = World::new();
    let keys = |world: &World| world.processes.state.0.len();
    let before = keys(&world);
    world.on_process("a file that is none").unwrap();
    world.on_process("name = \"release-approval\"").unwrap();
    assert_eq!(keys(&world), before + 2);
}

#[test]
fn a_later_key_is_no_voters_of_a_policy_since_genesis() {
    let mut world = World::new();
    let officers = world.officers("\"sign\"");
    let newcomer = Key::new(77);
    let officers = String::from_utf8(officers).unwrap().replace(&world.voters[0].toml(), &newcomer.toml());
    world.change_policy("board", "change", officers.as_bytes());
    let (mut says, _) = world.approve_rotation("rotate-release", "rotation");
    says.to = newcomer.public.clone();
    let pair = world.pair_of(&says, &newcomer);
    assert_eq!(code(world.send_transition(&pair)), "role-conflict");
}

#[test]
fn a_deadline_of_a_policy_since_genesis_counts_for_a_key_that_is_retired() {
    let mut world = World::new();
    let officers = world.officers("\"sign\"");
    world.change_policy("board", "change", &officers);
    let (mut says, new) = world.approve_rotation("rotate-board", "rotation");
    // The 24 hours of genesis are not enough for what was opened for 72.
    says.old_retires = says.activates.after(crate::time::Millis::new(71 * HOUR));
    let pair = world.pair_of(&says, &new);
    assert_eq!(code(world.send_transition(&pair)), "retires-too-early");
    says.old_retires = says.activates.after(crate::time::Millis::new(72 * HOUR));
    let pair = world.pair_of(&says, &new);
    world.send_transition(&pair).unwrap();
    assert_eq!(query::all_policies(&world.processes.state).len(), 1);
    assert_eq!(query::policies(&world.consensus.state, &name("board")).len(), 1);
}
