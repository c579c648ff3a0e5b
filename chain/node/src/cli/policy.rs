//! `assent policy`: checks a policy, plays ballots through it, and says what it asks for and of whom.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assent_consensus::genesis::Genesis;
use assent_consensus::name::Name;
use assent_consensus::policy::{self, Explanation, Finding, OnDeadline, Policy, PolicyError, Tally};
use assent_consensus::time::UnixMillis;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::api::ContractView;
use crate::voter;

use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings::{Settings, SettingsArgs};
use super::write::{self, Existing};
use super::{follow, moment, read};

/// The longest line of a simulation, in bytes: a policy as JSON text, and ballots.
const LINE_LIMIT: usize = 4 * read::DOCUMENT_LIMIT;

#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    /// Check a policy: exit 0 if it is good, 1 with line and column of everything that is wrong
    Check(File),
    /// Answer JSON lines on the standard input: what a policy makes of ballots that nobody has cast
    Simulate(Simulate),
    /// Say what a policy asks for
    Explain(File),
    /// List who votes
    Who(File),
    /// Print the last policy of a contract, verified: exactly the document that a change must follow
    Show(Show),
}

#[derive(Args)]
pub(super) struct Show {
    /// The contract, as genesis names it
    contract: Name,
    /// Write the document into this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Args)]
pub(super) struct File {
    /// The policy (TOML)
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Simulate {
    /// Read the JSON lines from this file instead
    file: Option<PathBuf>,
}

pub(super) fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(arguments) => check(&arguments),
        PolicyCommand::Simulate(arguments) => simulate(arguments.file.as_deref()),
        PolicyCommand::Explain(arguments) => explain(&arguments),
        PolicyCommand::Who(arguments) => who(&arguments),
        PolicyCommand::Show(arguments) => show(&arguments),
    }
}

fn check(arguments: &File) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let document = read::file(&arguments.file, "policy", read::DOCUMENT_LIMIT)?;
    let path = &arguments.file;
    match Policy::parse(&document) {
        Ok(policy) => {
            let warnings = policy.warnings();
            warnings.iter().try_for_each(|finding| print(&screen, path, "warning", finding))?;
            screen.line(format!("policy `{}` is good", policy.name()))?;
            screen.line(format!("digest {}", policy.digest()))?;
            screen.result(&json!({
                "valid": true,
                "name": policy.name(),
                "digest": policy.digest(),
                "voters_that_may_be_lost": policy.voters_that_may_be_lost(),
                "keys_that_may_be_stolen": policy.keys_that_may_be_stolen(),
                "warnings": warnings,
            }))
        }
        Err(error) => {
            error.findings().iter().try_for_each(|finding| print(&screen, path, "error", finding))?;
            screen.result(&json!({ "valid": false, "errors": error.findings() }))?;
            let count = match error.findings().len() {
                1 => "one thing is wrong".to_owned(),
                several => format!("{several} things are wrong"),
            };
            Err(Failure::failed(format!("the policy `{}` is refused: {count}", path.display())))
        }
    }
}

fn print(screen: &Screen, path: &Path, kind: &str, finding: &Finding) -> Result<(), Failure> {
    let position = finding.position;
    let place = format!("{}:{}:{}", quoted(path.display()), position.line, position.column);
    screen.line(format!("{place}: {kind}: {}", finding.message))?;
    finding.help.iter().try_for_each(|help| screen.line(format!("  help: {help}")))
}

fn simulate(file: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot go on with the simulation: {error}"));
    let input: Box<dyn Read> = match file {
        None => Box::new(io::stdin().lock()),
        Some(path) => Box::new(
            std::fs::File::open(path)
                .map_err(|error| Failure::failed(format!("cannot read `{}`: {error}", path.display())))?,
        ),
    };
    let mut input = BufReader::new(input);
    let mut output = io::stdout().lock();
    loop {
        let mut line = Vec::new();
        let limit = LINE_LIMIT as u64 + 1;
        input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(failed)?;
        if line.is_empty() {
            return output.flush().map_err(failed);
        }
        if line.len() > LINE_LIMIT {
            return Err(Failure::failed(format!("a line has more than {LINE_LIMIT} bytes")));
        }
        let answer = match std::str::from_utf8(&line) {
            Ok(line) => policy::simulate(line.trim_end_matches(['\r', '\n'])),
            Err(_) => json!({ "error": "the line is not UTF-8" }).to_string(),
        };
        writeln!(output, "{answer}").map_err(failed)?;
        // Whoever asks line by line gets his answer before he asks again.
        if input.buffer().is_empty() {
            output.flush().map_err(failed)?;
        }
    }
}

fn explain(arguments: &File) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let policy = load(&arguments.file)?;
    describe(&screen, &policy)?;
    let rule = rule(&policy);
    screen.result(&json!({
        "name": policy.name(),
        "digest": policy.digest(),
        "kinds": policy.kinds(),
        "deadline": policy.deadline(),
        "on_deadline": on_deadline(&policy),
        "act_within": policy.act_within(),
        "requester_may_vote": policy.requester_may_vote(),
        "voters_that_may_be_lost": policy.voters_that_may_be_lost(),
        "keys_that_may_be_stolen": policy.keys_that_may_be_stolen(),
        "rule": rule_json(&rule),
    }))
}

fn who(arguments: &File) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let policy = load(&arguments.file)?;
    let mut voters = Vec::new();
    for voter in policy.voters() {
        let groups: Vec<_> = voter.groups.iter().map(ToString::to_string).collect();
        let weight = if voter.weight == 1 { String::new() } else { format!(", weight {}", voter.weight) };
        screen.line(format!("{}  {}  {}{weight}", voter.key.thumbprint(), voter.name, groups.join(", ")))?;
        voters.push(json!({
            "name": voter.name,
            "thumbprint": voter.key.thumbprint(),
            "groups": voter.groups,
            "weight": voter.weight,
        }));
    }
    screen.result(&voters)
}

fn show(arguments: &Show) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let (genesis, client) = (settings.genesis()?, settings.client()?);
    let view = follow::block_on(async { Ok(client.contract(&arguments.contract).await?) })?;
    let policy = last(&genesis, &view)?;
    screen.line(format!("policy     {} ({})", policy.name(), policy.digest()))?;
    screen.line(match view.effective {
        None => "since      genesis".to_owned(),
        Some(effective) => format!("since      {}", moment::utc(effective)),
    })?;
    match &arguments.out {
        Some(path) => {
            write::file(path, policy.document(), Existing::Refuse)?;
            screen.line(format!("wrote      {}", quoted(path.display())))?;
        }
        None => {
            screen.line("")?;
            let text = String::from_utf8_lossy(policy.document());
            text.lines().try_for_each(|line| screen.line(line))?;
        }
    }
    screen.result(&json!({
        "contract": policy.name(),
        "digest": policy.digest(),
        "effective": view.effective,
        "policy": view.policy,
    }))
}

/// The last policy that a node shows for a contract, verified.
pub(super) fn last(genesis: &Genesis, view: &ContractView) -> Result<Arc<Policy>, Failure> {
    voter::policy::last(genesis, view).map_err(|distrust| {
        Failure::does_not_verify(format!(
            "the policy that the node shows for `{}` does not verify: {distrust}",
            view.contract
        ))
    })
}

/// A policy from a file, as it is to be proposed: findings are printed with line and column.
pub(super) fn proposed(screen: &Screen, path: &Path) -> Result<Policy, Failure> {
    let document = read::file(path, "policy", read::DOCUMENT_LIMIT)?;
    let refused = |error: PolicyError| {
        error.findings().iter().try_for_each(|finding| print(screen, path, "error", finding))?;
        Err(Failure::failed(format!("the policy `{}` is refused, and nothing was sent", path.display())))
    };
    match Policy::parse(&document) {
        Ok(policy) => {
            let warnings = policy.warnings();
            warnings.iter().try_for_each(|finding| print(screen, path, "warning", finding))?;
            Ok(policy)
        }
        Err(error) => refused(error),
    }
}

/// What a policy says, for people.
pub(super) fn describe(screen: &Screen, policy: &Policy) -> Result<(), Failure> {
    let kinds: Vec<_> = policy.kinds().iter().map(ToString::to_string).collect();
    screen.line(format!("policy     {} ({})", policy.name(), policy.digest()))?;
    screen.line(format!("decides    {}", kinds.join(", ")))?;
    screen.line(format!("deadline   {}, then {}", policy.deadline(), on_deadline(policy)))?;
    screen.line(format!("act within {} of the approval", policy.act_within()))?;
    let requester = if policy.requester_may_vote() { "may vote" } else { "may not vote" };
    screen.line(format!("requester  {requester} on his own request"))?;
    screen.line("rule")?;
    describe_rule(screen, &rule(policy), 1)
}

/// The rule before any ballot.
fn rule(policy: &Policy) -> Explanation {
    let opened = UnixMillis::new(0);
    Tally::new(policy, None, opened).explain(opened)
}

fn describe_rule(screen: &Screen, rule: &Explanation, depth: usize) -> Result<(), Failure> {
    let members: Vec<_> = rule.missing.iter().map(ToString::to_string).collect();
    let members = if members.is_empty() { String::new() } else { format!(": {}", members.join(", ")) };
    screen.line(format!("{:indent$}{}{members}", "", rule.rule, indent = 2 * depth))?;
    rule.rules.iter().try_for_each(|rule| describe_rule(screen, rule, depth + 1))
}

fn rule_json(rule: &Explanation) -> Value {
    json!({
        "rule": rule.rule,
        "members": rule.missing,
        "rules": rule.rules.iter().map(rule_json).collect::<Vec<_>>(),
    })
}

fn on_deadline(policy: &Policy) -> &'static str {
    match policy.on_deadline() {
        OnDeadline::Expire => "expired",
        OnDeadline::Reject => "rejected",
    }
}

fn load(path: &Path) -> Result<Policy, Failure> {
    let document = read::file(path, "policy", read::DOCUMENT_LIMIT)?;
    Policy::parse(&document).map_err(|error| {
        Failure::failed(format!("the policy `{}` is refused:\n{error}", path.display()))
            .help("`assent policy check` says more")
    })
}
