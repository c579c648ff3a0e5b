//! What Assent costs, as ratios to loops that do the same cryptography and nothing else.
//!
//! ```text
//! kms_sign   callers ─HTTP─▶ assent-kms ─▶ token      against   bare_loop: verify, append with fdatasync, C_Sign
//!            callers ─HTTP─▶ assent-kms ─▶ slow token against   bare_loop: C_Sign
//! parsec     callers ─HTTP─▶ assent-kms ─▶ token      against   callers ─▶ parsec-service ─▶ token
//! ballots    callers ─HTTP─▶ assent node ─▶ ledger    against   verifications alone, on every core
//! ```
//!
//! Subject and baseline take turns, so that what else the machine does weighs on both; each figure is the median of the
//! rounds, and each ratio the median of the rounds' ratios.

pub mod ballots;
pub mod bare_loop;
pub mod kms_sign;
mod load;
pub mod parsec;
mod report;
mod usage;

pub use report::{Figure, Report};
pub use usage::Usage;
