//! PKCS#11 modules of other people, for tests that are to hold for more than SoftHSM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::SoftHsmToken;

/// p11-kit's proxy with a SoftHSM token behind it and nothing else.
///
/// What must be in the environment of a process that loads [`module`](Self::module): [`variable`](Self::variable) beside
/// the token's own `SOFTHSM2_CONF`.
#[derive(Debug)]
pub struct P11KitProxy {
    module: PathBuf,
    home: PathBuf,
}

impl P11KitProxy {
    /// Writes the proxy's configuration into the token's directory; nothing if p11-kit is not installed.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn over(token: &SoftHsmToken) -> io::Result<Option<P11KitProxy>> {
        let Some(module) = PROXIES.iter().map(PathBuf::from).find(|path| path.is_file()) else {
            return Ok(None);
        };
        let proxy = P11KitProxy { module, home: token.directory().join(P11_KIT_HOME) };
        let modules = proxy.home.join("pkcs11/modules");
        fs::create_dir_all(&modules)?;
        // No module of the system's configuration: pkcs11.conf(5).
        fs::write(proxy.home.join("pkcs11/pkcs11.conf"), "user-config: only\n")?;
        fs::write(modules.join("softhsm.module"), format!("module: {}\n", token.module().display()))?;
        Ok(Some(proxy))
    }

    /// The proxy: the path to load.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A name and its value.
    pub fn variable(&self) -> (&'static str, &Path) {
        (P11_KIT_VARIABLE, &self.home)
    }
}

/// Kryoptic, a token in Rust of other people, built by `scripts/setup --test`; nothing if it was not.
pub fn find_kryoptic() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Some(manifest.join(KRYOPTIC)).filter(|path| path.is_file())
}

/// Has Kryoptic keep its token, which is not initialised yet, in the token's directory: in a process whose `KRYOPTIC_CONF`
/// is [`run_with_token`](crate::run_with_token)'s.
///
/// # Errors
/// The directory cannot be written.
pub fn kryoptic_configuration(token: &SoftHsmToken) -> io::Result<()> {
    let database = token.directory().join("kryoptic.sql");
    let text = format!("[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n", database.display());
    fs::write(token.directory().join(KRYOPTIC_FILE), text)
}

pub(crate) const P11_KIT_VARIABLE: &str = "XDG_CONFIG_HOME";
pub(crate) const P11_KIT_HOME: &str = "p11-kit";
/// Where Kryoptic keeps its token: `KRYOPTIC_CONF` names a configuration file.
pub(crate) const KRYOPTIC_VARIABLE: &str = "KRYOPTIC_CONF";
pub(crate) const KRYOPTIC_FILE: &str = "kryoptic.conf";
const KRYOPTIC: &str = "../target/tools-kryoptic/release/libassent_kryoptic.so";

const PROXIES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib64/p11-kit-proxy.so",
    "/usr/lib/p11-kit-proxy.so",
    "/opt/homebrew/lib/p11-kit-proxy.so",
];
