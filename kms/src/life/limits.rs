//! What a person limits a key to: dates, a count of uses in all, and a count in any stretch of time.

use std::fmt;
use std::str::FromStr;

use assent_consensus::json::{self, Integer};
use assent_consensus::time::{Millis, UnixMillis};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::moment::Moment;
use crate::pins::KeyState;

/// The limits of one version of a key. A *use* is what begins something: with an operational key a signature, with a
/// contract's key a request that it opens; what was begun is finished whatever the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Before this moment it is pre-activation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub activates: Option<UnixMillis>,
    /// From this moment on it is deactivated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deactivates: Option<UnixMillis>,
    /// After so many uses it is deactivated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uses: Option<Integer>,
    /// Above this rate a use is to be tried again later.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<Rate>,
}

/// So many uses in any stretch of so long. Its text form is `NUMBER/DURATION`, such as `100/1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    uses: u64,
    window: Millis,
}

/// The most uses that a rate counts: the moment of each is kept.
pub const RATE_USES_LIMIT: u64 = 100_000;

/// The text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no rate: write a number from 1 to {RATE_USES_LIMIT}, a slash and a duration, such as `100/1h`",
    .0.escape_debug()
)]
pub struct RateError(String);

/// What is to become of limits: of each, nothing where it is not named, none where it is `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    /// Another activation date.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub activates: Option<UnixMillis>,
    /// Another deactivation date, or none.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "named")]
    pub deactivates: Option<Option<UnixMillis>>,
    /// Another count of uses, or none.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "named")]
    pub uses: Option<Option<Integer>>,
    /// Another rate, or none.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "named")]
    pub rate: Option<Option<Rate>>,
}

/// Why limits are not those of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A date that would count at once, and for ever.
    #[error("{0} is past: a date must lie ahead, since what it brings about cannot be taken back")]
    Past(Moment),
    /// It would never be active.
    #[error("the key would be deactivated before it is active: `activates` must come before `deactivates`")]
    Order,
    /// It was active.
    #[error("the key is {0}: only one that was never active is given an activation date")]
    WasActive(KeyState),
    /// A version that a case made.
    #[error("the key became active as its transition says, and not by a date")]
    HasTransition,
    /// No way leads back.
    #[error("the key is {0}, and stays so: approve a `rotate-key` case to make its next version")]
    Ended(KeyState),
    /// It would be deactivated at once.
    #[error(
        "the key was used {used} times already: `uses` must be more, since a key that has none left is deactivated for ever"
    )]
    UsedUp {
        /// How often it was used.
        used: u64,
    },
}

/// Whose limits are to be others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited<'l> {
    pub limits: &'l Limits,
    /// The state at this moment.
    pub state: KeyState,
    /// Whether it is a version that genesis has, or will have.
    pub is_first: bool,
    /// How often it was used.
    pub used: u64,
}

impl Limited<'_> {
    /// A key that is only being made.
    pub(crate) const NEW: Limited<'static> =
        Limited { limits: &Limits::NONE, state: KeyState::PreActivation, is_first: true, used: 0 };
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits { activates: None, deactivates: None, uses: None, rate: None };

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Limits::NONE
    }

    /// Whether uses are counted.
    pub fn is_counted(&self) -> bool {
        self.uses.is_some() || self.rate.is_some()
    }

    /// Of how many uses the moment is kept: as many as the rate looks back on, and the last one, whose number is the count.
    pub(crate) fn kept_uses(&self) -> u64 {
        self.rate.map_or(1, Rate::uses)
    }

    /// Whether a key that was used so often may not be used any more.
    pub(crate) fn are_used_up(&self, used: u64) -> bool {
        self.uses.is_some_and(|uses| uses.get() <= used)
    }

    /// Those of the next version: it counts anew, and its dates are its own.
    pub(crate) fn of_next_version(&self) -> Limits {
        Limits { activates: None, deactivates: None, ..self.clone() }
    }

    /// Checks that a key that is in use may have these limits from `now` on.
    pub(crate) fn check(&self, before: Limited<'_>, now: UnixMillis) -> Result<(), LimitsError> {
        let Limited { limits, state, is_first, used } = before;
        if !matches!(state, KeyState::PreActivation | KeyState::Active | KeyState::Suspended) {
            return Err(LimitsError::Ended(state));
        }
        if self.activates != limits.activates {
            match state {
                KeyState::PreActivation if is_first => {}
                KeyState::PreActivation => return Err(LimitsError::HasTransition),
                state => return Err(LimitsError::WasActive(state)),
            }
        }
        for (date, before) in [(self.activates, limits.activates), (self.deactivates, limits.deactivates)] {
            match date {
                Some(date) if Some(date) != before && date <= now => {
                    return Err(LimitsError::Past(Moment(date)));
                }
                _ => {}
            }
        }
        if self.activates.zip(self.deactivates).is_some_and(|(activates, over)| over <= activates) {
            return Err(LimitsError::Order);
        }
        if self.are_used_up(used) { Err(LimitsError::UsedUp { used }) } else { Ok(()) }
    }
}

impl LimitsChange {
    /// What is left of `limits`, and what comes to it.
    pub(crate) fn of(&self, limits: &Limits) -> Limits {
        Limits {
            activates: self.activates.or(limits.activates),
            deactivates: self.deactivates.unwrap_or(limits.deactivates),
            uses: self.uses.unwrap_or(limits.uses),
            rate: self.rate.unwrap_or(limits.rate),
        }
    }
}

impl Rate {
    /// How many uses.
    pub const fn uses(self) -> u64 {
        self.uses
    }

    /// In how long.
    pub const fn window(self) -> Millis {
        self.window
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let read = || {
            let (uses, window) = text.split_once('/')?;
            let digits = uses.bytes().all(|byte| byte.is_ascii_digit()).then_some(uses)?;
            let uses = digits.parse().ok().filter(|uses| (1..=RATE_USES_LIMIT).contains(uses))?;
            Some(Rate { uses, window: window.parse().ok()? })
        };
        read().ok_or_else(|| RateError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.uses, self.window)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        json::read_text(deserializer, str::parse)
    }
}

/// A member that is named, also if it is `null`.
fn named<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use assent_consensus::json;

    use super::*;

    fn at(moment: u64) -> UnixMillis {
        UnixMillis::new(moment)
    }

    fn limits(text: &str) -> Limits {
        json::read(text.as_bytes()).expect("limits")
    }

    #[test]
    fn a_rate_is_a_number_and_a_duration() {
        let rate: Rate = "100/1h".parse().expect("a rate");
        assert_eq!(
            (rate.uses(), rate.window(), rate.to_string().as_str()),
            (100, Millis::from_secs(3_600), "100/1h")
        );
        for wrong in
            ["", "100", "100/", "/1h", "0/1h", "100001/1h", "+1/1h", "1/0h", "1/h", "1/1h/1h", "1.5/1h"]
        {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name_and_lifts_what_it_names_as_null() {
        let before = limits(r#"{"activates":1,"deactivates":9,"uses":5,"rate":"2/1h"}"#);
        let changed = |text: &str| json::read::<LimitsChange>(text.as_bytes()).expect("a change").of(&before);
        assert_eq!(changed("{}"), before);
        assert_eq!(
            changed(r#"{"deactivates":null,"uses":7,"rate":null}"#),
            limits(r#"{"activates":1,"uses":7}"#)
        );
        assert_eq!(changed(r#"{"activates":2}"#).activates, Some(at(2)));
        let written = json::write(&LimitsChange { rate: Some(None), ..LimitsChange::default() });
        assert_eq!(written, br#"{"rate":null}"#);
    }

    #[test]
    fn limits_that_would_end_a_key_at_once_or_give_it_another_past_are_refused() {
        use KeyState::{Active, Deactivated, PreActivation, Suspended};
        let before = limits(r#"{"deactivates":100}"#);
        let check = |new: &str, state, is_first| {
            let before = Limited { limits: &before, state, is_first, used: 3 };
            limits(new).check(before, at(50))
        };
        let past = |moment| Err(LimitsError::Past(Moment(at(moment))));
        for state in [PreActivation, Active, Suspended] {
            assert_eq!(check(r#"{"deactivates":51}"#, state, true), Ok(()));
            assert_eq!(check(r#"{"deactivates":50}"#, state, true), past(50));
            assert_eq!(check(r#"{"uses":4,"rate":"1/1s"}"#, state, true), Ok(()));
            assert_eq!(check(r#"{"uses":3}"#, state, true), Err(LimitsError::UsedUp { used: 3 }));
        }
        assert_eq!(check(r#"{"activates":60,"deactivates":100}"#, PreActivation, true), Ok(()));
        assert_eq!(check(r#"{"activates":50}"#, PreActivation, true), past(50));
        assert_eq!(
            check(r#"{"activates":60,"deactivates":60}"#, PreActivation, true),
            Err(LimitsError::Order)
        );
        assert_eq!(check(r#"{"activates":60}"#, PreActivation, false), Err(LimitsError::HasTransition));
        assert_eq!(check(r#"{"activates":60}"#, Active, true), Err(LimitsError::WasActive(Active)));
        for state in [Deactivated, KeyState::Compromised, KeyState::Destroyed] {
            assert_eq!(check(r#"{"deactivates":200}"#, state, true), Err(LimitsError::Ended(state)));
        }
    }

    #[test]
    fn the_next_version_counts_anew_and_has_no_dates() {
        let next = limits(r#"{"activates":1,"deactivates":9,"uses":5,"rate":"2/1h"}"#).of_next_version();
        assert_eq!(next, limits(r#"{"uses":5,"rate":"2/1h"}"#));
    }
}
