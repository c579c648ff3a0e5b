//! `ballots`: ballots a second over the node's API, each verified, counted, and on disk before it is answered.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use assent_consensus::jws::Jws;
use assent_consensus::message::{Ballot, RequestId};
use assent_consensus::vote::Choice;
use serde_json::{Value, json};

use super::bare_loop::Messages;
use super::load::send_all;
use super::{Figure, Report};
use crate::program;
use crate::scripted::{Connection, Deployment, Kms, Plan, name};

/// All but one of them vote, so that no request is decided while ballots are counted.
const PLAN: Plan = Plan {
    contract: "many",
    rule: "{ at_least = 100, of = \"all\" }",
    voters: 100,
    act_within: "7d",
    key: None,
};
/// How many ballots each request gets.
const BALLOTS: usize = 99;
/// How many requests get ballots in one round.
const REQUESTS: usize = 160;
/// How many ballots are in a batch.
const BATCH: usize = 512;
/// How many callers send batches.
const CALLERS: usize = 8;
/// What part of the rate of verifications alone is to be reached.
const GOAL: f64 = 0.7;
/// How long the node may take to listen, and all requests of a round to open.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether they do.
const LOOK: Duration = Duration::from_millis(20);

/// Measures, and prints a figure.
///
/// # Errors
/// The node refuses what it should take, or is not there.
pub fn run(report: Report, rounds: usize) -> Result<()> {
    let (kms, deployment) = Kms::deploy(&[PLAN])?;
    let node = Node::start(&kms, &deployment)?;
    let messages = Messages::new()?;
    let mut rates = Vec::new();
    for round in 0..=rounds {
        let ballots = node.ballots(&deployment, round)?;
        let bodies = ballots.chunks(BATCH).map(|ballots| {
            let ballots: Vec<&str> = ballots.iter().map(Jws::as_str).collect();
            serde_json::to_vec(&json!({ "transactions": ballots }))
        });
        let bodies = bodies.collect::<Result<Vec<Vec<u8>>, _>>()?;
        let bare = verify_alone(&messages, ballots.len())?;
        let (batches, answers) =
            send_all(&node.socket, "/v1/ledgers/consensus/transactions/batch", CALLERS, &bodies)?;
        let mut recorded = 0;
        for answer in answers {
            let answer: Value = serde_json::from_slice(&answer.body)?;
            let results = answer["results"].as_array().context("a list of results")?;
            recorded += results.iter().filter(|result| result["height"].is_u64()).count();
        }
        ensure!(recorded == ballots.len(), "only {recorded} of {} ballots are recorded", ballots.len());
        // The first round warms up.
        if round > 0 {
            rates.push((batches / bodies.len() as f64 * ballots.len() as f64, bare));
        }
    }
    report.figure(&Figure::of("ballots", format!("batches of {BATCH}"), GOAL, &rates));
    Ok(())
}

/// Verifications a second on all cores.
fn verify_alone(messages: &Messages, count: usize) -> Result<f64> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    thread::scope(|scope| {
        let verify = |core: usize| (core..count).step_by(cores).try_for_each(|place| messages.verify(place));
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || verify(core))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// A running `assent node`.
struct Node {
    process: Child,
    socket: PathBuf,
}

impl Node {
    fn start(kms: &Kms, deployment: &Deployment) -> Result<Node> {
        let home = kms.home();
        let mut config = format!(
            "data_directory = \"data\"\ngenesis = \"genesis.json\"\nsocket = \"node.sock\"\nkms_socket = \"{}\"\n\n\
             [validator_keys]\n",
            kms.socket().display()
        );
        for log in [&deployment.processes, &deployment.consensus] {
            let file = home.join(format!("{}.pem", log.chain));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
            file.write_all(log.validator.pem().as_bytes())?;
            config += &format!("{0} = \"{0}.pem\"\n", log.chain);
        }
        fs::write(home.join("node.toml"), config)?;
        let log = File::create(home.join("node.log"))?;
        let process = Command::new(program::find("assent")?)
            .args(["node", "--config", "node.toml"])
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut node = Node { process, socket: home.join("node.sock") };
        let by = Instant::now() + PATIENCE;
        while Connection::open(&node.socket).is_err() {
            if node.process.try_wait()?.is_some() || Instant::now() > by {
                bail!("the node does not listen: {}", fs::read_to_string(home.join("node.log"))?);
            }
            thread::park_timeout(LOOK);
        }
        Ok(node)
    }

    /// Starts cases, waits until their requests are open, and gives the ballots that are cast on them.
    fn ballots(&self, deployment: &Deployment, round: usize) -> Result<Vec<Jws>> {
        let mut connection = Connection::open(&self.socket)?;
        let mut starts = Vec::new();
        let mut requests = Vec::new();
        for case in 0..REQUESTS {
            let case = format!("case-{round}-{case}");
            let digest = assent_consensus::digest::Digest::of(case.as_bytes());
            let start = deployment.start_of(PLAN.contract, &case, "none", digest);
            let jws = deployment.requester.sign(start.clone());
            let call = deployment.call_of(&start, &jws);
            requests.push(call.request(deployment.genesis.id(), &deployment.processes.chain));
            starts.push(jws);
        }
        let starts: Vec<&str> = starts.iter().map(Jws::as_str).collect();
        let body = serde_json::to_vec(&json!({ "transactions": starts }))?;
        connection.exchange("POST", "/v1/ledgers/process/transactions/batch", &body)?.good()?;
        let by = Instant::now() + PATIENCE;
        let mut ballots = Vec::new();
        for request in requests {
            let vote_request = loop {
                if let Some(vote_request) = vote_request(&mut connection, request)? {
                    break vote_request;
                }
                ensure!(Instant::now() < by, "the request `{request}` does not open");
                thread::park_timeout(LOOK);
            };
            let cast = |(place, voter): (usize, &crate::scripted::Key)| {
                voter.sign(Ballot {
                    deployment: deployment.genesis.id(),
                    request,
                    vote_request: vote_request.digest(),
                    voter: name(&format!("v{place}")),
                    choice: Choice::Approve,
                    reason: None,
                })
            };
            ballots.extend(deployment.voters.iter().take(BALLOTS).enumerate().map(cast));
        }
        Ok(ballots)
    }
}

fn vote_request(connection: &mut Connection, request: RequestId) -> Result<Option<Jws>> {
    let answer = connection.exchange("GET", &format!("/v1/requests/{request}"), b"")?;
    if answer.status == 404 {
        return Ok(None);
    }
    let view: Value = serde_json::from_slice(answer.good()?)?;
    let open = view["state"] == "open";
    Ok(view["vote_request"].as_str().filter(|_| open).and_then(|jws| Jws::parse(jws.as_bytes()).ok()))
}

impl Drop for Node {
    fn drop(&mut self) {
        // There is nobody to tell of a failure.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
