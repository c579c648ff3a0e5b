//! A KMS with a directory and a token of its own, run as its operator runs it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use assent_hsm_mock::SoftHsmToken;
use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Home {
    pub token: SoftHsmToken,
    pub directory: tempfile::TempDir,
    /// What else is in the programs' environment.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// The command that starts the programs, if they are not started by themselves.
    pub wrapper: Vec<String>,
}

impl Home {
    /// A configured KMS that is not made yet.
    pub fn new() -> Home {
        let token = SoftHsmToken::create("kms").unwrap_or_else(|error| panic!("{error}"));
        let directory = tempfile::tempdir().expect("a directory");
        let home = Home { token, directory, environment: Vec::new(), wrapper: Vec::new() };
        let (module, uri, pin) =
            (home.token.module().to_owned(), home.token.uri(), home.token.pin_file().to_owned());
        home.configure(&module, &uri, &pin, "");
        home
    }

    /// A KMS that is made.
    pub fn made() -> Home {
        let home = Home::new();
        done(&home.run(&["init"]));
        home
    }

    pub fn configure(&self, module: &Path, token: &str, pin: &Path, more: &str) {
        let text = format!(
            "state_directory = \"state\"\nsocket = \"kms.sock\"\nadmin_socket = \"admin.sock\"\n{more}\
             [[device]]\nname = \"main\"\ndriver = \"pkcs11\"\nmodule = {module:?}\ntoken = \"{token}\"\npin_file = {pin:?}\nsessions = 2\n"
        );
        fs::write(self.path("kms.toml"), text).expect("writable");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_assent-kms");
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.envs(self.environment.clone());
        command.arg("--config").arg(self.path("kms.toml")).args(arguments);
        command.env("SOFTHSM2_CONF", self.token.config()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// The JSON that a command prints when it is done.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        done(&output);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn serve(&self) -> Daemon {
        let mut child = self.command(&["serve"]).stderr(Stdio::piped()).spawn().expect("the program starts");
        let (sender, receiver) = mpsc::channel();
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || {
            let lines = BufReader::new(stderr).lines().map_while(Result::ok);
            // The test may have ended.
            lines.for_each(|line| drop(sender.send(line)));
        });
        let mut daemon = Daemon { child, lines: receiver, log: String::new() };
        daemon.wait_for("\"ready\"");
        daemon
    }

    /// What one of the sockets answers: the whole HTTP answer.
    pub fn ask(&self, socket: &str, call: &str) -> String {
        let mut stream = UnixStream::connect(self.path(socket)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        write!(stream, "{call} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

pub struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub log: String,
}

impl Daemon {
    pub fn wait_for(&mut self, words: &str) {
        while !self.log.contains(words) {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no `{words}` in the log: {}", self.log));
            self.log.push_str(&line);
            self.log.push('\n');
        }
    }

    /// What the system says of the process: proc_pid_status(5).
    pub fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs")
    }

    /// Asks it to stop, and gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends").code()
    }

    /// Ends it as a power cut does.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn done(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
}

/// Fails unless a command ended with this code and these words in its error.
pub fn refused(output: &Output, code: i32, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(words), "no {words:?} in {error:?}");
}
