//! The policies and processes of the deployment that tests use.
//!
//! | contract | rule | deadline | keys that it governs |
//! |---|---|---|---|
//! | `release-approval` | two of three engineers | an hour | `release` (der), `hotfix` (dsse), `package` (jws), `image` (raw) |
//! | `brief-approval` | the same | a second and a half | `brief` (der) |
//! | `night-approval`, governed by `release-approval` | the same | an hour | `nightly` (raw) |
//!
//! A deployment of every algorithm has these keys too, all governed by `release-approval`:
//!
//! | key | algorithm | format |
//! |---|---|---|
//! | `rpm`, `driver`, `boot` | RS256 and PS256 with 4096 bits, ES384 | der |
//! | `chart`, `plugin`, `module` | ES384, PS256, RS256 with 3072 bits | jws, dsse, raw |
//! | `layer` | ES384 | dsse |
//! | `inherited` | RS256 with 3072 bits, made on the token before the KMS and adopted | jws |
//!
//! For each key `K` there is a process `K-signing`, which asks the contract that governs K; that of `nightly` asks again if
//! its request ends without a decision. [`ROTATIONS`] has the processes that replace keys, [`CHANGES`] those that replace
//! policies.

use std::fmt::Write as _;

/// A consensus contract of the test's deployment, and the deadline that its policy sets.
pub(super) const CONTRACTS: [(&str, &str); 3] =
    [("release-approval", "1h"), ("brief-approval", "1500ms"), (NIGHT, "1h")];
/// The contract that another one governs.
const NIGHT: &str = "night-approval";
/// The contract that decides on keys.
const GOVERNOR: &str = "release-approval";

/// The processes that replace a key: name, which key, and the reason.
pub(super) const ROTATIONS: [(&str, &str, &str); 4] = [
    ("rotate-release", "key = \"release\"", "every year"),
    ("rotate-release-approval", "contract = \"release-approval\"", "every year"),
    ("rotate-night-approval", "contract = \"night-approval\"", "every year"),
    ("night-approval-compromised", "contract = \"night-approval\"", "compromise"),
];

/// The processes that replace a policy: name, and whose.
pub(super) const CHANGES: [(&str, &str); 2] =
    [("change-release-approval", GOVERNOR), ("change-night-approval", NIGHT)];

/// An operational key.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) format: &'static str,
    /// The contract that governs it.
    pub(super) contract: &'static str,
    pub(super) alg: &'static str,
    pub(super) bits: Option<&'static str>,
    /// Whether it is on the token before the KMS.
    pub(super) is_adopted: bool,
}

impl Key {
    const fn es256(name: &'static str, format: &'static str, contract: &'static str) -> Key {
        Key { name, format, contract, alg: "ES256", bits: None, is_adopted: false }
    }

    const fn by(
        alg: &'static str,
        bits: Option<&'static str>,
        name: &'static str,
        format: &'static str,
    ) -> Key {
        Key { name, format, contract: "release-approval", alg, bits, is_adopted: false }
    }
}

/// The operational keys of every deployment.
pub(super) const KEYS: [Key; 6] = [
    Key::es256("release", "der", "release-approval"),
    Key::es256("hotfix", "dsse", "release-approval"),
    Key::es256("package", "jws", "release-approval"),
    Key::es256("image", "raw", "release-approval"),
    Key::es256("brief", "der", "brief-approval"),
    Key::es256("nightly", "raw", NIGHT),
];

/// Keys that take long to be made.
pub(super) const OTHER_ALGORITHMS: [Key; 8] = [
    Key::by("RS256", None, "rpm", "der"),
    Key::by("PS256", Some("4096"), "driver", "der"),
    Key::by("ES384", None, "boot", "der"),
    Key::by("ES384", None, "chart", "jws"),
    Key::by("PS256", Some("3072"), "plugin", "dsse"),
    Key::by("RS256", Some("3072"), "module", "raw"),
    Key::by("ES384", None, "layer", "dsse"),
    Key { is_adopted: true, ..Key::by("RS256", None, "inherited", "jws") },
];

/// Who may start cases, beside what he may be else.
pub(super) const REQUESTERS: [&str; 2] = ["ci", "engineer-1"];
/// Who votes.
pub(super) const VOTERS: [&str; 3] = ["engineer-1", "engineer-2", "engineer-3"];

/// A policy; `key` gives the line with a voter's key.
pub(super) fn policy(name: &str, deadline: &str, key: impl Fn(&str) -> String) -> String {
    let mut text = format!(
        "name = \"{name}\"\nkinds = [\"sign\", \"rotate-key\", \"change-policy\"]\ndeadline = \"{deadline}\"\n\n\
         [rule]\nat_least = 2\nof = \"engineers\"\n"
    );
    for voter in VOTERS {
        write!(text, "\n[[voter]]\nname = \"{voter}\"\n{}\ngroups = [\"engineers\"]\n", key(voter))
            .expect("a text takes all");
    }
    text
}

/// The process that signs with `key`; `line` gives the line with a requester's key.
pub(super) fn process(key: &str, contract: &str, line: impl Fn(&str) -> String) -> String {
    let subject = format!(
        "{{ kind = \"sign\", key = \"{key}\", name = \"{{name}}\", digest = \"{{artifact}}\", size = \"{{size}}\" }}"
    );
    let retries = if contract == NIGHT { "retries = 3\n" } else { "" };
    asking(&format!("{key}-signing"), contract, FILE, &subject, retries, line)
}

/// A process of [`ROTATIONS`].
pub(super) fn rotation(name: &str, key: &str, reason: &str, line: impl Fn(&str) -> String) -> String {
    let subject = format!("{{ kind = \"rotate-key\", {key}, reason = \"{reason}\" }}");
    asking(name, GOVERNOR, FILE, &subject, "", line)
}

/// A process of [`CHANGES`].
pub(super) fn change(name: &str, contract: &str, line: impl Fn(&str) -> String) -> String {
    let subject = format!(
        "{{ kind = \"change-policy\", contract = \"{contract}\", from = \"{{from}}\", to = \"{{to}}\" }}"
    );
    asking(name, GOVERNOR, "from = \"digest\", to = \"digest\"", &subject, "", line)
}

/// The inputs of a process on a file.
const FILE: &str = "artifact = \"digest\", name = \"text\", size = \"integer\"";

/// A process that asks a contract on a subject, and does what was approved.
fn asking(
    name: &str,
    contract: &str,
    input: &str,
    subject: &str,
    retries: &str,
    line: impl Fn(&str) -> String,
) -> String {
    let mut text = format!("name = \"{name}\"\ninput = {{ {input} }}\n");
    for requester in REQUESTERS {
        write!(text, "\n[[requester]]\nname = \"{requester}\"\n{}\n", line(requester))
            .expect("a text takes all");
    }
    text + &format!(
        "\n[[step]]\nname = \"approval\"\nask = \"{contract}\"\n\
         subject = {subject}\n{retries}on_rejected = \"end\"\n\n[[step]]\nname = \"signature\"\nact = \"approval\"\n"
    )
}

/// The file that `assent init` makes genesis of; `kms` says where the KMS is.
pub(super) fn deployment(kms: &str, keys: &[Key]) -> String {
    let mut text = String::from("name = \"test\"\nenvironment = \"test\"\n");
    for (contract, _) in CONTRACTS {
        let governed_by =
            if contract == NIGHT { format!("governed_by = \"{GOVERNOR}\"\n") } else { String::new() };
        write!(text, "\n[[contract]]\npolicy = \"{contract}.toml\"\nkey = \"{contract}.jwk\"\n{governed_by}")
            .expect("a text takes all");
    }
    let rotations = ROTATIONS.iter().map(|(rotation, ..)| rotation);
    for process in rotations.chain(CHANGES.iter().map(|(change, _)| change)) {
        write!(text, "\n[[process]]\ndefinition = \"{process}.toml\"\ngoverned_by = \"{GOVERNOR}\"\n")
            .expect("a text takes all");
    }
    for Key { name: key, format, contract, .. } in keys {
        write!(
            text,
            "\n[[process]]\ndefinition = \"{key}-signing.toml\"\ngoverned_by = \"{contract}\"\n\
             \n[[key]]\nname = \"{key}\"\ngoverned_by = \"{contract}\"\nformat = \"{format}\"\nkey = \"{key}.jwk\"\n"
        )
        .expect("a text takes all");
    }
    text + &format!("\n[node]\n{kms}\n")
}
