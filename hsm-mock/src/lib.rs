//! Assent.
