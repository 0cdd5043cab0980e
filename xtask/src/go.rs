//! Go, new enough for what is compiled here. Debian 12's is too old by itself, but it can fetch a newer one: the Go team
//! publishes toolchains as modules, which every module proxy serves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{find_program, install_packages, output, run, say};

/// From this minor version of Go 1 on, `go` fetches the toolchain that a module asks for by itself.
const SELF_UPDATING: u32 = 21;
/// The toolchain that an older Go is replaced by.
const TOOLCHAIN: &str = "v0.0.1-go1.24.13";

/// Makes sure that there is one.
pub(crate) fn need() -> Result<()> {
    if find_program("go").is_some_and(|go| minor_version(&go).is_some_and(|minor| minor >= SELF_UPDATING))
        || own().join("bin/go").is_file()
    {
        return Ok(());
    }
    if find_program("go").is_none() {
        install_packages(&["golang-go"])?;
    }
    let old = find_program("go").context("go is still missing after installing golang-go")?;
    if minor_version(&old).is_some_and(|minor| minor >= SELF_UPDATING) {
        return Ok(());
    }
    bootstrap(&old)
}

/// `PATH` for programs that compile with Go.
pub(crate) fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = own().join("bin");
    if !own.join("go").is_file() {
        return path;
    }
    let folders = std::iter::once(own).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

/// `go version go1.19.8 linux/amd64` is 19.
fn minor_version(go: &Path) -> Option<u32> {
    let text = output(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")).ok()?;
    let version = text.split_whitespace().nth(2)?.strip_prefix("go1.")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn own() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/redkeep-go")
}

fn bootstrap(old: &Path) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("install Go 1.{SELF_UPDATING} or newer by hand: no toolchain is known for {other}"),
    };
    let module = format!("golang.org/toolchain@{TOOLCHAIN}.linux-{architecture}");
    say(&format!("fetching {module}"));
    let described = output(Command::new(old).args(["mod", "download", "-json", &module]).current_dir("/"))?;
    let described: serde_json::Value = serde_json::from_str(&described).context("failed to read what go downloaded")?;
    let folder = described["Dir"].as_str().context("go did not say where the toolchain is")?;
    // The module cache holds files without their executable bit, and is read-only.
    let new = own().with_extension("new");
    run(Command::new("rm").arg("-rf").arg(&new))?;
    std::fs::create_dir_all(new.parent().context("no cache folder")?)?;
    run(Command::new("cp").args(["-r", folder]).arg(&new))?;
    run(Command::new("chmod").args(["-R", "u+w,+x"]).args(["bin", "pkg/tool"].map(|part| new.join(part))))?;
    std::fs::rename(&new, own()).context("failed to place the Go toolchain")
}
