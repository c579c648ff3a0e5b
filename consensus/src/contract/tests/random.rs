//! Whatever comes in whatever order: nothing panics, nobody is counted twice, and it always ends the same.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::world::{HOUR, World};
use crate::contract::query;
use crate::contract::record::RequestState;
use crate::message::RequestId;
use crate::vote::Choice;

#[derive(Clone, Debug)]
enum Move {
    Start(usize, usize),
    Call(usize),
    VoteRequest(usize),
    Vote(usize, usize, Choice),
    Cancel(usize, bool),
    Decide(usize),
    Answer(usize),
    Result(usize),
    Wait(u64),
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![Just(Choice::Approve), Just(Choice::Reject), Just(Choice::Abstain)]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        2 => (0..3usize, 0..2usize).prop_map(|(process, case)| Move::Start(process, case)),
        4 => (0..2usize).prop_map(Move::Call),
        4 => (0..2usize).prop_map(Move::VoteRequest),
        14 => (0..2usize, 0..7usize, choice()).prop_map(|(r, voter, choice)| Move::Vote(r, voter, choice)),
        1 => (0..2usize, any::<bool>()).prop_map(|(case, first)| Move::Cancel(case, first)),
        5 => (0..2usize).prop_map(Move::Decide),
        5 => (0..2usize).prop_map(Move::Answer),
        4 => (0..2usize).prop_map(Move::Result),
        1 => prop_oneof![Just(1), Just(HOUR), Just(30 * HOUR), Just(200 * HOUR)].prop_map(Move::Wait),
    ];
    proptest::collection::vec(one, 1..200)
}

const PROCESSES: [&str; 3] = ["release-signing", "hotfix-signing", "minutes"];
const CASES: [&str; 2] = ["a", "b"];

/// The last request of a case, if it was started.
fn asked(world: &World, case: usize) -> Option<RequestId> {
    let requester = world.requester.public.thumbprint();
    let found = query::case(&world.processes.state, requester, &super::world::name(CASES[case]))?;
    found.status.requests.last().copied()
}

/// The same, if the consensus ledger knows it.
fn called(world: &World, case: usize) -> Option<RequestId> {
    asked(world, case).filter(|request| query::request(&world.consensus.state, *request).is_some())
}

fn play(moves: &[Move]) -> World {
    let mut world = World::new();
    for step in moves {
        // What is rejected is as good a move as any: the ledger checks that it leaves no trace.
        match step {
            Move::Start(process, case) => {
                let start = world.start_of(PROCESSES[*process], CASES[*case]);
                let start = world.requester.sign(start);
                let _ = world.on_process(start.as_str());
            }
            Move::Call(case) => {
                let _ = asked(&world, *case).map(|request| world.call(request));
            }
            Move::VoteRequest(case) => {
                let _ = called(&world, *case).map(|request| {
                    let message = world.vote_request_of(request);
                    world.send_vote_request(message)
                });
            }
            Move::Vote(case, voter, choice) => {
                let voter = if *voter == 6 { 9 } else { *voter };
                let _ = called(&world, *case).map(|request| world.vote(request, voter, *choice));
            }
            Move::Cancel(case, on_process) => {
                let cancel = world.cancel_of(CASES[*case]);
                let _ = match on_process {
                    true => world.on_process(cancel.as_str()),
                    false => world.on_consensus(cancel.as_str()),
                };
            }
            Move::Decide(case) => {
                let fixed = |request: &RequestId| matches!(world.state(*request), RequestState::Fixed { .. });
                if let Some(request) = called(&world, *case).filter(fixed) {
                    world.decide(request);
                }
            }
            Move::Answer(case) => {
                let ended = |request: &RequestId| !world.state(*request).is_live();
                let _ = called(&world, *case).filter(ended).map(|request| world.answer(request));
            }
            Move::Result(case) => {
                let output = world.output_of(CASES[*case]);
                let _ = called(&world, *case).map(|request| world.result(request, output));
            }
            Move::Wait(milliseconds) => world.later(*milliseconds).tick(),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nobody_is_counted_twice_and_the_same_transactions_give_the_same_state(moves in moves()) {
        let (first, second) = (play(&moves), play(&moves));
        prop_assert_eq!(first.processes.story(), second.processes.story());
        prop_assert_eq!(first.consensus.story(), second.consensus.story());
        prop_assert_eq!(&first.processes.state, &second.processes.state);
        prop_assert_eq!(&first.consensus.state, &second.consensus.state);

        for record in query::requests(&first.consensus.state, query::Filter::All, 0, 100) {
            let ballots = query::ballots(&first.consensus.state, record.request);
            let voters: BTreeSet<_> = ballots.iter().map(|ballot| ballot.jws.kid()).collect();
            prop_assert_eq!(voters.len(), ballots.len());
            prop_assert_eq!(record.status.state.is_live(), {
                let live = query::requests(&first.consensus.state, query::Filter::Live, 0, 100);
                live.iter().any(|live| live.request == record.request)
            });
        }
        let ended = first.processes.types().iter().filter(|typ| *typ == "case-ended").count();
        let live = query::cases(&first.processes.state, query::Filter::Live, 0, 100).len();
        prop_assert_eq!(ended + live, query::cases(&first.processes.state, query::Filter::All, 0, 100).len());
    }
}
