//! The device that holds a deployment's keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use assent_hsm_mock::SoftHsmToken;
use assent_yubihsm_simulator::{Capabilities, Settings, Simulator};

/// The KMS's authentication key on the YubiHSM, and its password.
const AUTHENTICATION_KEY: u16 = 2;
const PASSWORD: &str = "correct horse";
/// The wrap key under which keys go to another YubiHSM.
const WRAP_KEY: u16 = 3;

/// A throw-away token, or a simulated YubiHSM 2.
pub(super) enum KmsDevice {
    SoftHsm(SoftHsmToken),
    YubiHsm(Box<Simulator>),
}

/// A new YubiHSM, made ready for a KMS, with the wrap key that all of them have.
///
/// # Errors
/// It cannot be started.
pub fn yubihsm(serial: u32) -> Result<Simulator> {
    let settings = Settings { serial, ..Settings::default() };
    let simulator = Simulator::start(settings).context("the KMS's YubiHSM")?;
    let own = Capabilities::KMS
        | Capabilities::EXPORT_WRAPPED
        | Capabilities::IMPORT_WRAPPED
        | Capabilities::SIGN_ATTESTATION_CERTIFICATE;
    let delegated = Capabilities::SIGN_ECDSA | Capabilities::EXPORTABLE_UNDER_WRAP;
    simulator.put_authentication_key(AUTHENTICATION_KEY, PASSWORD, own, delegated);
    simulator.put_wrap_key(WRAP_KEY, [5; 32]);
    Ok(simulator)
}

impl KmsDevice {
    pub(super) fn new_soft_hsm() -> Result<KmsDevice> {
        Ok(KmsDevice::SoftHsm(SoftHsmToken::create("assent").context("the KMS's token")?))
    }

    /// A new YubiHSM, made ready for a KMS.
    pub(super) fn new_yubihsm() -> Result<KmsDevice> {
        Ok(KmsDevice::YubiHsm(Box::new(yubihsm(7_550_001)?)))
    }

    pub(super) fn token(&self) -> &SoftHsmToken {
        match self {
            KmsDevice::SoftHsm(token) => token,
            KmsDevice::YubiHsm(_) => panic!("this deployment has a YubiHSM"),
        }
    }

    pub(super) fn yubihsm(&self) -> &Simulator {
        match self {
            KmsDevice::YubiHsm(simulator) => simulator,
            KmsDevice::SoftHsm(_) => panic!("this deployment has a token"),
        }
    }

    /// Its part of the KMS's configuration. A password is put into a file in the directory `here`.
    pub(super) fn toml(&self, here: &Path) -> Result<String> {
        match self {
            KmsDevice::SoftHsm(token) => Ok(format!(
                "[[device]]\nname = \"main\"\ndriver = \"pkcs11\"\nmodule = {:?}\ntoken = \"{}\"\npin_file = {:?}\n\
                 sessions = 4\n",
                token.module(),
                token.uri(),
                token.pin_file()
            )),
            KmsDevice::YubiHsm(simulator) => {
                let file = here.join("yubihsm-password");
                fs::write(&file, PASSWORD)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
                Ok(format!(
                    "[[device]]\nname = \"main\"\ndriver = \"yubihsm\"\nconnector = \"{}\"\n\
                     authentication_key = {AUTHENTICATION_KEY}\nwrap_key = {WRAP_KEY}\nlog_poll = \"500ms\"\npin_file = {file:?}\nsessions = 4\n",
                    simulator.url()
                ))
            }
        }
    }

    /// What the KMS's environment must have.
    pub(super) fn environment(&self) -> Vec<(String, PathBuf)> {
        match self {
            KmsDevice::SoftHsm(token) => vec![("SOFTHSM2_CONF".to_owned(), token.config().to_owned())],
            KmsDevice::YubiHsm(_) => Vec::new(),
        }
    }
}
