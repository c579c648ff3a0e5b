//! PKCS#11 v2.40 tokens. One module is loaded once for the process; the token is chosen by its `pkcs11:` URI.

mod algorithm;
mod module;
mod probe;
mod profile;
mod reaction;
mod session;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use assent_consensus::token_uri::{KeyUri, TokenDescription};
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};

use super::{Device, DeviceError, Driver};
use crate::pin::{PinError, PinSource};
use module::{Module, Open};
use reaction::{Reaction, from_call, reaction};
use session::{Pkcs11Device, Seat, Unfinished, is_logged_in, sessions_limit};

pub use probe::Probe;
pub use profile::{AlgorithmAttribute, KeyTemplate, Profile};
pub use session::OBJECT_LIMIT;

/// How long a session waits for others: for one that logs in, or for calls that keep the module from being initialised anew.
const PATIENCE: Duration = Duration::from_secs(4);

/// Which token, by which module, with which PIN.
pub struct Pkcs11Driver {
    path: PathBuf,
    uri: KeyUri,
    pin: PinSource,
    module: Arc<Module>,
    /// Tells this driver from the others of this process.
    number: u64,
    login: LoginTurn,
    profile: Arc<Profile>,
    unfinished: Unfinished,
    seat: Seat,
}

/// The login is the application's, not the session's: one session at a time does it, so that the PIN is tried once.
#[derive(Default)]
struct LoginTurn {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Pkcs11Driver {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the URI does not name a token.
    pub fn new(
        path: &Path,
        uri: &str,
        pin: PinSource,
        profile: Profile,
    ) -> Result<Pkcs11Driver, DeviceError> {
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
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Ok(Pkcs11Driver {
            path: path.into(),
            uri,
            pin,
            module: Module::shared(path),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            login: LoginTurn::default(),
            profile: Arc::new(profile),
            unfinished: Unfinished::default(),
            seat: Seat::default(),
        })
    }

    fn open(&self) -> Result<Pkcs11Device, DeviceError> {
        let visit = self.module.visit(&self.path, PATIENCE)?;
        let chosen = self.choose(visit.context()).inspect_err(|error| {
            if error.is_lost() {
                self.module.look_again();
            }
        });
        let (slot, token) = chosen?;
        let token_name = format!("{} {} {}", token.manufacturer_id(), token.serial_number(), token.label());
        if !self.module.claim(&token_name, self.number) {
            return Err(DeviceError::Setup(format!(
                "the token `{}` is that of another `[[device]]` already, by another URI: name each token once",
                token.label().escape_debug()
            )));
        }
        let limits = [token.max_session_count(), token.max_rw_session_count()];
        if let Some(limit) = limits.into_iter().filter_map(sessions_limit).min()
            && Arc::strong_count(&self.seat) as u64 > limit
        {
            return Err(DeviceError::Full(format!("it has {limit}, and all are in use")));
        }
        let session = visit.context().open_rw_session(slot).map_err(|error| self.failed(&error))?;
        // From here on it is closed whatever happens.
        let device = Pkcs11Device::new(
            Open { session, visit },
            slot,
            self.profile.clone(),
            self.unfinished.clone(),
            self.seat.clone(),
        );
        device.log_in(|session| self.login(session, &token))?;
        Ok(device)
    }

    /// The one token that fits the URI.
    fn choose(&self, context: &Pkcs11) -> Result<(Slot, TokenInfo), DeviceError> {
        let (mut fitting, mut found) = (Vec::new(), Vec::new());
        for slot in context.get_slots_with_token().map_err(|error| self.failed(&error))? {
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
                match found.as_slice() {
                    [] => "no token at all".into(),
                    found => format!("{}: correct `token`, if it is one of these", found.join(", ")),
                }
            ))),
            several => Err(DeviceError::Setup(format!(
                "{several} tokens fit the URI in the configuration: add `serial=NUMBER` to say which; the module shows {}",
                found.join(", ")
            ))),
        }
    }

    /// Logs in, unless another session did: the login is the application's.
    fn login(&self, session: &Session, token: &TokenInfo) -> Result<(), DeviceError> {
        let is_in = || is_logged_in(session).map_err(|error| self.failed(&error));
        if !token.login_required() || is_in()? {
            return Ok(());
        }
        let _turn = self.login.take()?;
        if is_in()? {
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
            Err(error @ Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.pin.was_not_tried()?;
                if is_in()? { Ok(()) } else { Err(DeviceError::Gone(words(&error))) }
            }
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
            Err(error @ Error::Pkcs11(RvError::PinExpired | RvError::UserPinNotInitialized, _)) => {
                self.pin.was_not_tried()?;
                Err(DeviceError::Pin(from_call(&error).to_string()))
            }
            // The token did not come so far as to look at the PIN.
            Err(
                error @ Error::Pkcs11(
                    RvError::DeviceRemoved
                    | RvError::TokenNotPresent
                    | RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::CryptokiNotInitialized,
                    _,
                ),
            ) => {
                self.pin.was_not_tried()?;
                Err(self.failed(&error))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// An error while a session is opened.
    fn failed(&self, error: &Error) -> DeviceError {
        if reaction(error) == Reaction::Reinitialise {
            self.module.must_restart();
        }
        from_call(error)
    }
}

impl Driver for Pkcs11Driver {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        match self.open() {
            // Modules see new tokens, and ones that came back, only when they are initialised again.
            // Sessions that a token lost count of end with it too.
            Err(DeviceError::Gone(_) | DeviceError::Full(_)) => {
                self.module.must_restart_if_unused();
                Ok(Box::new(self.open()?))
            }
            result => Ok(Box::new(result?)),
        }
    }
}

impl Drop for Pkcs11Driver {
    fn drop(&mut self) {
        self.module.release(self.number);
    }
}

/// Held while one session logs in.
struct LoggingIn<'l>(&'l LoginTurn);

impl LoginTurn {
    fn take(&self) -> Result<LoggingIn<'_>, DeviceError> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, waited) = self
            .free
            .wait_timeout_while(taken, PATIENCE, |taken| *taken)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && *taken {
            return Err(DeviceError::Gone("the login of another session does not return".into()));
        }
        *taken = true;
        Ok(LoggingIn(self))
    }
}

impl Drop for LoggingIn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.free.notify_one();
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
