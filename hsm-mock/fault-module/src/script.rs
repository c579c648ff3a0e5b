//! The script: which module is wrapped, and what goes wrong with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{FUNCTIONS, LENGTH_OF_SIGNATURE, code_of};

/// What the module is to do, as JSON in a file. A script that replaces another counts its calls from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The real module. It is loaded once: a later script cannot change it.
    pub module: PathBuf,
    /// The file to which a line is written for each call.
    #[serde(default)]
    pub calls: Option<PathBuf>,
    /// The functions whose calls are written there; all if it is empty.
    #[serde(default)]
    pub calls_of: Vec<String>,
    /// How slow the device is.
    #[serde(default)]
    pub latency: Latency,
    /// Whose peculiarities it has.
    #[serde(default)]
    pub vendor: Option<Vendor>,
    /// What goes wrong. The first fault that fits a call happens.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// How long a device takes for what it does itself: to sign, and to make or destroy an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Latency {
    /// As long as the real module does.
    #[default]
    AsIs,
    /// 1 ms more, any number of calls at once: an HSM in the network.
    Network,
    /// 75 ms more, one call at a time: a YubiHSM 2.
    YubiHsm,
}

/// Devices that do not take what SoftHSM takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// NetHSM: no data objects, no wrapping.
    NetHsm,
    /// ykcs11, the YubiKey's module: no data objects, no wrapping.
    Ykcs11,
    /// AWS CloudHSM: no label twice, no read-only session, no data objects, no wrapping of keys that cannot be extracted.
    CloudHsm,
    /// Google Cloud KMS: a private key's template has a label (once) and Google's own algorithm attribute, and nothing else,
    /// so no CKA_ID; a public key's is empty; P-256 only; no objects are created, none wrapped.
    GoogleKms,
}

/// What happens to some calls of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The function, such as `C_Sign`; `C_Sign:length` is the call that only asks for the signature's length; `*` is any.
    pub function: String,
    /// How many calls of it go well before.
    #[serde(default)]
    pub after: u64,
    /// How many calls it happens to; nothing if to all.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    pub what: What,
}

/// What happens instead of a call. Codes are names of the standard, such as `CKR_DEVICE_REMOVED`, or numbers in
/// hexadecimal, such as `0x80000001`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It fails, and nothing is done.
    Answer(String),
    /// It fails, and yet it was done.
    AnswerDone(String),
    /// It fails, and leaves the operation open that it should have ended.
    AnswerUnfinished(String),
    /// It takes so many milliseconds longer.
    Delay(u64),
    /// It does not return until the script is replaced, and then goes on.
    Hang,
    /// The session is closed before, behind the caller's back.
    DropSession,
    /// All sessions are logged out before, behind the caller's back.
    LogOut,
    /// The token is taken out, with all its sessions, until the script is replaced.
    RemoveToken,
    /// A signature that does not verify.
    WrongSignature,
}

/// Why a script is none.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file.
    #[error("cannot read the script `{}`: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the JSON of a script.
    #[error("the script `{}` is none: {source}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// No such function.
    #[error("the script names the function `{0}`, which the module does not wrap")]
    Function(String),
    /// No such code.
    #[error(
        "the script names the return code `{0}`, which is none of PKCS#11's and no number such as `0x80000001`"
    )]
    Code(String),
}

impl Script {
    /// A script under which the module behaves as the real one does.
    pub fn new(module: &Path) -> Script {
        Script {
            module: module.into(),
            calls: None,
            calls_of: Vec::new(),
            latency: Latency::AsIs,
            vendor: None,
            faults: Vec::new(),
        }
    }

    /// Reads a script and checks it.
    ///
    /// # Errors
    /// [`ScriptError`]
    pub fn read(path: &Path) -> Result<Script, ScriptError> {
        let text = std::fs::read(path).map_err(|source| ScriptError::Read { path: path.into(), source })?;
        let script: Script = serde_json::from_slice(&text)
            .map_err(|source| ScriptError::Form { path: path.into(), source })?;
        script.check()?;
        Ok(script)
    }

    /// Whether all names are known.
    ///
    /// # Errors
    /// [`ScriptError::Function`], [`ScriptError::Code`]
    pub fn check(&self) -> Result<(), ScriptError> {
        for fault in &self.faults {
            let name = fault.function.as_str();
            if name != ANY && name != LENGTH_OF_SIGNATURE && !FUNCTIONS.contains(&name) {
                return Err(ScriptError::Function(name.into()));
            }
            if let What::Answer(code) | What::AnswerDone(code) | What::AnswerUnfinished(code) = &fault.what
                && code_of(code).is_none()
            {
                return Err(ScriptError::Code(code.clone()));
            }
        }
        Ok(())
    }
}

impl Fault {
    /// Every call of the function fails with this code.
    pub fn answer(function: &str, code: &str) -> Fault {
        Fault::of(function, What::Answer(code.into()))
    }

    /// This happens to every call of the function.
    pub fn of(function: &str, what: What) -> Fault {
        Fault { function: function.into(), after: 0, times: None, what }
    }

    /// It happens to the n-th call alone, counted from 1.
    #[must_use]
    pub fn on_call(self, number: u64) -> Fault {
        Fault { after: number.saturating_sub(1), times: Some(1), ..self }
    }

    /// It happens so many times and no more.
    #[must_use]
    pub fn times(self, times: u64) -> Fault {
        Fault { times: Some(times), ..self }
    }

    /// Whether it is about this function.
    pub(crate) fn is_of(&self, function: &str) -> bool {
        self.function == function || self.function == ANY
    }
}

impl Latency {
    /// How much longer a call takes.
    pub fn delay(self) -> Duration {
        match self {
            Latency::AsIs => Duration::ZERO,
            Latency::Network => NETWORK_LATENCY,
            Latency::YubiHsm => YUBIHSM_LATENCY,
        }
    }

    /// Whether the device does one thing at a time.
    pub fn is_one_at_a_time(self) -> bool {
        self == Latency::YubiHsm
    }
}

/// The name that fits every function.
const ANY: &str = "*";
const NETWORK_LATENCY: Duration = Duration::from_millis(1);
const YUBIHSM_LATENCY: Duration = Duration::from_millis(75);

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fault: Fault) -> Script {
        Script { faults: vec![fault], ..Script::new(Path::new("/module.so")) }
    }

    #[test]
    fn a_script_is_read_as_it_was_written() {
        let mut script = with(Fault::answer("C_Sign", "CKR_DEVICE_ERROR").on_call(2));
        script.faults.push(Fault::of("*", What::Delay(3)).times(4));
        let text = serde_json::to_string(&script).expect("JSON");
        assert_eq!(serde_json::from_str::<Script>(&text).expect("read"), script);
    }

    #[test]
    fn a_name_that_nobody_knows_is_refused() {
        assert!(with(Fault::answer("C_Sign:length", "0x80000001")).check().is_ok());
        let wrong = with(Fault::answer("C_Singh", "CKR_OK")).check();
        assert!(matches!(wrong, Err(ScriptError::Function(name)) if name == "C_Singh"));
        let wrong = with(Fault::answer("C_Sign", "CKR_DEVICE")).check();
        assert!(matches!(wrong, Err(ScriptError::Code(code)) if code == "CKR_DEVICE"));
    }
}
