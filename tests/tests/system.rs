//! The whole system with the real programs: what becomes of cases, who is refused, and what goes on after an outage.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Result;
use assent::api::{CaseView, RequestState};
use assent::client::ClientError;
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::jws::Jws;
use assent_consensus::vote::Choice::{self, Abstain, Approve, Reject};
use assent_tests::deployment::{Case, Deployment, Desk, name, run};
use assent_tests::second_verifier;

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn deployment() -> Deployment {
    Deployment::start().unwrap_or_else(|error| panic!("{error:#}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Starts a case and has people vote, one after the other.
async fn play(
    desk: &Desk,
    process: &str,
    person: &str,
    case: &str,
    votes: &[(&str, Choice)],
) -> Result<(Case, CaseView, CaseOutcome)> {
    let (case, _) = desk.start_case(process, person, case, case.as_bytes()).await?;
    let view = desk.open_request(&case).await?;
    for (voter, choice) in votes {
        desk.vote(&view, voter, *choice).await?;
    }
    let (view, outcome) = desk.end(&case).await?;
    Ok((case, view, outcome))
}

/// Fetches a decided request's bundle, verifies it, and writes it down.
async fn bundle_of(deployment: &Deployment, case: &Case) -> Result<(Bundle, PathBuf)> {
    let bytes = deployment.desk().client().bundle(case.request).await?;
    let path = deployment.directory().join(format!("{}.bundle.json", case.name));
    std::fs::write(&path, &bytes)?;
    let bundle: Bundle = json::read(&bytes)?;
    bundle::verify(deployment.desk().genesis(), &bundle, &BTreeSet::new())?;
    Ok((bundle, path))
}

#[test]
fn a_file_is_signed_because_two_of_three_approve_one_of_them_with_a_token() {
    let deployment = Deployment::start_with_voters_token().unwrap_or_else(|error| panic!("{error:#}"));
    let here = deployment.directory();
    let done = |arguments: &[&str], code: i32| {
        let output = deployment.assent(arguments).expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        output
    };
    std::fs::write(here.join("artifact"), vec![7; 3_000_000]).expect("writable");
    let key = ["--key", "ci.pem"];
    let proposed =
        [&["propose", "release-signing", "--case", "first", "--artifact", "artifact", "--json"], &key[..]];
    let proposed: serde_json::Value =
        serde_json::from_slice(&done(&proposed.concat(), 0).stdout).expect("JSON is asked for");
    let request = proposed["request"].as_str().expect("a case of this process asks at once");
    let parsed = request.parse().expect("an id");
    block_on(deployment.desk().request_until(parsed, |view| view.summary.state == RequestState::Open));
    done(&["vote", request, "--approve", "--yes", "--key", "engineer-1.pem"], 0);
    let token = deployment.voter_token().expect("engineer-3 has one");
    let (module, pin) = (token.module().display().to_string(), token.pin_file().display().to_string());
    let key = ["--key", "pkcs11:token=engineer-3;object=vote", "--module", &module, "--pin-file", &pin];
    done(&[&["vote", request, "--approve", "--yes", "--reason", "read it"][..], &key].concat(), 0);
    done(&["fetch", "first", "--wait", "--out", "out", "--name", "artifact"], 0);
    run(Command::new("openssl")
        .args([
            "dgst",
            "-sha256",
            "-verify",
            "out/release.pub.pem",
            "-signature",
            "out/artifact.sig",
            "artifact",
        ])
        .current_dir(here))
    .unwrap_or_else(|error| panic!("{error:#}"));
    let verify =
        ["verify", "--genesis", "node/genesis.json", "out/artifact.bundle.json", "--file", "artifact"];
    done(&verify, 0);
    std::fs::write(here.join("artifact"), vec![8; 3_000_000]).expect("writable");
    done(&verify, 4);
}

#[test]
fn every_ending_and_every_format_is_proved_to_both_verifiers() {
    let deployment = deployment();
    let desk = deployment.desk();
    block_on(async {
        let mut bundles = Vec::new();
        for (process, votes, expected) in [
            ("release-signing", &[("engineer-1", Approve), ("engineer-2", Approve)][..], CaseOutcome::Done),
            (
                "hotfix-signing",
                &[("engineer-1", Reject), ("engineer-2", Approve), ("engineer-3", Approve)],
                CaseOutcome::Done,
            ),
            ("package-signing", &[("engineer-3", Approve), ("engineer-2", Approve)], CaseOutcome::Done),
            ("image-signing", &[("engineer-3", Approve), ("engineer-2", Approve)], CaseOutcome::Done),
            ("brief-signing", &[("engineer-3", Approve), ("engineer-2", Approve)], CaseOutcome::Done),
            ("release-signing", &[("engineer-1", Reject), ("engineer-2", Abstain)], CaseOutcome::Rejected),
            ("brief-signing", &[("engineer-1", Approve)], CaseOutcome::Expired),
            ("brief-signing", &[], CaseOutcome::Expired),
        ] {
            let case = format!("case-{}", bundles.len());
            let (case, view, outcome) = play(desk, process, "ci", &case, votes).await?;
            assert_eq!(outcome, expected, "{process} {votes:?}");
            let (bundle, path) = bundle_of(&deployment, &case).await?;
            assert_eq!(bundle.result.is_some(), outcome == CaseOutcome::Done);
            assert_eq!(view.results.len(), usize::from(outcome == CaseOutcome::Done));
            bundles.push(path);
        }
        // Taken back while it is asked.
        let (case, _) = desk.start_case("release-signing", "ci", "taken-back", b"x").await?;
        let view = desk.open_request(&case).await?;
        desk.vote(&view, "engineer-1", Approve).await?;
        desk.cancel("ci", &case).await?;
        assert_eq!(desk.end(&case).await?.1, CaseOutcome::Cancelled);
        let decided = desk.request_until(case.request, |view| view.summary.state.is_final()).await?;
        assert_eq!(decided.summary.state, RequestState::Decided);
        let (bundle, path) = bundle_of(&deployment, &case).await?;
        assert!(bundle.cancel.is_some() && bundle.result.is_none());
        bundles.push(path);

        let verdicts = second_verifier::verdicts(&deployment.genesis_file(), &bundles)?;
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
        // And the second verifier does look: a ballot signed by nobody.
        let mut bundle: Bundle = json::read(&std::fs::read(&bundles[0])?)?;
        bundle.ballots[0].jws = broken(&bundle.ballots[0].jws);
        std::fs::write(&bundles[0], json::write(&bundle))?;
        assert!(second_verifier::verdicts(&deployment.genesis_file(), &bundles[..1])?[0].is_err());
        Ok(())
    });
}

#[test]
fn keys_of_every_algorithm_sign_files_and_stock_tools_verify_them() {
    let deployment = Deployment::start_with_every_algorithm().unwrap_or_else(|error| panic!("{error:#}"));
    let desk = deployment.desk();
    let votes = [("engineer-1", Approve), ("engineer-2", Approve)];
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    for (key, options) in [("rpm", &[][..]), ("driver", &pss), ("boot", &[])] {
        let content = format!("a file for {key}").into_bytes();
        block_on(async {
            let (case, _) = desk.start_case(&format!("{key}-signing"), "ci", key, &content).await?;
            let view = desk.open_request(&case).await?;
            for (voter, choice) in votes {
                desk.vote(&view, voter, choice).await?;
            }
            assert_eq!(desk.end(&case).await?.1, CaseOutcome::Done);
            Ok(())
        });
        std::fs::write(deployment.directory().join("file"), &content).expect("writable");
        let fetched = deployment.assent(&["fetch", key, "--out", "out", "--name", key]).expect("it runs");
        assert!(fetched.status.success(), "{}", said(&fetched));
        let (public, signature) = (format!("out/{key}.pub.pem"), format!("out/{key}.sig"));
        let openssl = |file: &str| {
            Command::new("openssl")
                .args(["dgst", "-sha256", "-verify", &public, "-signature", &signature])
                .args(options)
                .arg(file)
                .current_dir(deployment.directory())
                .output()
                .expect("openssl runs")
        };
        let good = openssl("file");
        assert!(good.status.success() && said(&good).contains("Verified OK"), "{key}: {}", said(&good));
        assert!(!openssl("node/genesis.json").status.success());
        let bundle = format!("out/{key}.bundle.json");
        let verify = ["verify", "--genesis", "node/genesis.json", &bundle, "--file", "file"];
        let verified = deployment.assent(&verify).expect("it runs");
        assert_eq!(verified.status.code(), Some(0), "{key}: {}", said(&verified));
    }
    block_on(async {
        let mut bundles: Vec<PathBuf> = ["rpm", "driver", "boot"]
            .map(|key| deployment.directory().join(format!("out/{key}.bundle.json")))
            .into();
        for key in ["chart", "plugin", "module", "layer", "inherited"] {
            let (case, _, outcome) = play(desk, &format!("{key}-signing"), "ci", key, &votes).await?;
            assert_eq!(outcome, CaseOutcome::Done, "{key}");
            bundles.push(bundle_of(&deployment, &case).await?.1);
        }
        let inherited = bundles.last().and_then(|path| path.to_str()).expect("UTF-8");
        let verified = deployment.assent(&["verify", "--genesis", "node/genesis.json", inherited])?;
        assert!(said(&verified).contains("it was adopted"), "{}", said(&verified));
        let verdicts = second_verifier::verdicts(&deployment.genesis_file(), &bundles)?;
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
        // And it looks at each signature: one of another file is none.
        for path in &bundles {
            let mut bundle: Bundle = json::read(&std::fs::read(path)?)?;
            let result = bundle.result.as_mut().expect("signed");
            let last = result.signature.0.len() - 10;
            result.signature.0[last] ^= 1;
            std::fs::write(path, json::write(&bundle))?;
        }
        let verdicts = second_verifier::verdicts(&deployment.genesis_file(), &bundles)?;
        assert!(verdicts.iter().all(Result::is_err), "{verdicts:?}");
        // Who votes and who verifies is told which key was not made for this deployment.
        let (case, _) = desk.start_case("inherited-signing", "ci", "told", b"x").await?;
        let request = desk.open_request(&case).await?.summary.request.to_string();
        let key = deployment.directory().join("engineer-1.pem");
        let vote = ["vote", &request, "--reject", "--yes", "--key", key.to_str().expect("UTF-8")];
        let told = said(&deployment.assent(&vote)?);
        assert!(told.contains("the key inherited signs by RS256; it was adopted"), "{told}");
        let adopted = desk.genesis().keys().iter().filter(|key| key.adopted);
        assert_eq!(adopted.map(|key| key.name.as_str()).collect::<Vec<_>>(), ["inherited"]);
        Ok(())
    });
}

/// The message with another signature.
fn broken(jws: &Jws) -> Jws {
    let text = jws.as_str();
    let dot = text.rfind('.').expect("three parts");
    let other = if text.as_bytes()[dot + 1] == b'A' { 'B' } else { 'A' };
    Jws::parse(format!("{}.{other}{}", &text[..dot], &text[dot + 2..]).as_bytes()).expect("of the same form")
}

#[test]
fn two_processes_that_ask_one_contract_do_not_mix() {
    let deployment = deployment();
    let desk = deployment.desk();
    block_on(async {
        // The same case name, file and voters; only the process differs, and who approves what.
        let content = b"the same content";
        let (release, _) = desk.start_case("release-signing", "ci", "same-name", content).await?;
        // A requester has one case of a name.
        let same = desk.start_case("hotfix-signing", "ci", "same-name", content).await;
        assert!(same.is_err());
        let (hotfix, _) = desk.start_case("hotfix-signing", "engineer-1", "same-name", content).await?;
        assert_ne!(release.request, hotfix.request);
        let (release_view, hotfix_view) =
            (desk.open_request(&release).await?, desk.open_request(&hotfix).await?);
        assert_eq!(release_view.summary.contract, hotfix_view.summary.contract);

        // A ballot for one is no ballot for the other, whatever it claims.
        let asked = |view: &assent::api::RequestView| view.vote_request.as_ref().expect("open").digest();
        let deployment_id = desk.genesis().id().0;
        let mixed = desk.ballot_for(
            deployment_id,
            hotfix.request,
            asked(&release_view),
            "engineer-2",
            "engineer-2",
            Approve,
        )?;
        assert!(desk.submit(&name("consensus"), &mixed).await.is_err());

        desk.vote(&release_view, "engineer-2", Approve).await?;
        // Its requester is the third, so that two approvals are out of reach.
        desk.vote(&hotfix_view, "engineer-2", Reject).await?;
        desk.vote(&release_view, "engineer-3", Approve).await?;
        let (release_end, outcome) = desk.end(&release).await?;
        assert_eq!(outcome, CaseOutcome::Done);
        let (hotfix_end, outcome) = desk.end(&hotfix).await?;
        assert_eq!(outcome, CaseOutcome::Rejected);
        assert_eq!(hotfix_end.results, []);
        let [result] = &release_end.results[..] else { panic!("one result: {release_end:?}") };
        assert_eq!((result.output.key.as_str(), result.request), ("release", release.request));
        let (bundle, _) = bundle_of(&deployment, &release).await?;
        assert_eq!(bundle.result.expect("signed").key.as_str(), "release");

        // The other process's key signs what the other process was approved for, and nothing else.
        let (again, view, outcome) =
            play(desk, "hotfix-signing", "ci", "hotfix", &[("engineer-2", Approve), ("engineer-3", Approve)])
                .await?;
        assert_eq!(outcome, CaseOutcome::Done);
        assert_eq!(view.results[0].output.key.as_str(), "hotfix");
        let (mut mixed, _) = bundle_of(&deployment, &again).await?;
        mixed.decision = bundle_of(&deployment, &release).await?.0.decision;
        assert!(bundle::verify(desk.genesis(), &mixed, &BTreeSet::new()).is_err());
        Ok(())
    });
}

#[test]
fn a_case_waits_for_a_kms_that_is_down_and_goes_on_by_itself() {
    let mut deployment = deployment();
    let desk = deployment.desk().clone();
    deployment.kms().kill().expect("it runs");
    let case = block_on(async {
        let (case, _) = desk.start_case("release-signing", "ci", "waits", b"x").await?;
        let view = desk
            .request_until(case.request, |view| view.duty.as_ref().is_some_and(|duty| duty.last.is_some()));
        let last = view.await?.duty.and_then(|duty| duty.last).expect("it was tried");
        assert!(!last.needs_person, "{last:?}");
        Ok(case)
    });
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    let view = block_on(desk.open_request(&case));
    deployment.kms().stop().unwrap_or_else(|error| panic!("{error:#}"));
    block_on(async {
        // Voters need no KMS.
        desk.vote(&view, "engineer-1", Approve).await?;
        desk.vote(&view, "engineer-2", Approve).await?;
        desk.request_until(case.request, |view| view.summary.state == RequestState::Fixed).await
    });
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    let (_, outcome) = block_on(desk.end(&case));
    assert_eq!(outcome, CaseOutcome::Done);
}

#[test]
fn a_ballot_that_must_not_count_is_refused_with_its_reason() {
    let deployment = deployment();
    let desk = deployment.desk();
    let chain = name("consensus");
    block_on(async {
        let (case, _) = desk.start_case("release-signing", "engineer-1", "by-a-voter", b"x").await?;
        let (other, _) = desk.start_case("release-signing", "ci", "other", b"x").await?;
        let (view, other) = (desk.open_request(&case).await?, desk.open_request(&other).await?);
        let id = desk.genesis().id().0;
        let asked = view.vote_request.as_ref().expect("open").digest();
        let other_asked = other.vote_request.as_ref().expect("open").digest();
        let ballot = |deployment, request, asked, person, voter| {
            desk.ballot_for(deployment, request, asked, person, voter, Approve)
        };
        let refused = async |what: &str, ballot: Jws| match desk
            .client()
            .submit(&chain, ballot.as_str().into())
            .await
        {
            Err(ClientError::Refused { status, body, .. }) if status.is_client_error() => body.code,
            answer => panic!("{what}: {answer:?}"),
        };
        let mut codes = Vec::new();
        for (what, ballot) in [
            ("a stranger", ballot(id, case.request, asked, "ci", "engineer-2")?),
            ("the requester", desk.ballot(&view, "engineer-1", Approve)?),
            ("in another's name", ballot(id, case.request, asked, "engineer-2", "engineer-3")?),
            ("another request", ballot(id, other.summary.request, asked, "engineer-2", "engineer-2")?),
            ("another vote request", ballot(id, case.request, other_asked, "engineer-2", "engineer-2")?),
            (
                "another deployment",
                ballot(Digest::of(b"x"), case.request, asked, "engineer-2", "engineer-2")?,
            ),
            ("a broken signature", broken(&desk.ballot(&view, "engineer-2", Approve)?)),
        ] {
            codes.push(refused(what, ballot).await);
        }
        let first = desk.vote(&view, "engineer-2", Approve).await?.expect("acknowledged").submitted;
        // The very same bytes once more are no second ballot: they are where they are.
        let again = desk.vote(&view, "engineer-2", Approve).await?.expect("acknowledged").submitted;
        assert_eq!((first.height, first.index), (again.height, again.index));
        // Another one is no vote either, but what he said stays as a conflict; once, however much he goes on.
        desk.vote(&view, "engineer-2", Reject).await?;
        codes.push(refused("a third time", desk.ballot(&view, "engineer-2", Abstain)?).await);
        let events = desk.client().events(&chain, 0, Duration::ZERO).await?.events;
        let conflicts = events.iter().filter(|event| event.event["type"] == "conflict");
        assert_eq!(
            conflicts.map(|event| event.event["voter"].as_str()).collect::<Vec<_>>(),
            [Some("engineer-2")]
        );
        let request = case.request.to_string();
        let vote = ["vote", &request, "--approve", "--yes", "--key", "engineer-2.pem"];
        let output = deployment.assent(&vote)?;
        assert!(
            output.status.code() == Some(1) && said(&output).contains("you have voted"),
            "{}",
            said(&output)
        );
        desk.vote(&view, "engineer-3", Approve).await?;
        assert_eq!(desk.end(&case).await?.1, CaseOutcome::Done);
        let (brief, _, outcome) = play(desk, "brief-signing", "ci", "brief", &[]).await?;
        assert_eq!(outcome, CaseOutcome::Expired);
        let brief = desk.open_request(&brief).await?;
        codes.push(refused("late", desk.ballot(&brief, "engineer-2", Approve)?).await);
        assert_eq!(codes, CODES);
        let (bundle, _) = bundle_of(&deployment, &case).await?;
        assert_eq!(bundle.ballots.len(), 2);
        Ok(())
    });
}

const CODES: [&str; 9] = [
    "not-a-voter",
    "requester-may-not-vote",
    "wrong-voter",
    "other-request",
    "other-request",
    "other-deployment",
    "bad-signature",
    "already-voted",
    "too-late",
];

#[test]
fn an_audit_log_that_was_cut_short_is_found_by_the_heads_on_the_logs() {
    let mut deployment = deployment();
    block_on(async {
        let votes = [("engineer-1", Approve), ("engineer-2", Approve)];
        let played = play(deployment.desk(), "release-signing", "ci", "heads", &votes).await?;
        assert_eq!(played.2, CaseOutcome::Done);
        Ok(())
    });
    let genesis = deployment.genesis_file().display().to_string();
    let heads = |chain: &str| {
        let (file, to) = (format!("node/data/{chain}.ledger"), format!("{chain}.heads"));
        let arguments =
            ["ledger", "check", &file, "--chain", chain, "--genesis", &genesis, "--audit-heads", &to];
        let output = deployment.assent(&arguments).expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
        to
    };
    let [process, consensus] = ["process", "consensus"].map(heads);
    let verify = |file: &str| deployment.assent_kms(&["audit", "verify", "--heads", file]).expect("it runs");
    for (file, count) in [(&process, 1), (&consensus, 2)] {
        let text = std::fs::read_to_string(deployment.directory().join(file)).expect("written");
        assert_eq!(text.lines().count(), count, "{text}");
        let output = verify(file);
        assert!(output.status.success(), "{}", said(&output));
    }
    deployment.kms().stop().unwrap_or_else(|error| panic!("{error:#}"));
    let database =
        rusqlite::Connection::open(deployment.directory().join("kms/kms.sqlite")).expect("it opens");
    let last: i64 = database
        .query_row("SELECT max(intent) - 1 FROM duty", [], |row| row.get(0))
        .expect("there are duties");
    database
        .execute_batch(&format!(
            "DELETE FROM audit WHERE number > {last}; DELETE FROM duty WHERE intent > {last};
             DELETE FROM result WHERE entry > {last}"
        ))
        .expect("cut");
    drop(database);
    let output = deployment.assent_kms(&["audit", "verify"]).expect("it runs");
    assert!(output.status.success(), "it looks whole: {}", said(&output));
    let output = deployment.assent_kms(&["audit", "verify", "--heads", &process]).expect("it runs");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("entries were cut off"), "{}", said(&output));
}
