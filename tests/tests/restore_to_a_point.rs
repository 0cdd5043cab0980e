//! `--until`: an append-only backup restored to a replication offset or a time holds exactly the operations up to there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, Writer, applied, apply};
use redkeep_tests::{fail, succeed};

const BEFORE: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_goes_back_to_the_point_asked_for() -> Result<()> {
    for version in [Version::Redis62, Version::Redis82] {
        check(version).await.with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

async fn check(version: Version) -> Result<()> {
    let shape = Shape::standalone(version);
    let source = RedisServer::start(version)?;
    apply(&mut source.connect().await?, &shape, 1, BEFORE).await?;
    let writer = Writer::start(&source, &shape, BEFORE + 1).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    let url = source.url();
    let taken = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            let arguments = [
                "backup",
                "--source",
                &url,
                "--method",
                "aof",
                "--param",
                "window=5s",
                "--storage",
                &store,
                "--cluster",
                "point",
                "-o",
                "json",
            ];
            succeed(arguments).json()
        })
    };
    let manifest = taken.await?;
    writer.stop().await?;
    let fact = |name: &str| manifest["facts"][name].as_str().with_context(|| format!("no fact {name} in {manifest:#}"));
    let (first, last): (u64, u64) = (fact("first-offset")?.parse()?, fact("last-offset")?.parse()?);
    ensure!(last > first, "the stream is empty");

    let whole = restored(version, &shape, &store, place.path(), None).await?;
    let middle = u64::midpoint(first, last).to_string();
    let half = restored(version, &shape, &store, place.path(), Some(&middle)).await?;
    let by_time =
        restored(version, &shape, &store, place.path(), Some(&halfway(fact("first-time")?, fact("last-time")?)?))
            .await?;
    ensure!(BEFORE <= half && half < whole, "at offset {middle}: {half} operations of {whole}");
    ensure!(BEFORE <= by_time && by_time < whole, "at half time: {by_time} operations of {whole}");

    let folder = place.path().join("never").display().to_string();
    fail(
        5,
        &["2001"],
        ["restore", "--storage", &store, "latest", "--target-dir", &folder, "--until", "2001-01-01T00:00:00Z"],
    );
    Ok(())
}

/// Half-way between two times in RFC 3339, to the second.
fn halfway(first: &str, last: &str) -> Result<String> {
    let text =
        format!("date -u -d \"@$(( ($(date -d '{first}' +%s) + $(date -d '{last}' +%s)) / 2 ))\" +%Y-%m-%dT%H:%M:%SZ");
    let output = std::process::Command::new("bash").args(["-c", &text]).output()?;
    ensure!(output.status.success(), "no time between {first} and {last}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Restores, compares with a replay, and returns how many operations came back.
async fn restored(
    version: Version,
    shape: &Shape,
    store: &str,
    place: &std::path::Path,
    until: Option<&str>,
) -> Result<u64> {
    let folder = place.join(format!("data-{}", until.unwrap_or("whole").replace(':', "-")));
    let text = folder.display().to_string();
    let mut arguments = vec!["restore", "--storage", store, "latest", "--target-dir", &text, "--appendonly", "yes"];
    if let Some(until) = until {
        arguments.extend(["--until", until]);
    }
    succeed(arguments);
    let server = RedisServer::start_in(version, &folder, &["--appendonly", "yes", "--aof-load-truncated", "no"])?;
    let held = applied(&mut server.connect().await?, shape).await?;
    let expected = RedisServer::start(version)?;
    let mut connection = expected.connect().await?;
    apply(&mut connection, shape, 1, BEFORE).await?;
    apply(&mut connection, &Shape { functions: false, ..shape.clone() }, BEFORE + 1, held).await?;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let differences =
        Dataset::of(&expected).await?.differences(&Dataset::of(&server).await?, version == Version::Redis62);
    ensure!(differences.is_empty(), "until {until:?}: {differences:#?}");
    Ok(held)
}
