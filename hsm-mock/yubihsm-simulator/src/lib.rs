//! A YubiHSM 2 behind its connector, for tests: it speaks the connector's HTTP and the device's own protocol.
//!
//! ```text
//! host ─HTTP, 127.0.0.1─▶ connector ─▶ script (what goes wrong) ─▶ Device: sessions, objects, log
//! ```
//!
//! It was written after Yubico's documents and is driven by Yubico's own Python library in a test, so that what a program of
//! ours does with it is what it would do with a device. Where the documents leave something open, the code says "assumed".
//! It keeps keys in memory and is fit for nothing but tests.
//!
//! ```
//! use assent_yubihsm_simulator::{Settings, Simulator};
//!
//! let simulator = Simulator::start(Settings::default())?;
//! assert!(simulator.url().starts_with("http://127.0.0.1:"));
//! # Ok::<(), std::io::Error>(())
//! ```

#![forbid(unsafe_code)]

mod access;
mod attestation;
mod channel;
mod clock;
mod command;
mod connector;
mod device;
mod log;
mod object;
mod options;
mod script;
mod simulator;
mod store;
mod wire;
mod wrapping;

pub use access::{Capabilities, Domains};
pub use clock::Clock;
pub use command::Command;
pub use device::Firmware;
pub use log::LogEntry;
pub use script::{Fault, What};
pub use simulator::{DEFAULT_KEY, DEFAULT_PASSWORD, SessionCounts, Settings, Simulator};
pub use wire::ErrorCode;
