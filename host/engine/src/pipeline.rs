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
mod payload;
mod seal;
mod sink;
mod stored;
mod unpack;
mod upload;

pub use capture::{CaptureOptions, CaptureStore};
pub use error::PipelineError;
pub(crate) use feed::try_spool;
pub(crate) use fetch::check_sizes;
pub use keys::{Keys, Recipients};
pub(crate) use part_table::{SUFFIX as PART_TABLE_SUFFIX, parse as read_part_table, to_bytes as write_part_table};
pub use stored::{StoredStore, verify_stored};

#[cfg(test)]
mod tests;
