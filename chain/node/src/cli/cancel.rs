//! `assent cancel`: takes a case of one's own back.

use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::Genesis;
use assent_consensus::message::Cancel as CancelMessage;
use assent_consensus::name::Name;
use clap::Args;
use serde_json::json;

use crate::client::Client;
use crate::voter::key_file::random;
use crate::voter::{Signer, sign_message};

use super::failure::Failure;
use super::screen::Screen;
use super::settings::{KeyArgs, Settings, SettingsArgs};
use super::{follow, receipt};

/// Bytes of randomness in a cancellation.
const NONCE_BYTES: usize = 16;

#[derive(Args)]
pub(super) struct Cancel {
    /// The case, which you started
    case: Name,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(arguments: &Cancel) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings)?;
    let (genesis, client) = (settings.genesis()?, settings.client()?);
    let signer = settings.signer(&arguments.key)?;
    follow::block_on(cancel(arguments, &genesis, &client, &*signer))
}

async fn cancel(
    arguments: &Cancel,
    genesis: &Genesis,
    client: &Client,
    signer: &dyn Signer,
) -> Result<(), Failure> {
    let screen = Screen::new(arguments.settings.json);
    let view = client.case(signer.public_key().thumbprint(), &arguments.case, None).await?;
    let process = genesis.process(&view.summary.process).ok_or_else(|| {
        Failure::does_not_verify(format!("genesis has no process `{}`", view.summary.process))
    })?;
    let mut nonce = vec![0; NONCE_BYTES];
    random(&mut nonce)?;
    let message = CancelMessage {
        deployment: genesis.id(),
        chain: process.chain.clone(),
        case: arguments.case.clone(),
        nonce: Bytes(nonce),
    };
    let message = sign_message(signer, message)?;
    let receipt = receipt::submit(client, genesis, &process.chain, message.jws()).await?;
    screen.line(format!(
        "case {} is taken back, unless it was decided before: `assent case` tells",
        arguments.case
    ))?;
    screen.result(&json!({ "case": arguments.case, "height": receipt.height, "receipt": receipt.jws() }))
}
