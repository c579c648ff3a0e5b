//! Keys that are replaced, on both ledgers.

use super::world::{HOUR, World, code, name};
use crate::bundle::TransitionPair;
use crate::contract::record::RequestState;
use crate::contract::{Rejection, query};
use crate::digest::Digest;
use crate::event::{EventBytes, ProcessEvent};
use crate::json;
use crate::jws::{Jws, Signed};
use crate::message::{Change, KeyTransition, KeyVersion, RequestId, TransitionReason};
use crate::standing::KeyName;
use crate::subject::Subject;
use crate::time::Millis;
use crate::transaction::Carrier;
use crate::vote::{Choice, Outcome};

use super::ledger::Key;

const LONG: Millis = Millis::from_secs(48 * 3_600);

pub(crate) fn release() -> KeyName {
    KeyName::Operational(name("release"))
}

pub(crate) fn contract(text: &str) -> KeyName {
    KeyName::Contract(name(text))
}

impl World {
    /// A `rotate-key` case that was approved; gives what the KMS makes of it, and the new key.
    pub(crate) fn approve_rotation(&mut self, process: &str, case: &str) -> (KeyTransition, Key) {
        let request = self.open(process, case);
        self.approve(request);
        self.transition_of(request)
    }

    /// What the KMS makes of an approved `rotate-key`, and the new key.
    fn transition_of(&self, request: RequestId) -> (KeyTransition, Key) {
        let call = self.request(request).call;
        let key = crate::transition::target_of(&call.subject).unwrap();
        let later = self.later_keys.get(&key).map_or(0, Vec::len);
        let version = KeyVersion(json::Integer::saturating(later as u64 + 1));
        let new = Key::new(200 + self.later_keys.values().map(Vec::len).sum::<usize>() as u8);
        let (contract, operational) = match &key {
            KeyName::Contract(name) => (Some(name.clone()), None),
            KeyName::Operational(name) => (None, Some(name.clone())),
        };
        let says = KeyTransition {
            deployment: self.genesis.id(),
            contract,
            key: operational,
            version: version.next(),
            from: self.key_of(&key, version).public.thumbprint(),
            to: new.public.clone(),
            reason: crate::transition::reason_of(&call.subject),
            activates: self.time(),
            old_retires: self.time().after(LONG),
            decision: self.request(request).decision.unwrap().digest(),
        };
        (says, new)
    }

    /// The two messages; `first` signed with the version of the governing contract's key that signed the decision.
    pub(crate) fn pair_of(&self, says: &KeyTransition, new: &Key) -> TransitionPair {
        let version = self.version_that_decided(says.decision);
        let first = self.key_of(&contract("release-approval"), version).sign(says.clone());
        TransitionPair { first, new: new.sign(says.clone()) }
    }

    fn version_that_decided(&self, decision: Digest) -> KeyVersion {
        let requests = query::requests(&self.consensus.state, query::Filter::All, 0, 1_000);
        let is_it = |record: &query::RequestRecord| {
            record.decision.as_ref().is_some_and(|jws| jws.digest() == decision)
        };
        let found = requests.into_iter().find(is_it);
        found.and_then(|record| record.opened).map_or_else(KeyVersion::first, |opened| opened.key_version)
    }

    pub(crate) fn send_transition(&mut self, pair: &TransitionPair) -> Result<Vec<EventBytes>, Rejection> {
        let audit = Digest::of(b"audit");
        self.on_process(json::write(&Carrier::Transition { transition: pair.clone(), audit }))
    }

    /// Carries the last block's `changed` to the consensus ledger.
    pub(crate) fn relay_transition(&mut self, pair: &TransitionPair) -> Result<Vec<EventBytes>, Rejection> {
        let height = self.processes.height();
        let is_it =
            |event: &EventBytes| matches!(ProcessEvent::parse(&event.0), Ok(ProcessEvent::Changed { .. }));
        let index = self.processes.events(height).iter().position(is_it).unwrap();
        let inclusion = self.processes.inclusion(height, index);
        self.on_consensus(json::write(&Carrier::RelayedTransition { transition: pair.clone(), inclusion }))
    }

    /// All of it.
    pub(crate) fn rotate(&mut self, process: &str, case: &str) -> TransitionPair {
        let (says, new) = self.approve_rotation(process, case);
        let pair = self.pair_of(&says, &new);
        self.send_transition(&pair).unwrap();
        self.relay_transition(&pair).unwrap();
        let key = crate::transition::key_of(&says).unwrap();
        self.later_keys.entry(key).or_default().push(new);
        pair
    }
}

#[test]
fn a_case_goes_on_when_its_key_is_replaced_and_both_ledgers_go_by_it() {
    let mut world = World::new();
    let before = world.open("release-signing", "before");
    let pair = world.rotate("rotate-approval", "rotation");
    assert!(matches!(world.case("rotation").status.stage, super::super::record::CaseStage::Ended { .. }));
    // What was open ends with the old version, what begins uses the new one.
    world.approve(before);
    let after = world.open("release-signing", "after");
    world.approve(after);
    let version = |world: &World, request| world.request(request).opened.unwrap().key_version;
    let first = KeyVersion::first();
    assert_eq!((version(&world, before), version(&world, after)), (first, first.next()));
    // It is taken once.
    assert_eq!(code(world.send_transition(&pair)), "already-changed");

    // The release key's next version signs what was approved, as its old one does until it is retired.
    world.rotate("rotate-release", "release-rotation");
    for (case, request, version) in [("before", before, first), ("after", after, first.next())] {
        let output = world.output_by(case, version);
        world.result(request, output).unwrap();
    }
}

#[test]
fn what_begins_does_not_use_another_version_than_that_in_force() {
    let mut world = World::new();
    world.rotate("rotate-approval", "rotation");
    let request = world.start("release-signing", "a");
    world.call(request).unwrap();
    let mut message = world.vote_request_of(request);
    message.key_version = KeyVersion::first();
    assert_eq!(code(world.send_vote_request(message.clone())), "unknown-key-version");
    message.key_version = KeyVersion::first().next();
    world.send_vote_request(message).unwrap();
}

#[test]
fn a_compromise_ends_what_is_open_and_the_case_asks_again() {
    let mut world = World::new();
    let open = world.open("minutes", "open");
    let called = world.start("minutes", "called");
    world.call(called).unwrap();
    let other = world.open("release-signing", "other");
    world.rotate("board-compromised", "emergency");
    for request in [open, called] {
        assert_eq!(world.state(request), RequestState::Void);
        world.answer(request).unwrap();
    }
    assert_eq!(world.state(other), RequestState::Open, "another contract's requests go on");
    for case in ["open", "called"] {
        let again = world.asked(case);
        world.open_request(again);
        assert_eq!(world.request(again).call.attempt.get(), 2);
        let opened = world.request(again).opened.unwrap();
        assert_eq!(opened.key_version, KeyVersion::first().next());
    }
    // A vote on what is void does not count, and a ballot on the new request does.
    assert_eq!(code(world.vote(open, 3, Choice::Approve)), "too-late");
    let again = world.asked("open");
    world.vote(again, 3, Choice::Approve).unwrap();
    world.later(2 * HOUR).tick();
    world.decide(again);
    assert!(matches!(world.state(again), RequestState::Decided { outcome: Outcome::Approved, .. }));
}

#[test]
fn what_a_compromised_key_approved_and_is_not_done_is_asked_again() {
    let mut world = World::new();
    let acting = world.open("board-signing", "acting");
    let decided = world.open("board-signing", "decided");
    for request in [acting, decided] {
        world.vote(request, 3, Choice::Approve).unwrap();
    }
    world.later(2 * HOUR).tick();
    world.decide(acting);
    world.answer(acting).unwrap();
    world.decide(decided);
    world.rotate("board-compromised", "emergency");
    // The one was about to be done; the other's answer comes when nobody trusts it any more.
    world.answer(decided).unwrap();
    for (case, void) in [("acting", acting), ("decided", decided)] {
        let again = world.asked(case);
        assert_ne!(again, void);
        let asked = query::case_request(&world.processes.state, void).unwrap().asked;
        assert_eq!(asked.answer, Some(super::super::record::Answer::Void));
        world.open_request(again);
        world.vote(again, 3, Choice::Approve).unwrap();
        world.later(2 * HOUR).tick();
        world.decide(again);
        world.answer(again).unwrap();
        assert!(
            query::pending_duties(&world.processes.state, None, 10).iter().any(|due| due.request == again)
        );
    }
    assert!(!query::pending_duties(&world.processes.state, None, 10).iter().any(|due| due.request == acting));
}

#[test]
fn a_destruction_is_recorded_by_the_statement_of_the_contract_that_approved_it() {
    let mut world = World::new();
    let request = world.open("destroy-release", "destruction");
    world.approve(request);
    let subject = world.request(request).call.subject;
    let decision = world.request(request).decision.unwrap().digest();
    let says = Change { deployment: world.genesis.id(), subject, decision, effective: world.time() };
    let send = |world: &mut World, change: Jws| {
        let audit = Digest::of(b"audit");
        world.on_process(json::write(&Carrier::Change { change, document: None, audit }))
    };
    let strangers = world.board.sign(says.clone());
    assert_eq!(code(send(&mut world, strangers)), "wrong-key");
    let mut other = says.clone();
    other.subject = world.request(world.asked("destruction")).call.subject;
    if let Subject::DestroyKey { version, .. } = &mut other.subject {
        *version = json::Integer::saturating(2);
    }
    let other = world.contract.sign(other);
    assert_eq!(code(send(&mut world, other)), "not-approved");
    let good = world.contract.sign(says);
    let told = send(&mut world, good.clone()).unwrap();
    let changed = |event: &EventBytes| matches!(ProcessEvent::parse(&event.0), Ok(ProcessEvent::Changed { change, .. }) if change == good.digest());
    assert!(told.iter().any(changed));
    assert_eq!(code(send(&mut world, good)), "not-due");
}

/// Changes what a transition says, and who signs it.
type Edit = fn(&World, &mut KeyTransition);

#[test]
fn what_is_not_the_approved_next_version_is_refused() {
    let changes: [(&str, Edit); 11] = [
        ("other-deployment", |_, says| says.deployment.0 = Digest::of(b"another")),
        ("other-key-version", |_, says| says.version = says.version.next()),
        ("other-key-version", |_, says| says.version = KeyVersion::first()),
        ("other-key", |world, says| says.from = world.stranger.public.thumbprint()),
        ("role-conflict", |world, says| says.to = world.voters[0].public.clone()),
        ("role-conflict", |world, says| says.to = world.release.public.clone()),
        ("not-approved", |_, says| says.reason = TransitionReason::Compromise),
        ("not-approved", |_, says| (says.contract, says.key) = (None, Some(name("release")))),
        ("unknown-decision", |_, says| says.decision = Digest::of(b"another")),
        ("retires-too-early", |_, says| says.old_retires = says.activates),
        ("unknown-key", |_, says| says.key = Some(name("release"))),
    ];
    let mut world = World::new();
    let (says, new) = world.approve_rotation("rotate-approval", "rotation");
    for (expected, change) in changes {
        let mut changed = says.clone();
        change(&world, &mut changed);
        if changed.key.is_some() && changed.contract.is_none() {
            changed.from = world.release.public.thumbprint();
        }
        let signer = world.key_of(&contract("release-approval"), KeyVersion::first());
        // The new key is whoever the message says it is.
        let by = [&world.voters[0], &world.release].into_iter().find(|key| key.public == changed.to);
        let new = by.unwrap_or(&new).sign(changed.clone());
        let pair = TransitionPair { first: signer.sign(changed), new };
        assert_eq!(code(world.send_transition(&pair)), expected);
    }
    let good = world.pair_of(&says, &new);
    let strangers = TransitionPair { first: world.stranger.sign(says.clone()), ..good.clone() };
    assert_eq!(code(world.send_transition(&strangers)), "wrong-key");
    let unproven = TransitionPair { new: world.stranger.sign(says.clone()), ..good.clone() };
    assert_eq!(code(world.send_transition(&unproven)), "wrong-key");
    let mut other = says;
    other.old_retires = other.old_retires.after(LONG);
    let mixed = TransitionPair { new: new.sign(other), ..good.clone() };
    assert_eq!(code(world.send_transition(&mixed)), "transition-differs");
    world.send_transition(&good).unwrap();
}

#[test]
fn a_rotation_that_was_not_approved_or_whose_key_signed_nothing_of_it_is_refused() {
    let mut world = World::new();
    let request = world.open("rotate-approval", "rotation");
    world.vote(request, 0, Choice::Reject).unwrap();
    world.vote(request, 1, Choice::Reject).unwrap();
    world.decide(request);
    world.answer(request).unwrap();
    let (says, new) = world.transition_of(request);
    let pair = world.pair_of(&says, &new);
    assert_eq!(code(world.send_transition(&pair)), "not-due");

    // The consensus ledger takes none that the process ledger does not tell of.
    let (says, new) = world.approve_rotation("rotate-board", "board-rotation");
    let good = world.pair_of(&says, &new);
    world.send_transition(&good).unwrap();
    let mut other = says;
    other.old_retires = other.old_retires.after(LONG);
    let other = world.pair_of(&other, &new);
    assert_eq!(code(world.relay_transition(&other)), "not-a-change");
    world.relay_transition(&good).unwrap();
    let message = Signed::<KeyTransition>::from_jws(good.new).unwrap();
    assert_eq!(message.unverified().version, KeyVersion::first().next());
}
