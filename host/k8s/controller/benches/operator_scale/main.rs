//! How many schedules one operator carries, on a real API server (`KUBECONFIG`), with tasks that only pretend to work.
//!
//! The operator runs as a process of its own (this program, called with `--operator`), so that its memory and CPU can be read;
//! its clock may run faster than the world's. Nothing is asserted about time: a row that falls short says so.

mod operator;
mod process;
mod scenario;
mod world;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// What is measured, and how large.
#[derive(Parser, Clone)]
struct Options {
    /// Schedules
    #[arg(long, default_value_t = 10_000)]
    schedules: usize,
    /// How much faster than the world's the operator's clock runs while an hour passes
    #[arg(long, default_value_t = 10)]
    speed: u32,
    /// Finished backups that are there when the operator starts
    #[arg(long, default_value_t = 30_000)]
    finished: usize,
    /// Seconds at rest that are measured
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Only rows whose name contains this: `spread`, `minutes`, `burst`, `rest`, `start`
    #[arg(long)]
    only: Option<String>,
    /// Where the table goes
    #[arg(long, default_value = "benches/RESULTS-operator.md")]
    results: PathBuf,
    /// Internal: be the operator of this namespace
    #[arg(long, hide = true)]
    operator: Option<String>,
    /// Internal: what its clock shows when it starts, in seconds since 1970
    #[arg(long, hide = true)]
    clock: Option<i64>,
    /// Cargo passes this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    match options.operator.clone() {
        Some(namespace) => operator::run(&options, namespace).await,
        None => scenario::run(&options).await,
    }
}
