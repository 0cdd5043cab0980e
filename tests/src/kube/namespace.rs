//! One test's own namespace: objects of any kind, waits that end, and on failure all that is known.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ::kube::Client;
use ::kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use ::kube::core::GroupVersionKind;
use ::kube::discovery::{ApiCapabilities, ApiResource, Scope};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Cluster;

/// How long anything may take here; a busy machine of two cores is slow, and only a failure waits this long.
pub const LIMIT: Duration = Duration::from_secs(240);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A namespace that goes when this is dropped.
pub struct TestNamespace {
    cluster: &'static Cluster,
    client: Client,
    name: String,
}

impl TestNamespace {
    pub(super) async fn create(cluster: &'static Cluster, name: &str) -> Result<Self> {
        let client = cluster.client().await?;
        let unique = format!("{name}-{:05x}", rand::random::<u32>() & 0xf_ffff);
        let this = Self { cluster, client, name: unique.clone() };
        this.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": unique, "labels": {
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": "latest",
            }},
        }))
        .await?;
        if cluster.level() == super::Level::Node {
            // Pods are refused until it is there.
            this.wait_for("v1", "ServiceAccount", "default", "to be made", |account| account.is_some()).await?;
        }
        Ok(this)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// The administrator's client of this test.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The objects of a kind, in this namespace where the kind has namespaces.
    pub async fn api(&self, api_version: &str, kind: &str) -> Result<Api<DynamicObject>> {
        let (resource, capabilities) = resource(&self.client, api_version, kind).await?;
        Ok(match capabilities.scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.name, &resource),
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Applies one object (server-side), which must be accepted.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        let (api_version, kind, name) = identity(object)?;
        let api = self.api(api_version, kind).await?;
        let parameters = PatchParams::apply("redkeep-tests").force();
        api.patch(name, &parameters, &Patch::Apply(object))
            .await
            .with_context(|| format!("failed to apply {kind} {name}"))
    }

    /// Applies every document of a YAML text.
    pub async fn apply_yaml(&self, text: &str) -> Result<()> {
        use serde::Deserialize as _;
        for document in serde_norway::Deserializer::from_str(text) {
            let object = Value::deserialize(document)?;
            if !object.is_null() {
                self.apply(&object).await?;
            }
        }
        Ok(())
    }

    /// One object, if it is there.
    pub async fn get(&self, api_version: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let api = self.api(api_version, kind).await?;
        api.get_opt(name).await?.map(|object| Ok(serde_json::to_value(object)?)).transpose()
    }

    /// Every object of a kind that a label selector takes.
    pub async fn list(&self, api_version: &str, kind: &str, labels: &str) -> Result<Vec<Value>> {
        let api = self.api(api_version, kind).await?;
        let found = api.list(&ListParams::default().labels(labels)).await?;
        found.items.into_iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
    }

    /// Deletes an object, in the background; that it is gone already is no fault.
    pub async fn delete(&self, api_version: &str, kind: &str, name: &str) -> Result<()> {
        self.delete_with(api_version, kind, name, &DeleteParams::background()).await
    }

    /// Deletes an object at once, without waiting for its pod to end.
    pub async fn kill(&self, api_version: &str, kind: &str, name: &str) -> Result<()> {
        self.delete_with(api_version, kind, name, &DeleteParams::background().grace_period(0)).await
    }

    async fn delete_with(&self, api_version: &str, kind: &str, name: &str, how: &DeleteParams) -> Result<()> {
        match self.api(api_version, kind).await?.delete(name, how).await {
            Err(::kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| format!("failed to delete {kind} {name}")),
        }
    }

    /// Waits for the end of a run.
    pub async fn run_ended(&self, api_version: &str, kind: &str, name: &str) -> Result<Value> {
        let is_over = |run: Option<&Value>| {
            run.is_some_and(|run| matches!(run["status"]["phase"].as_str(), Some("Completed" | "Failed")))
        };
        self.wait_for(api_version, kind, name, "to end", is_over).await
    }

    /// Looks until the object, or its absence, is as wanted; at the limit, says all that is known.
    pub async fn wait_for(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Value> {
        self.wait_at_most(LIMIT, api_version, kind, name, what, wanted).await
    }

    /// The same with a limit of one's own.
    pub async fn wait_at_most(
        &self,
        limit: Duration,
        api_version: &str,
        kind: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            // The API server may be away for a moment: only the limit ends this.
            let seen = self.get(api_version, kind, name).await;
            if let Ok(object) = &seen
                && wanted(object.as_ref())
            {
                return Ok(object.clone().unwrap_or_default());
            }
            if Instant::now() > deadline {
                let seen = match seen {
                    Ok(Some(object)) => format!("{:#}", object["status"]),
                    Ok(None) => "it is not there".to_owned(),
                    Err(error) => format!("{error:#}"),
                };
                bail!("waited {} s for {kind} {name} {what}; {seen}\n{}", limit.as_secs(), self.describe());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until `wanted` gives something; at the limit, says all that is known.
    pub async fn wait_until<T, F: Future<Output = Result<Option<T>>>>(
        &self,
        what: &str,
        mut wanted: impl FnMut() -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = wanted().await;
            if let Ok(Some(found)) = seen {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let seen = seen.err().map(|error| format!("{error:#}")).unwrap_or_default();
                bail!("waited {} s until {what}; {seen}\n{}", LIMIT.as_secs(), self.describe());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Events, objects and logs: what a person would look at.
    pub fn describe(&self) -> String {
        let mut text = format!("--- namespace {}\n", self.name);
        let mut say = |arguments: &[&str]| {
            let mut command = self.cluster.kubectl();
            command.args(["--namespace", &self.name, "--request-timeout", "20s"]).args(arguments);
            let said = command.stderr(Stdio::piped()).output().map(|output| [output.stdout, output.stderr].concat());
            let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
            text = format!("{text}--- kubectl {}\n{said}\n", arguments.join(" "));
            said
        };
        say(&["get", "events", "--sort-by", ".lastTimestamp"]);
        say(&["get", "statefulsets,jobs,pods,pvc", "-o", "wide"]);
        let kinds = "redisclusters,redisbackups,redisscheduledbackups,redisrestores,backupstorages";
        say(&["get", kinds, "-o", "jsonpath={range .items[*]}{.kind} {.metadata.name} {.status}{\"\\n\"}{end}"]);
        let pods = say(&["get", "pods", "-o", "name"]);
        for pod in pods.lines().filter(|line| line.starts_with("pod/")) {
            say(&["logs", pod, "--all-containers", "--tail", "40"]);
            say(&["get", pod, "-o", "jsonpath={.status.containerStatuses[*].state}"]);
        }
        text
    }
}

impl TestNamespace {
    /// Deletes it, without waiting for its end.
    pub fn remove(&self) {
        let mut command = self.cluster.kubectl();
        command.args(["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.describe());
        }
        self.remove();
    }
}

/// What the API server knows of a kind; a custom resource may be some moments old.
pub async fn resource(client: &Client, api_version: &str, kind: &str) -> Result<(ApiResource, ApiCapabilities)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ::kube::discovery::pinned_kind(client, &wanted).await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("the cluster does not know {api_version} {kind}"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn identity(object: &Value) -> Result<(&str, &str, &str)> {
    let api_version = object["apiVersion"].as_str().context("an object without apiVersion")?;
    let kind = object["kind"].as_str().context("an object without kind")?;
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    Ok((api_version, kind, name))
}
