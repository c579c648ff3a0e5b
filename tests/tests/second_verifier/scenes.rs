//! Bundles from before, during and after each change of a deployment, made by the real programs.

use anyhow::{Context as _, Result};
use assent_consensus::bundle::Bundle;
use assent_consensus::json;
use assent_consensus::jws::Signed;
use assent_consensus::message::{KeyVersion, VoteRequest};
use assent_tests::deployment::{Case, Deployment, Desk};

/// What a case's bundle shows, and its bytes.
pub type Scene = (&'static str, Vec<u8>);

const TWO: [&str; 2] = ["engineer-1", "engineer-2"];
const ONE: [&str; 1] = ["engineer-3"];

/// Replaces the keys and policies of the contract that governs itself and of the one that it governs.
///
/// # Errors
/// Something is refused, or takes too long.
pub async fn play(deployment: &Deployment) -> Result<Vec<Scene>> {
    let desk = &**deployment.desk();
    let mut shown = vec![
        ("before", done(desk, "release-signing", "before").await?),
        ("before, of the governed contract", done(desk, "nightly-signing", "before-night").await?),
    ];
    let open = start(desk, "release-signing", "open").await?;
    let void = start(desk, "nightly-signing", "void").await?;
    shown.push(("rotation of the release key", done(desk, "rotate-release", "release-rotation").await?));
    shown.push((
        "rotation of the contract's key",
        done(desk, "rotate-release-approval", "contract-rotation").await?,
    ));
    let after = opened(desk, "release-signing", "rotated", |asked| asked.key_version > first()).await?;
    desk.finish(&after, &TWO).await?;
    shown.push(("after the rotations", after));
    desk.finish(&open, &TWO).await?;
    shown.push(("opened before the rotations", open));

    let policy = |asked: &VoteRequest| asked.policy;
    let last = policy(&asked(desk, &shown[0].1).await?);
    let longer = |policy: String| policy.replace("\"1h\"", "\"2h\"");
    let change = desk.propose_policy("change-release-approval", "release-approval", "longer", longer).await?;
    desk.finish(&change, &TWO).await?;
    shown.push(("change of the contract's policy", change));
    let after = opened(desk, "release-signing", "longer", |asked| policy(asked) != last).await?;
    desk.finish(&after, &TWO).await?;
    shown.push(("after the change of the contract's policy", after));

    let last = policy(&asked(desk, &shown[1].1).await?);
    let weaker = |policy: String| policy.replace("at_least = 2", "at_least = 1");
    let change = desk.propose_policy("change-night-approval", "night-approval", "weaker", weaker).await?;
    desk.finish(&change, &TWO).await?;
    shown.push(("change of the governed contract's policy", change));
    let after = opened(desk, "nightly-signing", "weaker", |asked| policy(asked) != last).await?;
    desk.finish(&after, &ONE).await?;
    shown.push(("after the change of the governed contract's policy", after));

    let told = deployment.assent_kms(&["key", "compromised", "--contract", "night-approval"])?;
    anyhow::ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    shown.push(("compromise", done(desk, "night-approval-compromised", "compromise").await?));
    let again = desk.next_request(&void).await?.context("it has retries")?;
    desk.finish(&again, &ONE).await?;
    shown.push(("asked again after the compromise", again));

    done(desk, "rotate-release", "second-release-rotation").await?;
    shown.push((
        "after the second rotation of the release key",
        signed_by(desk, first().next().next()).await?,
    ));
    let mut scenes = Vec::new();
    for (name, case) in shown {
        scenes.push((name, desk.client().bundle(case.request).await?));
    }
    Ok(scenes)
}

fn first() -> KeyVersion {
    KeyVersion::first()
}

async fn start(desk: &Desk, process: &str, case: &str) -> Result<Case> {
    let (case, _) = desk.start_case(process, "ci", case, case.as_bytes()).await?;
    desk.open_request(&case).await?;
    Ok(case)
}

async fn done(desk: &Desk, process: &str, case: &str) -> Result<Case> {
    let case = start(desk, process, case).await?;
    desk.finish(&case, &TWO).await?;
    Ok(case)
}

async fn asked(desk: &Desk, case: &Case) -> Result<VoteRequest> {
    let jws = desk.open_request(case).await?.vote_request.context("it was opened")?;
    Ok(Signed::<VoteRequest>::from_jws(jws)?.unverified().clone())
}

/// Starts cases until one is opened as `wanted`; the others are left open.
async fn opened(
    desk: &Desk,
    process: &str,
    name: &str,
    wanted: impl Fn(&VoteRequest) -> bool,
) -> Result<Case> {
    for number in 0.. {
        let case = start(desk, process, &format!("{name}-{number}")).await?;
        if wanted(&asked(desk, &case).await?) {
            return Ok(case);
        }
    }
    unreachable!("it goes on for ever")
}

/// Has files signed until one is by this version of the release key.
async fn signed_by(desk: &Desk, version: KeyVersion) -> Result<Case> {
    for number in 0.. {
        let case = done(desk, "release-signing", &format!("version-{version}-{number}")).await?;
        let bundle: Bundle = json::read(&desk.client().bundle(case.request).await?)?;
        if bundle.result.context("it was signed")?.version == version {
            return Ok(case);
        }
    }
    unreachable!("it goes on for ever")
}
