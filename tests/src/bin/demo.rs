//! The main job before the user's eyes: a real Redis is filled, backed up by a sandboxed plugin, lost, restored, and
//! proved equal. Run by `cargo xtask demo`, which builds and installs what this needs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::program;

const OPERATIONS: u64 = 50_000;

#[tokio::main]
async fn main() -> Result<()> {
    let place = tempfile::tempdir()?;
    let storage = place.path().join("backups");

    step("1. A real Redis is filled");
    let mut server = RedisServer::start(Version::Redis70)?;
    let shape = Shape::standalone(Version::Redis70);
    let mut connection = server.connect().await?;
    apply(&mut connection, &shape, 1, OPERATIONS).await?;
    let before = Dataset::of(&server).await?;
    describe("the source", &before);

    step("2. It is backed up by the plugin redis-rdb, into a folder, verified as it passes");
    redkeep(&[
        "backup",
        "--source",
        &server.url(),
        "--method",
        "rdb",
        "--storage",
        text(&storage)?,
        "--cluster",
        "demo",
    ])?;
    redkeep(&["list", "--storage", text(&storage)?])?;
    redkeep(&["verify", "--storage", text(&storage)?, "latest", "--level", "boot"])?;

    step("3. The worst day: FLUSHALL, and the server is killed");
    server.command(&["FLUSHALL"]).await?;
    ensure!(Dataset::of(&server).await?.keys.is_empty(), "FLUSHALL left keys");
    server.kill();
    println!("  0 keys, no server");

    step("4. One command puts it back");
    let data = place.path().join("data");
    redkeep(&["restore", "--storage", text(&storage)?, "latest", "--target-dir", text(&data)?, "--appendonly", "yes"])?;

    step("5. A server with appendonly yes, which would ignore a bare dump.rdb, is started on it");
    let restored = RedisServer::start_in(Version::Redis70, &data, &["--appendonly", "yes"])?;
    let after = Dataset::of(&restored).await?;
    describe("restored", &after);
    let differences = before.differences(&after, false);
    if !differences.is_empty() {
        bail!("the restored data differs: {differences:#?}");
    }
    println!("\nEqual: digest, {} expiries and {} function libraries.", after.expiries.len(), after.functions.len());
    Ok(())
}

fn step(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn describe(what: &str, dataset: &Dataset) {
    let keys: u64 = dataset.keys.values().sum();
    println!(
        "  {what}: {keys} keys in {} databases, {} with an expiry, {} function libraries, digest {}",
        dataset.keys.len(),
        dataset.expiries.len(),
        dataset.functions.len(),
        dataset.digest
    );
}

/// Shows the command as a user would type it, and runs it.
fn redkeep(arguments: &[&str]) -> Result<()> {
    println!("  $ redkeep {}", arguments.join(" "));
    let status = Command::new(program()?).args(arguments).status().context("failed to start redkeep")?;
    ensure!(status.success(), "redkeep {} failed ({status})", arguments.join(" "));
    Ok(())
}
