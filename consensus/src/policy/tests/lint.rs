//! What the linter refuses, where it says so, and what it only warns of.

use super::{STAFF, policy, toml};
use crate::contract::tests::ledger::Key;
use crate::policy::Policy;

/// What the linter says of a rule on line 5, column 8 and on; voters begin on line 6.
fn refusal(top: &str, rule: &str, voters: &[(&[&str], u64)]) -> String {
    Policy::parse(toml(top, rule, voters).as_bytes()).expect_err(rule).to_string()
}

#[test]
fn a_node_that_is_wrong_by_itself_is_refused_with_its_place() {
    for (rule, said) in [
        (r#"{ at_least = 0, of = "eng" }"#, "line 5, column 21: `at_least` must be at least 1"),
        (
            r#"{ at_least = 4, of = "eng" }"#,
            "line 5, column 21: `at_least` is out of reach: 4, and the members of `eng` come to 3",
        ),
        (
            r#"{ weight = 8, of = "eng" }"#,
            "line 5, column 19: `weight` is out of reach: 8, and the weights of `eng` come to 7",
        ),
        (r#"{ percent = 101, of = "eng" }"#, "line 5, column 20: `percent` must be from 1 to 100, not 101"),
        (r#"{ percent = 0, of = "eng" }"#, "line 5, column 20: `percent` must be from 1 to 100, not 0"),
        (
            r#"{ at_least = 1, of = "engs" }"#,
            "line 5, column 29: no voter is in the group `engs`; did you mean `eng`?",
        ),
        (
            r#"{ all = [{ at_least = 1, of = "eng" }, { no_veto = "sec", for = "49h" }] }"#,
            "line 5, column 72: the window of 49h is longer than the deadline of 2d",
        ),
        (r#"{ all = [] }"#, "line 5, column 16: `all` is empty"),
        (r#"{ then = [] }"#, "line 5, column 17: `then` is empty"),
        (
            r#"{ n_of = 2, rules = [{ at_least = 1, of = "eng" }] }"#,
            "line 5, column 17: `n_of` is out of reach: 2 of 1 rules",
        ),
        (
            r#"{ n_of = 0, rules = [{ at_least = 1, of = "eng" }] }"#,
            "line 5, column 17: `n_of` must be at least 1",
        ),
        (r#"{ at_least = 1 }"#, "line 5, column 8: `at_least` needs `of`"),
        (
            r#"{ at_least = 1.5, of = "eng" }"#,
            "line 5, column 21: `at_least` must be a whole number, not a fraction",
        ),
        (
            r#"{ at_least = -1, of = "eng" }"#,
            "line 5, column 21: `at_least` must be from 0 to 2^53 - 1, not `-1`",
        ),
        (
            r#"{ at_last = 1, of = "eng" }"#,
            "line 5, column 8: a rule needs one of `at_least`, `weight`, `percent`, `quorum`, `no_veto`, `all`, `any`, \
             `n_of`, `then`\nline 5, column 10: unknown key `at_last` in a rule; did you mean `at_least`?",
        ),
        (
            r#"{ at_least = 1, quorum = 1, of = "eng" }"#,
            "line 5, column 8: a rule must ask for one thing, not for `at_least` and `quorum`; put them into \
             `all = [...]` or `any = [...]`",
        ),
        (
            r#"{ at_least = 1, of = "eng", for = "1h" }"#,
            "line 5, column 36: `for` does not belong to `at_least`",
        ),
        (
            r#"{ no_veto = "eng", for = "1 h" }"#,
            "line 5, column 33: `for`: `1 h` is not a duration: write a number",
        ),
        (r#""eng""#, "line 5, column 8: a rule must be a table, not text"),
    ] {
        let found = refusal("", rule, &STAFF);
        assert!(found.starts_with(said), "{rule}\nfound    {found}\nexpected {said}");
    }
}

#[test]
fn a_policy_with_no_way_to_approve_or_one_without_approvals_is_refused() {
    const NO_APPROVAL: &str = "line 5, column 10: the rule could approve with no approving ballot";
    const NEVER: &str =
        "line 5, column 10: the rule could never approve, not even if everybody approves as soon as he may";
    let deadlock: [(&[&str], u64); 2] = [(&["a", "d"], 1), (&["b", "c"], 1)];
    for (rule, voters, said) in [
        (r#"{ no_veto = "sec", for = "1h" }"#, &STAFF[..], NO_APPROVAL),
        (r#"{ quorum = 3, of = "eng" }"#, &STAFF, NO_APPROVAL),
        (r#"{ any = [{ at_least = 1, of = "eng" }, { no_veto = "sec", for = "1h" }] }"#, &STAFF, NO_APPROVAL),
        (
            r#"{ n_of = 2, rules = [{ at_least = 1, of = "eng" }, { quorum = 1, of = "eng" },
                                    { then = [{ quorum = 1, of = "sec" }, { no_veto = "law", for = "1h" }] }] }"#,
            &STAFF,
            NO_APPROVAL,
        ),
        (
            r#"{ all = [{ then = [{ at_least = 1, of = "a" }, { at_least = 1, of = "b" }] },
                        { then = [{ at_least = 1, of = "c" }, { at_least = 1, of = "d" }] }] }"#,
            &deadlock,
            NEVER,
        ),
    ] {
        assert_eq!(refusal("", rule, voters), said, "{rule}");
    }
}

#[test]
fn conflicts_between_voters_groups_and_levels_are_refused() {
    let both: [(&[&str], u64); 2] = [(&["eng", "sec"], 1), (&["sec"], 1)];
    let rule = r#"{ then = [{ at_least = 1, of = "eng" }, { at_least = 1, of = "sec" }] }"#;
    assert_eq!(
        refusal("", rule, &both),
        "line 5, column 50: the voter `v0` stands in two levels of one `then`"
    );
    let rule = r#"{ at_least = 1, of = "eng" }"#;
    assert_eq!(
        refusal(r#"exclusive = [["eng", "sec"]]"#, rule, &both),
        "line 7, column 8: the voter `v0` is in `eng` and in `sec`, which are exclusive"
    );
    assert_eq!(
        refusal(r#"exclusive = [["eng", "low"]]"#, rule, &STAFF),
        "line 4, column 22: no voter is in the group `low`; did you mean `law`?"
    );
    assert_eq!(
        refusal(r#"exclusive = [["eng"]]"#, rule, &STAFF),
        "line 4, column 14: a pair of `exclusive` must have two groups"
    );
    assert_eq!(
        refusal(r#"exclusive = [["eng", "eng"]]"#, rule, &STAFF),
        "line 4, column 22: `exclusive` must name two groups, not `eng` twice"
    );
}

#[test]
fn what_the_document_says_twice_or_wrongly_is_refused() {
    let right = toml("", r#"{ at_least = 2, of = "eng" }"#, &STAFF);
    Policy::parse(right.as_bytes()).unwrap();
    let (first, second) = (super::KEYS[0], super::KEYS[1]);
    for (from, to, said) in [
        (r#"name = "v1""#, r#"name = "v0""#, "line 12, column 8: the voter `v0` is listed twice"),
        (
            &format!(r#"y = "{}", crv = "P-256", x = "{}""#, second.1, second.0),
            &format!(r#"y = "{}", crv = "P-256", x = "{}""#, first.1, first.0),
            "line 13, column 7: the key of voter `v1` is listed twice: `v0` has it too",
        ),
        (second.0, first.0, "line 13, column 7: the JWK's coordinates are not a point on P-256"),
        (r#"crv = "P-256""#, r#"crv = "P-384""#, "line 8, column 7: a JWK must be exactly"),
        (r#"kty = "EC", "#, "", "line 8, column 7: a voter's `key` needs `kty`"),
        (
            r#"kty = "EC", "#,
            r#"kty = "EC", kid = "a", "#,
            "line 8, column 21: unknown key `kid` in a voter's `key`",
        ),
        (
            r#"groups = ["eng"]"#,
            r#"groups = ["eng", "eng"]"#,
            "line 9, column 18: the group `eng` is listed twice",
        ),
        (
            "weight = 2",
            "weight = 0",
            "line 15, column 10: a voter's `weight` must be from 1 to 1000000000, not 0",
        ),
        (
            "weight = 2",
            "wieght = 2",
            "line 15, column 1: unknown key `wieght` in a voter; did you mean `weight`?",
        ),
        (
            r#"["sign"]"#,
            r#"["sing"]"#,
            "line 2, column 10: `kinds`: `sing` is not a kind of subject; known are `sign`",
        ),
        (r#"["sign"]"#, r#"["sign", "sign"]"#, "line 2, column 18: the kind `sign` is listed twice"),
        (r#"["sign"]"#, "[]", "line 2, column 9: `kinds` is empty"),
        (r#"deadline = "48h""#, "", "line 1, column 1: a policy needs `deadline`"),
        (r#""48h""#, "48", "line 3, column 12: `deadline` must be text, not a whole number"),
        (
            r#"deadline = "48h""#,
            "deadlin = 1",
            "line 1, column 1: a policy needs `deadline`\nline 3, column 1: unknown key `deadlin` in a policy; did you mean `deadline`?",
        ),
        (
            r#"deadline = "48h""#,
            "deadline = \"48h\"\non_deadline = \"accept\"",
            "line 4, column 15: `on_deadline` must be `expire` or `reject`, not `accept`",
        ),
        (r#"name = "p""#, r#"name = "P""#, "line 1, column 8: `name`: `P` is not a name"),
        (r#"name = "p""#, "name = ", "line 1, column 8: this is not TOML: "),
        (r#"name = "p""#, "name = \"p\"\nname = \"p\"", "line 2, column 1: this is not TOML: duplicate key"),
    ] {
        assert!(right.contains(from), "{from}");
        let found = Policy::parse(right.replacen(from, to, 1).as_bytes()).expect_err(to).to_string();
        assert!(found.starts_with(said), "{to}\nfound    {found}\nexpected {said}");
    }
    assert_eq!(
        Policy::parse(b"name = \"p\"\nx = \"\xff\"").unwrap_err().to_string(),
        "line 2, column 6: a policy must be UTF-8"
    );
}

#[test]
fn what_is_lawful_but_worth_knowing_is_a_warning() {
    let said = |rule: &str| {
        let policy = policy("", rule, &STAFF);
        policy.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let warnings = said(r#"{ all = [{ at_least = 2, of = "eng" }, { no_veto = "sec", for = "1h" }] }"#);
    assert_eq!(
        warnings,
        [
            "line 5, column 10: requests can still be approved after the loss of any one voter; any one stolen voter key is \
             not enough to approve",
            "line 5, column 49: `no_veto` of `sec` rests on an honest validator, who could leave a veto out until its 1h are \
             over; an `at_least` does not",
            "line 32, column 8: the ballot of `v5` counts for nothing; put him into a group that the rule names",
        ]
    );
    let warnings = said(
        r#"{ all = [{ at_least = 3, of = "eng" }, { at_least = 1, of = "sec" },
                                     { at_least = 1, of = "law" }] }"#,
    );
    assert!(
        warnings[0].contains("the loss of one voter may make approval impossible; any 2 stolen voter keys")
    );
    assert!(warnings[1].ends_with("a request by `v0` could never be approved: too few others vote"));
}

#[test]
fn what_a_barred_requester_makes_possible_is_seen() {
    // `v0` waits for `x` to begin, and so cannot end the window of `g` early, unless he may not vote at all.
    let voters: [(&[&str], u64); 3] = [(&["g", "x"], 1), (&["h"], 1), (&["a"], 1)];
    let windows = r#"{ any = [{ then = [{ at_least = 1, of = "a" }, { at_least = 1, of = "x" }] },
                              { then = [{ no_veto = "g", for = "48h" }, { no_veto = "h", for = "1ms" }] }] }"#;
    assert_eq!(
        refusal("", windows, &voters),
        "line 5, column 10: the rule could approve with no approving ballot, if `v0` is the requester"
    );
    policy("requester_may_vote = true", windows, &voters);
    let deadlock = r#"{ any = [{ then = [{ no_veto = "g", for = "48h" }, { at_least = 1, of = "h" }] },
                               { then = [{ at_least = 1, of = "h" }, { at_least = 1, of = "x" }] }] }"#;
    policy("", deadlock, &voters);
    assert!(refusal("requester_may_vote = true", deadlock, &voters).contains("could never approve"));
}

#[test]
fn how_many_voters_and_keys_may_be_lost_follows_the_rule() {
    let crossed: [(&[&str], u64); 4] = [(&["a"], 1), (&["b"], 1), (&["b"], 1), (&["c"], 1)];
    let crossed_rule = r#"{ all = [{ then = [{ at_least = 1, of = "a" }, { at_least = 1, of = "b" }] },
                                   { n_of = 2, rules = [{ at_least = 1, of = "a" }, { at_least = 2, of = "b" },
                                                        { at_least = 1, of = "c" }] }] }"#;
    let waiting: [(&[&str], u64); 5] =
        [(&["a"], 1), (&["a"], 1), (&["b", "d"], 1), (&["b", "d"], 1), (&["c"], 1)];
    let waiting_rule = r#"{ all = [{ at_least = 1, of = "b" },
        { any = [{ at_least = 1, of = "a" }, { then = [{ at_least = 1, of = "c" }, { at_least = 1, of = "d" }] }] }] }"#;
    for (rule, voters, lost, stolen) in [
        (r#"{ at_least = 1, of = "eng" }"#, &STAFF[..], 2, 0),
        (r#"{ at_least = 3, of = "eng" }"#, &STAFF, 0, 2),
        // Weights 1, 2 and 4: the heaviest may be needed, and with the next he is enough.
        (r#"{ weight = 5, of = "eng" }"#, &STAFF, 0, 1),
        (r#"{ weight = 3, of = "eng" }"#, &STAFF, 1, 0),
        (r#"{ percent = 100, of = "eng" }"#, &STAFF, 0, 2),
        (
            r#"{ n_of = 2, rules = [{ at_least = 1, of = "eng" }, { at_least = 2, of = "sec" },
                                    { at_least = 1, of = "law" }] }"#,
            &STAFF,
            0,
            0,
        ),
        (
            r#"{ n_of = 2, rules = [{ at_least = 1, of = "eng" }, { at_least = 1, of = "sec" },
                                    { at_least = 1, of = "law" }] }"#,
            &STAFF,
            1,
            0,
        ),
        (r#"{ then = [{ at_least = 2, of = "eng" }, { at_least = 1, of = "sec" }] }"#, &STAFF, 1, 2),
        (r#"{ then = [{ no_veto = "law", for = "48h" }, { at_least = 1, of = "eng" }] }"#, &STAFF, 0, 0),
        (r#"{ then = [{ no_veto = "law", for = "47h" }, { at_least = 1, of = "eng" }] }"#, &STAFF, 2, 0),
        (crossed_rule, &crossed, 0, 1),
        // Without `v4` the level of `d` never begins, and so the ballots for `b` are refused too.
        (waiting_rule, &waiting, 0, 0),
    ] {
        let policy = policy("", rule, voters);
        assert_eq!(policy.voters_that_may_be_lost(), lost, "{rule}");
        assert_eq!(policy.keys_that_may_be_stolen(), stolen, "{rule}");
    }
}

#[test]
fn the_policies_of_the_vectors_are_lawful() {
    for (rule, voters) in [
        (r#"{ at_least = 2, of = "eng" }"#, &STAFF[..3]),
        (
            r#"{ then = [ { at_least = 2, of = "eng" },
                          { all = [ { at_least = 1, of = "sec" }, { no_veto = "law", for = "1h" } ] } ] }"#,
            &STAFF,
        ),
    ] {
        policy("", rule, voters);
    }
}

#[test]
fn a_name_is_compared_with_some_of_many_groups() {
    let mut groups: Vec<String> = (0..300).map(|group| format!("group-{group}")).collect();
    groups.push("zebra".into());
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let voters: Vec<(&[&str], u64)> = groups.chunks(60).map(|groups| (groups, 1)).collect();
    let rule = r#"{ at_least = 1, of = "zebre" }"#;
    assert_eq!(refusal("", rule, &voters), "line 5, column 29: no voter is in the group `zebre`");
    assert!(refusal("", rule, &voters[5..]).ends_with("; did you mean `zebra`?"));
}

#[test]
fn a_rule_whose_futures_take_too_long_is_refused() {
    let windows = |count: usize| {
        let windows = (1..=count).map(|window| format!("{{ no_veto = \"c\", for = \"{window}s\" }}"));
        let both = |first, second| {
            let level = |group| format!("{{ at_least = 1, of = \"{group}\" }}");
            format!("{{ then = [{}, {}] }}", level(first), level(second))
        };
        // Each waits for the other.
        let rules =
            [both("c", "d"), both("d", "c")].into_iter().chain(windows).collect::<Vec<_>>().join(", ");
        let voter = |place: u8| {
            let (key, group) = (Key::new(place).toml(), ["c", "d"][usize::from(place % 2)]);
            format!("[[voter]]\nname = \"v{place}\"\nkey = {key}\ngroups = [\"{group}\"]\n")
        };
        let voters = (1..=80).map(voter).collect::<String>();
        let rule = format!("{{ all = [{rules}] }}");
        let text = format!("name = \"p\"\nkinds = [\"sign\"]\ndeadline = \"48h\"\nrule = {rule}\n{voters}");
        Policy::parse(text.as_bytes()).expect_err("never").to_string()
    };
    assert!(windows(10).contains("could never approve"), "{}", windows(10));
    assert!(windows(240).contains("it cannot be seen"), "{}", windows(240));
}
