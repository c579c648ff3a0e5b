//! Where the real programs are: beside the one that runs, in `target/debug` or `target/release`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The path of a program of this project, such as `assent`, built as the running one was.
///
/// # Errors
/// It is not built; the message says what builds it.
pub fn find(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("this program does not know where it is")?;
    let mut directory = here.parent().context("this program is in no directory")?;
    // Test programs are one directory deeper.
    if directory.file_name().is_some_and(|name| name == "deps") {
        directory = directory.parent().context("`deps` is in no directory")?;
    }
    let program = directory.join(name);
    if !program.is_file() {
        let profile =
            if directory.file_name().is_some_and(|name| name == "release") { " --release" } else { "" };
        bail!("`{}` is not built; `cargo build{profile} --workspace --bins` builds it", program.display());
    }
    Ok(program)
}
