//! Consensus contracts as the API shows them.

use std::sync::Arc;

use assent_consensus::contract::query;
use assent_consensus::encoding::Bytes;
use assent_consensus::name::Name;
use axum::Json;
use axum::extract::{Path, State};

use crate::api::ContractView;
use crate::node::bundle;

use super::problem::Problem;
use super::{Api, in_path};

/// `GET /v1/contracts/{contract}`
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path(contract): Path<String>,
) -> Result<Json<ContractView>, Problem> {
    let contract: Name = in_path(&contract, "contract")?;
    api.read(move |api| view(api, contract)).await.map(Json)
}

fn view(api: &Api, contract: Name) -> Result<ContractView, Problem> {
    let unknown =
        || Problem::not_found("unknown-contract", format!("this node keeps no contract `{contract}`"));
    let log = api.ledgers.of_contract(&contract).ok_or_else(unknown)?;
    let genesis = api.ledgers.genesis();
    let entry = genesis.contract(&contract).ok_or_else(unknown)?;
    let state = log.reader.snapshot()?;
    let last = query::policies(&state, &contract).pop();
    let digest = last.as_ref().map_or_else(|| entry.policy.digest(), |last| last.to);
    let policy = bundle::policy_document(genesis, &state, &contract, &digest);
    state.verified()?;
    // A snapshot holds a connection, and the lineage takes others.
    drop(state);
    let lineage = bundle::lineage_of_policy(&api.ledgers, &api.places, &contract)?;
    let policy = Bytes(policy.ok_or_else(Problem::fault)?);
    Ok(ContractView { contract, policy, effective: last.map(|last| last.says.effective), lineage })
}
