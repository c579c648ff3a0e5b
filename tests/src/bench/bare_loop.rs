//! The baseline of `kms-sign`: what a duty costs in cryptography and on disk, and nothing else. Each operation verifies as
//! many signatures as the KMS must check for the duty and for its own signature, appends one record with an `fdatasync`
//! that all who wait share, and makes one `C_Sign`. That of `kms-sign-slow` makes one `C_Sign` alone.
//!
//! It runs in a process of its own, because SoftHSM takes its configuration from the environment. It reads lines of
//! `CALLERS OPERATIONS` or `CALLERS OPERATIONS VERIFICATIONS` and answers each with operations a second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
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
        Ok(BareLoop { process, input, output })
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
    let token = Token::open(module, pin_file, serial)?;
    let messages = Messages::new()?;
    let log = SharedLog::new(&home.join("bare-loop.log"))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let (callers, operations, work) = match numbers[..] {
            [callers, operations] => (callers, operations, Work::Signature),
            [callers, operations, verifications] => (callers, operations, Work::Duty { verifications }),
            _ => break,
        };
        println!("{}", measure(&token, &messages, &log, callers, operations, work)?);
    }
    Ok(())
}

fn measure(
    token: &Token,
    messages: &Messages,
    log: &SharedLog,
    callers: usize,
    operations: usize,
    work: Work,
) -> Result<f64> {
    let sessions: Vec<Session> = (0..callers).map(|_| token.session()).collect::<Result<_>>()?;
    let next = AtomicUsize::new(0);
    let (next, key) = (&next, token.key);
    let begin = Instant::now();
    thread::scope(|scope| {
        let run = |session: Session| -> Result<()> {
            loop {
                let operation = next.fetch_add(1, Ordering::Relaxed);
                if operation >= operations {
                    return Ok(());
                }
                if let Work::Duty { verifications } = work {
                    for place in 0..verifications {
                        messages.verify(operation + place)?;
                    }
                    log.append(&[7; RECORD_BYTES])?;
                }
                let digest = Digest::of(&operation.to_be_bytes());
                session.sign(&Mechanism::Ecdsa, key, digest.as_bytes())?;
            }
        };
        let threads: Vec<_> = sessions.into_iter().map(|session| scope.spawn(move || run(session))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })?;
    Ok(operations as f64 / begin.elapsed().as_secs_f64())
}

struct Token {
    context: Pkcs11,
    slot: Slot,
    key: ObjectHandle,
    /// A token's user is logged in as long as one session is.
    _login: Session,
}

impl Token {
    fn open(module: &Path, pin_file: &Path, serial: &str) -> Result<Token> {
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
        Ok(Token { context, slot, key, _login: login })
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
