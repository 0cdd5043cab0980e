//! Between a plugin and the storage: digests, compression, encryption, spool, part tables; and the same way back, checked.
//!
//! Writing: `plugin -> sha256(plain) -> compress -> encrypt -> sha256(stored) -> upload` ([`CaptureStore`]).
//! Reading: `ranged reads -> sha256 of each part -> decrypt -> decompress -> sha256(plain)` ([`StoredStore`]).
//! What is stored is described in `docs/format.md`; nothing here knows manifests, plugins or Redis.

mod capture;
mod decode;
mod digest;
mod encode;
mod entries;
mod error;
mod failure;
mod feed;
mod fetch;
mod frame;
mod keys;
mod part_table;
mod seal;
mod sink;
mod stored;
mod upload;

pub use capture::{CaptureOptions, CaptureStore};
pub use error::PipelineError;
pub(crate) use feed::try_spool;
pub(crate) use fetch::check_sizes;
pub use keys::{Keys, Recipients};
pub use stored::{StoredStore, verify_stored};

#[cfg(test)]
mod tests;
