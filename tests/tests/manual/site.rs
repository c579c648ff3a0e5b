//! The machine on which the runbooks are typed: documents, people with their keys, a token, and both daemons.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use assent_hsm_mock::SoftHsmToken;
use assent_tests::deployment::Daemon;
use assent_tests::program;
use serde_json::Value;

/// The people of the manual's deployment; those who vote come first.
const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "security"];
/// Who votes when a runbook says so: as many as the policies ask for.
const VOTING: [&str; 2] = ["alice", "bob"];
/// How long anything may take, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Directories of the manual, which are all one here.
const PLACES: [&str; 2] = ["/var/lib", "/var/backups"];
/// Placeholders of the manual.
const REQUEST: &str = "sha256:d273b30acfd30dabc96a619c39138c9ae1f0d7d05a6377482eccced271e19239";
const THUMBPRINT: &str = "AYurv_YEK4FBb70LZvKz59pVJiRKc2Bb525dhxckRAk";

pub struct Site {
    // In the order in which they must go.
    node: Option<Daemon>,
    kms: Daemon,
    token: SoftHsmToken,
    directory: tempfile::TempDir,
    /// The request that waits for votes.
    open: Option<String>,
}

/// A command that did not end with 0, though it did what it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub command: String,
    pub code: i32,
}

impl Site {
    /// What must be ready before the first set-up.
    pub fn new() -> Site {
        let token = SoftHsmToken::create("kms").unwrap_or_else(|error| panic!("{error}"));
        let directory = tempfile::tempdir().expect("a directory");
        let here = directory.path();
        let config = format!(
            "state_directory = \"assent-kms\"\nsocket = \"kms.sock\"\nadmin_socket = \"admin.sock\"\n{}",
            device(&token, "main", &token.uri())
        );
        fs::write(here.join("kms.toml"), config).expect("writable");
        let config = here.join("kms.toml").display().to_string();
        let kms = Daemon::new(
            "assent-kms",
            find("assent-kms"),
            &["serve", "--config", &config],
            vec![("SOFTHSM2_CONF".into(), token.config().into())],
            here.join("kms.log"),
        );
        let site = Site { node: None, kms, token, directory, open: None };
        site.write_documents();
        site
    }

    /// Types the commands; gives those that ended with another code than 0, and were to.
    pub fn follow(&mut self, commands: &[&str]) -> Vec<Ended> {
        assert!(!commands.is_empty());
        commands.iter().filter_map(|command| self.type_in(command)).collect()
    }

    fn type_in(&mut self, command: &str) -> Option<Ended> {
        let here = self.directory.path().display().to_string();
        let command = &PLACES.iter().fold(command.to_owned(), |command, place| command.replace(place, &here));
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            // For the user who runs this instead of the unit's.
            ["install", "-d", "-m", "0700", .., path] => {
                fs::DirBuilder::new().mode(0o700).create(path).expect("made");
            }
            ["systemctl", "enable", "--now", "assent-kms"] | ["systemctl", "start", "assent-kms"] => {
                self.start_kms();
            }
            ["systemctl", "disable", "--now", "assent-kms"] | ["systemctl", "stop", "assent-kms"] => {
                self.kms.stop().expect("it runs");
            }
            ["systemctl", "restart", "assent-kms"] => {
                self.kms.stop().expect("it runs");
                self.start_kms();
            }
            ["systemctl", "stop", "assent"] => self.node.as_mut().expect("made").stop().expect("it runs"),
            ["systemctl", "start", "assent"] => self.start_node(),
            ["assent", "propose", ..] => {
                let asked = json(&self.assent("security", &[&words[1..], &["--json"]].concat()));
                self.open = Some(asked["request"].as_str().expect("it asks").to_owned());
            }
            ["assent", "vote", ..] => {
                let request = self.open.take().expect("something waits");
                for voter in VOTING {
                    let words: Vec<_> =
                        words[1..].iter().map(|word| word.replace(REQUEST, &request)).collect();
                    let words: Vec<_> = words.iter().map(String::as_str).chain(["--yes", "--wait"]).collect();
                    succeeded(command, &self.assent(voter, &words));
                }
            }
            // The runbook says in words that voters vote.
            ["assent", "case", ..] if self.open.is_some() => {
                self.type_in(&format!("assent vote {REQUEST} --approve"));
                self.type_in(command);
            }
            ["assent", "verify", ..] => {
                let output = self.assent("alice", &words[1..]);
                let ended = Ended { command: words[..2].join(" "), code: output.status.code().unwrap_or(-1) };
                return (ended.code != 0).then_some(ended);
            }
            ["assent", ..] => succeeded(command, &self.assent("alice", &words[1..])),
            ["assent-kms", ..] => {
                let carol = self.directory.path().join("carol.pem");
                let carol =
                    json(&self.assent("", &["key", "show", carol.to_str().expect("UTF-8"), "--json"]));
                let carol = carol["thumbprint"].as_str().expect("a thumbprint");
                let open = self.open.as_deref().unwrap_or(REQUEST);
                let command = command.replace(THUMBPRINT, carol).replace(REQUEST, open);
                let words: Vec<_> = command.split_whitespace().skip(1).collect();
                succeeded(&command, &self.assent_kms(&words));
            }
            _ => succeeded(
                command,
                &Command::new(words[0])
                    .args(&words[1..])
                    .current_dir(self.place())
                    .output()
                    .expect("it runs"),
            ),
        }
        None
    }

    /// The states of a key's versions.
    pub fn states(&self, key: &str) -> Vec<String> {
        self.versions(key).into_iter().map(|(_, state)| state).collect()
    }

    /// The newest version of a key.
    pub fn newest(&self, key: &str) -> (u64, String) {
        self.versions(key).pop().expect("a version")
    }

    fn versions(&self, key: &str) -> Vec<(u64, String)> {
        let list = json(&self.assent_kms(&["key", "list", "--json"]));
        let is_it = |row: &&Value| row["key"] == key || row["contract"] == key;
        let version = |row: &Value| {
            (row["version"].as_u64().expect("a number"), row["state"].as_str().expect("text").to_owned())
        };
        list["keys"].as_array().expect("keys").iter().filter(is_it).map(version).collect()
    }

    /// The second device's `[[device]]`.
    pub fn add_device(&self) {
        let second = self.token.add_token("second").unwrap_or_else(|error| panic!("{error}"));
        let path = self.directory.path().join("kms.toml");
        let config = fs::read_to_string(&path).expect("there");
        fs::write(path, config + &device(&self.token, "second", &second)).expect("writable");
    }

    /// From here on commands are typed in the node's directory.
    pub fn start_node(&mut self) {
        let place = self.directory.path().join("deployment");
        let config = place.join("node.toml").display().to_string();
        let node = self.node.get_or_insert_with(|| {
            let (program, arguments) = (find("assent"), ["node", "--config", &config]);
            Daemon::new("assent", program, &arguments, Vec::new(), place.join("log"))
        });
        let socket = place.join("data/node.sock");
        node.start(|| listens(&socket)).unwrap_or_else(|error| panic!("{error:#}"));
        let doctor = self.assent("", &["doctor", "--config", "node.toml"]);
        succeeded("assent doctor", &doctor);
    }

    /// What the person does with a policy that was written for him.
    pub fn edit_policy(&self, name: &str, from: &str, to: &str) {
        let path = self.place().join(name);
        let policy = fs::read_to_string(&path).expect("it was written");
        assert!(policy.contains(from), "{policy}");
        fs::write(path, policy.replace(from, to)).expect("writable");
    }

    /// How many policies of a contract the KMS has gone by.
    pub fn policies(&self, contract: &str) -> usize {
        let list = json(&self.assent_kms(&["policy", "list", "--json"]));
        let rows = list["policies"].as_array().expect("policies").iter();
        rows.filter(|row| row["contract"] == contract).count()
    }

    /// Cases of `release-signing` until one is signed by this version; its bundle is where the manual has it.
    pub fn sign_releases_until(&mut self, version: u64) {
        fs::write(self.place().join("app.tar"), "an artifact").expect("writable");
        let by = Instant::now() + PATIENCE;
        for number in 0.. {
            let case = format!("app-{number}");
            self.follow(&[
                &format!("assent propose release-signing --artifact app.tar --case {case}"),
                &format!("assent case {case} --wait"),
                &format!("assent fetch {case} --out ."),
            ]);
            if self.released()["version"] == version {
                return;
            }
            assert!(Instant::now() < by, "version {version} is not used");
        }
    }

    /// What the bundle of the last release says of its signature.
    fn released(&self) -> Value {
        let bundle = fs::read(self.place().join("app.tar.bundle.json")).expect("fetched");
        let bundle: Value = serde_json::from_slice(&bundle).expect("JSON");
        bundle["result"].clone()
    }

    /// A case that waits for votes.
    pub fn open_a_case(&mut self, case: &str) {
        self.follow(&[&format!("assent propose release-signing --artifact app.tar --case {case}")]);
        let request = self.open.clone().expect("it asks");
        let is_open = |view: Value| {
            view.as_array()
                .is_some_and(|requests| requests.iter().any(|one| one["request"] == request.as_str()))
        };
        let by = Instant::now() + PATIENCE;
        while !is_open(json(&self.assent("alice", &["requests", "--json"]))) {
            assert!(Instant::now() < by, "it was not opened");
            std::thread::park_timeout(LOOK);
        }
    }

    /// The file of keys that count no more: the one that signed the last release.
    pub fn revoke_signer_of_release(&self) {
        let (result, list) = (self.released(), json(&self.assent_kms(&["key", "list", "--json"])));
        let mut rows = list["keys"].as_array().expect("keys").iter();
        let signer = rows
            .find(|row| row["key"] == result["key"] && row["version"] == result["version"])
            .expect("here");
        let thumbprint = signer["thumbprint"].as_str().expect("text");
        fs::write(self.place().join("revoked.txt"), format!("{thumbprint}\n")).expect("writable");
    }

    pub fn start_kms(&mut self) {
        let socket = self.directory.path().join("admin.sock");
        self.kms.start(|| listens(&socket)).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Where commands are typed.
    fn place(&self) -> PathBuf {
        let here = self.directory.path();
        if self.node.is_some() { here.join("deployment") } else { here.to_owned() }
    }

    /// As a person does who has his key in his configuration.
    fn assent(&self, person: &str, words: &[&str]) -> Output {
        // What waits for ever is a failure.
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(find("assent"));
        let home = self.directory.path().join("homes").join(person);
        command.args(words).current_dir(self.place());
        command.env_remove("XDG_CONFIG_HOME").env("HOME", home).output().expect("it runs")
    }

    fn assent_kms(&self, words: &[&str]) -> Output {
        let mut command = Command::new(find("assent-kms"));
        command.arg("--config").arg(self.directory.path().join("kms.toml")).args(words);
        command.env("SOFTHSM2_CONF", self.token.config()).current_dir(self.place()).output().expect("it runs")
    }

    /// Policies, processes and `deployment.toml`, with the keys of the people in them.
    fn write_documents(&self) {
        let here = self.directory.path();
        let write = |name: &str, text: String| fs::write(here.join(name), text).expect("writable");
        let lines = PEOPLE.map(|person| {
            let file = format!("{person}.pem");
            let made = self.assent("", &["key", "generate", "--out", &file, "--no-passphrase", "--json"]);
            let line = json(&made)["toml"].as_str().expect("the line for a policy").to_owned();
            let configuration = here.join("homes").join(person).join(".config/assent");
            fs::create_dir_all(&configuration).expect("made");
            let config = format!(
                "genesis = {:?}\nnode = {:?}\nkey = {:?}\n",
                here.join("deployment/genesis.json"),
                here.join("deployment/data/node.sock"),
                here.join(&file)
            );
            fs::write(configuration.join("config.toml"), config).expect("writable");
            (person, line)
        });
        let people = |kind: &str, people: &[(&str, String)]| -> String {
            let one = |(name, line): &(&str, String)| format!("\n[[{kind}]]\nname = \"{name}\"\n{line}\n");
            people.iter().map(one).collect()
        };
        let voters = people("voter", &lines[..3]).replace("\nkey", "\ngroups = [\"engineers\"]\nkey");
        let requester = people("requester", &lines[3..]);
        for (contract, kinds) in CONTRACTS {
            let rule = "[rule]\nat_least = 2\nof = \"engineers\"\n";
            write(
                &format!("{contract}.toml"),
                format!("name = \"{contract}\"\nkinds = {kinds}\ndeadline = \"48h\"\n\n{rule}{voters}"),
            );
        }
        let mut deployment = DEPLOYMENT.to_owned();
        for (process, input, contract, subject) in PROCESSES {
            write(
                &format!("{process}.toml"),
                format!(
                    "name = \"{process}\"\ninput = {input}\n{requester}\n[[step]]\nname = \"approval\"\nask = \"{contract}\"\n\
                     subject = {subject}\non_rejected = \"end\"\n\n[[step]]\nname = \"action\"\nact = \"approval\"\n"
                ),
            );
            deployment +=
                &format!("\n[[process]]\ndefinition = \"{process}.toml\"\ngoverned_by = \"{contract}\"\n");
        }
        write(
            "deployment.toml",
            deployment + &format!("\n[node]\nkms_socket = {:?}\n", here.join("kms.sock")),
        );
    }
}

const CONTRACTS: [(&str, &str); 2] = [
    ("governance", r#"["rotate-key", "destroy-key", "change-policy"]"#),
    ("release-approval", r#"["sign", "rotate-key", "destroy-key"]"#),
];

/// Name, input, who decides, and on what; the manual's table has those after the first.
pub const PROCESSES: [(&str, &str, &str, &str); 5] = [
    (
        "release-signing",
        r#"{ artifact = "digest", name = "text", size = "integer" }"#,
        "release-approval",
        r#"{ kind = "sign", key = "release", name = "{name}", digest = "{artifact}", size = "{size}" }"#,
    ),
    (
        "rotate-release",
        r#"{ reason = "text" }"#,
        "release-approval",
        r#"{ kind = "rotate-key", key = "release", reason = "{reason}" }"#,
    ),
    (
        "rotate-release-approval",
        r#"{ reason = "text" }"#,
        "governance",
        r#"{ kind = "rotate-key", contract = "release-approval", reason = "{reason}" }"#,
    ),
    (
        "change-release-approval",
        r#"{ from = "digest", to = "digest" }"#,
        "governance",
        r#"{ kind = "change-policy", contract = "release-approval", from = "{from}", to = "{to}" }"#,
    ),
    (
        "destroy-release",
        r#"{ version = "integer" }"#,
        "release-approval",
        r#"{ kind = "destroy-key", key = "release", version = "{version}" }"#,
    ),
];

const DEPLOYMENT: &str = r#"name = "example"
environment = "a test"

[[contract]]
policy = "governance.toml"
key = "governance.jwk"

[[contract]]
policy = "release-approval.toml"
key = "release-approval.jwk"
governed_by = "governance"

[[key]]
name = "release"
governed_by = "release-approval"
format = "der"
key = "release.jwk"
"#;

fn device(token: &SoftHsmToken, name: &str, uri: &str) -> String {
    let (module, pin_file) = (token.module(), token.pin_file());
    format!(
        "\n[[device]]\nname = \"{name}\"\ndriver = \"pkcs11\"\nmodule = {module:?}\ntoken = \"{uri}\"\npin_file = {pin_file:?}\n"
    )
}

fn find(name: &str) -> PathBuf {
    program::find(name).unwrap_or_else(|error| panic!("{error:#}"))
}

fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

fn succeeded(command: &str, output: &Output) {
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`{command}` ended with {}: {said}{error}", output.status);
}

fn json(output: &Output) -> Value {
    succeeded("a command", output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}
