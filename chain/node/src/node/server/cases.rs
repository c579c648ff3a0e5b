//! Cases as the API shows them.

use std::sync::Arc;

use assent_consensus::contract::query::{self, CaseRecord, Filter};
use assent_consensus::contract::record::{Answer, CaseStage};
use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::name::Name;
use assent_consensus::process::{Process, StepAction};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::api::{
    CaseList, CaseRequest, CaseResult, CaseState, CaseSummary, CaseView, DutyKind, DutyView, PAGE_DEFAULT,
    PAGE_LIMIT, RequestState, RequestSummary,
};

use super::problem::Problem;
use super::requests::{self, Place};
use super::waiting::{self, Since};
use super::{Api, in_path};

/// The query of a list of cases.
#[derive(Deserialize)]
pub(super) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/cases`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<CaseList>, Problem> {
    let Query(ListQuery { after, limit }) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let after = after.as_deref().map(str::parse::<Place>).transpose()?;
    let limit = limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_LIMIT);
    api.read(move |api| page(api, after, limit)).await.map(Json)
}

/// `GET /v1/cases/{requester}/{case}`
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path((requester, case)): Path<(String, String)>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Json<CaseView>, Problem> {
    let Query(since) = since.map_err(|error| Problem::bad_request(error.body_text()))?;
    let requester: Thumbprint = in_path(&requester, "requester")?;
    let case: Name = in_path(&case, "case")?;
    let look = move |api: &Api| view(api, requester, &case);
    waiting::for_news(&api, since, look, |view| &view.revision).await.map(Json)
}

fn page(api: &Api, after: Option<Place>, limit: usize) -> Result<CaseList, Problem> {
    let mut cases = Vec::new();
    for log in api.ledgers.process_logs() {
        let chain = &log.chain.id;
        let number = match &after {
            Some(place) if place.chain > *chain => continue,
            Some(place) if place.chain == *chain => place.number,
            _ => 0,
        };
        let state = log.reader.snapshot()?;
        let records = query::cases(&state, Filter::All, number, limit - cases.len());
        state.verified()?;
        let last = records.last().map(|record| record.status.number);
        cases.extend(records.iter().map(summary));
        if let Some(number) = last
            && cases.len() == limit
        {
            let next = Place { chain: chain.clone(), number };
            return Ok(CaseList { cases, next: Some(next.to_string()) });
        }
    }
    Ok(CaseList { cases, next: None })
}

fn view(api: &Api, requester: Thumbprint, case: &Name) -> Result<CaseView, Problem> {
    for log in api.ledgers.process_logs() {
        let state = log.reader.snapshot()?;
        let record = query::case(&state, requester, case);
        state.verified()?;
        if let Some(record) = record {
            return view_of(api, record);
        }
    }
    Err(Problem::not_found("unknown-case", format!("this requester has no case `{case}`")))
}

fn view_of(api: &Api, record: CaseRecord) -> Result<CaseView, Problem> {
    let process = api.ledgers.genesis().process(&record.status.process);
    let mut asked: Vec<CaseRequest> = Vec::new();
    let mut results = Vec::new();
    let mut newest: Option<RequestSummary> = None;
    for request in &record.requests {
        let on_log = match api.ledgers.of_contract(&request.asked.contract) {
            Some(log) => requests::find(log, request.request)?,
            None => None,
        };
        let outcome = match (&on_log, &request.asked.answer) {
            (_, Some(Answer::Decided { outcome, .. })) => Some(*outcome),
            (Some(summary), _) => summary.outcome,
            (None, _) => None,
        };
        asked.push(CaseRequest {
            step: request.asked.step.clone(),
            attempt: request.asked.attempt.get(),
            request: request.request,
            state: on_log
                .as_ref()
                .map_or_else(|| answered(request.asked.answer.as_ref()), |summary| Some(summary.state)),
            outcome,
        });
        if let Some(result) = &request.result {
            // The action's step is the one of the process that does what this step approved.
            let step = process.and_then(|process| acting_step(&process.definition, &request.asked.step));
            results.push(CaseResult {
                step: step.unwrap_or(&request.asked.step).clone(),
                request: request.request,
                output: result.output.clone(),
            });
        }
        newest = on_log;
    }
    let summary = summary(&record);
    let mut view = CaseView {
        revision: String::new(),
        duty: duty(api, &summary.state, newest.as_ref()),
        summary,
        definition: record.status.definition,
        start: record.start,
        requests: asked,
        results,
    };
    let changing = (&view.summary, &view.requests, view.results.len(), requests::said_of(view.duty.as_ref()));
    view.revision = Digest::of(&json::write(&changing)).to_string();
    Ok(view)
}

/// What a case waits for from the KMS.
fn duty(api: &Api, state: &CaseState, newest: Option<&RequestSummary>) -> Option<DutyView> {
    match state {
        CaseState::Asking { .. } => requests::duty(api, newest?),
        CaseState::Acting { request, .. } => Some(requests::duty_view(api, DutyKind::Action, *request)),
        CaseState::Ended { .. } => None,
    }
}

/// How far a request is by what its case knows.
fn answered(answer: Option<&Answer>) -> Option<RequestState> {
    Some(match answer? {
        Answer::Decided { .. } => RequestState::Decided,
        Answer::Refused { .. } => RequestState::Refused,
        Answer::Void => RequestState::Void,
    })
}

fn acting_step<'p>(process: &'p Process, approved: &Name) -> Option<&'p Name> {
    let acts = |action: &StepAction| matches!(action, StepAction::Act { approval } if approval == approved);
    process.steps().iter().find(|step| acts(&step.action)).map(|step| &step.name)
}

fn summary(record: &CaseRecord) -> CaseSummary {
    let state = match record.status.stage.clone() {
        CaseStage::Asking { step, attempt, request } => {
            CaseState::Asking { step, attempt: attempt.get(), request }
        }
        CaseStage::Acting { step, request, .. } => CaseState::Acting { step, request },
        CaseStage::Ended { outcome, .. } => CaseState::Ended { outcome },
    };
    CaseSummary {
        requester: record.requester,
        case: record.case.clone(),
        process: record.status.process.clone(),
        state,
    }
}
