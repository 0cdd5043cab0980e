//! What a command says: its result on standard output in the format asked for, everything else on standard error.

pub(crate) mod failure;
pub(crate) mod manifest;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod usage;

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use failure::Failure;

/// How results are shown; every command takes these.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// How the result is printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    pub(crate) output: Format,
    /// Show no progress
    #[arg(short = 'q', long, visible_alias = "quiet", global = true)]
    pub(crate) no_progress: bool,
    /// What is logged to standard error
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t, env = "REDKEEP_LOG_LEVEL", global = true)]
    pub(crate) log_level: LogLevel,
}

/// A format of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// The finest level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// What failed
    Error,
    /// What deserves attention
    #[default]
    Warn,
    /// What happens
    Info,
    /// What happens inside
    Debug,
    /// Everything
    Trace,
}

impl LogLevel {
    /// As the `tracing` filter spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Format {
    /// `value` in this format; `table` makes the text for people. Ends in a newline unless empty.
    pub(crate) fn render<T: Serialize + ?Sized>(
        self,
        value: &T,
        table: impl FnOnce() -> String,
    ) -> Result<String, Failure> {
        let mut text = match self {
            Self::Table => table(),
            Self::Json => serde_json::to_string_pretty(value).map_err(|error| {
                Failure::failed("OutputFailed", "failed to write the result as JSON").caused_by(&error)
            })?,
            Self::Yaml => serde_norway::to_string(value).map_err(|error| {
                Failure::failed("OutputFailed", "failed to write the result as YAML").caused_by(&error)
            })?,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// Prints `value` to standard output.
    pub(crate) fn print<T: Serialize + ?Sized>(self, value: &T, table: impl FnOnce() -> String) -> Result<(), Failure> {
        print(self.render(value, table)?.as_bytes())
    }
}

/// Writes to standard output.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| stdout_failed(&error))
}

/// A failed write to standard output. A reader that has left is no failure worth a message.
pub(crate) fn stdout_failed(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::broken_pipe();
    }
    Failure::failed("OutputFailed", "failed to write to standard output").caused_by(error)
}

/// Whether standard error takes colours: a terminal that can, and a user who has not said no (<https://no-color.org>).
pub(crate) fn stderr_takes_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
