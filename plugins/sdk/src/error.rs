//! The error of the contract and its codes.

use crate::attribute::Attribute;

/// Error codes of the contract. A host treats a code that it does not know as `internal`.
pub mod code {
    /// Not granted to the plugin.
    pub const DENIED: &str = "denied";
    /// Parameters that the plugin refuses; one detail for each fault: JSON pointer and message.
    pub const INVALID_PARAMETERS: &str = "invalid-parameters";
    /// This run has no such thing, e.g. no server where the target is a directory.
    pub const NOT_SUPPORTED: &str = "not-supported";
    /// No such file, artifact, backlog.
    pub const NOT_FOUND: &str = "not-found";
    /// Waited for too long.
    pub const TIMEOUT: &str = "timeout";
    /// The server answered with an error; its text is the message.
    pub const SERVER_REPLY: &str = "server-reply";
    /// Reading from the source failed.
    pub const SOURCE_IO: &str = "source-io";
    /// Writing an artifact failed.
    pub const SINK_IO: &str = "sink-io";
    /// Writing to the target failed.
    pub const TARGET_IO: &str = "target-io";
    /// The bytes are not what they must be.
    pub const DAMAGED: &str = "damaged";
    /// Not done, and nothing was touched.
    pub const REFUSED: &str = "refused";
    /// The run is to stop: hand this error back.
    pub const CANCELLED: &str = "cancelled";
    /// A defect.
    pub const INTERNAL: &str = "internal";
}

/// Why an import or a method failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// One of [`code`].
    pub code: String,
    /// What failed, for the user: lower case, no final dot.
    pub message: String,
    /// The whole run may be tried again from nothing.
    pub retryable: bool,
    /// More of it. The key `help`, where present, is what the user can do.
    pub details: Vec<Attribute>,
}

impl Error {
    /// An error that is not worth a retry. `code` is one of [`code`].
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: false, details: Vec::new() }
    }

    /// Not done, and nothing was touched; `help` says what would work.
    pub fn refused(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(code::REFUSED, message).with_help(help)
    }

    /// The bytes are not what they must be.
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(code::DAMAGED, message)
    }

    /// The same, worth a retry of the whole run.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// With what the user can do.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        self.with_detail("help", help.into())
    }

    /// With one more detail.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl ToString) -> Self {
        self.details.push(Attribute::new(key, value));
        self
    }

    /// With the act in front of the message: `failed to read dump.rdb: …`. The code stays.
    #[must_use]
    pub fn during(mut self, act: &str) -> Self {
        self.message = format!("{act}: {}", self.message);
        self
    }

    /// Whether the error has this code.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// The value of a detail.
    pub fn detail(&self, key: &str) -> Option<&str> {
        crate::attribute::find(&self.details, key)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
