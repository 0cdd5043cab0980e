//! `redkeep`: back up, verify and restore Redis and Valkey through sandboxed plugins. Everything is in [`command`].

#![expect(clippy::doc_markdown, reason = "comments of options are the help text that users read")]

mod arguments;
mod command;
mod executor;
mod output;
mod session;
mod tasks;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}
