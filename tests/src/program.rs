//! Where the real programs are: beside the one that runs, in `target/debug` or `target/release`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The path of a program of this project, such as `assent`, built as the running one was.
///
/// # Errors
/// It is not built; the message says what builds it.
pub fn find(name: &str) -> Result<PathBuf> {
    let directory = directory()?;
    let program = directory.join(name);
    if !program.is_file() {
        let profile =
            if directory.file_name().is_some_and(|name| name == "release") { " --release" } else { "" };
        bail!("`{}` is not built; `cargo build{profile} --workspace --bins` builds it", program.display());
    }
    Ok(program)
}

/// The directory of all that is built.
///
/// # Errors
/// The running program is in no such directory.
pub fn target_directory() -> Result<PathBuf> {
    Ok(directory()?.parent().context("programs are built into a directory of their own")?.to_owned())
}

/// The Python that has the libraries of others with which ours are compared.
///
/// # Errors
/// It is not installed; the message says what installs it.
pub fn python() -> Result<PathBuf> {
    let python = target_directory()?.join("tools/bin/python3");
    if !python.exists() {
        bail!("`{}` is not there; `scripts/setup --test` installs it", python.display());
    }
    Ok(python)
}

fn directory() -> Result<PathBuf> {
    let here = std::env::current_exe().context("this program does not know where it is")?;
    let directory = here.parent().context("this program is in no directory")?;
    // Test programs are one directory deeper.
    let is_deeper = directory.file_name().is_some_and(|name| name == "deps");
    let directory = if is_deeper { directory.parent() } else { Some(directory) };
    Ok(directory.context("`deps` is in no directory")?.to_owned())
}
