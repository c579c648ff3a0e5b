//! `parsec`: vote requests a second of the KMS over plain signatures a second of parsec-service, on the same token and for
//! as many callers. Parsec signs whatever a local user sends; it verifies nothing, and records nothing.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use assent_consensus::digest::Digest;
use assent_consensus::duty::{DutyAnswer, DutyReport};
use prost::Message;
use secrecy::ExposeSecret as _;

use super::kms_sign::{THREE, batches_of_one};
use super::load::send_all;
use super::{Figure, Report};
use crate::scripted::{Deployment, Kms};

/// How many callers, and how much they ask for in one round.
const LOADS: [(usize, usize); 3] = [(1, 500), (8, 2_000), (64, 4_000)];
/// To be ahead.
const GOAL: f64 = 1.0;
/// How long the service may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// Measures, and prints a figure for each number of callers.
///
/// # Errors
/// parsec-service is not there (`scripts/bench` builds it), or one of the two does not sign.
pub fn run(report: Report, rounds: usize) -> Result<()> {
    let (kms, mut deployment) = Kms::deploy(&[THREE])?;
    let parsec = Parsec::start(&kms)?;
    // What happens once, such as opening sessions, is not measured.
    let mut cases = 0;
    vote_requests(&kms, &mut deployment, 64, 64, &mut cases)?;
    parsec.signatures(64, 64)?;
    for (callers, count) in LOADS {
        let mut rates = Vec::new();
        for round in 0..rounds {
            // Each goes first every other time.
            rates.push(if round % 2 == 0 {
                let ours = vote_requests(&kms, &mut deployment, callers, count, &mut cases)?;
                (ours, parsec.signatures(callers, count)?)
            } else {
                let theirs = parsec.signatures(callers, count)?;
                (vote_requests(&kms, &mut deployment, callers, count, &mut cases)?, theirs)
            });
        }
        report.figure(&Figure::of("parsec", format!("vote-request/{callers}"), GOAL, &rates));
    }
    Ok(())
}

/// How many vote requests the KMS signs a second.
fn vote_requests(
    kms: &Kms,
    deployment: &mut Deployment,
    callers: usize,
    count: usize,
    cases: &mut usize,
) -> Result<f64> {
    let names: Vec<String> = (0..count).map(|case| format!("case-{}", *cases + case)).collect();
    *cases += count;
    let cases = deployment.cases(THREE.contract, &names);
    let duties = cases.iter().map(|case| deployment.vote_request_duty(case)).collect();
    let bodies = batches_of_one(kms, deployment, duties)?;
    let (rate, answers) = send_all(&kms.socket(), "/v1/duties", callers, &bodies)?;
    for answer in answers {
        let report: DutyReport = serde_json::from_slice(&answer.body)?;
        ensure!(matches!(report.answers[..], [DutyAnswer::Signed { .. }]), "not signed: {report:?}");
    }
    Ok(rate)
}

/// A running parsec-service with one P-256 key. It is stopped when this is dropped.
struct Parsec {
    home: tempfile::TempDir,
    service: Child,
}

impl Parsec {
    fn start(kms: &Kms) -> Result<Parsec> {
        let program = program()?;
        let token = kms.token();
        let home = tempfile::Builder::new().prefix("assent-parsec-").tempdir()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
        let config = home.path().join("config.toml");
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&config)?;
        write!(
            file,
            "[core_settings]\nallow_root = true\nidle_listener_sleep_duration = 1\n[listener]\nlistener_type = 'DomainSocket'\ntimeout = 10000\n\
             socket_path = '{home}/parsec.sock'\n[authenticator]\nauth_type = 'UnixPeerCredentials'\n\
             [[key_manager]]\nname = 'keys'\nmanager_type = 'SQLite'\nsqlite_db_path = '{home}/keys.sqlite3'\n\
             [[provider]]\nprovider_type = 'Pkcs11'\nkey_info_manager = 'keys'\nlibrary_path = '{module}'\n\
             serial_number = '{serial}'\nuser_pin = '{pin}'\nallow_export = false\n",
            home = home.path().display(),
            module = token.module().display(),
            serial = token.serial(),
            pin = token.pin().expose_secret(),
        )?;
        let log = File::create(home.path().join("log"))?;
        let service = Command::new(program)
            .arg("--config")
            .arg(&config)
            .env("SOFTHSM2_CONF", token.config())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut parsec = Parsec { home, service };
        let by = Instant::now() + PATIENCE;
        while UnixStream::connect(parsec.socket()).is_err() {
            if parsec.service.try_wait()?.is_some() || Instant::now() > by {
                bail!(
                    "parsec-service does not listen: {}",
                    fs::read_to_string(parsec.home.path().join("log"))?
                );
            }
            thread::park_timeout(LOOK);
        }
        exchange(&parsec.socket(), GENERATE_KEY, &generate_key())?;
        Ok(parsec)
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("parsec.sock")
    }

    /// How many signatures it makes a second. Its own client, too, opens a connection for each.
    fn signatures(&self, callers: usize, count: usize) -> Result<f64> {
        let (next, socket) = (AtomicUsize::new(0), self.socket());
        let call = || -> Result<()> {
            while let Some(place) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|place| *place < count)
            {
                let signed = exchange(&socket, SIGN_HASH, &sign_hash(place))?;
                ensure!(Signature::decode(&signed[..])?.signature.len() == 64, "that is no P-256 signature");
            }
            Ok(())
        };
        let begin = Instant::now();
        thread::scope(|scope| {
            let callers: Vec<_> = (0..callers).map(|_| scope.spawn(call)).collect();
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().unwrap_or_else(|_| Err(anyhow!("a caller panicked"))))
        })?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }
}

impl Drop for Parsec {
    fn drop(&mut self) {
        // There is nobody to tell of a failure.
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

/// `scripts/bench` builds it, and says where in PARSEC_SERVICE.
fn program() -> Result<PathBuf> {
    let named = std::env::var_os("PARSEC_SERVICE").map(PathBuf::from).filter(|path| path.is_file());
    named.context("there is no parsec-service: `scripts/bench parsec` builds it, and runs this")
}

// The wire protocol, version 1.0: a header of 36 bytes, a body, and who asks
// (https://parallaxsecond.github.io/parsec-book/parsec_client/wire_protocol.html).
const MAGIC: u32 = 0x5EC0_A710;
const HEADER_BYTES: usize = 36;
const PKCS11_PROVIDER: u8 = 2;
const UNIX_PEER_CREDENTIALS: u8 = 3;
const GENERATE_KEY: u32 = 2;
const SIGN_HASH: u32 = 4;
/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Sends one request, and gives the body of the answer.
fn exchange(socket: &Path, operation: u32, body: &[u8]) -> Result<Vec<u8>> {
    let user = rustix::process::geteuid().as_raw().to_le_bytes();
    let (body_length, user_length) = (u32::try_from(body.len())?, u16::try_from(user.len())?);
    let request = [
        &MAGIC.to_le_bytes()[..],
        // The header's length after this field, the version, no flags.
        &[30, 0, 1, 0, 0, 0],
        &[PKCS11_PROVIDER],
        // No session, and protobuf both ways.
        &[0; 10],
        &[UNIX_PEER_CREDENTIALS],
        &body_length.to_le_bytes(),
        &user_length.to_le_bytes(),
        &operation.to_le_bytes(),
        // No status, and two reserved bytes.
        &[0; 4],
        body,
        &user,
    ]
    .concat();
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&request)?;
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let [length, status] = [22, 32].map(|place| &header[place..place + 4]);
    let status = u16::from_le_bytes([status[0], status[1]]);
    ensure!(status == 0, "parsec-service answers with status {status}");
    let length = usize::try_from(u32::from_le_bytes(length.try_into()?))?;
    ensure!(length <= ANSWER_LIMIT, "parsec-service answers with {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

// The messages, as far as they are used (https://docs.rs/parsec-interface, `operations_protobuf`).
const KEY: &str = "bench";
const P256_BITS: u32 = 256;
const SECP_R1: i32 = 2;
const SHA_256: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct GenerateKey {
    #[prost(string, tag = "1")]
    key_name: String,
    #[prost(message, optional, tag = "2")]
    attributes: Option<KeyAttributes>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyAttributes {
    #[prost(message, optional, tag = "1")]
    key_type: Option<KeyType>,
    #[prost(uint32, tag = "2")]
    key_bits: u32,
    #[prost(message, optional, tag = "3")]
    key_policy: Option<KeyPolicy>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyType {
    #[prost(message, optional, tag = "11")]
    ecc_key_pair: Option<EccKeyPair>,
}

#[derive(Clone, PartialEq, Message)]
struct EccKeyPair {
    #[prost(int32, tag = "1")]
    curve_family: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyPolicy {
    #[prost(message, optional, tag = "1")]
    key_usage_flags: Option<UsageFlags>,
    #[prost(message, optional, tag = "2")]
    key_algorithm: Option<Algorithm>,
}

#[derive(Clone, PartialEq, Message)]
struct UsageFlags {
    #[prost(bool, tag = "8")]
    sign_hash: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Algorithm {
    #[prost(message, optional, tag = "6")]
    asymmetric_signature: Option<AsymmetricSignature>,
}

#[derive(Clone, PartialEq, Message)]
struct AsymmetricSignature {
    #[prost(message, optional, tag = "4")]
    ecdsa: Option<Ecdsa>,
}

#[derive(Clone, PartialEq, Message)]
struct Ecdsa {
    #[prost(message, optional, tag = "1")]
    hash_alg: Option<Hash>,
}

#[derive(Clone, PartialEq, Message)]
struct Hash {
    #[prost(int32, tag = "2")]
    specific: i32,
}

#[derive(Clone, PartialEq, Message)]
struct SignHash {
    #[prost(string, tag = "1")]
    key_name: String,
    #[prost(message, optional, tag = "2")]
    alg: Option<AsymmetricSignature>,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Signature {
    #[prost(bytes = "vec", tag = "1")]
    signature: Vec<u8>,
}

fn ecdsa_with_sha_256() -> AsymmetricSignature {
    AsymmetricSignature { ecdsa: Some(Ecdsa { hash_alg: Some(Hash { specific: SHA_256 }) }) }
}

fn generate_key() -> Vec<u8> {
    let policy = KeyPolicy {
        key_usage_flags: Some(UsageFlags { sign_hash: true }),
        key_algorithm: Some(Algorithm { asymmetric_signature: Some(ecdsa_with_sha_256()) }),
    };
    let attributes = KeyAttributes {
        key_type: Some(KeyType { ecc_key_pair: Some(EccKeyPair { curve_family: SECP_R1 }) }),
        key_bits: P256_BITS,
        key_policy: Some(policy),
    };
    GenerateKey { key_name: KEY.into(), attributes: Some(attributes) }.encode_to_vec()
}

fn sign_hash(place: usize) -> Vec<u8> {
    let hash = Digest::of(&place.to_be_bytes()).as_bytes().to_vec();
    SignHash { key_name: KEY.into(), alg: Some(ecdsa_with_sha_256()), hash }.encode_to_vec()
}
