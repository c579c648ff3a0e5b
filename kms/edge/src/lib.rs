//! What the programs of Assent need where they meet the world: mutual TLS between a node and its KMS.

pub mod tls;
