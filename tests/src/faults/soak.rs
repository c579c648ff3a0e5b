//! Signatures at full speed while faults come and go by chance: nothing is lost, nothing is signed twice, and what the
//! daemon takes (memory, threads, sessions, open files) is the same at the end as at the beginning.
//!
//! ```text
//! maker ── round of duties ──▶ callers ◀── answers ── KMS ── module ◀── faults, lifted half-way through each round
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use assent_hsm_mock::{Fault, SESSION_COUNT, What};

use super::scene::{Maker, Round, Scene, Taken};
use super::standard::{FUNCTIONS, Way, codes_of};
use crate::campaign::Campaign;
use crate::chance::Chance;
use crate::scripted::Equipment;

/// Duties of one round.
const ROUND: usize = 512;
/// Who asks at the same time.
const CALLERS: usize = 16;
/// How many sessions the KMS uses.
const SESSIONS: usize = 8;
const EQUIPMENT: Equipment =
    Equipment { sessions: SESSIONS, call_timeout: "500ms", epoch_signatures: 1_000, has_faults: true };
/// Faults are lifted when so many duties of a round are done, or after so long.
const UNDER_FAULTS: usize = ROUND / 2;
const FAULTS_LAST: Duration = Duration::from_secs(3);
/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(2);
/// How many signatures it takes until the KMS's memory of what was met of late is full, and does not grow any more.
const MEMORIES_FULL: u64 = 300_000;
/// What may be taken more at the end than after the first tenth: memory in percent, threads and files in number.
const MEMORY_ALLOWANCE: u64 = 10;
const NUMBER_ALLOWANCE: u64 = 4;
/// Into how many parts the time is cut in the report.
const PARTS: usize = 10;

/// Has at least `count` duties signed, for at least as long as `lasts`, under the faults that `seed` draws.
///
/// # Errors
/// There is no KMS to try anything with.
pub fn run(count: u64, lasts: Duration, seed: u64) -> Result<ExitCode> {
    let mut campaign = Campaign::new("faults", count);
    let (mut scene, maker) = Scene::start(EQUIPMENT, ROUND)?;
    let soak =
        Soak { chance: Chance::of(seed), samples: Vec::new(), said: BTreeMap::new(), drawn: BTreeMap::new() };
    match soak.run(&mut scene, maker, (count, lasts), &mut campaign) {
        Ok(()) => campaign.say("memory, threads, sessions and files stayed flat"),
        Err(error) => campaign.fail(seed, format!("{error:#}\n{}", scene.last_words())),
    }
    Ok(campaign.end())
}

struct Soak {
    chance: Chance,
    samples: Vec<Sample>,
    /// What the KMS said before it signed, and how often.
    said: BTreeMap<String, u64>,
    /// Which kinds of faults were drawn, and how often.
    drawn: BTreeMap<&'static str, u64>,
}

/// After a round.
struct Sample {
    after: Duration,
    signed: u64,
    taken: Taken,
    /// The most sessions that the token counted in the round.
    sessions: u64,
}

impl Soak {
    fn run(
        mut self,
        scene: &mut Scene,
        maker: Maker,
        (count, lasts): (u64, Duration),
        campaign: &mut Campaign,
    ) -> Result<()> {
        scene.faults_mut()?.write_down_calls_of(&[SESSION_COUNT])?;
        let begun = Instant::now();
        let mut signed = 0;
        thread::scope(|scope| {
            // One round is made while the one before is signed.
            let (give, rounds) = sync_channel::<Result<Round>>(1);
            let mut maker = maker;
            scope.spawn(move || while give.send(maker.round(ROUND)).is_ok() {});
            while signed < count || begun.elapsed() < lasts {
                let round = rounds.recv().context("no more rounds")??;
                signed += self.round(scene, &round)?;
                let sessions = self.sessions(scene)?;
                let taken = scene.taken()?;
                self.samples.push(Sample { after: begun.elapsed(), signed, taken, sessions });
                (0..round.duties.len()).for_each(|_| campaign.pass());
            }
            anyhow::Ok(())
        })?;
        self.report(campaign);
        self.check_books(scene, signed)?;
        self.check_flat()
    }

    /// Has one round signed, with faults in its first half.
    fn round(&mut self, scene: &Scene, round: &Round) -> Result<u64> {
        round.advance(&mut scene.kms.connect()?)?;
        let drawn = self.draw();
        scene.faults()?.set(drawn)?;
        let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let said = Mutex::new(Vec::new());
        // The faults are lifted by one who shares nothing with the callers but the script's file.
        let lift_at = Instant::now() + FAULTS_LAST;
        let call = || -> Result<()> {
            let mut connection = scene.kms.connect()?;
            while let Some(ready) = round.duties.get(next.fetch_add(1, Ordering::Relaxed)) {
                let signed = scene.sign(&mut connection, ready);
                let signed = signed.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                said.lock().unwrap_or_else(PoisonError::into_inner).extend(signed.before);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(call)).collect();
            while done.load(Ordering::Relaxed) < UNDER_FAULTS
                && Instant::now() < lift_at
                && !failed.load(Ordering::Relaxed)
            {
                thread::park_timeout(LOOK);
            }
            scene.faults()?.lift()?;
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?)
        })?;
        for said in said.into_inner().unwrap_or_else(PoisonError::into_inner) {
            *self.said.entry(said).or_insert(0) += 1;
        }
        Ok(round.duties.len() as u64)
    }

    fn draw(&mut self) -> Vec<Fault> {
        let chance = &mut self.chance;
        let (kind, faults) = match chance.between(1, 100) {
            1..=15 => ("none", Vec::new()),
            16..=65 => ("return codes", (0..chance.between(1, 3)).map(|_| code(chance)).collect()),
            66..=73 => ("sessions closed", vec![several(chance, Fault::of("C_SignInit", What::DropSession))]),
            74..=81 => ("logged out", vec![several(chance, Fault::of("C_SignInit", What::LogOut))]),
            82..=86 => ("token taken out", vec![once(chance, Fault::of("C_SignInit", What::RemoveToken))]),
            87..=91 => ("calls that hang", vec![several(chance, Fault::of("C_Sign", What::Hang))]),
            92..=96 => ("delays", vec![several(chance, Fault::of("C_Sign", What::Delay(20)))]),
            _ => ("a wrong signature", vec![once(chance, Fault::of("C_Sign", What::WrongSignature))]),
        };
        *self.drawn.entry(kind).or_insert(0) += 1;
        faults
    }

    fn sessions(&self, scene: &Scene) -> Result<u64> {
        let counts = scene.faults()?.calls()?;
        let count = |call: assent_hsm_mock::Call| u64::from_str_radix(&call.data?, 16).ok();
        // The module counts when a session is opened: where none was, there are those of the round before.
        let before = self.samples.last().map_or(0, |sample| sample.sessions);
        Ok(counts.into_iter().filter_map(count).max().unwrap_or(before))
    }

    fn check_books(&self, scene: &Scene, signed: u64) -> Result<()> {
        let audit = scene.kms.audit()?;
        let found = (audit.intents as u64, audit.results as u64);
        ensure!(
            found == (signed, signed),
            "{signed} duties, but {} intents and {} results",
            found.0,
            found.1
        );
        scene.kms.run(&["audit", "verify"])?;
        Ok(())
    }

    fn check_flat(&self) -> Result<()> {
        let part = self.samples.len().div_ceil(PARTS).max(1);
        let (Some(early), Some(late)) = (self.samples.chunks(part).nth(1), self.samples.chunks(part).last())
        else {
            return Ok(());
        };
        let (early, late) = (highest(early), highest(late));
        let memory = early.0.memory + early.0.memory * MEMORY_ALLOWANCE / 100;
        let is_full = self.samples.get(part).is_some_and(|sample| sample.signed >= MEMORIES_FULL);
        ensure!(
            !is_full || late.0.memory <= memory,
            "memory grew from {} to {} KiB",
            early.0.memory,
            late.0.memory
        );
        let grew = |early: u64, late: u64| late > early + NUMBER_ALLOWANCE;
        ensure!(
            !grew(early.0.threads, late.0.threads),
            "threads: {} and then {}",
            early.0.threads,
            late.0.threads
        );
        ensure!(!grew(early.0.files, late.0.files), "files: {} and then {}", early.0.files, late.0.files);
        let most = self.samples.iter().map(|sample| sample.sessions).max().unwrap_or(0);
        // Those of calls that hang are replaced before they end.
        ensure!(most <= 2 * SESSIONS as u64, "{most} sessions, where {SESSIONS} are configured");
        ensure!(!grew(early.1, late.1), "sessions: {} and then {}", early.1, late.1);
        Ok(())
    }

    fn report(&self, campaign: &Campaign) {
        let part = self.samples.len().div_ceil(PARTS).max(1);
        let mut before = (Duration::ZERO, 0);
        for part in self.samples.chunks(part) {
            let Some(last) = part.last() else { continue };
            let (taken, sessions) = highest(part);
            let rate = (last.signed - before.1) as f64 / (last.after - before.0).as_secs_f64();
            campaign.say(format!(
                "after {:.0} s: {} signed, {rate:.0} a second; at most {} KiB, {} threads, {} files, {sessions} sessions",
                last.after.as_secs_f64(),
                last.signed,
                taken.memory,
                taken.threads,
                taken.files,
            ));
            before = (last.after, last.signed);
        }
        let list = |counts: Vec<(String, u64)>| -> String {
            let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            counts.join(", ")
        };
        campaign.say(format!(
            "rounds by fault: {}",
            list(self.drawn.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect())
        ));
        campaign.say(format!(
            "said before a signature: {}",
            list(self.said.iter().map(|(what, count)| (what.clone(), *count)).collect())
        ));
    }
}

/// The most of everything.
fn highest(samples: &[Sample]) -> (Taken, u64) {
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    let taken = Taken {
        memory: most(|sample| sample.taken.memory),
        threads: most(|sample| sample.taken.threads),
        files: most(|sample| sample.taken.files),
    };
    (taken, most(|sample| sample.sessions))
}

/// A return code of the standard for a function that a signature calls, or may have to call again.
fn code(chance: &mut Chance) -> Fault {
    let functions: Vec<_> =
        FUNCTIONS.iter().filter(|of| matches!(of.way, Way::Sign | Way::Reopen | Way::Epoch)).collect();
    let function = *chance.one(&functions);
    let codes = codes_of(function);
    let code = (*chance.one(&codes)).to_owned();
    let what = match chance.between(1, 10) {
        // Of a session that is said to be gone nobody can know that it is not.
        _ if function.name == "C_CloseSession" && MEANS_CLOSED.contains(&code.as_str()) => {
            What::AnswerDone(code)
        }
        // A session that is opened, and yet is said not to be, is nobody's to close.
        1 if function.name != "C_OpenSession" => What::AnswerDone(code),
        2 => What::AnswerUnfinished(code),
        _ => What::Answer(code),
    };
    several(chance, Fault::of(function.name, what))
}

/// What a module says of a session that it has no more.
const MEANS_CLOSED: [&str; 4] = [
    "CKR_SESSION_CLOSED",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_DEVICE_REMOVED",
];

fn several(chance: &mut Chance, fault: Fault) -> Fault {
    let times = chance.between(1, 4);
    Fault { after: chance.between(0, 60), times: Some(times), ..fault }
}

fn once(chance: &mut Chance, fault: Fault) -> Fault {
    fault.on_call(chance.between(1, 60))
}
