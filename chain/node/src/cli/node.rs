//! `assent node`: runs the node.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::kms_address::KmsPart;
use crate::node::config::{Config, ConfigFile, KEYS};
use crate::node::{self, NodeError};

use super::failure::{Exit, Failure};
use super::{read, toml_file};

/// What decides what is logged, in the words of `tracing`: `info`, `assent=debug`.
const LOG_VARIABLE: &str = "ASSENT_LOG";
/// How long threads that read the disk may take when the node has stopped.
const LAST_READS: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct Node {
    /// The node's configuration, which `assent init` writes
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Node) -> Result<(), Failure> {
    log();
    let config = load(&arguments.config)?;
    let genesis = read::genesis(&config.genesis, Exit::DoesNotVerify)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on(node::run(&config, genesis));
    runtime.shutdown_timeout(LAST_READS);
    result.map_err(explain)
}

/// Reads `node.toml`.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    let text = read::text(path, "configuration", read::SHORT_LIMIT)?;
    let file: ConfigFile = toml_file::read(&text, path, &[("", KEYS), ("", KmsPart::KEYS)])?;
    file.resolve(path.parent().unwrap_or(Path::new("")))
        .map_err(|error| Failure::failed(format!("`{}`: {error}", path.display())))
}

fn explain(error: NodeError) -> Failure {
    Failure::failed(error)
}

/// Logs for people on a terminal, and as JSON for whatever else reads them.
fn log() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Whoever runs commands within one process has set up a log already.
    let _ = match io::stderr().is_terminal() {
        true => log.with_target(false).try_init(),
        false => log.json().try_init(),
    };
}
