//! By which Rust toolchain a plugin is built: a pure choice among what is found.
//!
//! Best is one that has the standard library for wasm. Without it the library is built from its source (`-Z build-std`), which
//! rustup has as `rust-src` and Debian as `rust-web-src`. Debian's toolchain serves too where another one comes first in PATH.

use std::path::{Path, PathBuf};

use redkeep_core::classify::Class;
use tokio::process::Command;

use super::tools::{command, find, run};
use crate::output::failure::Failure;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// Where Debian has its own.
const DEBIAN: &str = "/usr/bin";
const HELP: &str = "run `rustup target add wasm32-unknown-unknown`; where that cannot be had, on Debian: \
                    apt-get install rustc-web cargo-web rust-web-src lld";

/// A toolchain, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Toolchain {
    /// It has the standard library for wasm.
    target: bool,
    /// It has the standard library's source.
    source: bool,
    /// It brings a linker for wasm.
    linker: bool,
}

/// What is on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    /// The toolchain whose `rustc` comes first in PATH, rustup's or not.
    first: Toolchain,
    /// Debian's.
    debian: Option<Toolchain>,
    /// `wasm-ld` is in PATH, for toolchains without a linker of their own.
    wasm_ld: bool,
}

/// How to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    /// By Debian's toolchain instead of the first in PATH.
    debian: bool,
    /// The standard library is built too.
    build_std: bool,
    /// By `wasm-ld` instead of the toolchain's own linker.
    wasm_ld: bool,
}

/// The first way that can work; none does: `None`.
fn choose(found: Found) -> Option<Route> {
    let debian = found.debian.unwrap_or_default();
    // What needs no building comes first, then the toolchain that the user has chosen.
    let ways = [(false, false, found.first), (true, false, debian), (false, true, found.first), (true, true, debian)];
    let works = |(_, build_std, toolchain): &(bool, bool, Toolchain)| {
        (if *build_std { toolchain.source } else { toolchain.target }) && (toolchain.linker || found.wasm_ld)
    };
    let (debian, build_std, toolchain) = ways.into_iter().find(works)?;
    Some(Route { debian, build_std, wasm_ld: !toolchain.linker })
}

/// A command without what belongs to a run of cargo that redkeep itself may be in.
pub(super) fn plain(program: &Path, dir: &Path) -> Command {
    let mut command = command(program, dir);
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// `cargo build` by the toolchain that can, without the target and the profile.
pub(super) async fn build(cargo: &Path, dir: &Path) -> Result<Command, Failure> {
    let missing = || {
        Failure::new(Class::NotFound, "ToolMissing", format!("there is no Rust standard library for {TARGET}"))
            .with_help(HELP)
    };
    let (debian_rustc, debian_cargo) = (Path::new(DEBIAN).join("rustc"), Path::new(DEBIAN).join("cargo"));
    let first = match find("rustc", &[]) {
        Some(rustc) => look(&rustc, dir).await,
        None => Toolchain::default(),
    };
    let debian = if debian_rustc.is_file() { Some(look(&debian_rustc, dir).await) } else { None };
    let route = choose(Found { first, debian, wasm_ld: find("wasm-ld", &[]).is_some() }).ok_or_else(missing)?;
    let mut build = if route.debian {
        // Another cargo serves where Debian's is not installed: it is told which compiler to use.
        let cargo = Some(debian_cargo).filter(|cargo| cargo.is_file()).unwrap_or_else(|| cargo.to_owned());
        let mut build = plain(&cargo, dir);
        build.env("RUSTC", &debian_rustc);
        build
    } else {
        plain(cargo, dir)
    };
    build.arg("build");
    if route.build_std {
        build.args(["-Z", "build-std=std,panic_abort"]).env("RUSTC_BOOTSTRAP", "1");
    }
    if route.wasm_ld {
        build.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld");
    }
    Ok(build)
}

/// What a compiler's toolchain has; nothing, where it does not run.
async fn look(rustc: &Path, dir: &Path) -> Toolchain {
    let sysroot = run(plain(rustc, dir).args(["--print", "sysroot"])).await.unwrap_or_default();
    if sysroot.trim().is_empty() {
        return Toolchain::default();
    }
    let rustlib = PathBuf::from(sysroot.trim()).join("lib/rustlib");
    // rustup's lies below the host's own target.
    let of_hosts = std::fs::read_dir(&rustlib).into_iter().flatten().flatten();
    Toolchain {
        target: rustlib.join(TARGET).join("lib").is_dir(),
        source: rustlib.join("src/rust/library/std").is_dir(),
        linker: of_hosts.map(|host| host.path().join("bin/rust-lld")).any(|linker| linker.is_file()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOTHING: Toolchain = Toolchain { target: false, source: false, linker: false };
    const RUSTUP: Toolchain = Toolchain { linker: true, ..NOTHING };
    const DEBIANS: Toolchain = Toolchain { source: true, ..NOTHING };

    #[expect(clippy::unnecessary_wraps, reason = "the table reads better")]
    fn route(debian: bool, build_std: bool, wasm_ld: bool) -> Option<Route> {
        Some(Route { debian, build_std, wasm_ld })
    }

    #[rstest]
    #[case::rustup_with_the_target(Toolchain { target: true, ..RUSTUP }, None, false, route(false, false, false))]
    #[case::the_target_before_the_source(Toolchain { target: true, source: true, linker: true }, Some(DEBIANS), true, route(false, false, false))]
    #[case::debian_alone(DEBIANS, Some(DEBIANS), true, route(false, true, true))]
    #[case::debian_with_the_packaged_target(Toolchain { target: true, ..DEBIANS }, None, true, route(false, false, true))]
    #[case::rustup_first_and_debian_has_the_source(RUSTUP, Some(DEBIANS), true, route(true, true, true))]
    #[case::rustup_first_and_debian_has_the_target(RUSTUP, Some(Toolchain { target: true, ..NOTHING }), true, route(true, false, true))]
    #[case::rustup_with_its_own_source(Toolchain { source: true, ..RUSTUP }, Some(DEBIANS), true, route(false, true, false))]
    #[case::debian_without_a_linker(DEBIANS, Some(DEBIANS), false, None)]
    #[case::debian_without_the_source(NOTHING, Some(NOTHING), true, None)]
    #[case::rustup_without_anything(RUSTUP, None, true, None)]
    fn the_first_way_that_can_work_is_chosen(
        #[case] first: Toolchain,
        #[case] debian: Option<Toolchain>,
        #[case] wasm_ld: bool,
        #[case] wanted: Option<Route>,
    ) {
        assert_eq!(choose(Found { first, debian, wasm_ld }), wanted);
    }

    #[tokio::test]
    async fn a_compilers_toolchain_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let script = format!("#!/bin/sh\necho {}\n", folder.path().display());
        std::fs::write(at("rustc"), script).unwrap();
        let shell = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(at("rustc"), shell(0o755)).unwrap();
        assert_eq!(look(&at("rustc"), folder.path()).await, NOTHING);
        std::fs::create_dir_all(at("lib/rustlib/src/rust/library/std")).unwrap();
        std::fs::create_dir_all(at("lib/rustlib/x86_64-unknown-linux-gnu/bin")).unwrap();
        assert_eq!(look(&at("rustc"), folder.path()).await, DEBIANS);
        std::fs::write(at("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"), "").unwrap();
        std::fs::create_dir_all(at("lib/rustlib").join(TARGET).join("lib")).unwrap();
        assert_eq!(look(&at("rustc"), folder.path()).await, Toolchain { target: true, source: true, linker: true });
        assert_eq!(look(&at("no-such-compiler"), folder.path()).await, NOTHING);
    }
}
