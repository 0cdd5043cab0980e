//! Killed at random moments: no manifest without its artifacts, and everything afterwards works.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::{full, redkeep, run, succeed};

async fn filled() -> Result<RedisServer> {
    let server = RedisServer::start(Version::Redis70)?;
    let mut connection = server.connect().await?;
    // 24 MB that hardly compress: several parts, long enough to be hit in each of them.
    let mut random = rand::rng();
    for batch in 0..24 {
        let mut pipeline = redis::pipe();
        for number in 0..64 {
            let mut value = vec![0_u8; 16_384];
            random.fill(value.as_mut_slice());
            pipeline.cmd("SET").arg(format!("key:{batch}:{number}")).arg(value).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    Ok(server)
}

fn files_under(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_under(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Every manifest names artifacts that are there in their size.
fn manifests_are_whole(store: &Path) -> Result<usize> {
    let mut files = Vec::new();
    files_under(store, &mut files)?;
    // What a folder storage has not placed yet lies in a hidden folder, and is no object.
    let is_hidden = |path: &Path| path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."));
    let placed = |path: &Path| path.strip_prefix(store).is_ok_and(|key| !is_hidden(key));
    let manifests: Vec<_> = files.iter().filter(|path| path.ends_with("manifest.json") && placed(path)).collect();
    for path in &manifests {
        let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
        for artifact in manifest["artifacts"].as_array().context("no artifacts")? {
            let key = artifact["key"].as_str().context("no key")?;
            let size =
                std::fs::metadata(store.join(key)).with_context(|| format!("{} names {key}", path.display()))?.len();
            ensure!(Some(size) == artifact["storedSize"].as_u64(), "{key} has {size} bytes");
        }
    }
    Ok(manifests.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backup_leaves_no_manifest_without_its_artifacts() {
    let runs = if full() { 200 } else { 20 };
    kill(runs).await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn kill(runs: u32) -> Result<()> {
    let server = filled().await?;
    let storage = tempfile::tempdir()?;
    let store = storage.path().join("store");
    let store_text = store.display().to_string();
    let url = server.url();
    let arguments = [
        "backup",
        "--source",
        &url,
        "--method",
        "rdb",
        "--storage",
        &store_text,
        "--cluster",
        "killed",
        "--compression",
        "none",
    ];
    let begun = Instant::now();
    succeed(arguments);
    let whole = begun.elapsed();
    let mut killed = 0;
    for _ in 0..runs {
        let mut child = redkeep()
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let wait = rand::rng().random_range(Duration::ZERO..whole);
        tokio::time::sleep(wait).await;
        if child.try_wait()?.is_none() {
            child.kill()?;
            killed += 1;
        }
        child.wait()?;
        manifests_are_whole(&store)?;
    }
    ensure!(killed > runs / 4, "only {killed} of {runs} runs were hit");
    let manifests = manifests_are_whole(&store)?;
    let listed = succeed(["list", "--storage", &store_text, "-o", "json"]).json();
    ensure!(listed.as_array().map(Vec::len) == Some(manifests), "{manifests} manifests, listed: {listed:#}");
    succeed(["verify", "--storage", &store_text, "latest"]);
    // The server is free again, and a second run works.
    succeed(arguments);
    succeed(["verify", "--storage", &store_text, "latest"]);
    succeed(["prune", "--storage", &store_text, "--grace", "0s", "--keep-last", "1"]);
    let mut left = Vec::new();
    files_under(&store, &mut left)?;
    let left: Vec<_> = left.iter().filter(|path| !path.components().any(|part| part.as_os_str() == "index")).collect();
    ensure!(left.len() <= 4, "prune left {left:#?}");
    succeed(["verify", "--storage", &store_text, "latest"]);
    eprintln!("{killed} of {runs} runs killed within {whole:?}, {manifests} backups whole");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_backup_that_is_killed_leaves_nothing_that_prune_does_not_find() {
    kill_the_first().await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// The storage holds no object of the cluster: whoever looks for clusters by their folders finds none.
async fn kill_the_first() -> Result<()> {
    let server = filled().await?;
    let storage = tempfile::tempdir()?;
    let store = storage.path().join("store");
    let store_text = store.display().to_string();
    let url = server.url();
    let arguments = ["backup", "--source", &url, "--method", "rdb", "--storage", &store_text, "--cluster", "killed"];
    let prune = ["prune", "--storage", &store_text, "--grace", "0s"];
    let left = || -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        files_under(&store, &mut files)?;
        Ok(files)
    };
    for scope in [&[][..], &["--cluster", "killed"], &["--namespace", "default"]] {
        // 24 MB at this rate take longer than the wait below.
        let mut child = redkeep()
            .args(arguments)
            .args(["--limit-rate", "1M", "--compression", "none"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !store.exists() || left()?.is_empty() {
            ensure!(Instant::now() < deadline && child.try_wait()?.is_none(), "the backup began no object");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        child.kill()?;
        child.wait()?;
        let begun = left()?;
        let is_placed = |path: &Path| path.strip_prefix(&store).is_ok_and(|key| !key.starts_with(".redkeep-tmp"));
        ensure!(!begun.iter().any(|path| is_placed(path)), "the kill came too late: {begun:#?}");

        succeed(["prune", "--storage", &store_text]);
        ensure!(left()? == begun, "within the grace period it may be going on");
        succeed(prune.iter().chain(&["--cluster", "other"]));
        ensure!(left()? == begun, "it is not the other cluster's");
        let outcome = succeed(prune.iter().chain(scope).chain(&["-o", "json"])).json();
        ensure!(outcome["uploads"].as_array().map(Vec::len) == Some(begun.len()), "{outcome:#}");
        ensure!(left()?.is_empty(), "prune left {:#?}", left()?);
    }
    succeed(arguments);
    succeed(["verify", "--storage", &store_text, "latest"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_whose_upload_is_pruned_says_so() {
    let server = filled().await.unwrap();
    let storage = tempfile::tempdir().unwrap();
    let store = storage.path().join("store");
    let store_text = store.display().to_string();
    let url = server.url();
    let arguments = ["backup", "--source", &url, "--method", "rdb", "--storage", &store_text, "--cluster", "killed"];
    let child = redkeep()
        .args(arguments)
        .args(["--compression", "none", "--limit-rate", "8M"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut pruned = 0;
    while pruned == 0 {
        assert!(Instant::now() < deadline, "nothing was pruned");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let outcome = run(["prune", "--storage", &store_text, "--grace", "0s", "-o", "json"]);
        if outcome.code == Some(0) {
            pruned = outcome.json()["uploads"].as_array().map_or(0, Vec::len);
        }
    }
    let said: redkeep_tests::Said = child.wait_with_output().unwrap().into();
    redkeep_tests::refused(&said, 1, &["--grace"], "backup whose upload is pruned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_during_a_backup_leaves_nothing_that_counts() {
    let mut server = filled().await.unwrap();
    let storage = tempfile::tempdir().unwrap();
    let store = storage.path().join("store").display().to_string();
    let url = server.url();
    let limit = ["--limit-rate", "2M"];
    let child = redkeep()
        .args([
            "backup",
            "--source",
            &url,
            "--method",
            "rdb",
            "--storage",
            &store,
            "--cluster",
            "killed",
            "--compression",
            "none",
        ])
        .args(limit)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.kill();
    let said: redkeep_tests::Said = child.wait_with_output().unwrap().into();
    redkeep_tests::refused(&said, 1, &[], "backup of a server that dies");
    let listed = run(["list", "--storage", &store, "-o", "json"]);
    assert!(listed.stdout.trim() == "[]" || listed.code == Some(4), "{listed:#?}");
}
