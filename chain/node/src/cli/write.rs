//! Writing files so that each is there whole or not at all, also after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// What becomes of a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It stays, and nothing is written.
    Refuse,
    /// It is replaced.
    Replace,
}

/// Writes a file of mode 0644.
pub(super) fn file(path: &Path, bytes: &[u8], existing: Existing) -> Result<(), Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::failed(format!("cannot write `{}`: {error}", path.display())),
    };
    let temporary = temporary(path);
    let written = write(&temporary, bytes).and_then(|()| match existing {
        Existing::Replace => fs::rename(&temporary, path),
        // A link, unlike a rename, never replaces.
        Existing::Refuse => fs::hard_link(&temporary, path),
    });
    if written.is_err() || existing == Existing::Refuse {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync(directory(path))).map_err(failed)
}

/// Makes a directory, unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path)
        .map_err(|error| Failure::failed(format!("cannot make the directory `{}`: {error}", path.display())))
}

/// The refusal to overwrite.
pub(super) fn exists(path: &Path) -> Failure {
    Failure::failed(format!("`{}` is there already, and is not overwritten", path.display()))
        .help("give another place, or move the file away")
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A name beside `path` that nobody else uses.
fn temporary(path: &Path) -> PathBuf {
    let name = format!(".assent-{}-{}.tmp", std::process::id(), uuid::Uuid::now_v7().simple());
    directory(path).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_where_that_is_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        file(&path, b"one", Existing::Refuse).expect("new");
        assert!(file(&path, b"two", Existing::Refuse).is_err());
        assert_eq!(fs::read(&path).expect("there"), b"one");
        file(&path, b"two", Existing::Replace).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"two");
        let left: Vec<_> = fs::read_dir(directory.path()).expect("readable").collect();
        assert_eq!(left.len(), 1, "no temporary file stays behind");
    }
}
