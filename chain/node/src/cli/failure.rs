//! Which errors end a command, and what is to be done about some of them.

use assent_edge::failed_by;
use assent_edge::visible::visible;

pub(super) use assent_edge::failure::{Exit, Failure};

use crate::client::ClientError;
use crate::voter::key_file::KeyFileError;
use crate::voter::secret::SecretError;
use crate::voter::token::TokenError;
use crate::voter::token_uri::KeyUriError;
use crate::voter::{KeyError, SignError};

failed_by!(SignError, TokenError, SecretError);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        // A node's words stay on their line.
        Failure::failed(visible(&error.to_string()))
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Failure {
        let help = match &error {
            KeyFileError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("`assent key generate --out FILE` makes a key")
            }
            _ => None,
        };
        let failure = Failure::failed(error);
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        match error {
            KeyError::File(error) => error.into(),
            KeyError::Token(error) => error.into(),
            KeyError::Uri(error @ KeyUriError::Pin(_)) => {
                Failure::usage(error).help("name that file by `--pin-file`")
            }
            KeyError::Uri(error) => Failure::usage(error),
        }
    }
}
