//! Batches, the socket, and what is written down about refusals.

use assent_consensus::duty::{BATCH_BYTES, BATCH_LIMIT, Duty, DutyAnswer, DutyBatch, DutyReport};
use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::jws::Signed;
use assent_consensus::message::VoteRequest;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::super::engine::QUEUE_LIMIT;
use super::super::refusal::BatchRefusal;
use super::super::router;
use super::books::GATE;
use super::world::World;
use crate::signing::Purpose;

/// Vote requests of so many cases, proven against the newest headers.
fn duties(world: &mut World, count: usize) -> Vec<Duty> {
    let mut places = Vec::new();
    for case in 0..count {
        let (start, call) = world.case("release-signing", &case.to_string());
        let request = world.request_of(&call);
        let called = world.processes.append(ProcessEvent::Call(call).to_bytes());
        let due = world.consensus.append(ConsensusEvent::VoteRequestDue { request }.to_bytes());
        places.push((start, called, due));
    }
    let duty = |(start, called, due)| Duty::VoteRequest {
        start,
        call: world.processes.proof(called),
        due: world.consensus.proof(due),
    };
    places.into_iter().map(duty).collect()
}

#[tokio::test]
async fn duties_of_a_batch_are_answered_in_order_each_on_its_own() {
    let mut world = World::new();
    let mut batch = duties(&mut world, BATCH_LIMIT);
    if let Duty::VoteRequest { due, .. } = &mut batch[3] {
        due.path.clear();
    }
    let report = world.batch(batch).await.unwrap();
    assert_eq!(report.answers.len(), BATCH_LIMIT);
    for (place, answer) in report.answers.iter().enumerate() {
        match answer {
            DutyAnswer::Signed { message, .. } => {
                let message = Signed::<VoteRequest>::from_jws(message.clone()).unwrap();
                assert_eq!(message.unverified().case.as_str(), place.to_string());
            }
            DutyAnswer::NeedsPerson(refusal) => assert_eq!((place, &refusal.reason[..]), (3, "not-in-log")),
            other => panic!("{place}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_same_duty_twice_in_a_batch_gives_one_message() {
    let mut world = World::new();
    let duty = duties(&mut world, 1).remove(0);
    let report = world.batch(vec![duty.clone(), duty.clone(), duty]).await.unwrap();
    assert_eq!(world.books.pages().orders.len(), 1);
    assert!(report.answers.iter().all(|answer| *answer == report.answers[0]), "{report:?}");
    assert!(matches!(report.answers[0], DutyAnswer::Signed { .. }));
}

#[tokio::test]
async fn a_batch_that_is_too_long_is_refused_whole() {
    let mut world = World::new();
    let duty = duties(&mut world, 1).remove(0);
    let refusal = world.batch(vec![duty; BATCH_LIMIT + 1]).await.unwrap_err();
    assert_eq!(refusal, BatchRefusal::TooManyDuties(BATCH_LIMIT + 1));
    assert!(world.books.pages().orders.is_empty());
}

#[tokio::test]
async fn a_kms_that_is_not_pinned_does_nothing() {
    let mut world = World::new();
    let duty = duties(&mut world, 1).remove(0);
    world.books.pages().genesis = None;
    assert_eq!(world.batch(vec![duty]).await, Err(BatchRefusal::NotPinned));
}

#[tokio::test]
async fn a_refusal_is_in_the_audit_log_once_for_each_duty_and_reason() {
    let mut world = World::new();
    let (start, call) = world.case("release-signing", "1");
    let request = world.request_of(&call);
    let duty = world.vote_request_duty(&start, &call);
    let requester = world.requester.public.thumbprint();
    world.books.pages().suspended.insert(requester);
    let expected = vec![(Purpose::VoteRequest, request, "suspended".to_owned())];
    world.books.pages().disk_is_full = true;
    // The headers are written first, or nothing would be verified.
    assert!(world.batch(vec![duty.clone()]).await.is_err());
    world.books.pages().disk_is_full = false;
    for _ in 0..3 {
        world.needs_person(duty.clone(), "suspended").await;
        assert_eq!(world.books.pages().refusals, expected);
    }
    world.restart();
    world.needs_person(duty, "suspended").await;
    assert_eq!(world.books.pages().refusals.len(), 2);
}

#[tokio::test]
async fn a_refusal_that_could_not_be_written_is_written_the_next_time() {
    let mut world = World::new();
    let good = duties(&mut world, 1).remove(0);
    world.signed(good.clone()).await;
    world.books.pages().suspended.insert(world.requester.public.thumbprint());
    world.books.pages().disk_is_full = true;
    world.needs_person(good.clone(), "suspended").await;
    world.books.pages().disk_is_full = false;
    world.needs_person(good, "suspended").await;
    assert_eq!(world.books.pages().refusals.len(), 1);
}

#[tokio::test]
async fn more_batches_than_the_queue_holds_are_told_to_come_again() {
    let mut world = World::new();
    let duty = duties(&mut world, 1).remove(0);
    let closed = world.books.gate.acquire_many(GATE).await.unwrap();
    let finality = world.finality();
    let batch = DutyBatch { finality, duties: vec![duty] };
    let mut waiting: Vec<_> =
        (0..QUEUE_LIMIT).map(|_| Box::pin(world.engine.perform(batch.clone()))).collect();
    for one in &mut waiting {
        let pending =
            std::future::poll_fn(|context| std::task::Poll::Ready(one.as_mut().poll(context).is_pending()));
        assert!(pending.await);
    }
    assert_eq!(world.engine.perform(batch.clone()).await, Err(BatchRefusal::Busy));
    drop(waiting);
    drop(closed);
    assert!(world.engine.perform(batch).await.is_ok());
}

async fn call(world: &World, request: Request<Body>) -> (StatusCode, Option<String>, Value) {
    let response = router(world.engine.clone()).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let retry = head.headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (head.status, retry, serde_json::from_slice(&body).unwrap())
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/v1/duties").body(body.into()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn the_socket_takes_batches_and_says_what_is_trusted() {
    let mut world = World::new();
    let duties = duties(&mut world, 2);
    let body = serde_json::to_vec(&DutyBatch { finality: world.finality(), duties }).unwrap();
    let (status, _, answer) = call(&world, post(body)).await;
    let report: DutyReport = serde_json::from_value(answer).unwrap();
    assert_eq!((status, report.answers.len()), (StatusCode::OK, 2));
    let (status, _, trusted) = call(&world, get("/v1/trusted")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(trusted["chains"][1]["chain"], "process");
    let (status, _, health) = call(&world, get("/v1/health")).await;
    assert_eq!((status, health), (StatusCode::OK, json!({"status": "ok", "deployment": world.genesis.id()})));
}

#[tokio::test]
async fn a_duty_has_the_members_of_its_kind_and_no_other() {
    let mut world = World::new();
    let (asked, bundle) = world.approve("release-signing", "a").await;
    let due = world.action_due(&asked, &bundle);
    let written =
        [duties(&mut world, 1).remove(0), world.approval_duty(&asked), world.action_duty(&bundle, due)]
            .map(|duty| (serde_json::to_value(&duty).unwrap(), duty));
    for (json, duty) in &written {
        assert_eq!(&serde_json::from_value::<Duty>(json.clone()).unwrap(), duty);
        let members = json.as_object().unwrap();
        for member in members.keys() {
            let mut less = members.clone();
            less.remove(member);
            serde_json::from_value::<Duty>(less.into()).expect_err(member);
        }
        let others = written.iter().flat_map(|(json, _)| json.as_object().unwrap());
        for (member, value) in others.filter(|(member, _)| !members.contains_key(*member)) {
            let mut more = members.clone();
            more.insert(member.clone(), value.clone());
            serde_json::from_value::<Duty>(more.into()).expect_err(member);
        }
    }
}

#[tokio::test]
async fn the_socket_says_why_a_batch_is_refused() {
    let mut world = World::new();
    let duties = duties(&mut world, 1);
    let body = serde_json::to_vec(&DutyBatch { finality: world.finality(), duties }).unwrap();

    let (status, _, error) = call(&world, post("{}")).await;
    assert_eq!((status, &error["code"]), (StatusCode::BAD_REQUEST, &json!("malformed")));
    let mut large = post("{}");
    large.headers_mut().insert("content-length", (BATCH_BYTES + 1).into());
    let (status, _, error) = call(&world, large).await;
    assert_eq!((status, &error["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too-large")));
    let mut longer = post(body.clone());
    longer.headers_mut().insert("content-length", (body.len() - 1).into());
    let (status, ..) = call(&world, longer).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, ..) = call(&world, get("/v1/duties")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    world.books.pages().genesis = None;
    let (status, _, error) = call(&world, post(body.clone())).await;
    assert_eq!((status, &error["code"]), (StatusCode::CONFLICT, &json!("not-pinned")));
    let (_, _, health) = call(&world, get("/v1/health")).await;
    assert_eq!(health, json!({"status": "not-pinned", "deployment": null}));
}

/// A body of which nothing ever comes.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_socket_without_room_for_a_body_is_busy_for_a_second() {
    let world = World::new();
    let router = router(world.engine.clone());
    // Bodies of unknown length count as the largest; these never end.
    let mut endless = Vec::new();
    let mut answer = None;
    while answer.is_none() && endless.len() < 100 {
        let mut call = Box::pin(router.clone().oneshot(post(Body::new(Endless))));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
        match polled {
            std::task::Poll::Ready(done) => answer = Some(done.unwrap()),
            std::task::Poll::Pending => endless.push(call),
        }
    }
    let answer = answer.expect("there is a bound");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(endless.len(), 4);
}
