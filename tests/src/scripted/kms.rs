//! The real KMS: a token, a configuration, and the daemon `assent-kms serve`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use assent_consensus::jwk::PublicKey;
use assent_consensus::message::RequestId;
use assent_hsm_mock::{FaultModule, SoftHsmToken};
use rusqlite::{Connection as Database, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Connection, Deployment, DeploymentKeys, Plan};
use crate::program;

/// How long the daemon may take to listen, to write, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// A running daemon on a throw-away token. It is stopped when this is dropped.
pub struct Kms {
    home: tempfile::TempDir,
    token: SoftHsmToken,
    faults: Option<FaultModule>,
    daemon: Option<Child>,
}

/// What the KMS is given beside its token.
#[derive(Clone, Copy, Debug)]
pub struct Equipment {
    /// How many sessions it uses.
    pub sessions: usize,
    /// After how long a call is given up, such as `10s`.
    pub call_timeout: &'static str,
    /// After how many signatures the epoch is advanced.
    pub epoch_signatures: u64,
    /// Whether the fault-injecting module stands before the token.
    pub has_faults: bool,
}

impl Default for Equipment {
    fn default() -> Equipment {
        Equipment { sessions: 8, call_timeout: "10s", epoch_signatures: 1_000, has_faults: false }
    }
}

/// What an audit log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Intents to sign.
    pub intents: usize,
    /// Signatures.
    pub results: usize,
    /// Refusals: request and reason.
    pub refusals: Vec<(String, String)>,
}

impl Kms {
    /// Makes a token and a state directory, and starts the daemon.
    ///
    /// # Errors
    /// SoftHSM or a program of ours is missing, or the daemon does not come up.
    pub fn start() -> Result<Kms> {
        Kms::start_with(Equipment::default())
    }

    /// The same with other equipment.
    ///
    /// # Errors
    /// As [`start`](Kms::start); the fault-injecting module is not built.
    pub fn start_with(equipment: Equipment) -> Result<Kms> {
        let token = SoftHsmToken::create("scripted")?;
        let faults = equipment.has_faults.then(|| FaultModule::over(token.module(), token.directory()));
        let faults = faults.transpose()?;
        let module = faults.as_ref().map_or(token.module(), FaultModule::module);
        let Equipment { sessions, call_timeout, epoch_signatures, .. } = equipment;
        let home = tempfile::Builder::new().prefix("assent-kms-").tempdir()?;
        let config = format!(
            "state_directory = \"state\"\nsocket = \"kms.sock\"\nadmin_socket = \"admin.sock\"\nmetrics_socket = \"metrics.sock\"\n\
             epoch_signatures = {epoch_signatures}\n\n[[device]]\nname = \"main\"\n\
             driver = \"pkcs11\"\nmodule = \"{}\"\ntoken = \"{}\"\npin_file = \"{}\"\nsessions = {sessions}\n\
             call_timeout = \"{call_timeout}\"\n",
            module.display(),
            token.uri(),
            token.pin_file().display(),
        );
        fs::write(home.path().join("kms.toml"), config)?;
        let mut kms = Kms { home, token, faults, daemon: None };
        kms.run(&["init"])?;
        kms.serve()?;
        Ok(kms)
    }

    /// Starts it, has the keys of these plans made, and pins the genesis that is made of them.
    ///
    /// # Errors
    /// As [`start`](Kms::start); a command fails.
    pub fn deploy(plans: &[Plan]) -> Result<(Kms, Deployment)> {
        Kms::deploy_with(plans, Equipment::default())
    }

    /// The same with other equipment.
    ///
    /// # Errors
    /// As [`deploy`](Kms::deploy).
    pub fn deploy_with(plans: &[Plan], equipment: Equipment) -> Result<(Kms, Deployment)> {
        let kms = Kms::start_with(equipment)?;
        let mut keys = DeploymentKeys::default();
        for plan in plans {
            keys.contracts.insert(plan.contract, kms.create_key("--contract", plan.contract)?);
            if let Some((key, _)) = plan.key {
                keys.operational.insert(key, kms.create_key("--key", key)?);
            }
        }
        let deployment = Deployment::new(plans, &keys)?;
        fs::write(kms.genesis(), deployment.genesis.bytes())?;
        let genesis = kms.genesis().display().to_string();
        let said = kms.run(&["pin", &genesis])?;
        let id = deployment.genesis.id().to_string();
        ensure!(said.contains(&id), "`assent-kms pin` does not print the deployment's id: {said}");
        Ok((kms, deployment))
    }

    /// The module by which the device is reached.
    pub fn module(&self) -> &Path {
        self.faults.as_ref().map_or(self.token.module(), FaultModule::module)
    }

    /// What the module needs in the environment of a process that loads it.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let faults = self.faults.as_ref().map(FaultModule::variable);
        [("SOFTHSM2_CONF", self.token.config())].into_iter().chain(faults)
    }

    /// A connection to the duty socket.
    ///
    /// # Errors
    /// The daemon does not listen.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(&self.socket())
    }

    /// The duty socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("kms.sock")
    }

    /// The genesis file.
    pub fn genesis(&self) -> PathBuf {
        self.home.path().join("genesis.json")
    }

    /// The token.
    pub fn token(&self) -> &SoftHsmToken {
        &self.token
    }

    /// The module that stands before the token, if there is one.
    pub fn faults(&self) -> Option<&FaultModule> {
        self.faults.as_ref()
    }

    /// The same, for what lasts when faults are lifted.
    pub fn faults_mut(&mut self) -> Option<&mut FaultModule> {
        self.faults.as_mut()
    }

    /// The directory on whose file system the KMS keeps its state.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The daemon's process.
    pub fn process(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Starts the daemon, and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub fn serve(&mut self) -> Result<()> {
        let log = File::create(self.log())?;
        let daemon = self.command(&["serve"])?.stdout(log.try_clone()?).stderr(log).spawn()?;
        let daemon = self.daemon.insert(daemon);
        let by = Instant::now() + PATIENCE;
        let admin = self.home.path().join("admin.sock");
        let socket = self.home.path().join("kms.sock");
        while Connection::open(&socket).is_err() || Connection::open(&admin).is_err() {
            if daemon.try_wait()?.is_some() || Instant::now() > by {
                bail!(
                    "the daemon does not listen: {}",
                    fs::read_to_string(self.home.path().join("kms.log"))?
                );
            }
            thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Changes the configuration of a KMS that runs, and has it read that again.
    ///
    /// # Errors
    /// It cannot be written, or the daemon does not run.
    pub fn reconfigure(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        let path = self.home.path().join("kms.toml");
        fs::write(&path, change(&fs::read_to_string(&path)?))?;
        let daemon = self.daemon.as_ref().context("it runs")?;
        Ok(kill_process(Pid::from_child(daemon), Signal::HUP)?)
    }

    /// Kills the daemon as a power cut would.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Runs a command of `assent-kms`, and gives what it wrote.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.output()?;
        if !output.status.success() {
            bail!("`assent-kms {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the audit log holds once there is a result of every intent: that of a message is written soon after its answer.
    ///
    /// # Errors
    /// It cannot be read; an intent stays without a result.
    pub fn audit(&self) -> Result<AuditCounts> {
        let by = Instant::now() + PATIENCE;
        loop {
            let counts = self.audit_now()?;
            if counts.intents == counts.results {
                return Ok(counts);
            }
            ensure!(Instant::now() < by, "an intent has no result: {counts:?}");
            thread::park_timeout(LOOK);
        }
    }

    /// What the audit log holds now, read from the database beside the running daemon.
    ///
    /// # Errors
    /// It cannot be read.
    fn audit_now(&self) -> Result<AuditCounts> {
        let file = self.home.path().join("state/kms.sqlite");
        let database = Database::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        let mut query = database.prepare("SELECT entry FROM audit ORDER BY number")?;
        let entries = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let mut counts = AuditCounts::default();
        for entry in entries {
            let entry: BTreeMap<String, Value> = serde_json::from_slice(&entry?)?;
            let text =
                |member: &str| entry.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
            match text("entry").as_str() {
                "intent" => counts.intents += 1,
                "result" => counts.results += 1,
                "refusal" => counts.refusals.push((text("request"), text("reason"))),
                _ => {}
            }
        }
        Ok(counts)
    }

    /// The database's epoch.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn epoch(&self) -> Result<i64> {
        let file = self.home.path().join("state/kms.sqlite");
        let database = Database::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(database.query_row("SELECT epoch FROM kms", [], |row| row.get(0))?)
    }

    fn create_key(&self, kind: &str, key: &str) -> Result<PublicKey> {
        let file = self.home.path().join("key.jwk");
        let path = file.display().to_string();
        self.run(&["key", "create", kind, key, "--out", &path])?;
        let jwk = serde_json::from_slice(&fs::read(&file)?)?;
        fs::remove_file(file)?;
        Ok(jwk)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program::find("assent-kms")?);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.home.path().join("kms.toml"))
            .envs(self.environment())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// What the daemon says is written there.
    pub fn log(&self) -> PathBuf {
        self.home.path().join("kms.log")
    }
}

impl AuditCounts {
    /// Whether a request was refused for this reason.
    pub fn has_refused(&self, request: RequestId, reason: &str) -> bool {
        let request = request.to_string();
        self.refusals.iter().any(|(of, why)| *of == request && why == reason)
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        // Nobody can be told of a failure here.
        let _ = self.kill();
    }
}
