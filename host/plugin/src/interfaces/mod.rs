//! The imported interfaces, one file each. Every function holds [`State::enter`](crate::state::State::enter) and asks
//! for its grant before anything else.

mod artifacts;
mod control;
mod files;
mod log;
mod pipe;
mod redis;
mod socket;
