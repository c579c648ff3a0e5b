//! The token's PIN: read from a file that nobody else can read, and tried once (invariant I12).
//!
//! Before each login a mark is put on disk, and removed when the login was right. While it is there nobody tries again by
//! himself: `assent-kms retry-pin` removes it. A mark that a crash left behind between the two says nothing of the PIN;
//! such a one is passed over once if the token reports no failed login and the PIN file is still the one with which the
//! last login was right.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use assent_consensus::name::Name;
use assent_edge::private_file::{self, NotPrivate};
use secrecy::SecretString;

use crate::whole_file;

/// The most bytes that a PIN may have.
pub const PIN_LIMIT: usize = 255;
/// The systemd credential that holds the PIN when no file is named: this, a hyphen, and the device's name.
pub const PIN_CREDENTIAL: &str = "assent-kms-pin";

/// Where the PIN is, and where its marks are.
#[derive(Clone, Debug)]
pub struct PinSource {
    device: Name,
    file: PathBuf,
    is_credential: bool,
    marks: PathBuf,
}

/// Why there is no PIN to be tried.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No file.
    #[error(
        "there is no PIN: name a file with `pin_file`, or pass the systemd credential `{PIN_CREDENTIAL}-{0}`"
    )]
    NoSource(Name),
    /// It cannot be read.
    #[error(
        "cannot read the PIN file `{}`: {source}; `pin_file` must name a file that the KMS's user can read",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("the PIN file `{}` {why}, and change the PIN", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// How.
        why: NotPrivate,
    },
    /// Not one line of text.
    #[error("the PIN file `{}` must hold one line of 1 to {PIN_LIMIT} bytes of UTF-8 and nothing else", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// The mark is there.
    #[error(
        "the PIN was wrong the last time, or a login was cut short, and it is not tried again by itself, so that the token \
         does not lock: check `{}`, then run `assent-kms retry-pin`",
        path.display()
    )]
    Marked {
        /// The PIN file.
        path: PathBuf,
    },
    /// The mark cannot be written.
    #[error(
        "cannot write `{}`, so the PIN is not tried: {source}; the state directory must be there, and writable for the KMS's \
         user alone",
        path.display()
    )]
    Mark {
        /// The mark.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PinSource {
    /// The PIN of a device in `file`, or in the systemd credential if no file is named; marks are in the directory `marks`.
    ///
    /// # Errors
    /// [`PinError::NoSource`]
    pub fn new(device: &Name, file: Option<&Path>, marks: &Path) -> Result<PinSource, PinError> {
        let (device, marks) = (device.clone(), marks.into());
        if let Some(file) = file {
            return Ok(PinSource { device, file: file.into(), is_credential: false, marks });
        }
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty());
        let directory = directory.ok_or_else(|| PinError::NoSource(device.clone()))?;
        let file = Path::new(&directory).join(format!("{PIN_CREDENTIAL}-{device}"));
        Ok(PinSource { device, file, is_credential: true, marks })
    }

    /// The file with the PIN.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Puts the mark on disk and gives the PIN, to be tried once. `failed_login` is whether the token reports one.
    ///
    /// # Errors
    /// [`PinError`]
    pub fn begin(&self, failed_login: bool) -> Result<SecretString, PinError> {
        let (pin, fingerprint) = self.read()?;
        let mark = self.mark();
        match std::fs::read_to_string(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PinError::Mark { path: mark, source }),
            Ok(text) => {
                let was_right =
                    std::fs::read_to_string(self.last_right()).is_ok_and(|text| text == fingerprint);
                if text != TRYING || failed_login || !was_right {
                    return Err(PinError::Marked { path: self.file.clone() });
                }
                self.put(&mark, TRYING_AGAIN)?;
                return Ok(pin);
            }
        }
        self.put(&mark, TRYING)?;
        Ok(pin)
    }

    /// The login was right: removes the mark.
    ///
    /// # Errors
    /// [`PinError::Mark`]
    pub fn was_right(&self) -> Result<(), PinError> {
        let (_, fingerprint) = self.read()?;
        if !std::fs::read_to_string(self.last_right()).is_ok_and(|text| text == fingerprint) {
            self.put(&self.last_right(), &fingerprint)?;
        }
        self.forget()
    }

    /// The login was wrong: the mark stays, and says so.
    ///
    /// # Errors
    /// [`PinError::Mark`]
    pub fn was_wrong(&self) -> Result<(), PinError> {
        self.put(&self.mark(), WRONG)
    }

    /// The token was gone, or somebody was logged in, before the PIN was looked at: removes the mark.
    ///
    /// # Errors
    /// [`PinError::Mark`]
    pub fn was_not_tried(&self) -> Result<(), PinError> {
        self.forget()
    }

    /// Removes the mark, because a person says that the PIN may be tried; whether there was one.
    ///
    /// # Errors
    /// [`PinError::Mark`]
    pub fn retry(&self) -> Result<bool, PinError> {
        let was_there = self.mark().exists();
        self.forget()?;
        Ok(was_there)
    }

    /// Whether the mark is there.
    pub fn is_marked(&self) -> bool {
        self.mark().exists()
    }

    fn forget(&self) -> Result<(), PinError> {
        let mark = self.mark();
        let failed = |source| PinError::Mark { path: mark.clone(), source };
        whole_file::remove(&mark).and_then(|()| whole_file::sync_directory(&self.marks)).map_err(failed)
    }

    fn mark(&self) -> PathBuf {
        self.marks.join(format!("pin-in-use-{}", self.device))
    }

    fn last_right(&self) -> PathBuf {
        self.marks.join(format!("pin-last-right-{}", self.device))
    }

    fn put(&self, path: &Path, text: &str) -> Result<(), PinError> {
        whole_file::replace(path, text.as_bytes())
            .map_err(|source| PinError::Mark { path: path.to_owned(), source })
    }

    /// The PIN, and by what its file is known again: nothing of its content.
    fn read(&self) -> Result<(SecretString, String), PinError> {
        let path = || self.file.clone();
        let failed = |source| PinError::Read { path: path(), source };
        let (file, metadata) = private_file::open(&self.file).map_err(failed)?;
        // systemd mounts credentials so that only the unit's user can read them, with modes of its own.
        if !self.is_credential {
            private_file::check(&metadata).map_err(|why| PinError::Open { path: path(), why })?;
        }
        let line = private_file::read_line(file, PIN_LIMIT).map_err(failed)?;
        let pin = line.ok_or_else(|| PinError::Form { path: path() })?;
        let fingerprint = format!(
            "{} {} {} {}.{:09}\n",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        Ok((pin, fingerprint))
    }
}

const TRYING: &str = "the PIN is being tried\n";
const TRYING_AGAIN: &str = "the PIN is being tried again after a login that was cut short\n";
const WRONG: &str = "the PIN was wrong\n";

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn main() -> Name {
        "main".parse().expect("a name")
    }

    fn source(content: &[u8], mode: u32) -> (tempfile::TempDir, PinSource) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pin");
        std::fs::write(&path, content).expect("writable");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        let source = PinSource::new(&main(), Some(&path), directory.path()).expect("a source");
        (directory, source)
    }

    #[test]
    fn the_line_of_a_private_file_is_the_pin() {
        for content in ["1234", "1234\n", "1234\r\n"] {
            let (_directory, source) = source(content.as_bytes(), 0o600);
            assert_eq!(source.begin(false).expect("good").expose_secret(), "1234");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_its_content_not_shown() {
        for mode in [0o640, 0o604, 0o660, 0o610, 0o602] {
            let (_directory, source) = source(b"31415", mode);
            let error = source.begin(false).expect_err("refused");
            assert!(matches!(error, PinError::Open { why: NotPrivate::Mode { .. }, .. }), "{error}");
            assert!(!error.to_string().contains("31415"));
        }
    }

    #[test]
    fn what_is_not_one_line_or_no_file_is_refused() {
        let long = [b'x'; PIN_LIMIT + 1];
        for content in [b"".as_slice(), b"\n", b"a\nb\n", b"a\0b", b"\xff", &long] {
            let (_directory, source) = source(content, 0o600);
            assert!(matches!(source.begin(false), Err(PinError::Form { .. })));
        }
        let directory = tempfile::tempdir().expect("a directory");
        let source = |path: &Path| PinSource::new(&main(), Some(path), directory.path()).expect("a source");
        assert!(matches!(source(directory.path()).begin(false), Err(PinError::Read { .. })));
        assert!(matches!(source(&directory.path().join("none")).begin(false), Err(PinError::Read { .. })));
    }

    #[test]
    fn a_wrong_pin_is_not_tried_again_before_a_person_says_so() {
        let (_directory, source) = source(b"1234", 0o600);
        source.begin(false).expect("the first try");
        source.was_wrong().expect("marked");
        assert!(matches!(source.begin(false), Err(PinError::Marked { .. })));
        assert!(matches!(source.begin(false), Err(PinError::Marked { .. })));
        assert!(source.retry().expect("removed"));
        source.begin(false).expect("a person said so");
        source.was_right().expect("unmarked");
        source.begin(false).expect("it was right");
    }

    #[test]
    fn a_login_that_was_cut_short_is_tried_again_once_and_only_if_nothing_says_that_the_pin_was_wrong() {
        let (directory, source) = source(b"1234", 0o600);
        source.begin(false).expect("the first try");
        assert!(matches!(source.begin(false), Err(PinError::Marked { .. })), "it was never right");
        source.retry().expect("removed");
        source.begin(false).expect("a try");
        source.was_right().expect("right");
        source.begin(false).expect("cut short");
        assert!(
            matches!(source.begin(true), Err(PinError::Marked { .. })),
            "the token reports a failed login"
        );
        source.begin(false).expect("once more");
        assert!(matches!(source.begin(false), Err(PinError::Marked { .. })), "not twice");
        source.was_right().expect("right");
        source.begin(false).expect("cut short again");
        std::fs::write(directory.path().join("other"), "4321").expect("writable");
        std::fs::set_permissions(directory.path().join("other"), Permissions::from_mode(0o600))
            .expect("ours");
        std::fs::rename(directory.path().join("other"), source.path()).expect("replaced");
        assert!(matches!(source.begin(false), Err(PinError::Marked { .. })), "another PIN file");
    }
}
