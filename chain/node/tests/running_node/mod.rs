//! A real node on a deployment of its own, and a KMS whose keys are in files: it signs what it is asked for, or refuses,
//! as a test tells it to. (That the real KMS refuses what it should is tested with the real one.)

// Each test program uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assent::client::{Address, Client};
use assent::voter::key_file::{KeyFile, Protection};
use assent::voter::secret::SecretError;
use assent::voter::{Signer as _, sign_message};
use assent_consensus::bundle::ActionOutput;
use assent_consensus::digest::Digest;
use assent_consensus::duty::{Duty, DutyAnswer, DutyBatch, DutyReport, TrustedHeaders};
use assent_consensus::encoding::Bytes;
use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::genesis::Genesis;
use assent_consensus::json::{Members, Value};
use assent_consensus::jws::{Jws, Signed};
use assent_consensus::message::{Ballot, Decision, KeyVersion, Start, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::vote::Choice;
use axum::routing::{get, post};
use axum::{Json, Router};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the program to its end.
pub fn assent(directory: &Path, arguments: &[&str]) -> (ExitStatus, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .output()
        .expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8(text).expect("UTF-8"))
}

/// A deployment in a directory of its own: two voters of whom two must approve, one requester, one key.
pub struct Deployment {
    directory: tempfile::TempDir,
}

impl Deployment {
    pub fn new() -> Deployment {
        let directory = tempfile::tempdir().expect("a directory");
        let here = directory.path();
        let mut keys = Vec::new();
        for name in ["alice", "bob", "ci", "contract", "release"] {
            let key = KeyFile::generate().expect("random numbers");
            key.write_new(&here.join(format!("{name}.pem")), &Protection::None).expect("writable");
            keys.push(toml_of(&key));
        }
        let [alice, bob, ci, ..] = &keys[..] else { unreachable!("there are five") };
        let voter = |name: &str, key: &str| {
            format!("[[voter]]\nname = \"{name}\"\nkey = {key}\ngroups = [\"all\"]\n")
        };
        let policy = format!(
            "name = \"release-approval\"\nkinds = [\"sign\"]\ndeadline = \"1h\"\nrule = {{ at_least = 2, of = \"all\" }}\n{}{}",
            voter("alice", alice),
            voter("bob", bob)
        );
        fs::write(here.join("policy.toml"), policy).expect("writable");
        let process = format!(
            r#"name = "release-signing"
input = {{ artifact = "digest", name = "text", size = "integer" }}
[[requester]]
name = "ci"
key = {ci}
[[step]]
name = "approval"
ask = "release-approval"
subject = {{ kind = "sign", key = "release", name = "{{name}}", digest = "{{artifact}}", size = "{{size}}" }}
[[step]]
name = "signature"
act = "approval"
"#
        );
        fs::write(here.join("process.toml"), process).expect("writable");
        let deployment = r#"name = "test"
environment = "a test"
[[contract]]
policy = "policy.toml"
key = "contract.jwk"
[[process]]
definition = "process.toml"
governed_by = "release-approval"
[[key]]
name = "release"
governed_by = "release-approval"
format = "der"
key = "release.jwk"
[node]
kms_socket = "kms.sock"
"#;
        fs::write(here.join("deployment.toml"), deployment).expect("writable");
        let (status, text) = assent(here, &["init", "deployment.toml", "--out", "node"]);
        assert!(status.success(), "{text}");
        Deployment { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("node").join(name)
    }

    pub fn config(&self) -> String {
        fs::read_to_string(self.path("node.toml")).expect("there")
    }

    pub fn set_config(&self, text: &str) {
        fs::write(self.path("node.toml"), text).expect("writable");
    }

    pub fn genesis(&self) -> Genesis {
        Genesis::parse(&fs::read(self.path("genesis.json")).expect("there")).expect("valid")
    }

    pub fn key(&self, name: &str) -> KeyFile {
        let path = self.directory.path().join(format!("{name}.pem"));
        KeyFile::read(&path, || Err(SecretError::Empty)).expect("a key")
    }

    /// Starts a node that must not start; what it says.
    pub fn start_fails(&self) -> String {
        let (status, text) = assent(self.directory.path(), &["node", "--config", "node/node.toml"]);
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// Starts a node, and waits until it is ready.
    pub fn start(&self) -> Node {
        let mut child = Command::new(env!("CARGO_BIN_EXE_assent"))
            .args(["node", "--config", "node/node.toml"])
            .current_dir(self.directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A test that has seen enough may be gone.
                let _ = sender.send(line);
            }
        });
        let node = Node { child, lines, socket: self.path("data/node.sock") };
        node.says("\"message\":\"ready\"");
        node
    }

    /// A start of a case with this name.
    pub fn start_of(&self, case: &str) -> Jws {
        let genesis = self.genesis();
        let mut input = Members::default();
        input.push("artifact", Value::String(Digest::of(case.as_bytes()).to_string()));
        input.push("name", Value::String(case.to_owned()));
        input.push("size", Value::Number(7));
        let start = Start {
            deployment: genesis.id(),
            chain: name("process"),
            process: name("release-signing"),
            definition: genesis.process(&name("release-signing")).expect("there").definition.digest(),
            case: name(case),
            nonce: Bytes(vec![7; 16]),
            input,
        };
        sign_message(&self.key("ci"), start).expect("signed").jws().clone()
    }

    /// A ballot on an open request.
    pub fn ballot(&self, vote_request: &Jws, voter: &str, choice: Choice) -> Jws {
        let asked = Signed::<VoteRequest>::from_jws(vote_request.clone()).expect("well formed");
        let ballot = Ballot {
            deployment: asked.unverified().deployment,
            request: asked.unverified().request,
            vote_request: vote_request.digest(),
            voter: name(voter),
            choice,
            reason: None,
        };
        sign_message(&self.key(voter), ballot).expect("signed").jws().clone()
    }

    /// What `assent doctor` says, and whether all is well.
    pub fn doctor(&self) -> (bool, String) {
        let (status, text) = assent(self.directory.path(), &["doctor", "--config", "node/node.toml"]);
        assert!(matches!(status.code(), Some(0 | 1)), "{text}");
        (status.success(), text)
    }

    /// Starts a KMS on the socket that the node calls.
    pub fn start_kms(&self) -> Kms {
        let told = Arc::new(Mutex::new(None));
        let keys = Arc::new(Keys {
            genesis: self.genesis(),
            contract: self.key("contract"),
            release: self.key("release"),
            told: told.clone(),
        });
        let path = self.path("kms.sock");
        let _ = fs::remove_file(&path);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(path).expect("a socket")
        };
        let health = serde_json::json!({ "status": "ok", "deployment": keys.genesis.id() });
        let router = Router::new()
            .route("/v1/health", get(|| async { Json(health) }))
            .route("/v1/trusted", get(|| async { Json(TrustedHeaders { chains: Vec::new() }) }))
            .route(
                "/v1/duties",
                post(move |Json(batch): Json<DutyBatch>| async move {
                    Json(DutyReport { answers: batch.duties.iter().map(|duty| keys.answer(duty)).collect() })
                }),
            );
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Kms { runtime: Some(runtime), told }
    }
}

/// A running node. It is killed when this is dropped.
pub struct Node {
    child: Child,
    lines: Receiver<String>,
    socket: PathBuf,
}

impl Node {
    pub fn client(&self) -> Client {
        Client::new(Address::Unix(self.socket.clone()))
    }

    /// Waits until the node logs a line with these words; the line.
    pub fn says(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => said.push_str(&format!("{line}\n")),
                Err(error) => panic!("the node does not say {words:?} ({error}), but:\n{said}"),
            }
        }
    }

    /// Cuts the node off, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Tells the node to stop, and waits for it.
    pub fn stop(mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends")
    }

    /// Sends raw bytes over a connection of its own, and reads the answer.
    pub fn raw(&self, bytes: &[u8]) -> String {
        use std::io::Write as _;
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // The node may answer and hang up before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A KMS that is told what to answer. It stops when this is dropped.
pub struct Kms {
    runtime: Option<tokio::runtime::Runtime>,
    told: Arc<Mutex<Option<DutyAnswer>>>,
}

impl Kms {
    /// What it answers to every duty from now on; nothing: it signs.
    pub fn answers(&self, answer: Option<DutyAnswer>) {
        *self.told.lock().expect("no test panics there") = answer;
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime does not end within another one.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE));
            ended.join().expect("no panic");
        }
    }
}

struct Keys {
    genesis: Genesis,
    contract: KeyFile,
    release: KeyFile,
    told: Arc<Mutex<Option<DutyAnswer>>>,
}

impl Keys {
    fn answer(&self, duty: &Duty) -> DutyAnswer {
        if let Some(told) = self.told.lock().expect("no test panics there").clone() {
            return told;
        }
        let audit = Digest::of(b"audit");
        match duty {
            Duty::VoteRequest { call, .. } => DutyAnswer::Signed { message: self.vote_request(call), audit },
            Duty::Decision { vote_request, due, .. } => {
                DutyAnswer::Signed { message: self.decision(vote_request, due), audit }
            }
            Duty::Action { due, .. } => DutyAnswer::Performed { output: self.output(due), audit },
        }
    }

    fn vote_request(&self, call: &assent_consensus::header::EventProof) -> Jws {
        let Ok(ProcessEvent::Call(call)) = ProcessEvent::parse(&call.event.0) else { panic!("no call") };
        let policy = &self.genesis.contract(&call.contract).expect("there").policy;
        let opened = assent::node::now();
        let message = VoteRequest {
            deployment: self.genesis.id(),
            chain: name("consensus"),
            request: call.request(self.genesis.id(), &name("process")),
            contract: call.contract,
            policy: policy.digest(),
            process: call.process,
            definition: call.definition,
            case: call.case,
            step: call.step,
            attempt: call.attempt,
            requester: call.requester,
            start: call.start,
            subject: call.subject,
            opened,
            deadline: opened.after(policy.deadline()),
            key_version: KeyVersion::first(),
        };
        sign_message(&self.contract, message).expect("signed").jws().clone()
    }

    fn decision(&self, vote_request: &Jws, due: &assent_consensus::header::EventProof) -> Jws {
        let asked = Signed::<VoteRequest>::from_jws(vote_request.clone()).expect("well formed");
        let asked = asked.unverified().clone();
        let Ok(ConsensusEvent::DecisionDue { request, outcome, ballots, decided }) =
            ConsensusEvent::parse(&due.event.0)
        else {
            panic!("no decision is due");
        };
        let message = Decision {
            deployment: asked.deployment,
            chain: asked.chain,
            contract: asked.contract,
            request,
            vote_request: vote_request.digest(),
            policy: asked.policy,
            outcome,
            ballots,
            decided,
            key_version: asked.key_version,
        };
        sign_message(&self.contract, message).expect("signed").jws().clone()
    }

    fn output(&self, due: &assent_consensus::header::EventProof) -> ActionOutput {
        let Ok(ProcessEvent::ActionDue { subject: Subject::Sign { key, digest, .. }, .. }) =
            ProcessEvent::parse(&due.event.0)
        else {
            panic!("no action is due");
        };
        let signature = self.release.sign(&digest).expect("signed");
        let signature = p256::ecdsa::Signature::from_slice(&signature).expect("64 bytes");
        ActionOutput {
            key,
            version: KeyVersion::first(),
            public_key: self.release.public_key().clone().into(),
            format: SignatureFormat::Der,
            signature: Bytes(signature.to_der().as_bytes().to_vec()),
        }
    }
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Does `work` on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

fn toml_of(key: &KeyFile) -> String {
    let jwk = serde_json::to_value(key.public_key()).expect("JSON");
    let member = |name: &str| format!("{name} = {}", jwk[name]);
    format!("{{ {} }}", ["crv", "kty", "x", "y"].map(member).join(", "))
}
