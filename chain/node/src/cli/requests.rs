//! `assent requests`: what waits for votes.

use clap::Args;

use crate::api::{RequestState, RequestSummary};
use crate::client::{Client, RequestFilter};

use super::failure::Failure;
use super::screen::Screen;
use super::settings::{KeyArgs, Settings, SettingsArgs};
use super::{follow, show};

/// The most requests that are listed.
const LIST_LIMIT: usize = 10_000;

#[derive(Args)]
pub(super) struct Requests {
    /// Only those that wait for your vote
    #[arg(long)]
    mine: bool,
    /// Also those that are not open for votes: yet to open, decided, refused, cancelled, void
    #[arg(long, conflicts_with = "mine")]
    all: bool,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(arguments: &Requests) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let client = settings.client()?;
    let voter = match arguments.mine {
        true => {
            Some(settings.key(&arguments.key)?.public_key(&settings.unlock(&arguments.key))?.thumbprint())
        }
        false => None,
    };
    let filter = RequestFilter {
        state: (!arguments.all).then_some(RequestState::Open),
        voter,
        ..RequestFilter::default()
    };
    let requests = follow::block_on(list(&client, filter))?;
    for request in &requests {
        show::request_entry(&screen, request)?;
    }
    if requests.is_empty() {
        screen.line(if arguments.mine { "nothing waits for your vote" } else { "no requests" })?;
    }
    screen.result(&requests)
}

async fn list(client: &Client, mut filter: RequestFilter) -> Result<Vec<RequestSummary>, Failure> {
    let mut requests = Vec::new();
    loop {
        let page = client.requests(&filter).await?;
        requests.extend(page.requests);
        // What a node sends without end is cut.
        if page.next.is_none() || requests.len() >= LIST_LIMIT {
            requests.truncate(LIST_LIMIT);
            return Ok(requests);
        }
        filter.after = page.next;
    }
}
