//! The epoch mark in a file, for a token that takes no data objects. It must not be on the disk of the database: one that is
//! put back to an older state would put both back.

use std::io::ErrorKind;
use std::path::Path;

use super::{DeviceError, EpochMark, read_mark, write_mark};
use crate::whole_file;

/// The mark; none if there is no file.
///
/// # Errors
/// [`DeviceError::Setup`], if there is one that cannot be read or is no mark.
pub(super) fn read(path: &Path) -> Result<Vec<EpochMark>, DeviceError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            Ok(Vec::new())
        }
        Err(error) => Err(unusable(path, &error)),
        Ok(bytes) => match read_mark(&bytes) {
            Some(mark) => Ok(vec![mark]),
            None => Err(unusable(path, &"it holds no epoch mark")),
        },
    }
}

/// Puts a mark in the place of the one before, whole or not at all, and on disk when this returns.
///
/// # Errors
/// [`DeviceError::Setup`]
pub(super) fn put(path: &Path, mark: EpochMark) -> Result<(), DeviceError> {
    whole_file::replace(path, write_mark(mark).as_bytes()).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> DeviceError {
    DeviceError::Setup(format!(
        "the epoch file `{}` cannot be used: {why}; is the disk that it is on mounted?",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_replaces_the_one_before_and_a_disk_that_is_not_there_is_no_empty_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk/epoch");
        let error = read(&path).expect_err("no disk").to_string();
        assert!(error.contains("is the disk that it is on mounted?"), "{error}");
        std::fs::create_dir(directory.path().join("disk")).expect("mounted");
        assert_eq!(read(&path), Ok(vec![]));
        for epoch in [1, 2] {
            let mark = EpochMark { instance: [7; 16], epoch };
            put(&path, mark).expect("put");
            assert_eq!(read(&path), Ok(vec![mark]));
        }
        std::fs::write(&path, "rubbish").expect("written");
        assert!(read(&path).is_err());
    }
}
