//! Targets that cannot take a backup: refused before anything is touched, with the way that would work; one that fails
//! half-way says exactly how much was written.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::wait_until;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::{fail, redkeep, refused, run, succeed};

async fn stored(version: Version, method: &str, shape: &Shape) -> Result<(tempfile::TempDir, String)> {
    let server = RedisServer::start(version)?;
    apply(&mut server.connect().await?, shape, 1, 2500).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    succeed(["backup", "--source", &server.url(), "--method", method, "--storage", &store, "--cluster", "given"]);
    Ok((place, store))
}

async fn keys(server: &RedisServer) -> Result<i64> {
    Ok(redis::from_redis_value(server.command(&["DBSIZE"]).await?)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_empty_is_refused() -> Result<()> {
    let (place, store) = stored(Version::Redis70, "rdb", &Shape::standalone(Version::Redis70)).await?;
    let target = place.path().join("data");
    std::fs::create_dir(&target)?;
    std::fs::write(target.join("dump.rdb"), "precious")?;
    fail(5, &["empty"], ["restore", "--storage", &store, "latest", "--target-dir", target.to_str().context("a path")?]);
    ensure!(std::fs::read(target.join("dump.rdb"))? == b"precious", "what was there was touched");
    ensure!(std::fs::read_dir(&target)?.count() == 1, "something was placed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_empty_is_refused() -> Result<()> {
    for method in ["rdb", "aof"] {
        let (_place, store) = stored(Version::Redis70, method, &Shape::standalone(Version::Redis70)).await?;
        let target = RedisServer::start(Version::Redis70)?;
        target.command(&["SET", "precious", "value"]).await?;
        fail(5, &["empty"], ["restore", "--storage", &store, "latest", "--target", &target.url()]);
        ensure!(keys(&target).await? == 1, "{method}: what was there was touched");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_is_refused() -> Result<()> {
    let (place, store) = stored(Version::Redis82, "rdb", &Shape::standalone(Version::Redis82)).await?;
    for version in [Version::Redis62, Version::Redis70, Version::Valkey81] {
        let target = RedisServer::start(version)?;
        fail(5, &["version"], ["restore", "--storage", &store, "latest", "--target", &target.url()]);
        ensure!(keys(&target).await? == 0, "{version:?} was touched");
    }
    let folder = place.path().join("data").display().to_string();
    fail(5, &["7.0"], ["restore", "--storage", &store, "latest", "--target-dir", &folder, "--server-version", "7.0"]);
    ensure!(!Path::new(&folder).exists() || std::fs::read_dir(&folder)?.next().is_none(), "something was placed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_the_target_has_not_is_refused() -> Result<()> {
    let (_place, store) = stored(Version::Redis70, "rdb", &Shape::standalone(Version::Redis70)).await?;
    let target = RedisServer::start_with(Version::Redis70, &["--databases", "4"])?;
    fail(5, &["database"], ["restore", "--storage", &store, "latest", "--target", &target.url()]);
    let node = RedisServer::start_with(Version::Redis70, &["--cluster-enabled", "yes"])?;
    let mut words = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
    words.extend((0..16_384).map(|slot: u16| slot.to_string()));
    node.command(&words.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    fail(
        5,
        &["database"],
        ["restore", "--storage", &store, "latest", "--target", &format!("redis-cluster://{}", node.address())],
    );
    // The way that works: the databases that fit, mapped.
    succeed([
        "restore",
        "--storage",
        &store,
        "latest",
        "--target",
        &target.url(),
        "--db",
        "0",
        "--db",
        "3",
        "--db",
        "9:1",
    ]);
    ensure!(keys(&target).await? > 100, "database 0 is empty");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_out_of_memory_says_how_much_was_written() -> Result<()> {
    let source = RedisServer::start(Version::Redis70)?;
    source.command(&["DEBUG", "POPULATE", "200000", "key", "100"]).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    succeed(["backup", "--source", &source.url(), "--method", "rdb", "--storage", &store, "--cluster", "given"]);
    let target = RedisServer::start_with(Version::Redis70, &["--maxmemory-policy", "noeviction"])?;
    let used: u64 = target.info("used_memory").await?.parse()?;
    // Less than the file alone: nothing is even begun.
    target.command(&["CONFIG", "SET", "maxmemory", &(used + (1 << 20)).to_string()]).await?;
    let said = run(["restore", "--storage", &store, "latest", "--target", &target.url()]);
    refused(&said, 5, &["maxmemory", "at least"], "restore into a server that is too small");
    ensure!(keys(&target).await? == 0, "something was written");
    // More than the file, less than the keys take.
    target.command(&["CONFIG", "SET", "maxmemory", &(used + (12 << 20)).to_string()]).await?;
    let said = run(["restore", "--storage", &store, "latest", "--target", &target.url()]);
    refused(&said, 1, &["oom", "empty the target"], "restore into a full server");
    let written = keys(&target).await?;
    ensure!(written > 0 && written < 200_000, "the server took {written} keys");
    let applied = format!(": {written} keys were written");
    ensure!(said.stderr.contains(&applied), "{written} keys were written, but it says: {}", said.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_keys_of_his_own_in_the_target_is_not_told_to_empty_it() -> Result<()> {
    let source = RedisServer::start(Version::Redis70)?;
    source.command(&["DEBUG", "POPULATE", "100000", "key", "100"]).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    succeed(["backup", "--source", &source.url(), "--method", "rdb", "--storage", &store, "--cluster", "given"]);
    let target = RedisServer::start_with(Version::Redis70, &["--maxmemory-policy", "noeviction"])?;
    target.command(&["SET", "precious", "value"]).await?;
    let used: u64 = target.info("used_memory").await?.parse()?;
    target.command(&["CONFIG", "SET", "maxmemory", &(used + (6 << 20)).to_string()]).await?;
    let url = target.url();
    let said = run(["restore", "--storage", &store, "latest", "--target", &url, "--on-conflict", "skip"]);
    refused(&said, 1, &["stopped half-way", "held 1 keys before"], "restore beside other keys");
    let written = keys(&target).await? - 1;
    ensure!(written > 0 && said.stderr.contains(&format!(": {written} keys were written")), "{written}: {said:#?}");
    ensure!(!said.stderr.contains("empty the target"), "{said:#?}");
    target.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    succeed(["restore", "--storage", &store, "latest", "--target", &url, "--on-conflict", "skip"]);
    ensure!(keys(&target).await? == 100_001, "what it says to do next does not work");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_write_is_refused_before_anything_is_written() -> Result<()> {
    for (version, method, denied) in [
        (Version::Redis62, "rdb", "restore"),
        (Version::Redis70, "rdb", "restore"),
        (Version::Redis70, "rdb", "select"),
        (Version::Redis70, "aof", "rpush"),
        (Version::Redis82, "aof", "rpush"),
    ] {
        let (_place, store) = stored(version, method, &Shape::standalone(version)).await?;
        let target = RedisServer::start(version)?;
        target.command(&["ACL", "SETUSER", "rs", "on", ">rs", "~*", "&*", "+@all", &format!("-{denied}")]).await?;
        let url = format!("redis://rs:rs@{}", target.address());
        for more in [&["--dry-run"][..], &[]] {
            let arguments = ["restore", "--storage", &store, "latest", "--target", &url];
            fail(5, &[denied, &format!("ACL SETUSER rs +{denied}")], arguments.iter().chain(more));
        }
        ensure!(keys(&target).await? == 0, "{version:?} {method} {denied}: something was written");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_denied_half_way_is_named_with_its_rule() -> Result<()> {
    let source = RedisServer::start_with(Version::Redis70, &["--appendonly", "yes", "--appendfsync", "always"])?;
    let mut writes = redis::pipe();
    for number in 0..2000 {
        writes.cmd("SET").arg(format!("key:{number}")).arg("v").ignore();
    }
    writes.cmd("RPUSH").arg(&["list", "one"]).ignore();
    writes.query_async::<()>(&mut source.connect().await?).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    let directory = source.dir().to_str().context("a path")?;
    succeed(["backup", "--source", directory, "--method", "aof", "--storage", &store, "--cluster", "given"]);
    let target = RedisServer::start(Version::Redis70)?;
    // Nobody can ask what this user may do.
    target.command(&["ACL", "SETUSER", "rs", "on", ">rs", "~*", "&*", "+@all", "-rpush", "-acl"]).await?;
    let url = format!("redis://rs:rs@{}", target.address());
    let said = run(["restore", "--storage", &store, "latest", "--target", &url]);
    refused(&said, 1, &["stopped half-way", "ACL SETUSER rs +rpush", "empty the target"], "restore without a right");
    ensure!(!said.stderr.contains("--on-conflict"), "an append-only file does not know it: {said:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_room_is_refused() -> Result<()> {
    let source = RedisServer::start(Version::Redis70)?;
    source.command(&["DEBUG", "POPULATE", "100000", "key", "100"]).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    succeed(["backup", "--source", &source.url(), "--method", "rdb", "--storage", &store, "--cluster", "given"]);
    let small = Mounted::new("1m")?;
    let Some(small) = small else { return Ok(()) };
    let target = small.0.path().join("data").display().to_string();
    for dry_run in [&["--dry-run"][..], &[]] {
        let arguments = ["restore", "--storage", &store, "latest", "--target-dir", &target];
        let said = run(arguments.iter().chain(dry_run));
        refused(&said, 5, &["takes", "are free there"], "restore into a directory without room");
        ensure!(std::fs::read_dir(small.0.path())?.next().is_none(), "something was left");
    }
    Ok(())
}

/// A small file system, where this user may mount one.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(size: &str) -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(folder.path());
        if !mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
            println!("skipped: this user may not mount a file system");
            return Ok(None);
        }
        Ok(Some(Self(folder)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_target_is_refused() -> Result<()> {
    let (_place, store) = stored(Version::Redis70, "rdb", &Shape::standalone(Version::Redis70)).await?;
    let primary = RedisServer::start(Version::Redis70)?;
    let replica = RedisServer::start(Version::Redis70)?;
    redkeep_testing::topology::replicate(&replica, &primary).await?;
    let said = run(["restore", "--storage", &store, "latest", "--target", &replica.url()]);
    ensure!(said.code == Some(5) || said.code == Some(1), "{said:#?}");
    refused(&said, said.code.unwrap_or(1), &["replica"], "restore into a replica");
    ensure!(keys(&primary).await? == 0, "something was written");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_chosen_and_conflicts_decided() -> Result<()> {
    let shape = Shape { databases: vec![0], ..Shape::standalone(Version::Redis70) };
    let (_place, store) = stored(Version::Redis70, "rdb", &shape).await?;
    let target = RedisServer::start(Version::Redis70)?;
    succeed(["restore", "--storage", &store, "latest", "--target", &target.url(), "--match", "hash:*"]);
    let hashes = keys(&target).await?;
    let all: Vec<String> = redis::from_redis_value(target.command(&["KEYS", "*"]).await?)?;
    ensure!(hashes > 10 && all.iter().all(|key| key.starts_with("hash:")), "{all:?}");
    let one = all.first().context("no hashes")?.as_str();
    target.command(&["DEL", one]).await?;
    target.command(&["SET", one, "mine"]).await?;
    succeed([
        "restore",
        "--storage",
        &store,
        "latest",
        "--target",
        &target.url(),
        "--match",
        "hash:*",
        "--on-conflict",
        "skip",
    ]);
    let kept: String = redis::from_redis_value(target.command(&["GET", one]).await?)?;
    ensure!(kept == "mine", "skip replaced a key");
    succeed([
        "restore",
        "--storage",
        &store,
        "latest",
        "--target",
        &target.url(),
        "--match",
        "hash:*",
        "--on-conflict",
        "replace",
    ]);
    let kind: String = redis::from_redis_value(target.command(&["TYPE", one]).await?)?;
    ensure!(kind == "hash" && keys(&target).await? == hashes, "replace did not");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_choice_that_matches_no_key_is_a_failure() -> Result<()> {
    let shape = Shape { databases: vec![0], ..Shape::standalone(Version::Redis70) };
    let (_place, store) = stored(Version::Redis70, "rdb", &shape).await?;
    let target = RedisServer::start(Version::Redis70)?;
    for choice in [["--match", "hahs:*"], ["--db", "5"]] {
        let arguments = ["restore", "--storage", &store, "latest", "--target", &target.url()];
        fail(1, &["none of", "inspect"], arguments.into_iter().chain(choice));
        ensure!(keys(&target).await? == 0, "{choice:?} restored something");
    }
    Ok(())
}

/// A backup of so many keys, large enough to be stopped while it is restored.
async fn large(keys: u32) -> Result<(tempfile::TempDir, String)> {
    let source = RedisServer::start(Version::Redis70)?;
    source.command(&["DEBUG", "POPULATE", &keys.to_string(), "key", "100"]).await?;
    let place = tempfile::tempdir()?;
    let store = place.path().join("store").display().to_string();
    succeed(["backup", "--source", &source.url(), "--method", "rdb", "--storage", &store, "--cluster", "given"]);
    Ok((place, store))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_live_restore_says_exactly_what_was_written() -> Result<()> {
    const KEYS: u32 = 1_000_000;
    let (_place, store) = large(KEYS).await?;
    let target = RedisServer::start(Version::Redis70)?;
    let child = redkeep()
        .args(["restore", "--storage", &store, "latest", "--target", &target.url()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    while keys(&target).await? == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The target holds its breath, so that the signal comes while commands are on their way.
    target.command(&["CLIENT", "PAUSE", "1500", "WRITE"]).await?;
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT)?;
    let said: redkeep_tests::Said = child.wait_with_output()?.into();
    refused(&said, 130, &["stopped half-way"], "interrupted restore");
    let written = keys(&target).await?;
    ensure!(written > 0 && written < i64::from(KEYS), "the server took {written} keys");
    let applied = format!(": {written} keys were written");
    ensure!(said.stderr.contains(&applied), "{written} keys were written, but it says: {}", said.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_restore_left_in_a_directory_goes_with_the_next() -> Result<()> {
    let (place, store) = large(1_000_000).await?;
    let target = place.path().join("data");
    let target_text = target.display().to_string();
    let arguments = ["restore", "--storage", &store, "latest", "--target-dir", &target_text];
    let left = || std::fs::read_dir(&target).map_or(0, Iterator::count);
    let mut child = redkeep().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    // Claim and staging folder.
    while left() < 2 && child.try_wait()?.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // While it is there, even if it does nothing, nobody else restores there.
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::STOP)?;
    fail(5, &["another restore"], arguments);
    child.kill()?;
    child.wait()?;
    ensure!(left() == 2 && !target.join("dump.rdb").exists(), "it was not killed in the middle");
    succeed(arguments);
    ensure!(target.join("dump.rdb").exists(), "nothing was restored");
    let hidden = std::fs::read_dir(&target)?.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0] == b'.');
    ensure!(hidden.count() == 0, "the staging folder is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_command_gave_a_time_which_has_passed_is_not_lost_in_a_live_server() -> Result<()> {
    for (version, number) in [(Version::Redis62, "6.2"), (Version::Redis70, "7.0")] {
        let source = RedisServer::start_with(version, &["--appendonly", "yes", "--appendfsync", "always"])?;
        // In one transaction: however slow this machine is, the key is there when it is kept.
        redis::pipe()
            .atomic()
            .cmd("SET")
            .arg(&["token", "v", "PX", "3000"])
            .cmd("PERSIST")
            .arg("token")
            .query_async::<()>(&mut source.connect().await?)
            .await?;
        let place = tempfile::tempdir()?;
        let store = place.path().join("store").display().to_string();
        let directory = source.dir().to_str().context("a path")?;
        succeed(["backup", "--source", directory, "--method", "aof", "--storage", &store, "--cluster", "given"]);
        // The same time, on a key that is not kept.
        source.command(&["SET", "clock", "v", "PX", "3000"]).await?;
        wait_until("the time to pass", || async {
            Ok(source.command(&["EXISTS", "clock"]).await? == redis::Value::Int(0))
        })
        .await?;
        let target = RedisServer::start(version)?;
        let url = target.url();
        let live = ["restore", "--storage", &store, "latest", "--target", &url];
        fail(5, &["expiry", "--target-dir", "--param expired=warn"], live);
        fail(5, &["expiry"], live.iter().chain(&["--dry-run"]));
        ensure!(keys(&target).await? == 0, "{version:?}: something was written");
        // Who takes the loss is told of it.
        let said = succeed(live.iter().chain(&["--param", "expired=warn", "-o", "json"])).json();
        let warnings = said["warnings"].as_array().context("no warnings")?;
        ensure!(warnings.iter().any(|line| line.as_str().is_some_and(|line| line.contains("expiry"))), "{said:#}");
        let folder = place.path().join("data");
        let folder_text = folder.to_str().context("a path")?;
        let target = ["--target-dir", folder_text, "--appendonly", "yes", "--server-version", number];
        succeed([&["restore", "--storage", &store, "latest"][..], &target].concat());
        let restored = RedisServer::start_in(version, &folder, &["--appendonly", "yes"])?;
        ensure!(restored.command(&["PTTL", "token"]).await? == redis::Value::Int(-1), "{version:?}: the key is lost");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_single_server_are_refused_by_a_cluster() -> Result<()> {
    let shape = Shape { databases: vec![0], ..Shape::standalone(Version::Redis70) };
    let (_place, store) = stored(Version::Redis70, "aof", &shape).await?;
    let node = RedisServer::start_with(Version::Redis70, &["--cluster-enabled", "yes"])?;
    node.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await?;
    let target = format!("redis-cluster://{}", node.address());
    fail(5, &["cluster", "rdb"], ["restore", "--storage", &store, "latest", "--target", &target]);
    ensure!(keys(&node).await? == 0, "something was written");
    Ok(())
}
