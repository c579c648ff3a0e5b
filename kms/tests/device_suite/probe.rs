//! What `assent-kms doctor --probe` finds out about each maker's tokens, without a word from the configuration.

use assent_hsm_mock::{FaultModule, Latency, Vendor, with_token};
use assent_kms::device::pkcs11::{Pkcs11Driver, Probe, Profile};
use assent_kms::pin::PinSource;

fn words(probe: &Probe) -> Vec<String> {
    let keys = probe.configuration().into_iter();
    keys.map(|line| line.split(" = ").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_probe_finds_what_each_maker_demands_and_leaves_nothing_behind() {
    with_token!("probed", |token| {
        let mut faults = FaultModule::over(token.module(), token.directory()).expect("built");
        let pin = PinSource::new(&"main".parse().expect("a name"), Some(token.pin_file()), token.directory());
        let driver =
            Pkcs11Driver::new(faults.module(), &token.uri(), pin.expect("a file"), Profile::default())
                .expect("a good URI");
        for (vendor, needs) in [
            (None, &[][..]),
            (Some(Vendor::NetHsm), &["epoch_file"]),
            (Some(Vendor::Ykcs11), &["epoch_file"]),
            (Some(Vendor::CloudHsm), &["epoch_file"]),
            (Some(Vendor::GoogleKms), &["key_template", "algorithm_attribute", "epoch_file"]),
        ] {
            faults.be(Latency::AsIs, vendor).expect("written");
            let probe = driver.probe().expect("probed");
            assert!(probe.key_template.is_some(), "{vendor:?}: {probe:?}");
            assert_eq!(words(&probe), needs, "{vendor:?}: {probe:?}");
            assert_eq!(probe.algorithms.len(), 4, "{vendor:?}: {probe:?}");
        }
        faults.be(Latency::AsIs, None).expect("written");
        let mut device = assent_kms::device::Driver::connect(&driver).expect("a session");
        assert_eq!(device.list(), Ok(vec![]));
    });
}
