//! The KMS of Assent: it verifies every approval by itself before a key in the device signs.
//!
//! ```text
//! duty socket ─▶ duty (verification) ─▶ signing (intent on disk ─▶ device ─▶ verified ─▶ result on disk)
//!                    │                     │
//! admin socket ─▶ pins (genesis, keys, trusted headers)
//! ```

pub mod audit;
pub mod device;
pub mod duty;
pub mod pin;
pub mod pins;
pub mod signing;
pub mod store;
