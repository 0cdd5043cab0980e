//! `redkeep-instance`: process 1 of a managed Redis pod (ADR 18). Everything is in [`command`].

#![expect(clippy::doc_markdown, reason = "comments of options are the help text that users read")]

mod api;
mod auth;
mod child;
mod clock;
mod command;
mod config;
mod error;
mod facts;
mod fence;
mod hand_over;
mod https;
mod install;
mod link;
mod log;
mod look;
mod pinned;
mod program;
mod redis_conf;
mod server;
mod settings;
mod state;
mod supervisor;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}
