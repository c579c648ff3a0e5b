//! Throw-away SoftHSM tokens, devices that fail, and a certificate authority, for tests and trial runs.
//!
//! ```text
//! SoftHsmToken ── directory (0700, on tmpfs when there is one; removed on drop)
//!                 ├── softhsm2.conf      for SOFTHSM2_CONF
//!                 ├── tokens/            what SoftHSM stores
//!                 ├── pin                user PIN, 0600
//!                 └── so-pin             security officer's PIN, 0600
//! ```
//!
//! Each token has its own directory, label and random PINs, so any number of tests can use tokens at
//! once. No PIN is ever in an argument list: `softhsm2-util` is asked to prompt, and answered on a
//! pseudo-terminal.
//!
//! SoftHSM reads its configuration from the environment when a process initialises the module. A
//! process that is to use the token is therefore started with [`SoftHsmToken::config`] as its
//! `SOFTHSM2_CONF`:
//!
//! ```no_run
//! let token = assent_hsm_mock::SoftHsmToken::create("release")?;
//! let status = std::process::Command::new("pkcs11-tool")
//!     .env("SOFTHSM2_CONF", token.config())
//!     .arg("--module").arg(token.module()).arg("--list-slots")
//!     .status()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`FaultModule`] stands before a real module, and by a script fails, delays, hangs, or has the peculiarities of other
//! makers' devices.
//!
//! A test that loads the module into its own process uses [`with_token!`](crate::with_token), which
//! runs that one test again in a child process whose environment is right.

mod authority;
mod fault_module;
mod in_process;
mod module;
mod other_modules;
mod soft_hsm;
mod softhsm2_util;

pub use authority::{Authority, Issued, Term, Usage};

pub use assent_fault_module::{
    Fault, GOOGLE_ALGORITHM, LENGTH_OF_SIGNATURE, Latency, SESSION_COUNT, Script, Vendor, What, code_name,
    code_of,
};
pub use fault_module::{Call, FaultModule, FaultModuleError};
#[doc(hidden)]
pub use in_process::run_with_token;
pub use module::find_module;
pub use other_modules::{P11KitProxy, find_kryoptic, kryoptic_configuration};
pub use soft_hsm::{SoftHsmToken, TokenError};
