//! Instances with real servers on loopback; the API server and the operator are played by the test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

mod append_only;
mod boot;
mod edges;
mod fencing;
mod hand_over;
mod life;
mod passwords;
mod rig;
