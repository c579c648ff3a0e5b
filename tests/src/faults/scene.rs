//! The KMS on the failing module, an agent that asks it again as long as it says "later", and a person who does what it
//! asks a person for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use assent_consensus::duty::{DutyAnswer, DutyReport};
use assent_consensus::jwk::PublicKey;
use assent_consensus::jws::{Jws, Signed as SignedMessage};
use assent_consensus::message::{RequestId, VoteRequest};
use assent_consensus::subject::SignatureFormat;
use assent_hsm_mock::FaultModule;

use crate::scripted::{Connection, Deployment, Equipment, Kms, Plan};

pub(super) const PLAN: Plan = Plan {
    contract: "faulty",
    rule: "{ at_least = 1, of = \"all\" }",
    voters: 1,
    act_within: "7d",
    key: Some(("release", SignatureFormat::Der)),
};

/// How long the agent goes on asking for one duty. What is not signed then is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits between two times.
const PAUSE: Duration = Duration::from_millis(20);

/// Duties that are ready to be sent, all provable under one header of each log.
pub(super) struct Round {
    /// Has the headers verified.
    advance: Vec<u8>,
    pub(super) duties: Vec<Ready>,
}

/// One duty.
pub(super) struct Ready {
    pub(super) request: RequestId,
    body: Vec<u8>,
}

/// How a duty came to its signature.
#[derive(Debug)]
pub(super) struct Signed {
    /// What the KMS said before, each once, in order: `retry: reason` or `person: reason`.
    pub(super) before: Vec<String>,
    pub(super) tries: usize,
}

/// Makes rounds; it needs nothing of the KMS but that every round is sent whole, one after the other.
pub(super) struct Maker {
    deployment: Deployment,
    made: usize,
}

impl Maker {
    pub(super) fn new(mut deployment: Deployment, round: usize) -> Maker {
        deployment.processes.block_events = round;
        deployment.consensus.block_events = round;
        Maker { deployment, made: 0 }
    }

    pub(super) fn contract_key(&self) -> PublicKey {
        self.deployment.genesis.contracts()[0].key.clone()
    }

    pub(super) fn round(&mut self, count: usize) -> Result<Round> {
        let names: Vec<String> = (0..count).map(|case| format!("case-{}", self.made + case)).collect();
        self.made += count;
        let cases = self.deployment.cases(PLAN.contract, &names);
        let advance = serde_json::to_vec(&self.deployment.batch(Vec::new()))?;
        let logs = [&self.deployment.processes, &self.deployment.consensus];
        let tips = logs.map(|log| (log.chain.clone(), log.tip()));
        self.deployment.trusted = BTreeMap::from(tips);
        let ready = |case| -> Result<Ready> {
            let duty = self.deployment.vote_request_duty(case);
            Ok(Ready { request: case.request, body: serde_json::to_vec(&self.deployment.batch(vec![duty]))? })
        };
        let duties = cases.iter().map(ready).collect::<Result<_>>()?;
        for log in [&mut self.deployment.processes, &mut self.deployment.consensus] {
            log.forget_events(1);
        }
        Ok(Round { advance, duties })
    }
}

impl Round {
    /// Tells the KMS of the headers under which the duties are proven.
    pub(super) fn advance(&self, connection: &mut Connection) -> Result<()> {
        connection.send(&self.advance)?.good()?;
        Ok(())
    }
}

/// The KMS and its token.
pub(super) struct Scene {
    pub(super) kms: Kms,
    pub(super) key: PublicKey,
}

impl Scene {
    pub(super) fn start(equipment: Equipment, round: usize) -> Result<(Scene, Maker)> {
        let (kms, deployment) = Kms::deploy_with(&[PLAN], Equipment { has_faults: true, ..equipment })?;
        let maker = Maker::new(deployment, round);
        Ok((Scene { kms, key: maker.contract_key() }, maker))
    }

    /// The failing module.
    pub(super) fn faults(&self) -> Result<&FaultModule> {
        self.kms.faults().context("the KMS has the failing module")
    }

    /// The same, for what lasts when faults are lifted.
    pub(super) fn faults_mut(&mut self) -> Result<&mut FaultModule> {
        self.kms.faults_mut().context("the KMS has the failing module")
    }

    /// Has a duty signed, as an agent would, with the help of a person where the KMS asks for one.
    pub(super) fn sign(&self, connection: &mut Connection, ready: &Ready) -> Result<Signed> {
        let by = Instant::now() + PATIENCE;
        let mut signed = Signed { before: Vec::new(), tries: 0 };
        loop {
            signed.tries += 1;
            let said = match self.ask(connection, ready)? {
                None => return Ok(signed),
                Some(said) => said,
            };
            match said.as_str() {
                "person: wrong-pin" => drop(self.kms.run(&["retry-pin"])),
                "person: wrong-signature" | "person: key-suspended" => {
                    // Another caller's person may have done it already.
                    drop(self.kms.run(&["key", "resume", "--contract", PLAN.contract]));
                }
                _ => thread::park_timeout(PAUSE),
            }
            if !signed.before.contains(&said) {
                signed.before.push(said);
            }
            ensure!(Instant::now() < by, "lost: not signed in {PATIENCE:?}, but {:?}", signed.before);
        }
    }

    /// One try; nothing if it was signed, and rightly.
    pub(super) fn ask(&self, connection: &mut Connection, ready: &Ready) -> Result<Option<String>> {
        let answer = connection
            .send(&ready.body)
            .with_context(|| format!("the KMS does not answer: {}", self.end()))?;
        if answer.status == 503 {
            return Ok(Some(format!("retry: {}", answer.code().unwrap_or_default())));
        }
        let report: DutyReport = serde_json::from_slice(answer.good()?)?;
        Ok(match report.answers.into_iter().next().context("an answer for the duty")? {
            DutyAnswer::Signed { message, .. } => {
                self.check(ready, &message)?;
                None
            }
            DutyAnswer::Retry(refusal) => Some(format!("retry: {}", refusal.reason)),
            DutyAnswer::NeedsPerson(refusal) => Some(format!("person: {}", refusal.reason)),
            other => bail!("not an answer to a vote request: {other:?}"),
        })
    }

    fn check(&self, ready: &Ready, message: &Jws) -> Result<()> {
        let says = SignedMessage::<VoteRequest>::from_jws(message.clone())?.verify(&self.key)?;
        ensure!(says.request == ready.request, "a vote request for another request");
        Ok(())
    }

    /// What the daemon's process takes when it has seen that nobody is connected any more.
    pub(super) fn taken(&self) -> Result<Taken> {
        let by = Instant::now() + PATIENCE;
        while self.connections()? > 0 {
            ensure!(Instant::now() < by, "the daemon keeps connections whose other ends are closed");
            thread::park_timeout(PAUSE);
        }
        let process = self.kms.process().context("the daemon runs")?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))
            .with_context(|| format!("the daemon is gone: {}", self.last_words()))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            Ok(line.split_whitespace().next().context("no value")?.parse()?)
        };
        let files = fs::read_dir(format!("/proc/{process}/fd"))?.count();
        Ok(Taken { memory: field("VmRSS:")?, threads: field("Threads:")?, files: u64::try_from(files)? })
    }

    /// How many connections the daemon holds: the system lists each under its socket's path, as proc(5) says.
    fn connections(&self) -> Result<usize> {
        const CONNECTED: &str = "03";
        let sockets = fs::read_to_string("/proc/net/unix").context("/proc/net/unix")?;
        let home = self.kms.home();
        let states: Vec<&str> = sockets
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.get(7).is_some_and(|path| Path::new(path).starts_with(home)))
            .filter_map(|fields| fields.get(5).copied())
            .collect();
        ensure!(!states.is_empty(), "the daemon listens on no socket that the system knows");
        Ok(states.into_iter().filter(|state| *state == CONNECTED).count())
    }

    /// How the daemon ended, if it did.
    fn end(&self) -> &'static str {
        let process = self.kms.process().map(|process| format!("/proc/{process}/stat"));
        let stat = process.and_then(|path| fs::read_to_string(path).ok());
        match stat.as_deref().and_then(|stat| stat.rsplit(") ").next()) {
            Some(state) if !state.starts_with('Z') => "it runs",
            _ => "its process has ended",
        }
    }

    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.kms.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Of a process: memory in KiB, threads, open files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) memory: u64,
    pub(super) threads: u64,
    pub(super) files: u64,
}
