//! The whole system with the real programs and a YubiHSM 2 as the only device.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use assent::api::RequestState;
use assent_consensus::bundle;
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::vote::Choice::Approve;
use assent_tests::deployment::{Case, Deployment, yubihsm};
use assent_yubihsm_simulator::{Command, Fault, What};
use serde_json::Value;

/// The device's command that signs.
const SIGN_ECDSA: u64 = 0x56;

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn deployment() -> Deployment {
    Deployment::start_with_yubihsm().unwrap_or_else(|error| panic!("{error:#}"))
}

/// A case that two of three approve, to its end.
async fn approved(deployment: &Deployment, process: &str, name: &str) -> Result<Case> {
    let desk = deployment.desk();
    let (case, _) = desk.start_case(process, "ci", name, name.as_bytes()).await?;
    let view = desk.open_request(&case).await?;
    for voter in ["engineer-2", "engineer-3"] {
        desk.vote(&view, voter, Approve).await?;
    }
    assert_eq!(desk.end(&case).await?.1, CaseOutcome::Done);
    Ok(case)
}

/// The entries of the KMS's audit log, which is whole.
fn audit_log(deployment: &Deployment) -> Vec<Value> {
    let verified = deployment.assent_kms(&["audit", "verify"]).expect("it runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let exported = deployment.assent_kms(&["audit", "export"]).expect("it runs");
    let lines = String::from_utf8(exported.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the audit log says: signatures that were released, signatures in the device's log that are ours, and findings.
fn counted(deployment: &Deployment) -> (usize, usize, Vec<String>) {
    let (mut results, mut ours, mut findings) = (0, 0, Vec::new());
    for line in audit_log(deployment) {
        let entry = &line["entry"];
        match entry["entry"].as_str() {
            Some("result") => results += 1,
            Some("device-log") => {
                let used = entry["ours"].as_array().expect("a list");
                ours += used.iter().filter(|used| used["command"].as_u64() == Some(SIGN_ECDSA)).count();
                let found = entry["findings"].as_array().expect("a list");
                findings.extend(found.iter().map(ToString::to_string));
            }
            _ => {}
        }
    }
    (results, ours, findings)
}

#[test]
fn every_signature_of_a_case_is_in_the_devices_log_and_in_the_audit_log() {
    let mut deployment = deployment();
    let case = block_on(async {
        approved(&deployment, "package-signing", "package").await?;
        approved(&deployment, "release-signing", "release").await
    });
    let bytes = block_on(async { Ok(deployment.desk().client().bundle(case.request).await?) });
    let bundle = json::read(&bytes).expect("a bundle");
    bundle::verify(deployment.desk().genesis(), &bundle, &BTreeSet::new()).expect("it proves itself");
    deployment.kms().stop().unwrap_or_else(|error| panic!("{error:#}"));
    // For each case a vote request, a decision, and what was approved.
    assert_eq!(counted(&deployment), (6, 6, vec![]));
    let sessions = deployment.yubihsm().sessions();
    assert_eq!(sessions.refused, 0, "{sessions:?}");
}

#[test]
fn a_kms_that_is_killed_explains_what_it_had_signed_and_goes_on() {
    let mut deployment = deployment();
    for round in 0..4 {
        let desk = deployment.desk().clone();
        let started = block_on(async {
            approved(&deployment, "release-signing", &format!("whole-{round}")).await?;
            let (case, _) = desk.start_case("release-signing", "ci", &format!("cut-{round}"), b"x").await?;
            desk.open_request(&case).await.map(|view| (case, view))
        });
        // In the midst of signing, the device having done it.
        deployment.yubihsm().script(vec![Fault::of(Command::SIGN_ECDSA, What::Hang)]);
        let (case, view) = started;
        block_on(async {
            for voter in ["engineer-2", "engineer-3"] {
                desk.vote(&view, voter, Approve).await?;
            }
            desk.request_until(case.request, |view| view.summary.state == RequestState::Fixed).await
        });
        deployment.kms().kill().expect("it runs");
        deployment.yubihsm().script(Vec::new());
        // The device closes what was left open.
        deployment.yubihsm().clock().advance(Duration::from_secs(30));
        deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
        let (_, outcome) = block_on(desk.end(&case));
        assert_eq!(outcome, CaseOutcome::Done);
    }
    deployment.kms().stop().unwrap_or_else(|error| panic!("{error:#}"));
    let (results, ours, findings) = counted(&deployment);
    // Each decision that was cut off may have been signed twice by the device, and was released once.
    assert!(results == 24 && (24..=28).contains(&ours), "{results} released, {ours} in the device's log");
    assert!(findings.iter().all(|finding| finding.contains("may be ours")), "{findings:?}");
    let listed = deployment.assent_kms(&["doctor"]).expect("it runs");
    assert!(listed.status.success(), "no key is suspended: {}", String::from_utf8_lossy(&listed.stdout));
}

#[test]
fn a_backup_with_wrapped_keys_is_put_back_onto_another_yubihsm() {
    let mut deployment = deployment();
    let run = |deployment: &Deployment, arguments: &[&str]| {
        let output = deployment.assent_kms(arguments).expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    block_on(async { approved(&deployment, "release-signing", "before").await.map(drop) });
    let said = run(&deployment, &["backup", "--out", "backup"]);
    assert!(said.contains("are beside it, wrapped"), "{said}");
    let wrapped = std::fs::read_to_string(deployment.directory().join("backup/wrapped-keys.json"))
        .expect("it is there");
    let keys = serde_json::from_str::<Vec<Value>>(&wrapped).expect("JSON").len();
    let exported = |deployment: &Deployment| {
        let entries = audit_log(deployment);
        entries.iter().filter(|line| line["entry"]["entry"] == "key-exported").count()
    };
    let again = deployment.assent_kms(&["backup", "--out", "backup"]).expect("it runs");
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is a backup in `"), "{again:?}");
    assert_eq!(exported(&deployment), keys, "no key left its device again");

    // The device is lost, and the machine with it.
    deployment.kms().stop().expect("it stops");
    std::fs::rename(deployment.directory().join("kms"), deployment.directory().join("lost")).expect("moved");
    let standby = yubihsm(7_550_002).expect("a YubiHSM");
    let config = deployment.directory().join("kms.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    std::fs::write(&config, text.replace(&deployment.yubihsm().url(), &standby.url())).expect("written");
    let said = run(&deployment, &["restore", "backup"]);
    assert_eq!(said.matches("was brought back onto its device").count(), keys, "{said}");
    assert_eq!(said.matches("is on the token, and signs").count(), keys, "{said}");
    deployment.start_kms().expect("it starts");

    // Its log is matched from its first entry on, and nothing in it is strange.
    let (_, _, findings) = counted(&deployment);
    assert_eq!(findings, Vec::<String>::new());
    let listed = run(&deployment, &["key", "list"]);
    assert!(!listed.contains("suspended"), "{listed}");
    assert_eq!(exported(&deployment), keys);
    let certificate = deployment.directory().join("release.pem");
    std::fs::write(&certificate, run(&deployment, &["key", "attest", "--key", "release"])).expect("written");
    let shown =
        std::process::Command::new("openssl").args(["x509", "-noout", "-in"]).arg(&certificate).output();
    assert!(shown.expect("openssl runs").status.success());
}
