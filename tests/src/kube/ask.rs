//! What may be asked of an API server, by whom, and in which words it refuses.

use std::path::PathBuf;
use std::sync::OnceLock;

use ::kube::Client;
use anyhow::{Context, Result};
use http::{Method, Request};
use serde_json::Value;

use super::{Cluster, install_crds};

/// The operator as `config/` installs it.
pub const OPERATOR: &str = "system:serviceaccount:redkeep-system:redkeep-operator";

/// An accepted object, or the words of the refusal.
pub type Answer = Result<Value, String>;

/// The definitions are there, once for the whole program.
pub fn defined(cluster: &Cluster) -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| install_crds(cluster).map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Things of the operator are there: its namespace, then a folder of `config/`.
pub fn installed(cluster: &Cluster, folder: &str) -> Result<()> {
    // Two tests may be at it; a namespace that is there already is as good.
    let _ = cluster.succeed(&["create", "namespace", "redkeep-system"]);
    let folder = config().join(folder);
    let folder = folder.to_str().context("a path")?;
    cluster.succeed(&["apply", "--server-side", "--force-conflicts", "-k", folder]).map(drop)
}

/// Where the manifests lie.
pub fn config() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config")
}

/// The plural of a kind of ours.
pub fn plural(kind: &str) -> String {
    format!("{}s", kind.to_ascii_lowercase())
}

/// Where objects of a kind of ours are created.
pub fn collection(kind: &str, namespace: &str) -> String {
    match kind {
        "BackupMethod" => "/apis/redis.io/v1/backupmethods".to_owned(),
        _ => format!("/apis/redis.io/v1/namespaces/{namespace}/{}", plural(kind)),
    }
}

/// One request, as somebody.
pub async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
    user: Option<&str>,
) -> Result<Answer> {
    let content = match body {
        Some(Value::Array(_)) => "application/json-patch+json",
        Some(_) if method == Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let mut request = Request::builder().method(method).uri(path).header("Content-Type", content);
    if let Some(user) = user {
        request = request.header("Impersonate-User", user);
    }
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    match client.request::<Value>(request.body(body)?).await {
        Ok(value) => Ok(Ok(value)),
        Err(::kube::Error::Api(status)) if (400..500).contains(&status.code) => Ok(Err(status.message)),
        Err(error) => Err(error).with_context(|| format!("failed to ask {path}")),
    }
}

/// Creates nothing, but is told whether it could be created.
pub async fn try_create(client: &Client, namespace: &str, object: &Value, user: Option<&str>) -> Result<Answer> {
    let kind = object["kind"].as_str().context("an object without a kind")?;
    let path = match kind {
        "Job" => format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
        "StatefulSet" => format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"),
        _ => collection(kind, namespace),
    };
    ask(client, Method::POST, &format!("{path}?dryRun=All&fieldValidation=Strict"), Some(object), user).await
}

/// RFC 7386.
pub fn merge(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut merged = target.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            let child = merge(merged.get(key).unwrap_or(&Value::Null), value);
            merged.insert(key.clone(), child);
        }
    }
    Value::Object(merged)
}
