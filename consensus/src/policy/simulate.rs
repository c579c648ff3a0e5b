//! One line of JSON in, one out: what a policy would make of ballots that nobody has cast.

use serde::{Deserialize, Serialize};

use super::{BallotRefusal, Explanation, Policy, Tally};
use crate::json;
use crate::name::Name;
use crate::time::UnixMillis;
use crate::vote::{Choice, Outcome};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    policy: String,
    requester: Option<Name>,
    opened: UnixMillis,
    now: UnixMillis,
    ballots: Vec<Ballot>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ballot {
    voter: Name,
    choice: Choice,
    at: UnixMillis,
}

#[derive(Serialize)]
struct Answer {
    outcome: &'static str,
    decided: Option<UnixMillis>,
    counted: Vec<Name>,
    refused: Vec<Refused>,
    explain: Explanation,
}

#[derive(Serialize)]
struct Refused {
    voter: Name,
    why: String,
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

/// Answers one line of `assent policy simulate` (DESIGN section 7, last paragraph): JSON in, JSON out, no newline. What is
/// wrong with the line or with its policy is the answer's `error`.
pub fn simulate(line: &str) -> String {
    let answer = match answer(line) {
        Ok(answer) => json::write(&answer),
        Err(error) => json::write(&Failure { error }),
    };
    String::from_utf8(answer).expect("what serde_json writes is UTF-8")
}

fn answer(line: &str) -> Result<Answer, String> {
    let question: Question = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let policy = Policy::parse(question.policy.as_bytes()).map_err(|error| error.to_string())?;
    let requester = match &question.requester {
        None => None,
        Some(name) => {
            let voter = policy.voter_by_name(name);
            let voter = voter.ok_or_else(|| {
                format!("the requester `{name}` is no voter of the policy; write null for anybody else")
            })?;
            Some(policy.voter(voter).key.thumbprint())
        }
    };
    let mut tally = Tally::new(&policy, requester.as_ref(), question.opened);
    let (mut counted, mut refused) = (Vec::new(), Vec::new());
    let mut latest = UnixMillis::new(0);
    for ballot in question.ballots {
        let verdict = if ballot.at > question.now {
            Err("the ballot is later than now".into())
        } else if ballot.at < latest {
            Err(BallotRefusal::OutOfOrder.to_string())
        } else {
            latest = ballot.at;
            match policy.voter_by_name(&ballot.voter) {
                None => Err("not a voter of this policy".into()),
                Some(voter) => {
                    tally.cast(voter, ballot.choice, ballot.at).map_err(|refusal| refusal.to_string())
                }
            }
        };
        match verdict {
            Ok(()) => counted.push(ballot.voter),
            Err(why) => refused.push(Refused { voter: ballot.voter, why }),
        }
    }
    let outcome = tally.outcome(question.now);
    Ok(Answer {
        outcome: outcome.map_or("open", |(outcome, _)| Outcome::as_str(outcome)),
        decided: outcome.map(|(_, decided)| decided),
        counted,
        refused,
        explain: tally.explain(question.now),
    })
}
