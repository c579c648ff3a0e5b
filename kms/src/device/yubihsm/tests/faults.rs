//! Devices and connectors that fail.

use super::*;

#[test]
fn sessions_that_idle_are_used_for_a_moment() {
    let desk = Desk::new(Firmware::V2_4);
    let driver = desk.driver_with(|_| {});
    let devices = [driver.open().expect("a session"), driver.open().expect("a session")];
    driver.shared.keep_alive(PATIENCE);
    assert_eq!(desk.simulator.calls(Command::ECHO), 0, "none idled for that long");
    driver.shared.keep_alive(Duration::ZERO);
    assert_eq!(desk.simulator.calls(Command::ECHO), devices.len());
}

#[test]
fn a_device_that_was_reset_or_is_another_one_is_not_used() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let mut device = driver.open().expect("a session");
    let (object, _) = make_key(&driver);
    driver.read_log().expect("read");
    desk.simulator.reset();
    let error = fail(&mut device, object);
    assert!(matches!(&error, DeviceError::Setup(why) if why.contains("it was reset")), "{error}");
    drop(device);
    // Somebody who knows the password makes the authentication key anew.
    desk.put_own_key(NEEDED | Capability::PUT_OPTION);
    let mut device = driver.open().expect("a session");
    assert_eq!(fail(&mut device, object), DeviceError::NoKey(object));
    driver.read_log().expect("read");
    assert!(matches!(book.findings()[..], [Finding::Gap { .. }, ..]), "{:?}", book.findings());

    let driver = desk.driver_with(|settings| settings.serial = Some("0007550002".into()));
    let error = driver.open().err().expect("another");
    assert!(matches!(&error, DeviceError::Setup(why) if why.contains("not 0007550002")), "{error}");
}

#[test]
fn an_answer_in_pieces_is_an_answer_and_one_that_never_comes_is_given_up() {
    let desk = Desk::new(Firmware::V2_4);
    let patient = desk.driver_with(|_| {});
    let (object, key) = make_key(&patient);
    desk.simulator.script(vec![Fault::of_all(What::Pieces(1, Duration::from_micros(100)))]);
    sign(&mut patient.open().expect("a session"), object, &key);
    drop(patient);
    desk.simulator.script(Vec::new());
    let driver = desk.driver_with(|settings| settings.call_timeout = Duration::from_millis(300));
    for (what, why) in [
        (What::Hang, "no answer within"),
        (What::DropReply, "broke off"),
        (What::DropCall, "broke off"),
        (What::NoDevice, "plugged in"),
        (What::Garble, ""),
    ] {
        desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, what.clone()).once()]);
        let mut device = driver.open().expect("a session");
        let error = fail(&mut device, object);
        assert!(error.is_lost() && error.to_string().contains(why), "{what:?}: {error}");
        drop(device);
        sign(&mut driver.open().expect("a new session"), object, &key);
    }
}

#[test]
fn a_device_that_idled_for_a_minute_signs_at_once() {
    let clock = assent_yubihsm_simulator::Clock::standing();
    let simulator =
        Simulator::start(Settings { clock: clock.clone(), ..Settings::default() }).expect("started");
    let desk = Desk { simulator, directory: tempfile::tempdir().expect("a directory") };
    desk.write_password(OWN_PASSWORD);
    desk.put_own_key(NEEDED | Capability::PUT_OPTION);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pool = Pool::start(driver.clone(), 4, Duration::from_secs(10)).expect("threads");
    for _ in 0..3 {
        runtime.block_on(pool.sign(object, key.clone(), digest())).expect("signed");
        clock.advance(Duration::from_secs(60));
    }
    drop(pool);
    driver.read_log().expect("read");
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], 3));
}

#[test]
fn no_session_is_opened_that_the_device_does_not_have_whatever_is_lost() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    let mut devices: Vec<_> = (0..OWN_SESSIONS).map(|_| driver.open().expect("a session")).collect();
    let error = driver.open().err().expect("no more");
    assert!(matches!(error, DeviceError::Full(_)), "{error}");
    desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, What::DropReply).every(2)]);
    let lost = devices
        .iter_mut()
        .filter_map(|device| device.sign(object, Algorithm::ES256, &digest()).err())
        .count();
    assert_eq!(lost, OWN_SESSIONS / 2);
    drop(devices);
    desk.simulator.script(Vec::new());
    let mut left: Vec<_> = (0..OWN_SESSIONS).map_while(|_| driver.open().ok()).collect();
    assert_eq!(left.len(), OWN_SESSIONS - lost, "those that broke may still be the device's");
    left.iter_mut().for_each(|device| sign(device, object, &key));
    driver.finish().expect("read");
    let sessions = desk.simulator.sessions();
    assert_eq!((sessions.refused, sessions.most <= 16), (0, true));
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], OWN_SESSIONS * 3 / 2));
}

#[test]
fn a_connector_that_drops_half_of_the_replies_still_brings_every_signature() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    desk.simulator.script(vec![Fault::of(Command::SIGN_ECDSA, What::DropReply).every(2)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pool = Pool::start(driver.clone(), 1, Duration::from_secs(10)).expect("threads");
    for _ in 0..8 {
        runtime.block_on(pool.sign(object, key.clone(), digest())).expect("signed");
    }
    drop(pool);
    driver.read_log().expect("read");
    assert_eq!(book.findings(), [], "those whose answer was lost are known, too");
    assert_eq!(book.matched(SIGN_ECDSA), desk.simulator.calls(Command::SIGN_ECDSA));
}

#[test]
fn a_key_that_was_made_although_nobody_was_told_is_destroyed_before_the_next_one() {
    for (command, what) in [
        (Command::GENERATE_ASYMMETRIC_KEY, What::DropReply),
        (Command::GENERATE_ASYMMETRIC_KEY, What::DropCall),
        (Command::GET_PUBLIC_KEY, What::DropReply),
    ] {
        let desk = Desk::new(Firmware::V2_4);
        let (driver, book) = desk.kept();
        let kept = make_key(&driver).0;
        desk.simulator.script(vec![Fault::of(command, what.clone()).once()]);
        let lost = driver.open().expect("a session").generate("one", KeyKind::P256);
        assert!(lost.expect_err("no answer").is_lost(), "{what:?}");
        let made = make_key(&driver).0;
        let listed = driver.open().expect("a session").list().expect("listed");
        let mut objects: Vec<_> = listed.iter().map(|key| key.object).collect();
        objects.sort();
        let mut expected = vec![kept, made];
        expected.sort();
        assert_eq!(objects, expected, "{what:?}");
        driver.read_log().expect("read");
        assert_eq!(book.findings(), [], "{what:?}");
    }
}

/// Numbers by chance that a seed repeats (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

#[test]
fn whatever_goes_wrong_every_signature_is_explained_and_no_key_is_suspected() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for seed in 0..16 {
        let (mut chance, desk) = (Chance(seed), Desk::new(Firmware::V2_4));
        let (driver, book) = desk.kept();
        let (object, key) = make_key(&driver);
        let commands =
            [Command::SIGN_ECDSA, Command::GET_LOG_ENTRIES, Command::SET_LOG_INDEX, Command::CREATE_SESSION];
        let whats = [
            What::DropCall,
            What::DropReply,
            What::NoDevice,
            What::Pieces(3, Duration::from_micros(10)),
            What::Delay(Duration::from_millis(20)),
            What::Refuse(ErrorCode::StorageFailed),
        ];
        let mut fault = || {
            let command = commands[chance.below(commands.len())];
            let what = whats[chance.below(whats.len())].clone();
            Fault::of(command, what).after(chance.below(20) as u64).once()
        };
        let faults: Vec<Fault> = (0..8).map(|_| fault()).collect();
        desk.simulator.script(faults.clone());
        let pool = Pool::start(driver.clone(), 2, Duration::from_secs(10)).expect("threads");
        for _ in 0..30 {
            // Whoever wants a signature asks again a little later, and so does this.
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = runtime.block_on(pool.sign(object, key.clone(), digest())) {
                assert!(Instant::now() < deadline, "seed {seed}: {faults:?}: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        desk.simulator.script(Vec::new());
        drop(pool);
        driver.read_log().expect("read");
        assert_eq!(book.findings(), [], "seed {seed}: {faults:?}");
        let (matched, done) = (book.matched(SIGN_ECDSA), desk.simulator.calls(Command::SIGN_ECDSA));
        assert_eq!(matched, done, "seed {seed}: {faults:?}");
    }
}
