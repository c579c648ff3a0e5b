//! `assent propose`: starts a case, which asks for approval.

use std::path::{Path, PathBuf};

use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{Genesis, ProcessEntry};
use assent_consensus::json::{Members, Value};
use assent_consensus::message::{RequestId, Start};
use assent_consensus::name::{DisplayText, Name};
use assent_consensus::policy::Policy;
use assent_consensus::process::{InputType, Process, StepAction};
use assent_consensus::{json::Integer, jws::Verified};
use clap::Args;
use serde_json::json;

use crate::api::ContractView;
use crate::client::{Client, ClientError};
use crate::voter::key_file::random;
use crate::voter::{Signer, sign_message};

use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings::{KeyArgs, Settings, SettingsArgs};
use super::{follow, policy, read, receipt, show};

/// Bytes of randomness in a start.
const NONCE_BYTES: usize = 16;

#[derive(Args)]
pub(super) struct Propose {
    /// The process, as genesis names it
    process: Name,
    /// An input of the process
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_input)]
    input: Vec<(String, String)>,
    /// A file: gives the inputs that are a digest, `size` and `name`, unless they are given
    #[arg(long, value_name = "FILE")]
    artifact: Option<PathBuf>,
    /// A policy that is to follow the contract's present one: is sent beside the start, and gives the inputs `from` and `to`
    #[arg(long, value_name = "FILE", conflicts_with = "artifact")]
    policy: Option<PathBuf>,
    /// The case's name, unique among your cases [default: a new UUID]
    #[arg(long, value_name = "NAME")]
    case: Option<Name>,
    /// Wait until the case ends
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(arguments: &Propose) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let (genesis, client) = (settings.genesis()?, settings.client()?);
    let process =
        genesis.process(&arguments.process).ok_or_else(|| unknown_process(&genesis, &arguments.process))?;
    let policy = arguments.policy.as_deref().map(|path| policy::proposed(&screen, path)).transpose()?;
    let mut given = arguments.input.clone();
    if let Some(policy) = &policy {
        let view = follow::block_on(async { Ok(client.contract(policy.name()).await?) })?;
        given.extend(policy_inputs(&genesis, &view, policy, &given)?);
    }
    let input = input(&process.definition, &given, arguments.artifact.as_deref())?;
    let signer = settings.signer(&arguments.key)?;
    let start = sign_start(&genesis, process, arguments.case.clone(), input, &*signer)?;
    follow::block_on(async {
        if let Some(policy) = &policy {
            attach(&client, &process.chain, policy.document()).await?;
        }
        submit(arguments, &screen, &client, &genesis, process, start).await
    })
}

/// The inputs `from` and `to` of a change of a policy, where they are not given.
fn policy_inputs(
    genesis: &Genesis,
    view: &ContractView,
    policy: &Policy,
    given: &[(String, String)],
) -> Result<Vec<(String, String)>, Failure> {
    let last = policy::last(genesis, view)?;
    if last.digest() == policy.digest() {
        let message = format!("`{}` has this very policy already: there is nothing to change", policy.name());
        return Err(Failure::failed(message));
    }
    let inputs = [("from", last.digest()), ("to", policy.digest())].into_iter();
    let open = inputs.filter(|(name, _)| given.iter().all(|(known, _)| known != name));
    Ok(open.map(|(name, digest)| (name.to_owned(), digest.to_string())).collect())
}

/// Has a document recorded, unless it is there already.
async fn attach(client: &Client, chain: &Name, document: &[u8]) -> Result<(), Failure> {
    match client.submit(chain, document.to_vec()).await {
        Ok(_) => Ok(()),
        Err(ClientError::Refused { body, .. }) if body.code == "already-attached" => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sign_start(
    genesis: &Genesis,
    process: &ProcessEntry,
    case: Option<Name>,
    input: Members,
    signer: &dyn Signer,
) -> Result<Verified<Start>, Failure> {
    let kid = signer.public_key().thumbprint();
    if process.definition.requester_by_key(&kid).is_none() {
        return Err(Failure::failed(format!("your key `{kid}` may not start a case of `{}`", process.name))
            .help("its requesters are in the process document"));
    }
    let mut nonce = vec![0; NONCE_BYTES];
    random(&mut nonce)?;
    let case = case.unwrap_or_else(|| {
        uuid::Uuid::now_v7().to_string().parse().expect("a UUID is of hexadecimal digits and hyphens")
    });
    let start = Start {
        deployment: genesis.id(),
        chain: process.chain.clone(),
        process: process.name.clone(),
        definition: process.definition.digest(),
        case,
        nonce: Bytes(nonce),
        input,
    };
    Ok(sign_message(signer, start)?)
}

async fn submit(
    arguments: &Propose,
    screen: &Screen,
    client: &Client,
    genesis: &Genesis,
    process: &ProcessEntry,
    start: Verified<Start>,
) -> Result<(), Failure> {
    let receipt = receipt::submit(client, genesis, &process.chain, start.jws()).await?;
    let request = first_request(genesis, &process.definition, &start);
    screen.line(format!("deployment {} ({})", genesis.name(), genesis.environment()))?;
    screen.line(format!("case       {}", start.case))?;
    if let Some((step, request)) = &request {
        screen.line(format!("request    {request} ({step})"))?;
    }
    screen.line(format!("recorded   in block {}, with a signed receipt", receipt.height))?;
    let mut result = json!({
        "case": start.case,
        "requester": start.signer(),
        "start": start.digest(),
        "request": request.as_ref().map(|(_, request)| request),
        "height": receipt.height,
        "receipt": receipt.jws(),
    });
    if !arguments.wait {
        return screen.result(&result);
    }
    let (view, outcome) = follow::case(client, start.signer(), &start.case, |view| {
        screen.line(format!("case       {}", show::case_state(&view.summary.state)))
    })
    .await?;
    result["outcome"] = json!(outcome);
    result["requests"] = json!(view.requests);
    screen.result(&result)?;
    follow::judge(&start.case, outcome)
}

/// The request that the first step makes, if it asks.
fn first_request(genesis: &Genesis, process: &Process, start: &Verified<Start>) -> Option<(Name, RequestId)> {
    let step = process.first_step();
    let StepAction::Ask { .. } = step.action else { return None };
    let attempt = Integer::saturating(1);
    let request = RequestId::derive(start, genesis.id(), start.signer(), &step.name, attempt);
    Some((step.name.clone(), request))
}

fn read_input(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an input is written as `name=value`".into()),
    }
}

/// The input of a start: what is given, and what the artifact says for the rest.
fn input(process: &Process, given: &[(String, String)], artifact: Option<&Path>) -> Result<Members, Failure> {
    for (index, (name, _)) in given.iter().enumerate() {
        if given[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(Failure::usage(format!("the input `{}` is given twice", quoted(name))));
        }
    }
    let value_of = |name: &str| given.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let from_artifact = artifact.map(|path| artifact_inputs(process, path, &value_of)).transpose()?;
    let mut input = Members::default();
    for (name, expected) in process.inputs() {
        let value = match value_of(name.as_str()) {
            Some(text) => typed(name, *expected, text)?,
            None => {
                let value = from_artifact.as_ref().and_then(|members| members.member(name.as_str()));
                value.cloned().ok_or_else(|| missing(process, name, artifact.is_some()))?
            }
        };
        input.push(name.as_str(), value);
    }
    for (name, value) in given {
        // Whatever the process does not declare is refused below, by its name.
        input.push(name, Value::String(value.clone()));
    }
    process.check_input(&input).map_err(Failure::usage)?;
    if let StepAction::Ask { .. } = process.first_step().action {
        process.derive_subject(&process.first_step().name, &input).map_err(Failure::usage)?;
    }
    Ok(input)
}

/// What a file says: the digest for the one digest that is not given, `size`, and `name`.
fn artifact_inputs<'v>(
    process: &Process,
    path: &Path,
    given: &dyn Fn(&str) -> Option<&'v String>,
) -> Result<Members, Failure> {
    let open: Vec<_> = process.inputs().iter().filter(|(name, _)| given(name.as_str()).is_none()).collect();
    let digests: Vec<_> = open.iter().filter(|(_, expected)| *expected == InputType::Digest).collect();
    let [(digest_name, _)] = digests[..] else {
        let message = format!(
            "`--artifact` gives one digest, and `{}` has {} that are not given by `--input`",
            process.name(),
            digests.len()
        );
        return Err(Failure::usage(message));
    };
    let (digest, size) = read::digest(path)?;
    let mut members = Members::default();
    members.push(digest_name.as_str(), Value::String(digest.to_string()));
    for (name, expected) in open {
        match (name.as_str(), expected) {
            ("size", InputType::Integer) => {
                let size = i64::try_from(size).map_err(Failure::failed)?;
                members.push("size", Value::Number(size));
            }
            ("name", InputType::Text) => {
                members.push("name", Value::String(file_name(path)?));
            }
            _ => {}
        }
    }
    Ok(members)
}

fn file_name(path: &Path) -> Result<String, Failure> {
    let refused = |why: String| {
        Failure::usage(format!("the name of `{}` cannot be shown to voters: {why}", path.display()))
            .help("give it with `--input name=...`")
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| refused("it is not UTF-8".into()))?;
    name.parse::<DisplayText>().map_err(|error| refused(error.to_string()))?;
    Ok(name.to_owned())
}

fn typed(name: &Name, expected: InputType, text: &str) -> Result<Value, Failure> {
    match expected {
        InputType::Digest | InputType::Text => Ok(Value::String(text.to_owned())),
        InputType::Integer => match text.parse::<u64>().ok().and_then(Integer::new) {
            // What is not written as JSON writes it is not what was meant.
            Some(number) if number.to_string() == text => {
                Ok(Value::Number(i64::try_from(number.get()).map_err(Failure::usage)?))
            }
            _ => Err(Failure::usage(format!("the input `{name}` must be {expected}"))),
        },
    }
}

fn missing(process: &Process, name: &Name, with_artifact: bool) -> Failure {
    let inputs: Vec<_> =
        process.inputs().iter().map(|(name, expected)| format!("{name} ({})", expected.as_str())).collect();
    let failure = Failure::usage(format!(
        "the input `{name}` is missing; `{}` needs {}",
        process.name(),
        inputs.join(", ")
    ));
    if with_artifact {
        failure
    } else {
        failure.help(
            "`--input NAME=VALUE`, or `--artifact FILE` for what is known of a file, or `--policy FILE` for a new policy",
        )
    }
}

fn unknown_process(genesis: &Genesis, name: &Name) -> Failure {
    let known: Vec<_> = genesis.processes().iter().map(|process| format!("`{}`", process.name)).collect();
    Failure::usage(format!("there is no process `{name}`; genesis has {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use assent_consensus::digest::Digest;

    use super::*;

    fn process() -> Process {
        let genesis = include_bytes!("../../../../tests/vectors/flat.genesis.json");
        let genesis = Genesis::parse(genesis).expect("valid");
        Process::parse(genesis.processes()[0].definition.document()).expect("valid")
    }

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_artifact_gives_what_is_known_of_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("foo-1.2.tar");
        std::fs::write(&path, b"content").expect("writable");
        let members = input(&process(), &[], Some(&path)).expect("complete");
        let digest = Value::String(Digest::of(b"content").to_string());
        assert_eq!(members.member("artifact"), Some(&digest));
        assert_eq!(members.member("size"), Some(&Value::Number(7)));
        assert_eq!(members.member("name"), Some(&Value::String("foo-1.2.tar".into())));
        let named = input(&process(), &given(&[("name", "other")]), Some(&path)).expect("complete");
        assert_eq!(named.member("name"), Some(&Value::String("other".into())));
    }

    #[test]
    fn an_input_that_does_not_fit_the_process_is_usage() {
        let digest = Digest::of(b"x").to_string();
        let good = [("artifact", digest.as_str()), ("name", "x"), ("size", "1")];
        assert!(input(&process(), &given(&good), None).is_ok());
        for (wrong, why) in [
            (vec![good[0], good[1]], "`size` is missing"),
            (vec![good[0], good[1], ("size", "-1")], "`size` must be"),
            (vec![good[0], good[1], ("size", "01")], "`size` must be"),
            (vec![good[0], good[1], ("size", "9007199254740992")], "`size` must be"),
            (vec![("artifact", "sha256:0"), good[1], good[2]], "`artifact` must be"),
            (vec![good[0], ("name", "a\nb"), good[2]], "`name` must be"),
            (vec![good[0], good[1], good[2], ("more", "1")], "`more` is not one of the process"),
            (vec![good[0], good[1], good[2], good[2]], "given twice"),
        ] {
            let failure = input(&process(), &given(&wrong), None).expect_err("refused");
            assert!(failure.message().contains(why), "{}: {why}", failure.message());
        }
    }
}
