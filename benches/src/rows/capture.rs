//! Backups against what a user would run instead.

use anyhow::Result;
use redkeep_testing::server::Version;

use super::{Bench, ratio};
use crate::measure::{alternate, run, shell};
use crate::table::Row;

/// The share of all cores that is called full: the kernel never gives the last tenth to anybody.
const FULL: f64 = 0.9;

/// Parse + zstd:1 + age + both digests + multipart, against `redis-cli --rdb` to /dev/null.
pub(super) async fn against_redis_cli(bench: &mut Bench, version: Version) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in ["mixed", "small keys"] {
        let data = if kind == "mixed" { bench.mixed().await? } else { bench.small().await? };
        // 6.2 would write the snapshot to its disk first, and send it then.
        let server = data.serve(version, &["--repl-diskless-sync", "yes"]).await?;
        let (url, port) = (server.url(), server.port());
        let storage = bench.gateway.storage("capture");
        let rounds = bench.options.rounds;
        let (ours, theirs) = alternate(
            rounds,
            || {
                let mut command = bench.redkeep(&["backup", "--source", &url, "--method", "rdb", "--cluster", "bench"]);
                command.args(["--recipient", &bench.recipient]).args(&storage);
                let taken = run(&mut command);
                let _ = std::fs::remove_dir_all(bench.gateway.bucket().join("capture"));
                taken
            },
            // Not to the file `/dev/null`: Debian's redis-cli fails to sync that, after it has read all.
            || run(&mut shell(&format!("redis-cli -p {port} --rdb - > /dev/null"))),
        )?;
        let mut row = ratio(
            format!("RDB backup, {kind}, {}", version.name()),
            "redis-cli --rdb - > /dev/null",
            1.15,
            ours,
            theirs,
        );
        let cores = std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok());
        let cores = f64::from(cores.unwrap_or(2));
        let busy =
            format!("machine {:.1} of {cores} cores busy, ours {:.1}", ours.busy_cores, ours.processor / ours.seconds);
        row.ours = format!("{}, {busy}", row.ours);
        if version == Version::Valkey81 {
            // It emits twice as fast: full cores count as well.
            row.target.push_str(", or full cores");
            row.reached |= ours.busy_cores >= FULL * cores;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The same against a pipeline of ordinary tools.
pub(super) async fn against_tools(bench: &mut Bench) -> Result<Vec<Row>> {
    let server = bench.mixed().await?.serve(Version::Redis70, &[]).await?;
    let (url, port) = (server.url(), server.port());
    let storage = bench.gateway.storage("capture");
    let recipient = bench.recipient.clone();
    let (ours, theirs) = alternate(
        bench.options.rounds,
        || {
            let mut command = bench.redkeep(&["backup", "--source", &url, "--method", "rdb", "--cluster", "bench"]);
            run(command.args(["--recipient", &recipient]).args(&storage))
        },
        || {
            let text = format!(
                "redis-cli -p {port} --rdb - | zstd -1 -q | age -r {recipient} | rclone rcat s3:bucket/tools/dump"
            );
            run(bench.gateway.prepare(&mut shell(&text)))
        },
    )?;
    Ok(vec![ratio(
        "RDB backup, mixed, redis-7.0, by tools".to_owned(),
        "redis-cli --rdb - \\| zstd -1 \\| age \\| rclone rcat",
        1.0,
        ours,
        theirs,
    )])
}

/// The default gzip route for archives of append-only files.
pub(super) async fn archive(bench: &mut Bench) -> Result<Vec<Row>> {
    let server = bench.mixed().await?.serve(Version::Redis70, &[]).await?;
    server.command(&["CONFIG", "SET", "appendonly", "yes"]).await?;
    redkeep_testing::topology::wait_until("the append-only file", || async {
        Ok(server.info("aof_rewrite_in_progress").await? == "0" && server.info("aof_rewrite_scheduled").await? == "0")
    })
    .await?;
    let folder = server.dir().to_path_buf();
    drop(server);
    let storage = bench.place.path().join("archive").display().to_string();
    let directory = folder.display().to_string();
    let (ours, theirs) = alternate(
        bench.options.rounds.min(2),
        || {
            let arguments = [
                "backup",
                "--source",
                &directory,
                "--method",
                "aof",
                "--cluster",
                "bench",
                "--compression",
                "gzip",
                "--storage",
                &storage,
            ];
            let taken = run(&mut bench.redkeep(&arguments));
            let _ = std::fs::remove_dir_all(&storage);
            taken
        },
        || run(&mut shell(&format!("tar -C '{directory}' -cf - appendonlydir | gzip > '{storage}.tar.gz'"))),
    )?;
    let mut row = ratio("AOF archive, gzip".to_owned(), "tar \\| gzip", 1.0 / 3.0, ours, theirs);
    "at least 3 × faster".clone_into(&mut row.target);
    row.figure = format!("{:.1} × faster", theirs.seconds / ours.seconds);
    std::fs::remove_dir_all(folder)?;
    Ok(vec![row])
}

/// A data directory's files to a folder, without compression.
pub(super) async fn files(bench: &mut Bench) -> Result<Vec<Row>> {
    let directory = bench.mixed().await?.folder().display().to_string();
    let storage = bench.place.path().join("files").display().to_string();
    let (ours, theirs) = alternate(
        bench.options.rounds,
        || {
            let arguments = [
                "backup",
                "--source",
                &directory,
                "--method",
                "rdb",
                "--cluster",
                "bench",
                "--compression",
                "none",
                "--storage",
                &storage,
            ];
            let taken = run(&mut bench.redkeep(&arguments));
            let _ = std::fs::remove_dir_all(&storage);
            taken
        },
        || {
            let text =
                format!("cp '{directory}/dump.rdb' '{storage}.rdb' && sha256sum '{storage}.rdb' && rm '{storage}.rdb'");
            run(&mut shell(&text))
        },
    )?;
    Ok(vec![ratio("data directory's files, no compression".to_owned(), "cp + sha256sum", 1.1, ours, theirs)])
}
