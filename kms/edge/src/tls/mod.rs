//! Mutual TLS between a node and its KMS on another machine: TLS 1.3 alone, both sides with a certificate, nothing resumed.
//!
//! ```text
//! files ─▶ Credentials (chain, key, authorities) ─▶ Rotating (looked at for each connection)
//!                                                     ├─▶ Server  the KMS: takes the clients that its configuration names,
//!                                                     │           and that no revocation list does
//!                                                     └─▶ Client  the node: knows the KMS by name and authority
//! ```
//!
//! TLS keeps strangers from the KMS. It vouches for nothing that is said over it: duties are verified whoever brings them.

mod admission;
mod certificate;
mod client;
mod client_name;
mod credentials;
mod refusal;
mod revocation;
mod rotating;
mod server;

#[cfg(test)]
mod tests;

pub use certificate::{Certificate, Standing, Validity};
pub use client::{Client, ConnectError, Host, HostError, refusal};
pub use client_name::{ClientName, ClientNameError};
pub use credentials::{Credentials, CredentialsError, Files};
pub use revocation::RevocationLists;
pub use rotating::Rotating;
pub use server::{Server, TurnedAway, Visitor};

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// A connection of a client.
pub type ClientStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;
/// A connection of a server.
pub type ServerStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
