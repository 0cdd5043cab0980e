//! `cargo xtask test`: installs what is missing, then every check and test. `--full` runs the long forms too.

use std::time::Instant;

use anyhow::Result;

use crate::workspace::{cargo, run, say};
use crate::{check, fuzz, plugins, servers};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The whole of every matrix, and the long runs
    #[arg(long)]
    full: bool,
    /// Skip formatting, lints and the workspace's rules
    #[arg(long)]
    no_lint: bool,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    servers::install()?;
    servers::install_storage()?;
    step("plugins", || plugins::build().map(drop))?;
    if !options.no_lint {
        step("rules of the workspace", check::start)?;
        step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
        step("lints", || {
            run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        })?;
    }
    // `cargo test` builds the program too (host/tests/program.rs), before the first test runs.
    step("build", || run(cargo().args(["test", "--quiet", "--workspace", "--no-run"])))?;
    step("tests", || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]).env("REDKEEP_SERVERS", servers::folder());
        if options.full {
            command.env("REDKEEP_FULL", "1");
        }
        run(&mut command)
    })?;
    let seconds = if options.full { 300 } else { 60 };
    step("fuzzing", || fuzz::start(&fuzz::Options { seconds }))
}

/// Runs one step and says how long it took.
fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    say(&format!("{name} …"));
    let begun = Instant::now();
    work()?;
    say(&format!("{name}: ok after {} s", begun.elapsed().as_secs()));
    Ok(())
}
