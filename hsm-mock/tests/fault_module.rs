//! What the fault-injecting module does to an application, seen through a client that nobody here wrote.

use std::sync::mpsc;
use std::time::Duration;

use assent_hsm_mock::{Fault, FaultModule, Latency, SoftHsmToken, Vendor, What, with_token};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};

/// CKA_EC_PARAMS of P-256.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const DIGEST: [u8; 32] = [7; 32];
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

struct Application {
    faults: FaultModule,
    context: Pkcs11,
    session: Session,
}

impl Application {
    fn start(token: &SoftHsmToken) -> Application {
        let faults = FaultModule::over(token.module(), token.directory()).expect("built");
        let context = Pkcs11::new(faults.module()).expect("loaded");
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("initialised");
        let session = open(&context, token);
        session.login(UserType::User, Some(token.pin())).expect("logged in");
        Application { faults, context, session }
    }

    fn fail(&self, fault: Fault) {
        self.faults.set(vec![fault]).expect("a script");
    }

    fn pair(&self) -> (ObjectHandle, ObjectHandle) {
        generate(&self.session, "a key").expect("generated")
    }
}

fn open(context: &Pkcs11, token: &SoftHsmToken) -> Session {
    let slots = context.get_slots_with_token().expect("slots");
    let has_label = |slot: &_| context.get_token_info(*slot).is_ok_and(|info| info.label() == token.label());
    context.open_rw_session(slots.into_iter().find(has_label).expect("the token")).expect("a session")
}

fn generate(session: &Session, label: &str) -> Result<(ObjectHandle, ObjectHandle), Error> {
    let named = [Attribute::Token(true), Attribute::Label(label.into())];
    let public = [&named[..], &[Attribute::EcParams(P256.to_vec())]].concat();
    let private = [&named[..], &[Attribute::Sign(true), Attribute::Sensitive(true)]].concat();
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
}

fn sign(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, Error> {
    session.sign(&Mechanism::Ecdsa, key, &DIGEST)
}

#[track_caller]
fn fails<T>(result: Result<T, Error>, expected: RvError) {
    match result {
        Err(Error::Pkcs11(code, _)) => assert_eq!(code, expected),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it went well, without {expected:?}"),
    }
}

#[test]
fn without_faults_it_is_the_real_module() {
    with_token!("as is", |token| {
        let application = Application::start(token);
        let (public, private) = application.pair();
        let signature = sign(&application.session, private).expect("signed");
        application.session.verify(&Mechanism::Ecdsa, public, &DIGEST, &signature).expect("right");
    });
}

#[test]
fn a_call_fails_by_name_and_count() {
    with_token!("count", |token| {
        let application = Application::start(token);
        let (_, key) = application.pair();
        for function in ["C_Sign", "C_Sign:length", "C_SignInit"] {
            application.fail(Fault::answer(function, "CKR_DEVICE_ERROR").on_call(2));
            sign(&application.session, key).expect("the first goes well");
            fails(sign(&application.session, key), RvError::DeviceError);
            sign(&application.session, key).expect("the third goes well");
        }
    });
}

#[test]
fn a_failure_may_leave_its_operation_open() {
    with_token!("open", |token| {
        let application = Application::start(token);
        let (_, key) = application.pair();
        application
            .fail(Fault::of("C_Sign", What::AnswerUnfinished("CKR_FUNCTION_FAILED".into())).on_call(1));
        fails(sign(&application.session, key), RvError::FunctionFailed);
        fails(sign(&application.session, key), RvError::OperationActive);
    });
}

#[test]
fn what_failed_may_be_done_all_the_same() {
    with_token!("done", |token| {
        let application = Application::start(token);
        application.fail(Fault::of("C_GenerateKeyPair", What::AnswerDone("CKR_DEVICE_ERROR".into())));
        fails(generate(&application.session, "orphan"), RvError::DeviceError);
        let orphan = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label("orphan".into())];
        assert_eq!(application.session.find_objects(&orphan).expect("found").len(), 1);
    });
}

#[test]
fn a_call_hangs_until_the_script_is_replaced() {
    with_token!("hang", |token| {
        let application = Application::start(token);
        let (_, key) = application.pair();
        application.faults.set(vec![Fault::of("C_Sign", What::Hang)]).expect("a script");
        let Application { faults, context, session } = application;
        let (sender, signed) = mpsc::channel();
        let signing = std::thread::spawn(move || sender.send(sign(&session, key).is_ok()));
        // It has hung for as long as another session needs to find something.
        let other = open(&context, token);
        other.find_objects(&[]).expect("found");
        assert!(signed.try_recv().is_err());
        faults.lift().expect("lifted");
        assert_eq!(signed.recv_timeout(PATIENCE), Ok(true));
        signing.join().expect("no panic").expect("the test waits for it");
    });
}

#[test]
fn a_token_that_is_taken_out_is_in_no_slot_and_comes_back_without_its_sessions() {
    with_token!("removed", |token| {
        let application = Application::start(token);
        let (_, key) = application.pair();
        application.fail(Fault::of("C_Sign", What::RemoveToken));
        fails(sign(&application.session, key), RvError::DeviceRemoved);
        assert!(application.context.get_slots_with_token().expect("a list").is_empty());
        fails(application.session.find_objects(&[]), RvError::DeviceRemoved);
        application.faults.lift().expect("lifted");
        fails(sign(&application.session, key), RvError::SessionHandleInvalid);
        let session = open(&application.context, token);
        session.login(UserType::User, Some(token.pin())).expect("logged in");
        let found = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).expect("found");
        sign(&session, found[0]).expect("signed");
    });
}

#[test]
fn a_session_ends_or_is_logged_out_behind_the_callers_back() {
    with_token!("back", |token| {
        let application = Application::start(token);
        let (_, key) = application.pair();
        let other = open(&application.context, token);
        application.fail(Fault::of("C_SignInit", What::LogOut).on_call(1));
        assert!(sign(&application.session, key).is_err());
        application.session.login(UserType::User, Some(token.pin())).expect("it was logged out");
        application.fail(Fault::of("C_SignInit", What::DropSession).on_call(1));
        fails(sign(&application.session, key), RvError::SessionHandleInvalid);
        other.find_objects(&[]).expect("the other stays");
    });
}

#[test]
fn a_wrong_signature_does_not_verify() {
    with_token!("wrong", |token| {
        let application = Application::start(token);
        let (public, private) = application.pair();
        application.fail(Fault::of("C_Sign", What::WrongSignature));
        let signature = sign(&application.session, private).expect("signed");
        let verified = application.session.verify(&Mechanism::Ecdsa, public, &DIGEST, &signature);
        fails(verified, RvError::SignatureInvalid);
    });
}

#[test]
fn calls_are_written_down_with_what_they_returned_and_signed() {
    with_token!("calls", |token| {
        let mut application = Application::start(token);
        let (_, key) = application.pair();
        application.faults.write_down_calls().expect("a script");
        application.faults.be(Latency::Network, None).expect("a script");
        application.fail(Fault::answer("C_Sign", "0x80000001").on_call(2));
        sign(&application.session, key).expect("signed");
        assert!(sign(&application.session, key).is_err());
        let calls = application.faults.calls().expect("written down");
        let said: Vec<(&str, &str)> =
            calls.iter().map(|call| (call.function.as_str(), call.code.as_str())).collect();
        let asked = [("C_SignInit", "CKR_OK"), ("C_Sign:length", "CKR_OK")];
        let expected = [&asked[..], &[("C_Sign", "CKR_OK")], &asked, &[("C_Sign", "0x80000001")]].concat();
        assert_eq!(said, expected);
        assert_eq!(calls[2].data.as_deref(), Some("07".repeat(32).as_str()));
        assert_eq!(application.faults.calls().expect("written down"), []);
    });
}

#[test]
fn devices_of_other_makers_refuse_what_they_do_not_have() {
    with_token!("makers", |token| {
        let mut application = Application::start(token);
        let data =
            [Attribute::Class(ObjectClass::DATA), Attribute::Token(true), Attribute::Label("epoch".into())];
        for (vendor, code) in [
            (Vendor::NetHsm, RvError::AttributeValueInvalid),
            (Vendor::Ykcs11, RvError::FunctionNotSupported),
            (Vendor::CloudHsm, RvError::AttributeValueInvalid),
            (Vendor::GoogleKms, RvError::FunctionNotSupported),
        ] {
            application.faults.be(Latency::AsIs, Some(vendor)).expect("a script");
            fails(application.session.create_object(&data), code);
        }

        application.faults.be(Latency::AsIs, Some(Vendor::CloudHsm)).expect("a script");
        generate(&application.session, "once").expect("generated");
        fails(generate(&application.session, "once"), RvError::AttributeValueInvalid);
        let slot = application.context.get_slots_with_token().expect("slots")[0];
        fails(application.context.open_ro_session(slot), RvError::TokenWriteProtected);

        application.faults.be(Latency::AsIs, Some(Vendor::GoogleKms)).expect("a script");
        fails(generate(&application.session, "with-attributes"), RvError::TemplateInconsistent);
        let label = Attribute::Label("google".into());
        let bare = |attributes: &[Attribute]| {
            application.session.generate_key_pair(&Mechanism::EccKeyPairGen, &[], attributes)
        };
        fails(bare(std::slice::from_ref(&label)), RvError::TemplateIncomplete);
        let algorithm = AttributeType::VendorDefined(assent_hsm_mock::GOOGLE_ALGORITHM);
        let algorithm = Attribute::VendorDefined((algorithm, 12_u64.to_ne_bytes().to_vec()));
        let (public, private) = bare(&[label.clone(), algorithm.clone()]).expect("generated");
        let signature = sign(&application.session, private).expect("signed");
        application.session.verify(&Mechanism::Ecdsa, public, &DIGEST, &signature).expect("right");
        fails(bare(&[label, algorithm]), RvError::ArgumentsBad);
    });
}
