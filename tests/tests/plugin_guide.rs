//! The guide for authors is true: every command of it, as written and in order, in an empty folder.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use redkeep_tests::authoring::{Language, author, guide};

#[test]
fn every_command_of_the_guide_works_as_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let blocks = guide("sh")?;
    ensure!(blocks.len() >= 5, "the guide has {} blocks of commands", blocks.len());
    // One shell, as a reader has one: a folder that was entered and a variable that was set stay.
    let mut script = "set -eu\n".to_owned();
    for block in &blocks {
        writeln!(script, "{block}\necho '--- done'")?;
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(folder.path()).stdin(Stdio::null());
    shell.env("NO_COLOR", "1").env("HOME", home()?).env_remove("REDKEEP_STORAGE");
    author(&mut shell, Language::Rust)?;
    // As a reader's cargo: the plugin's own target folder.
    let output = shell.output()?;
    // A guide that stopped half-way leaves its server.
    let _ = Command::new("redis-cli").args(["-p", "16379", "shutdown", "nosave"]).output();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{said}\n--- standard error\n{wrong}", output.status);
    ensure!(said.matches("--- done").count() == blocks.len(), "{said}");
    for proof in ["my-method", "ok      a dataset makes the round trip", "redis:replicate", "@sha256:"] {
        ensure!(said.contains(proof), "the guide's commands do not show {proof:?}:\n{said}");
    }
    let restored = folder.path().join("restored/dump.rdb");
    ensure!(std::fs::read(&restored)?.starts_with(b"REDIS"), "{} is no snapshot", restored.display());
    Ok(())
}

fn home() -> Result<std::ffi::OsString> {
    std::env::var_os("HOME").ok_or_else(|| anyhow::anyhow!("HOME is not set"))
}
