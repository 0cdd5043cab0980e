//! Rules of the house that no lint knows: who may depend on whom (DESIGN 2), how long a file may be, that each crate says what it is for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, output, root, say};

/// Lines of non-test code that a file may have; above the soft limit it is named, above the hard one refused.
const SOFT_LIMIT: usize = 400;
const HARD_LIMIT: usize = 800;

/// What one crate may depend on directly, and what it must never.
struct Rule {
    krate: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule { krate: "redkeep-core", ours: &[], never: &["tokio", "kube", "wasmtime", "aws-sdk-s3", "redis"] },
    Rule { krate: "redkeep-storage", ours: &["redkeep-core"], never: &["kube", "wasmtime", "redis"] },
    Rule {
        krate: "redkeep-redis",
        ours: &["redkeep-core"],
        never: &["kube", "wasmtime", "aws-sdk-s3", "object_store"],
    },
    Rule { krate: "redkeep-plugin", ours: &["redkeep-core"], never: &["kube", "redis", "aws-sdk-s3", "object_store"] },
    Rule {
        krate: "redkeep-engine",
        ours: &["redkeep-core"],
        never: &["kube", "wasmtime", "redis", "aws-sdk-s3", "object_store"],
    },
    Rule {
        krate: "redkeep-instance",
        ours: &["redkeep-core", "redkeep-redis", "redkeep-k8s-api"],
        never: &["kube", "k8s-openapi", "wasmtime", "redis", "aws-sdk-s3", "object_store"],
    },
    Rule { krate: "redkeep-k8s-api", ours: &["redkeep-core"], never: &["tokio", "kube-client", "kube-runtime"] },
    Rule {
        krate: "redkeep-controller",
        ours: &["redkeep-core", "redkeep-k8s-api"],
        never: &["wasmtime", "redis", "aws-sdk-s3", "object_store"],
    },
    Rule {
        krate: "redkeep",
        ours: &[
            "redkeep-core",
            "redkeep-storage",
            "redkeep-redis",
            "redkeep-plugin",
            "redkeep-engine",
            "redkeep-k8s-api",
            "redkeep-controller",
        ],
        never: &[],
    },
    Rule { krate: "redkeep-sdk", ours: &[], never: &["tokio", "wasmtime", "kube"] },
    Rule { krate: "redis-rdb", ours: &["redkeep-sdk"], never: &["tokio", "wasmtime", "kube"] },
    Rule { krate: "redis-aof", ours: &["redkeep-sdk"], never: &["tokio", "wasmtime", "kube"] },
    Rule { krate: "zookeeper", ours: &["redkeep-sdk"], never: &["tokio", "wasmtime", "kube"] },
    Rule { krate: "example-raw", ours: &["redkeep-sdk"], never: &["tokio", "wasmtime", "kube"] },
    Rule { krate: "redkeep-testing", ours: &[], never: &["kube", "wasmtime"] },
    Rule { krate: "redkeep-tests", ours: &["redkeep-testing", "redkeep-core"], never: &[] },
    Rule { krate: "redkeep-benches", ours: &["redkeep-testing"], never: &[] },
    Rule { krate: "xtask", ours: &[], never: &[] },
];

pub(crate) fn start() -> Result<()> {
    let mut faults = dependency_faults()?;
    faults.extend(size_faults(&root())?);
    faults.extend(readme_faults(&root()));
    if faults.is_empty() {
        say("check: dependency table, file sizes and crate READMEs hold");
        return Ok(());
    }
    bail!("the workspace breaks its rules:\n  {}", faults.join("\n  "));
}

fn dependency_faults() -> Result<Vec<String>> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("failed to read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages in cargo metadata")?;
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(rule) = RULES.iter().find(|rule| rule.krate == name) else {
            faults.push(format!("{name} has no row in the dependency table (xtask/src/check.rs)"));
            continue;
        };
        let normal = package["dependencies"].as_array().into_iter().flatten().filter(|one| one["kind"].is_null());
        for dependency in normal.filter_map(|one| one["name"].as_str()) {
            if rule.never.contains(&dependency) || (ours.contains(dependency) && !rule.ours.contains(&dependency)) {
                faults.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    Ok(faults)
}

fn size_faults(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in ["host", "plugins", "tests", "benches", "xtask"] {
        rust_files(&root.join(folder), &mut files)?;
    }
    let mut faults = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        let is_test = path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        let shown = path.strip_prefix(root).unwrap_or(&path).display();
        if lines > HARD_LIMIT && !is_test {
            faults.push(format!("{shown} has {lines} lines of code, the limit is {HARD_LIMIT}"));
        } else if lines > SOFT_LIMIT && !is_test {
            say(&format!("check: {shown} has {lines} lines of code, more than {SOFT_LIMIT}"));
        }
    }
    Ok(faults)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("dist") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn readme_faults(root: &Path) -> Vec<String> {
    let crates = [
        "host",
        "host/core",
        "host/storage",
        "host/redis",
        "host/plugin",
        "host/engine",
        "host/instance",
        "host/k8s/api",
        "host/k8s/controller",
        "host/testing",
        "plugins/sdk",
        "plugins/redis-rdb",
        "plugins/redis-aof",
        "tests",
        "benches",
        "xtask",
    ];
    crates
        .iter()
        .filter(|folder| !root.join(folder).join("README.md").is_file())
        .map(|folder| format!("{folder} has no README.md that says why it exists"))
        .collect()
}
