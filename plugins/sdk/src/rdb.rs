//! RDB files: a streaming parser, and what is made of it.
//!
//! [`Parser`] takes any chunks and tells a [`Visitor`] what they hold; it keeps a header's bytes and a key, never a
//! value, so a file of any size and with any hostile length passes in constant memory. [`DatasetFacts`] and
//! [`Statistics`] are visitors that count, [`restore`] is the one that turns values into commands. [`ValueDecoder`]
//! looks inside one value.

mod carry;
mod crc64;
mod element;
mod entry_ids;
mod facts;
mod format;
pub mod glob;
mod lzf;
mod machine;
mod node;
mod output;
mod packed;
mod parser;
mod rebuild;
pub mod restore;
mod role;
mod statistics;
mod value;

pub use crc64::Crc64;
pub use element::Element;
pub use facts::{DatabaseCounts, DatasetFacts};
pub use format::{Header, Magic, ValueType, checksum, module_name, rdb_version_of_server};
pub use lzf::Lzf;
pub use node::Fields;
pub use packed::PackedError;
pub use parser::{Checksum, Entry, MAX_HELD_KEY, MAX_HELD_LIBRARY, Parser, Visitor};
pub use statistics::{Statistics, StatisticsOptions};
pub use value::ValueDecoder;

/// Why bytes are not the RDB they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdbError {
    /// Byte offset at which it shows.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
    /// The file is whole, but made by a newer server than this parser knows.
    pub unsupported: bool,
}

impl RdbError {
    pub(crate) fn new(offset: u64, reason: impl Into<String>) -> Self {
        Self { offset, reason: reason.into(), unsupported: false }
    }
}

impl std::fmt::Display for RdbError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} at byte {} of the RDB", self.reason, self.offset)
    }
}

impl std::error::Error for RdbError {}

impl From<RdbError> for crate::Error {
    fn from(error: RdbError) -> Self {
        let code = if error.unsupported { crate::code::NOT_SUPPORTED } else { crate::code::DAMAGED };
        Self::new(code, error.to_string()).with_detail("offset", error.offset)
    }
}
