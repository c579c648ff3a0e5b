//! `assent fetch`: brings signature and proof of a case, and verifies them before anything is written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assent_consensus::event::CaseOutcome;
use assent_consensus::genesis::Genesis;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_consensus::operational_key::OperationalPublicKey;
use assent_consensus::subject::Subject;
use assent_consensus::vote::Outcome;
use clap::Args;
use pkcs8::{Document, LineEnding};
use serde_json::json;

use crate::api::{CaseState, CaseView};
use crate::client::Client;

use super::case::CasePlace;
use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings::{Settings, SettingsArgs};
use super::write::{self, Existing};
use super::{follow, proof, show};

#[derive(Args)]
pub(super) struct Fetch {
    #[command(flatten)]
    place: CasePlace,
    /// The directory for NAME.sig, KEY.pub.pem, NAME.bundle.json and genesis.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The name of the files [default: the artifact's name, or the case's]
    #[arg(long)]
    name: Option<String>,
    /// Wait until the case ends
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file that is yet to be written.
struct Output {
    name: String,
    bytes: Vec<u8>,
}

pub(super) fn run(arguments: &Fetch) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let (genesis, client) = (settings.genesis()?, settings.client()?);
    let (outcome, outputs) = follow::block_on(fetch(arguments, &settings, &genesis, &client))?;
    write::make_directory(&arguments.out)?;
    let mut written = Vec::new();
    for Output { name, bytes } in &outputs {
        let path = arguments.out.join(name);
        write::file(&path, bytes, Existing::Replace)?;
        screen.line(format!("wrote {}", quoted(path.display())))?;
        written.push(path.to_string_lossy().into_owned());
    }
    let case = &arguments.place.case;
    screen.result(&json!({ "case": case, "outcome": outcome, "files": written }))?;
    follow::judge(case, outcome)
}

async fn fetch(
    arguments: &Fetch,
    settings: &Settings,
    genesis: &Genesis,
    client: &Client,
) -> Result<(CaseOutcome, Vec<Output>), Failure> {
    let case = &arguments.place.case;
    let requester = arguments.place.requester(settings, client).await?;
    let (view, outcome) = match arguments.wait {
        true => follow::case(client, requester, case, |_| Ok(())).await?,
        false => {
            let view = client.case(requester, case, None).await?;
            match view.summary.state {
                CaseState::Ended { outcome } => (view, outcome),
                state => {
                    let state = show::case_state(&state);
                    return Err(Failure::failed(format!("case `{case}` has not ended yet: {state}"))
                        .help("`--wait` waits for it"));
                }
            }
        }
    };
    let mut outputs = vec![Output { name: "genesis.json".into(), bytes: genesis.bytes().to_vec() }];
    let requests = decided(&view);
    let mut any_approved = false;
    for (step, request) in &requests {
        let bytes = client.bundle(*request).await?;
        let proof = proof::verify(genesis, &bytes, &BTreeSet::new())?;
        proof::check_is_of(&proof, *request, requester, case)?;
        // One request, as most cases have: its files need no step in their names.
        let step = (requests.len() > 1).then_some(step);
        let name = file_name(arguments.name.as_deref(), proof.subject(), case, step)?;
        let approved = proof.decision.outcome == Outcome::Approved;
        any_approved |= approved;
        // A case that ended badly may have been approved at an earlier step; what was signed then is there.
        if let Some(result) = &proof.result {
            outputs.push(Output { name: format!("{name}.sig"), bytes: result.signature.0.clone() });
            let key = format!("{}.pub.pem", result.key);
            outputs.push(Output { name: key, bytes: public_key_pem(&result.public_key)? });
        } else if outcome == CaseOutcome::Done && approved && proof::asks_for_a_signature(&proof) {
            return Err(Failure::does_not_verify(
                "the node says that the case is done, and its proof has no signature",
            ));
        }
        outputs.push(Output { name: format!("{name}.bundle.json"), bytes });
    }
    if outcome == CaseOutcome::Done && !any_approved {
        return Err(Failure::does_not_verify(
            "the node says that the case is done, and has no proof of an approval",
        ));
    }
    Ok((outcome, outputs))
}

/// The requests of a case that came to a signed decision.
fn decided(view: &CaseView) -> Vec<(Name, RequestId)> {
    let decided = |request: &&crate::api::CaseRequest| {
        request.outcome.is_some() && request.state == Some(crate::api::RequestState::Decided)
    };
    view.requests.iter().filter(decided).map(|request| (request.step.clone(), request.request)).collect()
}

/// The common part of the files' names: one that stays in its directory, whatever the subject says.
fn file_name(
    given: Option<&str>,
    subject: &Subject,
    case: &Name,
    step: Option<&Name>,
) -> Result<String, Failure> {
    let name = match (given, subject) {
        (Some(given), _) => given,
        (None, Subject::Sign { name, .. }) => name.as_str(),
        (None, _) => case.as_str(),
    };
    let plain = Path::new(name).file_name().is_some_and(|plain| plain == name);
    if !plain || name.starts_with('.') {
        return Err(Failure::usage(format!("`{}` cannot be the name of files here", quoted(name)))
            .help("give another by `--name`"));
    }
    Ok(step.map_or_else(|| name.to_owned(), |step| format!("{name}.{step}")))
}

/// The key as SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) in PEM.
fn public_key_pem(key: &OperationalPublicKey) -> Result<Vec<u8>, Failure> {
    let der = key.to_spki_der().ok_or_else(|| Failure::failed("the public key cannot be written"))?;
    let document = Document::try_from(der).map_err(Failure::failed)?;
    Ok(document.to_pem("PUBLIC KEY", LineEnding::LF).map_err(Failure::failed)?.into_bytes())
}

#[cfg(test)]
mod tests {
    use assent_consensus::digest::Digest;
    use assent_consensus::json::Integer;

    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::Sign {
            key: "release".parse().expect("a name"),
            name: name.parse().expect("text"),
            digest: Digest::of(b""),
            size: Integer::saturating(0),
            context: None,
        }
    }

    #[test]
    fn files_stay_in_their_directory_whatever_the_subject_says() {
        let case: Name = "a-case".parse().expect("a name");
        let name = |subject: &str| file_name(None, &self::subject(subject), &case, None);
        assert_eq!(name("foo-1.2.tar").expect("plain"), "foo-1.2.tar");
        for wrong in ["../foo", "/etc/passwd", "a/b", "..", ".", "", ".profile", "a/"] {
            assert!(name(wrong).is_err(), "{wrong}");
            assert!(file_name(Some(wrong), &subject("foo"), &case, None).is_err(), "{wrong}");
        }
        let step = "approval".parse().expect("a name");
        let named = file_name(Some("bar"), &subject("../foo"), &case, Some(&step)).expect("plain");
        assert_eq!(named, "bar.approval");
    }
}
