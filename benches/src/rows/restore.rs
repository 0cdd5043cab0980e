//! Restores against what a user would run instead.

use std::io::Write;

use anyhow::{Context, Result};
use redkeep_testing::server::{RedisServer, Version};

use super::{Bench, ratio};
use crate::measure::{Run, alternate, median, run, shell};
use crate::table::Row;

/// Fetch, both digests, decrypt, decompress, parse, fsync; against a pipeline that checks nothing.
pub(super) async fn directory(bench: &mut Bench) -> Result<Vec<Row>> {
    let server = bench.mixed().await?.serve(Version::Redis70, &[]).await?;
    let storage = bench.gateway.storage("restore");
    let mut command = bench.redkeep(&["backup", "--source", &server.url(), "--method", "rdb", "--cluster", "bench"]);
    run(command.args(["--recipient", &bench.recipient]).args(&storage))?;
    drop(server);
    let key = find(&bench.gateway.bucket(), "dump.rdb.zst.age").context("no artifact in the bucket")?;
    let key = key.strip_prefix(bench.gateway.bucket())?.display().to_string();
    let identity = bench.identity.display().to_string();
    let target = bench.place.path().join("restored").display().to_string();
    let (ours, theirs) = alternate(
        bench.options.rounds,
        || {
            let arguments =
                ["restore", "latest", "--identity", &identity, "--appendonly", "no", "--target-dir", &target];
            let taken = run(bench.redkeep(&arguments).args(&storage));
            let _ = std::fs::remove_dir_all(&target);
            taken
        },
        || {
            let text = format!(
                "rclone cat 's3:bucket/{key}' | age -d -i '{identity}' | zstd -d -q > '{target}.rdb' && rm '{target}.rdb'"
            );
            run(bench.gateway.prepare(&mut shell(&text)))
        },
    )?;
    Ok(vec![ratio("restore to a directory".to_owned(), "rclone cat \\| age -d \\| zstd -d > file", 1.0, ours, theirs)])
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.ends_with(name) {
            return Some(path);
        }
    }
    None
}

/// Small keys into a live server, against `redis-cli --pipe` of the same commands.
pub(super) async fn live(bench: &mut Bench) -> Result<Vec<Row>> {
    let keys = bench.options.small_keys;
    let source = bench.small().await?.serve(Version::Redis70, &[]).await?;
    let storage = bench.place.path().join("live").display().to_string();
    run(&mut bench.redkeep(&[
        "backup",
        "--source",
        &source.url(),
        "--method",
        "rdb",
        "--cluster",
        "bench",
        "--storage",
        &storage,
    ]))?;
    let commands = bench.place.path().join("commands");
    write_commands(&source, &commands).await?;
    drop(source);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds.min(2) {
        let target = RedisServer::start(Version::Redis70)?;
        let arguments = ["restore", "latest", "--skip-preverify", "--storage", &storage, "--target", &target.url()];
        ours.push(run(&mut bench.redkeep(&arguments))?);
        check_count(&target, keys).await?;
        drop(target);
        let target = RedisServer::start(Version::Redis70)?;
        theirs.push(run(&mut shell(&format!("redis-cli -p {} --pipe < '{}'", target.port(), commands.display())))?);
        check_count(&target, keys).await?;
    }
    let (ours, theirs): (Run, Run) = (median(ours)?, median(theirs)?);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = |run: Run| keys as f64 / run.seconds;
    let figure = rate(ours) / rate(theirs);
    Ok(vec![Row {
        what: format!("live restore of {keys} keys"),
        against: "redis-cli --pipe of the same RESTORE commands".to_owned(),
        target: "at least 0.8 of its rate".to_owned(),
        ours: format!("{:.0}/s (peak {:.0} MiB)", rate(ours), ours.peak_mib),
        theirs: format!("{:.0}/s", rate(theirs)),
        figure: format!("{figure:.2}"),
        reached: figure >= 0.8,
    }])
}

async fn check_count(server: &RedisServer, keys: u64) -> Result<()> {
    let count: u64 = redis::from_redis_value(server.command(&["DBSIZE"]).await?)?;
    anyhow::ensure!(count == keys, "{count} keys came back, {keys} were there");
    Ok(())
}

/// Every key as a `RESTORE` command, from the server's own `DUMP`.
async fn write_commands(server: &RedisServer, path: &std::path::Path) -> Result<()> {
    let mut connection = server.connect().await?;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut cursor: u64 = 0;
    loop {
        let (next, keys): (u64, Vec<Vec<u8>>) =
            redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(5000).query_async(&mut connection).await?;
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("DUMP").arg(key);
        }
        let values: Vec<Vec<u8>> = pipeline.query_async(&mut connection).await?;
        for (key, value) in keys.iter().zip(values) {
            write!(file, "*5\r\n$7\r\nRESTORE\r\n${}\r\n", key.len())?;
            file.write_all(key)?;
            write!(file, "\r\n$1\r\n0\r\n${}\r\n", value.len())?;
            file.write_all(&value)?;
            file.write_all(b"\r\n$6\r\nABSTTL\r\n")?;
        }
        cursor = next;
        if cursor == 0 {
            file.flush()?;
            return Ok(());
        }
    }
}
