//! The units that are shipped: how much they take away, and what must be in them.

mod restrictions;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The exposure that `systemd-analyze security` may find at most, in tenths: 0 is none, 100 is all.
const EXPOSURE_LIMIT: &str = "20";

fn units() -> [PathBuf; 2] {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    ["kms/systemd/assent-kms.service", "chain/node/systemd/assent.service"].map(|unit| top.join(unit))
}

#[test]
fn a_unit_leaves_its_service_little_that_it_does_not_need() {
    for unit in units() {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_LIMIT])
            .arg(&unit)
            .output()
            .expect("systemd-analyze runs: `scripts/setup --test` installs it");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", unit.display());
        assert!(said.contains("Overall exposure level"), "{}: {said}", unit.display());
    }
}

#[test]
fn a_secret_reaches_neither_a_core_dump_nor_another_user() {
    for unit in units() {
        let text = std::fs::read_to_string(&unit).expect("it is there");
        for line in ["LimitCORE=0", "UMask=0077", "StateDirectoryMode=0700", "NoNewPrivileges=yes"] {
            assert!(text.lines().any(|has| has == line), "{}: {line}", unit.display());
        }
        assert!(!text.lines().any(|line| line == "User=root"), "{}", unit.display());
    }
}
