//! The policies and processes of the deployment that tests use.
//!
//! | contract | rule | deadline | keys that it governs |
//! |---|---|---|---|
//! | `release-approval` | two of three engineers | an hour | `release` (der), `hotfix` (dsse), `package` (jws), `image` (raw) |
//! | `brief-approval` | the same | a second and a half | `brief` (der) |
//!
//! For each key `K` there is a process `K-signing`, which asks the contract that governs K.

use std::fmt::Write as _;

/// A consensus contract of the test's deployment, and the deadline that its policy sets.
pub(super) const CONTRACTS: [(&str, &str); 2] = [("release-approval", "1h"), ("brief-approval", "1500ms")];

/// The operational keys: name, format, and the contract that governs it.
pub(super) const KEYS: [(&str, &str, &str); 5] = [
    ("release", "der", "release-approval"),
    ("hotfix", "dsse", "release-approval"),
    ("package", "jws", "release-approval"),
    ("image", "raw", "release-approval"),
    ("brief", "der", "brief-approval"),
];

/// Who may start cases, beside what he may be else.
pub(super) const REQUESTERS: [&str; 2] = ["ci", "engineer-1"];
/// Who votes.
pub(super) const VOTERS: [&str; 3] = ["engineer-1", "engineer-2", "engineer-3"];

/// A policy; `key` gives the line with a voter's key.
pub(super) fn policy(name: &str, deadline: &str, key: impl Fn(&str) -> String) -> String {
    let mut text = format!(
        "name = \"{name}\"\nkinds = [\"sign\"]\ndeadline = \"{deadline}\"\n\n\
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
    let mut text = format!(
        "name = \"{key}-signing\"\ninput = {{ artifact = \"digest\", name = \"text\", size = \"integer\" }}\n"
    );
    for requester in REQUESTERS {
        write!(text, "\n[[requester]]\nname = \"{requester}\"\n{}\n", line(requester))
            .expect("a text takes all");
    }
    text + &format!(
        "\n[[step]]\nname = \"approval\"\nask = \"{contract}\"\n\
         subject = {{ kind = \"sign\", key = \"{key}\", name = \"{{name}}\", digest = \"{{artifact}}\", size = \"{{size}}\" }}\n\
         on_rejected = \"end\"\n\n[[step]]\nname = \"signature\"\nact = \"approval\"\n"
    )
}

/// The file that `assent init` makes genesis of.
pub(super) fn deployment(kms_socket: &str) -> String {
    let mut text = String::from("name = \"test\"\nenvironment = \"test\"\n");
    for (contract, _) in CONTRACTS {
        write!(text, "\n[[contract]]\npolicy = \"{contract}.toml\"\nkey = \"{contract}.jwk\"\n")
            .expect("a text takes all");
    }
    for (key, format, contract) in KEYS {
        write!(
            text,
            "\n[[process]]\ndefinition = \"{key}-signing.toml\"\ngoverned_by = \"{contract}\"\n\
             \n[[key]]\nname = \"{key}\"\ngoverned_by = \"{contract}\"\nformat = \"{format}\"\nkey = \"{key}.jwk\"\n"
        )
        .expect("a text takes all");
    }
    text + &format!("\n[node]\nkms_socket = \"{kms_socket}\"\n")
}
