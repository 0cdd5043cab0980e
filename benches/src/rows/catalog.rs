//! Listing many backups in an S3 server.

use anyhow::{Context, Result};
use redkeep_testing::server::{RedisServer, Version};

use super::Bench;
use crate::measure::{median, run, shell};
use crate::table::Row;

pub(super) async fn list(bench: &mut Bench) -> Result<Vec<Row>> {
    let count = bench.options.listed;
    let server = RedisServer::start(Version::Redis70)?;
    server.command(&["SET", "key", "value"]).await?;
    let storage = bench.gateway.storage("list");
    let mut command = bench.redkeep(&[
        "backup",
        "--source",
        &server.url(),
        "--method",
        "rdb",
        "--cluster",
        "bench",
        "--name",
        "many",
    ]);
    run(command.args(&storage))?;
    let cluster = bench.gateway.bucket().join("list/default/bench");
    let first = std::fs::read_dir(&cluster)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.contains("-many-"))
        .context("no backup in the bucket")?;
    // Copies with the attributes in which the gateway keeps its metadata, each under an id and a manifest of its own.
    let text = format!(
        "cd '{}' && for n in $(seq 1 {count}); do id=$(printf '2026%02d%02dT%02d%02d00Z-many-%05d' $((n % 12 + 1)) $((n / 12 % 28 + 1)) \
         $((n / 336 % 24)) $((n / 8064 % 60)) $n); cp -a '{first}' $id && sed -i \"s/{first}/$id/g\" $id/manifest.json; done",
        cluster.display()
    );
    run(&mut shell(&text))?;
    let listed = |bench: &Bench| run(bench.redkeep(&["list", "-o", "json"]).args(&storage));
    let cold = listed(bench)?;
    let mut runs = Vec::new();
    for _ in 0..bench.options.rounds {
        runs.push(listed(bench)?);
    }
    let warm = median(runs)?;
    Ok(vec![Row {
        what: format!("list of {} backups in an S3 server", count + 1),
        against: String::new(),
        target: "at most 1 s".to_owned(),
        ours: format!(
            "{:.2} s with the index, {:.2} s without (peak {:.0} MiB)",
            warm.seconds, cold.seconds, cold.peak_mib
        ),
        theirs: String::new(),
        figure: format!("{:.2} s", warm.seconds),
        reached: warm.seconds <= 1.0,
    }])
}
