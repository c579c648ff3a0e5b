//! A KMS as on another machine: certificates of a throw-away authority, and an address of its own for each process of tests.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;
use assent_hsm_mock::{Authority, Issued, Term, Usage};

/// What is to be found at which port of the address.
static NEXT_PORT: AtomicU16 = AtomicU16::new(7430);

/// The name in the certificate of the node that the KMS takes.
pub const NODE: &str = "node.example";

/// Certificates of both sides, and where the KMS listens.
pub struct Remote {
    /// The authority of both.
    pub authority: Authority,
    /// Where the KMS listens.
    pub address: SocketAddr,
    /// Where the node finds it: the same, or a port before it.
    pub found_at: SocketAddr,
    directory: PathBuf,
}

impl Remote {
    /// Makes the authority and a certificate for each side, in the directory `tls`.
    pub(super) fn make(directory: &Path, found_at: Option<SocketAddr>) -> Result<Remote> {
        let directory = directory.join("tls");
        fs::create_dir(&directory)?;
        let address = free_address();
        let found_at = found_at.unwrap_or(address);
        let authority = Authority::of_pair(&directory, &found_at.ip().to_string(), NODE)?;
        let remote = Remote { authority, address, found_at, directory };
        remote.revoke(&[])?;
        Ok(remote)
    }

    /// Has a list revoke these certificates and no others.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn revoke(&self, revoked: &[&Issued]) -> Result<()> {
        let new = self.directory.join("ca.crl.new");
        fs::write(&new, self.authority.revocation_list(revoked, Term::Now)?.pem()?)?;
        Ok(fs::rename(new, self.directory.join("ca.crl"))?)
    }

    /// The directory of the certificates: `ca.crt`, `ca.crl`, `kms.crt`, `kms.key`, `node.crt`, `node.key`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the KMS a new certificate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renew_kms(&self) -> Result<()> {
        let host = self.found_at.ip().to_string();
        Ok(self.authority.issue(&[&host], Usage::Server, Term::Now)?.write(&self.directory, "kms")?)
    }

    /// Gives the node a new certificate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renew_node(&self) -> Result<()> {
        Ok(self.authority.issue(&[NODE], Usage::Client, Term::Now)?.write(&self.directory, "node")?)
    }

    /// The table `[tls]` of the KMS's configuration.
    pub(super) fn kms_toml(&self) -> String {
        format!(
            "[tls]\nlisten = \"{}\"\ncertificate = \"tls/kms.crt\"\nprivate_key = \"tls/kms.key\"\n\
             clients_ca = \"tls/ca.crt\"\nclients_crl = \"tls/ca.crl\"\nclients = [\"dns:{NODE}\"]\n\n",
            self.address
        )
    }

    /// The node's keys about the KMS.
    pub(super) fn node_toml(&self) -> String {
        let directory = self.directory.display();
        format!(
            "kms = \"https://{}\"\nkms_ca = \"{directory}/ca.crt\"\nkms_certificate = \"{directory}/node.crt\"\n\
             kms_private_key = \"{directory}/node.key\"",
            self.found_at
        )
    }
}

/// An address of this machine that no other process of tests uses.
pub fn free_address() -> SocketAddr {
    // Process numbers have at most 22 bits on Linux, and all of 127/8 is this machine.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, high | 0x40, middle, low), port))
}
