//! Files with secrets, which nobody else can read: their owner and mode, and secrets of one line.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

/// Why a file or directory is not private; its name stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPrivate {
    /// Its mode lets others in.
    #[error("can be read or changed by others (mode {mode:04o}): run `chmod 600` on it")]
    Mode {
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("belongs to user {owner}, not to the user of this program or root: run `chown` on it")]
    Owner {
        /// Its owner.
        owner: u32,
    },
}

/// Refuses what others than its owner, who is this user or root, can read or change.
///
/// # Errors
/// [`NotPrivate`]
pub fn check(metadata: &Metadata) -> Result<(), NotPrivate> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(NotPrivate::Owner { owner });
    }
    if mode & 0o077 != 0 {
        return Err(NotPrivate::Mode { mode });
    }
    Ok(())
}

/// Opens a file, and never waits for what is none, such as a pipe.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no regular file")) }
}

/// The one line of text of 1 to `limit` bytes that a file holds; nothing, if it holds something else.
///
/// # Errors
/// It cannot be read.
pub fn read_line(file: impl Read, limit: usize) -> io::Result<Option<SecretString>> {
    // As much as shows that there is more than a line. Room for all of it at once, so that no copy is left behind when the
    // buffer grows.
    let most = limit + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    file.take(most as u64).read_to_end(&mut bytes)?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(None) };
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let is_line = (1..=limit).contains(&line.len()) && !line.contains(['\n', '\r', '\0']);
    Ok(is_line.then(|| SecretString::from(line)))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn only_what_nobody_else_can_read_or_change_is_private() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for mode in [0o600, 0o400, 0o640, 0o604, 0o660, 0o610, 0o602, 0o4600] {
            file.as_file().set_permissions(Permissions::from_mode(mode)).expect("ours");
            let checked = check(&file.as_file().metadata().expect("there"));
            let expected = if mode & 0o077 == 0 { Ok(()) } else { Err(NotPrivate::Mode { mode }) };
            assert_eq!(checked, expected, "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(open(directory.path()).is_err());
        assert!(open(&directory.path().join("none")).is_err());
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("made");
        assert!(open(&pipe).is_err(), "at once, although nobody writes");
    }

    #[test]
    fn a_secret_is_one_line() {
        let line = |content: &[u8]| {
            let line = read_line(content, 5).expect("it can be read");
            line.map(|line| line.expose_secret().to_owned())
        };
        for content in ["abcde", "abcde\n", "abcde\r\n"] {
            assert_eq!(line(content.as_bytes()).as_deref(), Some("abcde"));
        }
        for content in [&b""[..], b"\n", b"a\nb\n", b"a\n\n", b"a\0b", b"\xff", b"abcdef", b"abcde\r\nx"] {
            assert_eq!(line(content), None, "{content:?}");
        }
    }
}
