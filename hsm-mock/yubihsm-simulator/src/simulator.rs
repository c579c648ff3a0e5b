//! The simulator as a test holds it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::access::Capabilities;
use crate::clock::Clock;
use crate::command::Command;
use crate::connector;
use crate::device::{Device, Firmware};
use crate::log::LogEntry;
use crate::script::{Fault, Script};

/// The authentication key of a new device, which may do everything.
pub const DEFAULT_KEY: u16 = 1;
/// Its password.
pub const DEFAULT_PASSWORD: &str = "password";

/// What kind of device it is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which firmware it has.
    pub firmware: Firmware,
    /// Its serial number.
    pub serial: u32,
    /// Its clock.
    pub clock: Clock,
    /// How long a signature takes; 75 ms for a real device.
    pub signature_time: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            firmware: Firmware::default(),
            serial: 7_550_001,
            clock: Clock::default(),
            signature_time: Duration::ZERO,
        }
    }
}

/// How many sessions there are and were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCounts {
    /// Open now, those included that were begun and never authenticated.
    pub open: usize,
    /// The most that were ever open.
    pub most: usize,
    /// How many more were asked for.
    pub refused: u64,
}

/// A running simulator. It stops when it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    address: SocketAddr,
    clock: Clock,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the connector and the test hold.
pub(crate) struct Shared {
    device: Mutex<Device>,
    pub(crate) script: Script,
    pub(crate) signature_time: Duration,
    calls: Mutex<Vec<Command>>,
}

impl Shared {
    pub(crate) fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command that the device did, or refused.
    pub(crate) fn note(&self, command: Command) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(command);
    }
}

impl Simulator {
    /// A new device, behind a connector on a free port.
    ///
    /// # Errors
    /// If the system gives no port or no thread.
    pub fn start(settings: Settings) -> io::Result<Simulator> {
        let Settings { firmware, serial, clock, signature_time } = settings;
        let device = Device::new(firmware, serial, clock.clone()).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            device: Mutex::new(device),
            script: Script::default(),
            signature_time,
            calls: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = shared.clone();
        let work = move || {
            if let Err(error) = runtime.block_on(connector::serve(listener, served, stopped)) {
                panic!("the simulator's connector failed: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("yubihsm-simulator".into()).spawn(work)?;
        Ok(Simulator { shared, address, clock, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the connector is: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The device's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Replaces the script; calls are counted from the beginning.
    pub fn script(&self, faults: Vec<Fault>) {
        self.shared.script.replace(faults);
    }

    /// Resets the device, as somebody who touches it can: all objects are gone but the default authentication key.
    pub fn reset(&self) {
        self.shared.device().reset();
    }

    /// Makes an authentication key in domain 1, as the device's administrator does, without an entry in the log; over one
    /// with this number.
    pub fn put_authentication_key(
        &self,
        id: u16,
        password: &str,
        capabilities: Capabilities,
        delegated: Capabilities,
    ) {
        self.shared.device().put_authentication_key(id, password, capabilities, delegated);
    }

    /// Makes a wrap key in domain 1 that takes keys for signatures out and in, as the device's administrator does on each of
    /// two devices, without an entry in the log.
    pub fn put_wrap_key(&self, id: u16, key: [u8; 32]) {
        self.shared.device().put_wrap_key(id, key);
    }

    /// Pulls the device out and puts it in again: all sessions are gone.
    pub fn pull_out(&self) {
        self.shared.device().start();
    }

    /// All entries of the device's log that were not acknowledged.
    pub fn log(&self) -> Vec<LogEntry> {
        self.shared.device().log_entries()
    }

    /// How many sessions there are and were.
    pub fn sessions(&self) -> SessionCounts {
        self.shared.device().session_counts()
    }

    /// The certificate of the root above the device's attestations, DER.
    pub fn root_certificate(&self) -> Vec<u8> {
        self.shared.device().root_certificate()
    }

    /// How often the device was given a command, whether it did it or not.
    pub fn calls(&self, command: Command) -> usize {
        let calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|called| **called == command).count()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
