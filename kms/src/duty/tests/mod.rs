//! Every check before a signature, each with the duty that only this check refuses. Most of these duties could come only
//! from a node that has its validator's key: its log says what it likes, and nothing is signed for it all the same.

mod actions;
mod batches;
mod books;
mod decisions;
mod fence;
mod finality;
mod log;
mod policies;
mod vote_requests;
mod world;
