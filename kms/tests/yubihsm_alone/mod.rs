//! What an operator sees of a KMS that has a YubiHSM 2 and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::adoption::entries;
use crate::daemon::{Home, done, refused};
use assent_yubihsm_simulator::{Capabilities, Fault, Firmware, Settings, Simulator, What};
use yubihsm::object::Label;
use yubihsm::{Capability, Client, Connector, Credentials, Domain, HttpConfig, asymmetric};

const OWN_PASSWORD: &str = "correct horse";

/// The device's administrator, or whoever has his password.
fn somebody_else(simulator: &Simulator) -> Client {
    let connector = Connector::http(&HttpConfig { port: simulator.port(), ..HttpConfig::default() });
    Client::open(connector, Credentials::default(), false).expect("a session")
}

/// A KMS over a new device, as an operator sets it up.
fn set_up(firmware: Firmware) -> (Home, Simulator) {
    let (home, simulator, device) = device(firmware);
    fs::write(home.path("kms.toml"), format!("{HEAD}{device}")).expect("written");
    done(&home.run(&["init"]));
    (home, simulator)
}

const HEAD: &str = "state_directory = \"state\"\nsocket = \"kms.sock\"\nadmin_socket = \"admin.sock\"\n";

/// A new device, and what the configuration says of it. The poll is short, so that the test is.
fn device(firmware: Firmware) -> (Home, Simulator, String) {
    let simulator = Simulator::start(Settings { firmware, ..Settings::default() }).expect("started");
    simulator.put_authentication_key(2, OWN_PASSWORD, Capabilities::KMS, Capabilities::SIGN_ECDSA);
    let home = Home::new();
    fs::write(home.path("password"), OWN_PASSWORD).expect("written");
    fs::set_permissions(home.path("password"), fs::Permissions::from_mode(0o600)).expect("set");
    let device = format!(
        "[[device]]\nname = \"yubihsm\"\ndriver = \"yubihsm\"\nconnector = \"{}\"\nauthentication_key = 2\n\
         log_poll = \"200ms\"\npin_file = \"password\"\nsessions = 4\n",
        simulator.url()
    );
    (home, simulator, device)
}

#[test]
fn a_kms_with_a_yubihsm_alone_makes_keys_is_examined_and_finds_who_else_uses_them() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let (home, simulator) = set_up(firmware);
        let mut kms = home.serve();
        let view = home.json(&["key", "create", "--key", "release"]);
        let doctor = home.json(&["doctor"]);
        let findings = doctor["findings"].as_array().expect("a list");
        assert!(findings.iter().all(|finding| finding["well"] == true), "{doctor}");
        assert!(
            !findings
                .iter()
                .any(|finding| finding["what"].as_str().expect("text").starts_with("signature rate")),
            "{doctor}"
        );
        assert!(!kms.log.contains("alarm"), "{}", kms.log);

        let number = u16::from_str_radix(view["object"].as_str().expect("text"), 16).expect("a number");
        somebody_else(&simulator).sign_ecdsa_prehash_raw(number, vec![1; 32]).expect("signed");
        // It was not active yet: nobody can say any more that it is as good as new.
        kms.wait_for("the key is compromised");
        assert!(kms.log.contains("is not ours"), "{}", kms.log);
        assert_eq!(home.json(&["key", "list"])["keys"][0]["state"], "compromised");
        home.json(&["audit", "verify"]);
        assert_eq!(kms.stop(), Some(0));
        let kms = home.serve();
        assert!(!kms.log.contains("alarm"), "it is told once: {}", kms.log);
        assert_eq!(home.json(&["key", "list"])["keys"][0]["state"], "compromised");
        refused(
            &home.run(&["key", "resume", "--key", "release"]),
            1,
            "is compromised, and cannot become active",
        );
        assert_eq!(simulator.sessions().refused, 0);
    }
}

#[test]
fn a_key_that_was_on_the_device_before_is_taken_over() {
    let (home, simulator) = set_up(Firmware::V2_4);
    let before = somebody_else(&simulator);
    let (label, sign) = (|| Label::from("old"), Capability::SIGN_ECDSA);
    before
        .generate_asymmetric_key(0x0a01, label(), Domain::DOM1, sign, asymmetric::Algorithm::EcP384)
        .expect("generated");
    before
        .put_asymmetric_key(0x0a02, label(), Domain::DOM1, sign, asymmetric::Algorithm::EcP256, [7; 32])
        .expect("imported");
    before
        .generate_asymmetric_key(
            0x0a03,
            label(),
            Domain::DOM1,
            Capability::DERIVE_ECDH,
            asymmetric::Algorithm::EcP256,
        )
        .expect("generated");
    drop(before);
    let kms = home.serve();
    let adopt = |name: &str, id: &str| home.run(&["key", "adopt", name, "--object-id", id]);
    for (name, id) in [("generated", "0a01"), ("imported", "0a02")] {
        done(&adopt(name, id));
    }
    refused(&adopt("other", "0a03"), 1, "not able to sign: it cannot be taken over");
    refused(&adopt("none", "0a04"), 1, "no key pair with the id 0a04");
    let adopted = entries(&home, "key-adopted");
    assert_eq!(adopted[0]["alg"], "ES384");
    assert_eq!(adopted[0]["doubts"], serde_json::json!([]));
    assert_eq!(adopted[1]["doubts"], serde_json::json!(["generated in the token"]));
    assert_eq!(kms.stop(), Some(0));
}

#[test]
fn a_kms_says_what_is_wrong_with_its_device_and_does_not_start() {
    let (home, simulator) = set_up(Firmware::V2_4);
    simulator.reset();
    let output = home.run(&["serve"]);
    refused(&output, 1, "the YubiHSM has no authentication key 2: it was reset, or is another one");
    drop(simulator);
    refused(&home.run(&["serve"]), 1, "look whether it runs");
}

#[test]
fn a_device_that_is_out_at_the_start_stops_only_its_own_keys_and_is_taken_up_when_it_is_back() {
    let (home, simulator, device) = device(Firmware::V2_4);
    let first = fs::read_to_string(home.path("kms.toml")).expect("there");
    fs::write(home.path("kms.toml"), format!("{first}{device}")).expect("written");
    done(&home.run(&["init"]));
    let kms = home.serve();
    let there = ["key", "create", "--device", "yubihsm", "--key"];
    done(&home.run(&[&there[..], &["backup"]].concat()));
    assert_eq!(kms.stop(), Some(0));

    simulator.script(vec![Fault::of_all(What::NoDevice)]);
    // Two starts without it: it is two epochs behind then.
    for key in ["release", "other"] {
        let kms = home.serve();
        assert!(kms.log.contains("the KMS starts without this device"), "{}", kms.log);
        done(&home.run(&["key", "create", "--key", key]));
        let refused_there = home.run(&[&there[..], &["third"]].concat());
        refused(&refused_there, 1, "has not answered rightly since the KMS was started");
        assert_eq!(kms.stop(), Some(0));
    }
    let mut kms = home.serve();
    simulator.script(Vec::new());
    kms.wait_for("the device is there again");
    done(&home.run(&[&there[..], &["third"]].concat()));
    assert_eq!(kms.stop(), Some(0));
    let kms = home.serve();
    assert!(!kms.log.contains("the KMS starts without this device"), "{}", kms.log);
    let doctor = home.json(&["doctor"]);
    assert!(doctor["findings"].as_array().expect("a list").iter().all(|finding| finding["well"] == true));
    assert_eq!(kms.stop(), Some(0));
}
