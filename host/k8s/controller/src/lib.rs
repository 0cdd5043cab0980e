//! The control plane: what is to be done for each custom resource. It decides, applies and reports, and moves no bytes.
//!
//! Every data task is handed to an [`executor::Executor`]; time, chance and concrete providers come from the composition root.

pub mod apply;
pub mod backup_method;
pub mod backup_storage;
pub mod clock;
pub mod common;
pub mod context;
pub mod decode;
pub mod events;
pub mod executor;
pub mod leader;
pub mod metrics;
pub mod outcome;
pub mod places;
pub mod preflight;
pub mod redis_backup;
pub mod redis_cluster;
pub mod redis_restore;
pub mod redis_scheduled_backup;
pub mod runtime;
pub mod server;
pub mod settings;
#[cfg(test)]
#[allow(dead_code, reason = "every helper serves the tests of some kind")]
mod testing;
pub mod timer;
