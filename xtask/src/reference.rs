//! The reference of the custom resources: one page a kind, made from its definition.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

const HEADER: &str = "<!-- Made by `cargo xtask generate`: change host/k8s/api instead. -->\n\n";

/// Fields that hold a type of Kubernetes, documented there.
const FOREIGN: &[&str] = &[
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "resources",
    "podSecurityContext",
    "securityContext",
    "conditions",
];

/// The list of kinds.
pub(crate) fn index(definitions: &[Value]) -> String {
    let mut text = format!(
        "{HEADER}# Custom resources\n\nGroup `redis.io`, version `v1`.\n\n| kind | short | what it is |\n| --- | --- | --- |\n"
    );
    for definition in definitions {
        let names = &definition["spec"]["names"];
        let kind = names["kind"].as_str().unwrap_or_default();
        let short = names["shortNames"][0].as_str().unwrap_or_default();
        let about = root(definition)["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "| [{kind}]({}.md) | `{short}` | {about} |", kind.to_ascii_lowercase());
    }
    text
}

/// One kind.
pub(crate) fn page(definition: &Value) -> Result<String> {
    let names = &definition["spec"]["names"];
    let kind = names["kind"].as_str().context("a definition without a kind")?;
    let scope = if definition["spec"]["scope"] == "Cluster" { "cluster-scoped" } else { "namespaced" };
    let schema = root(definition);
    let mut text = format!("{HEADER}# {kind}\n\n{}\n\n", schema["description"].as_str().unwrap_or_default());
    let short = names["shortNames"][0].as_str().unwrap_or_default();
    let plural = names["plural"].as_str().unwrap_or_default();
    // Core kinds come first.
    let taken = if short == "rc" { " (which kubectl takes for ReplicationControllers)" } else { "" };
    let _ = writeln!(text, "`apiVersion: redis.io/v1`, {scope}; `kubectl get {plural}`, short `{short}`{taken}.\n");
    rules(&mut text, "metadata", schema);
    for part in ["spec", "status"] {
        let _ =
            writeln!(text, "## {part}\n\n{}\n", schema["properties"][part]["description"].as_str().unwrap_or_default());
        rules(&mut text, part, &schema["properties"][part]);
        text.push_str("| field | type | default | what it is |\n| --- | --- | --- | --- |\n");
        fields(&mut text, "", &schema["properties"][part]);
        text.push('\n');
    }
    Ok(format!("{}\n", text.trim_end()))
}

fn root(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn rules(text: &mut String, part: &str, schema: &Value) {
    let messages: Vec<&str> = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str())
        .collect();
    if messages.is_empty() {
        return;
    }
    let _ = writeln!(text, "Rules of `{part}`:\n");
    for message in messages {
        let _ = writeln!(text, "- {message}");
    }
    text.push('\n');
}

fn fields(text: &mut String, prefix: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            value => format!("`{value}`"),
        };
        let _ = writeln!(text, "| `{path}` | {} | {default} | {} |", kind_of(field), about(field));
        if FOREIGN.contains(&name.as_str()) {
            continue;
        }
        fields(text, &path, field);
        fields(text, &format!("{path}[]"), &field["items"]);
    }
}

fn kind_of(field: &Value) -> String {
    let name = field["type"].as_str().unwrap_or("any");
    if field["format"] == "date-time" {
        return "time".to_owned();
    }
    match name {
        "array" => format!("list of {}", field["items"]["type"].as_str().unwrap_or("any")),
        "object" if field["additionalProperties"].is_object() => "map".to_owned(),
        other => other.to_owned(),
    }
}

/// The description and what binds the value, in one cell of a table.
fn about(field: &Value) -> String {
    let mut parts = vec![field["description"].as_str().unwrap_or_default().to_owned()];
    if let Some(words) = field["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        parts.push(format!("One of {}.", words.join(", ")));
    }
    let least = field["minimum"].as_f64();
    let most = field["maximum"].as_f64();
    if let (Some(least), Some(most)) = (least, most) {
        parts.push(format!("{least} to {most}."));
    }
    for rule in field["x-kubernetes-validations"].as_array().into_iter().flatten() {
        parts.push(format!("Rule: {}.", rule["message"].as_str().unwrap_or_default()));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ").replace('|', "\\|").replace('\n', " ")
}
