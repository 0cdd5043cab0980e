//! The task engine: backup, restore, verify, prune; everything between plugin and storage.
//!
//! [`run`] takes a [`redkeep_core::task::TaskSpec`] and always answers with a report; the command line calls one function a task
//! kind (`backup::backup`, `restore::restore`, …) for typed results. Nothing here names a provider, reads a clock or the environment.

pub mod backup;
pub mod cat;
pub mod catalog;
pub mod check;
pub mod copy;
pub mod delete;
pub mod error;
pub mod events;
pub mod find;
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod list;
pub mod load;
pub mod parts;
pub mod pin;
pub mod pipeline;
pub mod probe;
pub mod prune;
pub mod report;
pub mod restore;
pub mod verify;
pub mod watch;

mod attempt;
mod cancel;
mod clock;
mod cover;
mod index;
mod kept_plugin;
mod object;
mod opened;
mod presence;
mod spool;

pub use error::EngineError;
pub use report::run;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
