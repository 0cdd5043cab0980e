//! Builds the plugins: core modules by cargo, components by `wit-component`, into `plugins/dist`.
//!
//! Where rustup has the wasm target, that is used. Elsewhere (no network to rustup's servers) Debian's `rustc-web` with
//! its own source of the standard library does it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wit_component::ComponentEncoder;

use crate::workspace::{cargo, find_program, install_packages, output, root, run, say, target_dir};

const TARGET: &str = "wasm32-unknown-unknown";
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// Builds every plugin of the workspace; returns the components' paths.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    let names = names()?;
    let dist = root().join("plugins/dist");
    std::fs::create_dir_all(&dist).context("failed to create plugins/dist")?;
    // A folder of its own: the flags differ from the host's, and neither build then waits for the other's lock.
    let build_dir = target_dir().join("plugins");
    compile(&names, &build_dir)?;
    let mut components: Vec<PathBuf> =
        names.iter().map(|name| componentize(name, &build_dir, &dist)).collect::<Result<_>>()?;
    components.push(python(&dist)?);
    Ok(components)
}

/// The plugin in Python, by componentize-py out of a virtual environment of its own. Built again only when its source, the
/// contract or the tool changed: it takes a minute of a slow machine.
fn python(dist: &Path) -> Result<PathBuf> {
    let (folder, contract) = (root().join("plugins/example-python"), root().join("wit/v0.1"));
    let path = dist.join("example-python.wasm");
    let mark = dist.join("example-python.made-of");
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    let parts =
        [COMPONENTIZE_PY.as_bytes().to_vec(), read(&folder.join("app.py"))?, read(&contract.join("plugin.wit"))?];
    let made_of = parts.concat();
    if path.is_file() && std::fs::read(&mark).is_ok_and(|before| before == made_of) {
        return Ok(path);
    }
    let tool = componentize_py()?;
    say("building example-python");
    let mut command = std::process::Command::new(tool);
    command.arg("--wit-path").arg(contract).args(["--world", "redis-method", "componentize", "--stub-wasi", "app"]);
    run(command.arg("--output").arg(&path).current_dir(folder))?;
    std::fs::write(&mark, made_of).with_context(|| format!("failed to write {}", mark.display()))?;
    Ok(path)
}

/// Installs componentize-py where it is missing.
fn componentize_py() -> Result<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let environment = home.join(".cache").join(COMPONENTIZE_PY.replace("==", "-"));
    let tool = environment.join("bin/componentize-py");
    if !tool.is_file() {
        say(COMPONENTIZE_PY);
        run(std::process::Command::new("python3").args(["-m", "venv"]).arg(&environment))
            .context("failed to make a virtual environment: on Debian it needs python3-venv")?;
        run(std::process::Command::new(environment.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]))?;
    }
    Ok(tool)
}

/// Packages under `plugins/` that are built as `cdylib`.
fn names() -> Result<Vec<String>> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("failed to read cargo metadata")?;
    let mut names = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let in_plugins = package["manifest_path"].as_str().is_some_and(|path| path.contains("/plugins/"));
        let is_cdylib = package["targets"].as_array().into_iter().flatten().any(|target| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        });
        if in_plugins && is_cdylib {
            names.push(package["name"].as_str().context("a package without a name")?.to_owned());
        }
    }
    if names.is_empty() {
        bail!("no plugins found in the workspace");
    }
    Ok(names)
}

fn compile(names: &[String], build_dir: &Path) -> Result<()> {
    let mut command = cargo();
    if has_target()? {
        command.arg("build");
    } else {
        prepare_debian()?;
        command
            .args(["+debian", "build", "-Z", "build-std=std,panic_abort"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld");
    }
    command.args(["--quiet", "--profile", "plugin", "--target", TARGET]).env("CARGO_TARGET_DIR", build_dir);
    // Set by developers for the host's builds; means nothing to Debian's cargo.
    for name in ["CARGO_UNSTABLE_FEATURE_UNIFICATION", "CARGO_RESOLVER_FEATURE_UNIFICATION", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    for name in names {
        command.args(["--package", name]);
    }
    say(&format!("building {}", names.join(", ")));
    run(&mut command)
}

/// Whether the toolchain in use has the wasm standard library.
fn has_target() -> Result<bool> {
    let sysroot = output(std::process::Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

/// Debian's rustc, its library source and lld, linked as rustup toolchain `debian`.
fn prepare_debian() -> Result<()> {
    let have = Path::new("/usr/bin/rustc").is_file()
        && Path::new("/usr/bin/cargo").is_file()
        && find_program("wasm-ld").is_some()
        && library_source_is_there();
    if !have {
        install_packages(&["rustc-web", "cargo-web", "rust-web-src", "lld"]).with_context(|| {
            format!("no wasm standard library: run `rustup target add {TARGET}`, or on Debian install rustc-web")
        })?;
    }
    let linked = output(std::process::Command::new("rustup").args(["toolchain", "list"]))?;
    if !linked.lines().any(|line| line.split_whitespace().next() == Some("debian")) {
        run(std::process::Command::new("rustup").args(["toolchain", "link", "debian", "/usr"]))?;
    }
    Ok(())
}

fn library_source_is_there() -> bool {
    let Ok(sysroot) = output(std::process::Command::new("/usr/bin/rustc").args(["--print", "sysroot"])) else {
        return false;
    };
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir()
}

/// Turns a core module into a component; writes only when it changed, so that the host is not rebuilt for nothing.
fn componentize(name: &str, build_dir: &Path, dist: &Path) -> Result<PathBuf> {
    let module_path = build_dir.join(TARGET).join("plugin").join(format!("{}.wasm", name.replace('-', "_")));
    let module = std::fs::read(&module_path).with_context(|| format!("failed to read {}", module_path.display()))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .with_context(|| format!("failed to make a component of {name}"))?;
    let path = dist.join(format!("{name}.wasm"));
    if std::fs::read(&path).ok().as_deref() != Some(component.as_slice()) {
        std::fs::write(&path, &component).with_context(|| format!("failed to write {}", path.display()))?;
    }
    say(&format!("{} ({} KiB)", path.strip_prefix(root()).unwrap_or(&path).display(), component.len() / 1024));
    Ok(path)
}
