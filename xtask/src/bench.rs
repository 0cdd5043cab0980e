//! `cargo xtask bench`: the release program against what a user would run instead; the table goes to `benches/RESULTS.md`.

use anyhow::Result;

use crate::cluster::{Held, Level};
use crate::workspace::{cargo, need_programs, root, run, target_dir};
use crate::{plugins, servers};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to the bench program, e.g. `--only list` (see `benches/src/main.rs`); `--only operator` runs the operator at scale
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    if let Some(at) = options.arguments.windows(2).position(|pair| pair == ["--only", "operator"]) {
        let mut rest = options.arguments.clone();
        rest.drain(at..at + 2);
        return operator(&rest);
    }
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

/// The operator at scale, against an API server of its own. Cargo runs a bench in its crate's folder, so the table's place is said.
fn operator(arguments: &[String]) -> Result<()> {
    let cluster = Held::start(Level::Api)?;
    let mut bench = cargo();
    bench.args(["bench", "--quiet", "--package", "redkeep-controller", "--bench", "operator_scale", "--"]);
    bench.arg("--results").arg(root().join("benches/RESULTS-operator.md")).args(arguments);
    cluster.tell(&mut bench);
    run(&mut bench)
}
