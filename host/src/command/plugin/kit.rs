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

    /// The wrapper of the JavaScript template, with a contract in memory instead of a host's, run by Node.js.
    #[test]
    fn the_javascript_wrapper_keeps_from_plugins_what_their_engine_traps_on() {
        const CONTRACT: &str = r#"
            export const log = [], disposed = [], opened = { count: 0 };
            export function handle(name) {
              opened.count += 1;
              return { name, written: [], [Symbol.dispose ?? Symbol.for("dispose")]() { disposed.push(name); opened.count -= 1; },
                write(bytes) { this.written.push(...bytes); } };
            }
            export const pipe = {
              splice(source, sink) { if (source.name === "bad") throw { payload: { code: "source-io", message: "cut", retryable: true, details: [] } }; },
              finish(sink) { opened.count -= 1; return { name: sink.name, size: 9007199254740993n, written: sink.written }; },
            };
        "#;
        const TEST: &str = r#"
            import assert from "node:assert/strict";
            import { copy, failure, fails, info, pairs, using, write } from "./host.mjs";
            import { disposed, handle, log, opened } from "./contract.mjs";
            const thrown = (call) => { try { call(); } catch (error) { return error; } assert.fail("it did not throw"); };
            const method = fails({
              plain() { throw new Error("gone"); },
              text() { throw "gone"; },
              nothing() { throw undefined; },
              ours() { throw failure("refused", "no"); },
              hosts() { throw { payload: failure("denied", "not granted") }; },
              strange() { throw { payload: { code: 7 } }; },
              good(a, b) { return pairs({ sum: a + b, big: 9007199254740993n }); },
            });
            // Whatever is thrown is the contract's record, and a code of the plugin's or the host's stays.
            for (const name of ["plain", "text", "nothing", "strange"]) {
              const error = thrown(method[name]);
              assert.deepEqual(Object.keys(error), ["code", "message", "retryable", "details"], name);
              assert.equal(error.code, "internal", name);
              assert.equal(typeof error.message, "string", name);
            }
            assert.match(thrown(method.plain).message, /gone/);
            assert.equal(thrown(method.ours).code, "refused");
            assert.deepEqual(thrown(method.hosts), failure("denied", "not granted"));
            // 64-bit numbers may be BigInt: told as they are, not rounded.
            assert.deepEqual(method.good(1n, 2n), [{ key: "sum", value: "3" }, { key: "big", value: "9007199254740993" }]);
            // Handles go, whatever happens.
            assert.equal(using(handle("a"), (a) => a.name), "a");
            assert.equal(thrown(() => using(handle("b"), () => { throw new Error("x"); })).message, "x");
            assert.deepEqual(disposed, ["a", "b"]);
            for (let round = 0; round < 2000; round += 1) copy(handle("good"), handle("sink"));
            assert.equal(opened.count, 0);
            assert.equal(thrown(fails({ run: () => copy(handle("bad"), handle("sink")) }).run).code, "source-io");
            assert.equal(opened.count, 0, "a copy that failed keeps handles");
            assert.deepEqual(write(handle("text"), "käse\n").written, [...new TextEncoder().encode("käse\n")]);
            info("said", { offset: 5n });
            assert.deepEqual(log, [["info", "said", [{ key: "offset", value: "5" }]]]);
        "#;
        let Some(node) = super::super::tools::find("node", &[]) else {
            assert!(std::env::var_os("CI").is_none(), "node is needed");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut wrapper = include_str!("templates/javascript/host.js").to_owned();
        for interface in ["artifacts", "control", "files", "log", "pipe", "redis"] {
            let from = format!("\"redkeep:plugin/{interface}@0.1.0\"");
            assert!(wrapper.contains(&from), "{interface}");
            wrapper = wrapper.replace(&from, &format!("\"./{interface}.mjs\""));
            let text = match interface {
                "pipe" => "import { pipe } from './contract.mjs'; export const { splice, finish } = pipe;",
                "log" => "import { log } from './contract.mjs'; export function write(...line) { log.push(line); }",
                _ => "export default {};",
            };
            place(&format!("{interface}.mjs"), text);
        }
        place("host.mjs", &wrapper);
        place("contract.mjs", CONTRACT);
        place("test.mjs", TEST);
        let said = std::process::Command::new(node).arg(folder.path().join("test.mjs")).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
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
