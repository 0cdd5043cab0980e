//! What the author of a redkeep method plugin depends on.
//!
//! A method implements [`Method`] over a [`Host`] and calls [`export!`] on itself; the host is the WebAssembly
//! component's imports in a plugin and [`testing::FakeHost`] in its tests, so that a method is tested natively without
//! a runtime. Beside that: [`resp`] (commands and replies), [`rdb`] (a streaming parser of RDB files and what is made
//! of it).

#![warn(missing_docs)]

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod bindings;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

pub mod attribute;
pub mod context;
pub mod error;
pub mod host;
pub mod method;
pub mod parameters;
pub mod progress;
pub mod rdb;
pub mod resp;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use attribute::{Attribute, Facts};
pub use context::Context;
pub use error::{Error, code};
pub use host::{Artifact, Artifacts, Connection, Entry, Files, Host, Level, Redis, Replication, Sink, Socket, Source};
pub use method::{Info, Method};
pub use progress::Progress;

/// The chunk size that is fastest everywhere, in bytes (measured).
pub const CHUNK: u32 = 256 << 10;
