//! How the node is, what waits for the KMS, and what happens.

use std::sync::Arc;

use assent_consensus::contract::query;
use assent_consensus::digest::Digest;
use assent_consensus::time::UnixMillis;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;

use crate::api::{DutyKind, DutyList, DutyView, EventList, EventView, Health, LedgerHealth, PAGE_LIMIT};
use crate::node::ledgers::Log;

use super::problem::Problem;
use super::requests::duty_view;
use super::{Api, in_path, waiting};

/// How many duties are counted; more are as good as endless.
const COUNTED_DUTIES: u64 = 100_000;
/// How many events one call gives; a block's events stay together.
const EVENTS: usize = 1_000;
/// How many blocks one call looks through.
const BLOCKS: u64 = 1_000;

/// `GET /v1/genesis`
pub(super) async fn genesis(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], api.ledgers.genesis().bytes().to_vec())
}

/// `GET /v1/health`
pub(super) async fn health(State(api): State<Arc<Api>>) -> Result<Json<Health>, Problem> {
    api.read(|api| {
        let genesis = api.ledgers.genesis();
        let mut ledgers = Vec::new();
        let mut duties_pending = 0;
        for log in api.ledgers.logs() {
            let tip = log.reader.tip()?.map(|(header, _)| header);
            ledgers.push(LedgerHealth {
                chain: log.chain.id.clone(),
                records: log.kind,
                height: tip.as_ref().map_or(0, |tip| tip.header().height.get()),
                block: tip.as_ref().map(|tip| tip.id()),
                time: tip.as_ref().map(|tip| tip.header().time),
            });
            duties_pending += count_duties(log)?;
        }
        Ok(Health {
            deployment: genesis.id(),
            environment: genesis.environment().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            ledgers,
            kms: api.book.kms(),
            duties_pending,
            duties_needing_a_person: api.book.needing_a_person(),
        })
    })
    .await
    .map(Json)
}

fn count_duties(log: &Log) -> Result<u64, Problem> {
    let state = log.reader.snapshot()?;
    let (mut count, mut after) = (0, None);
    while count < COUNTED_DUTIES {
        let page = query::pending_duties(&state, after, query::PAGE_LIMIT);
        let Some(last) = page.last() else { break };
        after = Some((last.height, last.request));
        count += page.len() as u64;
    }
    state.verified()?;
    Ok(count)
}

/// `GET /v1/duties`
pub(super) async fn duties(State(api): State<Arc<Api>>) -> Result<Json<DutyList>, Problem> {
    api.read(|api| {
        let mut duties: Vec<DutyView> = Vec::new();
        for (kind, request) in api.book.refused_duties().into_iter().take(PAGE_LIMIT) {
            duties.push(duty_view(api, kind, request));
        }
        let refused: std::collections::HashSet<_> =
            duties.iter().map(|duty| (duty.duty, duty.request)).collect();
        for log in api.ledgers.logs() {
            let state = log.reader.snapshot()?;
            for duty in query::pending_duties(&state, None, PAGE_LIMIT) {
                let key = (DutyKind::from(duty.kind), duty.request);
                if duties.len() < PAGE_LIMIT && !refused.contains(&key) {
                    duties.push(duty_view(api, key.0, key.1));
                }
            }
            state.verified()?;
        }
        Ok(DutyList { duties })
    })
    .await
    .map(Json)
}

/// `GET /v1/attachments/{digest}`
pub(super) async fn attachment(
    State(api): State<Arc<Api>>,
    Path(digest): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let digest: Digest = in_path(&digest, "digest")?;
    let bytes = api.read(move |api| {
        for log in api.ledgers.process_logs() {
            let state = log.reader.snapshot()?;
            let height = query::attachment(&state, &digest);
            state.verified()?;
            if height.is_some()
                && let Some((bytes, ..)) = log.reader.transaction(digest)?
            {
                return Ok(bytes);
            }
        }
        Err(Problem::not_found("unknown-attachment", format!("there is no attachment `{digest}`")))
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes.await?))
}

/// The query of a call for events.
#[derive(Deserialize)]
pub(super) struct EventsQuery {
    chain: String,
    after: Option<u64>,
    wait: Option<u64>,
}

/// `GET /v1/events`
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<EventList>, Problem> {
    let Query(EventsQuery { chain, after, wait }) =
        query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let after = after.unwrap_or(0);
    let deadline = waiting::until(wait);
    let (mut tip, mut stop) = (api.log(&chain)?.tip(), api.stop.clone());
    tokio::select! {
        _ = tip.wait_for(|tip| *tip > after) => {}
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep_until(deadline) => {}
    }
    api.read(move |api| page(api.log(&chain)?, after)).await.map(Json)
}

fn page(log: &Log, after: u64) -> Result<EventList, Problem> {
    let tip = log.reader.tip()?.map_or(0, |(header, _)| header.header().height.get());
    let mut events = Vec::new();
    let mut height = after;
    while height < tip && height < after.saturating_add(BLOCKS) && events.len() < EVENTS {
        height += 1;
        let time = log.reader.header(height)?.map_or(UnixMillis::new(0), |header| header.header().time);
        for (index, event) in (0..).zip(log.reader.events(height)?) {
            let event = serde_json::from_slice(&event.0).map_err(|error| {
                tracing::error!(%error, height, index, "an event cannot be read");
                Problem::fault()
            })?;
            events.push(EventView { height, time, index, event });
        }
    }
    Ok(EventList { events, height })
}
