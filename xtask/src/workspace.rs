//! Where things are, and running programs with errors that name them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root: of the clone that `cargo xtask` is called in, which need not be the one that this was compiled in where
/// clones share a target folder.
pub(crate) fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The target folder that cargo uses here.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Prints what begins, so that a log shows where time goes.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A cargo command in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    // `cargo run` sets these for xtask itself. A nested cargo with another toolchain must not see them; and build scripts
    // (ring's) run anew when one changes, with everything that depends on them: minutes, whenever somebody calls cargo both
    // ways.
    for name in
        ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"]
    {
        command.env_remove(name);
    }
    let set_for_xtask =
        |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|one| name.starts_with(one));
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| set_for_xtask(name)) {
        command.env_remove(name);
    }
    command.current_dir(root());
    command
}

/// Runs a command to its end; a failure names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("failed to start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("failed to start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The program's path, where it is in PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Makes sure that programs are there, installing Debian packages where that can be done.
pub(crate) fn need_programs(pairs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = pairs.iter().filter(|(program, _)| find_program(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    install_packages(&packages)?;
    for (program, package) in missing {
        if find_program(program).is_none() {
            bail!("{program} is still missing after installing {package}");
        }
    }
    Ok(())
}

/// Installs Debian packages; where that cannot be done the error says what to install by hand.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!("install these by your system's package manager, then run this again: {list}");
    }
    say(&format!("installing {list}"));
    let install = |quiet: bool| {
        let mut command = Command::new("apt-get");
        command.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(packages);
        // Nothing may start by itself: tests start their own servers on free ports.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command.stdout(std::process::Stdio::null());
        if quiet {
            command.stderr(std::process::Stdio::null());
        }
        run(&mut command)
    };
    if install(true).is_err() {
        run(Command::new("apt-get").args(["update", "--quiet=2"]))?;
        install(false).with_context(|| format!("install these by hand, then run this again: {list}"))?;
    }
    Ok(())
}
