//! Where SoftHSM's PKCS#11 module is.

use std::path::PathBuf;

use crate::TokenError;

/// The path of `libsofthsm2.so`: what `SOFTHSM2_MODULE` says, else the first that exists of the places
/// in which Debian, Fedora, Arch and Homebrew put it.
///
/// # Errors
///
/// [`TokenError::NoModule`] with the command that installs it, [`TokenError::NamedModuleMissing`].
pub fn find_module() -> Result<PathBuf, TokenError> {
    if let Some(named) = std::env::var_os("SOFTHSM2_MODULE").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(named) } else { Err(TokenError::NamedModuleMissing { path: named }) };
    }
    WELL_KNOWN.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or(TokenError::NoModule)
}

const WELL_KNOWN: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/opt/softhsm/lib/softhsm/libsofthsm2.so",
    "/usr/local/opt/softhsm/lib/softhsm/libsofthsm2.so",
];
