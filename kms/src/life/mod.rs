//! The life of a key: what time and use make of its state, by the KMS's own clock.
//!
//! ```text
//! on record ─▶ moves: activation date, deactivation date, uses used up, end of what a rotated version had begun ─▶ state now
//!                └─▶ watch: each is put on record soon after, with an entry in the audit log, and announced before
//! ```
//!
//! Whoever asks for a key's state gets the one of that moment, whether it is on record yet or not. What is on record is not
//! taken back, also if the clock is.

mod limits;
#[cfg(test)]
mod tests;
mod watch;

use assent_consensus::message::KeyTransition;
use assent_consensus::time::UnixMillis;

use crate::audit::{Entry, LoggedKey};
use crate::pins::KeyState;
use crate::store::{Batch, KeyRow, StoreError};

pub(crate) use limits::Limited;
pub use limits::{Limits, LimitsChange, LimitsError, RATE_USES_LIMIT, Rate, RateError};
#[cfg(test)]
pub(crate) use watch::look;
pub use watch::{keep_watch, notice};

/// What time or use makes of a state.
struct Move {
    from: KeyState,
    to: KeyState,
    why: &'static str,
}

/// The state of a key at `now`, on record or not. `next` is the transition to its next version.
pub(crate) fn state(row: &KeyRow, next: Option<&KeyTransition>, now: UnixMillis) -> KeyState {
    moves(row, next, now).last().map_or(row.state, |last| last.to)
}

/// When a key is to be deactivated, by its date or because another version follows it; nothing if it is already, or if that
/// is open.
pub(crate) fn end(row: &KeyRow, next: Option<&KeyTransition>) -> Option<UnixMillis> {
    let is_alive = matches!(row.state, KeyState::PreActivation | KeyState::Active | KeyState::Suspended);
    let ends = [row.limits.deactivates, next.map(|next| next.old_retires)].into_iter().flatten();
    ends.min().filter(|_| is_alive)
}

/// What has become of a key's recorded state until `now`, step by step.
fn moves(row: &KeyRow, next: Option<&KeyTransition>, now: UnixMillis) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut from = row.state;
    // Each step leads on in a life that has no circles.
    while let Some((to, why)) = step(from, row, next, now) {
        moves.push(Move { from, to, why });
        from = to;
    }
    moves
}

fn step(
    state: KeyState,
    row: &KeyRow,
    next: Option<&KeyTransition>,
    now: UnixMillis,
) -> Option<(KeyState, &'static str)> {
    let is_past = |moment: Option<UnixMillis>| moment.is_some_and(|moment| moment <= now);
    match state {
        // Pinning is what activates it; its date only puts that off.
        KeyState::PreActivation if row.activated.is_some() && is_past(row.limits.activates) => {
            Some((KeyState::Active, "its activation date came"))
        }
        KeyState::Active | KeyState::Suspended => {
            let why = if is_past(row.limits.deactivates) {
                "its deactivation date came"
            } else if row.limits.are_used_up(row.used) {
                "its uses are used up"
            } else if is_past(next.map(|next| next.old_retires)) {
                "what it had begun is over"
            } else {
                return None;
            };
            Some((KeyState::Deactivated, why))
        }
        _ => None,
    }
}

/// Puts on record what has become of a key; its state then.
pub(crate) fn record(batch: &mut Batch<'_>, row: &KeyRow, at: UnixMillis) -> Result<KeyState, StoreError> {
    let successions = batch.store().successions()?;
    let mut state = row.state;
    for Move { from, to, why } in moves(row, successions.after(&row.name, row.version), at) {
        batch.set_key_state(&row.name, row.version, to, at)?;
        let key = LoggedKey::new(&row.name, row.version);
        let (from, becomes) = (from.to_string(), to.to_string());
        batch.append(&Entry::KeyState { at, by: None, key, from, to: becomes, why: why.into() })?;
        state = to;
    }
    Ok(state)
}
