//! What an operator does with `assent-kms` and a real token, and what he is told when it cannot be done.

mod adoption;
mod broken_set_ups;
mod daemon;
mod isolation;
mod yubihsm_alone;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::genesis::{
    ChainDocument, ContractDocument, GenesisDocument, KeyDocument, ProcessDocument,
};
use assent_consensus::json::Integer;
use assent_consensus::jwk::PublicKey;
use assent_consensus::operational_key::KeyFile;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::time::UnixMillis;
use daemon::{Home, done, refused};
use p256::ecdsa::SigningKey;
use secrecy::ExposeSecret;
use serde_json::Value;

/// A public key that no device of this test holds.
fn software_key(number: u8) -> PublicKey {
    let key = SigningKey::from_slice(&[number; 32]).expect("a scalar");
    let point = key.verifying_key().to_sec1_point(false);
    PublicKey::from_point(point.as_bytes().try_into().expect("uncompressed")).expect("on the curve")
}

fn toml_key(key: &PublicKey) -> String {
    let jwk = serde_json::to_value(key).expect("a JWK");
    let member = |name: &str| jwk[name].as_str().expect("text").to_owned();
    format!("key = {{ kty = \"EC\", crv = \"P-256\", x = \"{}\", y = \"{}\" }}", member("x"), member("y"))
}

/// A key that the KMS generated.
fn generated(key: PublicKey) -> KeyFile {
    KeyFile { key: key.into(), adopted: false }
}

/// A genesis file with a contract and a release key, in the KMS's directory.
fn write_genesis(home: &Home, contract: PublicKey, release: &KeyFile) -> Digest {
    let name = |text: &str| text.parse().expect("a name");
    let policy = format!(
        "name = \"release-approval\"\nkinds = [\"sign\"]\ndeadline = \"1h\"\nrule = {{ at_least = 1, of = \"all\" }}\n\
         [[voter]]\nname = \"alice\"\n{}\ngroups = [\"all\"]\n",
        toml_key(&software_key(1))
    );
    let process = format!(
        "name = \"release-signing\"\ninput = {{ artifact = \"digest\", name = \"text\", size = \"integer\" }}\n\
         [[requester]]\nname = \"ci\"\n{}\n[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
         subject = {{ kind = \"sign\", key = \"release\", name = \"{{name}}\", digest = \"{{artifact}}\", size = \"{{size}}\" }}\n\
         [[step]]\nname = \"signature\"\nact = \"approval\"\n",
        toml_key(&software_key(2))
    );
    let chain = |id: &str, number| ChainDocument { id: name(id), validators: vec![software_key(number)] };
    let document = GenesisDocument {
        version: Integer::saturating(1),
        name: name("test"),
        environment: "a test".parse().expect("text"),
        created: UnixMillis::new(1),
        chains: vec![chain("process", 3), chain("consensus", 4)],
        contracts: vec![ContractDocument {
            name: name("release-approval"),
            chain: name("consensus"),
            governed_by: None,
            policy: Bytes(policy.into_bytes()),
            key: contract,
            attestation: None,
        }],
        processes: vec![ProcessDocument {
            name: name("release-signing"),
            chain: name("process"),
            governed_by: name("release-approval"),
            definition: Bytes(process.into_bytes()),
        }],
        keys: vec![KeyDocument {
            name: name("release"),
            governed_by: name("release-approval"),
            alg: release.key.algorithm(),
            format: SignatureFormat::Der,
            key: release.key.public_key().clone(),
            attestation: None,
            adopted: release.adopted,
        }],
        recovery: None,
    };
    let genesis = document.to_genesis().expect("valid");
    fs::write(home.path("genesis.json"), genesis.bytes()).expect("writable");
    genesis.id().0
}

fn created(home: &Home, kind: &str, name: &str) -> PublicKey {
    let view = home.json(&["key", "create", kind, name]);
    serde_json::from_value(view["public_key"].clone()).expect("a JWK")
}

fn pin(home: &Home) -> std::process::Output {
    let path = home.path("genesis.json");
    home.run(&["pin", path.to_str().expect("UTF-8")])
}

#[test]
fn a_kms_is_made_keys_are_created_and_a_deployment_is_pinned_once() {
    let home = Home::made();
    let mut kms = home.serve();
    assert!(home.ask("kms.sock", "GET /v1/health").contains(r#"{"status":"not-pinned","deployment":null}"#));
    let (contract, release) =
        (created(&home, "--contract", "release-approval"), created(&home, "--key", "release"));
    refused(&home.run(&["key", "create", "--key", "release"]), 1, "`release` is there already");
    let id = write_genesis(&home, contract, &generated(release.clone()));
    let output = pin(&home);
    done(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("deployment {id}\n")));
    assert!(home.ask("kms.sock", "GET /v1/health").contains(&id.to_string()));
    let keys = home.json(&["key", "list"]);
    for key in keys["keys"].as_array().expect("keys") {
        assert_eq!((key["state"].as_str(), key["version"].as_u64()), (Some("active"), Some(1)));
    }
    refused(&pin(&home), 1, "once and for all");
    kms.wait_for("the deployment is pinned");
    assert_eq!(kms.stop(), Some(0));
    assert!(!home.path("kms.sock").exists() && !home.path("admin.sock").exists());

    let kms = home.serve();
    assert!(kms.log.contains(&id.to_string()), "{}", kms.log);
    assert_eq!(home.json(&["key", "list"]), keys);
    let report = home.json(&["audit", "verify"]);
    // Made, started, two keys, pinned, started.
    assert_eq!(report["entries"], 6);
    let doctor = home.json(&["doctor"]);
    assert!(doctor["findings"].as_array().expect("a list").iter().all(|finding| finding["well"] == true));
    for (by_hand, state) in [("suspend", "suspended"), ("resume", "active")] {
        assert_eq!(home.json(&["key", by_hand, "--key", "release"])["state"], state);
        refused(&home.run(&["key", by_hand, "--key", "release"]), 1, "cannot become");
    }
    assert_eq!(home.json(&["audit", "verify"])["entries"], 8);
    let probed = home.run(&["doctor", "--probe"]);
    done(&probed);
    let said = String::from_utf8_lossy(&probed.stdout).into_owned();
    assert!(said.contains("signs by: ES256, ES384, RS256, PS256"), "{said}");
    assert!(said.contains("its `[[device]]` needs nothing more"), "{said}");
}

#[test]
fn a_key_is_limited_when_it_is_made_and_later_and_what_is_soon_to_become_of_it_is_said() {
    let home = Home::made();
    let kms = home.serve();
    let (never, soon) = ("2000-01-01T00:00:00Z", &moment_in(10));
    let options = ["key", "create", "--key", "release", "--deactivates"];
    refused(&home.run(&[&options[..], &[never]].concat()), 1, "is past: a date must lie ahead");
    refused(&home.run(&[&options[..], &["2030-01-31"]].concat()), 2, "is not a moment such as");
    assert_eq!(home.json(&["key", "list"])["keys"], serde_json::json!([]));
    let made = home.json(&[&options[..], &[soon, "--rate", "100/1h"]].concat());
    assert_eq!((&made["limits"]["rate"], &made["used"]), (&"100/1h".into(), &0.into()));
    let release: PublicKey = serde_json::from_value(made["public_key"].clone()).expect("a JWK");
    let later = moment_in(400);
    let create = ["key", "create", "--contract", "release-approval", "--activates", &later];
    let contract = home.json(&create);
    let contract = serde_json::from_value(contract["public_key"].clone()).expect("a JWK");
    write_genesis(&home, contract, &generated(release));
    done(&pin(&home));

    let listed = home.run(&["key", "list"]);
    done(&listed);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let (first, rest) = listed.split_once('\n').expect("lines");
    assert!(
        first.contains("pre-activation") && first.ends_with(&format!(", active from {later}")),
        "{first}"
    );
    assert!(rest.contains("  active          ES256"), "{rest}");
    assert!(rest.contains(&format!(", deactivated from {soon}, at most 100/1h\n")), "{rest}");
    assert!(rest.contains(&format!("the key `release` is to be deactivated at {soon}, in 9days")), "{rest}");
    let doctor = home.run(&["doctor"]);
    done(&doctor);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("SOON   the key `release`, version 1: active, on the token"), "{doctor}");
    assert!(
        doctor.contains("ok     the key of contract `release-approval`, version 1: pre-activation"),
        "{doctor}"
    );

    let limit = |options: &[&str]| home.run(&[&["key", "limit", "--key", "release"], options].concat());
    refused(&limit(&[]), 2, "--deactivates");
    refused(&limit(&["--uses", "0"]), 2, "is no count of uses");
    refused(&limit(&["--activates", &later]), 1, "only one that was never active");
    done(&limit(&["--uses", "5", "--rate", "none", "--deactivates", "none"]));
    let keys = home.json(&["key", "list"]);
    assert_eq!(keys["keys"][1]["limits"], serde_json::json!({ "uses": 5 }));
    assert_eq!(kms.stop(), Some(0));
    let mut kms = home.serve();
    assert_eq!(home.json(&["key", "list"]), keys, "it is so after a start");
    done(&limit(&["--deactivates", soon]));
    assert_eq!(kms.stop(), Some(0));
    kms = home.serve();
    kms.wait_for("the key is to be deactivated at");
    done(&home.run(&["audit", "verify"]));
}

#[test]
fn a_backup_is_written_where_there_is_none() {
    let home = Home::made();
    let back_up = || home.run(&["backup", "--out", home.path("backup").to_str().expect("UTF-8")]);
    done(&back_up());
    let database = home.path("backup/kms.sqlite");
    let before = fs::read(&database).expect("there");
    refused(&back_up(), 1, "there is a backup in `");
    refused(&back_up(), 1, "give another directory with `--out`, or move that one elsewhere");
    assert!(fs::read(&database).expect("there") == before, "it is as it was");
    let wrapped = home.path("backup/wrapped-keys.json");
    fs::rename(&database, &wrapped).expect("moved");
    refused(&back_up(), 1, "there is a backup in `");
    assert!(!database.exists(), "nothing was written");
    fs::remove_file(&wrapped).expect("there");
    done(&back_up());
}

/// The moment in so many days, in whole seconds.
fn moment_in(days: u64) -> String {
    let moment = std::time::SystemTime::now() + std::time::Duration::from_secs(days * 24 * 3_600);
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[test]
fn a_genesis_with_keys_that_are_not_ours_is_refused_with_all_of_them() {
    let home = Home::made();
    let _kms = home.serve();
    let contract = created(&home, "--contract", "release-approval");
    write_genesis(&home, contract.clone(), &generated(software_key(9)));
    let missing = pin(&home);
    refused(&missing, 1, "there is no such key here; `assent-kms key create` makes it");
    let release = created(&home, "--key", "release");
    write_genesis(&home, release.clone(), &generated(contract.clone()));
    let swapped = pin(&home);
    refused(&swapped, 1, "the key of contract `release-approval` is");
    refused(&swapped, 1, "the key `release` is");
    fs::write(home.path("genesis.json"), "{}").expect("writable");
    refused(&pin(&home), 1, "the genesis file is refused");
    fs::remove_file(home.path("genesis.json")).expect("there");
    refused(&pin(&home), 1, "cannot read the genesis file");
    for by_hand in ["suspend", "resume"] {
        refused(&home.run(&["key", by_hand, "--key", "release"]), 1, "is pre-activation, and cannot become");
    }
    let done_to = home.json(&["key", "compromised", "--key", "release"]);
    assert_eq!(done_to["state"], "compromised");
    write_genesis(&home, contract, &generated(release));
    refused(&pin(&home), 1, "is compromised here");
}

#[test]
fn only_its_own_user_finds_files_and_sockets_open_and_nothing_holds_the_pin() {
    let home = Home::made();
    let (module, uri) = (home.token.module(), home.token.uri());
    home.configure(module, &uri, home.token.pin_file(), "metrics_socket = \"metrics.sock\"\n");
    let kms = home.serve();
    created(&home, "--key", "release");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&home.path("state")), 0o700);
    for socket in ["kms.sock", "admin.sock"] {
        assert_eq!(mode(&home.path(socket)), 0o600);
    }
    assert_eq!(mode(&home.path("metrics.sock")), 0o660);
    let pin = home.token.pin().expose_secret().to_owned();
    for file in fs::read_dir(home.path("state")).expect("there") {
        let path = file.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let bytes = fs::read(&path).expect("readable");
        assert!(!bytes.windows(pin.len()).any(|window| window == pin.as_bytes()), "{}", path.display());
    }
    assert!(!kms.log.contains(&pin));
    fs::set_permissions(home.path("state"), fs::Permissions::from_mode(0o750)).expect("ours");
    kms.kill();
    refused(&home.run(&["serve"]), 1, "closed to all others: run `chmod 700`");
}

#[test]
fn a_second_kms_on_the_same_state_is_refused_and_a_killed_one_is_followed_by_the_next() {
    let home = Home::made();
    refused(&home.run(&["init"]), 1, "this KMS was made before");
    let kms = home.serve();
    refused(&home.run(&["serve"]), 1, "in use by another `assent-kms`");
    kms.kill();
    assert!(home.path("kms.sock").exists(), "a killed one leaves its sockets");
    let kms = home.serve();
    drop(kms);
    fs::remove_file(home.path("kms.sock")).expect("left by the killed one");
    fs::write(home.path("kms.sock"), "no socket").expect("writable");
    refused(&home.run(&["serve"]), 1, "is there and is not a socket");
    refused(&home.run(&["key", "list"]), 1, "is it running? `assent-kms serve` starts it");
}

#[test]
fn a_user_who_is_not_allowed_gets_no_answer_on_the_duty_socket() {
    let home = Home::made();
    let other = rustix::process::geteuid().as_raw() + 1;
    let (module, uri) = (home.token.module(), home.token.uri());
    home.configure(module, &uri, home.token.pin_file(), &format!("allowed_users = [{other}]\n"));
    let _kms = home.serve();
    let answer = home.ask("kms.sock", "GET /v1/trusted");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("`allowed_users`"), "{answer}");
    let answer = home.ask("admin.sock", "GET /v1/keys");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_is_wrong_with_module_token_or_configuration_is_said_before_anything_is_made() {
    let home = Home::new();
    let (module, uri, pin) = (home.token.module(), home.token.uri(), home.token.pin_file());
    let cases = [
        (Path::new("/no/such/module.so"), uri.clone(), "there is no such file; check `module`"),
        (Path::new("/bin/sh"), uri.clone(), "the PKCS#11 module `/bin/sh` cannot be used"),
        (module, "pkcs11:token=other".into(), "no token fits the URI in the configuration; the module"),
        (module, "pkcs11:".into(), "name one with `token=LABEL`"),
        (module, "pkcs11:token=kms;object=x".into(), "it must name a token alone"),
        (module, "pkcs11:token=kms?pin-value=1234".into(), "must not be in a `pkcs11:` URI"),
        (module, "slot 0".into(), "a key in a token is named by a URI"),
    ];
    for (module, uri, words) in cases {
        home.configure(module, &uri, pin, "");
        refused(&home.run(&["init"]), 1, words);
        assert!(!home.path("state/kms.sqlite").exists());
    }
    home.configure(module, &uri, pin, "socets = 1\n");
    refused(&home.run(&["init"]), 1, "line 4, column 1: there is no key `socets`; did you mean `socket`?");
    fs::remove_file(home.path("kms.toml")).expect("there");
    refused(&home.run(&["init"]), 1, "`--config FILE` names another");
    assert_eq!(home.run(&["frob"]).status.code(), Some(2));
}

#[test]
fn without_init_nothing_is_served() {
    let home = Home::new();
    for command in [&["serve"][..], &["audit", "verify"], &["retry-pin"]] {
        refused(&home.run(command), 1, "`assent-kms init` makes one");
    }
}

#[test]
fn of_two_tokens_with_one_label_the_serial_number_says_which() {
    let home = Home::new();
    home.token.add_token("kms").expect("a second token");
    let (module, pin) = (home.token.module(), home.token.pin_file());
    home.configure(module, "pkcs11:token=kms", pin, "");
    refused(&home.run(&["init"]), 1, "2 tokens fit the URI in the configuration: add `serial=NUMBER`");
    home.configure(module, &home.token.uri(), pin, "");
    done(&home.run(&["init"]));
}

#[test]
fn a_pin_file_that_others_can_read_is_refused() {
    let home = Home::new();
    let pin = home.path("pin");
    fs::write(&pin, home.token.pin().expose_secret()).expect("writable");
    home.configure(home.token.module(), &home.token.uri(), &pin, "");
    for mode in [0o644, 0o640, 0o660] {
        fs::set_permissions(&pin, fs::Permissions::from_mode(mode)).expect("ours");
        refused(&home.run(&["init"]), 1, "can be read or changed by others");
    }
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).expect("ours");
    done(&home.run(&["init"]));
}

#[test]
fn a_wrong_pin_is_tried_once_and_then_only_when_a_person_says_so() {
    let home = Home::made();
    let pin = home.path("pin");
    let write = |text: &str| {
        fs::write(&pin, text).expect("writable");
        fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).expect("ours");
    };
    write("271828");
    home.configure(home.token.module(), &home.token.uri(), &pin, "");
    let first = home.run(&["serve"]);
    refused(&first, 1, "is wrong; it was tried once");
    assert!(!String::from_utf8_lossy(&first.stderr).contains("271828"));
    // Also when the file is right again: nobody said so.
    write(home.token.pin().expose_secret());
    for _ in 0..2 {
        refused(&home.run(&["serve"]), 1, "then run `assent-kms retry-pin`");
    }
    refused(&home.run(&["doctor"]), 1, "something is wrong");
    assert_eq!(home.json(&["retry-pin"])["was_marked"], true);
    let kms = home.serve();
    assert_eq!(home.json(&["retry-pin"])["was_marked"], false);
    assert_eq!(kms.stop(), Some(0));
}

#[test]
fn an_older_database_is_not_served() {
    let home = Home::made();
    assert_eq!(home.serve().stop(), Some(0));
    let copy = fs::read(home.path("state/kms.sqlite")).expect("there");
    assert_eq!(home.serve().stop(), Some(0));
    fs::write(home.path("state/kms.sqlite"), copy).expect("put back");
    refused(&home.run(&["serve"]), 1, "was put back to an older state");
}

#[test]
fn a_token_belongs_to_one_kms() {
    let home = Home::made();
    fs::rename(home.path("state"), home.path("first")).expect("moved");
    refused(&home.run(&["init"]), 1, "the token belongs to another KMS");
}

#[test]
fn a_changed_audit_log_is_found_at_its_entry() {
    let home = Home::made();
    let kms = home.serve();
    created(&home, "--key", "release");
    kms.kill();
    let report = home.json(&["audit", "verify"]);
    let head = report["head"].as_str().expect("a head").to_owned();
    done(&home.run(&["audit", "verify", "--head", &head]));
    let unknown = Digest::ZERO.to_string();
    refused(&home.run(&["audit", "verify", "--head", &unknown]), 4, "is not in the audit log");
    let exported = home.run(&["audit", "export", "--from", "3"]);
    done(&exported);
    let last = String::from_utf8_lossy(&exported.stdout).lines().last().map(str::to_owned).expect("a line");
    assert!(last.contains(&format!(r#""head":"{head}""#)), "{last}");
    refused(
        &home.run(&["audit", "export", "--to", "yesterday"]),
        2,
        "neither an entry's number nor a moment",
    );
    let file = rusqlite::Connection::open(home.path("state/kms.sqlite")).expect("it opens");
    file.execute_batch(
        "UPDATE audit SET entry = CAST(replace(CAST(entry AS TEXT), '\"by\":', '\"By\":') AS BLOB) WHERE number = 3",
    )
    .expect("changed");
    drop(file);
    for command in ["verify", "export"] {
        refused(&home.run(&["audit", command]), 4, "entry 3 of the audit log is the first that is wrong");
    }
}

#[test]
fn a_jwk_goes_into_a_new_file_or_no_key_is_made() {
    let home = Home::made();
    let _kms = home.serve();
    let path = home.path("release.jwk");
    let arguments = ["key", "create", "--key", "release", "--out", path.to_str().expect("UTF-8")];
    done(&home.run(&arguments));
    let jwk: PublicKey = assent_consensus::json::read(&fs::read(&path).expect("there")).expect("a JWK");
    let keys = home.json(&["key", "list"]);
    assert_eq!(keys["keys"][0]["thumbprint"], jwk.thumbprint().to_string());
    let arguments = ["key", "create", "--key", "other", "--out", path.to_str().expect("UTF-8")];
    refused(&home.run(&arguments), 1, "cannot make");
    let keys: Value = home.json(&["key", "list"]);
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1));
    refused(&home.run(&["key", "create"]), 2, "--contract");
}

#[test]
fn a_voter_or_a_request_is_named_before_it_is_suspended_or_released() {
    let home = Home::made();
    let _kms = home.serve();
    let (contract, release) =
        (created(&home, "--contract", "release-approval"), created(&home, "--key", "release"));
    let voter = software_key(1).thumbprint().to_string();
    let request = Digest::of(b"a request").to_string();
    refused(&home.run(&["voter", "suspend", &voter]), 1, "not pinned yet");
    refused(&home.run(&["release", &request]), 1, "not pinned yet");
    write_genesis(&home, contract, &generated(release));
    done(&pin(&home));
    let stranger = software_key(2).thumbprint().to_string();
    refused(&home.run(&["voter", "suspend", &stranger]), 1, "no policy of the pinned deployment");
    done(&home.run(&["voter", "suspend", &voter]));
    done(&home.run(&["release", &request]));
    refused(&home.run(&["release", "sha256:00"]), 2, "64 lower-case hexadecimal digits");
    done(&home.run(&["audit", "verify"]));
}

#[test]
fn a_device_that_is_added_later_holds_keys_and_is_missed_when_it_is_taken_away() {
    let home = Home::made();
    let kms = home.serve();
    created(&home, "--key", "release");
    assert_eq!(kms.stop(), Some(0));
    let first = fs::read_to_string(home.path("kms.toml")).expect("there");
    let second = home.token.add_token("second").unwrap_or_else(|error| panic!("{error}"));
    let (module, pin) = (home.token.module(), home.token.pin_file());
    let added = format!(
        "[[device]]\nname = \"second\"\ndriver = \"pkcs11\"\nmodule = {module:?}\ntoken = \"{second}\"\npin_file = {pin:?}\n"
    );
    fs::write(home.path("kms.toml"), format!("{first}{added}")).expect("writable");

    let kms = home.serve();
    let view = home.json(&["key", "create", "--key", "backup", "--device", "second"]);
    assert_eq!(view["device"], "second");
    refused(&home.run(&["key", "create", "--key", "other", "--device", "third"]), 1, "no device `third`");
    let devices = home.json(&["key", "list"]);
    let devices: Vec<_> =
        devices["keys"].as_array().expect("keys").iter().map(|key| key["device"].as_str()).collect();
    assert_eq!(devices, [Some("second"), Some("main")]);
    let doctor = home.json(&["doctor"]);
    assert!(doctor["findings"].as_array().expect("a list").iter().all(|finding| finding["well"] == true));
    assert_eq!(kms.stop(), Some(0));
    assert_eq!(home.serve().stop(), Some(0));
    done(&home.run(&["audit", "verify"]));

    fs::write(home.path("kms.toml"), first).expect("writable");
    let mut kms = home.serve();
    kms.wait_for("the configuration does not have the device of this key");
    refused(&home.run(&["doctor"]), 1, "something is wrong");
    let file = rusqlite::Connection::open(home.path("state/kms.sqlite")).expect("it opens");
    file.execute("UPDATE key SET state = 'destroyed' WHERE device = 'second'", []).expect("changed");
    done(&home.run(&["doctor"]));
}
