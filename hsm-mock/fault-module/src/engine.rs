//! What happens to a call: the script, how often each of its faults was met, and the file of calls.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::script::{Script, ScriptError, Vendor, What};
use crate::{SCRIPT_VARIABLE, code_name};

/// The script as it is now, and its counts.
pub(crate) struct Engine {
    path: PathBuf,
    state: Mutex<State>,
    /// Held over what a device does that does one thing at a time.
    turn: Mutex<()>,
    /// Held for reading over each call of the real module, and for writing over what ends sessions or logins of other
    /// threads behind their backs: SoftHSM does not survive that in the middle of their calls.
    pub(crate) in_real: RwLock<()>,
    /// How many calls have not returned.
    pub(crate) calls: AtomicI64,
    /// How many sessions of the real module are open.
    pub(crate) sessions: AtomicI64,
}

struct State {
    script: Script,
    version: Version,
    /// How many calls fitted each fault.
    met: Vec<u64>,
    calls: Option<File>,
    is_removed: bool,
}

/// Which content of a file it is: inode, and time of change in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(u64, i64, i64);

/// What is decided about one call.
pub(crate) struct Decision {
    pub(crate) what: Option<What>,
    pub(crate) latency: Duration,
    pub(crate) is_one_at_a_time: bool,
    pub(crate) vendor: Option<Vendor>,
    /// Whether the token is taken out.
    pub(crate) is_removed: bool,
    pub(crate) version: Version,
}

impl Engine {
    /// Reads the script that the environment names.
    pub(crate) fn start() -> Result<Engine, ScriptError> {
        let path = PathBuf::from(std::env::var_os(SCRIPT_VARIABLE).unwrap_or_default());
        let version = version(&path)?;
        let script = Script::read(&path)?;
        let state = Mutex::new(State::new(script, version)?);
        Ok(Engine {
            path,
            state,
            turn: Mutex::default(),
            in_real: RwLock::default(),
            calls: AtomicI64::new(0),
            sessions: AtomicI64::new(0),
        })
    }

    /// The real module.
    pub(crate) fn module(&self) -> PathBuf {
        self.state().script.module.clone()
    }

    /// What happens to this call.
    pub(crate) fn decide(&self, function: &str) -> Result<Decision, ScriptError> {
        let mut state = self.renewed()?;
        let State { script, met, .. } = &mut *state;
        let mut what = None;
        for (fault, met) in script.faults.iter().zip(met).filter(|(fault, _)| fault.is_of(function)) {
            *met += 1;
            let past = met.saturating_sub(fault.after);
            if what.is_none() && past > 0 && fault.times.is_none_or(|times| past <= times) {
                what = Some(fault.what.clone());
            }
        }
        Ok(Decision {
            what,
            latency: script.latency.delay(),
            is_one_at_a_time: script.latency.is_one_at_a_time(),
            vendor: script.vendor,
            is_removed: state.is_removed,
            version: state.version,
        })
    }

    /// Waits for the device's turn, as long as the value lives.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the token is taken out, until the script is replaced.
    pub(crate) fn remove_token(&self) {
        self.state().is_removed = true;
    }

    /// Waits until the script is another one.
    pub(crate) fn wait_for_another(&self, known: Version) {
        while self.renewed().is_ok_and(|state| state.version == known) {
            std::thread::sleep(LOOK);
        }
    }

    /// Writes down a call.
    pub(crate) fn note(&self, function: &str, code: u64, data: Option<&[u8]>) {
        let state = self.state();
        let of = &state.script.calls_of;
        if let Some(calls) = &state.calls
            && (of.is_empty() || of.iter().any(|wanted| wanted == function))
        {
            let mut line = format!("{function} {}", code_name(code));
            if let Some(data) = data {
                line.push(' ');
                data.iter().for_each(|byte| line.push_str(&format!("{byte:02x}")));
            }
            line.push('\n');
            if let Err(error) = (&mut &*calls).write_all(line.as_bytes()) {
                complain(&format!("cannot write down a call: {error}"));
            }
        }
    }

    /// The state by the script as it is now.
    fn renewed(&self) -> Result<MutexGuard<'_, State>, ScriptError> {
        let mut state = self.state();
        let version = version(&self.path)?;
        if version != state.version {
            *state = State::new(Script::read(&self.path)?, version)?;
        }
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(script: Script, version: Version) -> Result<State, ScriptError> {
        let open = |path: &PathBuf| {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.map_err(|source| ScriptError::Read { path: path.clone(), source })
        };
        let calls = script.calls.as_ref().map(open).transpose()?;
        Ok(State { met: vec![0; script.faults.len()], script, version, calls, is_removed: false })
    }
}

fn version(path: &PathBuf) -> Result<Version, ScriptError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| ScriptError::Read { path: path.clone(), source })?;
    Ok(Version(metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Tells whoever runs the test what is wrong with the script: a return code alone says nothing.
pub(crate) fn complain(why: &str) {
    eprintln!("assent-fault-module: {why}");
}

/// How often a call that hangs looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);
