//! The commands of the `assent-kms` program (DESIGN section 10).

mod client;
mod direct;
mod remote;
mod screen;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use assent_consensus::digest::Digest;
use assent_consensus::json::Integer;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind};
use clap::{Args, Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::admin::KeyToMake;
use crate::audit;
use crate::config::{Config, DEFAULT_PATH};
use crate::signing::KeyName;
use screen::{Failure, Screen};

/// The KMS of Assent: it verifies every approval by itself before a key in the device signs
#[derive(Parser)]
#[command(name = "assent-kms", version, after_help = EXIT_CODES)]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 4 does not verify.";

#[derive(Subcommand)]
enum Command {
    /// Make a KMS: its state directory and database, and its mark on the token
    Init,
    /// Run the daemon
    Serve,
    /// Pin the deployment whose genesis file this is, once and for all; compare the id that is printed with a second person
    Pin {
        /// The genesis file
        genesis: PathBuf,
    },
    /// Make and list keys, and say what became of them
    #[command(subcommand)]
    Key(KeyCommand),
    /// Say what became of a voter
    #[command(subcommand)]
    Voter(VoterCommand),
    /// Let a request be decided although it is late
    Release {
        /// The request's id
        request: RequestId,
    },
    /// Check the audit log, or hand it on
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look at module, token, keys and files, and say what to do about what is wrong
    Doctor,
    /// Let the PIN be tried again, after you have corrected it
    RetryPin,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Have the token generate a key, and print its JWK
    Create {
        #[command(flatten)]
        key: KeyArgs,
        /// How it signs: ES256, or for an operational key also ES384, RS256 or PS256
        #[arg(long, value_name = "ALGORITHM", default_value = "ES256")]
        alg: Algorithm,
        /// How long the modulus of an RS256 or PS256 key is: 3072, or 4096 if nothing is said
        #[arg(long, value_name = "NUMBER")]
        bits: Option<u64>,
        /// The device that is to make it, if not the first one of the configuration
        #[arg(long, value_name = "NAME")]
        device: Option<Name>,
        /// Write the JWK into this file, which must not be there
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List all keys
    List,
    /// Say that a key is compromised: it signs nothing more, at once
    Compromised {
        #[command(flatten)]
        key: KeyArgs,
        /// Which version, if not the newest
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
    },
    /// Let a suspended key sign again, after you have found out why it was suspended
    Resume {
        #[command(flatten)]
        key: KeyArgs,
        /// Which version, if not the newest
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// The key of this consensus contract
    #[arg(long, value_name = "NAME")]
    contract: Option<Name>,
    /// The operational key of this name
    #[arg(long, value_name = "NAME")]
    key: Option<Name>,
}

#[derive(Subcommand)]
enum VoterCommand {
    /// Count a voter's ballots no more, at once
    Suspend {
        /// The thumbprint of the voter's key
        thumbprint: Thumbprint,
    },
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check that nothing in the log was changed or left out: exit 0 whole, 4 not, and where
    Verify {
        /// A head that came with a result, to be looked for: without one a log that was cut short looks whole
        #[arg(long, value_name = "DIGEST")]
        head: Option<Digest>,
    },
    /// Write entries as lines for a SIEM; the chain of their heads is checked on the way: exit 4 if it is broken, and where
    Export {
        /// The first entry: its number, or a moment such as 2030-01-31T08:00:00Z
        #[arg(long, value_name = "NUMBER|TIME")]
        from: Option<audit::Bound>,
        /// The last entry: its number, or a moment
        #[arg(long, value_name = "NUMBER|TIME")]
        to: Option<audit::Bound>,
        /// How the lines look
        #[arg(long, value_enum, default_value = "json-lines")]
        format: audit::Format,
    },
}

/// Runs the command that the command line asks for.
pub fn main() -> ExitCode {
    // The PIN passes through this process: it must not end in a core dump. A system that has no such switch makes none.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let cli = Cli::parse();
    let screen = Screen::new(cli.json);
    let result = match Config::load(&cli.config) {
        Ok(config) => run(cli.command, config, &cli.config, &screen),
        Err(error) => Err(Failure::failed(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.json),
    }
}

fn run(command: Command, config: Config, path: &Path, screen: &Screen) -> Result<(), Failure> {
    match command {
        Command::Init => direct::init(&config, path, screen),
        Command::Serve => {
            log();
            direct::serve(config)
        }
        Command::RetryPin => direct::retry_pin(&config, screen),
        Command::Audit(AuditCommand::Verify { head }) => direct::audit_verify(&config, head, screen),
        Command::Audit(AuditCommand::Export { from, to, format }) => {
            direct::audit_export(&config, from, to, format)
        }
        Command::Doctor => direct::doctor(&config, screen),
        Command::Pin { genesis } => remote::pin(&config, &genesis, screen),
        Command::Release { request } => remote::release(&config, request, screen),
        Command::Voter(VoterCommand::Suspend { thumbprint }) => {
            remote::suspend_voter(&config, thumbprint, screen)
        }
        Command::Key(KeyCommand::Create { key, alg, bits, device, out }) => {
            KeyKind::new(alg, bits).map_err(Failure::usage)?;
            let key = KeyToMake::new(&key.name()?, alg, bits, device);
            remote::create_key(&config, &key, out.as_deref(), screen)
        }
        Command::Key(KeyCommand::List) => remote::list_keys(&config, screen),
        Command::Key(KeyCommand::Compromised { key, version }) => {
            remote::change_key(&config, "compromised", key.name()?, read_version(version)?, screen)
        }
        Command::Key(KeyCommand::Resume { key, version }) => {
            remote::change_key(&config, "resume", key.name()?, read_version(version)?, screen)
        }
    }
}

impl KeyArgs {
    fn name(self) -> Result<KeyName, Failure> {
        match (self.contract, self.key) {
            (Some(name), None) => Ok(KeyName::Contract(name)),
            (None, Some(name)) => Ok(KeyName::Operational(name)),
            _ => Err(Failure::usage("which key? give one of `--contract NAME` and `--key NAME`")),
        }
    }
}

fn read_version(version: Option<u64>) -> Result<Option<KeyVersion>, Failure> {
    let read = |number| match Integer::new(number) {
        Some(version) if number > 0 => Ok(KeyVersion(version)),
        _ => Err(Failure::usage(format!("`{number}` is no version: they count from 1"))),
    };
    version.map(read).transpose()
}

/// Logs for people on a terminal, in JSON otherwise; `RUST_LOG` says how much.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}
