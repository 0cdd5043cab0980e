//! Tasks as Kubernetes Jobs: the default, so that the cluster's scheduler spreads the load.

pub mod build;
pub mod observe;
mod progress;
pub mod server;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use redkeep_k8s_api::labels;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::apply::{FIELD_MANAGER, is_conflict, is_namespace_terminating, is_not_found};
use crate::clock::Clock;
use crate::executor::{ChangedOwner, Executor, ExecutorError, TaskKey, TaskRequest, TaskState};

/// How an API server refuses by the policy that comes with the operator.
const OWN_POLICY: &str = "ValidatingAdmissionPolicy 'redkeep-jobs'";

/// A finished Job whose report was read stays this long, for whoever wants to see its log.
const KEPT_AFTER_END: i32 = 600;
/// Events of one object in one answer, and answers that are read at most: they come by name, the newest anywhere among them.
const EVENTS_PAGE: u32 = 200;
const EVENT_PAGES: usize = 10;
/// Pods of one Job that are read at most: there are as many as attempts.
const PODS_READ: u32 = 50;

/// Runs every task as a Job of the operator's own image.
pub struct JobExecutor {
    client: Client,
    clock: Arc<dyn Clock>,
    image: String,
    watch_namespace: Option<String>,
}

impl JobExecutor {
    /// Jobs of this image; with a namespace only that one is watched.
    pub fn new(client: Client, clock: Arc<dyn Clock>, image: String, watch_namespace: Option<String>) -> Self {
        Self { client, clock, image, watch_namespace }
    }

    fn api<K>(&self, key: &TaskKey) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn job(&self, key: &TaskKey) -> Result<Option<Job>, ExecutorError> {
        self.api::<Job>(key).get_opt(&key.name).await.map_err(failed("read", key))
    }

    async fn pods(&self, key: &TaskKey, job: &Job) -> Result<Vec<Pod>, ExecutorError> {
        let selector = format!("batch.kubernetes.io/job-name={}", key.name);
        let parameters = ListParams::default().labels(&selector).limit(PODS_READ);
        let mut pods = self.api::<Pod>(key).list(&parameters).await.map_err(failed("read pods of", key))?.items;
        // Those of a Job of the same name that was deleted before may not be gone yet, and have reports of their own.
        pods.retain(|pod| pod.owner_references().iter().all(|owner| Some(&owner.uid) == job.metadata.uid.as_ref()));
        Ok(pods)
    }

    async fn events_about(&self, key: &TaskKey, name: &str) -> Result<Vec<Event>, ExecutorError> {
        let api = self.api::<Event>(key);
        let mut parameters = ListParams::default().fields(&format!("involvedObject.name={name}")).limit(EVENTS_PAGE);
        let mut events = Vec::new();
        for _ in 0..EVENT_PAGES {
            let page = api.list(&parameters).await.map_err(failed("read events of", key))?;
            events.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        Ok(events)
    }

    async fn delete(&self, key: &TaskKey, job: &Job) -> Result<(), ExecutorError> {
        // Without a policy the API server orphans the pod, which then runs on.
        let mut parameters = DeleteParams::background();
        parameters.preconditions = Some(Preconditions { uid: job.uid(), resource_version: None });
        match self.api::<Job>(key).delete(&key.name, &parameters).await {
            Ok(_) => Ok(()),
            // Gone, or another one of that name: either way this one runs no more.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(failed("delete", key)(error)),
        }
    }
}

fn failed(act: &'static str, key: &TaskKey) -> impl FnOnce(kube::Error) -> ExecutorError {
    let key = key.clone();
    move |source| ExecutorError::Api { act, key, source: Box::new(source) }
}

#[async_trait]
impl Executor for JobExecutor {
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError> {
        let key = &request.key;
        let job = build::build(request, &self.image, self.clock.now());
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let Err(error) = self.api::<Job>(key).create(&parameters, &job).await else { return Ok(()) };
        if let kube::Error::Api(status) = &error {
            if status.is_already_exists() {
                let existing = self.job(key).await?;
                let owners = existing.iter().flat_map(ResourceExt::owner_references);
                // None: deleted just now; the next look finds that out.
                let ours = existing.is_none() || owners.into_iter().any(|owner| owner.uid == request.owner.uid);
                return if ours { Ok(()) } else { Err(ExecutorError::NameTaken { key: key.clone() }) };
            }
            if is_namespace_terminating(&error) {
                return Err(ExecutorError::NamespaceTerminating { namespace: key.namespace.clone() });
            }
            let refused =
                |reason| Err(ExecutorError::Refused { key: key.clone(), reason, message: status.message.clone() });
            match status.code {
                403 if status.message.contains("exceeded quota") => return refused("QuotaExceeded"),
                // It names the image of its release: while an upgrade is under way, it and the operator are of two.
                403 if status.message.contains(OWN_POLICY) => return refused("PolicyRefused"),
                400 | 403 | 422 => return refused("Forbidden"),
                _ => {}
            }
        }
        Err(failed("create", key)(error))
    }

    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError> {
        let Some(job) = self.job(key).await? else { return Ok(TaskState::Missing) };
        let pods = self.pods(key, &job).await?;
        let now = self.clock.now();
        let state = observe::observe(&job, &pods, &[], now);
        let pending = match &state {
            TaskState::Waiting { .. } => true,
            TaskState::Failed { .. } => !observe::is_finished(&job),
            TaskState::Running { pod, .. } => {
                let running = pods.iter().find(|one| one.metadata.name == *pod);
                let address = running.and_then(|pod| pod.status.as_ref()?.pod_ip.as_deref());
                let progress = match address {
                    Some(address) => progress::fetch(address, build::PROGRESS_PORT).await,
                    None => None,
                };
                return Ok(TaskState::Running { pod: pod.clone(), progress });
            }
            TaskState::Missing | TaskState::Ended { .. } => false,
        };
        if !pending {
            return Ok(state);
        }
        // Only what has not started needs Events to be understood: those about its pod, or, without one, about the Job.
        let newest = pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone());
        let about = newest.map_or_else(|| key.name.clone(), ResourceExt::name_any);
        let events = self.events_about(key, &about).await?;
        Ok(observe::observe(&job, &pods, &events, now))
    }

    async fn failed_at(&self, key: &TaskKey) -> Result<Option<Timestamp>, ExecutorError> {
        let Some(job) = self.job(key).await? else { return Ok(None) };
        if let Some(at) = observe::finished_at(&job) {
            return Ok(Some(at));
        }
        Ok(observe::gave_up_at(&job, &self.pods(key, &job).await?))
    }

    async fn cancel(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        match self.job(key).await? {
            Some(job) => self.delete(key, &job).await,
            None => Ok(()),
        }
    }

    async fn forget(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        let Some(job) = self.job(key).await? else { return Ok(()) };
        // Its report is read as soon as its pod has ended, which the Job may not say yet: its log is kept all the same.
        if !observe::is_finished(&job) && !observe::is_done(&self.pods(key, &job).await?) {
            return self.delete(key, &job).await;
        }
        if job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()) {
            return Ok(());
        }
        // Only now: a Job that goes before its report was read takes the report with it.
        let patch = json!({"spec": {"ttlSecondsAfterFinished": KEPT_AFTER_END}});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api::<Job>(key).patch(&key.name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(failed("set the time to live of", key)(error)),
        }
    }

    fn changes(&self) -> BoxStream<'static, ChangedOwner> {
        let api: Api<PartialObjectMeta<Job>> = match &self.watch_namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let selector = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE);
        let jobs = watcher(api, watcher::Config::default().labels(&selector)).default_backoff().touched_objects();
        jobs.filter_map(|job| async move {
            let job = match job {
                Ok(job) => job,
                Err(error) => {
                    tracing::warn!(error = %error, "unable to watch jobs");
                    return None;
                }
            };
            let namespace = job.namespace()?;
            let owner = job.owner_references().iter().find(|owner| owner.controller == Some(true))?;
            Some(ChangedOwner { kind: owner.kind.clone(), namespace, name: owner.name.clone() })
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests;
