//! What the programs of Assent share where they meet files, terminals and the network: secrets in files, configuration files,
//! how a command fails, and mutual TLS between a node and its KMS.
//!
//! ```text
//! core_dump   ─▶ nothing of what follows is left behind
//! private_file ─▶ secrets       toml_keys ─▶ configuration       tls ─▶ connections
//! visible     ─▶ failure        ─▶ what a person reads, and the exit code
//! ```

pub mod core_dump;
pub mod failure;
pub mod private_file;
pub mod tls;
pub mod toml_keys;
pub mod visible;
