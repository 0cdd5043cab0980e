//! `redkeep plugin build`: from an author's folder to a component that this redkeep loads.
//!
//! Rust is built by cargo and made a component here; Python and JavaScript by their own tools, with WASI stubbed: a plugin
//! imports nothing but the contract.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use redkeep_core::classify::Class;
use wit_component::ComponentEncoder;

use super::inspect::render;
use super::kit::{Language, WIT};
use super::toolchain;
use super::tools::{command, need, run};
use crate::arguments::limits::LimitArgs;
use crate::output::failure::Failure;
use crate::session::Session;

const PYTHON_HELP: &str = "python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1";
const JAVASCRIPT_HELP: &str = "run `npm install` in the plugin's folder";
const RUST_HELP: &str =
    "install Rust with rustup (https://rustup.rs) and run `rustup target add wasm32-unknown-unknown`";

/// Build a plugin: a component in dist/
#[derive(Args, Debug)]
pub(super) struct BuildCommand {
    /// The plugin's folder
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The component's file [default: DIR/dist/NAME.wasm]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The world of a Python or JavaScript plugin
    #[arg(long, value_enum, default_value_t = World::RedisMethod)]
    world: World,
    #[command(flatten)]
    limits: LimitArgs,
}

/// The contract's worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// Redis and data directories
    RedisMethod,
    /// Other systems, over a socket
    SocketMethod,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            Self::RedisMethod => "redis-method",
            Self::SocketMethod => "socket-method",
        }
    }
}

impl BuildCommand {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let dir = self.dir.canonicalize().map_err(|error| {
            Failure::new(Class::NotFound, "NoPlugin", format!("failed to open {}", self.dir.display()))
                .caused_by(&error)
        })?;
        let language = language_of(&dir)?;
        session.progress.say(&format!("building the {} plugin in {}", language_name(language), dir.display()));
        let built = session.until_cancelled(async {
            let scratch = tempfile::tempdir()
                .map_err(|error| Failure::failed("WriteFailed", "failed to make a folder").caused_by(&error))?;
            let (name, bytes) = match language {
                Language::Rust => rust(&dir).await?,
                Language::Python => python(&dir, self.world, scratch.path()).await?,
                Language::Javascript => javascript(&dir, self.world, scratch.path()).await?,
            };
            let output = self.out.clone().unwrap_or_else(|| dir.join("dist").join(format!("{name}.wasm")));
            place(&output, &bytes)?;
            Ok(output)
        });
        let output = built.await?;
        // What this host would not load is no plugin.
        let output = output.display().to_string();
        let work = session.wiring.describe_plugin(&output, &[], self.limits.limits(), None);
        let description = session.until_cancelled(work).await?;
        session.format.print(&description, || render(&description))
    }
}

fn language_name(language: Language) -> String {
    language.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn language_of(dir: &Path) -> Result<Language, Failure> {
    let marks = [("Cargo.toml", Language::Rust), ("plugin.py", Language::Python), ("plugin.js", Language::Javascript)];
    let found: Vec<Language> =
        marks.iter().filter(|(file, _)| dir.join(file).is_file()).map(|(_, language)| *language).collect();
    match found.as_slice() {
        [language] => Ok(*language),
        [] => Err(Failure::new(Class::NotFound, "NoPlugin", format!("there is no plugin in {}", dir.display()))
            .with_help(
                "a plugin's folder has a Cargo.toml, a plugin.py or a plugin.js; `redkeep plugin new` makes one",
            )),
        _ => Err(Failure::usage(format!("{} holds a plugin in several languages", dir.display()))
            .with_help("keep one of Cargo.toml, plugin.py and plugin.js")),
    }
}

fn place(output: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed("WriteFailed", format!("failed to write {}", output.display())).caused_by(&error)
    };
    if let Some(parent) = output.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::write(output, bytes).map_err(failed)
}

/// A core module by cargo, a component by `wit-component`.
async fn rust(dir: &Path) -> Result<(String, Vec<u8>), Failure> {
    let cargo = need("cargo", &[], RUST_HELP)?;
    let metadata = run(toolchain::plain(&cargo, dir).args(["metadata", "--no-deps", "--format-version", "1"])).await?;
    let (name, target_dir) = cdylib_of(&metadata, dir)?;
    let mut build = toolchain::build(&cargo, dir).await?;
    run(build.args(["--quiet", "--release", "--target", toolchain::TARGET])).await?;
    let module = target_dir.join(toolchain::TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
    let bytes = std::fs::read(&module).map_err(|error| {
        Failure::failed("ToolFailed", format!("cargo left no {}", module.display())).caused_by(&error)
    })?;
    let component =
        ComponentEncoder::default().validate(true).module(&bytes).and_then(|mut encoder| encoder.encode()).map_err(
            |error| {
                let mut failure = Failure::failed("NotAPlugin", format!("failed to make a component of {name}"))
                    .with_help("the crate must depend on redkeep-sdk and call redkeep_sdk::export!(YourMethod)");
                failure.causes = error.chain().map(ToString::to_string).collect();
                failure
            },
        )?;
    Ok((name, component))
}

/// The package of the folder and the target folder; it must be built as `cdylib`.
fn cdylib_of(metadata: &str, dir: &Path) -> Result<(String, PathBuf), Failure> {
    let metadata: serde_json::Value = serde_json::from_str(metadata)
        .map_err(|error| Failure::failed("ToolFailed", "failed to read cargo metadata").caused_by(&error))?;
    let manifest = dir.join("Cargo.toml");
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest));
    let is_cdylib = |package: &serde_json::Value| {
        package["targets"].as_array().into_iter().flatten().any(|target| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        })
    };
    let name = package.filter(|package| is_cdylib(package)).and_then(|package| package["name"].as_str());
    let target_dir = metadata["target_directory"].as_str();
    match (name, target_dir) {
        (Some(name), Some(target_dir)) => Ok((name.to_owned(), target_dir.into())),
        _ => Err(Failure::usage(format!("{} is not a plugin's", manifest.display())).with_help(
            "it needs [lib] crate-type = [\"cdylib\", \"rlib\"]; `redkeep plugin new --lang rust` shows it",
        )),
    }
}

/// The folder's own contract, else this program's.
fn wit(dir: &Path, scratch: &Path) -> Result<PathBuf, Failure> {
    let own = dir.join("wit");
    if own.is_dir() {
        return Ok(own);
    }
    let folder = scratch.join("wit");
    place(&folder.join("plugin.wit"), WIT.as_bytes())?;
    Ok(folder)
}

fn folder_name(dir: &Path) -> String {
    dir.file_name().map_or_else(|| "plugin".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read_built(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::failed("ToolFailed", "the tool left no component").caused_by(&error))
}

async fn python(dir: &Path, world: World, scratch: &Path) -> Result<(String, Vec<u8>), Failure> {
    let tool = need("componentize-py", &[dir.join(".venv/bin")], PYTHON_HELP)?;
    let wit = wit(dir, scratch)?;
    let built = scratch.join("plugin.wasm");
    let mut componentize = command(&tool, dir);
    componentize
        .arg("-d")
        .arg(wit)
        .args(["-w", world.name(), "componentize", "--stub-wasi", "plugin", "-o"])
        .arg(&built);
    run(&mut componentize).await?;
    Ok((folder_name(dir), read_built(&built)?))
}

async fn javascript(dir: &Path, world: World, scratch: &Path) -> Result<(String, Vec<u8>), Failure> {
    need("node", &[], "install Node.js 20 or later, then run `npm install` in the plugin's folder")?;
    let tool = need("jco", &[dir.join("node_modules/.bin")], JAVASCRIPT_HELP)?;
    let wit = wit(dir, scratch)?;
    let built = scratch.join("plugin.wasm");
    let mut componentize = command(&tool, dir);
    componentize
        .args(["componentize", "plugin.js", "--backend", "qjs", "--backend-qjs-stub-wasi"])
        // The contract is synchronous, and the host does not switch the asynchronous component model on.
        .args(["--backend-qjs-disable-async", "--wit"])
        .arg(wit)
        .args(["--world-name", world.name(), "--out"])
        .arg(&built);
    run(&mut componentize).await?;
    Ok((folder_name(dir), read_built(&built)?))
}

#[cfg(test)]
mod tests {
    use super::super::tools::find;
    use super::*;

    #[test]
    fn a_folder_is_a_plugin_in_one_language() {
        let folder = tempfile::tempdir().unwrap();
        let failure = language_of(folder.path()).unwrap_err();
        assert_eq!(failure.exit_code(), 4);
        assert!(failure.help.unwrap().contains("plugin new"));
        std::fs::write(folder.path().join("plugin.py"), "").unwrap();
        assert_eq!(language_of(folder.path()).unwrap(), Language::Python);
        std::fs::write(folder.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(language_of(folder.path()).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn only_the_folders_own_cdylib_is_built() {
        let package = |path: &str, kind: &str| serde_json::json!({"name": "mine", "manifest_path": path, "targets": [{"crate_types": [kind]}]});
        let metadata = |package: serde_json::Value| {
            serde_json::json!({"packages": [package], "target_directory": "/t"}).to_string()
        };
        let good = metadata(package("/p/Cargo.toml", "cdylib"));
        assert_eq!(cdylib_of(&good, Path::new("/p")).unwrap(), ("mine".to_owned(), "/t".into()));
        for bad in [package("/q/Cargo.toml", "cdylib"), package("/p/Cargo.toml", "lib")] {
            let failure = cdylib_of(&metadata(bad), Path::new("/p")).unwrap_err();
            assert!(failure.help.unwrap().contains("cdylib"));
        }
    }

    #[tokio::test]
    async fn a_missing_tool_is_named_with_the_way_to_get_it() {
        let failure = need("no-such-tool-anywhere", &[], PYTHON_HELP).unwrap_err();
        assert_eq!((failure.exit_code(), failure.reason.as_str()), (4, "ToolMissing"));
        assert!(failure.message.contains("no-such-tool-anywhere") && failure.help.unwrap().contains("pip install"));
        let shell = find("sh", &[]).unwrap();
        let failed = run(command(&shell, Path::new("/")).args(["-c", "echo broken; exit 3"])).await.unwrap_err();
        assert_eq!(failed.causes, ["broken"]);
    }
}
