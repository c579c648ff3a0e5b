//! The devices.

use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use assent_hsm_mock::{
    FaultModule, GOOGLE_ALGORITHM, Latency, P11KitProxy, SoftHsmToken, Vendor, find_kryoptic,
    kryoptic_configuration,
};
use assent_kms::device::Driver;
use assent_kms::device::pkcs11::{AlgorithmAttribute, KeyTemplate, Pkcs11Driver, Profile};
use assent_kms::device::yubihsm::{YubiHsmDriver, YubiHsmSettings};
use assent_kms::pin::PinSource;
use assent_yubihsm_simulator::{Capabilities, Settings, Simulator};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use secrecy::ExposeSecret as _;

/// One device, and how a KMS is connected to it.
pub struct TestedDevice {
    connect: Box<dyn Fn(PinSource) -> Arc<dyn Driver>>,
    pin_file: PathBuf,
    directory: PathBuf,
    _kept: Box<dyn Any>,
}

impl TestedDevice {
    /// A new driver with the right PIN.
    pub fn driver(&self) -> Arc<dyn Driver> {
        (self.connect)(self.pin(&self.pin_file))
    }

    /// A new driver with the PIN of a file.
    pub fn driver_with(&self, pin: PinSource) -> Arc<dyn Driver> {
        (self.connect)(pin)
    }

    /// The PIN in a file, with marks beside it.
    pub fn pin(&self, file: &Path) -> PinSource {
        PinSource::new(&"main".parse().expect("a name"), Some(file), &self.directory).expect("a file")
    }

    /// A file with a PIN that is not the right one.
    pub fn wrong_pin(&self) -> PinSource {
        let file = self.directory.join("wrong-pin");
        write_secret(&file, "not the right one");
        self.pin(&file)
    }

    /// The right PIN.
    pub fn right_pin(&self) -> PinSource {
        self.pin(&self.pin_file)
    }
}

fn write_secret(file: &Path, secret: &str) {
    fs::write(file, secret).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("set");
}

fn pkcs11(
    token: &SoftHsmToken,
    module: &Path,
    uri: String,
    profile: Profile,
    kept: impl Any,
) -> TestedDevice {
    let module = module.to_owned();
    let connect = move |pin| -> Arc<dyn Driver> {
        Arc::new(Pkcs11Driver::new(&module, &uri, pin, profile.clone()).expect("a good URI"))
    };
    TestedDevice {
        connect: Box::new(connect),
        pin_file: token.pin_file().to_owned(),
        directory: token.directory().to_owned(),
        _kept: Box::new(kept),
    }
}

pub fn softhsm(token: &SoftHsmToken) -> TestedDevice {
    pkcs11(token, token.module(), token.uri(), Profile::default(), ())
}

pub fn softhsm_behind_the_fault_module(token: &SoftHsmToken) -> TestedDevice {
    let faults = FaultModule::over(token.module(), token.directory()).expect("built");
    let module = faults.module().to_owned();
    pkcs11(token, &module, token.uri(), Profile::default(), faults)
}

pub fn p11_kit_proxy(token: &SoftHsmToken) -> TestedDevice {
    let proxy = P11KitProxy::over(token).expect("written").expect("`scripts/setup --test` installs p11-kit");
    let module = proxy.module().to_owned();
    pkcs11(token, &module, token.uri(), Profile::default(), proxy)
}

/// A token of Kryoptic's with the PINs of the SoftHSM token.
pub fn kryoptic(token: &SoftHsmToken) -> TestedDevice {
    let module = find_kryoptic().expect("`scripts/setup --test` builds Kryoptic");
    kryoptic_configuration(token).expect("written");
    let context = Pkcs11::new(&module).expect("loaded");
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("initialised");
    let slot = context.get_slots_with_token().expect("slots")[0];
    let pin = |secret: &secrecy::SecretString| secret.expose_secret().to_owned().into();
    context.init_token(slot, &pin(token.so_pin()), "kryoptic").expect("a token");
    let session = context.open_rw_session(slot).expect("a session");
    session.login(UserType::So, Some(&pin(token.so_pin()))).expect("logged in");
    session.init_pin(&pin(token.pin())).expect("a PIN");
    session.close().expect("closed");
    context.finalize().expect("finalised");
    pkcs11(token, &module, "pkcs11:token=kryoptic".into(), Profile::default(), ())
}

fn vendor(token: &SoftHsmToken, vendor: Vendor, profile: Profile) -> TestedDevice {
    let mut faults = FaultModule::over(token.module(), token.directory()).expect("built");
    faults.be(Latency::AsIs, Some(vendor)).expect("written");
    let module = faults.module().to_owned();
    pkcs11(token, &module, token.uri(), profile, faults)
}

/// The epoch is in a file, since there are no data objects.
fn without_data_objects(token: &SoftHsmToken) -> Profile {
    Profile { epoch_file: Some(token.directory().join("epoch")), ..Profile::default() }
}

pub fn net_hsm(token: &SoftHsmToken) -> TestedDevice {
    vendor(token, Vendor::NetHsm, without_data_objects(token))
}

pub fn ykcs11(token: &SoftHsmToken) -> TestedDevice {
    vendor(token, Vendor::Ykcs11, without_data_objects(token))
}

pub fn cloud_hsm(token: &SoftHsmToken) -> TestedDevice {
    vendor(token, Vendor::CloudHsm, without_data_objects(token))
}

pub fn google_kms(token: &SoftHsmToken) -> TestedDevice {
    assert_eq!(u64::from(AlgorithmAttribute::GOOGLE.attribute), GOOGLE_ALGORITHM);
    let profile = Profile {
        key_template: KeyTemplate::LabelOnly,
        algorithm_attribute: Some(AlgorithmAttribute::GOOGLE),
        ..without_data_objects(token)
    };
    vendor(token, Vendor::GoogleKms, profile)
}

/// The simulator behind its connector, with an authentication key for the KMS whose password is the PIN.
pub fn yubihsm_simulator(token: &SoftHsmToken) -> TestedDevice {
    const OWN_KEY: u16 = 2;
    let simulator = Simulator::start(Settings::default()).expect("started");
    let password = token.pin().expose_secret();
    simulator.put_authentication_key(OWN_KEY, password, Capabilities::KMS, Capabilities::SIGN_ECDSA);
    let connector = simulator.url();
    let connect = move |pin| -> Arc<dyn Driver> {
        let settings = YubiHsmSettings {
            connector: connector.clone(),
            serial: None,
            authentication_key: OWN_KEY,
            wrap_key: None,
            call_timeout: Duration::from_secs(5),
            log_poll: Duration::from_secs(10),
        };
        Arc::new(YubiHsmDriver::new(settings, pin).expect("good settings"))
    };
    TestedDevice {
        connect: Box::new(connect),
        pin_file: token.pin_file().to_owned(),
        directory: token.directory().to_owned(),
        _kept: Box::new(simulator),
    }
}
