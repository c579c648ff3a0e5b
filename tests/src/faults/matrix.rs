//! The fault matrix: each function that the driver calls, each return code that the standard lists for it, its first and
//! its second call; then what no return code says, such as calls that hang or a token that is taken out.
//!
//! The table that it writes says of each row what the KMS did next with the module, what the agent was told before the
//! duty was signed, and that the next duty, with the fault lifted, was signed by the same process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use assent_hsm_mock::{Call, Fault, What};

use super::scene::{Maker, Ready, Scene, Signed};
use super::standard::{FUNCTIONS, Way, codes_of};
use crate::campaign::Campaign;
use crate::scripted::{Connection, Equipment};

/// Duties of one row while the fault is there.
const WITH_FAULT: usize = 2;
/// How many duties are made at once.
const ROUND: usize = 96;
/// How long the daemon may take for what a row brings about.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is waited for an epoch that a fault may keep from coming.
const EPOCH_PATIENCE: Duration = Duration::from_secs(1);
/// How long it is waited for the session of a call that hung, which may have had none.
const HANG_PATIENCE: Duration = Duration::from_secs(1);
/// How long a duty is asked for while a fault is there that lasts until it is lifted.
const FAULT_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether it came.
const LOOK: Duration = Duration::from_millis(2);
/// One session, so that the second call is one by the same; a call that hangs is given up soon.
const EQUIPMENT: Equipment =
    Equipment { sessions: 1, call_timeout: "500ms", epoch_signatures: 1_000_000, has_faults: true };
/// For the epoch's own rows: every signature has it advanced.
const EPOCH_EQUIPMENT: Equipment = Equipment { epoch_signatures: 1, ..EQUIPMENT };

/// What is done to which call.
struct Row {
    function: &'static str,
    way: Way,
    what: What,
    /// The first call or the second.
    call: u64,
}

/// What came of it.
struct Outcome {
    row: Row,
    reaction: &'static str,
    told: String,
    after: String,
}

/// Runs every row, and writes the table.
///
/// # Errors
/// There is no KMS to try anything with, or the table cannot be written.
pub fn run(table: &Path) -> Result<ExitCode> {
    let (of_epoch, others): (Vec<Row>, Vec<Row>) = rows().into_iter().partition(|row| row.way == Way::Epoch);
    let mut campaign = Campaign::new("faults", (of_epoch.len() + others.len()) as u64);
    let mut outcomes = Vec::new();
    for (rows, equipment) in [(others, EQUIPMENT), (of_epoch, EPOCH_EQUIPMENT)] {
        let mut bench = Bench::start(equipment)?;
        for row in rows {
            let name = format!("{} {} on call {}", row.function, words(&row.what), row.call);
            match bench.row(row) {
                Ok(outcome) => {
                    outcomes.push(outcome);
                    campaign.pass();
                }
                Err(error) => {
                    campaign.fail(0, format!("{name}: {error:#}\n{}", bench.scene.last_words()));
                    bench = Bench::start(equipment)?;
                }
            }
        }
        if let Err(error) = bench.close() {
            campaign.fail(0, format!("the books: {error:#}"));
        }
    }
    fs::write(table, written(&outcomes)).with_context(|| format!("cannot write `{}`", table.display()))?;
    campaign.say(format!("{} rows are in `{}`", outcomes.len(), table.display()));
    Ok(campaign.end())
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for function in FUNCTIONS {
        let whats = codes_of(function).into_iter().map(|code| What::Answer(code.into()));
        let more: Vec<What> = match function.name {
            "C_Sign" => vec![
                What::AnswerDone("CKR_DEVICE_ERROR".into()),
                What::AnswerUnfinished("CKR_DEVICE_ERROR".into()),
                What::WrongSignature,
                What::DropSession,
                What::LogOut,
                What::RemoveToken,
                What::Hang,
                What::Delay(100),
                What::Answer("0x80000042".into()),
            ],
            "C_GenerateKeyPair" | "C_CreateObject" | "C_DestroyObject" => vec![
                What::AnswerDone("CKR_DEVICE_ERROR".into()),
                What::AnswerDone("CKR_FUNCTION_CANCELED".into()),
                What::RemoveToken,
                What::Answer("0x80000042".into()),
            ],
            "C_SignInit" | "C_FindObjects" | "C_FindObjectsInit" => {
                vec![What::DropSession, What::LogOut, What::RemoveToken, What::Hang]
            }
            _ => vec![What::Hang, What::Answer("0x80000042".into())],
        };
        // The doctor asks once.
        let calls = if function.way == Way::Doctor { 1..=1 } else { 1..=2 };
        for what in whats.chain(more) {
            for call in calls.clone() {
                rows.push(Row { function: function.name, way: function.way, what: what.clone(), call });
            }
        }
    }
    rows
}

/// One daemon for many rows.
struct Bench {
    scene: Scene,
    maker: Maker,
    connection: Connection,
    /// Duties that are ready to be sent.
    duties: std::vec::IntoIter<Ready>,
    signed: usize,
    keys: usize,
}

impl Bench {
    fn start(equipment: Equipment) -> Result<Bench> {
        let (mut scene, maker) = Scene::start(equipment, ROUND)?;
        scene.faults_mut()?.write_down_calls()?;
        let connection = scene.kms.connect()?;
        let duties = Vec::new().into_iter();
        let mut bench = Bench { scene, maker, connection, duties, signed: 0, keys: 0 };
        // Whatever happens once is over before the first row.
        bench.sign()?;
        Ok(bench)
    }

    fn row(&mut self, row: Row) -> Result<Outcome> {
        let fault = Fault::of(row.function, row.what.clone()).on_call(row.call);
        let trigger = |code| [1, 3].map(|call| Fault::answer("C_SignInit", code).on_call(call));
        let triggers = match row.way {
            Way::Reopen => trigger("CKR_SESSION_CLOSED").to_vec(),
            Way::Reinitialise => trigger("CKR_CRYPTOKI_NOT_INITIALIZED").to_vec(),
            Way::Sign | Way::Epoch | Way::CreateKey | Way::Doctor | Way::Probe => Vec::new(),
        };
        let module = self.scene.faults()?;
        module.calls()?;
        module.set(triggers.into_iter().chain([fault]).collect())?;
        let told = match row.way {
            Way::CreateKey => self.create_keys()?,
            Way::Doctor => self.doctor(&["doctor"]),
            Way::Probe => self.doctor(&["doctor", "--probe"]),
            Way::Sign | Way::Reopen | Way::Reinitialise | Way::Epoch => self.sign_under_faults(&row)?,
        };
        let calls = self.calls_until_met(&row)?;
        let reaction = reaction(&row, &calls)?;
        self.scene.faults()?.lift()?;
        let next = self.sign().context("with the fault lifted")?;
        ensure!(next.tries <= 40, "with the fault lifted it took {} tries: {:?}", next.tries, next.before);
        if matches!(row.what, What::Hang) {
            self.await_session_end()?;
        }
        let after = if next.before.is_empty() {
            "signed".into()
        } else {
            format!("signed after {}", next.before.join(", "))
        };
        Ok(Outcome { row, reaction, told, after })
    }

    fn sign_under_faults(&mut self, row: &Row) -> Result<String> {
        let mut told = Vec::new();
        for _ in 0..WITH_FAULT {
            // What lasts until it is lifted may keep the duty from being signed before.
            let epoch = self.scene.kms.epoch()?;
            told.extend(match row.what {
                What::RemoveToken | What::Hang => self.sign_or_lift()?,
                _ => self.sign()?.before,
            });
            if row.way == Way::Epoch {
                self.await_epoch_after(epoch)?;
            }
        }
        told.dedup();
        Ok(told.join(", "))
    }

    /// Signs; if that does not come to an end while the fault is there, it is lifted. What was said before.
    fn sign_or_lift(&mut self) -> Result<Vec<String>> {
        let ready = self.next()?;
        let (by, mut told) = (Instant::now() + FAULT_PATIENCE, Vec::new());
        while let Some(said) = self.scene.ask(&mut self.connection, &ready)? {
            told.push(said);
            if Instant::now() > by {
                told.push("(lifted)".into());
                self.scene.faults()?.lift()?;
                told.extend(self.scene.sign(&mut self.connection, &ready)?.before);
                break;
            }
            thread::park_timeout(LOOK * 10);
        }
        self.signed += 1;
        told.dedup();
        Ok(told)
    }

    fn sign(&mut self) -> Result<Signed> {
        let ready = self.next()?;
        let signed = self.scene.sign(&mut self.connection, &ready)?;
        self.signed += 1;
        Ok(signed)
    }

    /// The next duty; they are made and proven many at once.
    fn next(&mut self) -> Result<Ready> {
        if self.duties.len() == 0 {
            let round = self.maker.round(ROUND)?;
            round.advance(&mut self.connection)?;
            self.duties = round.duties.into_iter();
        }
        self.duties.next().context("a round has duties")
    }

    /// Two keys; one whose making failed is made again by the same command.
    fn create_keys(&mut self) -> Result<String> {
        let mut told = Vec::new();
        for _ in 0..2 {
            self.keys += 1;
            let name = format!("matrix-{}", self.keys);
            let by = Instant::now() + PATIENCE;
            while let Err(error) = self.scene.kms.run(&["key", "create", "--key", &name]) {
                let module = self.scene.faults()?.module().display().to_string();
                let error = error.to_string().replace(&module, "MODULE");
                let said =
                    error.rsplit("error: ").next().unwrap_or_default().lines().next().unwrap_or_default();
                told.push(format!("`key create`: {}", said.trim()));
                // A token that is out comes back when the fault is lifted.
                self.scene.faults()?.lift()?;
                ensure!(Instant::now() < by, "no key can be made: {told:?}");
                thread::park_timeout(LOOK * 10);
            }
        }
        told.dedup();
        Ok(told.join(", "))
    }

    fn doctor(&self, command: &[&str]) -> String {
        match self.scene.kms.run(command) {
            Ok(_) => String::new(),
            Err(error) => {
                let text = error.to_string();
                let wrong =
                    text.lines().find(|line| line.contains("WRONG") || line.contains("cannot be probed"));
                format!("`{}`: {}", command.join(" "), wrong.unwrap_or("failed").trim())
            }
        }
    }

    /// The epoch's advance follows on the signature; a fault may keep it from coming before the next one.
    fn await_epoch_after(&mut self, before: i64) -> Result<()> {
        let by = Instant::now() + EPOCH_PATIENCE;
        while self.scene.kms.epoch()? == before && Instant::now() < by {
            thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// A thread that comes back from a call closes its session, if it has one: until then the token counts that, and the
    /// next row would find a login that is there.
    fn await_session_end(&mut self) -> Result<()> {
        let by = Instant::now() + HANG_PATIENCE;
        let is_end = |call: &Call| call.function == "C_CloseSession";
        while !self.scene.faults()?.calls()?.iter().any(is_end) && Instant::now() < by {
            thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// The calls since the fault was set, as soon as the one that it is for is among them.
    fn calls_until_met(&mut self, row: &Row) -> Result<Vec<Call>> {
        let by = Instant::now() + PATIENCE;
        let mut calls = Vec::new();
        loop {
            calls.extend(self.scene.faults()?.calls()?);
            let met = calls.iter().filter(|call| call.function == row.function).count() as u64 >= row.call;
            // One that hangs is written down when it returns.
            if met || matches!(row.what, What::Hang) {
                return Ok(calls);
            }
            ensure!(Instant::now() < by, "the function was not called {} times: {calls:?}", row.call);
            thread::park_timeout(LOOK);
        }
    }

    /// The books: as many results as duties, none twice, and no key that nobody asked for.
    fn close(mut self) -> Result<()> {
        self.scene.faults()?.lift()?;
        self.sign()?;
        self.create_keys()?;
        let audit = self.scene.kms.audit()?;
        ensure!(
            (audit.intents, audit.results) == (self.signed, self.signed),
            "{} duties, but {} intents and {} results",
            self.signed,
            audit.intents,
            audit.results
        );
        let doctor = self.scene.kms.run(&["doctor", "--json"])?;
        ensure!(!doctor.contains("cut short"), "keys were left on the token:\n{doctor}");
        self.scene.kms.run(&["audit", "verify"])?;
        Ok(())
    }
}

/// What the driver did with the module after the call that failed.
fn reaction(row: &Row, calls: &[Call]) -> Result<&'static str> {
    if matches!(row.what, What::Hang) {
        return Ok("gave the call up");
    }
    let met = calls.iter().enumerate().filter(|(_, call)| call.function == row.function);
    let (place, _) = met.clone().nth(usize::try_from(row.call - 1)?).context("the call")?;
    let next: Vec<&str> = calls[place + 1..].iter().map(|call| call.function.as_str()).collect();
    let before_success = |wanted: &str| next.iter().take(30).any(|function| *function == wanted);
    if matches!(row.what, What::Delay(_)) {
        return Ok("waited");
    }
    Ok(if row.function != "C_Initialize" && before_success("C_Initialize") {
        "initialised the module anew"
    } else if row.function != "C_OpenSession" && before_success("C_OpenSession") {
        "opened a new session"
    } else if before_success(row.function) {
        "called again"
    } else {
        "went on"
    })
}

fn words(what: &What) -> String {
    match what {
        What::Answer(code) => code.clone(),
        What::AnswerDone(code) => format!("{code}, though it was done"),
        What::AnswerUnfinished(code) => format!("{code}, the operation left open"),
        What::Delay(milliseconds) => format!("takes {milliseconds} ms longer"),
        What::Hang => "hangs".into(),
        What::DropSession => "session closed before".into(),
        What::LogOut => "logged out before".into(),
        What::RemoveToken => "token taken out".into(),
        What::WrongSignature => "a wrong signature".into(),
    }
}

fn written(outcomes: &[Outcome]) -> String {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.reaction).or_insert(0) += 1;
    }
    let mut text = format!(
        "# The fault matrix\n\n\
         Written by `scripts/campaign faults`: what the KMS does about each return code of PKCS#11 that the standard lists \
         for a function that its driver calls, at the function's first and second call, and about faults without a return \
         code. There are {} rows. One daemon, with one session, lived through those of C_CreateObject and C_DestroyObject, \
         which follow on the advance of its epoch, and another one through all others. Every duty was signed, once.\n\n\
         - *what it did next*: with the module, after that call\n\
         - *what was said*: to the agent (\"retry\": it asks again by itself; \"person\": a person did what the message \
         says) or to the person at the command line, before it was done; nothing if the KMS mended it by itself\n\
         - *lifted*: how the next duty went, without a restart\n\n",
        outcomes.len()
    );
    for (reaction, count) in counts {
        let _ = writeln!(text, "- {count} rows: {reaction}");
    }
    text.push_str("\n| function | fault | call | what it did next | what was said | lifted |\n|---|---|---|---|---|---|\n");
    for Outcome { row, reaction, told, after } in outcomes {
        let told = told.replace('|', "/");
        let (function, what, call) = (row.function, words(&row.what), row.call);
        let _ = writeln!(text, "| {function} | {what} | {call} | {reaction} | {told} | {after} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_over_500_rows_and_each_is_one_that_a_script_can_say() {
        let rows = rows();
        assert!(rows.len() >= 500, "{} rows", rows.len());
        for row in &rows {
            let script = assent_hsm_mock::Script {
                faults: vec![Fault::of(row.function, row.what.clone()).on_call(row.call)],
                ..assent_hsm_mock::Script::new(Path::new("/module.so"))
            };
            script.check().unwrap_or_else(|error| panic!("{} {}: {error}", row.function, words(&row.what)));
        }
    }
}
