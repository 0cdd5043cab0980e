//! Managed Redis, as a test meets it: what its operator and instances need besides the definitions, and a client of its pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use super::TestNamespace;

/// What the installation gives an operator and instances, for one that runs on this machine.
pub async fn account(namespace: &TestNamespace) -> Result<()> {
    namespace
        .apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "redkeep-operator"}}))
        .await?;
    namespace
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "redkeep-instance"},
            "rules": [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}],
        }))
        .await?;
    namespace
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "redkeep-instance"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "redkeep-instance"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:serviceaccounts"}],
        }))
        .await?;
    Ok(())
}

/// A connection to a pod of a cluster.
pub async fn connect(namespace: &TestNamespace, cluster: &Value, pod: &str) -> Result<MultiplexedConnection> {
    let secret = cluster["status"]["authSecret"]["name"].as_str().context("no Secret")?;
    let secret = namespace.get("v1", "Secret", secret).await?.context("the Secret is gone")?;
    let password =
        base64::engine::general_purpose::STANDARD.decode(secret["data"]["password"].as_str().unwrap_or(""))?;
    let password = String::from_utf8(password)?;
    ensure!(password.len() >= 32, "a password that can be guessed");
    let found = namespace.get("v1", "Pod", pod).await?.context("no pod")?;
    let address = found["status"]["podIP"].as_str().context("no address")?;
    let client = redis::Client::open(format!("redis://:{password}@{address}:6379"))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_secs(60)))
        .set_connection_timeout(Some(Duration::from_secs(5)));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}
