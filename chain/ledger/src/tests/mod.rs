//! Whole ledgers, by what they promise.

mod recording;
