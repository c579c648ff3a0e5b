//! One PKCS#11 module of this process: loaded once, initialised as long as somebody uses it, initialised anew when its
//! slots or its state are of no use any more.
//!
//! No session may outlive the initialisation that it is from: a stale one could sign with the number of a new one. So
//! whoever calls the module holds a [`Visit`], and it is finalised only when nobody does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;

use super::words;
use crate::device::DeviceError;

/// The modules of this process by path: two devices of one module share its initialisation.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// How often a module is initialised anew for a token that it does not show, while it has sessions with another one.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A module. No lock that another session needs is held while it is called.
pub(super) struct Module {
    path: PathBuf,
    state: Mutex<State>,
    /// Something in the state is different.
    changed: Condvar,
    /// It is to be finalised as soon as nobody uses it, and nobody new may begin to before.
    must_restart: AtomicBool,
}

#[derive(Default)]
struct State {
    loaded: Option<Pkcs11>,
    phase: Phase,
    visits: usize,
    sessions: Vec<Weak<Held>>,
    /// The tokens of this module that a driver has taken, each with the driver's number.
    claims: Vec<(String, u64)>,
    started: Option<Instant>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Stopped,
    /// Somebody is in C_Initialize or C_Finalize.
    Changing,
    Running,
}

/// A session and the right to use it.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) visit: Visit,
}

impl Open {
    /// Closes the session. One that does not close may still count on the token: then the module is initialised anew at the
    /// next occasion, which closes all that there are.
    fn close(self) {
        match self.session.close() {
            Ok(())
            | Err(Error::Pkcs11(
                RvError::SessionClosed
                | RvError::SessionHandleInvalid
                | RvError::CryptokiNotInitialized
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent,
                _,
            )) => {}
            Err(error) => {
                tracing::warn!(error = words(&error), "a session does not close");
                self.visit.module.must_restart();
            }
        }
    }
}

/// A session, until it is closed or taken away because the module is to be initialised anew.
pub(super) struct Held(Mutex<Option<Open>>);

impl Held {
    /// The session, for as long as a call takes.
    pub(super) fn get(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is open, as far as can be told: it is if it is in a call.
    fn is_open(&self) -> bool {
        self.0.try_lock().map_or(true, |open| open.is_some())
    }

    /// Closes it, if it is open.
    pub(super) fn close(&self) {
        let open = self.get().take();
        if let Some(open) = open {
            open.close();
        }
    }
}

/// The right to call the module.
pub(super) struct Visit {
    module: Arc<Module>,
    context: Pkcs11,
}

impl Visit {
    pub(super) fn context(&self) -> &Pkcs11 {
        &self.context
    }

    pub(super) fn module(&self) -> &Arc<Module> {
        &self.module
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.module.state().visits -= 1;
        self.module.changed.notify_all();
    }
}

impl Module {
    /// The one module at a path.
    pub(super) fn shared(path: &Path) -> Arc<Module> {
        // One that is not there is told of when it is loaded.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (state, changed, must_restart) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
            Arc::new(Module { path: path.clone(), state, changed, must_restart })
        };
        modules.entry(path.clone()).or_insert_with(new).clone()
    }

    /// The right to call it; `path` is what the configuration calls it. If it is to be initialised anew, that is done first,
    /// as soon as the last call has returned.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if it is no module that works; [`DeviceError::Gone`], if it, or a call that is under way, does
    /// not come back within `patience`.
    pub(super) fn visit(self: &Arc<Self>, path: &Path, patience: Duration) -> Result<Visit, DeviceError> {
        let by = Instant::now() + patience;
        let mut state = self.state();
        loop {
            match state.phase {
                Phase::Running if !self.is_to_restart() => {
                    let Some(context) = state.loaded.clone() else {
                        state.phase = Phase::Stopped;
                        continue;
                    };
                    state.visits += 1;
                    return Ok(Visit { module: self.clone(), context });
                }
                Phase::Running => {
                    state = self.take_idle_sessions(state);
                    // Somebody else may have done all of it meanwhile.
                    if state.phase == Phase::Running && self.is_to_restart() {
                        state = if state.visits == 0 { self.stop(state) } else { self.wait(state, by)? };
                    }
                }
                Phase::Stopped => state = self.start(state, path)?,
                Phase::Changing => state = self.wait(state, by)?,
            }
        }
    }

    /// From now on every session is given up, and the next visit initialises the module anew.
    pub(super) fn must_restart(&self) {
        self.must_restart.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Whether every session is to be given up.
    pub(super) fn is_to_restart(&self) -> bool {
        self.must_restart.load(Ordering::Relaxed)
    }

    /// The same, unless a session is open: it may be one of another token, with which nothing is wrong.
    pub(super) fn must_restart_if_unused(&self) {
        let mut state = self.state();
        state.sessions.retain(|session| session.strong_count() > 0);
        if !state.sessions.iter().any(|session| session.upgrade().is_some_and(|held| held.is_open())) {
            self.must_restart();
        }
    }

    /// A token is not among those that the module shows. Most show one that came back only when they are initialised anew:
    /// that is done if nobody has a session, or else at most every [`LOOK_AGAIN`], since those who have one must open
    /// another.
    pub(super) fn look_again(&self) {
        self.must_restart_if_unused();
        if self.state().started.is_some_and(|started| started.elapsed() >= LOOK_AGAIN) {
            self.must_restart();
        }
    }

    /// Keeps an eye on a new session, so that it can be taken away.
    pub(super) fn hold(&self, open: Open) -> Arc<Held> {
        let held = Arc::new(Held(Mutex::new(Some(open))));
        let mut state = self.state();
        state.sessions.retain(|session| session.strong_count() > 0);
        state.sessions.push(Arc::downgrade(&held));
        held
    }

    /// Takes a token for a driver, until that [releases](Module::release) it; whether no other one has it.
    pub(super) fn claim(&self, token: &str, driver: u64) -> bool {
        let mut state = self.state();
        match state.claims.iter().find(|(claimed, _)| claimed == token) {
            Some((_, owner)) => *owner == driver,
            None => {
                state.claims.push((token.into(), driver));
                true
            }
        }
    }

    /// A driver ends: its tokens are free, and the module is finalised if nobody uses it.
    pub(super) fn release(&self, driver: u64) {
        let mut state = self.state();
        state.claims.retain(|(_, owner)| *owner != driver);
        if state.phase == Phase::Running && state.visits == 0 {
            drop(self.stop(state));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        by: Instant,
    ) -> Result<MutexGuard<'s, State>, DeviceError> {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DeviceError::Gone(format!(
                "the module `{}` is to be initialised anew, and {} of its calls do not return",
                self.path.display(),
                state.visits.max(1)
            )));
        }
        Ok(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Closes the sessions that are in no call. The lock on the state is let go meanwhile.
    fn take_idle_sessions<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let sessions: Vec<_> = state.sessions.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        let idle: Vec<Open> = sessions.iter().filter_map(|held| held.0.try_lock().ok()?.take()).collect();
        idle.into_iter().for_each(Open::close);
        self.state()
    }

    fn start<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        path: &Path,
    ) -> Result<MutexGuard<'s, State>, DeviceError> {
        let was_loaded = state.loaded.clone();
        state.phase = Phase::Changing;
        drop(state);
        let started = load_and_initialise(path, was_loaded);
        let mut state = self.state();
        self.changed.notify_all();
        match started {
            Ok(context) => {
                state.loaded = Some(context);
                state.phase = Phase::Running;
                state.started = Some(Instant::now());
                Ok(state)
            }
            Err(error) => {
                state.phase = Phase::Stopped;
                Err(error)
            }
        }
    }

    /// Only without visits.
    fn stop<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.phase = Phase::Changing;
        let context = state.loaded.clone();
        drop(state);
        if let Some(context) = context
            && let Err(error) = context.finalize()
        {
            tracing::warn!(error = words(&error), "the PKCS#11 module does not finalise");
        }
        let mut state = self.state();
        state.phase = Phase::Stopped;
        self.must_restart.store(false, Ordering::Relaxed);
        self.changed.notify_all();
        state
    }
}

fn load_and_initialise(path: &Path, was_loaded: Option<Pkcs11>) -> Result<Pkcs11, DeviceError> {
    let unusable = |why: String| {
        DeviceError::Setup(format!(
            "the PKCS#11 module `{}` cannot be used: {why}; check `module` in the configuration, and that the \
             token's software is installed",
            path.display()
        ))
    };
    let worked_before = was_loaded.is_some();
    let context = match was_loaded {
        Some(context) => context,
        None if !path.is_file() => return Err(unusable("there is no such file".into())),
        None => Pkcs11::new(path).map_err(|error| unusable(words(&error)))?,
    };
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(context),
        // What is missing may be its token, which may come back.
        Err(error) if worked_before => Err(DeviceError::Gone(words(&error))),
        Err(error) => Err(unusable(words(&error))),
    }
}
