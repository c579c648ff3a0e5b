//! What of the configuration may change while the KMS runs. It is read again on SIGHUP; nothing that is under way is cut off.
//!
//! ```text
//! SIGHUP ─▶ file, read and checked ─▶ compared: if anything else changed, all stays as it was
//!                                └─▶ Settings ─▶ engine, signing, epoch, notices, duty socket and port
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use assent_consensus::time::Millis;
use assent_edge::tls::ClientName;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::config::{Config, ConfigError};
use crate::tally::Tally;

/// The part of the configuration that may change while the KMS runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The users who may send duties.
    pub allowed_users: Vec<u32>,
    /// How long after a deadline an outcome that ballots made is signed without a person.
    pub decision_grace: Millis,
    /// After how many signatures the epoch is advanced.
    pub epoch_signatures: u64,
    /// How often PKCS#11 tokens are looked at for a mark that another process put there.
    pub epoch_look: Millis,
    /// How long before a key is deactivated, or a certificate ends, that is announced.
    pub expiry_notice: Millis,
    /// The clients that may send duties from other machines.
    pub tls_clients: Arc<[ClientName]>,
}

/// The settings that are in force.
pub type InForce = watch::Receiver<Settings>;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            allowed_users: vec![rustix::process::geteuid().as_raw()],
            decision_grace: Millis::from_secs(24 * 3_600),
            epoch_signatures: 1_000,
            epoch_look: Millis::from_secs(2),
            expiry_notice: Millis::from_secs(30 * 24 * 3_600),
            tls_clients: Arc::default(),
        }
    }
}

/// Why the configuration that was read again is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something else changed.
    #[error("{} changed, which needs a restart: start the KMS again, or put it back", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// An error of this program.
    #[error("the reading broke off")]
    Broken,
}

/// How often the configuration was read again, and what came of it.
#[derive(Default)]
pub struct Reloads {
    failed: AtomicBool,
    outcomes: Tally<&'static str>,
}

impl Reloads {
    /// Whether the last time failed, so that the file is not what is in force.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// How often it was done, and how often it failed.
    pub(crate) fn outcomes(&self) -> [(&'static str, u64); 2] {
        let counts = self.outcomes.counts();
        ["done", "failed"].map(|outcome| (outcome, counts.get(outcome).copied().unwrap_or_default()))
    }

    fn count(&self, has_failed: bool) {
        self.failed.store(has_failed, Ordering::Relaxed);
        self.outcomes.count(if has_failed { "failed" } else { "done" });
    }
}

/// Reads the configuration again whenever it is told to.
pub(crate) struct Reload {
    /// The file.
    pub path: PathBuf,
    /// What the KMS was started with.
    pub started_with: Config,
    /// Where new settings go.
    pub settings: watch::Sender<Settings>,
    /// What came of it.
    pub reloads: Arc<Reloads>,
}

impl Reload {
    pub(crate) async fn keep(self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            let read = self.read().await;
            match &read {
                Ok(settings) => {
                    self.settings.send_replace(settings.clone());
                    tracing::info!(?settings, "the configuration was read again");
                }
                Err(error) => tracing::error!(%error, "the configuration stays as it was"),
            }
            self.reloads.count(read.is_err());
        }
    }

    async fn read(&self) -> Result<Settings, ReloadError> {
        let path = self.path.clone();
        let read = spawn_blocking(move || Config::load(&path)).await.map_err(|_| ReloadError::Broken)??;
        let changed = self.started_with.fixed_differences(&read);
        if changed.is_empty() { Ok(read.settings()) } else { Err(ReloadError::NeedsRestart(changed)) }
    }
}
