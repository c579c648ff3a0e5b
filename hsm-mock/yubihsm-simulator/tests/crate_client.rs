//! The simulator and the client of the crate `yubihsm`, which the KMS's driver uses.

use std::time::Duration;

use assent_yubihsm_simulator::{Clock, Command, ErrorCode, Fault, Firmware, Settings, Simulator, What};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{DerSignature, VerifyingKey};
use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use yubihsm::object::{Filter, Label, Origin, Type};
use yubihsm::{AuditOption, Capability, Client, Connector, Credentials, Domain, HttpConfig};
use yubihsm::{asymmetric, command, device, opaque, wrap};

const KEY: u16 = 0x1234;
const WRAP_KEY: u16 = 0x2345;

fn start(firmware: Firmware) -> Simulator {
    Simulator::start(Settings { firmware, ..Settings::default() }).expect("started")
}

fn connector(simulator: &Simulator) -> Connector {
    Connector::http(&HttpConfig { port: simulator.port(), ..HttpConfig::default() })
}

fn open(simulator: &Simulator) -> Client {
    Client::open(connector(simulator), Credentials::default(), false).expect("a session")
}

fn generate(client: &Client, capabilities: Capability) -> VerifyingKey {
    let made = client.generate_asymmetric_key(
        KEY,
        Label::from("key"),
        Domain::DOM1,
        capabilities,
        asymmetric::Algorithm::EcP256,
    );
    assert_eq!(made.expect("generated"), KEY);
    let public_key = client.get_public_key(KEY).expect("there").bytes;
    VerifyingKey::from_sec1_bytes(&[&[4][..], &public_key].concat()).expect("a point")
}

fn code(error: &yubihsm::client::Error) -> Option<device::ErrorKind> {
    error.device_error()
}

#[test]
fn a_key_signs_digests_of_its_own_length_with_a_signature_that_verifies() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let simulator = start(firmware);
        let client = open(&simulator);
        let key = generate(&client, Capability::SIGN_ECDSA);
        let digest = Sha256::digest(b"message");
        let sign = || client.sign_ecdsa_prehash_raw(KEY, digest.to_vec()).expect("signed");
        let signature = DerSignature::from_bytes(&sign()).expect("DER");
        key.verify_prehash(&digest, &signature).expect("it verifies");
        assert_ne!(sign(), sign(), "each has its own randomness");
        let error = client.sign_ecdsa_prehash_raw(KEY, vec![0; 31]).expect_err("no digest");
        assert_eq!(code(&error), Some(device::ErrorKind::WrongLength));
        let error = client.sign_ecdsa_prehash_raw(KEY + 1, digest.to_vec()).expect_err("no key");
        assert_eq!(code(&error), Some(device::ErrorKind::ObjectNotFound));
        let info = client.get_object_info(KEY, Type::AsymmetricKey).expect("there");
        assert_eq!((info.origin, info.capabilities), (Origin::Generated, Capability::SIGN_ECDSA));
    }
}

#[test]
fn a_wrong_password_and_an_unknown_key_open_no_session() {
    let simulator = start(Firmware::V2_4);
    for credentials in [Credentials::from_password(1, b"wrong"), Credentials::from_password(2, b"password")] {
        assert!(Client::open(connector(&simulator), credentials, false).is_err());
    }
}

#[test]
fn capabilities_and_domains_are_enforced_and_delegated() {
    let simulator = start(Firmware::V2_4);
    let admin = open(&simulator);
    generate(&admin, Capability::SIGN_ECDSA);
    let narrow = |id: u16, domain, capabilities, delegated| {
        let key = yubihsm::authentication::Key::derive_from_password(b"narrow");
        let algorithm = yubihsm::authentication::Algorithm::YubicoAes;
        let label = Label::from("narrow");
        admin
            .put_authentication_key(id, label, domain, capabilities, delegated, algorithm, key)
            .expect("put");
        Client::open(connector(&simulator), Credentials::from_password(id, b"narrow"), false).expect("opened")
    };
    let digest = vec![1; 32];
    let other_domain = narrow(2, Domain::DOM2, Capability::SIGN_ECDSA, Capability::empty());
    let error = other_domain.sign_ecdsa_prehash_raw(KEY, digest.clone()).expect_err("not seen");
    assert_eq!(code(&error), Some(device::ErrorKind::ObjectNotFound));
    let signs_not = narrow(3, Domain::DOM1, Capability::GENERATE_ASYMMETRIC_KEY, Capability::empty());
    let error = signs_not.sign_ecdsa_prehash_raw(KEY, digest.clone()).expect_err("may not");
    assert_eq!(code(&error), Some(device::ErrorKind::InsufficientPermissions));
    let made = signs_not.generate_asymmetric_key(
        9,
        Label::from("more"),
        Domain::DOM1,
        Capability::SIGN_ECDSA,
        asymmetric::Algorithm::EcP256,
    );
    let error = made.expect_err("a capability that was not delegated");
    assert_eq!(code(&error), Some(device::ErrorKind::InsufficientPermissions));
    let signs = narrow(4, Domain::DOM1, Capability::SIGN_ECDSA, Capability::empty());
    signs.sign_ecdsa_prehash_raw(KEY, digest).expect("may");
    let seen = signs.list_objects(&[Filter::Type(Type::AsymmetricKey)]).expect("listed");
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_key_goes_to_another_device_under_a_wrap_key_and_only_if_it_may() {
    let (first, second) = (start(Firmware::V2_4), start(Firmware::V2_4));
    let clients = [open(&first), open(&second)];
    for client in &clients {
        let capabilities = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
        let delegated = Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP;
        client
            .put_wrap_key(
                WRAP_KEY,
                Label::from("wrap"),
                Domain::DOM1,
                capabilities,
                delegated,
                wrap::Algorithm::Aes256Ccm,
                vec![7; 32],
            )
            .expect("put");
    }
    let [client, other] = &clients;
    let key = generate(client, Capability::SIGN_ECDSA | Capability::EXPORTABLE_UNDER_WRAP);
    let wrapped = client.export_wrapped(WRAP_KEY, Type::AsymmetricKey, KEY).expect("exported");
    let mut changed = wrapped.clone();
    changed.ciphertext[20] ^= 1;
    let error = other.import_wrapped(WRAP_KEY, changed).expect_err("changed on its way");
    assert_eq!(code(&error), Some(device::ErrorKind::InvalidData));
    other.import_wrapped(WRAP_KEY, wrapped.clone()).expect("imported");
    let error = other.import_wrapped(WRAP_KEY, wrapped).expect_err("it is there");
    assert_eq!(code(&error), Some(device::ErrorKind::ObjectExists));
    let digest = [3; 32];
    let signature = other.sign_ecdsa_prehash_raw(KEY, digest.to_vec()).expect("signed");
    key.verify_prehash(&digest, &DerSignature::from_bytes(&signature).expect("DER")).expect("the same key");
    let origin = other.get_object_info(KEY, Type::AsymmetricKey).expect("there").origin;
    assert_eq!(origin, Origin::WrappedGenerated);
    client.delete_object(KEY, Type::AsymmetricKey).expect("deleted");
    generate(client, Capability::SIGN_ECDSA);
    let error = client.export_wrapped(WRAP_KEY, Type::AsymmetricKey, KEY).expect_err("it must not leave");
    assert_eq!(code(&error), Some(device::ErrorKind::InsufficientPermissions));
}

#[test]
fn an_attestation_is_signed_by_the_device_and_names_the_key() {
    let simulator = start(Firmware::V2_4);
    let client = open(&simulator);
    let key = generate(&client, Capability::SIGN_ECDSA);
    let attested = client.sign_attestation_certificate(KEY, None).expect("attested").into_vec();
    let attested = Certificate::from_der(&attested).expect("a certificate");
    let device =
        Certificate::from_der(&client.get_opaque(0).expect("the device's own")).expect("a certificate");
    let root = Certificate::from_der(&simulator.root_certificate()).expect("a certificate");
    for (certificate, issuer) in [(&attested, &device), (&device, &root), (&root, &root)] {
        let tbs = certificate.tbs_certificate();
        assert_eq!(tbs.issuer(), issuer.tbs_certificate().subject());
        let spki = issuer.tbs_certificate().subject_public_key_info().to_der().expect("DER");
        let issuer =
            <VerifyingKey as p256::pkcs8::DecodePublicKey>::from_public_key_der(&spki).expect("a key");
        let signature = DerSignature::from_bytes(certificate.signature().raw_bytes()).expect("DER");
        let digest = Sha256::digest(tbs.to_der().expect("DER"));
        issuer.verify_prehash(&digest, &signature).expect("signed by its issuer");
    }
    let tbs = attested.tbs_certificate();
    assert_eq!(tbs.subject().to_string(), format!("CN=YubiHSM Attestation id:0x{KEY:04x}"));
    let point = tbs.subject_public_key_info().subject_public_key.raw_bytes();
    assert_eq!(point, key.to_sec1_point(false).as_bytes());
}

#[test]
fn the_seventeenth_session_is_refused_until_one_idled_for_thirty_seconds() {
    let clock = Clock::standing();
    let simulator =
        Simulator::start(Settings { clock: clock.clone(), ..Settings::default() }).expect("started");
    let clients: Vec<Client> = (0..16).map(|_| open(&simulator)).collect();
    assert!(Client::open(connector(&simulator), Credentials::default(), false).is_err());
    assert_eq!((simulator.sessions().open, simulator.sessions().refused), (16, 1));
    clock.advance(Duration::from_secs(29));
    clients[0].echo(b"alive".as_slice()).expect("not idle long enough");
    clock.advance(Duration::from_secs(1));
    assert_eq!(simulator.sessions().open, 1);
    assert!(clients[1].echo(b"gone".as_slice()).is_err());
    clients[0].echo(b"alive".as_slice()).expect("it was used in between");
    open(&simulator);
}

#[test]
fn a_full_log_under_forced_audit_blocks_what_is_logged_until_it_is_acknowledged() {
    let simulator = start(Firmware::V2_2);
    let client = open(&simulator);
    client.set_log_index(simulator.log().last().expect("an entry").number).expect("acknowledged");
    client.set_force_audit_option(AuditOption::On).expect("set");
    generate(&client, Capability::SIGN_ECDSA);
    let sign = || client.sign_ecdsa_prehash_raw(KEY, vec![1; 32]);
    let signed = (0..62).map_while(|_| sign().ok()).count();
    assert!(signed < 62);
    assert_eq!(sign().expect_err("full").device_error(), Some(device::ErrorKind::LogFull));
    assert_eq!(simulator.log().len(), 62);
    let log = client.get_log_entries().expect("read");
    assert_eq!(log.entries.len(), 62);
    client.set_log_index(log.entries[61].item).expect("acknowledged");
    sign().expect("there is room");
}

#[test]
fn a_new_device_of_later_firmware_logs_nothing_until_it_is_told_to() {
    let simulator = start(Firmware::V2_4);
    let client = open(&simulator);
    generate(&client, Capability::SIGN_ECDSA);
    let begin: Vec<_> = simulator.log().iter().map(|entry| entry.command).collect();
    assert_eq!(begin, [Command::INITIALIZATION, Command::BOOT]);
    client.set_command_audit_option(command::Code::SignEcdsa, AuditOption::On).expect("set");
    client.sign_ecdsa_prehash_raw(KEY, vec![1; 32]).expect("signed");
    let entry = *simulator.log().last().expect("an entry");
    assert_eq!((entry.number, entry.command, entry.target), (3, Command::SIGN_ECDSA, KEY));
    assert_eq!((entry.session_key, entry.result, entry.length), (1, 0xd6, 34));
}

#[test]
fn the_crate_knows_the_audit_of_those_commands_alone_that_came_before_2_4() {
    for (firmware, audited) in [(Firmware::V2_2, 47), (Firmware::V2_4, 0)] {
        let options = open(&start(firmware)).get_commands_audit_options().expect("read");
        assert_eq!(options.len(), 53);
        let is_on = |option: &&yubihsm::audit::AuditCommand| option.audit_option() == AuditOption::On;
        assert_eq!(options.iter().filter(is_on).count(), audited);
    }
}

#[test]
fn a_reset_leaves_the_default_key_alone_and_a_new_log() {
    let simulator = start(Firmware::V2_2);
    let client = open(&simulator);
    generate(&client, Capability::SIGN_ECDSA);
    client
        .put_opaque(
            7,
            Label::from("mark"),
            Domain::DOM1,
            Capability::empty(),
            opaque::Algorithm::Data,
            vec![1],
        )
        .expect("put");
    assert_eq!(client.list_objects(&[]).expect("listed").len(), 3);
    let before = simulator.log()[0].digest;
    simulator.reset();
    assert!(client.echo(b"gone".as_slice()).is_err());
    let client = open(&simulator);
    assert_eq!(client.list_objects(&[]).expect("listed").len(), 1);
    let log = simulator.log();
    assert_eq!((log[0].number, log[1].command), (1, Command::BOOT));
    assert_ne!(log[0].digest, before, "each log has a beginning of its own");
}

#[test]
fn faults_happen_by_the_script() {
    let simulator = start(Firmware::V2_4);
    let client = open(&simulator);
    let key = generate(&client, Capability::SIGN_ECDSA);
    let digest = [5; 32];
    let sign = |client: &Client| client.sign_ecdsa_prehash_raw(KEY, digest.to_vec());
    simulator.script(vec![
        Fault::of(Command::SIGN_ECDSA, What::Refuse(ErrorCode::StorageFailed)).once(),
        Fault::of(Command::SIGN_ECDSA, What::WrongKey).after(1).once(),
    ]);
    assert_eq!(sign(&client).expect_err("refused").device_error(), Some(device::ErrorKind::StorageFailed));
    let signature = DerSignature::from_bytes(&sign(&client).expect("signed")).expect("DER");
    assert!(key.verify_prehash(&digest, &signature).is_err());
    sign(&client).expect("the script is at its end");
    for what in [What::DropCall, What::DropReply, What::Garble, What::NoDevice] {
        let before = simulator.calls(Command::SIGN_ECDSA);
        let is_done = matches!(what, What::DropReply | What::Garble);
        simulator.script(vec![Fault::of(Command::SIGN_ECDSA, what.clone()).once()]);
        let client = open(&simulator);
        assert!(sign(&client).is_err(), "{what:?}");
        assert_eq!(simulator.calls(Command::SIGN_ECDSA) > before, is_done, "{what:?}");
    }
    simulator.script(vec![Fault::of(Command::SIGN_ECDSA, What::Reset)]);
    assert!(sign(&open(&simulator)).is_err());
    simulator.script(Vec::new());
    assert!(open(&simulator).get_public_key(KEY).is_err(), "it is another device now");
}
