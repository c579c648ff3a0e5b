//! A node and a KMS as on two machines: what goes over mutual TLS, who is refused, and what becomes of certificates that are
//! replaced.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use assent_consensus::event::CaseOutcome;
use assent_consensus::vote::Choice::Approve;
use assent_hsm_mock::{Authority, Term, Usage};
use assent_tests::deployment::remote::{NODE, free_address};
use assent_tests::deployment::{Deployment, Desk};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// How many cases run while certificates are replaced, and how many at the same time.
const CASES: usize = 24;
const CALLERS: usize = 6;

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn over_tls() -> Deployment {
    Deployment::start_over_tls(None).unwrap_or_else(|error| panic!("{error:#}"))
}

fn said_by(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Has a case of two approvals done.
async fn approve(desk: &Desk, case: &str) -> Result<()> {
    let (case, _) = desk.start_case("release-signing", "ci", case, case.as_bytes()).await?;
    let view = desk.open_request(&case).await?;
    desk.vote(&view, "engineer-1", Approve).await?;
    desk.vote(&view, "engineer-2", Approve).await?;
    let (view, outcome) = desk.end(&case).await?;
    ensure!(outcome == CaseOutcome::Done && view.results.len() == 1, "{outcome:?}");
    Ok(())
}

/// What openssl, a client that is not ours, gets from the KMS for `request` with these options.
fn openssl(deployment: &Deployment, options: &[&str], request: &str) -> Result<(bool, String)> {
    let remote = deployment.remote();
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &remote.address.to_string(),
            "-CAfile",
            "ca.crt",
            "-verify_return_error",
        ])
        // It waits for the other side's end, not for that of its input.
        .arg("-ign_eof")
        .args(options)
        .current_dir(remote.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl")?;
    let sent = child.stdin.take().context("piped")?.write_all(request.as_bytes());
    let output = child.wait_with_output()?;
    // Who is turned away does not read what comes after.
    ensure!(sent.is_ok() || !output.status.success(), "{sent:?}");
    Ok((output.status.success(), said_by(&output)))
}

const WITH_CERTIFICATE: [&str; 4] = ["-cert", "node.crt", "-key", "node.key"];

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: kms\r\nconnection: close\r\n\r\n")
}

#[test]
fn a_case_is_signed_over_tls_and_nothing_but_duties_is_reached_there() {
    let deployment = over_tls();
    block_on(approve(deployment.desk(), "first"));
    let ask = |path: &str| openssl(&deployment, &WITH_CERTIFICATE, &get(path)).expect("it runs");
    let (_, answer) = ask("/v1/health");
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("TLSv1.3"), "{answer}");
    // Nothing is given to come in with a second time.
    assert!(!answer.contains("Session Ticket"), "{answer}");
    for path in ["/v1/keys", "/v1/pin", "/v1/release", "/v1/voters", "/metrics"] {
        let (_, answer) = ask(path);
        assert!(answer.contains("HTTP/1.1 404 Not Found") && answer.contains("unknown-call"), "{answer}");
    }
    let doctor = deployment.assent(&["doctor", "--config", "node/node.toml"]).expect("it runs");
    let address = deployment.remote().address;
    assert!(doctor.status.success(), "{}", said_by(&doctor));
    assert!(said_by(&doctor).contains(&format!("ok at https://{address}")), "{}", said_by(&doctor));
    assert!(said_by(&doctor).contains("until 4096-01-01T00:00:00Z"), "{}", said_by(&doctor));
}

#[test]
fn who_may_not_come_in_is_turned_away_and_told_why() {
    let mut deployment = over_tls();
    let foreign = Authority::new("foreign").expect("made");
    let authority = &deployment.remote().authority;
    let directory = deployment.remote().directory().to_owned();
    let doctor = |deployment: &Deployment| {
        let output = deployment.assent(&["doctor", "--config", "node/node.toml"]).expect("it runs");
        (output.status.success(), said_by(&output))
    };
    assert!(doctor(&deployment).0);
    let own = "the KMS does not take this node's certificate";
    let cases = [
        (authority.issue(&[NODE, "late"], Usage::Client, Term::Past), "it has expired", "it expired on 2021"),
        (
            authority.issue(&[NODE, "early"], Usage::Client, Term::Future),
            "or is not valid yet",
            "not valid before 4000",
        ),
        (
            authority.issue(&["other"], Usage::Client, Term::Now),
            "its `clients` list neither",
            "`clients` lists neither",
        ),
        (
            foreign.issue(&[NODE, "foreign"], Usage::Client, Term::Now),
            "no authority in its",
            "no authority that is known",
        ),
    ];
    for ((issued, for_node, for_kms), name) in cases.into_iter().zip(["late", "early", "other", "foreign"]) {
        issued.expect("issued").write(&directory, "node").expect("writable");
        let (is_well, text) = doctor(&deployment);
        assert!(!is_well && text.contains(own) && text.contains(for_node), "{text}");
        let log = deployment.kms().said(&format!("dns:{name}, sha256:"));
        log.and_then(|()| deployment.kms().said(for_kms)).unwrap_or_else(|error| panic!("{error:#}"));
    }
    let (_, text) = doctor(&deployment);
    assert!(!text.contains("!! certificate"), "it is good, for others: {text}");
    deployment.remote().renew_node().expect("writable");

    for (options, for_client, for_kms) in [
        (&["-tls1_3"][..], "certificate required", "it shows no certificate"),
        (
            &[&["-tls1_2"][..], &WITH_CERTIFICATE].concat(),
            "protocol version",
            "it does not speak TLS 1.3 as needed",
        ),
    ] {
        let (is_done, text) = openssl(&deployment, options, &get("/v1/health")).expect("it runs");
        assert!(!is_done && text.contains(for_client) && !text.contains("HTTP/1.1"), "{text}");
        deployment.kms().said(for_kms).unwrap_or_else(|error| panic!("{error:#}"));
    }
    assert!(doctor(&deployment).0);
}

#[test]
fn a_kms_whose_certificate_has_expired_says_so_and_one_that_is_half_replaced_keeps_the_old_one() {
    let mut deployment = over_tls();
    let directory = deployment.remote().directory().to_owned();
    let node_doctor = |deployment: &Deployment| {
        let output = deployment.assent(&["doctor", "--config", "node/node.toml"]).expect("it runs");
        (output.status.success(), said_by(&output))
    };
    let kms_doctor = |deployment: &Deployment| {
        let output = deployment.assent_kms(&["doctor"]).expect("it runs");
        (output.status.success(), said_by(&output))
    };
    let (is_well, text) = kms_doctor(&deployment);
    assert!(is_well && text.contains("kms.crt`: good for"), "{text}");

    let key = std::fs::read(directory.join("kms.key")).expect("there");
    deployment.remote().renew_kms().expect("writable");
    let new_key = std::fs::read(directory.join("kms.key")).expect("there");
    std::fs::write(directory.join("kms.key"), &key).expect("writable");
    assert!(node_doctor(&deployment).0, "the old one is in use");
    deployment.kms().said("the old certificate stays in use").unwrap_or_else(|error| panic!("{error:#}"));
    let (is_well, text) = kms_doctor(&deployment);
    assert!(!is_well && text.contains("is not for the private key"), "{text}");
    std::fs::write(directory.join("kms.key"), &new_key).expect("writable");
    assert!(node_doctor(&deployment).0);
    deployment.kms().said("a new certificate is in use").unwrap_or_else(|error| panic!("{error:#}"));

    let host = deployment.remote().address.ip().to_string();
    let expired = deployment.remote().authority.issue(&[&host], Usage::Server, Term::Past).expect("issued");
    expired.write(&directory, "kms").expect("writable");
    let (is_well, text) = kms_doctor(&deployment);
    assert!(!is_well && text.contains("expired on 2021-01-01T00:00:00Z; have a new one issued"), "{text}");
    let (is_well, text) = node_doctor(&deployment);
    assert!(!is_well && text.contains("the certificate of the KMS is not good"), "{text}");
    assert!(text.contains("it expired on 2021-01-01T00:00:00Z"), "{text}");
    deployment.remote().renew_kms().expect("writable");
    assert!(node_doctor(&deployment).0, "without a restart");
}

/// Has the KMS read another list of clients.
fn let_in(deployment: &mut Deployment, clients: &str) -> Result<()> {
    let path = deployment.directory().join("kms.toml");
    let text = std::fs::read_to_string(&path)?;
    let line = |line: &str| match line.starts_with("clients = ") {
        true => format!("clients = {clients}\n"),
        false => line.to_owned(),
    };
    std::fs::write(&path, text.split_inclusive('\n').map(line).collect::<String>())?;
    let id = i32::try_from(deployment.kms().id().context("it runs")?)?;
    Ok(kill_process(Pid::from_raw(id).context("a number")?, Signal::HUP)?)
}

#[test]
fn a_node_that_is_struck_off_the_list_or_revoked_is_let_in_no_more_and_nothing_is_lost() {
    let mut deployment = over_tls();
    let desk = deployment.desk().clone();
    block_on(approve(&desk, "before"));
    let (case, _) = block_on(desk.start_case("release-signing", "ci", "during", b"during"));
    let view = block_on(desk.open_request(&case));
    let_in(&mut deployment, "[\"dns:other.example\"]").expect("it runs");
    let said = deployment.kms().said("a client is let in no more, and its connection ends");
    said.unwrap_or_else(|error| panic!("{error:#}"));
    for voter in ["engineer-1", "engineer-2"] {
        block_on(desk.vote(&view, voter, Approve));
    }
    let doctor = |deployment: &Deployment| {
        let output = deployment.assent(&["doctor", "--config", "node/node.toml"]).expect("it runs");
        (output.status.success(), said_by(&output))
    };
    let (is_well, text) = doctor(&deployment);
    assert!(!is_well && text.contains("its `clients` list neither a name nor the key of it"), "{text}");
    let_in(&mut deployment, &format!("[\"dns:{NODE}\"]")).expect("it runs");
    let (_, outcome) = block_on(desk.end(&case));
    assert_eq!(outcome, CaseOutcome::Done);

    let stolen = deployment.remote().authority.issue(&[NODE], Usage::Client, Term::Now).expect("issued");
    stolen.write(deployment.remote().directory(), "node").expect("writable");
    assert!(doctor(&deployment).0);
    deployment.remote().revoke(&[&stolen]).expect("writable");
    let (is_well, text) = doctor(&deployment);
    assert!(!is_well && text.contains("its authority has revoked it"), "{text}");
    deployment.remote().renew_node().expect("writable");
    assert!(doctor(&deployment).0);
    block_on(approve(&desk, "after"));
}

#[test]
fn certificates_are_replaced_while_cases_run_and_connections_break_and_nothing_is_lost() {
    let wire = Wire { at: free_address(), cuts: Arc::default() };
    let mut deployment =
        Deployment::start_over_tls(Some(wire.at)).unwrap_or_else(|error| panic!("{error:#}"));
    let (desk, to) = (deployment.desk().clone(), deployment.remote().address);
    block_on(async {
        let mut carrier = JoinSet::new();
        carrier.spawn(wire.clone().carry(to));
        let mut callers: JoinSet<Result<()>> = JoinSet::new();
        let (told, mut done) = tokio::sync::mpsc::unbounded_channel();
        for caller in 0..CALLERS {
            let (desk, told) = (desk.clone(), told.clone());
            callers.spawn(async move {
                for case in (caller..CASES).step_by(CALLERS) {
                    approve(&desk, &format!("case-{case}")).await.with_context(|| format!("case {case}"))?;
                    told.send(case)?;
                }
                Ok(())
            });
        }
        drop(told);
        let mut count = 0;
        while done.recv().await.is_some() {
            count += 1;
            let remote = deployment.remote();
            if count % 3 == 0 {
                remote.renew_node()?;
            }
            if count % 4 == 0 {
                remote.renew_kms()?;
            }
            // The next ones show what is in the files now.
            wire.cut();
        }
        callers.join_all().await.into_iter().collect::<Result<()>>()
    });
    for daemon in [
        deployment.node().said("a new certificate is in use"),
        deployment.kms().said("a new certificate is in use"),
    ] {
        daemon.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// A wire between node and KMS that can be cut.
#[derive(Clone)]
struct Wire {
    at: SocketAddr,
    cuts: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Wire {
    async fn carry(self, to: SocketAddr) -> Result<()> {
        let listener = TcpListener::bind(self.at).await?;
        let mut carried = JoinSet::new();
        loop {
            let (mut from, _) = listener.accept().await?;
            let cut = carried.spawn(async move {
                let Ok(mut to) = TcpStream::connect(to).await else { return };
                // However it ends, both sides see it.
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
            self.cuts.lock().expect("nobody panics with it").push(cut);
        }
    }

    /// Breaks all connections that are there.
    fn cut(&self) {
        self.cuts.lock().expect("nobody panics with it").drain(..).for_each(|cut| cut.abort());
    }
}
