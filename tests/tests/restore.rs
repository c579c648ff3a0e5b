//! Databases that were put back, copied or caught in the midst of something: the KMS names what is wrong and stops, or says
//! nothing that differs from what it said before; and the way back, with the real programs and tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use assent::api::CaseView;
use assent_consensus::event::CaseOutcome;
use assent_consensus::vote::Choice::Approve;
use assent_hsm_mock::SoftHsmToken;
use assent_tests::deployment::{Case, Daemon, Deployment, run};
use assent_tests::program;
use tokio::runtime::Runtime;

/// What the KMS says when its database is older than the token.
const PUT_BACK: &str = "was put back to an older state";

/// A deployment whose KMS is to be harmed.
struct Scene {
    deployment: Deployment,
    runtime: Runtime,
}

impl Scene {
    fn start() -> Result<Scene> {
        Ok(Scene { deployment: Deployment::start()?, runtime: Runtime::new()? })
    }

    fn here(&self, name: &str) -> PathBuf {
        self.deployment.directory().join(name)
    }

    /// A case that waits for its votes.
    fn open(&self, case: &str) -> Result<Case> {
        let desk = self.deployment.desk();
        self.runtime.block_on(async {
            let (case, _) = desk.start_case("release-signing", "ci", case, case.as_bytes()).await?;
            desk.open_request(&case).await?;
            Ok(case)
        })
    }

    fn vote(&self, case: &Case) -> Result<()> {
        let desk = self.deployment.desk();
        self.runtime.block_on(async {
            let view = desk.open_request(case).await?;
            for voter in ["engineer-1", "engineer-2"] {
                desk.vote(&view, voter, Approve).await?;
            }
            Ok(())
        })
    }

    fn end(&self, case: &Case) -> Result<CaseView> {
        let (view, outcome) = self.runtime.block_on(self.deployment.desk().end(case))?;
        ensure!(outcome == CaseOutcome::Done, "the case `{}` ended as {outcome:?}", case.name);
        self.verify(case)?;
        Ok(view)
    }

    fn sign(&self, case: &str) -> Result<Case> {
        let case = self.open(case)?;
        self.vote(&case)?;
        self.end(&case)?;
        Ok(case)
    }

    /// An auditor's look at a case that has ended.
    fn verify(&self, case: &Case) -> Result<()> {
        let out = format!("signed-{}", case.name);
        good(&self.deployment.assent(&["fetch", case.name.as_str(), "--out", &out])?)?;
        let bundle = fs::read_dir(self.here(&out))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().ends_with(".bundle.json"))
            .context("a bundle")?;
        good(&self.deployment.assent(&[
            "verify",
            "--genesis",
            "node/genesis.json",
            &bundle.display().to_string(),
        ])?)
        .map(drop)
    }

    /// Stops the KMS, and puts a copy of a state directory in the place of its own.
    fn put_back(&mut self, copy: &Path) -> Result<()> {
        self.deployment.kms().stop()?;
        fs::rename(self.here("kms"), self.here("kms-of-today"))?;
        copy_all(copy, &self.here("kms"))
    }

    /// What needs a person is asked for again after half a minute, and when the node starts.
    fn ask_again(&mut self) -> Result<()> {
        self.deployment.node().stop()?;
        self.deployment.start_node()
    }

    /// Waits until the KMS has refused something for this reason.
    fn refused(&self, reason: &str) -> Result<()> {
        let by = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let wanted = format!("\"reason\":\"{reason}\"");
        while !fs::read_to_string(self.here("kms.log"))?.contains(&wanted) {
            ensure!(std::time::Instant::now() < by, "nothing was refused for {reason}");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        Ok(())
    }
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}

fn good(output: &Output) -> Result<String> {
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ended with {}: {said}", output.status);
    Ok(said)
}

fn bad(output: &Output, wanted: &str) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(wanted), "it does not say `{wanted}`: {said}");
    Ok(())
}

fn tried(test: fn() -> Result<()>) {
    test().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_database_of_yesterday_is_refused_and_the_way_back_repeats_nothing() {
    tried(|| {
        let mut scene = Scene::start()?;
        scene.sign("before")?;
        good(&scene.deployment.assent_kms(&["backup", "--out", "backup"])?)?;
        let half = scene.open("half")?;
        scene.deployment.kms().stop()?;
        scene.deployment.start_kms()?;
        let after = scene.sign("after")?;

        scene.put_back(&scene.here("backup"))?;
        let refused = scene.deployment.start_kms().expect_err("it does not start on an older database");
        ensure!(refused.to_string().contains(PUT_BACK), "{refused:#}");

        // What the message and the manual say.
        bad(&scene.deployment.assent_kms(&["restore", "backup"])?, "there is a database in")?;
        fs::remove_dir_all(scene.here("kms"))?;
        let said = good(&scene.deployment.assent_kms(&["restore", "backup"])?)?;
        ensure!(
            said.contains("is on the token, and signs") && said.contains("put back, with epoch"),
            "{said}"
        );
        bad(&scene.deployment.assent_kms(&["restore", "backup"])?, "there is a database in")?;
        scene.deployment.start_kms()?;

        // What was opened since, and may have been decided: on a person's word alone.
        scene.vote(&half)?;
        scene.refused("before-restore")?;
        good(&scene.deployment.assent_kms(&["release", &half.request.to_string()])?)?;
        scene.ask_again()?;
        scene.end(&half)?;
        // What was done stays done, and new cases need nobody: their blocks are later than the fence.
        scene.verify(&after)?;
        let said = good(&scene.deployment.assent_kms(&["audit", "verify"])?)?;
        ensure!(said.contains("the audit log is whole"), "{said}");
        // Today's database knows another epoch than the token has now.
        fs::rename(scene.here("kms"), scene.here("kms-restored"))?;
        scene.deployment.kms().kill()?;
        fs::rename(scene.here("kms-of-today"), scene.here("kms"))?;
        let refused = scene.deployment.start_kms().expect_err("the database that was given up");
        ensure!(refused.to_string().contains(PUT_BACK), "{refused:#}");
        Ok(())
    });
}

#[test]
fn of_two_that_run_on_copies_of_one_database_the_first_one_stops() {
    tried(|| {
        let mut scene = Scene::start()?;
        scene.sign("before")?;
        let half = scene.open("half")?;
        let original = scene.deployment.kms().id().context("it runs")?.to_string();
        // As a snapshot of a whole machine does.
        run(Command::new("kill").args(["-STOP", &original]))?;
        copy_all(&scene.here("kms"), &scene.here("copy"))?;
        run(Command::new("kill").args(["-CONT", &original]))?;
        let config = fs::read_to_string(scene.here("kms.toml"))?;
        let config = config
            .replace("state_directory = \"kms\"", "state_directory = \"copy\"")
            .replace("socket = \"kms", "socket = \"copy");
        fs::write(scene.here("copy.toml"), config)?;
        let mut copy = Daemon::new(
            "the copy",
            program::find("assent-kms")?,
            &["serve", "--config", &scene.here("copy.toml").display().to_string()],
            vec![("SOFTHSM2_CONF".to_owned(), scene.deployment.token().config().to_owned())],
            scene.here("copy.log"),
        );
        let socket = scene.here("copy-admin.sock");
        copy.start(|| std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        let said = scene.deployment.kms().failure()?;
        ensure!(said.contains("another KMS runs on a copy of this database"), "{said}");
        let refused = scene.deployment.start_kms().expect_err("the token is the copy's");
        ensure!(refused.to_string().contains(PUT_BACK), "{refused:#}");
        // The copy goes on in its place.
        copy.stop()?;
        fs::rename(scene.here("kms"), scene.here("kms-overtaken"))?;
        fs::rename(scene.here("copy"), scene.here("kms"))?;
        scene.deployment.start_kms()?;
        scene.vote(&half)?;
        scene.end(&half).map(drop)
    });
}

#[test]
fn a_snapshot_in_mid_signature_says_nothing_else_than_what_was_said() {
    tried(|| {
        let mut scene = Scene::start()?;
        let names: Vec<String> = (0..24).map(|number| format!("case-{number}")).collect();
        let cases = names.iter().map(|name| scene.open(name)).collect::<Result<Vec<Case>>>()?;
        let ready =
            cases.iter().map(|case| scene.runtime.block_on(scene.deployment.desk().open_request(case)));
        let ready = ready.collect::<Result<Vec<_>>>()?;
        let process = scene.deployment.kms().id().context("it runs")?.to_string();
        let desk = scene.deployment.desk().clone();
        let votes = scene.runtime.spawn(async move {
            for view in &ready {
                for voter in ["engineer-1", "engineer-2"] {
                    desk.vote(view, voter, Approve).await?;
                }
            }
            anyhow::Ok(())
        });
        // Some are decided and acted on, some are not: in the midst of a signature, as a hypervisor does it.
        scene.end(&cases[4])?;
        run(Command::new("kill").args(["-STOP", &process]))?;
        copy_all(&scene.here("kms"), &scene.here("snapshot"))?;
        run(Command::new("kill").args(["-CONT", &process]))?;
        scene.end(&cases[12])?;
        scene.deployment.kms().kill()?;
        fs::rename(scene.here("kms"), scene.here("kms-of-today"))?;
        copy_all(&scene.here("snapshot"), &scene.here("kms"))?;
        scene.deployment.start_kms()?;
        scene.runtime.block_on(votes)??;
        for case in &cases {
            let view = scene.end(case)?;
            ensure!(view.requests.len() == 1, "`{}` was asked twice", case.name);
        }
        good(&scene.deployment.assent_kms(&["audit", "verify"])?)?;
        // Once it has started on the snapshot, neither today's database nor the snapshot starts again.
        scene.deployment.kms().stop()?;
        for older in ["kms-of-today", "snapshot"] {
            fs::rename(scene.here("kms"), scene.here("kms-newest"))?;
            fs::rename(scene.here(older), scene.here("kms"))?;
            let refused = scene.deployment.start_kms().expect_err("an older database");
            ensure!(refused.to_string().contains(PUT_BACK), "{older}: {refused:#}");
            fs::remove_dir_all(scene.here("kms"))?;
            fs::rename(scene.here("kms-newest"), scene.here("kms"))?;
        }
        Ok(())
    });
}

#[test]
fn a_backup_is_put_back_onto_a_standby_token_and_onto_no_other() {
    tried(|| {
        let mut scene = Scene::start()?;
        scene.sign("before")?;
        good(&scene.deployment.assent_kms(&["backup", "--out", "backup"])?)?;
        let half = scene.open("half")?;
        // SoftHSM's way to copy a token.
        let token = scene.deployment.token();
        let standby = scene.here("standby");
        copy_all(token.directory(), &standby)?;
        let moved = |file: &Path| -> Result<()> {
            let text = fs::read_to_string(file)?;
            let text = text.replace(&token.directory().display().to_string(), &standby.display().to_string());
            Ok(fs::write(file, text)?)
        };
        let conf = standby.join(token.config().strip_prefix(token.directory())?);
        moved(&conf)?;
        let config = fs::read_to_string(scene.here("kms.toml"))?
            .replace(&token.directory().display().to_string(), &standby.display().to_string())
            .replace("state_directory = \"kms\"", "state_directory = \"standby-kms\"");
        fs::write(scene.here("standby.toml"), &config)?;
        let kms = program::find("assent-kms")?;
        let here = scene.deployment.directory().to_owned();
        let on = |config: &str, conf: &Path, arguments: &[&str]| -> Result<Output> {
            let mut command = Command::new(&kms);
            command.args(arguments).args(["--config", config]).current_dir(&here).env("SOFTHSM2_CONF", conf);
            Ok(command.output()?)
        };

        // Another token of the same name does not do.
        let other = SoftHsmToken::create(token.label())?;
        let wrong = config
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some(("token", _)) => format!("token = \"{}\"", other.uri()),
                Some(("pin_file", _)) => format!("pin_file = {:?}", other.pin_file()),
                _ => line.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("\n");
        fs::write(scene.here("wrong.toml"), wrong)?;
        bad(
            &on("wrong.toml", other.config(), &["restore", "backup"])?,
            "this is not a token with the backup's keys",
        )?;
        // Nor a backup that was changed.
        copy_all(&scene.here("backup"), &scene.here("changed"))?;
        let file = rusqlite::Connection::open(scene.here("changed/kms.sqlite"))?;
        let change =
            "UPDATE audit SET entry = CAST(replace(CAST(entry AS TEXT), 'release', 'relaese') AS BLOB)";
        file.execute(change, [])?;
        drop(file);
        let changed = on("standby.toml", &conf, &["restore", "changed"])?;
        ensure!(changed.status.code() == Some(4), "{changed:?}");

        good(&on("standby.toml", &conf, &["restore", "backup"])?)?;
        scene.deployment.kms().stop()?;
        fs::write(scene.here("kms.toml"), &config)?;
        scene.deployment.kms().set_environment(vec![("SOFTHSM2_CONF".to_owned(), conf.clone())]);
        scene.deployment.start_kms()?;
        scene.vote(&half)?;
        scene.refused("before-restore")?;
        good(&on("kms.toml", &conf, &["release", &half.request.to_string()])?)?;
        scene.ask_again()?;
        scene.end(&half)?;
        good(&on("kms.toml", &conf, &["audit", "verify"])?).map(drop)
    });
}
