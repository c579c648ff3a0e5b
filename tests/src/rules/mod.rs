//! The campaign `rules`: policies and ballots by chance, counted by the program `assent policy simulate` and by an
//! evaluator that knows nothing but the words of DESIGN section 7.
//!
//! ```text
//! drawn (policy and ballots) ─┬─▶ TOML and JSON ─▶ assent policy simulate ─┐
//!                             ├─▶ lint (faults, futures) ───────────────────┼─▶ the same?
//!                             └─▶ naive (moment by moment) ─────────────────┘
//! ```

mod drawn;
mod lint;
mod naive;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::campaign::Campaign;
use crate::chance::Chance;
use crate::program;
use drawn::Question;
use naive::{Standing, State};

/// Runs `count` trials, numbered from `seed`.
///
/// # Errors
/// The program cannot be run.
pub fn run(count: u64, seed: u64) -> Result<ExitCode> {
    let mut program = Simulation::start()?;
    let mut campaign = Campaign::new("rules", count);
    let (mut counted, mut refused) = (0_u64, 0_u64);
    for seed in (0..count).map(|trial| seed.wrapping_add(trial)) {
        let mut chance = Chance::of(seed);
        let question = draw(&mut chance);
        let line = question.to_line();
        let answer = program.ask(&line)?;
        match compare(&question, &answer, &mut chance) {
            Ok(Verdict::Counted) => counted += 1,
            Ok(Verdict::Refused) => refused += 1,
            Err(why) => {
                campaign.fail(seed, format!("{why:#}\n{line}\n{answer}"));
                continue;
            }
        }
        campaign.pass();
    }
    campaign.say(format!("{counted} policies counted ballots, the linter refused {refused}"));
    program.end()?;
    Ok(campaign.end())
}

/// Mostly a policy in which nothing is wrong node by node, so that there is something to count.
fn draw(chance: &mut Chance) -> Question {
    let as_it_comes = chance.percent(15);
    loop {
        let question = Question::draw(chance);
        if as_it_comes || lint::faults(&question.policy).is_empty() {
            return question;
        }
    }
}

enum Verdict {
    /// The policy is good, and both count the same.
    Counted,
    /// Both refuse the policy.
    Refused,
}

/// What the program says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Failure {
        error: String,
    },
    Answer {
        outcome: String,
        decided: Option<u64>,
        counted: Vec<String>,
        refused: Vec<Refused>,
        explain: Explained,
    },
}

#[derive(Deserialize)]
struct Refused {
    voter: String,
    why: String,
}

#[derive(Deserialize)]
struct Explained {
    rule: String,
    state: String,
    since: Option<u64>,
    #[serde(default)]
    rules: Vec<Explained>,
}

const NEVER: &str = "could never approve";
const UNAPPROVED: &str = "could approve with no approving ballot";

fn compare(question: &Question, said: &str, chance: &mut Chance) -> Result<Verdict> {
    let said: Said = serde_json::from_str(said).context("the answer is of no known form")?;
    let faults = lint::faults(&question.policy);
    if !faults.is_empty() {
        let Said::Failure { error } = said else {
            bail!("the linter must refuse this: {}", faults.join("; "))
        };
        ensure!(
            !error.contains(NEVER) && !error.contains(UNAPPROVED),
            "another reason than {}",
            faults.join("; ")
        );
        return Ok(Verdict::Refused);
    }
    let futures = lint::futures(&question.policy, chance);
    let (never, unapproved) = match &said {
        Said::Failure { error } => {
            let reasons = (error.contains(NEVER), error.contains(UNAPPROVED));
            ensure!(reasons.0 || reasons.1, "nothing is wrong with this policy");
            reasons
        }
        Said::Answer { .. } => (false, false),
    };
    ensure!(!(never && futures.approves), "there is a future that approves");
    ensure!(unapproved || !futures.approves_unapproved, "there is an approval with no approving ballot");
    if futures.all {
        ensure!(never || futures.approves, "no future approves");
        ensure!(!unapproved || futures.approves_unapproved, "no future approves with no approving ballot");
    }
    let Said::Answer { outcome, decided, counted, refused, explain } = said else {
        return Ok(Verdict::Refused);
    };
    let (naive, standing) = naive::answer(question);
    ensure!(outcome == naive.outcome && decided == naive.decided, "it should be {naive:?}");
    ensure!(counted == naive.counted, "counted should be {naive:?}");
    ensure!(refused.len() == naive.refused.len(), "refused should be {naive:?}");
    for (said, (voter, reasons)) in refused.iter().zip(&naive.refused) {
        ensure!(said.voter == *voter && reasons.contains(&said.why.as_str()), "refused should be {naive:?}");
    }
    same_standing(&explain, &standing)?;
    Ok(Verdict::Counted)
}

fn same_standing(said: &Explained, naive: &Standing) -> Result<()> {
    let (state, since) = match (naive.begin, naive.state) {
        (None, _) => ("waiting", None),
        (_, State::Open) => ("open", None),
        (_, State::True(since)) => ("true", Some(since)),
        (_, State::False(since)) => ("false", Some(since)),
    };
    ensure!(said.state == state && said.since == since, "`{}` should be {state} since {since:?}", said.rule);
    ensure!(said.rules.len() == naive.below.len(), "`{}` should have {} parts", said.rule, naive.below.len());
    said.rules.iter().zip(&naive.below).try_for_each(|(said, naive)| same_standing(said, naive))
}

/// The real program, which answers line by line.
struct Simulation {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Simulation {
    fn start() -> Result<Simulation> {
        let mut command = Command::new(program::find("assent")?);
        command.args(["policy", "simulate"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start `assent policy simulate`")?;
        let input = child.stdin.take().context("the program has no input")?;
        let output = BufReader::new(child.stdout.take().context("the program has no output")?);
        Ok(Simulation { child, input, output })
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}").context("`assent policy simulate` does not listen")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).context("`assent policy simulate` does not answer")?;
        ensure!(answer.ends_with('\n'), "`assent policy simulate` ended before it answered");
        Ok(answer)
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.child.wait().context("`assent policy simulate` is gone")?;
        ensure!(status.success(), "`assent policy simulate` ended with {status}");
        Ok(())
    }
}
