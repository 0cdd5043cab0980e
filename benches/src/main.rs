//! Side-by-side comparisons in one run, a table at the end, and the same table in `benches/RESULTS.md` with the machine named.
//!
//! Run by `cargo xtask bench`, which builds the release program and installs the tools compared with. Nothing is asserted:
//! a row that falls short says so.

mod dataset;
mod gateway;
mod measure;
mod rows;
mod stream;
mod table;

use anyhow::Result;
use clap::Parser;

/// What is measured, and how large.
#[derive(Parser)]
struct Options {
    /// The release program
    #[arg(long)]
    redkeep: std::path::PathBuf,
    /// Rounds of each comparison
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of the mixed data set in MB of RDB
    #[arg(long, default_value_t = 1000)]
    mixed_mb: u64,
    /// Keys of the data set of small keys
    #[arg(long, default_value_t = 5_000_000)]
    small_keys: u64,
    /// Size of the synthetic stream in GB
    #[arg(long, default_value_t = 20)]
    stream_gb: u64,
    /// Backups listed
    #[arg(long, default_value_t = 10_000)]
    listed: u32,
    /// Figures of the plugin host, as `host/plugin/tests/measure.rs` writes them
    #[arg(long)]
    plugin_figures: Option<std::path::PathBuf>,
    /// Only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Where the table goes
    #[arg(long, default_value = "benches/RESULTS.md")]
    results: std::path::PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut bench = rows::Bench::new(options).await?;
    let table = bench.run().await;
    println!("\n{}", table.markdown());
    table.save(&bench.options.results)
}
