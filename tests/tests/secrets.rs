//! Keys stay in the token, and the PIN in its file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use assent_consensus::event::CaseOutcome;
use assent_consensus::vote::Choice::Approve;
use assent_hsm_mock::SoftHsmToken;
use assent_tests::deployment::{Deployment, run};

/// Contract keys and operational keys of the test's deployment.
const KEYS: usize = 9;

#[test]
fn private_keys_are_sensitive_and_never_extractable_and_no_secret_is_anywhere_but_in_its_file() {
    check().unwrap_or_else(|error| panic!("{error:#}"));
}

fn check() -> Result<()> {
    let mut deployment = Deployment::start()?;
    let pins =
        [fs::read(deployment.token().pin_file())?, fs::read(deployment.token().directory().join("so-pin"))?];
    let desk = deployment.desk().clone();
    let runtime = tokio::runtime::Runtime::new()?;
    let sign = |case: &'static str| {
        runtime.block_on(async {
            let (case, _) = desk.start_case("release-signing", "ci", case, b"x").await?;
            let view = desk.open_request(&case).await?;
            desk.vote(&view, "engineer-1", Approve).await?;
            desk.vote(&view, "engineer-2", Approve).await?;
            desk.end(&case).await
        })
    };
    ensure!(sign("first")?.1 == CaseOutcome::Done, "the first case is signed");
    // What the daemons show of themselves to everybody, while they run.
    for process in deployment.process_ids() {
        let limits = fs::read_to_string(format!("/proc/{process}/limits"))?;
        let core =
            limits.lines().find_map(|line| line.strip_prefix("Max core file size")).context("a limit")?;
        ensure!(
            core.split_whitespace().take(2).all(|limit| limit == "0"),
            "{process} may write a core dump:{core}"
        );
        for file in ["cmdline", "environ"] {
            let shown = fs::read(format!("/proc/{process}/{file}"));
            // Of the environment nobody may see anything; if we may, no PIN is in it.
            for pin in &pins {
                ensure!(
                    !shown.as_ref().is_ok_and(|shown| holds(shown, pin)),
                    "a PIN is in {file} of {process}"
                );
            }
        }
    }
    // Also after an outage, a doctor's visit and a look at the log.
    deployment.kms().kill()?;
    deployment.start_kms()?;
    ensure!(sign("second")?.1 == CaseOutcome::Done, "the second case is signed");
    for arguments in [&["key", "list"][..], &["doctor"], &["audit", "verify"]] {
        let output = deployment.assent_kms(arguments)?;
        for pin in &pins {
            ensure!(!holds(&output.stdout, pin) && !holds(&output.stderr, pin), "{arguments:?} prints a PIN");
        }
    }
    deployment.node().stop()?;
    deployment.kms().stop()?;

    let files = [files_below(deployment.directory())?, files_below(deployment.token().directory())?].concat();
    ensure!(files.iter().any(|path| path.ends_with("kms.log")), "the logs are among what is searched");
    for path in &files {
        let content = fs::read(path)?;
        let is_pin_file = path.file_name().is_some_and(|name| name == "pin" || name == "so-pin");
        for pin in &pins {
            ensure!(is_pin_file || !holds(&content, pin), "a PIN is in {}", path.display());
        }
        // People's and validators' keys are files; of a key in the token nothing is.
        let is_key_file = path.extension().is_some_and(|extension| extension == "pem");
        ensure!(is_key_file || !holds(&content, b"PRIVATE KEY"), "a private key is in {}", path.display());
    }

    let listed = list_private_keys(deployment.token())?;
    let keys: Vec<&str> = listed.split("Private Key Object").skip(1).collect();
    ensure!(keys.len() == KEYS, "{} keys instead of {KEYS}:\n{listed}", keys.len());
    for key in keys {
        let access =
            key.lines().find(|line| line.contains("Access:")).context("what may be done with the key")?;
        for word in ["sensitive", "always sensitive", "never extractable", "local"] {
            ensure!(access.contains(word), "a key is not {word}:\n{key}");
        }
    }
    Ok(())
}

fn list_private_keys(token: &SoftHsmToken) -> Result<String> {
    let output = run(Command::new("pkcs11-tool")
        .arg("--module")
        .arg(token.module())
        .args(["--token-label", token.label(), "--login", "--pin", "env:KMS_PIN"])
        .args(["--list-objects", "--type", "privkey"])
        .env("KMS_PIN", fs::read_to_string(token.pin_file())?)
        .env("SOFTHSM2_CONF", token.config()))?;
    Ok(String::from_utf8(output.stdout)?)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn holds(content: &[u8], secret: &[u8]) -> bool {
    content.windows(secret.len()).any(|window| window == secret)
}
