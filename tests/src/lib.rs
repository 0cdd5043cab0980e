//! The harness of the end-to-end tests: runs the real `redkeep` program as a user would.
//!
//! `cargo xtask test` builds the program and the plugins first; run alone, a test says what is missing.

#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a harness fails loudly")]

pub mod authoring;
pub mod kube;
pub mod registry;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The program under test: `REDKEEP_BIN`, else the one in the target folder that this program is in: beside it (the demo), or beside
/// its folder `deps` (a test).
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REDKEEP_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program is in no folder")?;
    let profile = if folder.ends_with("deps") { folder.parent().context("no target folder")? } else { folder };
    let path = profile.join("redkeep");
    if !path.is_file() {
        bail!(
            "{} is missing: run `cargo xtask plugins && cargo build -p redkeep`, or `cargo xtask test`",
            path.display()
        );
    }
    Ok(path)
}

/// Whether the long forms were asked for (`cargo xtask test --full`).
pub fn full() -> bool {
    std::env::var_os("REDKEEP_FULL").is_some()
}

/// A command of the program with a clean environment: no storage, no credentials, no colour, its own cache.
pub fn redkeep() -> Command {
    let mut command = Command::new(program().unwrap_or_else(|error| panic!("{error:#}")));
    for name in
        ["REDKEEP_STORAGE", "REDISCLI_AUTH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "REDKEEP_REPORT_FILE"]
    {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program to its end.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Said {
    let mut command = redkeep();
    command.args(arguments);
    finish(command)
}

/// Runs a prepared command to its end.
pub fn finish(mut command: Command) -> Said {
    command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}")).into()
}

/// Runs the program, which must succeed.
pub fn succeed<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Said {
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    let said = run(&arguments);
    assert_eq!(said.code, Some(0), "redkeep {arguments:?} failed: {said:#?}");
    said
}

/// Runs the program, which must fail with `code`, name the cause in `naming`, and say what to do.
pub fn fail<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(code: i32, naming: &[&str], arguments: I) -> Said {
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    let said = run(&arguments);
    refused(&said, code, naming, &format!("{arguments:?}"));
    said
}

/// The same check on a run that has ended.
pub fn refused(said: &Said, code: i32, naming: &[&str], what: &str) {
    assert_eq!(said.code, Some(code), "redkeep {what}: {said:#?}");
    let text = said.stderr.to_lowercase();
    for word in naming {
        assert!(text.contains(&word.to_lowercase()), "redkeep {what} does not say {word:?}: {said:#?}");
    }
    assert!(text.contains("help:"), "redkeep {what} has no help line: {said:#?}");
    assert!(!text.contains("panicked at"), "redkeep {what} panicked: {said:#?}");
}

/// Skips a test by name where a tool is missing; in CI that is a failure.
pub fn need(tool: &str) -> bool {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push(home.join("go/bin"));
    if folders.iter().any(|folder| folder.join(tool).is_file()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{tool} is not on this machine, and CI skips nothing");
    eprintln!("skipped: {tool} is not on this machine");
    false
}
