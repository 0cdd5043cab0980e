//! A node that runs no containers: it takes the pods of a namespace's tasks, lets them "run", and reports what a real task
//! would, remembering what it has written. So an operator and its Jobs are tested against an API server alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::kube::api::{Api, ListParams, Patch, PatchParams};
use ::kube::{Client, ResourceExt};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Between two looks at the pods.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until it is dropped.
pub struct FakeNode {
    world: Arc<Mutex<World>>,
    task: tokio::task::JoinHandle<()>,
}

/// What the tasks did.
#[derive(Default)]
struct World {
    /// Manifests: how often a task committed each backup's id. A second commit of one id finds the first.
    committed: BTreeMap<String, u32>,
    /// Every task that ended, as `KIND POD`.
    ended: Vec<String>,
    /// Errors of the node itself.
    faults: Vec<String>,
}

impl FakeNode {
    /// Takes over the pods of one namespace.
    pub fn start(client: Client, namespace: &str) -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let shared = Arc::clone(&world);
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = turn(&pods, &shared).await {
                    locked(&shared).faults.push(format!("{error:#}"));
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { world, task }
    }

    /// The ids of the backups that storage would hold, and how often each was written.
    pub fn committed(&self) -> BTreeMap<String, u32> {
        locked(&self.world).committed.clone()
    }

    /// Every task that ended, in order.
    pub fn ended(&self) -> Vec<String> {
        locked(&self.world).ended.clone()
    }

    /// What went wrong in the node itself.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.world).faults.clone()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(world: &Mutex<World>) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn turn(pods: &Api<Pod>, world: &Mutex<World>) -> Result<()> {
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.name_any();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let done = match phase {
            "Pending" => set(pods, &name, &running(&pod)).await,
            "Running" => {
                let task = task_of(&pod)?;
                let report = locked(world).run(&task, &name);
                set(pods, &name, &succeeded(&pod, &report)).await
            }
            _ => Ok(()),
        };
        match done {
            // Deleted meanwhile.
            Err(::kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            result => result.with_context(|| format!("failed to move pod {name} on"))?,
        }
    }
    Ok(())
}

async fn set(pods: &Api<Pod>, name: &str, status: &Value) -> Result<(), ::kube::Error> {
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.map(drop)
}

fn task_of(pod: &Pod) -> Result<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let variables = containers.flat_map(|container| container.env.iter().flatten());
    let text = variables.into_iter().find(|variable| variable.name == "REDKEEP_TASK");
    let text = text.and_then(|variable| variable.value.as_deref()).context("a pod without REDKEEP_TASK")?;
    Ok(serde_json::from_str::<Value>(text)?["task"].clone())
}

fn container_of(pod: &Pod) -> (&str, &str) {
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    first.map_or(("task", ""), |container| (&container.name, container.image.as_deref().unwrap_or_default()))
}

fn running(pod: &Pod) -> Value {
    let (name, image) = container_of(pod);
    let now = "2026-01-01T00:00:00Z";
    json!({
        "phase": "Running", "startTime": now,
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{
            "name": name, "image": image, "imageID": "fake", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }],
    })
}

fn succeeded(pod: &Pod, report: &Value) -> Value {
    let (name, image) = container_of(pod);
    let now = "2026-01-01T00:00:01Z";
    json!({
        "phase": "Succeeded",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": name, "image": image, "imageID": "fake", "ready": false, "restartCount": 0,
            "state": {"terminated": {
                "exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": report.to_string(),
            }},
        }],
    })
}

impl World {
    /// Does the task, and says what its report would.
    fn run(&mut self, task: &Value, pod: &str) -> Value {
        let kind = task["kind"].as_str().unwrap_or_default();
        self.ended.push(format!("{kind} {pod}"));
        let done = |id: Option<&str>, facts: Value| {
            let mut report = json!({
                "outcome": {"state": "done"}, "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:01Z",
                "facts": facts, "warnings": [],
            });
            if let Some(id) = id {
                report["backupId"] = json!(id);
                report["manifest"] = json!(format!("s3://bucket/{id}/manifest.json"));
            }
            report
        };
        match kind {
            "backup" => {
                let id = task["backupId"].as_str().unwrap_or_default().to_owned();
                *self.committed.entry(id.clone()).or_default() += 1;
                done(Some(&id), facts(&id))
            }
            "find" => {
                let id = task["backup"]["backup"].as_str().unwrap_or_default();
                if self.committed.contains_key(id) {
                    return done(Some(id), facts(id));
                }
                json!({
                    "outcome": {
                        "state": "failed", "class": "notFound", "reason": "BackupNotFound",
                        "message": "there is no such backup", "help": null, "retryable": false,
                    },
                    "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:01Z", "facts": {}, "warnings": [],
                })
            }
            _ => done(None, json!({})),
        }
    }
}

fn facts(id: &str) -> Value {
    json!({
        "backup-path": format!("s3://bucket/{id}/dump.rdb"),
        "backup-started-at": "2026-01-01T00:00:00Z", "backup-completed-at": "2026-01-01T00:00:01Z",
        "node": "redis://redis.example:6379", "artifact-type": "rdb", "stored-sha256": "0".repeat(64),
        "size": "100", "stored-size": "100", "keys": "1", "shards": "1", "method": "redis-rdb",
        "method-digest": format!("sha256:{}", "0".repeat(64)),
    })
}
