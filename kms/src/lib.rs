//! The KMS of Assent: it verifies every approval by itself before a key in the device signs.
//!
//! ```text
//! duty socket ─▶ duty (verification) ─▶ signing (intent on disk ─▶ device ─▶ verified ─▶ result on disk)
//!                    │                     │
//! admin socket ─▶ pins (genesis, keys, trusted headers)
//! ```

pub mod admin;
mod announced;
pub mod audit;
pub mod changes;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod device;
pub mod device_log;
pub mod doctor;
pub mod duty;
pub mod epoch;
mod generation;
mod isolation;
pub mod life;
pub mod metrics;
pub mod moment;
pub mod pin;
pub mod pins;
mod presence;
mod recent;
pub mod reload;
pub mod restore;
pub mod signing;
pub mod sockets;
pub mod store;
mod tally;
mod tls_expiry;
pub mod tls_socket;
mod trial;
mod whole_file;

#[cfg(test)]
mod testing;
