//! The domain of redkeep: identifiers, the manifest, tasks, decisions, and the traits that the other crates implement.
//!
//! Nothing here does IO, reads a clock or the environment, or depends on a runtime: time is an argument, decisions are
//! pure functions, and whatever touches the world stands behind a trait.

pub mod attribute;
pub mod boot;
pub mod catalog;
pub mod classify;
pub mod encoding;
pub mod facts;
pub mod identifier;
pub mod layout;
pub mod loaded;
pub mod managed;
pub mod manifest;
pub mod method;
pub mod progress;
pub mod provider;
pub mod redis;
pub mod relocate;
pub mod report_facts;
pub mod restore_plan;
pub mod retention;
pub mod schedule;
pub mod secret;
pub mod selection;
pub mod socket;
pub mod storage;
pub mod stream;
pub mod task;
pub mod units;

pub use attribute::Attribute;
pub use classify::{Class, Classify};
pub use jiff::Timestamp;
