//! `assent verify`: whether a bundle proves what it says, with nothing but genesis.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assent_consensus::bundle::VerifiedBundle;
use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::subject::Subject;
use clap::Args;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::proof::{self, BUNDLE_LIMIT};
use super::screen::{Screen, quoted};
use super::{moment, read, show};

#[derive(Args)]
pub(super) struct Verify {
    /// The bundle
    bundle: PathBuf,
    /// The deployment's genesis file, which you trust
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The artifact: must be the one that was approved
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Thumbprints of keys that count no more, one a line
    #[arg(long, value_name = "FILE")]
    revoked: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Verify) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    // A file that cannot be read is no verdict; from here on everything that is wrong is one.
    let bytes = read::file(&arguments.bundle, "bundle", BUNDLE_LIMIT)?;
    let revoked = arguments.revoked.as_deref().map_or(Ok(BTreeSet::new()), read_revoked)?;
    let artifact = arguments.file.as_deref().map(read::digest).transpose()?;
    let verdict = judge(arguments, &screen, &bytes, &revoked, artifact);
    if let Err(failure) = &verdict
        && failure.exit() == Exit::DoesNotVerify
    {
        let why = failure.message().replace('\n', "; ");
        screen.result(&json!({ "valid": false, "why": why }))?;
        return Err(Failure::does_not_verify(format!("not valid: {why}")));
    }
    verdict
}

fn judge(
    arguments: &Verify,
    screen: &Screen,
    bundle: &[u8],
    revoked: &BTreeSet<Thumbprint>,
    artifact: Option<(Digest, u64)>,
) -> Result<(), Failure> {
    let genesis = read::genesis(&arguments.genesis, Exit::DoesNotVerify)?;
    let proof = proof::verify(&genesis, bundle, revoked)?;
    if let (Some(artifact), Some(path)) = (artifact, &arguments.file) {
        check_artifact(&proof, path, artifact)?;
    }
    summarise(screen, &genesis, &proof, arguments.file.as_deref())?;
    screen.result(&describe(&genesis, &proof, artifact.is_some()))
}

fn check_artifact(
    proof: &VerifiedBundle<'_>,
    path: &Path,
    (digest, size): (Digest, u64),
) -> Result<(), Failure> {
    let wrong = |what: String| {
        Err(Failure::does_not_verify(format!(
            "`{}` is not the file that was asked about: {what}",
            path.display()
        )))
    };
    match proof.subject() {
        Subject::Sign { digest: asked, size: asked_size, .. } => {
            if *asked != digest {
                return wrong(format!("its digest is {digest}, and {asked} was asked about"));
            }
            if asked_size.get() != size {
                return wrong(format!("it has {size} bytes, and {asked_size} were asked about"));
            }
            Ok(())
        }
        Subject::Record { digest: Some(asked), .. } | Subject::Webhook { digest: asked, .. }
            if *asked == digest =>
        {
            Ok(())
        }
        other => wrong(format!("the request is a `{}` that does not name it", other.kind())),
    }
}

/// Thumbprints, one a line; `#` begins a comment.
fn read_revoked(path: &Path) -> Result<BTreeSet<Thumbprint>, Failure> {
    let text = read::text(path, "list of revoked keys", read::DOCUMENT_LIMIT)?;
    let mut revoked = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let thumbprint = line
            .parse()
            .map_err(|error| Failure::failed(format!("`{}`, line {}: {error}", path.display(), index + 1)))?;
        revoked.insert(thumbprint);
    }
    Ok(revoked)
}

fn summarise(
    screen: &Screen,
    genesis: &Genesis,
    proof: &VerifiedBundle<'_>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let (vote_request, decision) = (&proof.vote_request, &proof.decision);
    screen.line("valid")?;
    screen.line(format!(
        "deployment  {} ({}), id {}",
        genesis.name(),
        genesis.environment(),
        genesis.id()
    ))?;
    screen.line(format!(
        "asked by    {} ({}), process {}, case {}",
        proof.requester.name, vote_request.requester, vote_request.process, vote_request.case
    ))?;
    screen.line("asked")?;
    show::subject(screen, proof.subject())?;
    if let Some(file) = file {
        screen.line(format!("file        {} is the one", quoted(file.display())))?;
    }
    screen.line(format!("contract    {}, by policy {}", vote_request.contract, vote_request.policy))?;
    screen.line("rule")?;
    show::rule(screen, &proof.rule(), 1)?;
    screen.line(format!("opened      {}", moment::utc(vote_request.opened)))?;
    for (at, ballot) in &proof.recount.ballots {
        let reason = ballot.reason.as_ref().map_or(String::new(), |reason| format!(": {}", quoted(reason)));
        screen.line(format!(
            "vote        {} {} at {}{reason}",
            ballot.voter,
            ballot.choice,
            moment::utc(*at)
        ))?;
    }
    screen.line(format!("decided     {} at {}", decision.outcome, moment::utc(decision.decided)))?;
    screen.line(format!("by key      {} (version {})", proof.decision.signer(), decision.key_version))?;
    match &proof.result {
        Some(result) => {
            let key = genesis.key(&result.key);
            let algorithm = key.map_or(String::new(), |key| format!(", {}", key.key.algorithm()));
            screen.line(format!(
                "signed      by version {} of key {} ({}){algorithm}",
                result.version,
                result.key,
                result.public_key.thumbprint()
            ))?;
            match key.is_some_and(|key| key.adopted) {
                true => screen.line(format!("            {}", show::ADOPTED)),
                false => Ok(()),
            }
        }
        None => screen.line("signed      nothing"),
    }
}

fn describe(genesis: &Genesis, proof: &VerifiedBundle<'_>, file_checked: bool) -> Value {
    let ballots = proof.recount.ballots.iter().map(|(at, ballot)| {
        json!({ "at": at, "voter": ballot.voter, "choice": ballot.choice, "reason": ballot.reason })
    });
    let result = proof.result.as_ref().map(|result| {
        json!({
            "key": result.key,
            "version": result.version,
            "thumbprint": result.public_key.thumbprint(),
            "alg": genesis.key(&result.key).map(|key| key.key.algorithm()),
            "adopted": genesis.key(&result.key).is_some_and(|key| key.adopted),
            "format": result.format,
        })
    });
    json!({
        "valid": true,
        "deployment": genesis.id(),
        "environment": genesis.environment(),
        "request": proof.vote_request.request,
        "process": proof.vote_request.process,
        "case": proof.vote_request.case,
        "input": proof.start.input,
        "requester": { "name": proof.requester.name, "thumbprint": proof.vote_request.requester },
        "contract": proof.vote_request.contract,
        "policy": { "name": proof.policy.name(), "digest": proof.policy.digest() },
        "rule": proof.rule(),
        "subject": proof.subject(),
        "opened": proof.vote_request.opened,
        "deadline": proof.vote_request.deadline,
        "ballots": ballots.collect::<Vec<_>>(),
        "outcome": proof.decision.outcome,
        "decided": proof.decision.decided,
        "file_checked": file_checked,
        "result": result,
    })
}
