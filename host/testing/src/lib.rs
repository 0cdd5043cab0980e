//! Real servers, workloads and comparisons for tests; a dev-dependency only.
//!
//! Everything started here is stopped on drop, by its own process id, and listens on loopback only.

// Test support panics with a message rather than carrying errors around.
#![expect(clippy::missing_panics_doc, clippy::expect_used, reason = "test support fails loudly")]

pub mod dataset;
pub mod gateway;
pub mod server;
pub mod topology;
pub mod workload;
