//! Two ledgers that carry proofs to each other, and everybody's keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ledger::{Key, Ledger, number};
use crate::artifact::Artifact;
use crate::bundle::ActionOutput;
use crate::contract::Rejection;
use crate::contract::consensus::ConsensusContracts;
use crate::contract::process::ProcessContracts;
use crate::contract::query;
use crate::contract::record::RequestState;
use crate::contract::rotation::transitions;
use crate::digest::Digest;
use crate::encoding::Bytes;
use crate::event::{ConsensusEvent, EventBytes, ProcessEvent};
use crate::genesis::{
    ChainDocument, ContractDocument, Genesis, GenesisDocument, KeyDocument, ProcessDocument, Recovery,
};
use crate::header::Inclusion;
use crate::json::{self, Members, Value};
use crate::jws::Jws;
use crate::message::{Ballot, Cancel, Decision, KeyVersion, RequestId, Start, VoteRequest};
use crate::name::Name;
use crate::operational_key::{Algorithm, RawSignature, VerificationKey};
use crate::policy::Policy;
use crate::standing::{KeyName, version_at};
use crate::subject::SignatureFormat;
use crate::time::{Millis, UnixMillis};
use crate::transaction::Carrier;
use crate::vote::Choice;

pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DAY: u64 = 24 * HOUR;
const BEGIN: u64 = 1_800_000_000_000;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Everybody.
pub(crate) struct World {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) processes: Ledger,
    pub(crate) consensus: Ledger,
    pub(crate) now: u64,
    pub(crate) requester: Key,
    pub(crate) contract: Key,
    pub(crate) board: Key,
    pub(crate) release: Key,
    pub(crate) voters: Vec<Key>,
    pub(crate) stranger: Key,
    /// The later versions of keys.
    pub(crate) later_keys: BTreeMap<KeyName, Vec<Key>>,
    /// The document of the policy that `change-board` and `change-approval` propose.
    pub(crate) proposed: Vec<u8>,
}

impl World {
    /// `release-approval` decides on files for two processes: two of three `engineers`, one of whom, `ci`, may start
    /// cases. `board` decides on records: the counsel first, then nobody of two officers against it for an hour.
    pub(crate) fn new() -> World {
        World::signing(SignatureFormat::Der)
    }

    /// The same, with a release key whose signatures are of this format.
    pub(crate) fn signing(format: SignatureFormat) -> World {
        let (requester, contract, board, release) = (Key::new(1), Key::new(2), Key::new(3), Key::new(4));
        let validators = [Key::new(5), Key::new(6)];
        let voters: Vec<Key> = (10..16).map(Key::new).collect();
        let voter = |place: usize, key: &Key, group: &str| {
            format!("[[voter]]\nname = \"v{place}\"\nkey = {}\ngroups = [\"{group}\"]\n", key.toml())
        };
        let approval = format!(
            "name = \"release-approval\"\nkinds = [\"sign\", \"change-policy\", \"rotate-key\", \"destroy-key\"]\ndeadline = \"48h\"\nact_within = \"7d\"\n\
             rule = {{ at_least = 2, of = \"engineers\" }}\n{}{}{}{}",
            voter(0, &voters[0], "engineers"),
            voter(1, &voters[1], "engineers"),
            voter(2, &voters[2], "engineers"),
            voter(9, &requester, "engineers"),
        );
        let board_policy = format!(
            "name = \"board\"\nkinds = [\"record\", \"sign\"]\ndeadline = \"24h\"\n\
             rule = {{ then = [{{ at_least = 1, of = \"counsel\" }}, {{ no_veto = \"officers\", for = \"1h\" }}] }}\n{}{}{}",
            voter(3, &voters[3], "counsel"),
            voter(4, &voters[4], "officers"),
            voter(5, &voters[5], "officers"),
        );
        let process_with = |process: &str, input: &str, rest: &str| {
            let requester = requester.toml();
            let text = format!(
                "name = \"{process}\"\ninput = {{ {input} }}\n\
                 [[requester]]\nname = \"ci\"\nkey = {requester}\n{rest}"
            );
            ProcessDocument {
                name: name(process),
                chain: name("process"),
                governed_by: name("release-approval"),
                definition: Bytes(text.into_bytes()),
            }
        };
        let process = |process: &str, rest: &str| {
            process_with(process, "artifact = \"digest\", name = \"text\", size = \"integer\"", rest)
        };
        let sign = "[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
                    subject = { kind = \"sign\", key = \"release\", name = \"{name}\", digest = \"{artifact}\", \
                    size = \"{size}\" }\n[[step]]\nname = \"signature\"\nact = \"approval\"\n";
        let record = "[[step]]\nname = \"question\"\nask = \"board\"\n\
                      subject = { kind = \"record\", title = \"{name}\" }\nretries = 1\non_rejected = \"appeal\"\n\
                      [[step]]\nname = \"appeal\"\nask = \"board\"\nsubject = { kind = \"record\", title = \"again: {name}\" }\n";
        let board_sign = "[[step]]\nname = \"approval\"\nask = \"board\"\n\
                          subject = { kind = \"sign\", key = \"minutes\", name = \"{name}\", digest = \"{artifact}\", \
                          size = \"{size}\" }\nretries = 1\n[[step]]\nname = \"signature\"\nact = \"approval\"\n";
        let destroy = "[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
                       subject = { kind = \"destroy-key\", key = \"release\", version = 1 }\n\
                       [[step]]\nname = \"destruction\"\nact = \"approval\"\n";
        let change = |contract: &str| {
            let rest = format!(
                "[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
                 subject = {{ kind = \"change-policy\", contract = \"{contract}\", from = \"{{from}}\", to = \"{{to}}\" }}\n\
                 [[step]]\nname = \"change\"\nact = \"approval\"\n"
            );
            let short = contract.trim_start_matches("release-");
            process_with(&format!("change-{short}"), "from = \"digest\", to = \"digest\"", &rest)
        };
        let rotate = |target: &str, reason: &str| {
            format!(
                "[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
                 subject = {{ kind = \"rotate-key\", {target}, reason = \"{reason}\" }}\n\
                 [[step]]\nname = \"rotation\"\nact = \"approval\"\n"
            )
        };
        let chain =
            |id: &str, key: &Key| ChainDocument { id: name(id), validators: vec![key.public.clone()] };
        let contract_entry = |id: &str, policy: String, key: &Key| ContractDocument {
            name: name(id),
            chain: name("consensus"),
            governed_by: Some(name("release-approval")),
            policy: Bytes(policy.into_bytes()),
            key: key.public.clone(),
            attestation: Some(vec![Bytes(vec![0x30, 3, 2, 1, 5])]),
        };
        let operational = |id: &str, governor: &str, key: &Key| KeyDocument {
            name: name(id),
            governed_by: name(governor),
            alg: Algorithm::ES256,
            format,
            key: key.public.clone().into(),
            attestation: Some(vec![Bytes(vec![0x30, 3, 2, 1, 5])]),
            adopted: false,
        };
        let document = GenesisDocument {
            version: number(1),
            name: name("test"),
            environment: "test".parse().unwrap(),
            created: UnixMillis::new(BEGIN),
            chains: vec![chain("process", &validators[0]), chain("consensus", &validators[1])],
            contracts: vec![
                contract_entry("release-approval", approval, &contract),
                contract_entry("board", board_policy, &board),
            ],
            processes: vec![
                process("release-signing", sign),
                process("hotfix-signing", sign),
                process("minutes", record),
                change("release-approval"),
                change("board"),
                process("board-signing", board_sign),
                process("destroy-release", destroy),
                process("rotate-release", &rotate("key = \"release\"", "every year")),
                process("rotate-approval", &rotate("contract = \"release-approval\"", "every year")),
                process("rotate-board", &rotate("contract = \"board\"", "every year")),
                process("board-compromised", &rotate("contract = \"board\"", "compromise")),
            ],
            keys: vec![
                operational("release", "release-approval", &release),
                operational("minutes", "board", &Key::new(8)),
            ],
            recovery: Some(Recovery {
                threshold: number(1),
                keys: vec![Key::new(7).public],
                delay: Millis::new(DAY),
            }),
        };
        let genesis = Arc::new(document.to_genesis().unwrap());
        let [first, second] = validators;
        let processes = ProcessContracts::new(genesis.clone(), name("process"));
        let consensus = ConsensusContracts::new(genesis.clone(), name("consensus"));
        World {
            processes: Ledger::new(&genesis, Box::new(processes), "process", first),
            consensus: Ledger::new(&genesis, Box::new(consensus), "consensus", second),
            genesis,
            now: BEGIN,
            requester,
            contract,
            board,
            release,
            voters,
            stranger: Key::new(99),
            later_keys: BTreeMap::new(),
            proposed: Vec::new(),
        }
    }

    pub(crate) fn later(&mut self, milliseconds: u64) -> &mut World {
        self.now += milliseconds;
        self
    }

    pub(crate) fn time(&self) -> UnixMillis {
        UnixMillis::new(self.now)
    }

    /// A block of the process ledger with this transaction, one millisecond later.
    pub(crate) fn on_process(
        &mut self,
        transaction: impl Into<Vec<u8>>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        self.now += 1;
        self.processes.block(UnixMillis::new(self.now), &[transaction.into()]).remove(0)
    }

    /// A block of the consensus ledger with this transaction, one millisecond later.
    pub(crate) fn on_consensus(
        &mut self,
        transaction: impl Into<Vec<u8>>,
    ) -> Result<Vec<EventBytes>, Rejection> {
        self.now += 1;
        self.consensus.block(UnixMillis::new(self.now), &[transaction.into()]).remove(0)
    }

    /// Empty blocks on both ledgers.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        self.processes.block(UnixMillis::new(self.now), &[]);
        self.consensus.block(UnixMillis::new(self.now), &[]);
    }

    pub(crate) fn start_of(&self, process: &str, case: &str) -> Start {
        let mut input = Members::default();
        if let Some(contract) = process.strip_prefix("change-") {
            let contract = if contract == "board" { "board" } else { "release-approval" };
            input.push("from", Value::String(self.policy(contract).digest().to_string()));
            input.push("to", Value::String(Digest::of(&self.proposed).to_string()));
        } else {
            input.push("artifact", Value::String(Digest::of(case.as_bytes()).to_string()));
            input.push("name", Value::String(format!("{case}.tar")));
            input.push("size", Value::Number(7));
        }
        Start {
            deployment: self.genesis.id(),
            chain: name("process"),
            process: name(process),
            definition: self.genesis.process(&name(process)).unwrap().definition.digest(),
            case: name(case),
            nonce: Bytes(vec![1; 16]),
            input,
        }
    }

    /// Starts a case; gives its request.
    pub(crate) fn start(&mut self, process: &str, case: &str) -> RequestId {
        let start = self.requester.sign(self.start_of(process, case));
        self.on_process(start.as_str()).unwrap();
        self.asked(case)
    }

    /// The last request of a case.
    pub(crate) fn asked(&self, case: &str) -> RequestId {
        *self.case(case).status.requests.last().unwrap()
    }

    pub(crate) fn case(&self, case: &str) -> query::CaseRecord {
        query::case(&self.processes.state, self.requester.public.thumbprint(), &name(case)).unwrap()
    }

    /// The proof of the call of a request.
    pub(crate) fn call_of(&self, request: RequestId) -> Inclusion {
        let height = query::case_request(&self.processes.state, request).unwrap().asked.called;
        let called = |event: &EventBytes| match ProcessEvent::parse(&event.0).unwrap() {
            ProcessEvent::Call(call) => call.request(self.genesis.id(), &self.processes.chain) == request,
            _ => false,
        };
        let index = self.processes.events(height).iter().position(called).unwrap();
        self.processes.inclusion(height, index)
    }

    pub(crate) fn call(&mut self, request: RequestId) -> Result<Vec<EventBytes>, Rejection> {
        let inclusion = self.call_of(request);
        self.on_consensus(json::write(&Carrier::Call { inclusion }))
    }

    pub(crate) fn request(&self, request: RequestId) -> query::RequestRecord {
        query::request(&self.consensus.state, request).unwrap()
    }

    pub(crate) fn state(&self, request: RequestId) -> RequestState {
        self.request(request).status.state
    }

    pub(crate) fn vote_request_of(&self, request: RequestId) -> VoteRequest {
        let call = self.request(request).call;
        let contract = call.contract;
        let policy = self.policy(contract.as_str());
        VoteRequest {
            deployment: self.genesis.id(),
            chain: name("consensus"),
            contract: contract.clone(),
            request,
            policy: policy.digest(),
            process: call.process,
            definition: call.definition,
            case: call.case,
            step: call.step,
            attempt: call.attempt,
            requester: call.requester,
            start: call.start,
            subject: call.subject,
            opened: self.time(),
            deadline: self.time().after(policy.deadline()),
            key_version: version_at(
                &transitions(&self.consensus.state, &KeyName::Contract(contract)),
                self.time(),
            ),
        }
    }

    /// A contract's policy that is in force.
    pub(crate) fn policy(&self, contract: &str) -> Arc<Policy> {
        let recorded = query::policies(&self.consensus.state, &name(contract));
        match recorded.iter().rfind(|recorded| recorded.says.effective <= self.time()) {
            None => self.genesis.contract(&name(contract)).unwrap().policy.clone(),
            Some(recorded) => self.document(contract, &recorded.to),
        }
    }

    /// One of a contract's policies.
    pub(crate) fn document(&self, contract: &str, digest: &Digest) -> Arc<Policy> {
        let genesis = &self.genesis.contract(&name(contract)).unwrap().policy;
        match query::policy_document(&self.consensus.state, &name(contract), digest) {
            None => genesis.clone(),
            Some(document) => Arc::new(Policy::parse(&document).unwrap()),
        }
    }

    /// A key in this version.
    pub(crate) fn key_of(&self, name: &KeyName, version: KeyVersion) -> &Key {
        let first = match name {
            KeyName::Contract(name) if name.as_str() == "board" => &self.board,
            KeyName::Contract(_) => &self.contract,
            KeyName::Operational(_) => &self.release,
        };
        let place = usize::try_from(version.0.get()).unwrap();
        match place {
            1 => first,
            // A version that is not there yet is the first's word.
            _ => self.later_keys.get(name).and_then(|later| later.get(place - 2)).unwrap_or(first),
        }
    }

    fn contract_key(&self, contract: &Name, version: KeyVersion) -> &Key {
        self.key_of(&KeyName::Contract(contract.clone()), version)
    }

    pub(crate) fn send_vote_request(&mut self, message: VoteRequest) -> Result<Vec<EventBytes>, Rejection> {
        let vote_request = self.contract_key(&message.contract, message.key_version).sign(message);
        let audit = Digest::of(b"audit");
        self.on_consensus(json::write(&Carrier::VoteRequest { vote_request, audit }))
    }

    /// Brings a new case to the point where voters can vote.
    pub(crate) fn open(&mut self, process: &str, case: &str) -> RequestId {
        let request = self.start(process, case);
        self.open_request(request);
        request
    }

    pub(crate) fn open_request(&mut self, request: RequestId) {
        self.call(request).unwrap();
        let message = self.vote_request_of(request);
        self.send_vote_request(message).unwrap();
    }

    pub(crate) fn ballot_of(&self, request: RequestId, voter: usize, choice: Choice) -> Ballot {
        Ballot {
            deployment: self.genesis.id(),
            request,
            vote_request: self.request(request).vote_request.map_or(Digest::ZERO, |jws| jws.digest()),
            voter: name(&format!("v{voter}")),
            choice,
            reason: None,
        }
    }

    pub(crate) fn vote(
        &mut self,
        request: RequestId,
        voter: usize,
        choice: Choice,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let ballot = self.ballot_of(request, voter, choice);
        let key = self.voters.get(voter).unwrap_or(&self.requester);
        let jws = key.sign(ballot);
        self.on_consensus(jws.as_str())
    }

    pub(crate) fn decision_of(&self, request: RequestId) -> Decision {
        let record = self.request(request);
        let RequestState::Fixed { outcome, ballots, decided } = record.status.state else {
            panic!("the request is {}", record.status.state.as_str());
        };
        let opened = record.opened.unwrap();
        Decision {
            deployment: self.genesis.id(),
            chain: name("consensus"),
            contract: opened.contract,
            request,
            vote_request: opened.vote_request,
            policy: opened.policy,
            outcome,
            ballots,
            decided,
            key_version: opened.key_version,
        }
    }

    pub(crate) fn send_decision(&mut self, message: Decision) -> Result<Vec<EventBytes>, Rejection> {
        let decision = self.contract_key(&message.contract, message.key_version).sign(message);
        let audit = Digest::of(b"audit");
        self.on_consensus(json::write(&Carrier::Decision { decision, audit }))
    }

    pub(crate) fn decide(&mut self, request: RequestId) {
        let decision = self.decision_of(request);
        self.send_decision(decision).unwrap();
    }

    /// The answer to a request, as the relay carries it.
    pub(crate) fn answer_of(&self, request: RequestId) -> Carrier {
        let record = self.request(request);
        let height = record.status.heights.ended.unwrap();
        let ends = |event: &EventBytes| match ConsensusEvent::parse(&event.0).unwrap() {
            ConsensusEvent::DecisionRecorded { request: found, .. }
            | ConsensusEvent::RequestRefused { request: found, .. }
            | ConsensusEvent::RequestVoid { request: found } => found == request,
            _ => false,
        };
        let index = self.consensus.events(height).iter().position(ends).unwrap();
        Carrier::Answer { decision: record.decision, inclusion: self.consensus.inclusion(height, index) }
    }

    pub(crate) fn answer(&mut self, request: RequestId) -> Result<Vec<EventBytes>, Rejection> {
        let answer = self.answer_of(request);
        self.on_process(json::write(&answer))
    }

    /// Votes, signs the decision and carries it back.
    pub(crate) fn approve(&mut self, request: RequestId) {
        self.vote(request, 0, Choice::Approve).unwrap();
        self.vote(request, 1, Choice::Approve).unwrap();
        self.decide(request);
        self.answer(request).unwrap();
    }

    /// What an approval of a case is about; its digests are zero while there is none.
    pub(crate) fn artifact_of(&self, case: &str) -> Artifact {
        let requester = self.requester.public.thumbprint();
        let case_record = query::case(&self.processes.state, requester, &name(case));
        let request = case_record.and_then(|record| record.status.requests.last().copied());
        let record = request.and_then(|request| query::request(&self.consensus.state, request));
        let policy = record.as_ref().and_then(|record| Some(record.opened.as_ref()?.policy));
        let decision = record.and_then(|record| record.decision).map(|jws| jws.digest());
        Artifact {
            format: self.genesis.keys()[0].format,
            name: format!("{case}.tar").parse().unwrap(),
            digest: Digest::of(case.as_bytes()),
            request: request.unwrap_or(RequestId(Digest::ZERO)),
            policy: policy.unwrap_or_else(|| self.policy("release-approval").digest()),
            decision: decision.unwrap_or(Digest::ZERO),
        }
    }

    pub(crate) fn output_of(&self, case: &str) -> ActionOutput {
        self.output_by(case, KeyVersion::first())
    }

    /// The same, by this version of the release key.
    pub(crate) fn output_by(&self, case: &str, version: KeyVersion) -> ActionOutput {
        let release = self.key_of(&KeyName::Operational(name("release")), version);
        let (artifact, key) = (self.artifact_of(case), VerificationKey::from(release.public.clone()));
        let digest = artifact.to_sign(&key).digest(key.algorithm());
        let signature = RawSignature(release.sign_digest(digest.as_bytes()).to_bytes().to_vec());
        ActionOutput {
            key: name("release"),
            version,
            public_key: key.public_key().clone(),
            format: artifact.format,
            signature: Bytes(artifact.assemble(&key, &signature)),
        }
    }

    pub(crate) fn result(
        &mut self,
        request: RequestId,
        output: ActionOutput,
    ) -> Result<Vec<EventBytes>, Rejection> {
        let decision = self.request(request).decision.map_or(Digest::ZERO, |jws| jws.digest());
        let audit = Digest::of(b"audit");
        self.on_process(json::write(&Carrier::Result { decision, output, audit }))
    }

    pub(crate) fn cancel_of(&self, case: &str) -> Jws {
        self.requester.sign(Cancel {
            deployment: self.genesis.id(),
            chain: name("process"),
            case: name(case),
            nonce: Bytes(vec![2; 16]),
        })
    }

    /// The last request of a case, which is started if there is none.
    pub(crate) fn asked_or_start(&mut self, process: &str, case: &str) -> RequestId {
        let requester = self.requester.public.thumbprint();
        match query::case(&self.processes.state, requester, &name(case)) {
            Some(_) => self.asked(case),
            None => self.start(process, case),
        }
    }

    pub(crate) fn decision_from(&self, jws: &Jws) -> Decision {
        json::read(jws.payload()).unwrap()
    }

    pub(crate) fn deadline(&self, contract: &str) -> Millis {
        self.genesis.contract(&name(contract)).unwrap().policy.deadline()
    }
}

/// The code of the rejection that must have come.
pub(crate) fn code(result: Result<Vec<EventBytes>, Rejection>) -> &'static str {
    result.expect_err("this must be rejected").code
}
