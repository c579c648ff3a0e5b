//! The KMS's manual: every command in it is one that the programs take, and its runbooks, typed in their order, do what
//! they say.

mod site;

use site::{Ended, Site};

const MANUAL: &str = include_str!("../../../kms/MANUAL.md");
/// Programs in the manual that are not ours.
const OTHERS: [&str; 4] = ["install", "mv", "sha256sum", "systemctl"];

/// The lines of the blocks of a part of the manual that are to be typed.
fn commands(part: &str) -> Vec<&str> {
    let mut commands = Vec::new();
    let mut is_typed = false;
    for line in part.lines().map(str::trim) {
        match line.strip_prefix("```") {
            Some(kind) => is_typed = kind == "sh",
            None if is_typed => commands.push(line),
            None => {}
        }
    }
    commands
}

/// What stands in the text, outside of blocks, as a command of ours.
fn commands_in_text() -> Vec<&'static str> {
    let text = MANUAL.split("```").step_by(2);
    let spans = text.flat_map(|text| text.split('`').skip(1).step_by(2));
    spans.filter(|span| span.starts_with("assent ") || span.starts_with("assent-kms ")).collect()
}

/// The commands of one runbook.
fn runbook(heading: &str) -> Vec<&'static str> {
    let (_, part) = MANUAL.split_once(&format!("\n## {heading}\n")).expect("the manual has the runbook");
    commands(part.split("\n## ").next().unwrap_or(part))
}

#[test]
fn each_command_is_one_that_its_program_takes() {
    let (typed, mentioned) = (commands(MANUAL), commands_in_text());
    assert!(typed.len() > 40 && mentioned.len() > 5, "{} and {}", typed.len(), mentioned.len());
    for command in typed.into_iter().chain(mentioned) {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        if words[0] == "systemd-run" {
            words = words.into_iter().skip_while(|word| *word != "assent-kms").collect();
        }
        let grammar = match words[0] {
            "assent" => assent::cli::grammar(),
            "assent-kms" => assent_kms::cli::grammar(),
            other if OTHERS.contains(&other) => continue,
            other => panic!("`{command}`: what is `{other}`?"),
        };
        if let Err(error) = grammar.try_get_matches_from(&words) {
            panic!("`{command}`: {error}");
        }
    }
}

#[test]
fn the_processes_of_the_manual_are_those_that_are_tried() {
    for (process, _, contract, subject) in &site::PROCESSES[1..] {
        let row = format!("| `{process}` | `{subject}` | `{contract}` |");
        assert!(MANUAL.contains(&row), "{row}");
    }
}

#[test]
fn the_runbooks_typed_in_their_order_do_what_they_say() {
    let mut site = Site::new();
    site.follow(&runbook("First set-up"));
    assert_eq!(site.states("release"), ["active"]);
    site.start_node();

    site.add_device();
    site.follow(&runbook("Adding an HSM"));
    assert_eq!(site.states("image"), ["pre-activation"]);

    site.follow(&runbook("Rotation"));
    assert_eq!(site.newest("release"), (2, "active".into()));
    // What begins from now on uses it, as soon as it is in force.
    site.sign_releases_until(2);

    let policy = runbook("Another policy");
    let (shown, changed) = policy.split_at(1);
    site.follow(shown);
    site.edit_policy("release-approval.toml", "48h", "72h");
    site.follow(changed);
    assert_eq!(site.policies("release-approval"), 2);

    site.revoke_signer_of_release();
    let ended = site.follow(&runbook("Compromise"));
    assert_eq!(site.states("release")[1..], ["compromised", "active"]);
    assert_eq!(site.newest("release-approval"), (2, "active".into()));
    // The bundle leaned on the key that is not to be trusted any more.
    assert_eq!(ended, [Ended { command: "assent verify".into(), code: 4 }]);

    // It ends with the KMS's own retirement.
    site.follow(&runbook("Retirement"));
    site.start_kms();
    assert_eq!(site.states("release")[1..], ["destroyed", "active"]);

    let restore = runbook("Restore");
    let (backup, restore) = restore.split_at(1);
    site.follow(backup);
    site.open_a_case("half");
    site.follow(restore);
    site.follow(&["assent case half --wait"]);
    assert_eq!(site.states("release")[1..], ["destroyed", "active"]);
}
