//! The commands that need no node, run as people run them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a command gave.
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

fn assent(directory: &Path, arguments: &[&str]) -> Outcome {
    assent_with(directory, arguments, "")
}

fn assent_with(directory: &Path, arguments: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("ASSENT_GENESIS")
        .env_remove("ASSENT_NODE")
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A command that fails early reads nothing, which is no failure of the test.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Outcome {
        code: output.status.code().expect("it ends by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

impl Outcome {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// It failed with this code, one line of error with these words, and neither a panic nor a second error.
    #[track_caller]
    fn refused(self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.contains(words), "{words:?} is not in {:?}", self.err);
        assert_eq!(self.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn private(path: &Path, content: &str) {
    fs::write(path, content).expect("writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

fn generate(directory: &Path, name: &str) -> Value {
    let out = format!("{name}.pem");
    let made = assent(directory, &["key", "generate", "--out", &out, "--no-passphrase", "--json"]).done();
    serde_json::from_str(&made).expect("JSON")
}

/// A deployment file with a policy of one voter and a process of one requester, and their keys.
fn deployment(directory: &Path) {
    let [voter, requester, ..] =
        ["voter", "requester", "contract", "release"].map(|name| generate(directory, name));
    let line = |key: &Value| key["toml"].as_str().expect("text").to_owned();
    fs::write(
        directory.join("policy.toml"),
        format!(
            "name = \"release-approval\"\nkinds = [\"sign\"]\ndeadline = \"1h\"\nrule = {{ at_least = 1, of = \"all\" }}\n\
             [[voter]]\nname = \"voter\"\n{}\ngroups = [\"all\"]\n",
            line(&voter)
        ),
    )
    .expect("writable");
    fs::write(
        directory.join("process.toml"),
        format!(
            "name = \"release-signing\"\ninput = {{ artifact = \"digest\", name = \"text\", size = \"integer\" }}\n\
             [[requester]]\nname = \"ci\"\n{}\n\
             [[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
             subject = {{ kind = \"sign\", key = \"release\", name = \"{{name}}\", digest = \"{{artifact}}\", size = \"{{size}}\" }}\n\
             [[step]]\nname = \"signature\"\nact = \"approval\"\n",
            line(&requester)
        ),
    )
    .expect("writable");
    fs::write(
        directory.join("deployment.toml"),
        "name = \"test\"\nenvironment = \"a test\"\n\
         [[contract]]\npolicy = \"policy.toml\"\nkey = \"contract.jwk\"\n\
         [[process]]\ndefinition = \"process.toml\"\ngoverned_by = \"release-approval\"\n\
         [[key]]\nname = \"release\"\ngoverned_by = \"release-approval\"\nformat = \"der\"\nkey = \"release.jwk\"\n\
         [node]\nlisten = \"127.0.0.1:0\"\n",
    )
    .expect("writable");
}

#[test]
fn a_key_is_made_private_and_encrypted_and_shown() {
    let home = directory();
    let here = home.path();
    private(&here.join("passphrase"), "correct horse\n");
    let made =
        assent(here, &["key", "generate", "--out", "alice.pem", "--passphrase-file", "passphrase"]).done();
    assert!(made.contains("thumbprint"), "{made}");
    let pem = fs::read_to_string(here.join("alice.pem")).expect("there");
    assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{pem}");
    assert_eq!(fs::metadata(here.join("alice.pem")).expect("there").permissions().mode() & 0o777, 0o600);

    let shown: Value =
        serde_json::from_str(&assent(here, &["key", "show", "alice.pem", "--json"]).done()).expect("JSON");
    fs::remove_file(here.join("alice.jwk")).expect("there");
    let arguments = ["key", "show", "alice.pem", "--passphrase-file", "passphrase", "--json"];
    let decrypted: Value = serde_json::from_str(&assent(here, &arguments).done()).expect("JSON");
    assert_eq!(shown, decrypted);
    assent(here, &["key", "show", "alice.pem"]).refused(1, "no terminal to ask at");
    private(&here.join("passphrase"), "wrong horse\n");
    assent(here, &arguments).refused(1, "the passphrase is wrong");
}

#[test]
fn a_key_is_never_overwritten_nor_made_without_passphrase_by_accident() {
    let home = directory();
    generate(home.path(), "alice");
    let before = fs::read(home.path().join("alice.pem")).expect("there");
    assent(home.path(), &["key", "generate", "--out", "alice.pem", "--no-passphrase"])
        .refused(1, "never overwritten");
    assert_eq!(fs::read(home.path().join("alice.pem")).expect("there"), before);
    assent(home.path(), &["key", "generate", "--out", "bob.pem"]).refused(1, "no terminal to ask at");
    assert!(!home.path().join("bob.pem").exists());
}

#[test]
fn a_passphrase_file_that_others_can_read_is_refused() {
    let home = directory();
    fs::write(home.path().join("passphrase"), "correct horse").expect("writable");
    fs::set_permissions(home.path().join("passphrase"), fs::Permissions::from_mode(0o644)).expect("ours");
    assent(home.path(), &["key", "generate", "--out", "a.pem", "--passphrase-file", "passphrase"])
        .refused(1, "can be read or changed by others (mode 0644)");
}

#[test]
fn the_keys_of_a_directory_are_listed() {
    let home = directory();
    let alice = generate(home.path(), "alice");
    let listed: Value =
        serde_json::from_str(&assent(home.path(), &["key", "list", ".", "--json"]).done()).expect("JSON");
    assert_eq!(listed.as_array().expect("a list").len(), 1, "{listed}");
    assert_eq!(listed[0]["thumbprint"], alice["thumbprint"]);
}

#[test]
fn a_pin_in_a_uri_is_refused_and_not_repeated() {
    let home = directory();
    let outcome = assent(home.path(), &["key", "show", "pkcs11:token=a;object=b?pin-value=314159"]);
    assert!(!outcome.err.contains("314159"), "{}", outcome.err);
    outcome.refused(2, "--pin-file");
    assent(home.path(), &["key", "show", "pkcs11:token=a;object=b"]).refused(1, "which PKCS#11 module?");
    assent(home.path(), &["key", "show", "pkcs11:token=a;object=b?module-path=/nonexistent.so"])
        .refused(1, "`/nonexistent.so` cannot be used");
}

#[test]
fn init_makes_a_genesis_that_its_own_reader_accepts() {
    let home = directory();
    deployment(home.path());
    let made = assent(home.path(), &["init", "deployment.toml", "--out", "out", "--json"]).done();
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let bytes = fs::read(home.path().join("out/genesis.json")).expect("there");
    let genesis = assent_consensus::genesis::Genesis::parse(&bytes).expect("valid");
    assert_eq!(made["deployment"], genesis.id().to_string());
    assert_eq!(genesis.environment().as_str(), "a test");
    for chain in ["process", "consensus"] {
        let path = home.path().join(format!("out/{chain}.validator.pem"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).expect("there").starts_with("-----BEGIN PRIVATE KEY-----"));
    }
    let node: toml::Table =
        fs::read_to_string(home.path().join("out/node.toml")).expect("there").parse().expect("TOML");
    assert_eq!(node["genesis"].as_str(), Some("genesis.json"));
    assert_eq!(node["validator_keys"]["process"].as_str(), Some("process.validator.pem"));

    assent(home.path(), &["init", "deployment.toml", "--out", "out"]).refused(1, "is not overwritten");
    assert_eq!(fs::read(home.path().join("out/genesis.json")).expect("there"), bytes);
}

#[test]
fn a_deployment_that_does_not_fit_together_is_refused_and_nothing_is_written() {
    let home = directory();
    deployment(home.path());
    let file = home.path().join("deployment.toml");
    let good = fs::read_to_string(&file).expect("there");
    for (from, to, words) in [
        ("governed_by", "goverened_by", "there is no key `goverened_by`; did you mean `governed_by`?"),
        ("environment = \"a test\"", "enviroment = \"a test\"", "line 2, column 1"),
        ("key = \"contract.jwk\"", "key = \"release.jwk\"", "a key has one role"),
        ("policy = \"policy.toml\"", "policy = \"missing.toml\"", "there is no such file"),
        ("policy = \"policy.toml\"", "policy = \"process.toml\"", "is refused"),
        ("key = \"contract.jwk\"", "key = \"contract.pem\"", "is not the JWK"),
        (
            "governed_by = \"release-approval\"\nformat",
            "governed_by = \"another\"\nformat",
            "no such contract",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&file, good.replacen(from, to, 1)).expect("writable");
        assent(home.path(), &["init", "deployment.toml", "--out", "out"]).refused(1, words);
        assert!(!home.path().join("out").exists(), "{words}");
    }
}

#[test]
fn a_policy_is_checked_with_line_and_column() {
    let home = directory();
    deployment(home.path());
    let good = assent(home.path(), &["policy", "check", "policy.toml"]).done();
    assert!(good.contains("policy `release-approval` is good"), "{good}");
    let text = fs::read_to_string(home.path().join("policy.toml")).expect("there");
    fs::write(home.path().join("bad.toml"), text.replace("at_least = 1", "at_least = 2")).expect("writable");
    let bad = assent(home.path(), &["policy", "check", "bad.toml"]);
    assert!(bad.out.contains("bad.toml:4:"), "{}", bad.out);
    bad.refused(1, "is refused: one thing is wrong");
    let bad = assent(home.path(), &["policy", "check", "bad.toml", "--json"]);
    let findings: Value = serde_json::from_str(&bad.out).expect("JSON");
    assert_eq!(findings["errors"][0]["line"], 4, "{findings}");
}

#[test]
fn a_policy_is_explained_and_its_voters_listed() {
    let home = directory();
    deployment(home.path());
    let explained = assent(home.path(), &["policy", "explain", "policy.toml"]).done();
    assert!(explained.contains("at_least 1 of all: voter"), "{explained}");
    let who: Value =
        serde_json::from_str(&assent(home.path(), &["policy", "who", "policy.toml", "--json"]).done())
            .expect("JSON");
    assert_eq!(who[0]["name"], "voter");
}

#[test]
fn a_simulation_answers_each_line() {
    let home = directory();
    deployment(home.path());
    let policy = fs::read_to_string(home.path().join("policy.toml")).expect("there");
    let question = |ballots: Value| {
        serde_json::json!({ "policy": policy, "requester": null, "opened": 1000, "now": 2000, "ballots": ballots })
            .to_string()
    };
    let input = format!(
        "{}\n{}\nno JSON\n",
        question(serde_json::json!([{ "voter": "voter", "choice": "approve", "at": 1500 }])),
        question(serde_json::json!([]))
    );
    let answers = assent_with(home.path(), &["policy", "simulate"], &input).done();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers[0]["outcome"], "approved");
    assert_eq!(answers[0]["decided"], 1500);
    assert_eq!(answers[1]["outcome"], "open");
    assert!(answers[2]["error"].is_string());
    fs::write(home.path().join("lines"), &input).expect("writable");
    let from_file = assent(home.path(), &["policy", "simulate", "lines"]).done();
    assert_eq!(from_file.lines().count(), 3);
}

#[test]
fn bundles_made_elsewhere_are_judged_as_their_list_says() {
    let home = directory();
    let list = fs::read(vectors().join("vectors.json")).expect("there");
    let list: Vec<Value> = serde_json::from_slice(&list).expect("JSON");
    assert!(list.len() > 20, "the list is whole");
    let path = |vector: &Value, member: &str| {
        vectors().join(vector[member].as_str().expect("text")).to_str().expect("UTF-8").to_owned()
    };
    for vector in &list {
        let (genesis, bundle, file) = (path(vector, "genesis"), path(vector, "bundle"), path(vector, "file"));
        let arguments = ["verify", "--genesis", &genesis, &bundle, "--file", &file];
        let valid = vector["valid"] == true;
        let outcome = assent(home.path(), &arguments);
        assert_eq!(
            outcome.code,
            if valid { 0 } else { 4 },
            "{}: {}{}",
            vector["name"],
            outcome.out,
            outcome.err
        );
        let judged = assent(home.path(), &[&arguments[..], &["--json"]].concat());
        let judged: Value = serde_json::from_str(&judged.out).expect("JSON");
        assert_eq!(judged["valid"], valid, "{}", vector["name"]);
        if valid {
            assert!(outcome.out.starts_with("valid\n"), "{}", outcome.out);
        } else {
            assert_eq!(outcome.err.lines().count(), 1, "one clear line: {}", outcome.err);
            outcome.refused(4, "not valid: ");
        }
    }
}

#[test]
fn a_bundle_is_refused_for_another_file_or_a_revoked_key() {
    let home = directory();
    let here = home.path();
    let [genesis, bundle] = ["flat.genesis.json", "approved.bundle.json"]
        .map(|name| vectors().join(name).to_str().expect("UTF-8").to_owned());
    fs::write(here.join("other"), "another file").expect("writable");
    let verify = ["verify", "--genesis", &genesis, &bundle];
    assent(here, &[&verify[..], &["--file", "other"]].concat())
        .refused(4, "is not the file that was asked about");
    assent(here, &[&verify[..], &["--file", "missing"]].concat()).refused(1, "no such file");

    let summary = assent(here, &[&verify[..], &["--json"]].concat()).done();
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let kid = summary["requester"]["thumbprint"].as_str().expect("text");
    fs::write(here.join("revoked"), format!("# lost on a train\n\n{kid}  # ci\n")).expect("writable");
    assent(here, &[&verify[..], &["--revoked", "revoked"]].concat()).refused(4, "which is revoked");
    fs::write(here.join("revoked"), "not a thumbprint\n").expect("writable");
    assent(here, &[&verify[..], &["--revoked", "revoked"]].concat()).refused(1, "line 1: ");
}

#[test]
fn what_is_no_bundle_or_no_genesis_does_not_verify() {
    let home = directory();
    let here = home.path();
    let [genesis, bundle] = ["flat.genesis.json", "approved.bundle.json"]
        .map(|name| vectors().join(name).to_str().expect("UTF-8").to_owned());
    for content in ["no JSON", "{}", "[]", "{\"version\":1}", "\u{1b}[2J", "{\"a\\nerror: b\":1}"] {
        fs::write(here.join("file"), content).expect("writable");
        assent(here, &["verify", "--genesis", &genesis, "file"]).refused(4, "not valid: it is no bundle");
        let outcome = assent(here, &["verify", "--genesis", "file", &bundle]);
        assert!(!outcome.err.contains('\u{1b}'));
        outcome.refused(4, "not valid: ");
    }
    assent(here, &["verify", &bundle]).refused(2, "--genesis");
}

#[test]
fn a_log_is_checked_and_another_file_refused() {
    use assent_consensus::contract::process::ProcessContracts;
    use std::sync::Arc;
    let home = directory();
    let here = home.path();
    deployment(here);
    assent(here, &["init", "deployment.toml", "--out", "."]).done();
    let bytes = fs::read(here.join("genesis.json")).expect("there");
    let genesis = Arc::new(assent_consensus::genesis::Genesis::parse(&bytes).expect("valid"));
    let chain: assent_consensus::name::Name = "process".parse().expect("a name");
    let validators = genesis.chain(&chain).expect("there").validators.clone();
    let contract = Arc::new(ProcessContracts::new(Arc::clone(&genesis), chain.clone()));
    let path = here.join("process.ledger");
    let ledger = assent_ledger::Ledger::open(&path, genesis.id(), chain, validators, contract).expect("made");
    drop(ledger);

    let check = |file: &str, chain: &str, genesis: &str| {
        assent(here, &["ledger", "check", file, "--chain", chain, "--genesis", genesis, "--json"])
    };
    let sound: Value =
        serde_json::from_str(&check("process.ledger", "process", "genesis.json").done()).expect("JSON");
    assert_eq!((&sound["sound"], &sound["blocks"]), (&Value::Bool(true), &Value::from(0)));
    check("process.ledger", "consensus", "genesis.json")
        .refused(1, "is the ledger `process`, not `consensus`");
    check("process.ledger", "another", "genesis.json").refused(2, "genesis has no log `another`");
    let other = vectors().join("flat.genesis.json");
    check("process.ledger", "process", other.to_str().expect("UTF-8")).refused(1, "belongs to deployment");
    check("policy.toml", "process", "genesis.json").refused(1, "is not a ledger");
    check("missing", "process", "genesis.json").refused(1, "`missing`");
    assert!(!here.join("missing").exists());
    check(".", "process", "genesis.json").refused(1, "");
}

#[test]
fn files_that_cannot_be_read_are_refused_by_every_command() {
    let home = directory();
    let here = home.path();
    fs::write(here.join("empty"), "").expect("writable");
    let genesis = vectors().join("flat.genesis.json");
    let genesis = genesis.to_str().expect("UTF-8");
    for (path, words) in [("missing", "no such file"), (".", "is a directory"), ("empty", "is empty")] {
        for command in [["policy", "check", path], ["policy", "explain", path], ["policy", "who", path]] {
            assent(here, &command).refused(1, words);
        }
        assent(here, &["init", path, "--out", "out"]).refused(1, words);
        assent(here, &["verify", "--genesis", genesis, path]).refused(1, words);
        let bundle = genesis.replace("flat.genesis", "approved.bundle");
        assent(here, &["verify", "--genesis", path, &bundle]).refused(1, words);
    }
    assent(here, &["key", "show", "missing"]).refused(1, "No such file");
    assent(here, &["key", "show", "."]).refused(1, "Is a directory");
    assent(here, &["key", "show", "empty"]).refused(1, "is not a P-256 private key");
}

#[test]
fn a_command_line_that_makes_no_sense_is_usage() {
    let home = directory();
    for arguments in [&["no-such-command"][..], &[], &["policy"], &["key", "generate"], &["init", "a.toml"]] {
        assert_eq!(assent(home.path(), arguments).code, 2, "{arguments:?}");
    }
}
