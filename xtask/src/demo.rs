//! `cargo xtask demo`: installs and builds what the demo needs, then runs it (`tests/src/bin/demo.rs`).

use anyhow::Result;

use crate::workspace::{cargo, run};
use crate::{plugins, servers};

#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn start(_options: &Options) -> Result<()> {
    servers::need_redis()?;
    plugins::build()?;
    run(cargo().args(["build", "--quiet", "--package", "redkeep", "--package", "redkeep-tests", "--bins"]))?;
    run(cargo().args(["run", "--quiet", "--package", "redkeep-tests", "--bin", "demo"]))
}
