//! `cargo xtask bench`: the release program against what a user would run instead; the table goes to `benches/RESULTS.md`.

use anyhow::Result;

use crate::workspace::{cargo, need_programs, run, target_dir};
use crate::{plugins, servers};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the bench program, e.g. `--only list` (see `benches/src/main.rs`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    servers::install()?;
    servers::install_storage()?;
    need_programs(&[("rclone", "rclone"), ("redis-cli", "redis-tools")])?;
    plugins::build()?;
    run(cargo().args(["build", "--quiet", "--release", "--package", "redkeep", "--package", "redkeep-benches"]))?;
    let figures = target_dir().join("plugin-figures.json");
    let mut measure = cargo();
    measure.args(["test", "--quiet", "--release", "--package", "redkeep-plugin", "--test", "measure", "--"]);
    run(measure.args(["--ignored", "--nocapture"]).env("REDKEEP_FIGURES", &figures))?;
    let release = target_dir().join("release");
    let mut command = std::process::Command::new(release.join("bench"));
    command.arg("--redkeep").arg(release.join("redkeep")).arg("--plugin-figures").arg(figures).args(&options.arguments);
    run(command.current_dir(crate::workspace::root()))
}
