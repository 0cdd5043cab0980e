//! Real servers of every version that redkeep supports, and where to find them.

use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{need_programs, output, root, say};

/// Installs what is missing and returns `NAME=PATH` lines.
pub(crate) fn install() -> Result<String> {
    need_programs(&[("redis-server", "redis-server"), ("redis-check-rdb", "redis-tools"), ("python3", "python3-pip")])?;
    say("real servers: redis 6.2, 7.0, 8.2, valkey 8.1");
    output(&mut Command::new(root().join("tests/services/redis-servers"))).context("failed to install servers")
}

pub(crate) fn print() -> Result<()> {
    print!("{}", install()?);
    Ok(())
}
