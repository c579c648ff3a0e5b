//! Whole-system tests of Assent: what they share.
//!
//! | module | what it is |
//! |---|---|
//! | [`bench`] | what Assent costs, against loops that do the same cryptography and nothing else |
//! | [`campaign`] | counts what passed and failed in a long hunt, and prints how to repeat a failure |
//! | [`chance`] | numbers by chance that a seed repeats |
//! | [`crash`] | the hunt for what `kill -9` of node or KMS breaks |
//! | [`deployment`] | a whole deployment of the real programs: token, KMS, node, people |
//! | [`faults`] | the hunt for what a device that fails does to the KMS |
//! | [`metrics`] | the KMS's metrics, read by a parser that is not ours |
//! | [`program`] | where the real programs are |
//! | [`rotation`] | the hunt for what the replacing of keys breaks in cases that are under way |
//! | [`rules`] | the hunt for policies whose ballots two evaluators count differently |
//! | [`scripted`] | a second implementation of the agent's side, which a test can make hostile |
//! | [`second_verifier`] | the script that checks bundles with a stock JOSE library |

pub mod bench;
pub mod campaign;
pub mod chance;
pub mod crash;
pub mod deployment;
pub mod faults;
pub mod metrics;
pub mod program;
pub mod rotation;
pub mod rules;
pub mod scripted;
pub mod second_verifier;
