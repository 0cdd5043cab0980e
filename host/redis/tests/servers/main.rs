//! The crate against real servers of every version. One binary, so that it links once.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail loudly too")]

mod access;
mod boot;
mod discovery;
mod load;
mod replication;
mod socket;
mod support;
