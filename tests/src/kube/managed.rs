//! Managed Redis, as a test meets it: what its operator and instances need besides the definitions, the objects, waits for
//! their status, and clients of the pods.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use redis::aio::MultiplexedConnection;
use redkeep_testing::server::Version;
use serde_json::{Value, json};

use super::{BUCKET, Operator, Storage, TestNamespace, redis_image};

/// The group and version of our kinds.
pub const API: &str = "redis.io/v1";
/// T of these clusters, in seconds.
pub const FENCING: u64 = 5;

/// The right of these tests' instances to have tokens reviewed. Not the name that an installation uses: this one is of the
/// whole cluster and outlives the test, and helm takes over nothing that it did not make.
const REVIEWS: &str = "instances-of-tests";

/// What the installation gives an operator and instances, for one that runs on this machine.
pub async fn account(namespace: &TestNamespace) -> Result<()> {
    namespace
        .apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "redkeep-operator"}}))
        .await?;
    namespace
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": REVIEWS},
            "rules": [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}],
        }))
        .await?;
    namespace
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": REVIEWS},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": REVIEWS},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:serviceaccounts"}],
        }))
        .await?;
    Ok(())
}

/// A RedisCluster of three with claims; `more` replaces fields of its spec, and `null` takes one away.
pub fn cluster_object(name: &str, version: Version, more: &Value) -> Value {
    let mut spec = json!({
        "instances": 3, "imageName": redis_image(version), "storage": {"size": "1Gi"},
        "backupCredentialsSecret": {"name": "backup-credentials"}, "failover": {"fencingSeconds": FENCING},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    json!({"apiVersion": API, "kind": "RedisCluster", "metadata": {"name": name}, "spec": spec})
}

/// The phase in a status, and its primary.
pub fn is_healthy(object: &Value) -> bool {
    object["status"]["phase"] == "Healthy"
        && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && object["status"]["readyInstances"] == object["spec"]["instances"]
}

/// Waits for a cluster; at the limit, the operator's log is shown too.
pub async fn wait(
    namespace: &TestNamespace,
    operator: &Operator,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let found = namespace.wait_for(API, "RedisCluster", name, what, |object| object.is_some_and(&wanted)).await;
    found.with_context(|| format!("--- operator\n{}", operator.log()))
}

/// Waits until all instances serve.
pub async fn healthy(namespace: &TestNamespace, operator: &Operator, name: &str) -> Result<Value> {
    wait(namespace, operator, name, "to be Healthy", is_healthy).await
}

/// The pod that the status calls primary.
pub fn primary(cluster: &Value) -> Result<&str> {
    cluster["status"]["primary"].as_str().context("no primary")
}

/// A cluster, and its primary.
pub async fn primary_of(namespace: &TestNamespace, name: &str) -> Result<(Value, String)> {
    let cluster = namespace.get(API, "RedisCluster", name).await?.context("no cluster")?;
    let primary = primary(&cluster)?.to_owned();
    Ok((cluster, primary))
}

/// The reason of a condition that is False.
pub fn why_not(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == "False")?;
    found["reason"].as_str().map(str::to_owned)
}

/// Waits until a cluster says that a condition is False for this reason.
pub async fn says(
    namespace: &TestNamespace,
    operator: &Operator,
    name: &str,
    kind: &str,
    reason: &str,
) -> Result<Value> {
    let is = |object: &Value| why_not(object, kind).as_deref() == Some(reason);
    wait(namespace, operator, name, &format!("to say {reason}"), is).await
}

/// Backs a cluster up and waits for its end; `more` are further fields of the spec.
pub async fn back_up(
    namespace: &TestNamespace,
    operator: &Operator,
    bucket: &Storage<'_>,
    (name, cluster, method): (&str, &str, &str),
    more: &Value,
) -> Result<Value> {
    let s3 = json!({"bucket": BUCKET, "path": "managed", "region": "us-east-1", "endpoint": bucket.endpoint()});
    let mut spec = json!({"clusterName": cluster, "method": method, "destination": {"s3": s3}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    namespace
        .apply(&json!({"apiVersion": API, "kind": "RedisBackup", "metadata": {"name": name}, "spec": spec}))
        .await?;
    let backup = namespace.run_ended(API, "RedisBackup", name).await?;
    ensure!(
        backup["status"]["phase"] == "Completed",
        "{backup:#}\n{}\n--- operator\n{}",
        namespace.describe(),
        operator.log()
    );
    Ok(backup)
}

/// The password that the operator made for a cluster.
pub async fn password(namespace: &TestNamespace, cluster: &Value) -> Result<String> {
    let secret = cluster["status"]["authSecret"]["name"].as_str().context("no Secret")?;
    let secret = namespace.get("v1", "Secret", secret).await?.context("the Secret is gone")?;
    let password =
        base64::engine::general_purpose::STANDARD.decode(secret["data"]["password"].as_str().unwrap_or(""))?;
    let password = String::from_utf8(password)?;
    ensure!(password.len() >= 32, "a password that can be guessed");
    Ok(password)
}

/// A pod's address.
pub async fn address(namespace: &TestNamespace, pod: &str) -> Result<String> {
    let found = namespace.get("v1", "Pod", pod).await?.context("no pod")?;
    Ok(found["status"]["podIP"].as_str().context("no address")?.to_owned())
}

/// A connection to an address that gives up after `response`.
pub async fn dial(address: &str, password: &str, response: Duration) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://:{password}@{address}:6379"))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Some(response))
        .set_connection_timeout(Some(Duration::from_secs(5).min(response)));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// A connection to a pod of a cluster.
pub async fn connect(namespace: &TestNamespace, cluster: &Value, pod: &str) -> Result<MultiplexedConnection> {
    let password = password(namespace, cluster).await?;
    dial(&address(namespace, pod).await?, &password, Duration::from_secs(60)).await
}

/// A connection to the primary.
pub async fn connect_primary(namespace: &TestNamespace, cluster: &Value) -> Result<MultiplexedConnection> {
    connect(namespace, cluster, primary(cluster)?).await
}

/// Definitions, accounts, an operator of this namespace alone: what every such test begins with.
pub async fn prepare(namespace: TestNamespace) -> Result<(Arc<TestNamespace>, Operator)> {
    super::install_crds(namespace.cluster())?;
    account(&namespace).await?;
    let operator = Operator::in_namespace(&namespace, namespace.cluster().kubeconfig(), &[]).await?;
    Ok((Arc::new(namespace), operator))
}
