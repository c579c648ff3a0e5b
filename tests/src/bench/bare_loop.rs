//! The baseline of `kms-sign`: what a duty costs in cryptography and on disk, and nothing else. Each operation verifies as
//! many signatures as the KMS must check for the duty and for its own signature, appends one record with an `fdatasync`
//! that all who wait share, and makes one `C_Sign`. That of `kms-sign-slow` makes one `C_Sign` alone.
//!
//! It also does the operations of `kms-sign` for callers who ask for them over HTTP at a Unix socket, on a thread for each:
//! what they reach is what is left for any service beside its callers on the same machine, before it does anything of its
//! own.
//!
//! It runs in a process of its own, because SoftHSM takes its configuration from the environment. It reads lines of
//! `CALLERS OPERATIONS` or `CALLERS OPERATIONS VERIFICATIONS` and answers each with operations a second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::{self, Bytes};
use assent_consensus::message::{Cancel, DeploymentId};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use crate::scripted::{Key, Kms, name};

/// How many different messages are verified in turn.
const MESSAGES: usize = 256;
/// As long as an intent is.
const RECORD_BYTES: usize = 1_200;
/// How long the file is, in bytes: written out once, and then written over from its beginning whenever its end is reached,
/// so that no append waits for the file system to note a new length.
const FILE_BYTES: usize = 16 << 20;
/// The socket's name, beside the file.
const SOCKET: &str = "bare-loop.sock";
/// How long the answer to a caller is: as that of a duty.
const ANSWER_BYTES: usize = 1_500;
/// The object identifier of P-256 in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// What one operation is.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Verifications, a record on disk and a signature.
    Duty {
        /// How many signatures are verified.
        verifications: usize,
    },
    /// A signature alone.
    Signature,
}

/// The running process.
pub struct BareLoop {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    socket: PathBuf,
}

impl BareLoop {
    /// Starts it on the token of `kms`, with its file beside the database of `kms`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(kms: &Kms) -> Result<BareLoop> {
        let token = kms.token();
        let mut process = Command::new(std::env::current_exe()?)
            .arg("bare-loop")
            .args([kms.module(), token.pin_file()])
            .arg(token.serial())
            .arg(kms.home())
            .envs(kms.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("it has an input")?;
        let output = BufReader::new(process.stdout.take().context("it has an output")?);
        let mut bare = BareLoop { process, input, output, socket: kms.home().join(SOCKET) };
        // It answers once all is there.
        bare.measure(1, 1, Work::Signature)?;
        Ok(bare)
    }

    /// Where it does operations for callers, each asked for with `POST /VERIFICATIONS`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Operations a second.
    ///
    /// # Errors
    /// It has ended.
    pub fn measure(&mut self, callers: usize, operations: usize, work: Work) -> Result<f64> {
        match work {
            Work::Duty { verifications } => {
                writeln!(self.input, "{callers} {operations} {verifications}")?;
            }
            Work::Signature => writeln!(self.input, "{callers} {operations}")?,
        }
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the bare loop has ended");
        Ok(line.trim().parse()?)
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        // There is nobody to tell of a failure.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the process does.
///
/// # Errors
/// The token cannot be used, or the file cannot be written.
pub fn run(module: &Path, pin_file: &Path, serial: &str, home: &Path) -> Result<()> {
    let (token, _login) = Token::open(module, pin_file, serial)?;
    let log = SharedLog::new(&home.join("bare-loop.log"))?;
    let parts = Arc::new(Parts { token, messages: Messages::new()?, log });
    let listener = UnixListener::bind(home.join(SOCKET))?;
    let shared = parts.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let parts = shared.clone();
            // A caller who breaks off is told of by its own side.
            thread::spawn(move || parts.serve(stream));
        }
    });
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let (callers, operations, work) = match numbers[..] {
            [callers, operations] => (callers, operations, Work::Signature),
            [callers, operations, verifications] => (callers, operations, Work::Duty { verifications }),
            _ => break,
        };
        println!("{}", parts.measure(callers, operations, work)?);
    }
    Ok(())
}

/// What operations are made of.
struct Parts {
    token: Token,
    messages: Messages,
    log: SharedLog,
}

impl Parts {
    fn measure(&self, callers: usize, operations: usize, work: Work) -> Result<f64> {
        let sessions: Vec<Session> = (0..callers).map(|_| self.token.session()).collect::<Result<_>>()?;
        let next = &AtomicUsize::new(0);
        let begin = Instant::now();
        thread::scope(|scope| {
            let run = |session: Session| -> Result<()> {
                loop {
                    let operation = next.fetch_add(1, Ordering::Relaxed);
                    if operation >= operations {
                        return Ok(());
                    }
                    self.perform(&session, operation, work)?;
                }
            };
            let threads: Vec<_> =
                sessions.into_iter().map(|session| scope.spawn(move || run(session))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
        })?;
        Ok(operations as f64 / begin.elapsed().as_secs_f64())
    }

    fn perform(&self, session: &Session, operation: usize, work: Work) -> Result<()> {
        if let Work::Duty { verifications } = work {
            for place in 0..verifications {
                self.messages.verify(operation + place)?;
            }
            self.log.append(&[7; RECORD_BYTES])?;
        }
        let digest = Digest::of(&operation.to_be_bytes());
        session.sign(&Mechanism::Ecdsa, self.token.key, digest.as_bytes())?;
        Ok(())
    }

    /// Does operations for one caller until he goes.
    fn serve(&self, stream: UnixStream) -> Result<()> {
        let session = self.token.session()?;
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER_BYTES}\r\n\r\n{:ANSWER_BYTES$}", "");
        for operation in 0.. {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                break;
            }
            let verifications = line.split(['/', ' ']).nth(2).context("a number as path")?.parse()?;
            let mut length = 0;
            while line != "\r\n" {
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                line.clear();
                ensure!(stream.read_line(&mut line)? > 0, "the head of a request has no end");
            }
            stream.read_exact(&mut vec![0; length])?;
            self.perform(&session, operation, Work::Duty { verifications })?;
            stream.get_mut().write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

struct Token {
    context: Pkcs11,
    slot: Slot,
    key: ObjectHandle,
}

impl Token {
    /// The token, and the session by which its user is logged in for as long as it lives.
    fn open(module: &Path, pin_file: &Path, serial: &str) -> Result<(Token, Session)> {
        let context = Pkcs11::new(module)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let has_serial = |slot: &Slot| {
            context.get_token_info(*slot).is_ok_and(|info| info.serial_number().trim() == serial)
        };
        let slot = context.get_slots_with_token()?.into_iter().find(has_serial).context("no such token")?;
        let login = context.open_rw_session(slot)?;
        login.login(UserType::User, Some(&AuthPin::from(fs::read_to_string(pin_file)?.trim())))?;
        let public = [Attribute::EcParams(P256.to_vec()), Attribute::Verify(true), Attribute::Token(false)];
        let private = [Attribute::Sign(true), Attribute::Token(true), Attribute::Sensitive(true)];
        let (_, key) = login.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        Ok((Token { context, slot, key }, login))
    }

    fn session(&self) -> Result<Session> {
        Ok(self.context.open_ro_session(self.slot)?)
    }
}

/// Signed messages, about as long as those of a duty.
pub(super) struct Messages {
    key: ParsedPublicKey,
    signed: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Messages {
    pub(super) fn new() -> Result<Messages> {
        let key = Key::new(1);
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public.point())?;
        let sign = |number: usize| {
            let jws = key.sign(Cancel {
                deployment: DeploymentId(Digest::ZERO),
                chain: name("process"),
                case: name(&format!("case-{number}")),
                nonce: Bytes(vec![7; 256]),
            });
            let (input, signature) = jws.as_str().rsplit_once('.').context("a compact JWS has dots")?;
            let signature = encoding::decode(signature).map_err(|_| anyhow!("no base64url"))?;
            Ok((input.as_bytes().to_vec(), signature))
        };
        Ok(Messages { key: parsed, signed: (0..MESSAGES).map(sign).collect::<Result<_>>()? })
    }

    pub(super) fn verify(&self, place: usize) -> Result<()> {
        let (message, signature) = &self.signed[place % MESSAGES];
        self.key.verify_sig(message, signature).map_err(|_| anyhow!("the signature does not verify"))
    }
}

/// A file that is written from its beginning to its end, again and again: who comes while it is being synchronised shares
/// the next `fdatasync` with all who wait.
struct SharedLog {
    file: File,
    state: Mutex<LogState>,
    synced: Condvar,
}

#[derive(Default)]
struct LogState {
    pending: Vec<u8>,
    /// Where in the file the next record goes.
    place: usize,
    /// How many records were handed over.
    appended: u64,
    /// How many of them are on disk.
    synced: u64,
    /// Whether one of those who wait is writing.
    writing: bool,
}

impl SharedLog {
    fn new(path: &Path) -> Result<SharedLog> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        file.write_all(&vec![0; FILE_BYTES])?;
        file.sync_all()?;
        Ok(SharedLog { file, state: Mutex::default(), synced: Condvar::new() })
    }

    fn append(&self, record: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending.extend_from_slice(record);
        state.appended += 1;
        let mine = state.appended;
        while state.synced < mine {
            if state.writing {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.writing = true;
            let (pending, last) = (std::mem::take(&mut state.pending), state.appended);
            let place = if state.place + pending.len() > FILE_BYTES { 0 } else { state.place };
            state.place = place + pending.len();
            drop(state);
            let written = self.file.write_all_at(&pending, place as u64).and_then(|()| self.file.sync_data());
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.writing = false;
            self.synced.notify_all();
            written?;
            state.synced = last;
        }
        Ok(())
    }
}
