//! The fence: a KMS whose database was put back does not know what it signed since for the requests of that time, and signs
//! nothing for them but what is on record, until a person has looked at the ledgers.

use assent_consensus::message::RequestId;
use assent_consensus::time::UnixMillis;

use super::checker::Checker;
use super::refusal::Refused;
use crate::moment::Moment;
use crate::signing::Purpose;

impl Checker {
    /// Refuses a new signature for a request that was opened, or called for, before the fence. What is on disk to be signed
    /// may be signed again.
    pub(super) fn check_fence(
        &self,
        purpose: Purpose,
        request: RequestId,
        begun: UnixMillis,
    ) -> Result<(), Refused> {
        let Some(fence) = self.vault.fence().filter(|fence| begun < *fence) else { return Ok(()) };
        if self.vault.is_released(request) || self.ordered(purpose, request)?.is_some() {
            return Ok(());
        }
        let message = format!(
            "the request `{request}` is of {}, and this KMS was put back to an older state, so that it does not know what it \
             signed before {}: look in both logs whether this was signed, and if it was not: `assent-kms release {request}`",
            Moment(begun),
            Moment(fence)
        );
        Err(Refused::person("before-restore", message))
    }
}
