//! A KMS that was put back to an older state: what it may have signed since is signed by nothing but a person's word.

use assent_consensus::time::UnixMillis;

use super::world::{MINUTE, World};
use crate::signing::{DutyId, Purpose};

/// The KMS is put back now: it forgets what was signed for these, and puts up its fence.
fn put_back(world: &World, forgotten: &[DutyId]) {
    let mut pages = world.books.pages();
    forgotten.iter().for_each(|duty| drop(pages.orders.remove(duty)));
    pages.fence = Some(UnixMillis::new(world.now() + MINUTE));
}

#[tokio::test]
async fn a_vote_request_that_may_have_been_signed_is_signed_again_on_a_persons_word_alone() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let request = world.request_of(&call);
    let duty = world.vote_request_duty(&start, &call);
    world.signed(duty.clone()).await;
    put_back(&world, &[DutyId::of(Purpose::VoteRequest, request)]);
    world.restart();
    world.needs_person(duty.clone(), "before-restore").await;
    world.books.pages().released.insert(request);
    world.signed(duty).await;
}

#[tokio::test]
async fn a_decision_that_may_have_been_signed_is_signed_again_on_a_persons_word_alone() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    world.signed(duty.clone()).await;
    put_back(&world, &[DutyId::of(Purpose::Decision, asked.request)]);
    world.restart();
    world.needs_person(duty.clone(), "before-restore").await;
    world.books.pages().released.insert(asked.request);
    world.signed(duty).await;
}

#[tokio::test]
async fn an_action_that_may_have_been_done_is_done_again_on_a_persons_word_alone() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "1").await;
    let due = world.action_due(&asked, &bundle);
    let duty = world.action_duty(&bundle, due);
    world.done(duty.clone()).await;
    put_back(&world, &[DutyId::of(Purpose::Action, asked.request)]);
    world.restart();
    world.needs_person(duty.clone(), "before-restore").await;
    world.books.pages().released.insert(asked.request);
    world.done(duty).await;
}

#[tokio::test]
async fn what_is_on_record_is_signed_again_without_a_person() {
    let mut world = World::new();
    let asked = world.ask("release-signing", "1").await;
    let duty = world.approval_duty(&asked);
    let decision = world.signed(duty.clone()).await;
    put_back(&world, &[]);
    world.restart();
    assert_eq!(world.signed(duty).await, decision);
}

#[tokio::test]
async fn what_begins_after_the_fence_needs_nobody() {
    let mut world = World::new();
    put_back(&world, &[]);
    world.set_clock(world.now() + MINUTE);
    // The log's blocks carry their own times.
    world.processes.set_time(world.now());
    let (_, bundle) = world.approve("release-signing", "1").await;
    assert!(bundle.result.is_none());
}

#[tokio::test]
async fn a_call_whose_block_is_dated_ahead_waits_until_it_is_that_late() {
    let mut world = World::new();
    let ahead = world.now() + 2 * MINUTE;
    world.processes.set_time(ahead);
    let (start, call) = world.case("release-signing", "1");
    let duty = world.vote_request_duty(&start, &call);
    world.retry(duty.clone(), "too-early").await;
    world.set_clock(ahead - MINUTE + 10);
    world.signed(duty).await;
}
