//! A node that runs no containers: it takes the pods of a namespace's tasks, lets them "run", and reports what a real task
//! would, remembering what it has written. So an operator and its Jobs are tested against an API server alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::kube::api::{Api, ListParams, Patch, PatchParams};
use ::kube::{Client, ResourceExt};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Between two looks at the pods.
const PAUSE: Duration = Duration::from_millis(100);
/// When every task ends.
const NOW: &str = "2026-01-01T00:00:01Z";

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
    /// Those of them that are pinned.
    pinned: BTreeSet<String>,
    /// Every pod whose task began.
    begun: BTreeMap<String, Begun>,
    /// How many pods of a kind of task there were at a time, at most, that had not ended.
    at_once: BTreeMap<String, usize>,
    /// Errors of the node itself.
    faults: Vec<String>,
}

/// A task that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// `backup`, `restore` and so on.
    pub kind: String,
    /// Whether it did what it was to do; `None` where it never came to its end.
    pub done: Option<bool>,
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

    /// A backup lies there already.
    pub fn store(&self, id: &str) {
        locked(&self.world).committed.insert(id.to_owned(), 1);
    }

    /// Those of them that are pinned.
    pub fn pinned(&self) -> BTreeSet<String> {
        locked(&self.world).pinned.clone()
    }

    /// Every pod whose task began, whatever became of it.
    pub fn begun(&self) -> BTreeMap<String, Begun> {
        locked(&self.world).begun.clone()
    }

    /// How many tasks of a kind began, and how many of them did what they were to do.
    pub fn count(&self, kind: &str) -> (usize, usize) {
        let world = locked(&self.world);
        let of_kind = || world.begun.values().filter(|begun| begun.kind == kind);
        (of_kind().count(), of_kind().filter(|begun| begun.done == Some(true)).count())
    }

    /// How many pods of a kind of task there were at a time, at most, that had not ended.
    pub fn at_once(&self, kind: &str) -> usize {
        locked(&self.world).at_once.get(kind).copied().unwrap_or(0)
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
    let found = pods.list(&ListParams::default()).await?.items;
    locked(world).see(&found)?;
    for pod in found {
        let name = pod.name_any();
        let done = match phase(&pod) {
            "Pending" => {
                locked(world).begin(&task_of(&pod)?, &name);
                set(pods, &name, &running(&pod)).await
            }
            "Running" => {
                let report = locked(world).run(&task_of(&pod)?, &name);
                set(pods, &name, &ended(&pod, &report)).await
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

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
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

fn ended(pod: &Pod, report: &Value) -> Value {
    let (name, image) = container_of(pod);
    // What fails here was not found, which has an exit code of its own: the Job tries no more.
    let (phase, reason, code) = if is_done(report) { ("Succeeded", "Completed", 0) } else { ("Failed", "Error", 4) };
    json!({
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": name, "image": image, "imageID": "fake", "ready": false, "restartCount": 0,
            "state": {"terminated": {
                "exitCode": code, "reason": reason, "startedAt": NOW, "finishedAt": NOW, "message": report.to_string(),
            }},
        }],
    })
}

fn is_done(report: &Value) -> bool {
    report["outcome"]["state"] == "done"
}

fn kind(task: &Value) -> &str {
    task["kind"].as_str().unwrap_or_default()
}

impl World {
    fn see(&mut self, pods: &[Pod]) -> Result<()> {
        let mut now: BTreeMap<String, usize> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| matches!(phase(pod), "Pending" | "Running")) {
            *now.entry(kind(&task_of(pod)?).to_owned()).or_default() += 1;
        }
        for (kind, count) in now {
            let most = self.at_once.entry(kind).or_default();
            *most = count.max(*most);
        }
        Ok(())
    }

    fn begin(&mut self, task: &Value, pod: &str) {
        let kind = kind(task).to_owned();
        self.begun.entry(pod.to_owned()).or_insert(Begun { kind, done: None });
    }

    /// Does the task, and says what its report would.
    fn run(&mut self, task: &Value, pod: &str) -> Value {
        let report = self.work(task);
        if let Some(begun) = self.begun.get_mut(pod) {
            begun.done = Some(is_done(&report));
        }
        report
    }

    fn work(&mut self, task: &Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // A backup brings its id, all others say which one they want.
        let chosen = match text(&task["backup"]["backup"]) {
            latest if latest == "latest" => self.committed.keys().next_back().cloned().unwrap_or_default(),
            id => id,
        };
        match kind(task) {
            "backup" => {
                let id = text(&task["backupId"]);
                *self.committed.entry(id.clone()).or_default() += 1;
                done(Some(&id), facts(&id))
            }
            "prune" => done(None, self.plan()),
            "find" | "restore" | "verify" | "pin" | "delete" if !self.committed.contains_key(&chosen) => not_found(),
            "find" => done(Some(&chosen), facts(&chosen)),
            "restore" => {
                done(Some(&chosen), json!({"keys": "1", "keys-restored": "1", "target": "redis.example:6379"}))
            }
            "verify" => {
                let read = json!({"verified": "yes", "verified-at": NOW, "level": task["level"], "keys": "1"});
                done(Some(&chosen), read)
            }
            "pin" => {
                let is_pinned = task["pinned"] == true;
                if is_pinned {
                    self.pinned.insert(chosen.clone());
                } else {
                    self.pinned.remove(&chosen);
                }
                done(Some(&chosen), json!({"pinned": if is_pinned { "yes" } else { "no" }}))
            }
            "delete" => {
                self.committed.remove(&chosen);
                done(Some(&chosen), json!({"objects": "2"}))
            }
            _ => done(None, json!({})),
        }
    }

    /// Retention that lets nothing go.
    fn plan(&self) -> Value {
        let kept = self.committed.len().to_string();
        let mut facts = json!({"kept": kept, "deleted": "0", "freed-size": "0", "problems": "0"});
        for id in self.committed.keys() {
            facts[format!("plan-{id}")] = json!("keep: last (1 of 1)");
        }
        facts
    }
}

fn done(id: Option<&str>, facts: Value) -> Value {
    let mut report = report(json!({"state": "done"}), facts);
    if let Some(id) = id {
        report["backupId"] = json!(id);
        report["manifest"] = json!(format!("s3://bucket/{id}/manifest.json"));
    }
    report
}

fn not_found() -> Value {
    let outcome = json!({
        "state": "failed", "class": "not-found", "reason": "BackupNotFound", "message": "there is no such backup",
        "help": null, "retryable": false,
    });
    report(outcome, json!({}))
}

fn report(outcome: Value, facts: Value) -> Value {
    json!({"outcome": outcome, "startedAt": "2026-01-01T00:00:00Z", "endedAt": NOW, "facts": facts, "warnings": []})
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
