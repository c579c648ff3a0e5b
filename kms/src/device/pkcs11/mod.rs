//! PKCS#11 v2.40 tokens. One module is loaded once for the process; the token is chosen by its `pkcs11:` URI.

mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use assent_consensus::token_uri::{KeyUri, TokenDescription};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};

use super::{Device, DeviceError, Driver};
use crate::pin::{PinError, PinSource};
use session::Pkcs11Device;

pub use session::OBJECT_LIMIT;

/// Which token, by which module, with which PIN.
pub struct Pkcs11Driver {
    path: PathBuf,
    uri: KeyUri,
    pin: PinSource,
    module: Arc<Mutex<Module>>,
}

/// The modules of this process by path: two devices of one module share its initialisation.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Mutex<Module>>>>> = LazyLock::new(Mutex::default);

/// The loaded module. The lock is held while a session is opened or closed, so that no session outlives the module's
/// initialisation: a stale session could sign with the number of a new one.
#[derive(Default)]
struct Module {
    loaded: Option<Pkcs11>,
    is_initialised: bool,
    sessions: usize,
}

impl Pkcs11Driver {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the URI does not name a token.
    pub fn new(path: &Path, uri: &str, pin: PinSource) -> Result<Pkcs11Driver, DeviceError> {
        let uri: KeyUri = uri
            .parse()
            .map_err(|error| DeviceError::Setup(format!("`token` in the configuration: {error}")))?;
        if uri.object().is_some() || uri.id().is_some() || uri.module_path().is_some() {
            return Err(DeviceError::Setup(
                "`token` in the configuration names a key or a module; it must name a token alone, such as \
                 `pkcs11:token=LABEL;serial=NUMBER`"
                    .into(),
            ));
        }
        Ok(Pkcs11Driver { path: path.into(), uri, pin, module: Module::shared(path) })
    }

    fn lock(&self) -> MutexGuard<'_, Module> {
        self.module.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, module: &mut Module) -> Result<Pkcs11Device, DeviceError> {
        let context = module.start(&self.path)?;
        let (slot, token) = self.choose(&context)?;
        let session = context.open_rw_session(slot).map_err(|error| self.broken(&error))?;
        self.login(&session, &token)?;
        module.sessions += 1;
        Ok(Pkcs11Device::new(session, context, slot, self.module.clone()))
    }

    /// The one token that fits the URI.
    fn choose(&self, context: &Pkcs11) -> Result<(Slot, TokenInfo), DeviceError> {
        let (mut fitting, mut found) = (Vec::new(), Vec::new());
        for slot in context.get_slots_with_token().map_err(|error| self.broken(&error))? {
            // A slot whose token cannot be asked is none that fits; another one may.
            let Ok(info) = context.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            found.push(format!(
                "`{}` (serial {})",
                info.label().escape_debug(),
                info.serial_number().escape_debug()
            ));
            if self.uri.fits(describe(&info)) {
                fitting.push((slot, info));
            }
        }
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(DeviceError::Gone(format!(
                "no token fits the URI in the configuration; the module `{}` shows {}",
                self.path.display(),
                if found.is_empty() { "no token at all".into() } else { found.join(", ") }
            ))),
            several => Err(DeviceError::Setup(format!(
                "{several} tokens fit the URI in the configuration: add `serial=NUMBER` to say which; the module shows {}",
                found.join(", ")
            ))),
        }
    }

    /// Logs in, unless another session did: the login is the application's.
    fn login(&self, session: &Session, token: &TokenInfo) -> Result<(), DeviceError> {
        let state = session.get_session_info().map_err(|error| self.broken(&error))?.session_state();
        if !token.login_required() || matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let label = token.label().escape_debug().to_string();
        if token.user_pin_locked() {
            return Err(DeviceError::Pin(format!(
                "the PIN of the token `{label}` is locked: its security officer can unlock it"
            )));
        }
        if token.user_pin_final_try() {
            return Err(DeviceError::Pin(format!(
                "the token `{label}` has one try left before it locks: log in once with the maker's own tool, which sets \
                 its counter back"
            )));
        }
        let pin = self.pin.begin(token.user_pin_count_low())?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) => Ok(self.pin.was_right()?),
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(self.pin.was_not_tried()?),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                self.pin.was_wrong()?;
                Err(DeviceError::Pin(format!(
                    "the PIN of the token `{label}` is wrong; it was tried once and is not tried again by itself: correct \
                     `{}`, then run `assent-kms retry-pin`",
                    self.pin.path().display()
                )))
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                self.pin.was_wrong()?;
                Err(DeviceError::Pin(format!(
                    "the PIN of the token `{label}` is locked: its security officer can unlock it"
                )))
            }
            // The token did not come so far as to look at the PIN.
            Err(error @ Error::Pkcs11(RvError::DeviceRemoved | RvError::TokenNotPresent, _)) => {
                self.pin.was_not_tried()?;
                Err(self.broken(&error))
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &Error) -> DeviceError {
        DeviceError::Gone(words(error))
    }
}

impl Driver for Pkcs11Driver {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        let mut module = self.lock();
        match self.open(&mut module) {
            // Modules see new tokens, and ones that came back, only when they are initialised again.
            Err(DeviceError::Gone(_)) if module.sessions == 0 && module.is_initialised => {
                module.stop();
                Ok(Box::new(self.open(&mut module)?))
            }
            result => Ok(Box::new(result?)),
        }
    }
}

impl Drop for Pkcs11Driver {
    fn drop(&mut self) {
        let mut module = self.lock();
        if module.sessions == 0 {
            module.stop();
        }
    }
}

impl Module {
    /// The one module at a path.
    fn shared(path: &Path) -> Arc<Mutex<Module>> {
        // One that is not there is told of when it is loaded.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        MODULES.lock().unwrap_or_else(PoisonError::into_inner).entry(path).or_default().clone()
    }

    fn start(&mut self, path: &Path) -> Result<Pkcs11, DeviceError> {
        let unusable = |why: String| {
            DeviceError::Setup(format!(
                "the PKCS#11 module `{}` cannot be used: {why}; check `module` in the configuration, and that the \
                 token's software is installed",
                path.display()
            ))
        };
        let context = match &self.loaded {
            Some(context) => context.clone(),
            None => {
                if !path.is_file() {
                    return Err(unusable("there is no such file".into()));
                }
                Pkcs11::new(path).map_err(|error| unusable(words(&error)))?
            }
        };
        if !self.is_initialised {
            match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                // It worked before: what is missing is its token, and may come back.
                Err(error) if self.loaded.is_some() => return Err(DeviceError::Gone(words(&error))),
                Err(error) => return Err(unusable(words(&error))),
            }
            self.is_initialised = true;
        }
        self.loaded = Some(context.clone());
        Ok(context)
    }

    /// Only without sessions.
    fn stop(&mut self) {
        self.is_initialised = false;
        if let Some(context) = self.loaded.clone()
            && let Err(error) = context.finalize()
        {
            tracing::warn!(error = words(&error), "the PKCS#11 module does not finalise");
        }
    }
}

fn describe(info: &TokenInfo) -> TokenDescription<'_> {
    TokenDescription {
        label: info.label(),
        serial: info.serial_number(),
        manufacturer: info.manufacturer_id(),
        model: info.model(),
    }
}

/// An error of the module in words of PKCS#11.
fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function:?}: {code:?}"),
        other => other.to_string(),
    }
}

impl From<PinError> for DeviceError {
    fn from(error: PinError) -> DeviceError {
        DeviceError::Pin(error.to_string())
    }
}
