//! A backup in an S3 server that others wrote (versitygw): multipart, encrypted, restored by `redkeep`, and by hand with
//! `age`, `zstd` and `redis-check-rdb`, as `docs/format.md` says.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use redkeep_testing::dataset::Dataset;
use redkeep_testing::gateway::{self, ACCESS_KEY, SECRET_KEY};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::{finish, need, redkeep};

/// The gateway, and redkeep pointed at it.
struct Gateway {
    server: gateway::Gateway,
}

impl Gateway {
    async fn start() -> Result<Self> {
        Ok(Self { server: gateway::Gateway::start().await? })
    }

    fn redkeep(&self, arguments: &[&str]) -> Command {
        let mut command = redkeep();
        command.args(arguments).args([
            "--storage",
            "s3://bucket/some/prefix",
            "--s3-region",
            "us-east-1",
            "--s3-path-style",
        ]);
        command.arg("--s3-endpoint").arg(self.server.endpoint());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }

    fn succeed(&self, arguments: &[&str]) -> Result<redkeep_tests::Said> {
        let said = finish(self.redkeep(arguments));
        ensure!(said.code == Some(0), "redkeep {arguments:?}: {said:#?}");
        Ok(said)
    }
}

async fn filled() -> Result<RedisServer> {
    let server = RedisServer::start(Version::Redis70)?;
    let mut connection = server.connect().await?;
    apply(&mut connection, &Shape::standalone(Version::Redis70), 1, 3000).await?;
    // 32 MB that do not compress: several parts.
    let mut random = rand::rng();
    for number in 0..64 {
        let mut value = vec![0_u8; 512 << 10];
        random.fill(value.as_mut_slice());
        redis::cmd("SET").arg(format!("big:{number}")).arg(value).query_async::<()>(&mut connection).await?;
    }
    Ok(server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_opens_with_ordinary_tools() -> Result<()> {
    if !(need("versitygw") && need("age") && need("zstd") && need("redis-check-rdb")) {
        return Ok(());
    }
    let gateway = Gateway::start().await?;
    let source = filled().await?;
    let before = Dataset::of(&source).await?;
    let place = tempfile::tempdir()?;
    let key = place.path().join("key.txt");
    let made = Command::new("age-keygen").arg("-o").arg(&key).output()?;
    let recipient =
        String::from_utf8_lossy(&made.stderr).split_whitespace().last().context("no public key")?.to_owned();
    let key = key.to_str().context("a path")?;

    let manifest = gateway
        .succeed(&[
            "backup",
            "--source",
            &source.url(),
            "--method",
            "rdb",
            "--cluster",
            "by-hand",
            "--recipient",
            &recipient,
            "-o",
            "json",
        ])?
        .json();
    let artifact = &manifest["artifacts"][0];
    let stored = artifact["key"].as_str().context("no key")?;
    ensure!(stored.ends_with("dump.rdb.zst.age"), "stored as {stored}");
    ensure!(artifact["storedSize"].as_u64() > Some(16 << 20), "not multipart: {artifact:#}");
    gateway.succeed(&["verify", "latest", "--level", "boot", "--identity", key])?;

    // By redkeep.
    let target = place.path().join("data");
    gateway.succeed(&[
        "restore",
        "latest",
        "--identity",
        key,
        "--appendonly",
        "yes",
        "--target-dir",
        target.to_str().context("a path")?,
    ])?;
    let restored = RedisServer::start_in(Version::Redis70, &target, &["--appendonly", "yes"])?;
    let differences = before.differences(&Dataset::of(&restored).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");

    // By hand: the gateway keeps objects as files.
    let object = gateway.server.folder().join("bucket/some/prefix").join(stored);
    let by_hand = place.path().join("by-hand");
    std::fs::create_dir(&by_hand)?;
    open_by_hand(&object, key, &by_hand.join("dump.rdb"))?;
    let restored = RedisServer::start_in(Version::Redis70, &by_hand, &[])?;
    let differences = before.differences(&Dataset::of(&restored).await?, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}

fn open_by_hand(object: &Path, key: &str, to: &Path) -> Result<()> {
    let pipeline = format!("age -d -i '{key}' '{}' | zstd -d -o '{}'", object.display(), to.display());
    let status = Command::new("bash").args(["-o", "pipefail", "-c", &pipeline]).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{pipeline} failed");
    let checked = Command::new("redis-check-rdb").arg(to).output()?;
    ensure!(checked.status.success(), "redis-check-rdb: {}", String::from_utf8_lossy(&checked.stdout));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_dies_or_denies_leaves_no_backup() -> Result<()> {
    if !need("versitygw") {
        return Ok(());
    }
    let mut gateway = Gateway::start().await?;
    let source = filled().await?;
    let denied = {
        let mut command =
            gateway.redkeep(&["backup", "--source", &source.url(), "--method", "rdb", "--cluster", "denied"]);
        command.env("AWS_SECRET_ACCESS_KEY", "another-key");
        finish(command)
    };
    redkeep_tests::refused(&denied, 1, &["credential"], "backup with a wrong key");
    ensure!(!denied.stderr.contains("another-key"), "the key is shown");

    let child = gateway
        .redkeep(&[
            "backup",
            "--source",
            &source.url(),
            "--method",
            "rdb",
            "--cluster",
            "dying",
            "--compression",
            "none",
            "--limit-rate",
            "8M",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gateway.server.kill();
    let said: redkeep_tests::Said = child.wait_with_output()?.into();
    redkeep_tests::refused(&said, 1, &[], "backup into storage that dies");
    let found = Command::new("find").arg(gateway.server.folder()).args(["-name", "manifest.json"]).output()?;
    ensure!(found.stdout.is_empty(), "a manifest was left: {}", String::from_utf8_lossy(&found.stdout));
    Ok(())
}
