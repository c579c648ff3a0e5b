//! Requests as the API shows them.

use std::sync::Arc;

use assent_consensus::bundle::Lineage;
use assent_consensus::contract::query::{self, Filter, RequestRecord};
use assent_consensus::contract::record;
use assent_consensus::digest::Digest;
use assent_consensus::duty::Refusal;
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::ContractEntry;
use assent_consensus::json;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::Signed;
use assent_consensus::message::{Ballot, CountedMessage, RequestId};
use assent_consensus::name::Name;
use assent_consensus::policy::{Policy, Tally};
use assent_consensus::time::UnixMillis;
use assent_ledger::Snapshot;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;

use crate::api::{
    BUNDLE_TYPE, BallotView, DutyKind, DutyView, PAGE_DEFAULT, PAGE_LIMIT, RequestList, RequestState,
    RequestSummary, RequestView,
};
use crate::node::ledgers::Log;
use crate::node::{bundle, now};

use super::problem::Problem;
use super::waiting::{self, Since};
use super::{Api, in_path};

/// How many requests one call looks through for those that fit.
const LOOKED_THROUGH: usize = 1_000;

/// The query of a list of requests.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    state: Option<RequestState>,
    voter: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/requests`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<RequestList>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let voter = query.voter.as_deref().map(str::parse::<Thumbprint>).transpose();
    let voter = voter.map_err(|error| Problem::bad_request(format!("`voter`: {error}")))?;
    let after = query.after.as_deref().map(str::parse::<Place>).transpose()?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_LIMIT);
    api.read(move |api| {
        let fits = |state: &Snapshot, record: &RequestRecord| {
            query.state.is_none_or(|wanted| wanted == state_of(record))
                && voter.is_none_or(|voter| waits_for(api, state, record, voter))
        };
        let live = voter.is_some() || query.state.is_some_and(|state| !state.is_final());
        page(api, if live { Filter::Live } else { Filter::All }, after, limit, fits)
    })
    .await
    .map(Json)
}

/// `GET /v1/requests/{request}`
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path(request): Path<String>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Json<RequestView>, Problem> {
    let Query(since) = since.map_err(|error| Problem::bad_request(error.body_text()))?;
    let request: RequestId = in_path(&request, "request")?;
    waiting::for_news(&api, since, move |api| view(api, request), |view| &view.revision).await.map(Json)
}

/// `GET /v1/requests/{request}/bundle`
pub(super) async fn bundle(
    State(api): State<Arc<Api>>,
    Path(request): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let request: RequestId = in_path(&request, "request")?;
    let bytes =
        api.read(move |api| Ok(json::write(&bundle::build(&api.ledgers, &api.places, request, true)?)));
    Ok(([(header::CONTENT_TYPE, BUNDLE_TYPE)], bytes.await?))
}

/// Where a page ends: in which log, and after which of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chain: Name,
    pub(super) number: u64,
}

impl std::str::FromStr for Place {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Place, Problem> {
        let place = || {
            let (chain, number) = text.split_once(':')?;
            Some(Place { chain: chain.parse().ok()?, number: number.parse().ok()? })
        };
        place().ok_or_else(|| Problem::bad_request("`after` is not what an earlier page gave as `next`"))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.chain, self.number)
    }
}

fn page(
    api: &Api,
    filter: Filter,
    after: Option<Place>,
    limit: usize,
    fits: impl Fn(&Snapshot, &RequestRecord) -> bool,
) -> Result<RequestList, Problem> {
    let mut requests = Vec::new();
    let mut looked_through = 0;
    for log in api.ledgers.consensus_logs() {
        let chain = &log.chain.id;
        let mut number = match &after {
            Some(place) if place.chain > *chain => continue,
            Some(place) if place.chain == *chain => place.number,
            _ => 0,
        };
        let state = log.reader.snapshot()?;
        loop {
            let records = query::requests(&state, filter, number, limit);
            state.verified()?;
            if records.is_empty() {
                break;
            }
            for record in records {
                number = record.status.number;
                looked_through += 1;
                if fits(&state, &record) {
                    requests.push(summary(&record));
                }
                if requests.len() == limit || looked_through == LOOKED_THROUGH {
                    state.verified()?;
                    let next = Place { chain: chain.clone(), number };
                    return Ok(RequestList { requests, next: Some(next.to_string()) });
                }
            }
        }
        state.verified()?;
    }
    Ok(RequestList { requests, next: None })
}

/// Whether this key may vote on a request now, and has not.
fn waits_for(api: &Api, state: &Snapshot, record: &RequestRecord, voter: Thumbprint) -> bool {
    let (record::RequestState::Open, Some(opened)) = (&record.status.state, &record.opened) else {
        return false;
    };
    let Some(policy) = policy(api, state, record) else { return false };
    let Some(voter) = policy.voter_by_key(&voter) else { return false };
    let tally = tally(&policy, opened, &query::ballots(state, record.request));
    tally.may_cast(voter, now().max(opened.opened)).is_ok()
}

fn view(api: &Api, request: RequestId) -> Result<RequestView, Problem> {
    for log in api.ledgers.consensus_logs() {
        let state = log.reader.snapshot()?;
        let record = query::request(&state, request);
        state.verified()?;
        if let Some(record) = record {
            let opened = record.opened.clone();
            let mut view = view_of(api, &state, record)?;
            // A snapshot holds a connection, and the lineage takes others.
            drop(state);
            view.lineage = lineage(api, opened)?;
            return Ok(view);
        }
    }
    Err(Problem::not_found("unknown-request", format!("there is no request `{request}`")))
}

/// How the key and the policy that opened a request came to be, unless they are those of genesis.
fn lineage(api: &Api, opened: Option<record::Opened>) -> Result<Option<Lineage>, Problem> {
    let is_of_genesis = |opened: &record::Opened| {
        let contract = api.ledgers.genesis().contract(&opened.contract);
        let policy = contract.map(|contract| contract.policy.digest());
        opened.key_version.is_first() && policy == Some(opened.policy)
    };
    match opened.filter(|opened| !is_of_genesis(opened)) {
        None => Ok(None),
        Some(opened) => Ok(Some(bundle::lineage(&api.ledgers, &api.places, &opened)?)),
    }
}

fn view_of(api: &Api, state: &Snapshot, record: RequestRecord) -> Result<RequestView, Problem> {
    let counted = query::ballots(state, record.request);
    state.verified()?;
    let summary = summary(&record);
    let policy = policy(api, state, &record);
    state.verified()?;
    let explain = policy.as_ref().zip(record.opened.as_ref()).and_then(|(policy, opened)| {
        let moment = summary.decided.unwrap_or_else(|| now().max(opened.opened));
        serde_json::to_value(tally(policy, opened, &counted).explain(moment)).ok()
    });
    let definition = api
        .ledgers
        .genesis()
        .process(&record.call.process)
        .filter(|process| process.definition.digest() == record.call.definition);
    let start = match api.ledgers.log(&record.calling_chain) {
        None => None,
        Some(log) => {
            let state = log.reader.snapshot()?;
            let case = query::case(&state, record.call.requester, &record.call.case);
            state.verified()?;
            case.map(|case| case.start)
        }
    };
    let refused = match &record.status.state {
        record::RequestState::Refused { why } => Some(why.to_string()),
        _ => None,
    };
    let mut view = RequestView {
        revision: String::new(),
        duty: duty(api, &summary),
        summary,
        policy: policy.map(|policy| Bytes(policy.document().to_vec())),
        definition: definition.map(|process| Bytes(process.definition.document().to_vec())),
        start,
        vote_request: record.vote_request,
        lineage: None,
        ballots: counted.into_iter().filter_map(ballot_view).collect(),
        decision: record.decision,
        explain,
        refused,
    };
    view.revision = revision_of(&view);
    Ok(view)
}

/// The digest of all that can change.
fn revision_of(view: &RequestView) -> String {
    let ballots: Vec<Digest> = view.ballots.iter().map(|ballot| ballot.jws.digest()).collect();
    let duty = said_of(view.duty.as_ref());
    let changing = (&view.summary, ballots, view.decision.is_some(), &view.explain, &view.refused, duty);
    Digest::of(&json::write(&changing)).to_string()
}

/// What a request waits for from the KMS.
pub(super) fn duty(api: &Api, request: &RequestSummary) -> Option<DutyView> {
    let kind = match request.state {
        RequestState::Called => DutyKind::VoteRequest,
        RequestState::Fixed => DutyKind::Decision,
        _ => return None,
    };
    Some(duty_view(api, kind, request.request))
}

pub(super) fn duty_view(api: &Api, duty: DutyKind, request: RequestId) -> DutyView {
    DutyView { duty, request, last: api.book.last((duty, request)) }
}

/// What a duty waits for, whenever and however often it was tried: that it is tried again is no news.
pub(super) fn said_of(duty: Option<&DutyView>) -> Option<(DutyKind, Option<(bool, &Refusal)>)> {
    duty.map(|duty| (duty.duty, duty.last.as_ref().map(|last| (last.needs_person, &last.refusal))))
}

/// A request on a log, in short.
pub(super) fn find(log: &Log, request: RequestId) -> Result<Option<RequestSummary>, Problem> {
    let state = log.reader.snapshot()?;
    let record = query::request(&state, request);
    state.verified()?;
    Ok(record.as_ref().map(summary))
}

/// The policy that counts or, before there is a vote request, the one in force.
fn policy(api: &Api, state: &Snapshot, record: &RequestRecord) -> Option<Arc<Policy>> {
    let ContractEntry { name, policy: of_genesis, .. } =
        api.ledgers.genesis().contract(&record.call.contract)?;
    let digest = match &record.opened {
        Some(opened) => opened.policy,
        None => {
            let adopted = query::policies(state, name);
            let in_force = adopted.iter().rfind(|adopted| adopted.says.effective <= now());
            in_force.map_or_else(|| of_genesis.digest(), |adopted| adopted.to)
        }
    };
    if of_genesis.digest() == digest {
        return Some(of_genesis.clone());
    }
    api.policies.read(&digest, || query::policy_document(state, name, &digest))
}

fn tally<'p>(policy: &'p Policy, opened: &record::Opened, counted: &[CountedMessage]) -> Tally<'p> {
    let mut tally = Tally::new(policy, Some(&opened.requester), opened.opened);
    for counted in counted {
        let ballot = Signed::<Ballot>::from_jws(counted.jws.clone());
        if let (Some(voter), Ok(ballot)) = (policy.voter_by_key(&counted.jws.kid()), ballot) {
            tally.recount(voter, ballot.unverified().choice, counted.at);
        }
    }
    tally
}

fn ballot_view(counted: CountedMessage) -> Option<BallotView> {
    let ballot = Signed::<Ballot>::from_jws(counted.jws.clone()).ok()?;
    let Ballot { voter, choice, reason, .. } = ballot.unverified().clone();
    let reason = reason.map(|reason| reason.to_string());
    Some(BallotView { at: counted.at, voter, choice, reason, jws: counted.jws })
}

fn state_of(record: &RequestRecord) -> RequestState {
    match record.status.state {
        record::RequestState::Called => RequestState::Called,
        record::RequestState::Open => RequestState::Open,
        record::RequestState::Fixed { .. } => RequestState::Fixed,
        record::RequestState::Decided { .. } => RequestState::Decided,
        record::RequestState::Refused { .. } => RequestState::Refused,
        record::RequestState::Cancelled => RequestState::Cancelled,
        record::RequestState::Void => RequestState::Void,
    }
}

fn summary(record: &RequestRecord) -> RequestSummary {
    let call = &record.call;
    let (outcome, decided): (_, Option<UnixMillis>) = match record.status.state {
        record::RequestState::Fixed { outcome, decided, .. }
        | record::RequestState::Decided { outcome, decided, .. } => (Some(outcome), Some(decided)),
        _ => (None, None),
    };
    RequestSummary {
        request: record.request,
        state: state_of(record),
        contract: call.contract.clone(),
        process: call.process.clone(),
        case: call.case.clone(),
        step: call.step.clone(),
        attempt: call.attempt.get(),
        requester: call.requester,
        subject: call.subject.clone(),
        opened: record.opened.as_ref().map(|opened| opened.opened),
        deadline: record.opened.as_ref().map(|opened| opened.deadline),
        outcome,
        decided,
    }
}
