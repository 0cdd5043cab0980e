//! RESP: commands out, replies in, and the boundaries of commands in a stream.
//!
//! [`command`] writes what `redis.load` takes, [`Reply`] reads what `redis.command` returns, and [`CommandScanner`] finds
//! where commands begin in a stream that comes in any chunks:
//!
//! ```
//! use redkeep_sdk::resp::{self, Reply};
//!
//! let mut commands = Vec::new();
//! resp::command(&mut commands, &[b"SET", b"key", b"any\r\nbytes"]);
//! assert_eq!(commands, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\nany\r\nbytes\r\n");
//!
//! // An argument whose bytes come later, piece by piece: its length first.
//! let mut large = Vec::new();
//! resp::push_header(&mut large, 4);
//! for argument in [&b"RESTORE"[..], b"key", b"0"] {
//!     resp::push_argument(&mut large, argument);
//! }
//! resp::push_length(&mut large, 3 << 30);
//!
//! let reply = Reply::parse(b"*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n")?;
//! assert_eq!(reply.elements()[1].text(), Some("no"));
//! // What is no whole reply is an error that names the byte, and turns into the contract's error by `?`.
//! assert_eq!(Reply::parse(b"$5\r\nab").unwrap_err().to_string(), "a bulk reply cut short at byte 0");
//! # Ok::<(), redkeep_sdk::Error>(())
//! ```

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
