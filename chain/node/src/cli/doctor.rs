//! `assent doctor`: checks a node and what it needs, in one screen, and says what to do about each thing that is wrong.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use assent_consensus::genesis::Genesis;
use assent_consensus::time::Millis;
use assent_edge::tls::{Files, Standing};
use clap::Args;
use rustix::fs::statvfs;
use serde::Serialize;
use serde_json::json;

use crate::api::{DutyKind, Health};
use crate::client::{Address, Client};
use crate::kms_address::KmsAddress;
use crate::kms_client::KmsClient;
use crate::node::config::Config;
use crate::node::validator::ValidatorKey;

use super::failure::{Exit, Failure};
use super::screen::{Screen, quoted};
use super::{follow, moment, node, read};

/// Under how many free bytes the disk is said to be nearly full.
const FREE_BYTES: u64 = 1 << 30;
/// How many duties that are not done are shown.
const SHOWN_DUTIES: usize = 10;
/// How long before its end a certificate is to be replaced.
const NOTICE: Millis = Millis::from_secs(14 * 24 * 3_600);

#[derive(Args)]
pub(super) struct Doctor {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the screen.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    well: bool,
    message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn well(&mut self, what: &'static str, message: impl Display) {
        self.0.push(Finding { what, well: true, message: message.to_string(), help: None });
    }

    fn wrong(&mut self, what: &'static str, message: impl Display, help: impl Display) {
        let help = Some(help.to_string());
        self.0.push(Finding { what, well: false, message: message.to_string(), help });
    }
}

pub(super) fn run(arguments: &Doctor) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let mut findings = Findings::default();
    if let Some((config, genesis)) = files(&arguments.config, &mut findings) {
        data(&config, &mut findings);
        follow::block_on(async {
            running(&config, &genesis, &mut findings).await;
            kms(&config, &genesis, &mut findings).await;
            Ok(())
        })?;
    }
    for Finding { what, well, message, help } in &findings.0 {
        let mark = if *well { "ok" } else { "!!" };
        screen.line(format!("{mark} {what:<14} {}", quoted(message)))?;
        if let Some(help) = help {
            screen.line(format!("{:18}{}", "", quoted(help)))?;
        }
    }
    let wrong = findings.0.iter().filter(|finding| !finding.well).count();
    screen.result(&json!({ "well": wrong == 0, "findings": findings.0 }))?;
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::failed("1 thing is wrong")),
        wrong => Err(Failure::failed(format!("{wrong} things are wrong"))),
    }
}

/// The files that a node starts from.
fn files(path: &Path, findings: &mut Findings) -> Option<(Config, Genesis)> {
    let config = match node::load(path) {
        Ok(config) => config,
        Err(failure) => {
            findings.wrong("configuration", failure.message(), "correct the file; `assent init` writes one");
            return None;
        }
    };
    findings.well("configuration", path.display());
    let genesis = match read::genesis(&config.genesis, Exit::DoesNotVerify) {
        Ok(genesis) => genesis,
        Err(failure) => {
            let help = "bring the deployment's genesis file there, as it was pinned";
            findings.wrong("genesis", failure.message(), help);
            return None;
        }
    };
    findings.well("genesis", format!("{} ({}), {}", genesis.name(), genesis.environment(), genesis.id()));
    for (name, path) in &config.validator_keys {
        let Some(chain) = genesis.chain(name) else {
            let help = "name the logs in `[validator_keys]` as genesis does";
            findings.wrong("validator key", format!("genesis has no log `{name}`"), help);
            continue;
        };
        match ValidatorKey::read(path, chain) {
            Ok(_) => findings.well("validator key", format!("of {name}: {}", path.display())),
            Err(error) => {
                let help = "bring the key that genesis names there, with mode 0600";
                findings.wrong("validator key", error, help);
            }
        }
    }
    Some((config, genesis))
}

/// The data directory and its disk.
fn data(config: &Config, findings: &mut Findings) {
    let directory = config.data_directory.display();
    match fs::metadata(&config.data_directory) {
        Err(error) => {
            findings.wrong("data", format!("`{directory}`: {error}"), "start the node once: it makes it");
            return;
        }
        Ok(there) if !there.is_dir() => {
            let help = "name a directory as `data_directory`";
            findings.wrong("data", format!("`{directory}` is no directory"), help);
            return;
        }
        Ok(_) => {}
    }
    let size = |name| {
        let path = config.data_directory.join(format!("{name}.ledger"));
        fs::metadata(path).map_or(0, |there| there.len())
    };
    let logs: Vec<_> =
        config.validator_keys.keys().map(|name| format!("{name} {}", megabytes(size(name)))).collect();
    match statvfs(&config.data_directory) {
        Err(error) => findings.wrong("data", format!("`{directory}`: {error}"), "check the disk"),
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let message = format!("{}, {} free", logs.join(", "), megabytes(free));
            if free < FREE_BYTES {
                findings.wrong("data", message, "make room: on a full disk nothing is recorded");
            } else {
                findings.well("data", message);
            }
        }
    }
}

/// The node, if it runs.
async fn running(config: &Config, genesis: &Genesis, findings: &mut Findings) {
    let client = Client::new(Address::Unix(config.socket.clone()));
    let health = match client.health().await {
        Ok(health) => health,
        Err(error) => {
            findings.wrong("node", error, "start it: `assent node --config FILE`; its log says why it ended");
            return;
        }
    };
    if health.deployment != genesis.id() {
        let message = format!("`{}` serves the deployment `{}`", config.socket.display(), health.deployment);
        findings.wrong("node", message, "another node has this socket; give each its own");
        return;
    }
    if health.version == env!("CARGO_PKG_VERSION") {
        findings.well("node", format!("version {} at {}", health.version, config.socket.display()));
    } else {
        let message = format!("version {} is running", health.version);
        let help = format!("this is version {}: start the node again", env!("CARGO_PKG_VERSION"));
        findings.wrong("node", message, help);
    }
    for ledger in &health.ledgers {
        let newest = ledger.time.map_or("nothing recorded yet".into(), moment::utc);
        findings.well("log", format!("{}: height {}, {newest}", ledger.chain, ledger.height));
    }
    duties(&client, &health, findings).await;
}

async fn duties(client: &Client, health: &Health, findings: &mut Findings) {
    if health.duties_pending == 0 {
        findings.well("duties", "nothing waits for the KMS");
        return;
    }
    let waiting = format!("{} wait for the KMS", health.duties_pending);
    if health.kms.reachable && health.duties_needing_a_person == 0 {
        findings.well("duties", waiting);
        return;
    }
    if !health.kms.reachable {
        let why = health.kms.message.clone().unwrap_or_default();
        findings.wrong(
            "duties",
            format!("{waiting}: {why}"),
            "start the KMS: they are done by themselves then",
        );
        return;
    }
    let list = match client.duties().await {
        Ok(list) => list,
        Err(error) => {
            findings.wrong("duties", error, "see the node's log");
            return;
        }
    };
    for duty in list.duties.into_iter().take(SHOWN_DUTIES) {
        let Some(last) = duty.last.filter(|last| last.needs_person) else { continue };
        let what = match duty.duty {
            DutyKind::VoteRequest => "vote request",
            DutyKind::Decision => "decision",
            DutyKind::Action => "action",
        };
        let message = format!("the {what} of {}: {}", duty.request, last.refusal.message);
        let help =
            format!("`{}` needs a person at the KMS: see `assent-kms doctor` there", last.refusal.reason);
        findings.wrong("duty", message, help);
    }
}

/// The KMS, as this host reaches it.
async fn kms(config: &Config, genesis: &Genesis, findings: &mut Findings) {
    let help = match &config.kms {
        KmsAddress::Socket(_) => {
            "start `assent-kms serve`, and let this user in by `allowed_users` and the socket's mode"
        }
        KmsAddress::Tls { files, .. } => {
            if !certificate(files, findings) {
                return;
            }
            "start `assent-kms serve` there, with `[tls]` in its configuration; its log says who was turned away, and why"
        }
    };
    let kms = match KmsClient::new(&config.kms) {
        Ok(kms) => kms,
        Err(error) => return findings.wrong("kms", error, help),
    };
    let status = match kms.health().await {
        Ok(status) => status,
        Err(error) => return findings.wrong("kms", error, help),
    };
    match status.deployment {
        Some(deployment) if deployment == genesis.id() => {
            findings.well("kms", format!("{} at {}", status.status, config.kms));
        }
        Some(deployment) => {
            let help = "name this deployment's KMS as `kms_socket` or `kms`";
            findings.wrong("kms", format!("it serves the deployment `{deployment}`"), help);
        }
        None => findings.wrong("kms", "no deployment is pinned", "`assent-kms pin genesis.json` there"),
    }
}

/// What this node shows to a KMS on another machine; whether it is there.
fn certificate(files: &Files, findings: &mut Findings) -> bool {
    let what = "certificate";
    let credentials = match files.read() {
        Ok(credentials) => credentials,
        Err(error) => {
            findings.wrong(what, error, "put the certificate, its key and the authorities there, in PEM");
            return false;
        }
    };
    let (validity, now) = (credentials.certificate().validity(), moment::now());
    let message = format!("`{}`: {}", files.certificate.display(), validity.words(now));
    if validity.standing(now, NOTICE) == Standing::Good {
        findings.well(what, message);
    } else {
        let key = files.private_key.display();
        let help = format!(
            "have a new one issued, and put it there with its key `{key}`: the node takes both up by itself"
        );
        findings.wrong(what, message, help);
    }
    true
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
