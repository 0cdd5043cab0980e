//! What `plugin new` writes: templates, the contract, and the Rust kit, all of them inside the program.

use std::path::{Path, PathBuf};

include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// The contract as text.
pub(super) const WIT: &str = include_str!("../../../../wit/v0.1/plugin.wit");
/// Where the kit's sources say that the contract lies, and where it lies in a copy.
const WIT_PLACES: (&str, &str) = ("\"../../wit/v0.1\"", "\"wit\"");
const SCENARIO: &str = include_str!("templates/shared/round-trip.yaml");
const SDK_MANIFEST: &str = include_str!("templates/rust/sdk-Cargo.toml.template");
const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A language that there is a template for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// Rust, with the kit `redkeep-sdk`
    Rust,
    /// Python, with componentize-py
    Python,
    /// JavaScript, with jco
    Javascript,
}

/// A file to write, relative to the plugin's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KitFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The files of a new plugin. `sdk`: the Rust kit lies there already, and no copy of it is made.
pub(super) fn files(language: Language, name: &str, sdk: Option<&Path>) -> Vec<KitFile> {
    let sdk_path = sdk.map_or_else(|| "redkeep-sdk".to_owned(), |path| path.display().to_string());
    let filled =
        |text: &str| text.replace("@NAME@", name).replace("@SDK@", &sdk_path).replace("@VERSION@", SDK_VERSION);
    let file = |path: &str, text: &str| KitFile { path: path.into(), text: filled(text) };
    let mut files = match language {
        Language::Rust => vec![
            file("Cargo.toml", include_str!("templates/rust/Cargo.toml.template")),
            file("src/lib.rs", include_str!("templates/rust/lib.rs")),
            file("README.md", include_str!("templates/rust/README.md")),
            file(".gitignore", "/target\n/dist\n"),
        ],
        Language::Python => vec![
            file("plugin.py", include_str!("templates/python/plugin.py")),
            file("README.md", include_str!("templates/python/README.md")),
            file("wit/plugin.wit", WIT),
            file(".gitignore", "/.venv\n/dist\n__pycache__\n"),
        ],
        Language::Javascript => vec![
            file("plugin.js", include_str!("templates/javascript/plugin.js")),
            file("host.js", include_str!("templates/javascript/host.js")),
            file("package.json", include_str!("templates/javascript/package.json")),
            file("README.md", include_str!("templates/javascript/README.md")),
            file("wit/plugin.wit", WIT),
            file(".gitignore", "/node_modules\n/dist\n"),
        ],
    };
    files.push(file("scenarios/round-trip.yaml", SCENARIO));
    if language == Language::Rust && sdk.is_none() {
        files.push(file("redkeep-sdk/Cargo.toml", SDK_MANIFEST));
        files.push(file("redkeep-sdk/wit/plugin.wit", WIT));
        for (path, text) in SDK {
            let (from, to) = WIT_PLACES;
            files.push(KitFile { path: Path::new("redkeep-sdk/src").join(path), text: text.replace(from, to) });
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_whole() {
        for language in [Language::Rust, Language::Python, Language::Javascript] {
            let files = files(language, "my-method", None);
            for KitFile { path, text } in &files {
                for mark in ["@NAME@", "@SDK@", "@VERSION@"] {
                    assert!(!text.contains(mark), "{} has {mark}", path.display());
                }
            }
            assert!(files.iter().any(|file| file.path.ends_with("scenarios/round-trip.yaml")));
            assert!(files.iter().filter(|file| file.path.ends_with("plugin.wit")).count() == 1);
        }
    }

    #[test]
    fn the_copy_of_the_kit_is_whole_and_finds_its_contract() {
        let files = files(Language::Rust, "my-method", None);
        let text = |path: &str| &files.iter().find(|file| file.path == Path::new(path)).unwrap().text;
        assert!(text("redkeep-sdk/src/bindings.rs").contains("path: \"wit\""));
        assert!(text("redkeep-sdk/src/lib.rs").contains("pub mod rdb;"));
        // A kit that lies elsewhere is used where it is.
        let files = super::files(Language::Rust, "my-method", Some(Path::new("../sdk")));
        assert!(files.iter().all(|file| !file.path.starts_with("redkeep-sdk")));
        assert!(files[0].text.contains("path = \"../sdk\""));
    }

    #[test]
    fn the_copy_of_the_kit_depends_on_what_the_kit_depends_on() {
        let workspace = include_str!("../../../../Cargo.toml");
        let kit = include_str!("../../../../plugins/sdk/Cargo.toml");
        let names = |text: &str, begin: &str| -> Vec<String> {
            let section = text.split(begin).nth(1).unwrap().split("\n[").next().unwrap();
            section
                .lines()
                .filter_map(|line| line.split(['.', ' ', '=']).next())
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        for section in ["\n[dependencies]\n", "[target.'cfg(target_arch = \"wasm32\")'.dependencies]\n"] {
            let wanted = names(kit, section);
            assert_eq!(names(SDK_MANIFEST, section), wanted);
            for name in wanted {
                let line = |text: &str| {
                    text.lines().find(|line| line.starts_with(&format!("{name} ="))).map(str::to_owned).unwrap()
                };
                assert_eq!(line(SDK_MANIFEST), line(workspace));
            }
        }
    }
}
