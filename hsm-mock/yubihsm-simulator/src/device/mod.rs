//! The device: takes a frame, does what it says, and answers.
//!
//! [`sessions`] knows who asks, `commands` does it, and this file keeps the log in between.

mod commands;
mod sessions;

use std::time::Duration;

use p256::ecdsa::SigningKey;
use x509_cert::builder;

use crate::access::{Capabilities, Domains};
use crate::attestation::Attestation;
use crate::clock::Clock;
use crate::command::Command;
use crate::log::{Line, Log, LogEntry, NOTHING, PLACES};
use crate::object::{
    AES256_CCM, ALGORITHMS, AUTHENTICATION, AuthenticationKey, Content, Kind, LABEL, Object, Origin,
    fill_random,
};
use crate::options::DeviceOptions;
use crate::simulator::{DEFAULT_KEY, DEFAULT_PASSWORD, SessionCounts};
use crate::store::{Rights, Store};
use crate::wire::{self, ErrorCode, Frame, Reader};
use sessions::Sessions;

/// Which of its makers' releases the device runs. They differ in what a new device writes into its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "a version's number")]
pub enum Firmware {
    /// 2.2.0: nearly every command is logged until that is switched off; messages of 2,048 bytes.
    V2_2,
    /// 2.4.1: no command is logged until that is switched on; messages of 3,136 bytes.
    #[default]
    V2_4,
}

impl Firmware {
    pub(crate) fn version(self) -> [u8; 3] {
        match self {
            Firmware::V2_2 => [2, 2, 0],
            Firmware::V2_4 => [2, 4, 1],
        }
    }

    /// The longest message, in bytes.
    pub(crate) fn buffer(self) -> usize {
        match self {
            Firmware::V2_2 => 2048,
            Firmware::V2_4 => 3136,
        }
    }
}

/// How a command is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    AsItIs,
    /// Not done, and refused with this code.
    Refused(ErrorCode),
    /// Done with another key, if it is a signature.
    WrongKey,
}

pub(crate) struct Device {
    firmware: Firmware,
    serial: u32,
    clock: Clock,
    started: Duration,
    store: Store,
    log: Log,
    options: DeviceOptions,
    sessions: Sessions,
    attestation: Attestation,
}

/// Whether the device goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    GoOn,
    CloseSession,
    Reset,
}

/// What a command brought.
struct Done {
    data: Vec<u8>,
    after: After,
}

impl Done {
    fn with(data: Vec<u8>) -> Done {
        Done { data, after: After::GoOn }
    }
}

impl Device {
    /// A new device.
    pub(crate) fn new(firmware: Firmware, serial: u32, clock: Clock) -> builder::Result<Device> {
        let mut device = Device {
            firmware,
            serial,
            started: clock.now(),
            clock,
            store: Store::default(),
            log: Log::new([0; 16]),
            options: DeviceOptions::new(firmware),
            sessions: Sessions::default(),
            attestation: Attestation::new(firmware, serial)?,
        };
        device.reset();
        Ok(device)
    }

    /// As it came from the factory: one authentication key, and the log begins again.
    pub(crate) fn reset(&mut self) {
        let mut seed = [0; 16];
        fill_random(&mut seed);
        self.log = Log::new(seed);
        self.options = DeviceOptions::new(self.firmware);
        self.store = Store::default();
        self.put_authentication_key(DEFAULT_KEY, DEFAULT_PASSWORD, Capabilities::ALL, Capabilities::ALL);
        let key = self.store.authentication_key_mut(DEFAULT_KEY).expect("it was just put");
        key.label[..20].copy_from_slice(b"DEFAULT AUTHKEY CHAN");
        key.domains = Domains::ALL;
        self.start();
    }

    /// An authentication key in domain 1, over the one before.
    pub(crate) fn put_authentication_key(
        &mut self,
        id: u16,
        password: &str,
        capabilities: Capabilities,
        delegated: Capabilities,
    ) {
        self.store.replace(Object {
            id,
            kind: Kind::AuthenticationKey,
            label: [0; LABEL],
            domains: Domains(1),
            capabilities,
            delegated,
            algorithm: AUTHENTICATION,
            sequence: 0,
            origin: Origin::IMPORTED,
            content: Content::Authentication(AuthenticationKey::from_password(password)),
        });
    }

    pub(crate) fn put_wrap_key(&mut self, id: u16, key: [u8; 32]) {
        self.store.replace(Object {
            id,
            kind: Kind::WrapKey,
            label: [0; LABEL],
            domains: Domains(1),
            capabilities: Capabilities::EXPORT_WRAPPED | Capabilities::IMPORT_WRAPPED,
            delegated: Capabilities::SIGN_ECDSA | Capabilities::EXPORTABLE_UNDER_WRAP,
            algorithm: AES256_CCM,
            sequence: 0,
            origin: Origin::IMPORTED,
            content: Content::Wrap(key.to_vec()),
        });
    }

    /// Pulled out and put in again.
    pub(crate) fn start(&mut self) {
        self.sessions.close_all();
        self.started = self.clock.now();
        match self.log.is_full() && self.options.is_audit_forced() {
            true => self.log.miss_boot(),
            false => {
                let line = Line {
                    command: Command::BOOT,
                    length: 0,
                    session_key: NOTHING,
                    target: 0,
                    second: 0,
                    result: 0,
                };
                self.log.put(line, 0);
            }
        }
    }

    pub(crate) fn log_entries(&self) -> Vec<LogEntry> {
        self.log.entries()
    }

    pub(crate) fn session_counts(&mut self) -> SessionCounts {
        self.sessions.counts(self.clock.now())
    }

    pub(crate) fn root_certificate(&self) -> Vec<u8> {
        self.attestation.root().expect("it was encoded to be signed")
    }

    /// Which command a frame carries, also within a session. Nothing, if it cannot be told.
    pub(crate) fn peek(&self, bytes: &[u8]) -> Option<Command> {
        let frame = Frame::read(bytes).ok()?;
        match Command(frame.code) {
            Command::SESSION_MESSAGE => self.sessions.peek(frame.data),
            command => Some(command),
        }
    }

    /// Does what a frame says.
    pub(crate) fn handle(&mut self, bytes: &[u8], treatment: Treatment) -> Vec<u8> {
        let result = match Frame::read(bytes) {
            _ if bytes.len() > self.firmware.buffer() => Err(ErrorCode::WrongLength),
            Err(code) => Err(code),
            Ok(frame) => match (Command(frame.code), treatment) {
                (Command::SESSION_MESSAGE, _) => self.session_message(frame.data, treatment),
                (_, Treatment::Refused(code)) => Err(code),
                (command, _) => self.outside(command, frame.data),
            }
            .map(|data| wire::answer(frame.code, &data)),
        };
        result.unwrap_or_else(wire::refusal)
    }

    /// Commands that need no session.
    fn outside(&mut self, command: Command, data: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        let now = self.clock.now();
        match command {
            Command::ECHO => Ok(data.to_vec()),
            Command::DEVICE_INFO => self.info(data),
            Command::CREATE_SESSION => {
                let key = Reader(data).number()?;
                let result = self.sessions.create(data, &self.store, now);
                self.write_login(command, data, key, &result);
                result
            }
            Command::AUTHENTICATE_SESSION => {
                let key = self.sessions.key_of(data);
                let result = self.sessions.authenticate(data, now);
                self.write_login(command, data, key, &result);
                if result.is_ok() && self.is_blocked() {
                    self.log.miss_login();
                }
                result
            }
            _ => Err(ErrorCode::InvalidCommand),
        }
    }

    /// Logins are done whether there is room for their entries or not.
    fn write_login(&mut self, command: Command, data: &[u8], key: u16, result: &Result<Vec<u8>, ErrorCode>) {
        if !self.is_blocked() {
            self.write(command, data, NOTHING, (key, NOTHING), result.as_ref().err().copied());
        }
    }

    /// A command within a session, and its answer in the same.
    fn session_message(&mut self, data: &[u8], treatment: Treatment) -> Result<Vec<u8>, ErrorCode> {
        let now = self.clock.now();
        let call = self.sessions.open(data, now)?;
        let (answer, after) = match Frame::read(&call.plain) {
            Err(code) => (wire::refusal(code), After::GoOn),
            Ok(frame) => match self.audited(Command(frame.code), frame.data, &call.rights, treatment) {
                Ok(done) => (wire::answer(frame.code, &done.data), done.after),
                Err(code) => (wire::refusal(code), After::GoOn),
            },
        };
        let sealed = self.sessions.seal(&call, &answer);
        match after {
            After::GoOn => {}
            After::CloseSession => self.sessions.close(call.id),
            After::Reset => self.reset(),
        }
        Ok(sealed)
    }

    /// A command, and its entry in the log.
    fn audited(
        &mut self,
        command: Command,
        data: &[u8],
        rights: &Rights,
        treatment: Treatment,
    ) -> Result<Done, ErrorCode> {
        let is_logged = self.options.logs(command);
        // What frees the log, and what frees a session, is done always.
        let is_exempt = matches!(command, Command::SET_LOG_INDEX | Command::CLOSE_SESSION);
        if is_logged && !is_exempt && self.is_blocked() {
            return Err(ErrorCode::LogFull);
        }
        let result = match treatment {
            Treatment::Refused(code) => Err(code),
            Treatment::AsItIs => self.execute(command, data, rights, None),
            Treatment::WrongKey => self.execute(command, data, rights, Some(&wrong_key())),
        };
        if is_logged && !self.is_blocked() {
            let objects = objects_of(command, data, result.as_ref().ok());
            self.write(command, data, rights.key, objects, result.as_ref().err().copied());
        }
        result
    }

    /// Whether what must be logged cannot be.
    fn is_blocked(&self) -> bool {
        self.options.is_audit_forced() && self.log.is_full()
    }

    fn write(
        &mut self,
        command: Command,
        data: &[u8],
        session_key: u16,
        (target, second): (u16, u16),
        error: Option<ErrorCode>,
    ) {
        if !self.options.logs(command) {
            return;
        }
        let result = error.map_or(command.0 | 0x80, |code| code as u8);
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let elapsed = self.clock.now().saturating_sub(self.started).as_millis();
        // The device's counter is of 32 bits too.
        #[allow(clippy::cast_possible_truncation)]
        let tick = elapsed as u32;
        self.log.put(Line { command, length, session_key, target, second, result }, tick);
    }

    fn info(&self, data: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        match (data, self.firmware) {
            ([], _) => {
                let mut answer = self.firmware.version().to_vec();
                answer.extend(self.serial.to_be_bytes());
                answer.extend([u8::try_from(PLACES).expect("62"), self.log.used()]);
                answer.extend(ALGORITHMS);
                Ok(answer)
            }
            ([1], Firmware::V2_4) => Ok(b"SIMULATOR".to_vec()),
            _ => Err(ErrorCode::WrongLength),
        }
    }
}

/// A key that is nobody's.
fn wrong_key() -> SigningKey {
    use p256::elliptic_curve::Generate;
    SigningKey::generate()
}

/// The objects that an entry names: what the command names, or what it made.
fn objects_of(command: Command, data: &[u8], done: Option<&Done>) -> (u16, u16) {
    let mut reader = Reader(data);
    let made = || done.and_then(|done| done.data.last_chunk::<2>()).map(|id| u16::from_be_bytes(*id));
    let first = reader.number().unwrap_or(NOTHING);
    match command {
        Command::PUT_OPAQUE
        | Command::PUT_AUTHENTICATION_KEY
        | Command::PUT_ASYMMETRIC_KEY
        | Command::GENERATE_ASYMMETRIC_KEY
        | Command::PUT_WRAP_KEY
        | Command::GENERATE_WRAP_KEY => (made().unwrap_or(first), NOTHING),
        Command::IMPORT_WRAPPED => (first, made().unwrap_or(NOTHING)),
        Command::EXPORT_WRAPPED => {
            let second = reader.byte().and_then(|_| reader.number());
            (first, second.unwrap_or(NOTHING))
        }
        Command::SIGN_ATTESTATION_CERTIFICATE => (first, reader.number().unwrap_or(NOTHING)),
        Command::GET_OPAQUE
        | Command::GET_OBJECT_INFO
        | Command::GET_PUBLIC_KEY
        | Command::SIGN_ECDSA
        | Command::DELETE_OBJECT
        | Command::WRAP_DATA
        | Command::UNWRAP_DATA
        | Command::CHANGE_AUTHENTICATION_KEY => (first, NOTHING),
        _ => (NOTHING, NOTHING),
    }
}
