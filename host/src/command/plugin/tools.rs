//! The tools that building a plugin needs: found, or named with the way to get them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use redkeep_core::classify::Class;
use tokio::process::Command;

use crate::output::failure::Failure;

/// Lines of a failed tool's output that are shown.
const SHOWN_LINES: usize = 30;

/// A program in one of these folders, else in PATH.
pub(super) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(std::env::split_paths(&path));
    all.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The same; what is missing is named with how to get it.
pub(super) fn need(name: &str, folders: &[PathBuf], how: &str) -> Result<PathBuf, Failure> {
    find(name, folders).ok_or_else(|| {
        Failure::new(
            Class::NotFound,
            "ToolMissing",
            format!("{name} is needed to build this plugin, and it is not there"),
        )
        .with_help(how)
    })
}

/// A command in a folder; dropping its run ends it.
pub(super) fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end; a failure shows the end of what it said. Returns its standard output.
pub(super) async fn run(command: &mut Command) -> Result<String, Failure> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .await
        .map_err(|error| Failure::failed("ToolFailed", format!("failed to start {name}")).caused_by(&error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut failure = Failure::failed("ToolFailed", format!("{name} failed ({})", output.status));
    failure.causes =
        lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)).map(|line| (*line).to_owned()).collect();
    Err(failure)
}
