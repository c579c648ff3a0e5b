//! What people do in a deployment: start cases, vote, wait, and keep the receipts that they get.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use assent::api::{CaseState, CaseView, RequestState, RequestView, Submitted};
use assent::client::{Client, ClientError, Since};
use assent::voter::key_file::KeyFile;
use assent::voter::{Signer as _, sign_message};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::CaseOutcome;
use assent_consensus::genesis::Genesis;
use assent_consensus::json::{Integer, Members, Value};
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::Jws;
use assent_consensus::message::{Ballot, Cancel, RequestId, Start};
use assent_consensus::name::Name;
use assent_consensus::vote::Choice;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one call waits for news.
const WAIT: Duration = Duration::from_secs(5);
/// How long to wait before a node that is not there is called again.
const PAUSE: Duration = Duration::from_millis(10);

/// The people of a deployment, with their keys, and the way to its node.
pub struct Desk {
    genesis: Genesis,
    client: Client,
    signers: BTreeMap<String, KeyFile>,
}

/// A case that was started.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: Name,
    /// Who started it.
    pub requester: Thumbprint,
    /// The request of its first step.
    pub request: RequestId,
}

/// A transaction that was acknowledged, and where it was said to be.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Which ledger.
    pub chain: Name,
    /// What the node said.
    pub submitted: Submitted,
}

impl Desk {
    pub(super) fn new(genesis: Genesis, client: Client, signers: BTreeMap<String, KeyFile>) -> Desk {
        Desk { genesis, client, signers }
    }

    /// The deployment's genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The way to the node.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A person's key.
    ///
    /// # Panics
    /// If nobody of that name has a key file.
    pub fn signer(&self, person: &str) -> &KeyFile {
        &self.signers[person]
    }

    /// The message that starts a case over `content`, and the case.
    ///
    /// # Errors
    /// There is no such process.
    pub fn start_message(
        &self,
        process: &str,
        person: &str,
        case: &str,
        content: &[u8],
    ) -> Result<(Jws, Case)> {
        let mut input = Members::default();
        input.push("artifact", Value::String(Digest::of(content).to_string()));
        input.push("name", Value::String(format!("{case}.bin")));
        input.push("size", Value::Number(i64::try_from(content.len())?));
        self.start_with(process, person, case, input)
    }

    fn start_with(&self, process: &str, person: &str, case: &str, input: Members) -> Result<(Jws, Case)> {
        let signer = self.signer(person);
        let process = self.genesis.process(&name(process)).context("there is such a process")?;
        let start = Start {
            deployment: self.genesis.id(),
            chain: process.chain.clone(),
            process: process.name.clone(),
            definition: process.definition.digest(),
            case: name(case),
            nonce: Bytes(case.as_bytes().to_vec()),
            input,
        };
        let requester = signer.public_key().thumbprint();
        let step = name("approval");
        let request = RequestId::derive(&start, self.genesis.id(), requester, &step, Integer::saturating(1));
        let start = sign_message(signer, start)?;
        Ok((start.jws().clone(), Case { name: name(case), requester, request }))
    }

    /// Starts a case over `content`.
    ///
    /// # Errors
    /// The node refuses it, or is not there for too long.
    pub async fn start_case(
        &self,
        process: &str,
        person: &str,
        case: &str,
        content: &[u8],
    ) -> Result<(Case, Option<Receipt>)> {
        let (start, case) = self.start_message(process, person, case, content)?;
        let chain = self.genesis.processes()[0].chain.clone();
        Ok((case, self.submit(&chain, &start).await?))
    }

    /// Starts a case that asks for another policy of a contract; `change` makes it of the last one.
    ///
    /// # Errors
    /// The node refuses it, or is not there for too long.
    pub async fn propose_policy(
        &self,
        process: &str,
        contract: &str,
        case: &str,
        change: impl FnOnce(String) -> String,
    ) -> Result<Case> {
        let contract = name(contract);
        let begun = Instant::now();
        let last = loop {
            match self.client.contract(&contract).await {
                Ok(view) => break view.policy.0,
                Err(error) if is_away(&error) && begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(error) => return Err(error.into()),
            }
        };
        let next = change(String::from_utf8(last.clone())?);
        let chain = self.genesis.processes()[0].chain.clone();
        self.record(&chain, next.as_bytes()).await?;
        let mut input = Members::default();
        input.push("from", Value::String(Digest::of(&last).to_string()));
        input.push("to", Value::String(Digest::of(next.as_bytes()).to_string()));
        let (start, case) = self.start_with(process, "ci", case, input)?;
        self.submit(&chain, &start).await?;
        Ok(case)
    }

    /// Takes a case back.
    ///
    /// # Errors
    /// The node refuses it, or is not there for too long.
    pub async fn cancel(&self, person: &str, case: &Case) -> Result<Option<Receipt>> {
        let chain = self.genesis.processes()[0].chain.clone();
        let cancel = Cancel {
            deployment: self.genesis.id(),
            chain: chain.clone(),
            case: case.name.clone(),
            nonce: Bytes(b"cancel".to_vec()),
        };
        self.submit(&chain, sign_message(self.signer(person), cancel)?.jws()).await
    }

    /// Waits until a request is as `wanted`.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn request_until(
        &self,
        request: RequestId,
        wanted: impl Fn(&RequestView) -> bool,
    ) -> Result<RequestView> {
        self.until(
            |since| async move { self.client.request(request, since.as_ref()).await },
            wanted,
            |view| &view.revision,
        )
        .await
    }

    /// Waits until a request can be voted on.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn open_request(&self, case: &Case) -> Result<RequestView> {
        self.request_until(case.request, |view| view.summary.state != RequestState::Called).await
    }

    /// The case with the request that it makes after this one; nothing if it ends without.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn next_request(&self, case: &Case) -> Result<Option<Case>> {
        let next = |view: &CaseView| {
            let mut later = view.requests.iter().skip_while(|asked| asked.request != case.request);
            later.nth(1).map(|asked| asked.request)
        };
        let ended = |view: &CaseView| matches!(view.summary.state, CaseState::Ended { .. });
        let view = self.case_until(case, |view| ended(view) || next(view).is_some()).await?;
        Ok(next(&view).map(|request| Case { request, ..case.clone() }))
    }

    /// Waits until a case is as `wanted`.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn case_until(&self, case: &Case, wanted: impl Fn(&CaseView) -> bool) -> Result<CaseView> {
        let fetch = |since: Option<Since>| async move {
            self.client.case(case.requester, &case.name, since.as_ref()).await
        };
        self.until(fetch, wanted, |view| &view.revision).await
    }

    /// Waits until a case has ended.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn end(&self, case: &Case) -> Result<(CaseView, CaseOutcome)> {
        let ended = |view: &CaseView| matches!(view.summary.state, CaseState::Ended { .. });
        let view = self.case_until(case, ended).await?;
        match view.summary.state {
            CaseState::Ended { outcome } => Ok((view, outcome)),
            _ => bail!("the case has not ended"),
        }
    }

    /// Has a case approved by `voters`, and waits until it is done.
    ///
    /// # Errors
    /// It ends otherwise, or takes too long.
    pub async fn finish(&self, case: &Case, voters: &[&str]) -> Result<()> {
        let view = self.open_request(case).await?;
        for voter in voters {
            self.vote(&view, voter, Choice::Approve).await?;
        }
        let (view, outcome) = self.end(case).await?;
        ensure!(outcome == CaseOutcome::Done, "{outcome:?}: {view:?}");
        Ok(())
    }

    /// A ballot on an open request.
    ///
    /// # Errors
    /// The request is not open yet.
    pub fn ballot(&self, view: &RequestView, voter: &str, choice: Choice) -> Result<Jws> {
        let vote_request = view.vote_request.as_ref().context("the request was opened")?.digest();
        let request = view.summary.request;
        self.ballot_for(self.genesis.id().0, request, vote_request, voter, voter, choice)
    }

    /// A ballot that says whatever is wanted, signed by `person`.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn ballot_for(
        &self,
        deployment: Digest,
        request: RequestId,
        vote_request: Digest,
        person: &str,
        voter: &str,
        choice: Choice,
    ) -> Result<Jws> {
        let ballot = Ballot {
            deployment: assent_consensus::message::DeploymentId(deployment),
            request,
            vote_request,
            voter: name(voter),
            choice,
            reason: None,
        };
        Ok(sign_message(self.signer(person), ballot)?.jws().clone())
    }

    /// Votes.
    ///
    /// # Errors
    /// The node refuses the ballot, or is not there for too long.
    pub async fn vote(&self, view: &RequestView, voter: &str, choice: Choice) -> Result<Option<Receipt>> {
        let ballot = self.ballot(view, voter, choice)?;
        self.submit(&name("consensus"), &ballot).await
    }

    /// Has a message recorded, however often the node goes away meanwhile. No receipt if it was recorded by an attempt
    /// whose answer did not arrive.
    ///
    /// # Errors
    /// The node refuses it, or is not there for too long.
    pub async fn submit(&self, chain: &Name, message: &Jws) -> Result<Option<Receipt>> {
        self.record(chain, message.as_str().as_bytes()).await
    }

    async fn record(&self, chain: &Name, transaction: &[u8]) -> Result<Option<Receipt>> {
        let begun = Instant::now();
        let mut lost = false;
        loop {
            match self.client.submit(chain, transaction.to_vec()).await {
                Ok(submitted) => return Ok(Some(Receipt { chain: chain.clone(), submitted })),
                Err(error) if lost && error.code().is_some_and(|code| code.starts_with("already-")) => {
                    return Ok(None);
                }
                Err(error) if is_away(&error) && begun.elapsed() < PATIENCE => {
                    lost = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks again each time that there is something new, however often the node goes away meanwhile.
    async fn until<T, F>(
        &self,
        mut fetch: impl FnMut(Option<Since>) -> F,
        wanted: impl Fn(&T) -> bool,
        revision: impl Fn(&T) -> &String,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let begun = Instant::now();
        let mut since = None;
        loop {
            match fetch(since.clone()).await {
                Ok(view) if wanted(&view) => return Ok(view),
                Ok(view) => since = Some(Since { revision: revision(&view).clone(), wait: WAIT }),
                Err(error) if !may_come(&error) => return Err(error.into()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            if begun.elapsed() > PATIENCE {
                bail!("nothing came of it in {} s", PATIENCE.as_secs());
            }
        }
    }
}

/// Whether the node is only not there, or busy.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Exchange(_) => true,
        ClientError::Refused { status, .. } => status.is_server_error(),
        ClientError::NotANode { .. } => false,
    }
}

/// Whether it may be there later: the relay may be on its way.
fn may_come(error: &ClientError) -> bool {
    is_away(error) || error.code().is_some_and(|code| code.starts_with("unknown-"))
}

/// A name that is known to be one.
///
/// # Panics
/// If it is none.
pub fn name(text: &str) -> Name {
    text.parse().expect("it is of the form of a name")
}
