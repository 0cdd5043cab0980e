//! Real servers of every version that redkeep supports, and the storage servers that others wrote.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::go;
use crate::workspace::{need_programs, output, root, run, say};

/// Debian's Redis: all that the demo needs.
pub(crate) fn need_redis() -> Result<()> {
    need_programs(&[("redis-server", "redis-server")])
}

/// Installs what is missing of Redis and Valkey and returns `NAME=PATH` lines.
pub(crate) fn install() -> Result<String> {
    need_redis()?;
    need_programs(&[("redis-check-rdb", "redis-tools"), ("python3", "python3-pip")])?;
    say("real servers: redis 6.2, 7.0, 8.2, valkey 8.1");
    output(&mut Command::new(script("redis-servers"))).context("failed to install servers")
}

/// Installs the storage servers of the conformance suite, a registry, and the ordinary tools that open a backup by hand.
pub(crate) fn install_storage() -> Result<()> {
    need_programs(&[("age", "age"), ("zstd", "zstd"), ("openssl", "openssl"), ("npm", "npm")])?;
    need_programs(&[("docker-registry", "docker-registry")])?;
    go::need()?;
    say("storage servers: versitygw, azurite, gcp-storage-emulator");
    run(Command::new(script("install-storage-servers")).env("PATH", go::path()))
        .context("failed to install storage servers")
}

/// Installs ZooKeeper, for the plugin that backs it up.
pub(crate) fn install_zookeeper() -> Result<()> {
    need_programs(&[("javac", "default-jdk-headless"), ("mvn", "maven")])?;
    say("zookeeper: 3.9");
    output(&mut Command::new(script("zookeeper"))).context("failed to install ZooKeeper").map(drop)
}

/// Where `tests/services/redis-servers` puts them.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redkeep-servers")
}

fn script(name: &str) -> PathBuf {
    root().join("tests/services").join(name)
}

pub(crate) fn print() -> Result<()> {
    print!("{}", install()?);
    install_zookeeper()?;
    Ok(())
}
