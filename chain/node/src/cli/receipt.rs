//! Submitting a message, and the receipt that a validator of the pinned genesis must have signed for it.

use assent_consensus::genesis::Genesis;
use assent_consensus::jws::{Jws, Signed, Verified};
use assent_consensus::message::Receipt;
use assent_consensus::name::Name;

use crate::api::Submitted;
use crate::client::Client;

use super::failure::Failure;

/// Has a message recorded in the log of `chain`, and verifies the receipt.
pub(super) async fn submit(
    client: &Client,
    genesis: &Genesis,
    chain: &Name,
    message: &Jws,
) -> Result<Verified<Receipt>, Failure> {
    let submitted = client.submit(chain, message.as_str().as_bytes().to_vec()).await?;
    verify(genesis, chain, message, submitted).map_err(|why| {
        Failure::does_not_verify(format!(
            "the message was sent, but the node's receipt does not verify: {why}"
        ))
        .help("do not rely on it being recorded; ask the people who run the node")
    })
}

fn verify(
    genesis: &Genesis,
    chain: &Name,
    message: &Jws,
    submitted: Submitted,
) -> Result<Verified<Receipt>, String> {
    let receipt = submitted.receipt.ok_or("there is none")?;
    let validators = &genesis.chain(chain).ok_or("its ledger is not in genesis")?.validators;
    let key = validators.key(receipt.kid()).ok_or("it is signed by no validator of genesis")?;
    let receipt = Signed::<Receipt>::from_jws(receipt).map_err(|error| error.to_string())?;
    let receipt = receipt.verify(key).map_err(|error| error.to_string())?;
    let fits = receipt.deployment == genesis.id()
        && receipt.chain == *chain
        && receipt.transaction == message.digest()
        && receipt.height.get() == submitted.height
        && receipt.index.get() == submitted.index;
    if fits { Ok(receipt) } else { Err("it is for something else".into()) }
}
