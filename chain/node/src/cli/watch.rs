//! `assent watch`: what happens, as it happens.

use std::time::Duration;

use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use assent_consensus::vote::Outcome;
use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;

use crate::api::{EventView, RequestState, RequestView};
use crate::client::Client;

use super::failure::Failure;
use super::screen::{Screen, quoted};
use super::settings::{Settings, SettingsArgs};
use super::{follow, moment, show};

/// How long one call waits for news.
const WAIT: Duration = Duration::from_secs(30);
/// Pages of events that may wait to be printed.
const PAGES: usize = 16;

#[derive(Args)]
pub(super) struct Watch {
    /// One request: follow it to its end [default: everything, without end]
    request: Option<RequestId>,
    /// Begin with what is in the log already
    #[arg(long, conflicts_with = "request")]
    from_start: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(arguments: &Watch) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let client = Settings::load(&arguments.settings)?.client()?;
    follow::block_on(async {
        match arguments.request {
            Some(request) => watch_request(&screen, &client, request).await,
            None => watch_all(&screen, &client, arguments.from_start).await,
        }
    })
}

async fn watch_request(screen: &Screen, client: &Client, request: RequestId) -> Result<(), Failure> {
    let view = follow::request(client, request, |view| {
        screen.result(view)?;
        show_request(screen, view)
    })
    .await?;
    match (view.summary.state, view.summary.outcome) {
        (RequestState::Decided, Some(Outcome::Approved)) => Ok(()),
        (RequestState::Decided, Some(outcome)) => {
            Err(Failure::not_approved(format!("the request is {outcome}")))
        }
        (RequestState::Cancelled, _) => Err(Failure::not_approved("the request is cancelled")),
        (RequestState::Refused, _) => {
            let why = view.refused.unwrap_or_default();
            Err(Failure::failed(format!("the contract does not decide this: {}", quoted(why))))
        }
        (state, _) => Err(Failure::failed(format!("the request is {}", state.as_str()))),
    }
}

fn show_request(screen: &Screen, view: &RequestView) -> Result<(), Failure> {
    screen.line(format!("{}  {}", moment::utc(moment::now()), show::request_state(&view.summary)))?;
    for ballot in &view.ballots {
        let reason = ballot.reason.as_ref().map_or(String::new(), |reason| format!(": {}", quoted(reason)));
        screen.line(format!("  {} {} at {}{reason}", ballot.voter, ballot.choice, moment::utc(ballot.at)))?;
    }
    view.duty.as_ref().map_or(Ok(()), |duty| show::duty(screen, duty))
}

async fn watch_all(screen: &Screen, client: &Client, from_start: bool) -> Result<(), Failure> {
    let health = client.health().await?;
    let (sender, mut pages) = mpsc::channel(PAGES);
    for ledger in health.ledgers {
        let (client, sender) = (client.clone(), sender.clone());
        let after = if from_start { 0 } else { ledger.height };
        tokio::spawn(async move { read_ledger(&client, &ledger.chain, after, &sender).await });
    }
    drop(sender);
    while let Some(page) = pages.recv().await {
        let (chain, events): (Name, Vec<EventView>) = page?;
        for event in events {
            screen.line(format!("{}  {}", moment::utc(event.time), describe(&event)))?;
            screen.result(
                &json!({ "chain": chain, "height": event.height, "time": event.time, "event": event.event }),
            )?;
        }
    }
    Err(Failure::failed("the node keeps no log that could be watched"))
}

type Page = Result<(Name, Vec<EventView>), Failure>;

async fn read_ledger(client: &Client, chain: &Name, mut after: u64, pages: &mpsc::Sender<Page>) {
    loop {
        let page = follow::patiently(|| client.events(chain, after, WAIT)).await;
        let failed = page.is_err();
        let page = page.map(|list| {
            after = list.height;
            (chain.clone(), list.events)
        });
        // Nobody listens any more, or there is nothing more to say.
        if pages.send(page).await.is_err() || failed {
            return;
        }
    }
}

/// An event in words.
fn describe(event: &EventView) -> String {
    let bytes = event.event.to_string();
    if let Ok(event) = serde_json::from_str::<ProcessEvent>(&bytes) {
        return describe_process(&event);
    }
    match serde_json::from_str::<ConsensusEvent>(&bytes) {
        Ok(event) => describe_consensus(&event),
        Err(_) => quoted(bytes),
    }
}

fn describe_process(event: &ProcessEvent) -> String {
    match event {
        ProcessEvent::CaseStarted { case, process, .. } => format!("case {case} of {process} begins"),
        ProcessEvent::Call(call) => {
            format!("case {} asks {}: {}", call.case, call.contract, show::subject_in_short(&call.subject))
        }
        ProcessEvent::ActionDue { case, subject, .. } => {
            format!("case {case} is approved, to be done: {}", show::subject_in_short(subject))
        }
        ProcessEvent::ResultRecorded { case, step, .. } => format!("case {case} has done {step}"),
        ProcessEvent::CaseEnded { case, outcome } => {
            format!("case {case} ends: {}", show::case_outcome(*outcome))
        }
        ProcessEvent::Changed { subject, .. } => format!("changed: {}", show::subject_in_short(subject)),
    }
}

fn describe_consensus(event: &ConsensusEvent) -> String {
    match event {
        ConsensusEvent::RequestCalled { request, .. } => format!("request {request} arrives"),
        ConsensusEvent::RequestRefused { request, why } => {
            format!("request {request} is refused: {}", quoted(why))
        }
        ConsensusEvent::VoteRequestDue { request } => {
            format!("request {request} waits for the contract's signature")
        }
        ConsensusEvent::RequestOpen { request, .. } => format!("request {request} is open for votes"),
        ConsensusEvent::BallotCounted { request, voter, .. } => {
            format!("request {request}: {voter} has voted")
        }
        ConsensusEvent::Conflict { request, voter, .. } => {
            format!("request {request}: {voter} has signed two ballots that differ, the first counts")
        }
        ConsensusEvent::DecisionDue { request, outcome, .. } => {
            format!("request {request} is {outcome}, yet to be signed")
        }
        ConsensusEvent::DecisionRecorded { request, outcome, .. } => {
            format!("request {request} is {outcome}, and signed")
        }
        ConsensusEvent::RequestVoid { request } => format!("request {request} ends without a decision"),
        ConsensusEvent::Changed { subject, .. } => format!("changed: {}", show::subject_in_short(subject)),
    }
}
