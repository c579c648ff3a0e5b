//! A daemon as a process: started, killed without warning, started again; what it says goes into a file.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How long a daemon may take to answer after its start, or to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked whether it is there: whether a process of others listens comes with no event.
const INTERVAL: Duration = Duration::from_millis(5);

/// One daemon, running or not.
pub struct Daemon {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that does not run yet. What it says is appended to `log`.
    pub fn new(
        name: &'static str,
        program: PathBuf,
        arguments: &[&str],
        environment: Vec<(String, PathBuf)>,
        log: PathBuf,
    ) -> Daemon {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Daemon { name, program, arguments, environment, log, child: None }
    }

    /// Gives it another environment from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, PathBuf)>) {
        self.environment = environment;
    }

    /// Starts it, and waits until `answers` says that it is there.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not answer in time; with what it said last.
    pub fn start(&mut self, answers: impl Fn() -> bool) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).context("the log")?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let child = self.child.insert(child);
        let begun = Instant::now();
        while !answers() {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("{} ended with {status} instead of starting:\n{}", self.name, last_lines(&self.log));
            }
            if begun.elapsed() > PATIENCE {
                bail!("{} does not answer:\n{}", self.name, last_lines(&self.log));
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        let status = child.wait()?;
        // What ended before by itself was not killed: that is a finding.
        ensure!(
            status.signal() == Some(9),
            "{} ended by itself with {status}:\n{}",
            self.name,
            last_lines(&self.log)
        );
        Ok(())
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not run, does not stop in time, or ends with a failure.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let told = Command::new("kill").arg(child.id().to_string()).status()?;
        ensure!(told.success(), "{} cannot be told to stop", self.name);
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{} stopped with {status}:\n{}", self.name, last_lines(&self.log));
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("{} does not stop:\n{}", self.name, last_lines(&self.log));
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// Waits until it ends by itself, with a failure; what it said last.
    ///
    /// # Errors
    /// It does not run, does not end in time, or ends well.
    pub fn failure(&mut self) -> Result<String> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait()? {
                ensure!(!status.success(), "{} ended with {status}", self.name);
                return Ok(last_lines(&self.log));
            }
            std::thread::sleep(INTERVAL);
        }
        child.kill()?;
        child.wait()?;
        bail!("{} does not end by itself:\n{}", self.name, last_lines(&self.log))
    }

    /// Waits until it has said `words`, at any time.
    ///
    /// # Errors
    /// It does not; with what it said last.
    pub fn said(&self, words: &str) -> Result<()> {
        let begun = Instant::now();
        while !String::from_utf8_lossy(&std::fs::read(&self.log)?).contains(words) {
            if begun.elapsed() > PATIENCE {
                bail!("{} has not said `{words}`:\n{}", self.name, last_lines(&self.log));
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// The process's number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
