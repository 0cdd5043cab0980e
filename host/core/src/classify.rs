//! What an error means to the one who must act on it: exit code, stable reason, whether to try again, what to do.

use serde::{Deserialize, Serialize};

/// The kinds of failure that a user or a script tells apart; each is an exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The act failed: network, server, plugin, disk.
    Failed,
    /// What was asked for is not well-formed.
    Usage,
    /// A stored backup, or the storage itself, is damaged.
    Damaged,
    /// No such backup, method, artifact, storage.
    NotFound,
    /// Refused before anything was touched; another way may work.
    Refused,
}

impl Class {
    /// The exit code of the command line (DESIGN 6).
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damaged => 3,
            Self::NotFound => 4,
            Self::Refused => 5,
        }
    }
}

/// Implemented by every error that may reach a user.
pub trait Classify: std::error::Error {
    /// The kind of failure.
    fn class(&self) -> Class;
    /// A stable word in `CamelCase`, the same in conditions, events, metrics and JSON output.
    fn reason(&self) -> &'static str;
    /// Whether the same act may succeed when tried again unchanged.
    fn retryable(&self) -> bool {
        false
    }
    /// What the user can do, as one sentence; printed on the `help:` line.
    fn help(&self) -> Option<String> {
        None
    }
}

/// An error with its causes, outermost first, in one line; a cause that the text ends with already is not said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
