//! Rules by example: what each node does, ballot by ballot.

mod lint;
mod properties;

use super::*;
use crate::time::UnixMillis;
use crate::vote::{Choice, Outcome};
use Choice::{Abstain, Approve, Reject};
use Outcome::{Approved, Expired, Rejected};

const HOUR: u64 = 3_600_000;
const OPENED: u64 = 1_000_000;

/// Public keys of the voters in tests; whose they are does not matter.
pub(super) const KEYS: [(&str, &str); 9] = [
    ("X5jiYiIGskM_N-srwEgmByjw3ULaYe8-1GUc_mMCyao", "ssam0ekxWIV1rl_weK1HfY78D6zoj3hXlwQwZpZ6zqY"),
    ("5ny-8a6x3eV5iI6eES_8j6UtSwW7olrcLLo9wLljUYQ", "PLQ-9itO5260hpNg9iPlnFWXLAQCgZWdFhg_UfNG9vI"),
    ("JT5_h57tnGpjamOCGgcmhyz8NCLfHQGL25Cs2a4JFgo", "81t24b9vOumlfYTqepqn_ln5euNxjoxkgCj98ZIagwE"),
    ("sdcFRp9c7d7fCD9Gl8UUSgZLLDFYrP5tcf9tJ3-Rvd0", "VtzClXe0AarnhG-d_hzhlzbuakf6TD8yuXqsV2_x_Uc"),
    ("_udpRktIswnFHrBS3-91pCXRg95MnGeoUcE7WoiI03Q", "KSVceZ7arsR9I4LhwJ1eGn3fJ7NsnBjoRiBVUMuNa4M"),
    ("nhy5ZqAivinR4LkMz6ro6-v5Typ65OA7Afd-B0M6kyk", "sMtvbPFUNEZ3aRjFQrkEiIvB1z6bsqQdsINYmgOWa1c"),
    ("8I4dBRr9VgeHlQ9KW2DoJgXupo4WS3zEpz7LMyITi7Q", "PH5652uElfCjnO01Tw5mXVXUdru93WmNmeVXs90n90I"),
    ("q0YfJnVdQCqnC6Cn8aXWXUModzazp0Rv9X5IVq0eRbQ", "rbvqU1PSd9mg60n-cRb4LDL35VCPxk8C45q06i55BYs"),
    ("MvUTd3gYvkSIPIjV8DzWKO0mHeib2Kvr6uVFw2252Yw", "p2kmZvxOakwQx3_oF3GfCFvt9nsxxs3qyIafwfHOZQ4"),
];

/// A policy's TOML: `top` before the rule, and voters `v0`, `v1`, ... with their groups and weights.
pub(super) fn toml(top: &str, rule: &str, voters: &[(&[&str], u64)]) -> String {
    let mut text = format!("name = \"p\"\nkinds = [\"sign\"]\ndeadline = \"48h\"\n{top}\nrule = {rule}\n");
    for (place, ((groups, weight), (x, y))) in voters.iter().zip(KEYS).enumerate() {
        text += &format!(
            "[[voter]]\nname = \"v{place}\"\n\
             key = {{ kty = \"EC\", y = \"{y}\", crv = \"P-256\", x = \"{x}\" }}\n\
             groups = {groups:?}\nweight = {weight}\n"
        );
    }
    text
}

fn policy(top: &str, rule: &str, voters: &[(&[&str], u64)]) -> Policy {
    Policy::parse(toml(top, rule, voters).as_bytes()).unwrap_or_else(|error| panic!("{rule}: {error}"))
}

/// Three engineers, two officers, one counsel.
const STAFF: [(&[&str], u64); 6] =
    [(&["eng"], 1), (&["eng"], 2), (&["eng"], 4), (&["sec"], 1), (&["sec"], 1), (&["law"], 1)];

fn at(offset: u64) -> UnixMillis {
    UnixMillis::new(OPENED + offset)
}

fn voter(index: u16) -> VoterIndex {
    VoterIndex(index)
}

/// Casts ballots of voter, choice and offset, all of which must be accepted.
fn tally<'p>(policy: &'p Policy, requester: Option<u16>, ballots: &[(u16, Choice, u64)]) -> Tally<'p> {
    let requester = requester.map(|index| policy.voter(voter(index)).key.thumbprint());
    let mut tally = Tally::new(policy, requester.as_ref(), at(0));
    for (index, choice, offset) in ballots {
        tally.cast(voter(*index), *choice, at(*offset)).unwrap_or_else(|why| panic!("v{index}: {why}"));
    }
    tally
}

/// Whether the outcome at the last ballot, and at the deadline, is this.
fn comes_to(rule: &str, ballots: &[(u16, Choice, u64)], outcome: Option<(Outcome, u64)>) {
    let policy = policy("", rule, &STAFF);
    let tally = tally(&policy, None, ballots);
    let last = ballots.last().map_or(0, |(_, _, offset)| *offset);
    let expected = outcome.map(|(outcome, decided)| (outcome, at(decided)));
    assert_eq!(tally.outcome(at(last)), expected, "{rule} {ballots:?}");
    let end = outcome.unwrap_or((Expired, 48 * HOUR));
    assert_eq!(tally.outcome(at(100 * HOUR)), Some((end.0, at(end.1))), "{rule} {ballots:?}");
}

#[test]
fn at_least_is_true_with_the_nth_approval_and_false_when_it_is_out_of_reach() {
    let rule = r#"{ at_least = 2, of = "eng" }"#;
    comes_to(rule, &[(0, Approve, 5)], None);
    comes_to(rule, &[(0, Approve, 5), (3, Approve, 6), (2, Approve, 7)], Some((Approved, 7)));
    comes_to(rule, &[(0, Approve, 5), (1, Reject, 6), (2, Abstain, 6)], Some((Rejected, 6)));
    comes_to(rule, &[(0, Abstain, 5), (1, Reject, 9)], Some((Rejected, 9)));
}

#[test]
fn weight_and_percent_add_weights_and_quorum_counts_every_choice() {
    let rule = r#"{ weight = 5, of = "eng" }"#;
    comes_to(rule, &[(0, Approve, 1), (2, Approve, 2)], Some((Approved, 2)));
    comes_to(rule, &[(0, Approve, 1), (1, Approve, 2)], None);
    comes_to(rule, &[(2, Reject, 1)], Some((Rejected, 1)));
    // 58 % of 7 is 4.06, rounded up: 5.
    let rule = r#"{ percent = 58, of = "eng" }"#;
    comes_to(rule, &[(2, Approve, 1)], None);
    comes_to(rule, &[(2, Approve, 1), (0, Approve, 3)], Some((Approved, 3)));
    let rule = r#"{ all = [{ quorum = 2, of = "eng" }, { at_least = 1, of = "sec" }] }"#;
    comes_to(rule, &[(0, Reject, 1), (3, Approve, 2), (1, Abstain, 3)], Some((Approved, 3)));
}

#[test]
fn a_veto_window_ends_by_time_or_when_nobody_is_left() {
    let rule = r#"{ all = [{ at_least = 1, of = "eng" }, { no_veto = "sec", for = "1h" }] }"#;
    comes_to(rule, &[(0, Approve, 1), (3, Approve, 2), (4, Abstain, 3)], Some((Approved, 3)));
    comes_to(rule, &[(0, Approve, 1), (3, Approve, 2), (4, Reject, 3)], Some((Rejected, 3)));
    comes_to(rule, &[(0, Approve, 1), (3, Reject, HOUR - 1)], Some((Rejected, HOUR - 1)));
    comes_to(rule, &[(3, Reject, HOUR), (0, Approve, 2 * HOUR)], Some((Approved, 2 * HOUR)));
    let policy = policy("", rule, &STAFF);
    let open = tally(&policy, None, &[(0, Approve, 1)]);
    assert_eq!(open.outcome(at(HOUR - 1)), None);
    assert_eq!(open.next_change(at(1)), Some(at(HOUR)));
    assert_eq!(open.outcome(at(HOUR)), Some((Approved, at(HOUR))));
    assert!(open.decided_by_time(at(HOUR)) && !open.decided_by_time(at(HOUR - 1)));
    assert_eq!(open.may_cast(voter(3), at(HOUR)), Err(BallotRefusal::AlreadyDecided));
}

#[test]
fn a_window_over_whom_nobody_is_left_or_that_is_over_keeps_its_moment() {
    // Counsel is the requester: nobody is left to veto from the beginning.
    let rule = r#"{ all = [{ at_least = 1, of = "eng" }, { no_veto = "law", for = "1h" }] }"#;
    let policy_of_law = policy("", rule, &STAFF);
    let barred = tally(&policy_of_law, Some(5), &[(0, Approve, 7)]);
    assert_eq!(barred.outcome(at(7)), Some((Approved, at(7))));
    // Counsel votes after his window: what began with its end began no later.
    let rule = r#"{ all = [{ at_least = 2, of = "eng" },
                           { then = [{ no_veto = "law", for = "1h" }, { no_veto = "sec", for = "2h" }] }] }"#;
    let policy_of_windows = policy("", rule, &STAFF);
    let late = tally(
        &policy_of_windows,
        None,
        &[(0, Approve, 0), (1, Approve, 1), (5, Reject, 2 * HOUR), (3, Abstain, 2 * HOUR)],
    );
    assert_eq!(late.next_change(at(2 * HOUR)), Some(at(3 * HOUR)));
    assert_eq!(late.outcome(at(3 * HOUR)), Some((Approved, at(3 * HOUR))));
}

#[test]
fn a_level_begins_when_the_one_before_became_true() {
    let rule = r#"{ then = [{ at_least = 2, of = "eng" },
                            { all = [{ at_least = 1, of = "sec" }, { no_veto = "law", for = "1h" }] }] }"#;
    let policy = policy("on_deadline = \"reject\"", rule, &STAFF);
    let mut levels = tally(&policy, None, &[(0, Approve, 5)]);
    assert_eq!(levels.cast(voter(3), Approve, at(6)), Err(BallotRefusal::LevelNotBegun));
    assert_eq!(levels.next_change(at(6)), Some(at(48 * HOUR)));
    assert_eq!(levels.outcome(at(48 * HOUR)), Some((Rejected, at(48 * HOUR))));
    levels.cast(voter(1), Approve, at(10)).unwrap();
    levels.cast(voter(3), Approve, at(10)).unwrap();
    assert_eq!(levels.next_change(at(10)), Some(at(10 + HOUR)));
    assert_eq!(levels.outcome(at(10 + HOUR)), Some((Approved, at(10 + HOUR))));
}

#[test]
fn a_ballot_is_refused_twice_early_late_out_of_order_or_by_the_requester() {
    let policy = policy("", r#"{ at_least = 2, of = "eng" }"#, &STAFF);
    let mut tally = tally(&policy, Some(0), &[(1, Approve, 5)]);
    for (index, offset, why) in [
        (0, 6, BallotRefusal::MayNotVote),
        (1, 6, BallotRefusal::AlreadyVoted),
        (2, 4, BallotRefusal::OutOfOrder),
        (2, 48 * HOUR, BallotRefusal::TooLate),
    ] {
        assert_eq!(tally.cast(voter(index), Approve, at(offset)), Err(why));
    }
    assert_eq!(tally.may_cast(voter(2), UnixMillis::new(OPENED - 1)), Err(BallotRefusal::TooEarly));
    tally.cast(voter(2), Approve, at(48 * HOUR - 1)).unwrap();
    assert_eq!(tally.cast(voter(3), Approve, at(48 * HOUR - 1)), Err(BallotRefusal::AlreadyDecided));
}

#[test]
fn a_rule_that_a_barred_requester_puts_out_of_reach_is_false_since_it_begins() {
    let policy = policy("", r#"{ at_least = 3, of = "eng" }"#, &STAFF);
    let tally = tally(&policy, Some(0), &[]);
    assert_eq!(tally.outcome(at(0)), Some((Rejected, at(0))));
    assert!(tally.decided_by_time(at(0)));
    assert_eq!(tally.outcome(UnixMillis::new(OPENED - 1)), None);
    assert_eq!(tally.next_change(UnixMillis::new(5)), Some(at(0)));
}

#[test]
fn a_line_is_simulated() {
    let toml = toml("", r#"{ at_least = 2, of = "eng" }"#, &STAFF);
    let question = serde_json::json!({
        "policy": toml, "requester": "v0", "opened": 10, "now": 100,
        "ballots": [
            {"voter": "v0", "choice": "approve", "at": 20}, {"voter": "v1", "choice": "approve", "at": 21},
            {"voter": "v2", "choice": "approve", "at": 20}, {"voter": "v2", "choice": "approve", "at": 101},
            {"voter": "nobody", "choice": "approve", "at": 40}, {"voter": "v2", "choice": "reject", "at": 40},
        ],
    });
    let answer: serde_json::Value = serde_json::from_str(&simulate(&question.to_string())).unwrap();
    assert_eq!(answer["outcome"], "rejected", "{answer}");
    assert_eq!(answer["decided"], 40);
    assert_eq!(answer["counted"], serde_json::json!(["v1", "v2"]));
    assert_eq!(answer["refused"].as_array().unwrap().len(), 4);
    let bad: serde_json::Value = serde_json::from_str(&simulate("{}")).unwrap();
    assert!(bad["error"].is_string());
}

#[test]
fn a_hostile_document_is_refused_and_not_a_crash() {
    let deep_keys = format!("x{} = 1\n", ".x".repeat(500_000));
    let deep_header = format!("[x{}]\n", ".x".repeat(500_000));
    let deep_lists = format!("rule = {}", "[".repeat(500_000));
    let deep_tables = format!("rule = {}", "{ all = [".repeat(100_000));
    for text in [deep_keys, deep_header, deep_lists, deep_tables] {
        Policy::parse(text.as_bytes()).unwrap_err();
    }
}
