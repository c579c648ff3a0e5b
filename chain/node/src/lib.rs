//! The `assent` program as a library: the node that keeps both logs and carries what they ask of each other and of the
//! KMS, its HTTP API, and the client of that API that every command uses.
//!
//! ```text
//! voter, requester ──▶ client ──HTTP──▶ node ──kms_client──▶ KMS
//! ```

pub mod api;
pub mod cli;
pub mod client;
pub mod http;
pub mod kms_address;
pub mod kms_client;
pub mod node;
pub mod voter;
