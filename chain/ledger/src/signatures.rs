//! Verifying the signatures of many transactions at once, on all cores, before they are put in order.

use std::num::NonZero;
use std::thread;

use assent_consensus::contract::Contract;
use assent_consensus::jwk::PublicKey;
use assent_consensus::jws::{CheckedSignatures, Jws};
use assent_consensus::transaction::Transaction;

use crate::error::LedgerError;
use crate::state::View;
use crate::store::Store;

/// How many signatures a thread should have to be worth its start.
const WORTH_A_THREAD: usize = 16;

/// Verifies what executing `transactions` on the stored state will need. A signature that is wrong, or not known yet, is
/// left to execution.
pub(crate) fn verify(
    store: &Store,
    contract: &dyn Contract,
    transactions: &[&Transaction],
) -> Result<CheckedSignatures, LedgerError> {
    let view = View::new(store);
    let needed: Vec<(Jws, PublicKey)> =
        transactions.iter().flat_map(|transaction| contract.signatures(&view, transaction)).collect();
    view.into_writes()?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let share = needed.len().div_ceil(cores).max(WORTH_A_THREAD);
    let mut checked = CheckedSignatures::default();
    thread::scope(|scope| {
        let mut shares = needed.chunks(share);
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares.map(|share| scope.spawn(|| verify_all(share))).collect();
        checked = verify_all(own);
        for other in others {
            // A thread that panicked has verified nothing, and execution verifies what is missing.
            checked.merge(other.join().unwrap_or_default());
        }
    });
    Ok(checked)
}

fn verify_all(needed: &[(Jws, PublicKey)]) -> CheckedSignatures {
    let mut checked = CheckedSignatures::default();
    for (jws, key) in needed {
        checked.check(jws, key);
    }
    checked
}
