//! `assent case`: how far a case is.

use assent_consensus::jwk::Thumbprint;
use assent_consensus::name::Name;
use clap::Args;

use crate::client::Client;

use super::failure::Failure;
use super::screen::Screen;
use super::settings::{KeyArgs, Settings, SettingsArgs};
use super::{follow, show};

/// The most pages of cases that are looked through for one whose requester is not given.
const PAGE_LIMIT: usize = 100;

#[derive(Args)]
pub(super) struct Case {
    #[command(flatten)]
    place: CasePlace,
    /// Wait until it ends; exit 3 if that is without approval
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Which case.
#[derive(Args)]
pub(super) struct CasePlace {
    /// The case, as `assent propose` printed it
    pub(super) case: Name,
    /// Who started it, by his key's thumbprint [default: the owner of the key, or whoever has such a case]
    #[arg(long, allow_hyphen_values = true, value_name = "THUMBPRINT")]
    requester: Option<Thumbprint>,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(arguments: &Case) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let settings = Settings::load(&arguments.settings)?;
    let client = settings.client()?;
    let name = &arguments.place.case;
    follow::block_on(async {
        let requester = arguments.place.requester(&settings, &client).await?;
        if !arguments.wait {
            let view = client.case(requester, name, None).await?;
            show::case(&screen, &view)?;
            return screen.result(&view);
        }
        let (view, outcome) =
            follow::case(&client, requester, name, |view| show::case(&screen, view)).await?;
        screen.result(&view)?;
        follow::judge(name, outcome)
    })
}

impl CasePlace {
    /// Who started the case.
    pub(super) async fn requester(
        &self,
        settings: &Settings,
        client: &Client,
    ) -> Result<Thumbprint, Failure> {
        if let Some(requester) = self.requester {
            return Ok(requester);
        }
        let mut found: Vec<Thumbprint> = Vec::new();
        let mut after = None;
        for _ in 0..PAGE_LIMIT {
            let page = client.cases(after.as_deref(), None).await?;
            let same = page.cases.into_iter().filter(|case| case.case == self.case);
            found.extend(same.map(|case| case.requester));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        match found[..] {
            [requester] => Ok(requester),
            [] if after.is_none() => Err(Failure::failed(format!("there is no case `{}`", self.case))),
            _ if settings.names_key(&self.key) => {
                let key = settings.key(&self.key)?.public_key(&settings.unlock(&self.key))?;
                Ok(key.thumbprint())
            }
            [] => Err(Failure::usage(format!("too many cases to look for `{}`", self.case))
                .help("give `--requester THUMBPRINT`")),
            _ => Err(Failure::usage(format!("several requesters have a case `{}`", self.case))
                .help("give `--requester THUMBPRINT`")),
        }
    }
}
