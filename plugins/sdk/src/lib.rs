//! What the author of a redkeep method plugin depends on.
//!
//! A method implements [`Method`] over a [`Host`] and calls [`export!`] on itself; the host is the WebAssembly
//! component's imports in a plugin and [`testing::FakeHost`] in its tests, so that a method is tested natively without
//! a runtime. Beside that: [`resp`] (commands and replies), [`rdb`] (a streaming parser of RDB files and what is made
//! of it).
//!
//! A method, whole, with its test (`plugins/example-raw` is one to copy):
//!
//! ```
//! use redkeep_sdk::testing::FakeHost;
//! use redkeep_sdk::{Attribute, Error, Facts, Host, Info, Method};
//!
//! struct OneFile;
//!
//! impl Method for OneFile {
//!     fn describe() -> Info {
//!         Info {
//!             name: "one-file".to_owned(),
//!             version: "0.1.0".to_owned(),
//!             summary: "The ACL file of a data directory".to_owned(),
//!             parameters_schema: r#"{"type": "object", "additionalProperties": false}"#.to_owned(),
//!             requests: vec!["?files:read:users.acl".to_owned(), "?files:write:users.acl".to_owned()],
//!             attributes: vec![Attribute::new("targets", "directory"), Attribute::new("reads", "acl-file")],
//!         }
//!     }
//!     fn validate(_parameters: &str) -> Result<(), Error> {
//!         Ok(())
//!     }
//!     fn plan(_host: &dyn Host) -> Result<Facts, Error> {
//!         Ok(Facts::new())
//!     }
//!     fn capture(host: &dyn Host) -> Result<Facts, Error> {
//!         let mut source = host.files().open("users.acl")?;
//!         let mut sink = host.artifacts().create("users.acl", &[Attribute::new("type", "acl-file")])?;
//!         let mut facts = Facts::new();
//!         facts.set("bytes", host.splice(source.as_mut(), sink.as_mut(), None)?);
//!         sink.finish(&[])?;
//!         Ok(facts)
//!     }
//!     fn restore(host: &dyn Host) -> Result<Facts, Error> {
//!         let mut source = host.artifacts().open("users.acl")?;
//!         let mut sink = host.files().create("users.acl")?;
//!         host.splice(source.as_mut(), sink.as_mut(), None)?;
//!         sink.finish(&[]).map(|_| Facts::new())
//!     }
//!     fn verify(host: &dyn Host) -> Result<Facts, Error> {
//!         let mut source = host.artifacts().open("users.acl")?;
//!         while !source.read(redkeep_sdk::CHUNK)?.is_empty() {}
//!         let mut facts = Facts::new();
//!         facts.set("bytes", source.position());
//!         Ok(facts)
//!     }
//!     fn inspect(_host: &dyn Host, _query: &str) -> Result<String, Error> {
//!         Ok("{}".to_owned())
//!     }
//! }
//!
//! redkeep_sdk::export!(OneFile);
//!
//! # fn main() -> Result<(), Error> {
//! let host = FakeHost::with_context("capture", &[]).with_files([("users.acl", b"user default on\n".to_vec())]);
//! let facts = OneFile::capture(&host)?;
//! assert_eq!(host.artifact("users.acl").as_deref(), Some(&b"user default on\n"[..]));
//! assert_eq!(OneFile::verify(&host)?, facts);
//!
//! // A read that fails must fail the backup, and leave no artifact.
//! let broken = FakeHost::with_context("capture", &[]).with_files([("users.acl", vec![b'x'; 100])]);
//! broken.inject("users.acl", 50, Error::new(redkeep_sdk::code::SOURCE_IO, "disk gone"));
//! assert!(OneFile::capture(&broken).is_err());
//! assert!(broken.artifacts.borrow().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! **Panics**: `export!` installs a hook in every call, so that a panic's message and place become the error that the user
//! sees (`plugin panicked: panicked at src/lib.rs:15:7: …`); without it a trap says nothing. A panic is still a defect:
//! return an [`Error`].

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
pub mod time;

pub use attribute::{Attribute, Facts};
pub use context::Context;
pub use error::{Error, code};
pub use host::{Artifact, Artifacts, Connection, Entry, Files, Host, Level, Redis, Replication, Sink, Socket, Source};
pub use method::{Info, Method};
pub use progress::Progress;

/// The chunk size that is fastest everywhere, in bytes (measured).
pub const CHUNK: u32 = 256 << 10;
