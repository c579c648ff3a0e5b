//! `assent vote`: verifies what is asked, shows it in full, asks, and signs a ballot.

use std::io::{self, BufRead, IsTerminal, Write};

use assent_consensus::genesis::Genesis;
use assent_consensus::jws::Verified;
use assent_consensus::message::{Ballot, RequestId};
use assent_consensus::name::DisplayText;
use assent_consensus::policy::{Tally, VoterIndex};
use assent_consensus::vote::Choice;
use clap::Args;
use serde_json::json;

use crate::api::{RequestState, RequestView};
use crate::client::Client;
use crate::voter::question::{Cast, Distrust, Question};
use crate::voter::sign_message;

use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings::{KeyArgs, Settings, SettingsArgs};
use super::{follow, moment, proposal, receipt, show};

#[derive(Args)]
pub(super) struct Vote {
    /// The request, as `assent requests` lists it
    request: RequestId,
    /// Approve
    #[arg(long, group = "choice")]
    approve: bool,
    /// Reject
    #[arg(long, group = "choice")]
    reject: bool,
    /// Neither; counts where a quorum is asked for
    #[arg(long, group = "choice")]
    abstain: bool,
    /// Why: up to 200 characters, which everybody can read in the bundle
    #[arg(long, value_name = "TEXT")]
    reason: Option<DisplayText>,
    /// Do not ask for the word; what is signed is shown all the same
    #[arg(long, requires = "choice")]
    yes: bool,
    /// Wait until the request is open for votes
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Vote {
    fn choice(&self) -> Option<Choice> {
        match (self.approve, self.reject, self.abstain) {
            (true, ..) => Some(Choice::Approve),
            (_, true, _) => Some(Choice::Reject),
            (.., true) => Some(Choice::Abstain),
            _ => None,
        }
    }
}

pub(super) fn run(arguments: &Vote) -> Result<(), Failure> {
    let screen = Screen::shown_always(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let (genesis, client) = (settings.genesis()?, settings.client()?);
    let key = settings.key(&arguments.key)?;
    let unlock = settings.unlock(&arguments.key);
    // Whether it is one's turn is known before a passphrase is typed.
    let public = key.public_key(&unlock)?;
    let view = follow::block_on(fetch(&client, arguments.request, arguments.wait))?;
    let question = Question::verify(&genesis, arguments.request, &view).map_err(refused)?;
    let (tally, casts) = question.tally(&view).map_err(refused)?;
    let policy = &question.policy;
    let voter = policy.voter_by_key(&public.thumbprint()).ok_or_else(|| {
        Failure::failed(format!(
            "your key `{}` is not among the voters of `{}`",
            public.thumbprint(),
            question.contract.name
        ))
        .help("`assent key show` tells a key's thumbprint; voters are in the policy")
    })?;
    check_turn(&question, &tally, voter)?;
    let change = follow::block_on(proposal::fetch(&client, &genesis, &question.vote_request.subject))?;
    present(&screen, &genesis, &question, &tally, &casts)?;
    change.iter().try_for_each(|change| change.present(&screen))?;
    screen.line("")?;
    screen.line(format!("you vote as {}", policy.voter(voter).name))?;
    let choice = decide(arguments)?;
    let signer = key.open(&unlock)?;
    if *signer.public_key() != public {
        return Err(Failure::does_not_verify(
            "the key that was opened is not the one whose public half was shown",
        ));
    }
    let ballot = sign_message(
        &*signer,
        Ballot {
            deployment: genesis.id(),
            request: question.vote_request.request,
            vote_request: question.vote_request.digest(),
            voter: policy.voter(voter).name.clone(),
            choice,
            reason: arguments.reason.clone(),
        },
    )?;
    follow::block_on(submit(&screen, &client, &genesis, &question, ballot))
}

async fn fetch(client: &Client, request: RequestId, wait: bool) -> Result<RequestView, Failure> {
    let view = match wait {
        true => follow::opened(client, request).await?,
        false => client.request(request, None).await?,
    };
    match view.summary.state {
        RequestState::Open => Ok(view),
        RequestState::Called => {
            Err(Failure::failed("the request is not open yet: its vote request is yet to be signed")
                .help("`--wait` waits for it"))
        }
        _ => Err(Failure::failed(format!("the request is over: {}", show::request_state(&view.summary)))),
    }
}

fn refused(distrust: Distrust) -> Failure {
    let newer = matches!(distrust, Distrust::Newer(_));
    let failure = Failure::does_not_verify(format!(
        "nothing was signed, because the request does not verify: {distrust}"
    ));
    if newer {
        failure.help("get the deployment's present genesis from the people who run it")
    } else {
        failure
    }
}

fn check_turn(question: &Question<'_>, tally: &Tally<'_>, voter: VoterIndex) -> Result<(), Failure> {
    let (now, deadline) = (moment::now(), question.vote_request.deadline);
    if now >= deadline {
        return Err(Failure::failed(format!("the deadline is past: {}", moment::relative(deadline, now))));
    }
    if let Some(choice) = tally.choice(voter) {
        return Err(Failure::failed(format!("you have voted on this request: {choice}")));
    }
    // A clock that is behind the node's must not keep anybody from voting: the log decides that.
    let at = now.max(question.vote_request.opened);
    tally
        .may_cast(voter, at)
        .map_err(|refusal| Failure::failed(format!("your vote would not be counted: {refusal}")))
}

fn present(
    screen: &Screen,
    genesis: &Genesis,
    question: &Question<'_>,
    tally: &Tally<'_>,
    casts: &[Cast],
) -> Result<(), Failure> {
    let (vote_request, now) = (&question.vote_request, moment::now());
    screen.line(format!("deployment  {}, environment: {}", genesis.name(), genesis.environment()))?;
    screen.line(format!("contract    {} asks, by policy {}", question.contract.name, vote_request.policy))?;
    screen.line(format!("request     {}", vote_request.request))?;
    screen.line(format!(
        "requester   {} ({}), process {}, case {}",
        question.requester.name, vote_request.requester, vote_request.process, vote_request.case
    ))?;
    screen.line(format!("step        {}, attempt {}", vote_request.step, vote_request.attempt))?;
    screen.line(format!("deadline    {}", moment::relative(vote_request.deadline, now)))?;
    screen.line("rule")?;
    show::rule(screen, &tally.explain(now.max(vote_request.opened)), 1)?;
    screen.line(if casts.is_empty() { "votes so far: none" } else { "votes so far" })?;
    for cast in casts {
        let reason =
            cast.ballot.reason.as_ref().map_or(String::new(), |reason| format!(": {}", quoted(reason)));
        let at = moment::utc(cast.at);
        screen.line(format!("  {} {} at {at}{reason}", cast.ballot.voter, cast.ballot.choice))?;
    }
    screen.line("")?;
    screen.line("what you are asked to approve")?;
    show::subject(screen, &vote_request.subject)?;
    show::key(screen, genesis, &vote_request.subject)
}

/// The choice, confirmed by the word.
fn decide(arguments: &Vote) -> Result<Choice, Failure> {
    if let (Some(choice), true) = (arguments.choice(), arguments.yes) {
        return Ok(choice);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask at")
            .help("give `--approve`, `--reject` or `--abstain`, and `--yes`"));
    }
    let words: Vec<_> = match arguments.choice() {
        Some(choice) => vec![choice],
        None => vec![Choice::Approve, Choice::Reject, Choice::Abstain],
    };
    let list: Vec<_> = words.iter().map(|choice| choice.as_str()).collect();
    let failed = |error: io::Error| Failure::failed(format!("cannot ask: {error}"));
    let mut err = io::stderr().lock();
    write!(err, "Type {} to sign that; anything else signs nothing: ", list.join(" or ")).map_err(failed)?;
    err.flush().map_err(failed)?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed).map_err(failed)?;
    words
        .into_iter()
        .find(|choice| choice.as_str() == typed.trim())
        .ok_or_else(|| Failure::failed("nothing was signed"))
}

async fn submit(
    screen: &Screen,
    client: &Client,
    genesis: &Genesis,
    question: &Question<'_>,
    ballot: Verified<Ballot>,
) -> Result<(), Failure> {
    let receipt = receipt::submit(client, genesis, &question.contract.chain, ballot.jws()).await?;
    screen.line(format!("{} is signed and recorded in block {}", ballot.choice, receipt.height))?;
    screen.result(&json!({
        "request": ballot.request,
        "voter": ballot.voter,
        "choice": ballot.choice,
        "ballot": ballot.digest(),
        "height": receipt.height,
        "receipt": receipt.jws(),
    }))
}
