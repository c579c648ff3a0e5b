//! The node as a process: what it records stays, what it cannot do waits and goes on by itself, what it refuses it says.

mod running_node;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use assent::api::{BatchResult, CaseState, CaseView, DutyKind, RequestState, RequestView};
use assent::client::{Client, ClientError, RequestFilter, Since};
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::duty::{DutyAnswer, Refusal};
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::jws::{Jws, Signed};
use assent_consensus::message::Receipt;
use assent_consensus::vote::Choice;

use running_node::{Deployment, Node, block_on, name};

const WAIT: Duration = Duration::from_secs(20);

/// Has a case started.
async fn start_case(deployment: &Deployment, client: &Client, case: &str) -> Jws {
    let start = deployment.start_of(case);
    client.submit(&name("process"), start.as_str().into()).await.expect("taken");
    start
}

/// Waits until a case is as `wanted`.
async fn case_until(
    client: &Client,
    start: &Jws,
    case: &str,
    wanted: impl Fn(&CaseView) -> bool,
) -> CaseView {
    let mut since = None;
    loop {
        let view = client.case(start.kid(), &name(case), since.as_ref()).await.expect("it is there");
        if wanted(&view) {
            return view;
        }
        since = Some(Since { revision: view.revision, wait: WAIT });
    }
}

/// Waits until the request of a case is in this state.
async fn request_until(client: &Client, start: &Jws, case: &str, state: RequestState) -> RequestView {
    let request = case_until(client, start, case, |view| view.requests[0].state.is_some()).await;
    let request = request.requests[0].request;
    let mut since = None;
    loop {
        let view = client.request(request, since.as_ref()).await.expect("it is there");
        if view.summary.state == state {
            return view;
        }
        since = Some(Since { revision: view.revision, wait: WAIT });
    }
}

async fn vote(deployment: &Deployment, client: &Client, request: &RequestView, voter: &str, choice: Choice) {
    let ballot = deployment.ballot(request.vote_request.as_ref().expect("it is open"), voter, choice);
    client.submit(&name("consensus"), ballot.as_str().into()).await.expect("counted");
}

fn refused(error: ClientError) -> (u16, String) {
    match error {
        ClientError::Refused { status, body, .. } => (status.as_u16(), body.code),
        error => panic!("{error}"),
    }
}

#[test]
fn a_case_goes_from_start_to_signature_and_its_bundle_verifies() {
    let deployment = Deployment::new();
    let (_kms, node) = (deployment.start_kms(), deployment.start());
    let client = node.client();
    block_on(async {
        let start = start_case(&deployment, &client, "one").await;
        let open = request_until(&client, &start, "one", RequestState::Open).await;
        let waiting = RequestFilter {
            voter: Some(assent::voter::Signer::public_key(&deployment.key("alice")).thumbprint()),
            ..RequestFilter::default()
        };
        assert_eq!(client.requests(&waiting).await.expect("a page").requests.len(), 1);
        vote(&deployment, &client, &open, "alice", Choice::Approve).await;
        assert_eq!(client.requests(&waiting).await.expect("a page").requests, []);
        let (status, code) = refused(client.bundle(open.summary.request).await.expect_err("undecided"));
        assert_eq!((status, code.as_str()), (409, "undecided"));
        vote(&deployment, &client, &open, "bob", Choice::Approve).await;
        let ended = case_until(&client, &start, "one", |view| {
            matches!(view.summary.state, CaseState::Ended { outcome: CaseOutcome::Done })
        })
        .await;
        assert_eq!(ended.results.len(), 1);
        assert_eq!(ended.results[0].step, name("signature"));
        let bytes = client.bundle(open.summary.request).await.expect("a bundle");
        let proof: Bundle = json::read(&bytes).expect("well formed");
        assert!(proof.result.is_some());
        bundle::verify(&deployment.genesis(), &proof, &BTreeSet::new()).expect("it verifies");
        let events = client.events(&name("process"), 0, Duration::ZERO).await.expect("events");
        assert!(events.events.iter().any(|event| event.event["type"] == "result-recorded"));
    });
    assert!(node.stop().success());
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_the_case_goes_on() {
    let deployment = Deployment::new();
    let kms = deployment.start_kms();
    let node = deployment.start();
    let start = block_on(async {
        let client = node.client();
        let start = start_case(&deployment, &client, "one").await;
        let open = request_until(&client, &start, "one", RequestState::Open).await;
        vote(&deployment, &client, &open, "alice", Choice::Approve).await;
        start
    });
    node.kill();
    drop(kms);
    // Again without a KMS: the second vote fixes the outcome, and the decision waits.
    let node = deployment.start();
    block_on(async {
        let client = node.client();
        let open = request_until(&client, &start, "one", RequestState::Open).await;
        assert_eq!(open.ballots.len(), 1);
        vote(&deployment, &client, &open, "bob", Choice::Approve).await;
        let fixed = request_until(&client, &start, "one", RequestState::Fixed).await;
        assert_eq!(fixed.duty.expect("it waits").duty, DutyKind::Decision);
    });
    node.kill();
    let _kms = deployment.start_kms();
    let node = deployment.start();
    block_on(async {
        let client = node.client();
        case_until(&client, &start, "one", |view| {
            matches!(view.summary.state, CaseState::Ended { outcome: CaseOutcome::Done })
        })
        .await;
    });
}

#[test]
fn without_a_kms_the_duty_is_shown_and_the_case_waits_and_goes_on_by_itself() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let client = node.client();
    let start = block_on(async {
        let start = start_case(&deployment, &client, "one").await;
        let view = case_until(&client, &start, "one", |view| view.duty.is_some()).await;
        let duty = view.duty.expect("it waits");
        assert_eq!(duty.duty, DutyKind::VoteRequest);
        let last = duty.last.expect("it was tried");
        assert_eq!(last.refusal.reason, "kms-unreachable");
        assert!(!last.needs_person);
        let health = client.health().await.expect("it answers");
        assert!(!health.kms.reachable);
        assert_eq!(health.duties_pending, 1);
        assert_eq!(client.duties().await.expect("a list").duties.len(), 1);
        start
    });
    let _kms = deployment.start_kms();
    block_on(async {
        request_until(&client, &start, "one", RequestState::Open).await;
        assert!(client.health().await.expect("it answers").kms.reachable);
    });
}

#[test]
fn what_the_kms_refuses_stays_due_and_is_shown_until_a_new_kms_does_it() {
    let deployment = Deployment::new();
    let kms = deployment.start_kms();
    let refusal = Refusal { reason: "key-suspended".into(), message: "the key is suspended".into() };
    kms.answers(Some(DutyAnswer::NeedsPerson(refusal.clone())));
    let node = deployment.start();
    let client = node.client();
    let start = block_on(async {
        let start = start_case(&deployment, &client, "one").await;
        let wanted = |view: &CaseView| {
            let last = view.duty.as_ref().and_then(|duty| duty.last.as_ref());
            last.is_some_and(|last| last.needs_person)
        };
        let view = case_until(&client, &start, "one", wanted).await;
        let request = client.request(view.requests[0].request, None).await.expect("it is there");
        for duty in [view.duty, request.duty, client.duties().await.expect("a list").duties.pop()] {
            assert_eq!(duty.and_then(|duty| duty.last).expect("refused").refusal, refusal);
        }
        assert_eq!(client.health().await.expect("it answers").duties_needing_a_person, 1);
        start
    });
    // A KMS that starts again is asked again at once, long before a refused duty is tried again by the clock.
    drop(kms);
    let kms = deployment.start_kms();
    let open = block_on(request_until(&client, &start, "one", RequestState::Open));
    // One that says "later" is asked again by itself.
    let later = Refusal { reason: "busy".into(), message: "all sessions are in use".into() };
    kms.answers(Some(DutyAnswer::Retry(later)));
    block_on(async {
        vote(&deployment, &client, &open, "alice", Choice::Reject).await;
        let fixed = request_until(&client, &start, "one", RequestState::Fixed).await;
        let wanted = |view: &CaseView| {
            let last = view.duty.as_ref().and_then(|duty| duty.last.as_ref());
            last.is_some_and(|last| last.refusal.reason == "busy" && !last.needs_person)
        };
        case_until(&client, &start, "one", wanted).await;
        kms.answers(None);
        let ended = case_until(&client, &start, "one", |view| {
            matches!(view.summary.state, CaseState::Ended { outcome: CaseOutcome::Rejected })
        })
        .await;
        assert_eq!((ended.duty, ended.results.len()), (None, 0));
        client.bundle(fixed.summary.request).await.expect("a rejection has a bundle too");
    });
}

#[test]
fn a_case_is_taken_back_before_and_after_it_opens() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let client = node.client();
    block_on(async {
        let cancel = |case: &str| {
            let cancel = assent_consensus::message::Cancel {
                deployment: deployment.genesis().id(),
                chain: name("process"),
                case: name(case),
                nonce: assent_consensus::encoding::Bytes(vec![1; 16]),
            };
            let cancel = assent::voter::sign_message(&deployment.key("ci"), cancel).expect("signed");
            cancel.jws().as_str().as_bytes().to_vec()
        };
        let is_cancelled = |view: &CaseView| {
            matches!(view.summary.state, CaseState::Ended { outcome: CaseOutcome::Cancelled })
        };
        // Before the vote request it ends without the KMS.
        let early = start_case(&deployment, &client, "early").await;
        client.submit(&name("process"), cancel("early")).await.expect("taken");
        case_until(&client, &early, "early", is_cancelled).await;
        let late = start_case(&deployment, &client, "late").await;
        let _kms = deployment.start_kms();
        let open = request_until(&client, &late, "late", RequestState::Open).await;
        vote(&deployment, &client, &open, "alice", Choice::Approve).await;
        client.submit(&name("process"), cancel("late")).await.expect("taken");
        case_until(&client, &late, "late", is_cancelled).await;
        let bytes = client.bundle(open.summary.request).await.expect("a bundle");
        let proof: Bundle = json::read(&bytes).expect("well formed");
        bundle::verify(&deployment.genesis(), &proof, &BTreeSet::new()).expect("it verifies");
    });
}

#[test]
fn a_batch_is_answered_message_by_message_and_receipts_only_where_asked_for() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let client = node.client();
    let (one, two) = (deployment.start_of("one"), deployment.start_of("two"));
    let stranger = assent::voter::key_file::KeyFile::generate().expect("random numbers");
    let signed = Signed::<assent_consensus::message::Start>::from_jws(one.clone()).expect("well formed");
    let strange = assent::voter::sign_message(&stranger, signed.unverified().clone()).expect("signed");
    block_on(async {
        let batch = [one.clone(), strange.jws().clone(), two];
        let report = client.submit_batch(&name("process"), &batch, false).await.expect("answered");
        let [BatchResult::Recorded(first), BatchResult::Refused(refused), BatchResult::Recorded(second)] =
            &report.results[..]
        else {
            panic!("{report:?}");
        };
        assert_eq!((first.transaction, first.index, second.index), (one.digest(), 0, 1));
        assert_eq!(refused.code, "not-a-requester");
        assert_eq!(first.receipt, None);
        // The same bytes again get the same place, and a receipt that names it.
        let again = client.submit_batch(&name("process"), &batch[..1], true).await.expect("answered");
        let [BatchResult::Recorded(again)] = &again.results[..] else { panic!("{again:?}") };
        let receipt =
            Signed::<Receipt>::from_jws(again.receipt.clone().expect("asked for")).expect("a receipt");
        let validators = deployment.genesis().chain(&name("process")).expect("there").validators.clone();
        let key = validators.key(receipt.jws().kid()).expect("a validator").clone();
        let receipt = receipt.verify(&key).expect("it verifies");
        assert_eq!((receipt.transaction, receipt.height.get()), (one.digest(), first.height));
    });
}

#[test]
fn many_cases_at_once_all_come_to_their_end() {
    const CASES: usize = 150;
    let deployment = Deployment::new();
    let (_kms, node) = (deployment.start_kms(), deployment.start());
    let client = node.client();
    let starts: Vec<Jws> = (0..CASES).map(|number| deployment.start_of(&format!("case-{number}"))).collect();
    block_on(async {
        let report = client.submit_batch(&name("process"), &starts, false).await.expect("answered");
        assert!(report.results.iter().all(|result| matches!(result, BatchResult::Recorded(_))));
        let mut ballots = Vec::new();
        for (number, start) in starts.iter().enumerate() {
            let open = request_until(&client, start, &format!("case-{number}"), RequestState::Open).await;
            let vote_request = open.vote_request.expect("it is open");
            ballots.push(deployment.ballot(&vote_request, "alice", Choice::Approve));
            ballots.push(deployment.ballot(&vote_request, "bob", Choice::Approve));
        }
        let report = client.submit_batch(&name("consensus"), &ballots, false).await.expect("answered");
        assert!(report.results.iter().all(|result| matches!(result, BatchResult::Recorded(_))));
        for (number, start) in starts.iter().enumerate() {
            case_until(&client, start, &format!("case-{number}"), |view| {
                matches!(view.summary.state, CaseState::Ended { outcome: CaseOutcome::Done })
            })
            .await;
        }
        // Lists go on page by page, and no entry is lost or shown twice.
        let mut seen = BTreeSet::new();
        let mut filter = RequestFilter { limit: Some(40), ..RequestFilter::default() };
        loop {
            let page = client.requests(&filter).await.expect("a page");
            assert!(page.requests.iter().all(|request| seen.insert(request.request)));
            filter.after = page.next;
            if filter.after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), CASES);
        let first = client.cases(None, Some(100)).await.expect("a page");
        let second = client.cases(first.next.as_deref(), Some(100)).await.expect("a page");
        assert_eq!((first.cases.len(), second.cases.len(), second.next), (100, CASES - 100, None));
        assert_eq!(client.duties().await.expect("a list").duties, []);
    });
}

#[test]
fn what_is_wrong_with_a_call_is_said_by_status_and_word() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let client = node.client();
    block_on(async {
        let submit = async |chain: &str, bytes: &[u8]| {
            refused(client.submit(&name(chain), bytes.to_vec()).await.expect_err("refused"))
        };
        assert_eq!(submit("elsewhere", b"x").await, (404, "unknown-log".into()));
        assert_eq!(submit("process", b"eyJ").await, (400, "bad-message".into()));
        assert_eq!(submit("process", b"{\"carrier\":1}").await, (400, "bad-carrier".into()));
        assert_eq!(submit("process", b"").await, (413, "too-large".into()));
        assert_eq!(submit("process", &vec![b'x'; 5 << 20]).await, (413, "too-large".into()));
        let start = deployment.start_of("one");
        assert_eq!(submit("consensus", start.as_str().as_bytes()).await, (422, "not-taken-here".into()));
        client.submit(&name("process"), b"a document".to_vec()).await.expect("taken");
        let digest = Digest::of(b"a document");
        assert_eq!(client.attachment(digest).await.expect("there"), b"a document");
        let missing = client.attachment(Digest::of(b"none")).await.expect_err("refused");
        assert_eq!(refused(missing), (404, "unknown-attachment".into()));
        let missing = client.request(assent_consensus::message::RequestId(digest), None).await;
        assert_eq!(refused(missing.expect_err("refused")), (404, "unknown-request".into()));
        let missing = client.case(start.kid(), &name("none"), None).await;
        assert_eq!(refused(missing.expect_err("refused")), (404, "unknown-case".into()));
        assert_eq!(client.genesis().await.expect("there"), deployment.genesis().bytes());
    });
    for (call, status) in [
        ("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "404"),
        ("DELETE /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405"),
        ("GET /v1/requests?limit=x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "400"),
        ("GET /v1/requests?after=x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "400"),
        ("GET /v1/health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n", "403"),
        ("GET /v1/health HTTP/1.1\r\nhost: x\r\norigin: http://x\r\nconnection: close\r\n\r\n", "403"),
    ] {
        let answer = node.raw(call.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{call}: {answer}");
        assert!(answer.contains("\"code\":"), "{answer}");
    }
}

#[test]
fn a_call_that_waits_hears_of_news_and_is_let_go_when_the_node_stops() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let client = node.client();
    block_on(async {
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { client.events(&name("process"), 0, WAIT).await })
        };
        start_case(&deployment, &client, "one").await;
        let events = waiting.await.expect("no panic").expect("answered");
        assert_eq!(events.height, 1);
        assert_eq!(events.events[0].event["type"], "case-started");
    });
    let waiting = std::thread::spawn(move || {
        block_on(async { client.events(&name("process"), 1_000, Duration::from_secs(60)).await })
    });
    // Whether that call has begun or not, it does not keep the node from stopping.
    assert!(node.stop().success());
    drop(waiting.join());
}

#[test]
fn a_second_node_on_the_same_data_is_refused() {
    let deployment = Deployment::new();
    let node = deployment.start();
    let said = deployment.start_fails();
    assert!(said.contains("is in use by another process"), "{said}");
    // It has not taken the first one's socket away either.
    block_on(async { node.client().health().await.expect("it answers") });
}

#[test]
fn a_socket_or_port_in_use_is_named() {
    let deployment = Deployment::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let config = deployment.config();
    deployment.set_config(&format!("listen = \"{address}\"\n{config}"));
    let said = deployment.start_fails();
    assert!(said.contains(&format!("`{address}` is in use")), "{said}");
    deployment.set_config(&config);
    let socket = deployment.path("data/node.sock");
    let held = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let said = deployment.start_fails();
    assert!(said.contains("node.sock` is in use by another process"), "{said}");
    // One that nobody answers on any more is replaced.
    drop(held);
    let node = deployment.start();
    assert!(node.stop().success());
    assert!(!socket.exists(), "a node that stops takes its socket away");
    fs::write(&socket, "no socket").expect("writable");
    let said = deployment.start_fails();
    assert!(said.contains("is no socket"), "{said}");
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_its_place() {
    let deployment = Deployment::new();
    let config = deployment.config();
    for (changed, words) in [
        (format!("listen = \"0.0.0.0:7420\"\n{config}"), "use a loopback address"),
        (config.replace("kms_socket", "kms_sockt"), "did you mean `kms_socket`?"),
        (config.replace("process = ", "elsewhere = "), "genesis has `process`, `consensus`"),
        (config.replace("process.validator", "missing"), "the validator key of `process`"),
        (config.replace("consensus.validator", "process.validator"), "is no validator of `consensus`"),
        (config.replace("genesis.json", "missing.json"), "cannot read the genesis file"),
    ] {
        deployment.set_config(&changed);
        let said = deployment.start_fails();
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_log_of_another_deployment_is_refused() {
    let (one, other) = (Deployment::new(), Deployment::new());
    assert!(one.start().stop().success());
    fs::create_dir(other.path("data")).expect("new");
    for log in ["process.ledger", "consensus.ledger"] {
        fs::copy(one.path("data").join(log), other.path("data").join(log)).expect("copied");
    }
    let said = other.start_fails();
    assert!(said.contains("belongs to deployment"), "{said}");
}

#[test]
fn the_files_of_a_node_are_for_its_user() {
    use std::os::unix::fs::PermissionsExt as _;
    let deployment = Deployment::new();
    let _node: Node = deployment.start();
    let mode = |name: &str| fs::metadata(deployment.path(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/node.sock")), (0o700, 0o660));
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let deployment = Deployment::new();
    let (well, said) = deployment.doctor();
    assert!(!well && said.contains("!! node") && said.contains("!! kms"), "{said}");
    let node = deployment.start();
    let kms = deployment.start_kms();
    let (well, said) = deployment.doctor();
    assert!(well && said.contains("nothing waits for the KMS"), "{said}");
    let refusal = Refusal { reason: "wrong-pin".into(), message: "the PIN was refused".into() };
    kms.answers(Some(DutyAnswer::NeedsPerson(refusal)));
    block_on(async {
        let client = node.client();
        let start = start_case(&deployment, &client, "one").await;
        let wanted = |view: &CaseView| {
            let last = view.duty.as_ref().and_then(|duty| duty.last.as_ref());
            last.is_some_and(|last| last.needs_person)
        };
        case_until(&client, &start, "one", wanted).await;
    });
    let (well, said) = deployment.doctor();
    assert!(!well && said.contains("!! duty") && said.contains("the PIN was refused"), "{said}");
    deployment.set_config(&deployment.config().replace("genesis.json", "missing.json"));
    let (well, said) = deployment.doctor();
    assert!(!well && said.contains("!! genesis"), "{said}");
}
