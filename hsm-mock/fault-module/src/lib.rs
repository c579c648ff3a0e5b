//! A PKCS#11 module that wraps a real one and, by a script, fails, delays, hangs or forgets.
//!
//! ```text
//! application ─▶ C_GetFunctionList ─▶ exports ──▶ engine ─▶ what the script says of this call
//!                                       │            ▲
//!                                       ▼            └── script file, read again whenever it changes
//!                                  the real module
//! ```
//!
//! The script's path is in the environment, as [`SCRIPT_VARIABLE`]. It names the real module, and what is to go wrong: see
//! [`Script`]. Tests write it with `assent_hsm_mock::FaultModule`. With a script that has no faults the module behaves as
//! the one that it wraps.
//!
//! An injected failure leaves the real token as a failure of its own would: an operation that the standard says is over
//! is over there too, unless the script asks for one that is not ([`What::AnswerUnfinished`]).

mod codes;
mod engine;
mod exports;
mod real;
mod script;
mod vendor;

pub use codes::{code_name, code_of};
pub use exports::{FUNCTIONS, LENGTH_OF_SIGNATURE, SESSION_COUNT};
pub use script::{Fault, Latency, Script, ScriptError, Vendor, What};
pub use vendor::GOOGLE_ALGORITHM;

/// The environment variable with the script's path.
pub const SCRIPT_VARIABLE: &str = "ASSENT_FAULT_SCRIPT";
