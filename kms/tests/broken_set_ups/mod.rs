//! Set-ups that are broken, each in one way: `assent-kms doctor` says of them what the manual shows, cause and remedy.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use assent_consensus::operational_key::Algorithm;
use assent_hsm_mock::{Authority, Term, Usage};

use crate::adoption::pkcs11_tool;
use crate::daemon::{Home, done, refused};
use crate::{created, generated, pin, write_genesis};

const MANUAL: &str = include_str!("../../MANUAL.md");
/// The manual's chapter, which shows each set-up under a heading of its own.
const CHAPTER: &str = "## What the doctor finds\n";

/// Makes such a set-up.
type Make = fn() -> Home;

/// The manual's headings, in their order.
const SET_UPS: [(&str, Make); 16] = [
    ("The module is no PKCS#11 module", no_module),
    ("No token has the name", no_token),
    ("Two tokens have the name", two_tokens),
    ("Another token has the name", another_token),
    ("Others can read the PIN file", open_pin_file),
    ("The PIN is wrong", wrong_pin),
    ("The PIN was wrong before", pin_wrong_before),
    ("Others can use the state directory", open_directory),
    ("The state directory cannot be written", read_only_directory),
    ("The database is damaged", damaged_database),
    ("The database is of an older state", older_database),
    ("The token is of an older state", older_token),
    ("The database is another KMS's", foreign_database),
    ("A key is not on its token", key_deleted),
    ("A key is suspended", key_suspended),
    ("The certificate for nodes has expired", expired_certificate),
];

#[test]
fn the_doctor_says_of_each_broken_set_up_what_the_manual_shows() {
    let blocks = blocks();
    let headings: Vec<_> = blocks.iter().map(|(heading, _)| *heading).collect();
    assert_eq!(headings, SET_UPS.map(|(heading, _)| heading));
    let mut stale = String::new();
    for ((heading, make), (_, block)) in SET_UPS.into_iter().zip(blocks) {
        let home = make();
        let output = as_nobody_special(home.command(&["doctor"])).output().expect("it runs");
        set_mode(&home.path("state"), 0o700);
        let said = as_in_the_manual(&home, &String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(1), "{heading}: {said}");
        if comparable(&said) != comparable(block) {
            stale += &format!("\n### {heading}\n\n```\n{said}```\n");
        }
    }
    assert!(stale.is_empty(), "the manual does not show what the doctor says:\n{stale}");
}

#[test]
fn a_page_of_the_database_that_was_overwritten_is_told_in_one_line() {
    let home = stopped();
    let mut bytes = fs::read(home.path("state/kms.sqlite")).expect("there");
    bytes[2 * 4096..8 * 4096].fill(0xa5);
    fs::write(home.path("state/kms.sqlite"), bytes).expect("writable");
    let report = home.run(&["doctor", "--json"]);
    let report: serde_json::Value =
        serde_json::from_slice(report.stdout.split(|byte| *byte == b'\n').next().expect("a line"))
            .expect("JSON");
    let seen = report["findings"][1]["seen"].as_str().expect("text");
    assert!(seen.contains("kms.sqlite` is damaged: Tree"), "{seen}");
    assert!(seen.ends_with("; restore it from a backup") && !seen.contains('\n'), "{seen}");
}

#[test]
fn without_a_state_directory_there_is_one_thing_to_do_first() {
    let home = Home::new();
    let said = home.run(&["doctor"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.starts_with("WRONG  state directory: there is no KMS in `"), "{said}");
    assert!(said.ends_with("`: `assent-kms init` makes one\n") && said.lines().count() == 1, "{said}");
    assert!(!home.path("state").exists());
}

#[test]
fn a_kms_that_cannot_serve_its_port_does_not_start_and_uses_up_no_epoch() {
    let home = stopped();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    configure_tls(&home, &address, Term::Now);
    refused(&home.run(&["serve"]), 1, &format!("`[tls]`: cannot listen on `{address}`"));
    set_mode(&home.path("tls/kms.key"), 0o640);
    refused(
        &home.run(&["serve"]),
        1,
        "kms.key` can be read or changed by others (mode 0640): run `chmod 600`",
    );
    fs::remove_file(home.path("tls/ca.crt")).expect("there");
    set_mode(&home.path("tls/kms.key"), 0o600);
    refused(&home.run(&["serve"]), 1, "`[tls]`: cannot read `");
    let doctor = home.run(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("epoch on `main`: 2, on token and database"), "{said}");
}

#[test]
fn certificates_that_end_soon_are_told_of_by_the_log_the_metrics_and_the_doctor() {
    let home = stopped();
    configure_tls(&home, "127.0.0.1:0", Term::Days(29));
    let text = fs::read_to_string(home.path("kms.toml")).expect("there");
    fs::write(home.path("kms.toml"), format!("metrics_socket = 'metrics.sock'\n{text}")).expect("written");
    let doctor = || {
        let output = home.run(&["doctor"]);
        done(&output);
        String::from_utf8(output.stdout).expect("UTF-8").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let said = doctor();
    assert!(said.contains("SOON certificate: `") && said.contains("kms.crt`: good for 28 days"), "{said}");
    assert!(
        said.contains("ok clients' authority: `") && said.contains("until 4096-01-01T00:00:00Z"),
        "{said}"
    );

    // The authority that ends first counts.
    let (authorities, next) = (home.path("tls/ca.crt"), Authority::new("next").expect("made"));
    let ends = next.issue(&["ends"], Usage::Server, Term::Days(5)).expect("issued").certificate;
    let both = fs::read_to_string(&authorities).expect("there") + &ends;
    fs::write(&authorities, both).expect("written");
    let text = fs::read_to_string(home.path("kms.toml")).expect("there");
    let with_list = text.replace("\nclients = ", "\nclients_crl = 'tls/ca.crl'\nclients = ");
    fs::write(home.path("kms.toml"), with_list).expect("written");
    refused(&home.run(&["serve"]), 1, "`[tls]`: cannot read `");
    let list = next.revocation_list(&[], Term::Days(3)).expect("signed");
    fs::write(home.path("tls/ca.crl"), list.der()).expect("written");
    let mut kms = home.serve();
    kms.wait_for("the certificate is good for 28 days");
    kms.wait_for("the clients' revocation list is good for 2 days");
    kms.wait_for("the clients' authority is good for 4 days");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after it");
    let metrics = home.ask("metrics.sock", "GET /metrics");
    for (key, days) in [("certificate", 29.0), ("clients_ca", 5.0), ("clients_crl", 3.0)] {
        let series = format!("assent_kms_tls_expiry_timestamp_seconds{{key=\"{key}\"}} ");
        let (_, value) = metrics.split_once(&series).unwrap_or_else(|| panic!("no {series}: {metrics}"));
        let value: f64 = value.lines().next().and_then(|line| line.parse().ok()).expect("a number");
        let left = (value - now.as_secs_f64()) / 86_400.0;
        assert!(left > days - 0.5 && left <= days, "{key}: {left} days");
    }
    let said = doctor();
    assert!(
        said.contains("SOON clients' authority: `") && said.contains("ca.crt`: good for 4 days"),
        "{said}"
    );
    assert!(said.contains("SOON clients' revocation list: `") && said.contains("nobody is let in"), "{said}");
    assert_eq!(kms.stop(), Some(0));

    let text = fs::read_to_string(home.path("kms.toml")).expect("there");
    fs::write(home.path("kms.toml"), format!("expiry_notice = '2d'\n{text}")).expect("written");
    assert!(!doctor().contains("SOON"));
    let expired = next.issue(&["ended"], Usage::Server, Term::Past).expect("issued").certificate;
    fs::write(&authorities, expired).expect("written");
    fs::remove_file(home.path("tls/ca.crl")).expect("there");
    let output = home.run(&["doctor"]);
    refused(&output, 1, "something is wrong");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("WRONG  clients' authority: `"), "{said}");
    assert!(said.contains("WRONG  clients' revocation list: cannot read `"), "{said}");
}

/// A KMS that has run once, with a contract's and a release key, and is stopped.
fn stopped() -> Home {
    let home = Home::made();
    let kms = home.serve();
    created(&home, "--contract", "release-approval");
    created(&home, "--key", "release");
    assert_eq!(kms.stop(), Some(0));
    home
}

fn no_module() -> Home {
    let home = stopped();
    // As when the path of a script, or of a 32-bit library, is given.
    let module = home.path("softhsm2.conf");
    fs::write(&module, "directories.tokendir = /var/lib/softhsm/tokens\nobjectstore.backend = file\n")
        .expect("written");
    home.configure(&module, &home.token.uri(), home.token.pin_file(), "");
    home
}

fn no_token() -> Home {
    let home = stopped();
    home.configure(home.token.module(), "pkcs11:token=production", home.token.pin_file(), "");
    home
}

fn two_tokens() -> Home {
    let home = stopped();
    home.token.add_token("kms").expect("a second token");
    home.configure(home.token.module(), "pkcs11:token=kms", home.token.pin_file(), "");
    home
}

fn another_token() -> Home {
    let home = stopped();
    fs::remove_dir_all(home.token.directory().join("tokens")).expect("there");
    fs::create_dir(home.token.directory().join("tokens")).expect("made");
    home.token.add_token("kms").expect("another token");
    home.configure(home.token.module(), "pkcs11:token=kms", home.token.pin_file(), "");
    home
}

fn open_pin_file() -> Home {
    let home = stopped();
    set_mode(home.token.pin_file(), 0o644);
    home
}

fn wrong_pin() -> Home {
    let home = stopped();
    fs::write(home.path("pin"), "271828\n").expect("written");
    set_mode(&home.path("pin"), 0o600);
    home.configure(home.token.module(), &home.token.uri(), &home.path("pin"), "");
    home
}

fn pin_wrong_before() -> Home {
    let home = wrong_pin();
    assert_eq!(home.run(&["doctor"]).status.code(), Some(1));
    // Whoever corrects the file has yet to say so.
    fs::copy(home.token.pin_file(), home.path("pin")).expect("written");
    home
}

fn open_directory() -> Home {
    let home = stopped();
    set_mode(&home.path("state"), 0o755);
    home
}

fn read_only_directory() -> Home {
    let home = stopped();
    set_mode(&home.path("state"), 0o500);
    home
}

fn damaged_database() -> Home {
    let home = stopped();
    let file = fs::OpenOptions::new().write(true).open(home.path("state/kms.sqlite")).expect("there");
    file.set_len(5_000).expect("cut off");
    home
}

fn older_database() -> Home {
    let home = stopped();
    let copy = fs::read(home.path("state/kms.sqlite")).expect("there");
    assert_eq!(home.serve().stop(), Some(0));
    fs::write(home.path("state/kms.sqlite"), copy).expect("put back");
    home
}

fn older_token() -> Home {
    let home = stopped();
    let (tokens, copy) = (home.token.directory().join("tokens"), home.path("copy"));
    done(&Command::new("cp").arg("-r").args([&tokens, &copy]).output().expect("cp runs"));
    assert_eq!(home.serve().stop(), Some(0));
    fs::remove_dir_all(&tokens).expect("there");
    done(&Command::new("cp").arg("-r").args([&copy, &tokens]).output().expect("cp runs"));
    home
}

fn foreign_database() -> Home {
    let home = stopped();
    fs::rename(home.path("state"), home.path("own")).expect("moved");
    let second = home.token.add_token("second").expect("a second token");
    home.configure(home.token.module(), &second, home.token.pin_file(), "");
    done(&home.run(&["init"]));
    home.configure(home.token.module(), &home.token.uri(), home.token.pin_file(), "");
    home
}

fn key_deleted() -> Home {
    let home = Home::made();
    let kms = home.serve();
    let view = home.json(&["key", "create", "--key", "release"]);
    assert_eq!(view["alg"], Algorithm::ES256.to_string());
    let id = view["object"].as_str().expect("an id");
    for kind in ["privkey", "pubkey"] {
        pkcs11_tool(&home, &["--delete-object", "--type", kind, "--id", id]);
    }
    assert_eq!(kms.stop(), Some(0));
    home
}

fn key_suspended() -> Home {
    let home = Home::made();
    let kms = home.serve();
    let (contract, release) =
        (created(&home, "--contract", "release-approval"), created(&home, "--key", "release"));
    write_genesis(&home, contract, &generated(release));
    done(&pin(&home));
    done(&home.run(&["key", "suspend", "--key", "release"]));
    assert_eq!(kms.stop(), Some(0));
    home
}

fn expired_certificate() -> Home {
    let home = stopped();
    configure_tls(&home, "127.0.0.1:0", Term::Past);
    home
}

/// Has it take duties from other machines, with a certificate of this term.
fn configure_tls(home: &Home, listen: &str, term: Term) {
    let authority = Authority::new("authority").expect("made");
    fs::create_dir_all(home.path("tls")).expect("made");
    fs::write(home.path("tls/ca.crt"), authority.certificate()).expect("written");
    let issued = authority.issue(&["kms.example.org"], Usage::Server, term).expect("issued");
    issued.write(&home.path("tls"), "kms").expect("written");
    let tls = format!(
        "[tls]\nlisten = '{listen}'\ncertificate = 'tls/kms.crt'\nprivate_key = 'tls/kms.key'\n\
         clients_ca = 'tls/ca.crt'\nclients = ['dns:node.example.org']\n"
    );
    home.configure(home.token.module(), &home.token.uri(), home.token.pin_file(), &tls);
}

/// The command, run so that modes count also for root.
fn as_nobody_special(command: Command) -> Command {
    if !rustix::process::geteuid().is_root() {
        return command;
    }
    let mut plain = Command::new("setpriv");
    plain.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    plain.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => plain.env(name, value),
            None => plain.env_remove(name),
        };
    }
    plain
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

/// Each heading of the chapter with the block below it.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let (_, chapter) = MANUAL.split_once(CHAPTER).expect("the manual has the chapter");
    let chapter = chapter.split("\n## ").next().unwrap_or(chapter);
    let block = |part: &'static str| {
        let (heading, text) = part.split_once('\n').expect("a heading");
        let block = text.split("```").nth(1).unwrap_or_else(|| panic!("no block below `{heading}`"));
        (heading, block)
    };
    chapter.split("\n### ").skip(1).map(block).collect()
}

/// What the doctor says, with the places of the manual's example instead of the test's.
fn as_in_the_manual(home: &Home, said: &str) -> String {
    let user = rustix::process::geteuid().as_raw();
    let places = [
        (home.path("state").display().to_string(), "/var/lib/assent-kms"),
        (home.path("tls").display().to_string(), "/etc/assent-kms/tls"),
        (home.path("pin").display().to_string(), "/etc/assent-kms/pin"),
        (home.token.pin_file().display().to_string(), "/etc/assent-kms/pin"),
        (home.path("softhsm2.conf").display().to_string(), "/etc/softhsm2.conf"),
        (home.token.module().display().to_string(), "/usr/lib/softhsm/libsofthsm2.so"),
        (format!("of user {user})"), "of user 990)"),
    ];
    places.iter().fold(said.to_owned(), |said, (ours, manuals)| said.replace(ours, manuals))
}

/// The text without line breaks, and with `#` for ids, serial numbers, versions, rates and numbers of days, which are never
/// the same.
fn comparable(text: &str) -> String {
    let comparable = |word: &str| {
        let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = core.strip_prefix("sha256:").unwrap_or(core);
        let is_id = digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_version = core.contains('.') && core.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_id || is_version { word.replace(core, "#") } else { word.to_owned() }
    };
    let text = text.split_whitespace().map(comparable).collect::<Vec<_>>().join(" ");
    [" a second", " days, until"].into_iter().fold(text, |text, unit| match text.split_once(unit) {
        Some((before, after)) => {
            format!("{}#{unit}{after}", before.trim_end_matches(|c: char| c.is_ascii_digit()))
        }
        None => text,
    })
}
