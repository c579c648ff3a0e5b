//! The device's log: who did what.

use super::*;

#[test]
fn every_use_is_found_in_the_log_once_and_the_log_is_never_full() {
    for firmware in [Firmware::V2_2, Firmware::V2_4] {
        let desk = Desk::new(firmware);
        let (driver, book) = desk.kept_between_polls(Book::default());
        let mut device = driver.open().expect("a session");
        let (object, key) = make_key(&driver);
        (0..150).for_each(|_| sign(&mut device, object, &key));
        device.destroy(object).expect("destroyed");
        driver.finish().expect("read");
        assert_eq!(book.findings(), [], "{firmware:?}");
        assert_eq!((book.matched(SIGN_ECDSA), book.matched(0x46), book.matched(0x58)), (150, 1, 1));
        assert!(desk.simulator.log().len() < 10, "what was kept is acknowledged");
        assert_eq!(
            desk.simulator.calls(Command::SIGN_ECDSA),
            150,
            "none was refused because the log was full"
        );
    }
}

#[test]
fn many_sessions_at_once_leave_nothing_unexplained_and_wait_for_a_slow_disk() {
    let desk = Desk::new(Firmware::V2_4);
    let slow = Book { slowness: Duration::from_millis(50), ..Book::default() };
    let (driver, book) = desk.kept_between_polls(slow);
    let (object, key) = make_key(&driver);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut device = driver.open().expect("a session");
                (0..40).for_each(|_| sign(&mut device, object, &key));
            });
        }
    });
    driver.finish().expect("read");
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], 320));
    assert_eq!(desk.simulator.calls(Command::SIGN_ECDSA), 320, "none was refused because the log was full");
}

#[test]
fn nothing_is_done_with_a_device_whose_log_cannot_be_kept() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept_between_polls(Book::default());
    let mut device = driver.open().expect("a session");
    let (object, key) = make_key(&driver);
    book.is_broken.store(true, Ordering::Relaxed);
    let signed = (0..100).filter_map(|_| device.sign(object, Algorithm::ES256, &digest()).ok()).count();
    assert!(signed < 62, "{signed} were signed, and the device still has all of them in its log");
    let error = fail(&mut device, object);
    assert!(error.to_string().contains("cannot be put into the audit log"), "{error}");
    book.is_broken.store(false, Ordering::Relaxed);
    sign(&mut device, object, &key);
    driver.finish().expect("read");
    assert_eq!((book.findings(), book.matched(SIGN_ECDSA)), (vec![], signed + 1));
}

#[test]
fn somebody_elses_use_of_a_key_is_found_by_the_next_reading_which_comes_by_itself() {
    for by_itself in [true, false] {
        let desk = Desk::new(Firmware::V2_4);
        let (driver, book) = match by_itself {
            true => desk.kept(),
            false => desk.kept_between_polls(Book::default()),
        };
        let mut device = driver.open().expect("a session");
        let (object, key) = make_key(&driver);
        sign(&mut device, object, &key);
        desk.somebody_else().sign_ecdsa_prehash_raw(number_of(object), vec![1; 32]).expect("signed");
        if by_itself {
            book.wait(|book| !book.findings().is_empty());
        } else {
            driver.read_log().expect("read");
        }
        let findings = book.findings();
        let [Finding::Foreign { entry, before_start: false }] = findings[..] else { panic!("{findings:?}") };
        assert_eq!(
            (entry.session_key, entry.target, entry.command),
            (DEFAULT_KEY, number_of(object), SIGN_ECDSA)
        );
        assert!(findings[0].suspects(number_of(object)) && !findings[0].suspects(number_of(object) ^ 1));
    }
}

#[test]
fn a_use_that_was_refused_or_that_only_looks_suspects_nothing() {
    let desk = Desk::new(Firmware::V2_2);
    let (driver, book) = desk.kept();
    let (object, _) = make_key(&driver);
    let other = desk.somebody_else();
    other.get_public_key(number_of(object)).expect("there");
    other.sign_ecdsa_prehash_raw(number_of(object), vec![1; 31]).expect_err("no digest");
    book.wait(|book| !book.findings().is_empty());
    let findings = book.findings();
    assert!(matches!(findings[..], [Finding::Foreign { .. }]), "the attempt alone: {findings:?}");
    assert!(!findings[0].suspects(number_of(object)) && findings[0].is_alarm());
}

#[test]
fn whoever_takes_entries_off_the_log_or_switches_its_audit_makes_every_key_suspect() {
    for hide in [
        |other: &Client, last: u16| other.set_log_index(last),
        |other: &Client, _| other.set_command_audit_option(command::Code::SignEcdsa, AuditOption::Off),
    ] {
        let desk = Desk::new(Firmware::V2_4);
        let (driver, book) = desk.kept_between_polls(Book::default());
        let mut device = driver.open().expect("a session");
        let (object, key) = make_key(&driver);
        driver.read_log().expect("read");
        let other = desk.somebody_else();
        other.sign_ecdsa_prehash_raw(number_of(object), vec![1; 32]).expect("signed");
        hide(&other, desk.simulator.log().last().expect("an entry").number).expect("done");
        sign(&mut device, object, &key);
        driver.read_log().expect("read");
        assert!(
            book.findings().iter().any(|finding| finding.suspects(number_of(object))),
            "{:?}",
            book.findings()
        );
    }
}

#[test]
fn a_new_process_goes_on_where_the_last_one_stopped() {
    let desk = Desk::new(Firmware::V2_4);
    let (driver, book) = desk.kept();
    let (object, key) = make_key(&driver);
    driver.finish().expect("read");
    drop(driver);
    let mark = book.last();
    // A process that is cut off keeps nothing.
    let cut_off = desk.driver_with(|_| {});
    sign(&mut cut_off.open().expect("a session"), object, &key);
    drop(cut_off);
    for (signed_with, is_suspect) in [(vec![object], false), (vec![], true)] {
        let book = Book { resume: LogResume { mark, signed_with }, ..Book::default() };
        let book = Arc::new(book);
        let driver = desk.driver_with(|_| {});
        driver.keep_log(book.clone()).expect("kept");
        // Not acknowledged, so that the second time finds it, too.
        desk.simulator.script(vec![Fault::of(Command::SET_LOG_INDEX, What::Refuse(ErrorCode::InvalidData))]);
        let _ = driver.open();
        let suspects = book.findings().iter().any(|finding| finding.suspects(number_of(object)));
        assert_eq!(suspects, is_suspect, "{:?}", book.findings());
        desk.simulator.script(Vec::new());
    }
}

#[test]
fn a_log_that_is_full_is_read_before_anything_else_and_without_a_keeper_says_what_to_do() {
    let desk = Desk::new(Firmware::V2_2);
    let other = desk.somebody_else();
    other.set_force_audit_option(AuditOption::On).expect("set");
    let filled = (0..70).map_while(|_| other.get_storage_info().ok()).count();
    assert!(filled < 70);
    let error = desk.driver_with(|_| {}).open().err().expect("full");
    assert!(error.to_string().contains("start the KMS, which does that"), "{error}");
    let (driver, _book) = desk.kept();
    make_key(&driver);
}
