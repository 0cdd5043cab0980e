//! `cargo xtask generate`: the files that are made from the code, and the check that they are current.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::reference;
use crate::workspace::{cargo, output, root, run, say, target_dir};

/// Where the definitions go: for kubectl and kustomize, and for the chart.
const FOLDERS: [&str; 2] = ["config/crd", "config/chart/crds"];
/// Helm reads nothing outside its chart, so what stands elsewhere in `config/` is copied into it.
const COPIED: [&str; 7] = [
    "config/rbac/roles.yaml",
    "config/rbac/users.yaml",
    "config/admission/secrets.yaml",
    "config/admission/jobs.yaml",
    "config/operator/network.yaml",
    "config/monitoring/rules.yaml",
    "config/monitoring/dashboard.json",
];
const RULES: &str = "config/monitoring/rules.yaml";
const RULE_HEAD: &str = "# Made by `cargo xtask generate` from rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: redkeep
  namespace: redkeep-system
spec:
";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write nothing; fail when a file is not what it would be
    #[arg(long)]
    check: bool,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    let files = files()?;
    if options.check {
        return check(&files);
    }
    for (path, text) in &files {
        let path = root().join(path);
        std::fs::create_dir_all(path.parent().context("a generated file lies in a folder")?)?;
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    for path in stale(&files)? {
        std::fs::remove_file(root().join(&path)).with_context(|| format!("failed to remove {path}"))?;
    }
    say(&format!("generate: {} files", files.len()));
    Ok(())
}

/// Fails when a file is missing, differs, or is made no more.
pub(crate) fn check_current() -> Result<()> {
    check(&files()?)
}

fn check(files: &BTreeMap<String, String>) -> Result<()> {
    let differs =
        |(path, text): &(&String, &String)| std::fs::read_to_string(root().join(path)).ok().as_ref() != Some(*text);
    let mut wrong: Vec<String> = files.iter().filter(differs).map(|(path, _)| path.clone()).collect();
    wrong.extend(stale(files)?);
    if wrong.is_empty() {
        say(&format!("generate: {} files are current", files.len()));
        return Ok(());
    }
    bail!("not current, run `cargo xtask generate`:\n  {}", wrong.join("\n  "));
}

/// Files in the generated folders that would not be made.
fn stale(files: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for folder in FOLDERS {
        let place = root().join(folder);
        if !place.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&place).with_context(|| format!("failed to list {folder}"))? {
            let path = format!("{folder}/{}", entry?.file_name().to_string_lossy());
            if !files.contains_key(&path) && !path.ends_with("kustomization.yaml") {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

/// Path and text of each.
fn files() -> Result<BTreeMap<String, String>> {
    run(cargo().args(["build", "--quiet", "-p", "redkeep"]))?;
    let program = target_dir().join("debug/redkeep");
    let printed = output(Command::new(&program).args(["crd", "-o", "json"]))?;
    let list: Value = serde_json::from_str(&printed).context("failed to read the definitions")?;
    let definitions = list["items"].as_array().context("the definitions are no list")?;
    let mut files = BTreeMap::new();
    for definition in definitions {
        let (name, text) = yaml(&program, definition)?;
        for folder in FOLDERS {
            files.insert(format!("{folder}/{name}.yaml"), text.clone());
        }
        files.insert(format!("docs/reference/{name}.md"), reference::page(definition)?);
    }
    files.insert("docs/reference/README.md".to_owned(), reference::index(definitions));
    for path in COPIED {
        let name = path.rsplit('/').next().unwrap_or(path);
        files.insert(format!("config/chart/files/{name}"), read(path)?);
    }
    let rules: Vec<String> =
        read(RULES)?.lines().filter(|line| !line.starts_with('#')).map(|line| format!("  {line}\n")).collect();
    files.insert("config/monitoring/prometheus_rule.yaml".to_owned(), format!("{RULE_HEAD}{}", rules.concat()));
    Ok(files)
}

/// The schema of each kind by itself, closed against unknown fields, for tools that read JSON Schema.
pub(crate) fn write_schemas(place: &Path) -> Result<()> {
    std::fs::create_dir_all(place).with_context(|| format!("failed to make {}", place.display()))?;
    let printed = output(Command::new(target_dir().join("debug/redkeep")).args(["crd", "-o", "json"]))?;
    let list: Value = serde_json::from_str(&printed).context("failed to read the definitions")?;
    for definition in list["items"].as_array().into_iter().flatten() {
        let kind = definition["spec"]["names"]["kind"].as_str().context("a definition without a kind")?;
        let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        schema["properties"]["apiVersion"] = serde_json::json!({"type": "string"});
        schema["properties"]["kind"] = serde_json::json!({"type": "string"});
        schema["properties"]["metadata"] =
            serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        close(&mut schema);
        let path = place.join(format!("{}.json", kind.to_ascii_lowercase()));
        std::fs::write(&path, schema.to_string()).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn close(schema: &mut Value) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true || schema["additionalProperties"].is_object();
    if let Some(object) = schema.as_object_mut() {
        if object.get("properties").is_some_and(Value::is_object) && !open {
            object.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        // Numbers or texts alike: JSON Schema has no word for it but the absence of a type.
        if object.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            object.remove("type");
        }
        object.retain(|key, _| !key.starts_with("x-kubernetes-"));
        for (_, property) in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            close(property);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = object.get_mut(key).filter(|child| child.is_object()) {
                close(child);
            }
        }
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("failed to read {path}"))
}

fn yaml(program: &Path, definition: &Value) -> Result<(String, String)> {
    let kind = definition["spec"]["names"]["kind"].as_str().context("a definition without a kind")?;
    let text = output(Command::new(program).args(["crd", "--kind", kind]))?;
    let text = format!("# Made by `cargo xtask generate` from host/k8s/api.\n{text}");
    Ok((kind.to_ascii_lowercase(), text))
}
