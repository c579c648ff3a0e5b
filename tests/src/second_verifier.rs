//! `verify_bundles`, which verifies bundles with a JOSE library that is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::program;

/// What the second verifier says of one bundle: nothing if it is good, else the first thing that is not.
pub type Verdict = Result<(), String>;

/// Has it look at bundles of one deployment; one verdict for each, in order.
///
/// # Errors
/// It is not installed, or breaks.
pub fn verdicts(genesis: &Path, bundles: &[PathBuf]) -> Result<Vec<Verdict>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify_bundles");
    let mut command = Command::new(program::python()?);
    command.arg("-B").arg(&script).arg("--genesis").arg(genesis).args(bundles);
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let verdicts: Vec<Verdict> = said
        .lines()
        .map(|line| if line.ends_with("signatures are good") { Ok(()) } else { Err(line.to_owned()) })
        .collect();
    let expected = if verdicts.iter().all(Result::is_ok) { 0 } else { 4 };
    if verdicts.len() != bundles.len() || output.status.code() != Some(expected) {
        bail!(
            "the second verifier ended with {}: {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(verdicts)
}
