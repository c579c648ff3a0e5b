//! Reading the files that a command line names.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use assent_consensus::digest::Digest;
use assent_consensus::genesis::{GENESIS_LIMIT, Genesis};
use assent_consensus::jwk::PublicKey;
use assent_consensus::operational_key::KeyFile;
use assent_consensus::{json, policy};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};

use super::failure::{Exit, Failure};

/// The largest JWK or other short file, in bytes.
pub(super) const SHORT_LIMIT: usize = 64 * 1024;
/// The largest policy or process document, in bytes.
pub(super) const DOCUMENT_LIMIT: usize = policy::DOCUMENT_LIMIT;
/// Bytes that are hashed at once.
const CHUNK: usize = 256 * 1024;
/// How long hashing a file may take before a progress bar is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// The whole content of a file of 1 to `limit` bytes.
pub(super) fn file(path: &Path, what: &str, limit: usize) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| {
        let failure = Failure::failed(format!("cannot read the {what} `{shown}`: {}", cause(&error)));
        match error.kind() {
            io::ErrorKind::NotFound => failure.help("check the path"),
            io::ErrorKind::IsADirectory => failure.help("name a file in it"),
            io::ErrorKind::PermissionDenied => failure.help("check who may read it"),
            _ => failure,
        }
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() {
        0 => Err(Failure::failed(format!("the {what} `{shown}` is empty"))),
        length if length > limit => {
            Err(Failure::failed(format!("the {what} `{shown}` has more than {limit} bytes")))
        }
        _ => Ok(bytes),
    }
}

/// A text file of 1 to `limit` bytes.
pub(super) fn text(path: &Path, what: &str, limit: usize) -> Result<String, Failure> {
    String::from_utf8(file(path, what, limit)?)
        .map_err(|error| Failure::failed(format!("the {what} `{}` is not UTF-8: {error}", path.display())))
}

/// A genesis file, checked whole; one that is not valid is `exit`'s.
pub(super) fn genesis(path: &Path, exit: Exit) -> Result<Genesis, Failure> {
    let bytes = file(path, "genesis file", GENESIS_LIMIT)?;
    Genesis::parse(&bytes).map_err(|error| Failure::new(exit, format!("`{}`: {error}", path.display())))
}

/// A public key from a file with its JWK.
pub(super) fn jwk(path: &Path) -> Result<PublicKey, Failure> {
    let bytes = file(path, "JWK", SHORT_LIMIT)?;
    json::read(&bytes).map_err(|error| {
        Failure::failed(format!("`{}` is not the JWK of a P-256 public key: {error}", path.display()))
            .help("`assent key show` and `assent-kms key create` print JWKs")
    })
}

/// An operational key from the file that the KMS wrote of it.
pub(super) fn key_file(path: &Path) -> Result<KeyFile, Failure> {
    let bytes = file(path, "key file", SHORT_LIMIT)?;
    json::read(&bytes).map_err(|error| {
        Failure::failed(format!("`{}` is not the file of an operational key: {error}", path.display()))
            .help("`assent-kms key create --key NAME --out FILE` and `key adopt` write them")
    })
}

/// The digest and size of a file of any size.
pub(super) fn digest(path: &Path) -> Result<(Digest, u64), Failure> {
    let failed = |error: io::Error| {
        Failure::failed(format!("cannot read the file `{}`: {}", path.display(), cause(&error)))
    };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let (mut chunk, begun) = (vec![0; CHUNK], Instant::now());
    let mut bar: Option<ProgressBar> = None;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hasher.update(&chunk[..read]);
        size += read as u64;
        if bar.is_none() && begun.elapsed() > PATIENCE && io::stderr().is_terminal() {
            bar = Some(
                ProgressBar::new(length).with_style(
                    ProgressStyle::with_template("hashing {bar:40} {bytes}/{total_bytes}, {eta} left")
                        .expect("the template is well formed"),
                ),
            );
        }
        if let Some(bar) = &bar {
            bar.set_position(size);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok((Digest::from_bytes(hasher.finalize().into()), size))
}

/// An I/O error in words, without the number of the operating system.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        io::ErrorKind::PermissionDenied => "you may not read it".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hashed_in_pieces_as_if_it_were_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..CHUNK * 2 + 17).map(|at| at as u8).collect();
        std::fs::write(&path, &bytes).expect("writable");
        assert_eq!(digest(&path).expect("readable"), (Digest::of(&bytes), bytes.len() as u64));
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("missing");
        let (empty, long) = (directory.path().join("empty"), directory.path().join("long"));
        std::fs::write(&empty, "").expect("writable");
        std::fs::write(&long, "12345").expect("writable");
        for (path, why) in [
            (missing.as_path(), "no such file"),
            (directory.path(), "a directory"),
            (&empty, "is empty"),
            (&long, "more than 4 bytes"),
        ] {
            let failure = file(path, "policy", 4).expect_err("refused");
            assert!(failure.message().contains(why), "{}", failure.message());
        }
    }
}
