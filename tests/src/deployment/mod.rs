//! A whole deployment of the real programs, in a directory of its own: token, KMS, node, voters and their keys. All of it
//! goes when it is dropped, unless a test fails: then the logs stay, and where is printed.
//!
//! ```text
//! assent-kms init, serve, key create ─▶ assent init ─▶ assent-kms pin ─▶ assent node ─▶ Desk (what people do)
//! ```

mod daemon;
mod desk;
mod device;
mod documents;
pub mod remote;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use assent::client::{Address, Client};
use assent::voter::Signer as _;
use assent::voter::key_file::{KeyFile, Protection};
use assent_consensus::genesis::Genesis;
use assent_hsm_mock::SoftHsmToken;
use assent_yubihsm_simulator::Simulator;

use crate::program;
pub use daemon::Daemon;
pub use desk::{Case, Desk, Receipt, name};
use device::KmsDevice;
pub use device::yubihsm;
use remote::Remote;

/// CKA_ID of the key that is on the token before the KMS.
const ADOPTED: &str = "0a01";

/// A deployment whose daemons run.
pub struct Deployment {
    // In the order in which they must go.
    node: Daemon,
    kms: Daemon,
    device: KmsDevice,
    voter_token: Option<SoftHsmToken>,
    remote: Option<Remote>,
    directory: Option<tempfile::TempDir>,
    desk: Arc<Desk>,
}

/// How the node reaches the KMS.
enum Link {
    Socket,
    Tls { found_at: Option<SocketAddr> },
}

/// Where a voter's key is, as the `assent` program is told.
struct VoterToken {
    token: SoftHsmToken,
    toml: String,
}

impl Deployment {
    /// Makes one in which every key of a person is in a file.
    ///
    /// # Errors
    /// A program is not built, or refuses something.
    pub fn start() -> Result<Deployment> {
        Deployment::start_with(KmsDevice::new_soft_hsm()?, None, documents::KEYS.into(), Link::Socket)
    }

    /// Makes one whose node and KMS are as on two machines, and know each other by certificates. The node finds the KMS at
    /// `found_at`, if something there leads to it.
    ///
    /// # Errors
    /// A program is not built, or refuses something.
    pub fn start_over_tls(found_at: Option<SocketAddr>) -> Result<Deployment> {
        let link = Link::Tls { found_at };
        Deployment::start_with(KmsDevice::new_soft_hsm()?, None, documents::KEYS.into(), link)
    }

    /// Makes one that also has operational keys of other algorithms than ES256, and one that is adopted.
    ///
    /// # Errors
    /// A program is not built, or refuses something.
    pub fn start_with_every_algorithm() -> Result<Deployment> {
        let keys = documents::KEYS.into_iter().chain(documents::OTHER_ALGORITHMS).collect();
        Deployment::start_with(KmsDevice::new_soft_hsm()?, None, keys, Link::Socket)
    }

    /// Makes one whose KMS has a YubiHSM 2 and nothing else.
    ///
    /// # Errors
    /// A program is not built, or refuses something.
    pub fn start_with_yubihsm() -> Result<Deployment> {
        Deployment::start_with(KmsDevice::new_yubihsm()?, None, documents::KEYS.into(), Link::Socket)
    }

    /// Makes one in which `engineer-3` has his key in a token of his own, and votes with the program alone.
    ///
    /// # Errors
    /// A program is not built, or refuses something.
    pub fn start_with_voters_token() -> Result<Deployment> {
        let voter = Some(VoterToken::make()?);
        Deployment::start_with(KmsDevice::new_soft_hsm()?, voter, documents::KEYS.into(), Link::Socket)
    }

    fn start_with(
        device: KmsDevice,
        voter_token: Option<VoterToken>,
        keys: Vec<documents::Key>,
        link: Link,
    ) -> Result<Deployment> {
        // On a disk that forgets nothing only by power, not by `kill -9`, memory is as good.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("assent-").tempdir_in(place)?;
        let here = directory.path().to_owned();
        fs::set_permissions(&here, fs::Permissions::from_mode(0o700))?;

        let mut signers = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for person in documents::REQUESTERS.iter().chain(&documents::VOTERS) {
            if let (Some(token), "engineer-3") = (&voter_token, *person) {
                lines.insert((*person).to_owned(), token.toml.clone());
            } else if !signers.contains_key(*person) {
                let key = KeyFile::generate()?;
                key.write_new(&here.join(format!("{person}.pem")), &Protection::None)?;
                lines.insert((*person).to_owned(), toml_line(key.public_key())?);
                signers.insert((*person).to_owned(), key);
            }
        }
        let line = |person: &str| lines[person].clone();
        for (contract, deadline) in documents::CONTRACTS {
            fs::write(here.join(format!("{contract}.toml")), documents::policy(contract, deadline, line))?;
        }
        for documents::Key { name, contract, .. } in &keys {
            fs::write(here.join(format!("{name}-signing.toml")), documents::process(name, contract, line))?;
        }
        for (rotation, key, reason) in documents::ROTATIONS {
            fs::write(
                here.join(format!("{rotation}.toml")),
                documents::rotation(rotation, key, reason, line),
            )?;
        }
        for (change, contract) in documents::CHANGES {
            fs::write(here.join(format!("{change}.toml")), documents::change(change, contract, line))?;
        }
        let remote = match link {
            Link::Socket => None,
            Link::Tls { found_at } => Some(Remote::make(&here, found_at)?),
        };
        let of_kms = match &remote {
            None => format!("kms_socket = \"{}\"", here.join("kms.sock").display()),
            Some(remote) => remote.node_toml(),
        };
        fs::write(here.join("deployment.toml"), documents::deployment(&of_kms, &keys))?;
        let tls = remote.as_ref().map(Remote::kms_toml).unwrap_or_default();
        fs::write(here.join("kms.toml"), KMS_TOML.to_owned() + &tls + &device.toml(&here)?)?;

        let environment = device.environment();
        let config = here.join("kms.toml").display().to_string();
        let (kms_program, program) = (program::find("assent-kms")?, program::find("assent")?);
        let run_kms = |arguments: &[&str]| {
            run(Command::new(&kms_program)
                .args(arguments)
                .args(["--config", &config])
                .envs(environment.iter().cloned())
                .current_dir(&here))
        };
        run_kms(&["init"])?;
        let mut kms = Daemon::new(
            "assent-kms",
            kms_program.clone(),
            &["serve", "--config", &config],
            environment.clone(),
            here.join("kms.log"),
        );
        kms.start(|| listens(&here.join("kms-admin.sock")))?;
        for (contract, _) in documents::CONTRACTS {
            run_kms(&["key", "create", "--contract", contract, "--out", &format!("{contract}.jwk")])?;
        }
        for key in &keys {
            let mut arguments = match key.is_adopted {
                true => {
                    key_pair(device.token(), "rsa:3072", ADOPTED, key.name)?;
                    vec!["key", "adopt", key.name, "--object-id", ADOPTED]
                }
                false => vec!["key", "create", "--key", key.name],
            };
            let out = format!("{}.jwk", key.name);
            arguments.extend(["--alg", key.alg, "--out", &out]);
            arguments.extend(key.bits.iter().flat_map(|bits| ["--bits", *bits]));
            run_kms(&arguments)?;
        }
        run(Command::new(&program).args(["init", "deployment.toml", "--out", "node"]).current_dir(&here))?;
        run_kms(&["pin", "node/genesis.json"])?;

        let node_config = here.join("node/node.toml").display().to_string();
        let node = Daemon::new(
            "assent",
            program,
            &["node", "--config", &node_config],
            Vec::new(),
            here.join("node.log"),
        );
        let genesis = Genesis::parse(&fs::read(here.join("node/genesis.json"))?)?;
        let client = Client::new(Address::Unix(here.join("node/data/node.sock")));
        let desk = Arc::new(Desk::new(genesis, client, signers));
        let voter_token = voter_token.map(|voter| voter.token);
        let directory = Some(directory);
        let mut deployment = Deployment { node, kms, device, voter_token, remote, directory, desk };
        deployment.start_node()?;
        Ok(deployment)
    }

    /// What people do here.
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Leaves all files in place when it is dropped, and says where they are.
    pub fn keep(&mut self) -> &Path {
        let directory = self.directory.as_mut().expect("it is there until the deployment is dropped");
        directory.disable_cleanup(true);
        directory.path()
    }

    /// The directory of all files.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("it is there until the deployment is dropped").path()
    }

    /// The genesis file.
    pub fn genesis_file(&self) -> PathBuf {
        self.directory().join("node/genesis.json")
    }

    /// The KMS's token.
    ///
    /// # Panics
    /// If it has a YubiHSM.
    pub fn token(&self) -> &SoftHsmToken {
        self.device.token()
    }

    /// The KMS's YubiHSM.
    ///
    /// # Panics
    /// If it has a token.
    pub fn yubihsm(&self) -> &Simulator {
        self.device.yubihsm()
    }

    /// The token of `engineer-3`, if he has one.
    pub fn voter_token(&self) -> Option<&SoftHsmToken> {
        self.voter_token.as_ref()
    }

    /// How node and KMS reach each other.
    ///
    /// # Panics
    /// If they do so by a socket.
    pub fn remote(&self) -> &Remote {
        self.remote.as_ref().expect("the KMS is as on another machine")
    }

    /// The numbers of the daemons that run.
    pub fn process_ids(&self) -> Vec<u32> {
        [&self.node, &self.kms].into_iter().filter_map(Daemon::id).collect()
    }

    /// Starts the node.
    ///
    /// # Errors
    /// See [`Daemon::start`].
    pub fn start_node(&mut self) -> Result<()> {
        let socket = self.directory().join("node/data/node.sock");
        self.node.start(|| listens(&socket))
    }

    /// Starts the KMS.
    ///
    /// # Errors
    /// See [`Daemon::start`].
    pub fn start_kms(&mut self) -> Result<()> {
        let sockets = ["kms.sock", "kms-admin.sock"].map(|name| self.directory().join(name));
        self.kms.start(|| sockets.iter().all(|socket| listens(socket)))
    }

    /// The node's process.
    pub fn node(&mut self) -> &mut Daemon {
        &mut self.node
    }

    /// The KMS's process.
    pub fn kms(&mut self) -> &mut Daemon {
        &mut self.kms
    }

    /// Runs the `assent` program as a person does, with genesis and node in the environment.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn assent(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program::find("assent")?);
        command.args(arguments).current_dir(self.directory()).env("HOME", self.directory());
        command.env("ASSENT_GENESIS", self.genesis_file());
        command.env("ASSENT_NODE", self.directory().join("node/data/node.sock"));
        if let Some(token) = &self.voter_token {
            command.env("SOFTHSM2_CONF", token.config());
        }
        command.output().context("cannot run `assent`")
    }

    /// Has both logs verified from their first block.
    ///
    /// # Errors
    /// One is not as it must be, with what the program says.
    pub fn check_ledgers(&self) -> Result<()> {
        for chain in ["process", "consensus"] {
            let file = self.directory().join(format!("node/data/{chain}.ledger")).display().to_string();
            let genesis = self.genesis_file().display().to_string();
            let checked =
                self.assent(&["ledger", "check", &file, "--genesis", &genesis, "--chain", chain])?;
            let said = String::from_utf8_lossy(&checked.stderr);
            ensure!(checked.status.success(), "`assent ledger check` of {chain}: {said}");
        }
        Ok(())
    }

    /// Runs the `assent-kms` program as the security officer does.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn assent_kms(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program::find("assent-kms")?);
        command.args(arguments).args(["--config", "kms.toml"]).current_dir(self.directory());
        command.envs(self.device.environment()).output().context("cannot run `assent-kms`")
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("the deployment's files stay in {}", directory.keep().display());
        }
    }
}

impl VoterToken {
    fn make() -> Result<VoterToken> {
        let token = SoftHsmToken::create("engineer-3").context("the voter's token")?;
        key_pair(&token, "EC:prime256v1", "01", "vote")?;
        let module = token.module().display().to_string();
        let shown = run(Command::new(program::find("assent")?)
            .args(["key", "show", "--json", "--module", &module, "pkcs11:token=engineer-3;object=vote"])
            .env("SOFTHSM2_CONF", token.config()))?;
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
        let toml =
            shown["toml"].as_str().context("`assent key show` prints the line for a policy")?.to_owned();
        Ok(VoterToken { token, toml })
    }
}

/// Has a tool that is not ours generate a key pair for signatures in a token.
fn key_pair(token: &SoftHsmToken, kind: &str, id: &str, label: &str) -> Result<()> {
    let module = token.module().display().to_string();
    // The PIN goes by the environment: arguments are for everybody to see.
    run(Command::new("pkcs11-tool")
        .args(["--module", &module, "--token-label", token.label(), "--login", "--pin", "env:TOKEN_PIN"])
        .args(["--keypairgen", "--key-type", kind, "--id", id, "--label", label, "--usage-sign"])
        .env("TOKEN_PIN", fs::read_to_string(token.pin_file())?)
        .env("SOFTHSM2_CONF", token.config()))
    .map(drop)
}

/// Runs a command to its end, which must be a good one.
///
/// # Errors
/// It is not; with what it said.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(output)
}

fn toml_line(key: &assent_consensus::jwk::PublicKey) -> Result<String> {
    let jwk = serde_json::to_value(key)?;
    Ok(format!(r#"key = {{ kty = "EC", crv = "P-256", x = {}, y = {} }}"#, jwk["x"], jwk["y"]))
}

const KMS_TOML: &str =
    "state_directory = \"kms\"\nsocket = \"kms.sock\"\nadmin_socket = \"kms-admin.sock\"\n\n";

fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
