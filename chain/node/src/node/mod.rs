//! The node: keeps the logs, answers the API, carries what the logs ask of each other and of the KMS.
//!
//! ```text
//! config ─▶ ledgers (validator keys, files, drivers)
//!              ├─▶ server   the API: takes transactions, shows requests and cases, builds bundles
//!              ├─▶ relay    calls and cancels to consensus logs, answers back
//!              └─▶ agent    duties to the KMS, what it signed back
//! places: where the events are that are proven to others
//! ```
//!
//! Everything that is still to be done stands in the logs. A node that is stopped, killed or cut from power goes on from
//! there when it starts again.

pub mod agent;
pub mod bundle;
pub mod config;
pub mod ledgers;
pub mod places;
pub mod relay;
pub mod server;
pub mod validator;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assent_consensus::genesis::Genesis;
use assent_consensus::time::UnixMillis;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::kms_client::KmsClient;

use agent::{Agent, DutyBook};
use config::Config;
use ledgers::{Ledgers, OpenError};
use places::Places;
use relay::Relay;
use server::{Api, ListenError, Listeners};

/// How long calls that have begun are answered after the node was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What the node shows to the KMS.
    #[error("the KMS is on another machine: {0}")]
    Kms(#[from] assent_edge::tls::CredentialsError),
    /// The operating system.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Runs a node until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// [`NodeError`]: it does not start.
pub async fn run(config: &Config, genesis: Genesis) -> Result<(), NodeError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let genesis = Arc::new(genesis);
    let kms = KmsClient::new(&config.kms)?;
    // The logs come first: their locks keep a second node off before it touches anything else.
    let ledgers = Arc::new(Ledgers::open(config, genesis.clone())?);
    let listeners = Listeners::open(config).await;
    let listeners = listeners.inspect_err(|_| ledgers.stop())?;

    let (stop, stopped) = watch::channel(false);
    let (places, book) = (Arc::<Places>::default(), Arc::<DutyBook>::default());
    let listen = listeners.tcp_address();
    let api = Api::new(ledgers.clone(), places.clone(), book.clone(), stopped.clone());
    let mut server = tokio::spawn(listeners.serve(api.router(), stopped.clone()));
    let relay = tokio::spawn(Relay::new(ledgers.clone(), places.clone()).run(stopped.clone()));
    let agent = tokio::spawn(Agent::new(ledgers.clone(), places, kms, book).run(stopped));
    tracing::info!(
        deployment = %genesis.id(),
        environment = %genesis.environment(),
        socket = %config.socket.display(),
        listen = listen.map(tracing::field::display),
        "ready"
    );

    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(why, "stopping");
    // Everybody who listens ends by this; nobody has to.
    let _ = stop.send(true);
    if tokio::time::timeout(GRACE, &mut server).await.is_err() {
        tracing::warn!("calls that have not ended yet are cut off");
        server.abort();
    }
    agent.abort();
    relay.abort();
    let closed = tokio::task::spawn_blocking(move || ledgers.stop()).await;
    if closed.is_err() {
        tracing::error!("the logs were not closed in order; they are whole all the same");
    }
    tracing::info!("stopped");
    Ok(())
}

/// This machine's clock.
pub fn now() -> UnixMillis {
    // A clock before 1970 is wrong by so much that the beginning is as good a reading.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
