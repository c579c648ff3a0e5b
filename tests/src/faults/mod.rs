//! The campaign `faults`: the real KMS on a PKCS#11 module that fails.
//!
//! Without `--count` it is the fault matrix ([`matrix`]): every function that the driver calls, with every return code that
//! the standard lists for it, at its first and its second call. With `--count N` it is N signatures at full speed while
//! faults come by chance ([`soak`]). No daemon is started again; each duty is signed once, none is lost,
//! and when a fault is over the next duty is signed without a restart.

pub mod matrix;
mod scene;
pub mod soak;
mod standard;
