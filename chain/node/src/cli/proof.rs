//! A bundle that was verified, taken apart for people.

use std::collections::BTreeSet;

use assent_consensus::bundle::{ActionResult, Bundle};
use assent_consensus::genesis::Genesis;
use assent_consensus::json;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::{Jws, Payload, Signed};
use assent_consensus::message::{Ballot, CountedMessage, Decision, RequestId, Start, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::policy::{Explanation, Policy, Tally};
use assent_consensus::process::Process;
use assent_consensus::subject::Subject;
use assent_consensus::time::UnixMillis;

use super::bundle_check;
use super::failure::Failure;
use super::screen::quoted;

/// The largest bundle that is read, in bytes.
pub(super) const BUNDLE_LIMIT: usize = 64 << 20;

/// The messages of a bundle whose every signature and rule was verified.
pub(super) struct Proof {
    pub(super) bundle: Bundle,
    pub(super) start: Start,
    pub(super) vote_request: VoteRequest,
    pub(super) ballots: Vec<(UnixMillis, Ballot)>,
    pub(super) decision: Decision,
    pub(super) policy: Policy,
    pub(super) process: Process,
}

impl Proof {
    /// Verifies a bundle under `genesis`, with keys that count no more.
    pub(super) fn verify(
        genesis: &Genesis,
        bytes: &[u8],
        revoked: &BTreeSet<Thumbprint>,
    ) -> Result<Proof, Failure> {
        let bundle: Bundle =
            json::read(bytes).map_err(|error| invalid(format!("it is no bundle: {error}")))?;
        bundle_check::verify(genesis, &bundle, revoked).map_err(invalid)?;
        // What follows cannot fail: all of it was read and verified just now.
        let counted = |counted: &CountedMessage| Ok((counted.at, payload::<Ballot>(&counted.jws)?));
        Ok(Proof {
            start: payload(&bundle.start)?,
            vote_request: payload(&bundle.vote_request)?,
            ballots: bundle.ballots.iter().map(counted).collect::<Result<_, Failure>>()?,
            decision: payload(&bundle.decision)?,
            policy: Policy::parse(&bundle.policy.0).map_err(invalid)?,
            process: Process::parse(&bundle.definition.0).map_err(invalid)?,
            bundle,
        })
    }

    /// That the bundle proves this request of this case, and not another good one.
    pub(super) fn check_is_of(
        &self,
        request: RequestId,
        requester: Thumbprint,
        case: &Name,
    ) -> Result<(), Failure> {
        let asked = (request, requester, case);
        let found = (self.vote_request.request, self.vote_request.requester, &self.vote_request.case);
        if asked == found {
            Ok(())
        } else {
            Err(Failure::does_not_verify("the node sent a proof of another request than the one asked for"))
        }
    }

    pub(super) fn subject(&self) -> &Subject {
        &self.vote_request.subject
    }

    /// How the rule stood when it was decided.
    pub(super) fn rule(&self) -> Explanation {
        let request = &self.vote_request;
        let mut tally = Tally::new(&self.policy, Some(&request.requester), request.opened);
        for (at, ballot) in &self.ballots {
            // Each was counted by the same rules when the bundle was verified.
            if let Some(voter) = self.policy.voter_by_name(&ballot.voter) {
                let _ = tally.cast(voter, ballot.choice, *at);
            }
        }
        tally.explain(self.decision.decided)
    }

    /// Whether the process signs what is approved here.
    pub(super) fn asks_for_a_signature(&self) -> bool {
        matches!(self.subject(), Subject::Sign { .. })
            && self.process.act_on(&self.vote_request.step).is_some()
    }

    /// What the approved action gave.
    pub(super) fn result(&self) -> Option<&ActionResult> {
        self.bundle.result.as_ref()
    }
}

fn payload<P: Payload + Clone>(jws: &Jws) -> Result<P, Failure> {
    let signed = Signed::<P>::from_jws(jws.clone()).map_err(invalid)?;
    Ok(signed.unverified().clone())
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    // What came with the bundle stays on its line.
    Failure::does_not_verify(quoted(why))
}
