//! What a KMS shows to those who watch it while it works: its metrics and its log.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use assent_consensus::duty::{Duty, DutyAnswer, DutyBatch};
use assent_consensus::jws::Jws;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::vote::Outcome;
use assent_hsm_mock::{Fault, What};
use assent_tests::metrics::Metrics;
use assent_tests::scripted::{Connection, Deployment, Equipment, Kms, Opened, Plan};
use serde_json::Value;

const MANUAL: &str = include_str!("../../kms/MANUAL.md");
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for what comes without an event.
const LOOK: Duration = Duration::from_millis(20);

const RELEASE: Plan = Plan {
    contract: "release-approval",
    rule: "{ at_least = 2, of = \"all\" }",
    voters: 3,
    act_within: "7d",
    key: Some(("release", SignatureFormat::Der)),
};

/// The real KMS, and a node that asks it.
struct Scene {
    kms: Kms,
    node: Deployment,
    connection: Connection,
}

impl Scene {
    fn start() -> Scene {
        let equipment = Equipment { has_faults: true, ..Equipment::default() };
        let (kms, node) = Kms::deploy_with(&[RELEASE], equipment).expect("the KMS runs and is pinned");
        let connection = kms.connect().expect("it listens");
        Scene { kms, node, connection }
    }

    fn ask(&mut self, duty: Duty) -> DutyAnswer {
        self.node.know(self.connection.trusted().expect("it says what it trusts"));
        let mut report = self.connection.perform(&self.node.batch(vec![duty])).expect("a report");
        report.answers.pop().expect("an answer")
    }

    fn message(&mut self, duty: Duty) -> Jws {
        match self.ask(duty) {
            DutyAnswer::Signed { message, .. } => message,
            other => panic!("the KMS did not sign: {other:?}"),
        }
    }

    fn open(&mut self, case: &str) -> Opened {
        let case = self.node.case(RELEASE.contract, case);
        let duty = self.node.vote_request_duty(&case);
        Opened::new(case, self.message(duty))
    }

    fn decide(&mut self, opened: &Opened) -> Jws {
        let ballots = self.node.approvals(opened, 2);
        let due = self.node.tell_decision_due(opened, Outcome::Approved, &ballots);
        let duty = self.node.decision_duty(opened, ballots, due);
        self.message(duty)
    }

    /// A decision that the ballots do not bear out, for which the KMS refuses to sign.
    fn unfounded(&mut self, opened: &Opened) -> Duty {
        let ballots = self.node.approvals(opened, 2);
        let due = self.node.tell_decision_due(opened, Outcome::Rejected, &ballots);
        self.node.decision_duty(opened, ballots, due)
    }

    /// The duty of a new case, and a device whose next signature fails.
    fn failing(&mut self, code: &str, case: &str) -> Duty {
        let faults = self.kms.faults().expect("it stands before the token");
        faults.set(vec![Fault::answer("C_Sign", code).on_call(1)]).expect("written");
        let case = self.node.case(RELEASE.contract, case);
        self.node.vote_request_duty(&case)
    }

    fn scrape(&self) -> Metrics {
        Metrics::scrape(&self.kms.home().join("metrics.sock")).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

/// The reason of an answer that is no signature.
fn reason(answer: DutyAnswer) -> String {
    match answer {
        DutyAnswer::Retry(refusal) | DutyAnswer::NeedsPerson(refusal) => refusal.reason,
        other => panic!("the KMS did it: {other:?}"),
    }
}

#[test]
fn a_scraper_finds_what_was_signed_refused_and_failed_and_how_far_the_logs_are() {
    let mut scene = Scene::start();
    let before = scene.scrape();
    let main = ("device", "main");
    assert_eq!(before.sum("assent_kms_signatures_total"), 0.0);
    assert_eq!(before.value("assent_kms_signatures_total", &[("purpose", "action")]), Some(0.0));
    assert_eq!(before.value("assent_kms_device_signature_seconds_count", &[main]), Some(0.0));

    let ends = "2099-01-31T08:00:00Z";
    let limits = ["key", "limit", "--key", "release", "--deactivates", ends, "--uses", "5000"];
    scene.kms.run(&limits).expect("it may have limits");
    let release = [("kind", "operational"), ("key", "release"), ("version", "1")];
    let opened: Vec<Opened> = ["one", "two", "three"].map(|case| scene.open(case)).into();
    scene.decide(&opened[0]);
    let duty = scene.unfounded(&opened[1]);
    let refused = reason(scene.ask(duty));
    let duty = scene.failing("CKR_DATA_INVALID", "fails-once");
    assert_eq!(reason(scene.ask(duty.clone())), "device-failed");
    scene.message(duty);
    let duty = scene.failing("CKR_SESSION_CLOSED", "signed-with-another-session");
    scene.message(duty);
    assert_eq!(scene.connection.send(b"no batch").expect("an answer").status, 400);

    // Until all results are in the log.
    scene.kms.audit().expect("it is whole");
    let after = scene.scrape();
    for (name, labels, value) in [
        ("signatures_total", &[("purpose", "vote-request")][..], 5.0),
        ("signatures_total", &[("purpose", "decision")], 1.0),
        ("refusals_total", &[("purpose", "decision"), ("reason", &refused)], 1.0),
        ("refusals_total", &[("purpose", "vote-request"), ("reason", "device-failed")], 1.0),
        ("batch_refusals_total", &[("code", "malformed")], 1.0),
        ("batches_in_progress", &[], 0.0),
        ("device_signature_seconds_count", &[main], 6.0),
        ("device_signature_seconds_bucket", &[main, ("le", "+Inf")], 6.0),
        ("device_errors_total", &[main, ("code", "failed")], 1.0),
        ("device_sessions_lost_total", &[main], 1.0),
        ("device_present", &[main], 1.0),
        ("device_sessions", &[main], 8.0),
        ("device_sessions_busy", &[main], 0.0),
        ("device_queue_length", &[main], 0.0),
        ("device_calls_hanging", &[main], 0.0),
        ("writer_queue_length", &[("kind", "work")], 0.0),
        ("writer_queue_length", &[("kind", "result")], 0.0),
        ("pinned", &[], 1.0),
        ("key_info", &[("kind", "contract"), ("key", RELEASE.contract), ("state", "active")], 1.0),
        ("key_info", &[("kind", "operational"), ("key", "release"), ("version", "1"), main], 1.0),
        ("key_deactivation_timestamp_seconds", &release, 4_073_529_600.0),
        ("key_uses_left", &release, 5_000.0),
        ("build_info", &[], 1.0),
        ("epoch", &[], scene.kms.epoch().expect("it has one") as f64),
    ] {
        assert_eq!(after.value(&format!("assent_kms_{name}"), labels), Some(value), "{name} {labels:?}");
    }
    assert_eq!(after.sum("assent_kms_refusals_total"), 2.0);
    assert_eq!(after.sum("assent_kms_device_errors_total"), 1.0);
    assert!(after.value("assent_kms_device_sessions_open", &[main]).expect("there") >= 1.0);
    assert!(after.value("assent_kms_device_signature_seconds_sum", &[main]).expect("there") > 0.0);
    for of in scene.connection.trusted().expect("it says what it trusts").chains {
        let height = after.value("assent_kms_trusted_height", &[("log", of.chain.as_str())]);
        assert_eq!(height, Some(of.trusted.height.get() as f64));
    }
    let audit: Value =
        serde_json::from_str(&scene.kms.run(&["audit", "verify", "--json"]).expect("it is whole"))
            .expect("JSON");
    assert_eq!(after.value("assent_kms_audit_entries_total", &[]), audit["entries"].as_f64());

    for name in after.names() {
        let name = name.strip_prefix("assent_kms_").expect("each is one of ours");
        let is_told = [format!("`{name}`"), format!("`{name}{{")].iter().any(|told| MANUAL.contains(told));
        assert!(is_told, "the manual does not have `{name}`");
    }
    // Nothing of any one request, and nothing that is secret.
    assert!(!after.text.contains("sha256"), "{}", after.text);
    let pin = fs::read_to_string(scene.kms.token().pin_file()).expect("readable");
    assert!(!after.text.contains(pin.trim()), "{}", after.text);
}

/// The lines of the log that say this, each in JSON.
fn lines(scene: &Scene, words: &str) -> Vec<Value> {
    let log = fs::read_to_string(scene.kms.log()).expect("readable");
    let lines = log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON"));
    let says = |line: &Value| line["fields"]["message"].as_str().is_some_and(|said| said.contains(words));
    lines.filter(says).collect()
}

#[test]
fn what_is_logged_while_a_duty_is_done_says_for_which_request() {
    let mut scene = Scene::start();
    let opened = scene.open("refused");
    let duty = scene.unfounded(&opened);
    let refused = reason(scene.ask(duty));
    let pulled = scene.node.case(RELEASE.contract, "pulled");
    let duty = scene.node.vote_request_duty(&pulled);
    let faults = scene.kms.faults().expect("it stands before the token");
    let removed = Fault { what: What::RemoveToken, ..Fault::answer("C_Sign", "CKR_DEVICE_REMOVED") };
    faults.set(vec![removed]).expect("written");
    assert_eq!(reason(scene.ask(duty)), "device-gone");

    for (words, reason, purpose, request) in [
        ("refused: ", Some(&*refused), "decision", opened.case.request),
        ("refused: ", Some("device-gone"), "vote-request", pulled.request),
        // By the thread that has the session.
        ("no session with the token", None, "vote-request", pulled.request),
    ] {
        let lines = lines(&scene, words);
        let line = lines.iter().find(|line| reason.is_none() || line["fields"]["reason"].as_str() == reason);
        let line = line.unwrap_or_else(|| panic!("`{words}` is not in the log: {lines:?}"));
        assert_eq!(line["span"]["request"], request.to_string(), "{line}");
        assert_eq!(line["span"]["purpose"], purpose, "{line}");
        assert!(line["spans"][0]["batch"].is_u64(), "{line}");
    }
    let pin = fs::read_to_string(scene.kms.token().pin_file()).expect("readable");
    let log = fs::read_to_string(scene.kms.log()).expect("readable");
    assert!(!log.contains(pin.trim()), "{log}");
}

#[test]
fn who_may_scrape_can_neither_send_duties_nor_administer() {
    let scene = Scene::start();
    let ask = |socket: &str, method: &str, path: &str| {
        let mut connection = Connection::open(&scene.kms.home().join(socket)).expect("it listens");
        connection.exchange(method, path, b"").expect("an answer").status
    };
    assert_eq!(ask("metrics.sock", "GET", "/metrics"), 200);
    for (method, path) in [
        ("POST", "/metrics"),
        ("POST", "/v1/duties"),
        ("GET", "/v1/trusted"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
    ] {
        let status = ask("metrics.sock", method, path);
        assert!(matches!(status, 404 | 405), "{method} {path}: {status}");
    }
    for socket in ["kms.sock", "admin.sock"] {
        assert_eq!(ask(socket, "GET", "/metrics"), 404);
    }
}

#[test]
fn a_configuration_is_read_again_while_duties_run_and_a_wrong_one_changes_nothing() {
    let mut scene = Scene::start();
    let names: Vec<String> = (0..40).map(|number| format!("case-{number}")).collect();
    let cases = scene.node.cases(RELEASE.contract, &names);
    scene.node.know(scene.connection.trusted().expect("it says what it trusts"));
    scene.connection.perform(&scene.node.batch(Vec::new())).expect("the headers are good");
    scene.node.know(scene.connection.trusted().expect("it says what it trusts"));
    let batches: Vec<DutyBatch> =
        cases.iter().map(|case| scene.node.batch(vec![scene.node.vote_request_duty(case)])).collect();
    let is_over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|first| {
                let (kms, batches, is_over) = (&scene.kms, &batches, &is_over);
                scope.spawn(move || {
                    let mut connection = kms.connect().expect("it listens");
                    // Until it is over, and everything once: new ones have the device sign, known ones do not.
                    for (asked, batch) in batches.iter().cycle().skip(first * 10).enumerate() {
                        if is_over.load(Ordering::Relaxed) && asked >= batches.len() {
                            return asked;
                        }
                        let report = connection.perform(batch).expect("a report");
                        let all_signed = |answer| matches!(answer, &DutyAnswer::Signed { .. });
                        assert!(report.answers.iter().all(all_signed), "{report:?}");
                    }
                    0
                })
            })
            .collect();
        // It is over also when an assertion fails here.
        let ended = Ended(&is_over);
        reconfigured(&scene);
        drop(ended);
        callers.into_iter().map(|caller| caller.join().expect("no duty failed")).sum::<usize>()
    });
    assert!(asked >= 4 * batches.len());

    let own = rustix::process::geteuid().as_raw();
    let before = scene.kms.epoch().expect("it has one");
    reads(&scene, |text| text.replace("epoch_signatures = 1000\n", "epoch_signatures = 1\n"), [2, 3]);
    scene.open("one-more");
    wait(|| scene.kms.epoch().expect("it has one") > before);

    // Who is not allowed any more is turned away on the connection that he has.
    for (user, status) in [(own + 1, 403), (own, 200)] {
        scene.kms.reconfigure(|text| allowing(text, user)).expect("it runs");
        wait(|| scene.connection.exchange("GET", "/v1/health", b"").expect("an answer").status == status);
    }
}

/// Wrong configurations, and then a good one. With any wrong one no caller would be allowed.
fn reconfigured(scene: &Scene) {
    let other = rustix::process::geteuid().as_raw() + 1;
    let said = |words: &str| {
        let says = |line: &Value| line["fields"]["error"].as_str().is_some_and(|error| error.contains(words));
        let lines = lines(scene, "the configuration stays as it was");
        assert!(lines.iter().any(says), "`{words}` is not in the log: {lines:?}");
    };
    let good = fs::read_to_string(scene.kms.home().join("kms.toml")).expect("readable");
    reads(scene, |text| format!("epoch_lok = \"1s\"\n{}", allowing(text, other)), [0, 1]);
    said("kms.toml`, line 1, column 1: there is no key `epoch_lok`; did you mean `epoch_look`?");
    reads(scene, |_| allowing(&good, other).replace("kms.sock", "other.sock"), [0, 2]);
    said("`socket` changed, which needs a restart");
    reads(scene, |_| "allowed_users = ".into(), [0, 3]);
    reads(scene, |_| good.clone(), [1, 3]);
}

/// Has a configuration read, and waits until so many were read well and not.
fn reads(scene: &Scene, change: impl FnOnce(&str) -> String, expected: [u32; 2]) {
    let of = |metrics: &Metrics, outcome| {
        metrics.value("assent_kms_configuration_reloads_total", &[("outcome", outcome)])
    };
    let had_failed = of(&scene.scrape(), "failed");
    scene.kms.reconfigure(change).expect("it runs");
    let mut after = scene.scrape();
    wait(|| {
        after = scene.scrape();
        ["done", "failed"].map(|outcome| of(&after, outcome)) == expected.map(|count| Some(f64::from(count)))
    });
    let has_failed = f64::from(u8::from(of(&after, "failed") != had_failed));
    assert_eq!(after.value("assent_kms_configuration_reload_failed", &[]), Some(has_failed));
}

/// A configuration that allows one user alone.
fn allowing(text: &str, user: u32) -> String {
    let rest = text.split_inclusive('\n').filter(|line| !line.starts_with("allowed_users"));
    format!("allowed_users = [{user}]\n{}", rest.collect::<String>())
}

/// Says that it is over when it is dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for something that comes without an event.
fn wait(mut is_there: impl FnMut() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !is_there() {
        assert!(Instant::now() < by, "it does not come");
        std::thread::park_timeout(LOOK);
    }
}
