//! Configurations, good and wrong.

use super::*;

const SMALLEST: &str = "state_directory = 'state'\nsocket = 'a.sock'\nadmin_socket = '/run/b.sock'\n\
    [[device]]\nname = 'main'\ndriver = 'pkcs11'\nmodule = '/m.so'\ntoken = 'pkcs11:token=a'\npin_file = 'pin'\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/kms/kms.toml")).map_err(|error| error.to_string())
}

#[test]
fn paths_are_from_the_files_directory_and_the_rest_has_defaults() {
    let config = parse(SMALLEST).expect("good");
    assert_eq!(config.state_directory, Path::new("/etc/kms/state"));
    assert_eq!(config.admin_socket, Path::new("/run/b.sock"));
    let device = &config.devices[0];
    assert_eq!(device.pin_file.as_deref(), Some(Path::new("/etc/kms/pin")));
    assert_eq!(config.allowed_users, [rustix::process::geteuid().as_raw()]);
    assert_eq!((device.sessions, config.epoch_signatures), (8, 1_000));
    assert_eq!(config.decision_grace.to_string(), "1d");
    assert_eq!(config.expiry_notice.to_string(), "30d");
}

#[test]
fn what_needs_a_restart_is_named_and_what_does_not_is_none_of_it() {
    let config = parse(SMALLEST).expect("good");
    let settings = "allowed_users = [7]\ndecision_grace = '1h'\nepoch_signatures = 7\nepoch_look = '7s'\nexpiry_notice = '7d'\n";
    let other = parse(&format!("{settings}{SMALLEST}")).expect("good");
    assert!(config.fixed_differences(&other).is_empty());
    let Settings { allowed_users, decision_grace, epoch_signatures, epoch_look, expiry_notice, tls_clients } =
        other.settings();
    assert_eq!(*tls_clients, []);
    assert_eq!((allowed_users, epoch_signatures), (vec![7], 7));
    assert_eq!((decision_grace, epoch_look), (Millis::from_secs(3_600), Millis::from_secs(7)));
    assert_eq!(expiry_notice, Millis::from_secs(7 * 24 * 3_600));
    for (from, to, key) in [
        ("'state'", "'other'", "`state_directory`"),
        ("a.sock", "c.sock", "`socket`"),
        ("b.sock", "c.sock", "`admin_socket`"),
        ("[[device]]", "metrics_socket = 'm.sock'\n[[device]]", "`metrics_socket`"),
        ("[[device]]", "restrict_system_calls = false\n[[device]]", "`restrict_system_calls`"),
        ("'pin'", "'other'", "`[[device]]`"),
    ] {
        let other = parse(&SMALLEST.replace(from, to)).expect("good");
        assert_eq!(config.fixed_differences(&other), [key]);
    }
    let with_tls = parse(&over_tls()).expect("good");
    assert_eq!(config.fixed_differences(&with_tls), ["`[tls]`"]);
    assert_eq!(with_tls.fixed_differences(&config), ["`[tls]`"]);
    for (from, to, differences) in [
        ("dns:node", "dns:other", &[][..]),
        ("7430", "7431", &["`[tls]`"]),
        ("'ca.crt'", "'other.crt'", &["`[tls]`"]),
        ("'ca.crl'", "'other.crl'", &["`[tls]`"]),
    ] {
        let other = parse(&over_tls().replace(from, to)).expect("good");
        assert_eq!(with_tls.fixed_differences(&other), differences);
        assert_eq!(with_tls.settings() == other.settings(), !differences.is_empty(), "{from}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
    for (text, error) in [
        (
            format!("sockt = 'x'\n{SMALLEST}"),
            "line 1, column 1: there is no key `sockt`; did you mean `socket`?",
        ),
        (
            format!("{SMALLEST}sesions = 3\n"),
            "line 10, column 1: there is no key `sesions`; did you mean `sessions`?",
        ),
    ] {
        assert_eq!(parse(&text).expect_err("refused"), format!("`/etc/kms/kms.toml`, {error}"));
    }
    let error = parse(&format!("{SMALLEST}qqq = 1")).expect_err("refused");
    assert!(
        error.contains(
            "these are known: `name`, `driver`, `pin_file`, `sessions`, `call_timeout`, `module`, `token`, `key_template`, `algorithm_attribute`, `epoch_file`"
        ),
        "{error}"
    );
}

fn over_tls() -> String {
    let tls = "[tls]\nlisten = '0.0.0.0:7430'\ncertificate = 'kms.crt'\nprivate_key = '/k/kms.key'\n\
        clients_ca = 'ca.crt'\nclients = ['dns:node.example.org', 'uri:spiffe://example.org/node']\nclients_crl = 'ca.crl'\n";
    SMALLEST.replace("[[device]]", &format!("{tls}[[device]]"))
}

#[test]
fn duties_over_tls_are_for_clients_that_are_named() {
    assert_eq!(parse(SMALLEST).expect("good").tls, None);
    let text = over_tls();
    let config = parse(&text).expect("good").tls.expect("there");
    assert_eq!(config.certificate, Path::new("/etc/kms/kms.crt"));
    assert_eq!(config.private_key, Path::new("/k/kms.key"));
    assert_eq!(config.clients_crl.as_deref(), Some(Path::new("/etc/kms/ca.crl")));
    assert_eq!(config.clients.len(), 2);
    for (from, to, error) in [
        ("clients_ca = 'ca.crt'\n", "", "line 4, column 1: missing field `clients_ca`"),
        (
            "clients_ca",
            "client_ca",
            "line 8, column 1: there is no key `client_ca`; did you mean `clients_ca`?",
        ),
        (
            "['dns:node.example.org', 'uri:spiffe://example.org/node']",
            "[]",
            "line 9, column 11: `clients` must name",
        ),
        ("dns:node", "node", "line 9, column 11: `node.example.org` names no client: write `dns:NAME`"),
        ("dns:node", "dns:*", "names no client"),
        ("0.0.0.0:7430", "0.0.0.0", "line 5, column 10: invalid socket address"),
        ("[tls]", "[[tls]]", "line 4, column 3: `tls` is a table"),
    ] {
        let found = parse(&text.replacen(from, to, 1)).expect_err("refused");
        assert!(found.contains(error), "{found}");
    }
}

#[test]
fn a_yubihsm_has_keys_of_its_own_and_fourteen_sessions() {
    let text = SMALLEST.replace("'pkcs11'", "'yubihsm'").replace(
        "module = '/m.so'\ntoken = 'pkcs11:token=a'",
        "connector = 'http://a'\nauthentication_key = 2",
    );
    let config = parse(&text).expect("good");
    let DriverConfig::YubiHsm { authentication_key, log_poll, .. } = &config.devices[0].driver else {
        panic!("{config:?}");
    };
    assert_eq!((*authentication_key, *log_poll), (2, Millis::from_secs(10)));
    for (text, error) in [
        (format!("{text}sessions = 15"), "`sessions` of the device `main` must be from 1 to 14"),
        (format!("{text}module = 'm.so'"), "there is no key `module`"),
        (format!("{text}authentication_key = 65536"), ""),
        (text.replace("authentication_key = 2\n", ""), "authentication_key"),
    ] {
        let found = parse(&text).expect_err("refused");
        assert!(found.contains(error), "{found}");
    }
}

#[test]
fn values_out_of_their_bounds_are_refused() {
    for (text, error) in [
        (format!("{SMALLEST}sessions = 0"), "`sessions` of the device `main` must be from 1 to 256"),
        (format!("{SMALLEST}sessions = 257"), "must be from 1 to 256"),
        (format!("epoch_signatures = 0\n{SMALLEST}"), "`epoch_signatures` must be at least 1"),
        (format!("decision_grace = '1 day'\n{SMALLEST}"), "line 1, column 18"),
        (SMALLEST.replace("'pkcs11'", "'paper'"), "line 6, column 10: `driver` must be one of `pkcs11`"),
        (SMALLEST.replace("[[device]]", "[device]"), "line 4, column 2: `device` is a list of tables"),
        (SMALLEST[..SMALLEST.find("[[").expect("a device")].to_owned(), "there is no `[[device]]`"),
        (SMALLEST.replace("name = 'main'\n", ""), "name"),
        (format!("{SMALLEST}{}", &SMALLEST[SMALLEST.find("[[").expect("a device")..]), "line 11, column 8"),
        (
            format!(
                "{SMALLEST}{}",
                SMALLEST[SMALLEST.find("[[").expect("a device")..].replace("'main'", "'other'")
            ),
            "line 14, column 9: another device is this token already",
        ),
        (SMALLEST.replace("/run/b.sock", "a.sock"), "must be different sockets"),
        (format!("metrics_socket = 'a.sock'\n{SMALLEST}"), "must be different sockets"),
        (SMALLEST.replace("socket = 'a.sock'\n", ""), "socket"),
    ] {
        let found = parse(&text).expect_err("refused");
        assert!(found.contains(error), "{found}");
    }
}
