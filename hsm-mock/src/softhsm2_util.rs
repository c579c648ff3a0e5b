//! `softhsm2-util`, run so that no PIN is in an argument list.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use secrecy::{ExposeSecret, SecretString};

use crate::TokenError;

/// Initialises a token in the first free slot of the configuration.
///
/// The tool takes a PIN that is not among its arguments only from a terminal, so it gets one of its
/// own, in which the answers (each PIN is asked for twice) already wait.
pub(crate) fn initialise(
    config: &Path,
    label: &str,
    pin: &SecretString,
    so_pin: &SecretString,
) -> Result<(), TokenError> {
    let terminal = |source| TokenError::Terminal { source };
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(terminal)?;
    grantpt(&ours).map_err(terminal)?;
    unlockpt(&ours).map_err(terminal)?;
    let name = ptsname(&ours, Vec::new()).map_err(terminal)?;
    let theirs = rustix::fs::open(
        OsStr::from_bytes(name.as_bytes()),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(terminal)?;

    let mut ours = File::from(ours);
    for secret in [so_pin, so_pin, pin, pin] {
        writeln!(ours, "{}", secret.expose_secret())
            .map_err(|source| TokenError::Io { path: OsStr::from_bytes(name.as_bytes()).into(), source })?;
    }
    let arguments = ["--init-token", "--free", "--label", label];
    run(config, &arguments, Stdio::from(theirs)).map(drop)
}

/// The serial numbers of the initialised tokens of the configuration.
pub(crate) fn serials(config: &Path) -> Result<Vec<String>, TokenError> {
    let listing = run(config, &["--show-slots"], Stdio::null())?;
    Ok(listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Serial number:"))
        .map(|serial| serial.trim().to_owned())
        .filter(|serial| !serial.is_empty())
        .collect())
}

fn run(config: &Path, arguments: &[&str], stdin: Stdio) -> Result<String, TokenError> {
    let tool = std::env::var_os("SOFTHSM2_UTIL").unwrap_or_else(|| OsString::from("softhsm2-util"));
    let output =
        Command::new(&tool).args(arguments).env("SOFTHSM2_CONF", config).stdin(stdin).output().map_err(
            |source| match source.kind() {
                std::io::ErrorKind::NotFound => TokenError::NoUtil,
                _ => TokenError::Io { path: tool.into(), source },
            },
        )?;
    if !output.status.success() {
        return Err(TokenError::Util {
            command: arguments[0].to_owned(),
            status: output.status,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
