//! Layers: what can be put over any storage. Each is itself a storage, so they stack in any order.
//!
//! Layers that watch or disturb single calls implement [`Intercept`] and are put on by [`Intercepted`]; those that
//! change what calls mean (`retry`, `prefix`, `dry_run`) implement the traits themselves.

pub mod delay;
pub mod dry_run;
pub mod fault;
pub mod intercept;
pub mod limit;
pub mod metrics;
pub mod prefix;
pub mod retry;
#[cfg(test)]
mod tests;
pub mod throttle;

pub use intercept::{Intercept, Intercepted, Operation, Span};
