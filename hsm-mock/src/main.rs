//! `assent-hsm-mock`: makes SoftHSM tokens for scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use assent_hsm_mock::SoftHsmToken;
use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    let Command::Token { command: TokenCommand::Create { dir, label } } = Arguments::parse().command;
    match SoftHsmToken::create_in(&dir, &label) {
        Ok(token) => {
            println!(
                "{}",
                serde_json::json!({
                    "module": token.module(),
                    "config": token.config(),
                    "uri": token.uri(),
                    "pin_file": token.pin_file(),
                })
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("assent-hsm-mock: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Throw-away SoftHSM tokens for tests and trial runs; not for keys that matter.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// SoftHSM tokens
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Create a token with random PINs, and print where its parts are, as JSON
    ///
    /// A process that is to use the token needs `config` as SOFTHSM2_CONF in its environment.
    Create {
        /// Directory for the token, its configuration and its PIN files; absent or empty
        #[arg(long)]
        dir: PathBuf,
        /// The token's label, 1 to 32 bytes
        #[arg(long)]
        label: String,
    },
}
