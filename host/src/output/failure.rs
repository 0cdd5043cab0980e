//! The one error of the command line: what every other error becomes on its way to the user and to the exit code.

use std::error::Error;
use std::fmt::Write;

use redkeep_core::classify::{Class, Classify};
use serde::Serialize;

/// Exit code when the reader of standard output has left, as a shell sees a process that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// The kind.
    pub(crate) class: Class,
    /// A stable word.
    pub(crate) reason: String,
    /// What failed.
    pub(crate) message: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What the user can do.
    pub(crate) help: Option<String>,
    /// Whether the same act may succeed when tried again.
    pub(crate) retryable: bool,
    #[serde(skip)]
    exit: Option<u8>,
    #[serde(skip)]
    silent: bool,
}

impl Failure {
    /// A failure of a kind.
    pub(crate) fn new(class: Class, reason: &str, message: impl Into<String>) -> Self {
        Self {
            class,
            reason: reason.to_owned(),
            message: message.into(),
            causes: Vec::new(),
            help: None,
            retryable: false,
            exit: None,
            silent: false,
        }
    }

    /// What was asked for is not well-formed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, "Usage", message)
    }

    /// The act failed.
    pub(crate) fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Class::Failed, reason, message)
    }

    /// The reader of standard output has left; nothing is printed.
    pub(crate) fn broken_pipe() -> Self {
        let mut failure = Self::failed("OutputClosed", "standard output was closed by its reader");
        failure.exit = Some(BROKEN_PIPE);
        failure.silent = true;
        failure
    }

    /// Stopped by a signal: the exit code is 128 and its number.
    pub(crate) fn interrupted(signal: u8, message: impl Into<String>) -> Self {
        let mut failure = Self::failed("Interrupted", message);
        failure.exit = Some(128 + signal);
        failure
    }

    /// The same failure, for a signal stopped it.
    #[must_use]
    pub(crate) fn by_signal(mut self, signal: u8) -> Self {
        self.exit = Some(128 + signal);
        self
    }

    /// With what the user can do.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With its cause, and that one's causes.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: &dyn Error) -> Self {
        self.causes.push(cause.to_string());
        self.causes.extend(causes_of(cause));
        self
    }

    /// The exit code (DESIGN 6).
    pub(crate) fn exit_code(&self) -> u8 {
        self.exit.unwrap_or_else(|| self.class.exit_code())
    }

    /// Whether there is nothing to print.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// For people: `error:`, a line for each cause, `help:`.
    pub(crate) fn to_text(&self, colours: bool) -> String {
        let paint = |word: &str, code: &str| {
            if colours { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word.to_owned() }
        };
        let mut text = format!("{} {}\n", paint("error:", "1;31"), one_line(&self.message));
        for cause in &self.causes {
            let _ = writeln!(text, "  {} {}", paint("because:", "1"), one_line(cause));
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "{} {}", paint("help:", "1;36"), one_line(help));
        }
        text
    }

    /// For programs: one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut error = serde_json::to_value(self).unwrap_or_default();
        error["exitCode"] = self.exit_code().into();
        format!("{}\n", serde_json::json!({ "error": error }))
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut failure = Self::new(error.class(), error.reason(), error.to_string());
        failure.retryable = error.retryable();
        failure.help = error.help();
        failure.causes = causes_of(&error);
        failure
    }
}

/// The chain below an error, outermost first; what says the same as the line above it is left out.
fn causes_of(error: &dyn Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut above = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if text != above && !text.is_empty() {
            causes.push(text.clone());
            above = text;
        }
        next = cause.source();
    }
    causes
}

/// Text from servers and plugins on one line, and without what a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|character| if character == '\n' || character == '\t' { ' ' } else { character })
        .filter(|character| !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_core::method::{MethodError, code};
    use redkeep_core::provider::ProviderError;
    use redkeep_core::storage::{StorageError, StorageErrorKind};

    fn refused_by_the_server() -> Failure {
        ProviderError::new(Class::Failed, "Unreachable", "failed to connect to redis://h:1")
            .caused_by(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
            .with_help("is the server running?")
            .retryable()
            .into()
    }

    #[test]
    fn an_error_is_its_message_its_causes_and_its_help() {
        assert_eq!(
            refused_by_the_server().to_text(false),
            "error: failed to connect to redis://h:1\n  because: connection refused\nhelp: is the server running?\n"
        );
        assert!(refused_by_the_server().to_text(true).contains("\u{1b}[1;31merror:\u{1b}[0m "));
    }

    #[test]
    fn an_error_for_programs_is_one_line_of_json() {
        let json: serde_json::Value = serde_json::from_str(&refused_by_the_server().to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": {
                "class": "failed", "reason": "Unreachable", "message": "failed to connect to redis://h:1",
                "causes": ["connection refused"], "help": "is the server running?", "retryable": true, "exitCode": 1
            }})
        );
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        let storage = |kind| Failure::from(StorageError::new(kind, "x")).exit_code();
        let method = |code| Failure::from(MethodError::new(code, "x")).exit_code();
        for (found, expected) in [
            (storage(StorageErrorKind::Unreachable), 1),
            (storage(StorageErrorKind::Invalid), 2),
            (storage(StorageErrorKind::Damaged), 3),
            (storage(StorageErrorKind::NotFound), 4),
            (storage(StorageErrorKind::Unsupported), 5),
            (method(code::TRAPPED), 1),
            (method(code::INVALID_PARAMETERS), 2),
            (method(code::DAMAGED), 3),
            (method(code::REFUSED), 5),
            (Failure::usage("x").exit_code(), 2),
            (Failure::interrupted(2, "x").exit_code(), 130),
            (Failure::interrupted(15, "x").exit_code(), 143),
            (Failure::broken_pipe().exit_code(), 141),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        let failure = Failure::failed("X", "server said \u{1b}[2J\u{7}\nsecond line\r");
        assert_eq!(failure.to_text(false), "error: server said [2J second line\n");
    }
}
