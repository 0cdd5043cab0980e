//! `redkeep-instance`: process 1 of a managed Redis pod (ADR 18). Everything is in [`command`].

mod api;
mod auth;
mod boot;
mod certificates;
mod child;
mod clock;
mod command;
mod config;
mod confine;
mod ending;
mod error;
mod facts;
mod fence;
mod files;
mod hand_over;
mod https;
mod install;
mod link;
mod log;
mod look;
mod memory;
mod passwords;
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
