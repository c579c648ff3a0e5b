//! Every move from each state to each other one, by every cause that can ask for it: what `LIFE-CYCLE.md` shows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use assent_consensus::message::TransitionReason;

use super::*;
use crate::testing::{DAY, NOW, OVERLAP, destruction, rotation};

const TABLE: &str = include_str!("../../../LIFE-CYCLE.md");

/// What may move a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Date,
    Limit,
    Approval,
    Hand,
}

/// A key in one of the states, to which only legal moves have led.
struct Life {
    kms: SmallKms,
    from: KeyState,
    version: KeyVersion,
}

impl Life {
    async fn brought_to(from: KeyState) -> Life {
        let kms = match from {
            KeyState::PreActivation => SmallKms::made(Limits::NONE).await,
            _ => SmallKms::pinned().await,
        };
        let life = Life { kms, from, version: KeyVersion::first() };
        let admin = life.kms.admin();
        match from {
            KeyState::PreActivation | KeyState::Active => {}
            KeyState::Suspended => drop(admin.suspend(release(), None, PERSON).await.expect("legal")),
            KeyState::Deactivated => {
                life.kms.limit(&format!(r#"{{"deactivates":{}}}"#, NOW + 1)).await.expect("ahead");
                life.kms.live_until(1).await;
            }
            KeyState::Compromised => drop(admin.compromised(release(), None, PERSON).await.expect("legal")),
            KeyState::Destroyed => {
                admin.compromised(release(), None, PERSON).await.expect("legal");
                life.kms.changes().destroy(destruction(100, &release(), life.version)).await.expect("legal");
            }
        }
        assert_eq!(life.state(), from);
        life
    }

    fn state(&self) -> KeyState {
        self.kms.state(self.version)
    }

    /// Has a cause ask for a state, as far as there is a way to ask; what came of it.
    async fn asked(cause: Cause, from: KeyState, to: KeyState) -> Option<KeyState> {
        let mut life = Life::brought_to(from).await;
        match cause {
            Cause::Date => life.by_date(to).await?,
            Cause::Limit => life.by_limit(to).await?,
            Cause::Approval => life.by_approval(to).await?,
            Cause::Hand => life.by_hand(to).await?,
        }
        let state = life.state();
        life.kms.settled().await;
        life.kms.verify_log();
        let restarted = Life { kms: life.kms.restart(), ..life };
        assert_eq!(restarted.state(), state, "it is so after a restart");
        Some(state)
    }

    async fn by_date(&mut self, to: KeyState) -> Option<()> {
        let date = (self.kms.clock())().get() + 10;
        let change = match to {
            KeyState::Active => format!(r#"{{"activates":{date}}}"#),
            KeyState::Deactivated => format!(r#"{{"deactivates":{date}}}"#),
            _ => return None,
        };
        // It may be refused, and then nothing is to come of it.
        let limited = self.kms.limit(&change).await;
        if limited.is_ok() && (self.from, to) == (KeyState::PreActivation, KeyState::Active) {
            self.kms.pin().await.expect("pinned");
            assert_eq!(self.state(), self.from, "not before its date");
        }
        self.kms.live_until(date - NOW).await;
        Some(())
    }

    async fn by_limit(&mut self, to: KeyState) -> Option<()> {
        match to {
            // More uses than there were, or no limit.
            KeyState::Active => drop(self.kms.limit(r#"{"uses":null,"rate":null}"#).await),
            KeyState::Deactivated => {
                let _ = self.kms.limit(r#"{"uses":1}"#).await;
                let _ = self.kms.signing.sign(action(1)).await;
            }
            _ => return None,
        }
        let now = (self.kms.clock())().get() - NOW;
        self.kms.live_until(now).await;
        Some(())
    }

    async fn by_approval(&mut self, to: KeyState) -> Option<()> {
        let changes = self.kms.changes();
        match (self.from, to) {
            // The version that the rotation makes.
            (KeyState::PreActivation, KeyState::Active) => {
                self.kms.pin().await.expect("pinned");
                self.version = self.version.next();
                self.kms.token.token().gone_after = Some(2);
                changes.rotate(rotation(1, TransitionReason::Rotation)).await.expect_err("cut short");
                self.kms.token.token().gone_after = None;
                self.kms.token.token().is_gone = false;
                assert_eq!(self.state(), self.from);
                // The pool looks for the token again by itself.
                let deadline = Instant::now() + Duration::from_secs(10);
                while changes.rotate(rotation(1, TransitionReason::Rotation)).await.is_err() {
                    assert!(Instant::now() < deadline, "the rotation does not go on");
                    tokio::task::yield_now().await;
                }
            }
            (_, KeyState::Active) => drop(changes.rotate(rotation(1, TransitionReason::Rotation)).await),
            (_, KeyState::Compromised) => {
                drop(changes.rotate(rotation(1, TransitionReason::Compromise)).await)
            }
            (_, KeyState::Deactivated) => {
                let _ = changes.rotate(rotation(1, TransitionReason::Rotation)).await;
                self.kms.live_until(OVERLAP + DAY).await;
            }
            (KeyState::PreActivation, KeyState::Destroyed) => {
                self.kms.limit(&format!(r#"{{"activates":{}}}"#, NOW + DAY)).await.expect("ahead");
                self.kms.pin().await.expect("pinned");
                assert_eq!(self.state(), self.from);
                changes.destroy(destruction(1, &release(), self.version)).await.expect("legal");
            }
            (_, KeyState::Destroyed) => drop(changes.destroy(destruction(1, &release(), self.version)).await),
            _ => return None,
        }
        Some(())
    }

    async fn by_hand(&mut self, to: KeyState) -> Option<()> {
        let admin = self.kms.admin();
        let moved = match (self.from, to) {
            (KeyState::PreActivation, KeyState::Active) => {
                admin.resume(release(), None, PERSON).await.expect_err("only by being pinned");
                self.kms.pin().await
            }
            (_, KeyState::Active) => admin.resume(release(), None, PERSON).await.map(drop),
            (_, KeyState::Suspended) => admin.suspend(release(), None, PERSON).await.map(drop),
            (_, KeyState::Compromised) => admin.compromised(release(), None, PERSON).await.map(drop),
            _ => return None,
        };
        assert_eq!(moved.is_ok(), self.from.may_become(to), "{} to {to} by hand: {moved:?}", self.from);
        Some(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cause_moves_a_key_where_its_life_leads_and_nowhere_else() {
    let mut table = String::new();
    for from in KeyState::ALL {
        for to in KeyState::ALL {
            let mut line = format!("| {from} | {to} |");
            let mut has_moved = false;
            let asked = |cause| Life::asked(cause, from, to);
            let became = tokio::join!(
                asked(Cause::Date),
                asked(Cause::Limit),
                asked(Cause::Approval),
                asked(Cause::Hand)
            );
            for state in <[Option<KeyState>; 4]>::from(became) {
                let cell = match state {
                    None => "–",
                    Some(state) if state == to && from != to => "moves",
                    Some(state) if state == from => "stays",
                    Some(state) => panic!("{from} became {state} when something asked for {to}"),
                };
                has_moved |= cell == "moves";
                let _ = write!(line, " {cell} |");
            }
            assert_eq!(has_moved, from.may_become(to), "{from} to {to}: {line}");
            let _ = writeln!(table, "{line}");
        }
    }
    assert!(TABLE.contains(&table), "kms/LIFE-CYCLE.md is to show this:\n{table}");
}
