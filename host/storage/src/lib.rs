//! Where backups live: a folder, memory, S3, Google Cloud Storage, Azure Blob Storage, and the layers over them.
//!
//! [`open`] turns an address into a storage, [`probe`] tries what one can do. Every provider passes the same
//! suite (feature `conformance`). Nothing here knows what a backup is: keys and bytes only.

#![warn(missing_docs)]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod fs;
pub mod key;
pub mod layer;
pub mod memory;
mod multipart;
pub mod object_store;
pub mod open;
pub mod probe;
mod range;
pub mod s3;
#[cfg(test)]
mod test_servers;

pub use fs::FolderStorage;
pub use memory::MemoryStorage;
pub use object_store::CloudStorage;
pub use open::open;
pub use probe::probe;
pub use s3::S3Storage;
