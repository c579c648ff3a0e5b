//! Passphrases and PINs: from a file that nobody else can read, a systemd credential, or a prompt.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use assent_edge::private_file::{self, NotPrivate};
use secrecy::{ExposeSecret, SecretString};

/// The most bytes that a passphrase or PIN may have.
pub const SECRET_LIMIT: usize = 1024;

/// Why there is no passphrase or PIN.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in `{}`: {source}", path.display().to_string().escape_debug())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("`{}` {why}, and think of the secret as known", path.display().to_string().escape_debug())]
    Open {
        /// The file.
        path: PathBuf,
        /// How.
        why: NotPrivate,
    },
    /// Not one line of text.
    #[error("the secret in `{}` must be one line of 1 to {SECRET_LIMIT} bytes of UTF-8", path.display().to_string().escape_debug())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// Nobody can be asked.
    #[error("a passphrase or PIN is needed and there is no terminal to ask at: give `{option}`")]
    NoTerminal {
        /// The option that names a file.
        option: &'static str,
    },
    /// Asking failed.
    #[error("cannot ask for a passphrase or PIN: {0}")]
    Prompt(io::Error),
    /// Nothing was typed.
    #[error("nothing was typed")]
    Empty,
    /// The second time something else was typed.
    #[error("the two passphrases differ")]
    Differ,
}

/// Where a secret comes from: the file if one is named, else the systemd credential if there is one, else a prompt.
#[derive(Clone, Debug)]
pub struct SecretSource {
    /// The file that the command line names.
    pub file: Option<PathBuf>,
    /// The name of the systemd credential.
    pub credential: &'static str,
    /// The option that names the file, for messages.
    pub option: &'static str,
}

impl SecretSource {
    /// The secret; asked for with `prompt` if it must be.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn read(&self, prompt: &str) -> Result<SecretString, SecretError> {
        match self.stored()? {
            Some(secret) => Ok(secret),
            None => self.ask(prompt),
        }
    }

    /// A new secret: like [`read`](SecretSource::read), but asked for twice.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn read_new(&self, prompt: &str, again: &str) -> Result<SecretString, SecretError> {
        if let Some(secret) = self.stored()? {
            return Ok(secret);
        }
        let first = self.ask(prompt)?;
        let second = self.ask(again)?;
        if first.expose_secret() == second.expose_secret() { Ok(first) } else { Err(SecretError::Differ) }
    }

    fn stored(&self) -> Result<Option<SecretString>, SecretError> {
        if let Some(path) = &self.file {
            return read_file(path, Checked::ModeAndOwner).map(Some);
        }
        // systemd mounts credentials so that only the unit's user can read them, with modes of its own.
        match std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().filter(|path| *path != OsStr::new("")) {
            Some(directory) => {
                let path = Path::new(directory).join(self.credential);
                if path.exists() { read_file(&path, Checked::Nothing).map(Some) } else { Ok(None) }
            }
            None => Ok(None),
        }
    }

    fn ask(&self, prompt: &str) -> Result<SecretString, SecretError> {
        if !io::stdin().is_terminal() {
            return Err(SecretError::NoTerminal { option: self.option });
        }
        let secret = SecretString::from(rpassword::prompt_password(prompt).map_err(SecretError::Prompt)?);
        if secret.expose_secret().is_empty() { Err(SecretError::Empty) } else { Ok(secret) }
    }
}

/// Refuses a file that others than its owner, who is you or root, can read or change.
///
/// # Errors
/// [`SecretError::Open`], [`SecretError::Read`]
pub fn check_private(file: &File, path: &Path) -> Result<(), SecretError> {
    let metadata = file.metadata().map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
    private_file::check(&metadata).map_err(|why| SecretError::Open { path: path.to_owned(), why })
}

enum Checked {
    ModeAndOwner,
    Nothing,
}

fn read_file(path: &Path, checked: Checked) -> Result<SecretString, SecretError> {
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if matches!(checked, Checked::ModeAndOwner) {
        check_private(&file, path)?;
    }
    let line = private_file::read_line(file, SECRET_LIMIT).map_err(failed)?;
    line.ok_or_else(|| SecretError::Form { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(content: &[u8], mode: u32) -> (tempfile::TempDir, SecretSource) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        std::fs::write(&path, content).expect("writable");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        (directory, SecretSource { file: Some(path), credential: "none", option: "--passphrase-file" })
    }

    #[test]
    fn the_line_of_a_private_file_is_the_secret() {
        for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let (_directory, source) = source(content.as_bytes(), 0o600);
            assert_eq!(source.read("").expect("good").expose_secret(), "correct horse");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_its_content_not_shown() {
        for mode in [0o640, 0o604, 0o660, 0o610] {
            let (_directory, source) = source(b"correct horse", mode);
            let error = source.read("").expect_err("refused");
            assert!(matches!(error, SecretError::Open { why: NotPrivate::Mode { .. }, .. }), "{error}");
            assert!(!error.to_string().contains("horse"));
        }
    }

    #[test]
    fn what_is_not_one_line_is_refused() {
        let long = vec![b'x'; SECRET_LIMIT + 1];
        for content in [b"".as_slice(), b"\n", b"a\nb\n", b"a\0b", b"\xff", &long] {
            let (_directory, source) = source(content, 0o600);
            assert!(matches!(source.read(""), Err(SecretError::Form { .. })));
        }
    }
}
