//! RESP: commands out, replies in, and the boundaries of commands in a stream.

mod encode;
mod reply;
mod scan;

pub use encode::{command, push_argument, push_header, push_length};
pub use reply::Reply;
pub use scan::{CommandScanner, MAX_COMMAND_ARGUMENTS, Scanned};

/// Why bytes are not the RESP they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespError {
    /// Byte offset in the stream at which it shows.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

impl std::fmt::Display for RespError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} at byte {}", self.reason, self.offset)
    }
}

impl std::error::Error for RespError {}

impl From<RespError> for crate::Error {
    fn from(error: RespError) -> Self {
        Self::damaged(error.to_string()).with_detail("offset", error.offset)
    }
}
