//! Options that limit a key.

use std::str::FromStr;

use assent_consensus::json::Integer;
use clap::Args;

use super::screen::Failure;
use crate::life::{Limits, LimitsChange, Rate};
use crate::moment::Moment;

/// Limits of a new key.
#[derive(Args)]
pub(super) struct NewLimits {
    /// Have it sign nothing before this moment, such as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    activates: Option<Moment>,
    /// Have it sign nothing new from this moment on
    #[arg(long, value_name = "TIME")]
    deactivates: Option<Moment>,
    /// Have it used no more than so often: a signature of an operational key, a request that a contract opens
    #[arg(long, value_name = "NUMBER")]
    uses: Option<u64>,
    /// Have it used no more than so often in any stretch of so long, such as 100/1h
    #[arg(long, value_name = "NUMBER/DURATION")]
    rate: Option<Rate>,
}

/// Other limits of a key; what is not named stays.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct OtherLimits {
    /// Have it sign nothing before this moment; only for a key that was not active yet
    #[arg(long, value_name = "TIME")]
    activates: Option<Moment>,
    /// Have it sign nothing new from this moment on
    #[arg(long, value_name = "TIME|none")]
    deactivates: Option<OrNone<Moment>>,
    /// Have it used no more than so often in all, since it was made
    #[arg(long, value_name = "NUMBER|none")]
    uses: Option<OrNone<u64>>,
    /// Have it used no more than so often in any stretch of so long, such as 100/1h
    #[arg(long, value_name = "NUMBER/DURATION|none")]
    rate: Option<OrNone<Rate>>,
}

/// A value, or the word `none`.
#[derive(Clone)]
struct OrNone<T>(Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<OrNone<T>, T::Err> {
        let value = if text == "none" { None } else { Some(text.parse()?) };
        Ok(OrNone(value))
    }
}

impl NewLimits {
    pub(super) fn read(self) -> Result<Limits, Failure> {
        Ok(Limits {
            activates: self.activates.map(|moment| moment.0),
            deactivates: self.deactivates.map(|moment| moment.0),
            uses: self.uses.map(count).transpose()?,
            rate: self.rate,
        })
    }
}

impl OtherLimits {
    pub(super) fn read(self) -> Result<LimitsChange, Failure> {
        let uses = self.uses.map(|OrNone(uses)| uses.map(count).transpose());
        Ok(LimitsChange {
            activates: self.activates.map(|moment| moment.0),
            deactivates: self.deactivates.map(|OrNone(moment)| moment.map(|moment| moment.0)),
            uses: uses.transpose()?,
            rate: self.rate.map(|OrNone(rate)| rate),
        })
    }
}

fn count(uses: u64) -> Result<Integer, Failure> {
    let count = Integer::new(uses).filter(|count| count.get() > 0);
    count.ok_or_else(|| {
        Failure::usage(format!("`{uses}` is no count of uses: give a number from 1 to 2^53 - 1"))
    })
}
