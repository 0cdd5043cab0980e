//! What an author does: `plugin new`, `plugin build`, `plugin test`, with each language's own tools; and the commands of the guide.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The versions that the templates' READMEs name.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
const PACKAGES: [&str; 2] = ["@bytecodealliance/jco@1.35.0", "componentize-qjs@0.4.5"];

/// A language that there is a template for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// Python.
    Python,
    /// JavaScript.
    Javascript,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Python, Self::Javascript];

    /// As `--lang` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
        }
    }

    /// Where its tools are, installed where they are missing; `None` where it needs nothing but `cargo`.
    fn tools(self) -> Result<Option<PathBuf>> {
        let cache = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache");
        match self {
            Self::Rust => Ok(None),
            Self::Python => {
                let environment = cache.join(COMPONENTIZE_PY.replace("==", "-"));
                if !environment.join("bin/componentize-py").is_file() {
                    done(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
                    done(Command::new(environment.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]))?;
                }
                Ok(Some(environment.join("bin")))
            }
            Self::Javascript => {
                let folder = cache.join("redkeep-jco-1.35.0");
                if !folder.join("node_modules/.bin/jco").is_file() {
                    std::fs::create_dir_all(&folder)?;
                    let mut npm = Command::new("npm");
                    npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(PACKAGES);
                    done(&mut npm)?;
                }
                Ok(Some(folder.join("node_modules/.bin")))
            }
        }
    }

    /// Makes, builds and tests a plugin of this name in a new folder; returns the component.
    pub fn make(self, folder: &Path, name: &str) -> Result<PathBuf> {
        let place = folder.join(name);
        let folder_name = place.display().to_string();
        crate::succeed(["plugin", "new", "--lang", self.name(), name, "--dir", &folder_name]);
        let mut build = crate::redkeep();
        author(&mut build, self)?;
        let said = crate::finish({
            build.args(["plugin", "build", &folder_name]);
            build
        });
        ensure!(said.code == Some(0), "plugin build of {}: {said:#?}", self.name());
        let component = place.join("dist").join(format!("{name}.wasm"));
        let file = component.display().to_string();
        let scenario = place.join("scenarios/round-trip.yaml").display().to_string();
        crate::succeed(["plugin", "test", &file, "--scenario", &scenario]);
        Ok(component)
    }
}

/// The surroundings of an author: the language's tools in PATH, nothing of the cargo that runs this test.
pub fn author(command: &mut Command, language: Language) -> Result<()> {
    for name in ["CARGO_UNSTABLE_FEATURE_UNIFICATION", "CARGO_RESOLVER_FEATURE_UNIFICATION", "CARGO_INCREMENTAL"] {
        command.env_remove(name);
    }
    let program = crate::program()?;
    let beside = program.parent().context("the program has no folder")?;
    // Kept between runs: the standard library is compiled where there is no wasm target.
    command.env("CARGO_TARGET_DIR", beside.join("authoring"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = language.tools()?.into_iter().chain([beside.to_owned()]).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?);
    Ok(())
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The commands of `docs/plugin-guide.md` whose block says this behind its backticks, in order.
pub fn guide(kind: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plugin-guide.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(said)) => open = Some((said.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "the guide's last block has no end");
    Ok(blocks.into_iter().filter(|(said, _)| said == kind).map(|(_, block)| block).collect())
}
