//! The fault-injecting module, from the side of whoever writes its script.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use assent_fault_module::{Fault, Latency, SCRIPT_VARIABLE, Script, ScriptError, Vendor};
use thiserror::Error;

/// A PKCS#11 module that stands before a real one, and its script.
///
/// A process that is to use it has [`module`](Self::module) as its module and [`variable`](Self::variable) in its
/// environment. A script that is set holds from the next call on, in a process that runs already too.
///
/// ```no_run
/// use assent_hsm_mock::{Fault, FaultModule, SoftHsmToken};
///
/// let token = SoftHsmToken::create("faulty")?;
/// let faults = FaultModule::over(token.module(), token.directory())?;
/// let mut tool = std::process::Command::new("pkcs11-tool");
/// let (name, value) = faults.variable();
/// tool.env("SOFTHSM2_CONF", token.config()).env(name, value).arg("--module").arg(faults.module());
/// faults.set(vec![Fault::answer("C_OpenSession", "CKR_SESSION_COUNT").on_call(1)])?;
/// assert!(!tool.arg("--list-objects").status()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultModule {
    module: PathBuf,
    script: PathBuf,
    calls: PathBuf,
    /// What stays when faults are lifted.
    lasting: Script,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub function: String,
    /// What it returned, such as `CKR_OK`.
    pub code: String,
    /// What was signed, in hexadecimal.
    pub data: Option<String>,
}

impl FaultModule {
    /// Stands before `real`, without faults; the script is in `directory`, as `fault-script.json`.
    ///
    /// # Errors
    /// [`FaultModuleError`]
    pub fn over(real: &Path, directory: &Path) -> Result<FaultModule, FaultModuleError> {
        let made = FaultModule {
            module: find_fault_module()?,
            script: directory.join(SCRIPT_FILE),
            calls: directory.join(CALLS_FILE),
            lasting: Script::new(real),
        };
        made.lift()?;
        Ok(made)
    }

    /// How slow the device is, and whose peculiarities it has, from now on.
    ///
    /// # Errors
    /// [`FaultModuleError`]
    pub fn be(&mut self, latency: Latency, vendor: Option<Vendor>) -> Result<(), FaultModuleError> {
        (self.lasting.latency, self.lasting.vendor) = (latency, vendor);
        self.lift()
    }

    /// Writes down calls from now on; see [`calls`](Self::calls).
    ///
    /// # Errors
    /// [`FaultModuleError`]
    pub fn write_down_calls(&mut self) -> Result<(), FaultModuleError> {
        self.write_down_calls_of(&[])
    }

    /// Writes down the calls of these functions alone; of all if none is named.
    ///
    /// # Errors
    /// [`FaultModuleError`]
    pub fn write_down_calls_of(&mut self, functions: &[&str]) -> Result<(), FaultModuleError> {
        self.lasting.calls = Some(self.calls.clone());
        self.lasting.calls_of = functions.iter().map(ToString::to_string).collect();
        self.lift()
    }

    /// The module: the path to load.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// What must be in the environment of a process that loads the module: a name and its value.
    pub fn variable(&self) -> (&'static str, &Path) {
        (SCRIPT_VARIABLE, &self.script)
    }

    /// Has these faults happen, and no others; calls are counted from the beginning.
    ///
    /// # Errors
    /// [`FaultModuleError::Script`] of a name that there is not; [`FaultModuleError::Io`].
    pub fn set(&self, faults: Vec<Fault>) -> Result<(), FaultModuleError> {
        let script = Script { faults, ..self.lasting.clone() };
        script.check()?;
        let new = self.script.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            serde_json::to_writer(&mut file, &script)?;
            file.flush()?;
            // The kernel's own stamp is as coarse as its clock ticks, and an inode may be used again: this one is neither's.
            file.set_modified(SystemTime::now())?;
            fs::rename(&new, &self.script)
        };
        write().map_err(|source| FaultModuleError::Io { path: self.script.clone(), source })
    }

    /// No faults any more.
    ///
    /// # Errors
    /// [`FaultModuleError::Io`]
    pub fn lift(&self) -> Result<(), FaultModuleError> {
        self.set(Vec::new())
    }

    /// The calls that were written down, in the order in which they returned, and forgets them.
    ///
    /// # Errors
    /// [`FaultModuleError::Io`]
    pub fn calls(&self) -> Result<Vec<Call>, FaultModuleError> {
        let at = |source| FaultModuleError::Io { path: self.calls.clone(), source };
        let text = match fs::read_to_string(&self.calls) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(at)?,
        };
        // The module appends, so a file that is cut goes on at its beginning.
        File::options().write(true).open(&self.calls).and_then(|file| file.set_len(0)).map_err(at)?;
        Ok(text.lines().filter_map(Call::read).collect())
    }
}

impl Call {
    fn read(line: &str) -> Option<Call> {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Call { function: words.next()?, code: words.next()?, data: words.next() })
    }
}

/// Why there is no such module.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FaultModuleError {
    /// It is not built.
    #[error("`{FILE}` is not beside this program: `cargo build --workspace` builds it")]
    NotBuilt,
    /// A script that the module would not take.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A file.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The module that was built with the running program: beside it, or in `deps` there.
fn find_fault_module() -> Result<PathBuf, FaultModuleError> {
    let program = std::env::current_exe().map_err(|_| FaultModuleError::NotBuilt)?;
    let directory = program.parent().ok_or(FaultModuleError::NotBuilt)?;
    let places = [directory.join("deps").join(FILE), directory.join(FILE)];
    places.into_iter().find(|path| path.is_file()).ok_or(FaultModuleError::NotBuilt)
}

const FILE: &str = "libassent_fault_module.so";
pub(crate) const SCRIPT_FILE: &str = "fault-script.json";
const CALLS_FILE: &str = "fault-calls";
