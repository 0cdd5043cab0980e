//! {6.2, 7.0, 8.2, Valkey 8.1} × {rdb, aof} × {replication from primary, from replica, files} × restore to {directory with
//! appendonly yes, with appendonly no, live}, while a writer runs. What comes back must equal, exactly, the operations
//! that the restored counter names (see `redkeep_testing::workload`).

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::replicate;
use redkeep_testing::workload::{Shape, Writer, applied, apply};
use redkeep_tests::{fail, full, succeed};

/// Operations before the writer starts.
const BEFORE: u64 = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Primary,
    Replica,
    Files,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    AppendonlyYes,
    AppendonlyNo,
    Live,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    version: Version,
    method: &'static str,
    route: Route,
}

const TARGETS: [Target; 3] = [Target::AppendonlyYes, Target::AppendonlyNo, Target::Live];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in Version::ALL {
        for method in ["rdb", "aof"] {
            for route in [Route::Primary, Route::Replica, Route::Files] {
                cases.push(Case { version, method, route });
            }
        }
    }
    if !full() {
        // Pairwise: each version with each method and each route, each method with each route.
        cases.retain(|case| {
            let version = Version::ALL.iter().position(|version| *version == case.version).unwrap_or(0);
            let method = usize::from(case.method == "aof");
            let route = [Route::Primary, Route::Replica, Route::Files]
                .iter()
                .position(|route| *route == case.route)
                .unwrap_or(0);
            (version + method) % 2 == route % 2
        });
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_equals_the_source_at_the_captured_point() {
    for case in cases() {
        eprintln!("case {case:?}");
        check(case).await.with_context(|| format!("{case:?}")).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// Above 8 MiB a live restore rebuilds a value in pieces; one element above 16 MiB goes whole, in a second pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_go_back_live_by_either_method() -> Result<()> {
    for (version, method) in [(Version::Redis62, "aof"), (Version::Redis70, "rdb"), (Version::Redis82, "aof")] {
        let source = RedisServer::start(version)?;
        let mut connection = source.connect().await?;
        redis::cmd("SET").arg("string").arg(vec![b's'; 9 << 20]).query_async::<()>(&mut connection).await?;
        redis::cmd("SELECT").arg(3).query_async::<()>(&mut connection).await?;
        redis::cmd("RPUSH")
            .arg("list")
            .arg(vec![b'l'; 17 << 20])
            .arg("next")
            .query_async::<()>(&mut connection)
            .await?;
        let storage = tempfile::tempdir()?;
        let store = storage.path().to_str().context("a path")?;
        succeed(["backup", "--source", &source.url(), "--method", method, "--storage", store, "--cluster", "large"]);
        let target = RedisServer::start(version)?;
        succeed(["restore", "--storage", store, "latest", "--target", &target.url()]);
        let (left, right) = (Dataset::of(&target).await?, Dataset::of(&source).await?);
        let differences = left.differences(&right, version == Version::Redis62);
        ensure!(differences.is_empty() && left.keys.len() == 2, "{version:?} {method}: {differences:?}");
    }
    Ok(())
}

async fn check(case: Case) -> Result<()> {
    let shape = Shape::standalone(case.version);
    let appendonly = if case.method == "aof" && case.route == Route::Files { "yes" } else { "no" };
    let source = RedisServer::start_with(case.version, &["--appendonly", appendonly])?;
    let mut connection = source.connect().await?;
    apply(&mut connection, &shape, 1, BEFORE).await?;
    let replica = if case.route == Route::Replica {
        let replica = RedisServer::start(case.version)?;
        replicate(&replica, &source).await?;
        Some(replica)
    } else {
        None
    };
    let writer = Writer::start(&source, &shape, BEFORE + 1).await?;

    let storage = tempfile::tempdir()?;
    let store = storage.path().to_str().context("a path")?;
    let read = replica.as_ref().unwrap_or(&source);
    let url = read.url();
    let mut arguments = vec![
        "backup",
        "--source",
        &url,
        "--method",
        case.method,
        "--storage",
        store,
        "--cluster",
        "matrix",
        "-o",
        "json",
    ];
    let directory = source.dir().to_str().context("a path")?.to_owned();
    if case.route == Route::Files {
        arguments.extend(["--data-dir", &directory, "--param", "source=files"]);
    }
    let manifest = succeed(&arguments).json();
    let written = writer.stop().await?;
    ensure!(manifest["backupId"].is_string() && manifest["artifacts"][0]["storedSha256"].is_string(), "{manifest:#}");

    succeed(["verify", "--storage", store, "latest", "--level", "parse"]);
    for target in TARGETS {
        if case.method == "aof" && target == Target::AppendonlyNo {
            let place = tempfile::tempdir()?;
            let place = place.path().join("data");
            fail(
                5,
                &["appendonly"],
                [
                    "restore",
                    "--storage",
                    store,
                    "latest",
                    "--target-dir",
                    place.to_str().context("a path")?,
                    "--appendonly",
                    "no",
                ],
            );
            ensure!(!place.exists() || std::fs::read_dir(&place)?.next().is_none(), "a refused restore left something");
            continue;
        }
        restore(case, target, store, &shape, written).await.with_context(|| format!("{target:?}"))?;
    }
    Ok(())
}

async fn restore(case: Case, target: Target, store: &str, shape: &Shape, written: u64) -> Result<()> {
    let place = tempfile::tempdir()?;
    let folder = place.path().join("data");
    let folder_text = folder.to_str().context("a path")?;
    let appendonly = if target == Target::AppendonlyYes { "yes" } else { "no" };
    let restored = if target == Target::Live {
        let server = RedisServer::start(case.version)?;
        succeed(["restore", "--storage", store, "latest", "--target", &server.url()]);
        server
    } else {
        succeed(["restore", "--storage", store, "latest", "--target-dir", folder_text, "--appendonly", appendonly]);
        RedisServer::start_in(case.version, &folder, &["--appendonly", appendonly])?
    };
    let mut connection = restored.connect().await?;
    let held = applied(&mut connection, shape).await?;
    ensure!(held >= BEFORE, "the restored server holds {held} operations, {BEFORE} were there before the backup began");
    ensure!(held <= written, "the restored server holds {held} operations, only {written} were acknowledged");

    let expected = RedisServer::start(case.version)?;
    let mut again = expected.connect().await?;
    apply(&mut again, shape, 1, BEFORE).await?;
    apply(&mut again, &Shape { functions: false, ..shape.clone() }, BEFORE + 1, held).await?;
    // The server that was given the data must also survive its own restart with it.
    let differences =
        Dataset::of(&expected).await?.differences(&Dataset::of(&restored).await?, case.version == Version::Redis62);
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
