//! Reads what there is of a cluster: `StatefulSet`, pods, claims, the restore's task and backup, and how the instances stand.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use redkeep_core::managed::Standing;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_cluster::RedisCluster;

use super::bootstrap::{self, FoundClaim, ValidatedBootstrap};
use super::build::restore::task_key;
use super::instance::{Address, InstanceError};
use super::validate::ValidatedCluster;
use super::{ClusterError, names};
use crate::common::method::{self, MethodAccess};
use crate::common::{Unresolved, selection};
use crate::context::Context;
use crate::executor::TaskState;

/// The `StatefulSet` and its pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Workload {
    pub(super) set: Option<StatefulSet>,
    /// Somebody else's `StatefulSet` has the name.
    pub(super) is_foreign: bool,
    pub(super) pods: Vec<Pod>,
}

fn failed(cluster: &RedisCluster, act: &'static str) -> impl FnOnce(kube::Error) -> ClusterError {
    let name = cluster.name_any();
    move |source| ClusterError::Api { act, name, source: Box::new(source) }
}

pub(super) async fn workload(cluster: &RedisCluster, context: &Context) -> Result<Workload, ClusterError> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
    let Some(set) = sets.get_opt(&name).await.map_err(failed(cluster, "read the StatefulSet of"))? else {
        return Ok(Workload::default());
    };
    if !is_owned_by(set.owner_references(), &cluster.uid().unwrap_or_default()) {
        return Ok(Workload { is_foreign: true, ..Workload::default() });
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let parameters = ListParams::default().labels(&names::selector_text(&name));
    let listed = pods.list(&parameters).await.map_err(failed(cluster, "list the pods of"))?;
    let uid = set.uid().unwrap_or_default();
    // Labels alone may select others.
    let pods = listed.items.into_iter().filter(|pod| is_owned_by(pod.owner_references(), &uid)).collect();
    Ok(Workload { set: Some(set), is_foreign: false, pods })
}

fn is_owned_by(owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference], uid: &str) -> bool {
    owners.iter().any(|owner| owner.uid == uid)
}

/// Asks all instances at once. What one says is what it says of itself; who does not answer is `Err` with the reason.
pub(super) async fn standings(
    cluster: &RedisCluster,
    context: &Context,
    pods: &[Pod],
) -> BTreeMap<String, Result<Standing, InstanceError>> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let digest = cluster.status.as_ref().and_then(|status| status.certificate_digest.clone()).unwrap_or_default();
    let asked = pods.iter().map(|pod| {
        let pod_name = pod.name_any();
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
        let address = ip.map(|ip| Address::new(&namespace, &name, &pod_name, &ip, &digest));
        async move {
            let answer = if let Some(address) = address {
                context.instances.standing(&address).await
            } else {
                let message = "its pod has no address".to_owned();
                Err(InstanceError::Unreachable { pod: pod_name.clone(), message })
            };
            (pod_name, answer)
        }
    });
    join_all(asked).await.into_iter().collect()
}

/// Pods that wait for something to mount say what only in Events.
const QUIET: Duration = Duration::from_secs(10);
/// Events of one pod that are read.
const EVENTS_READ: u32 = 50;

/// What a pod that was scheduled a while ago still waits for.
pub(super) async fn waits_for(cluster: &RedisCluster, context: &Context, pods: &[Pod]) -> Option<(String, String)> {
    let now = context.now();
    let waits = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let age = pod.metadata.creation_timestamp.as_ref().map(|time| now.duration_since(time.0));
        phase == Some("Pending") && age.is_some_and(|age| Duration::try_from(age).is_ok_and(|age| age > QUIET))
    };
    let name = pods.iter().find(waits)?.name_any();
    let last = last_warning(cluster, context, &name).await?;
    let reason = match last.reason.as_deref() {
        Some("FailedMount" | "FailedAttachVolume") => reasons::MOUNT_FAILED.to_owned(),
        Some("FailedScheduling") => reasons::UNSCHEDULABLE.to_owned(),
        reason => reason.unwrap_or(reasons::STARTING).to_owned(),
    };
    Some((reason, format!("{name}: {}", last.message.unwrap_or_default())))
}

/// Nice to have, so a failure says nothing.
async fn last_warning(cluster: &RedisCluster, context: &Context, of: &str) -> Option<Event> {
    let api: Api<Event> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let parameters = ListParams::default().fields(&format!("involvedObject.name={of}")).limit(EVENTS_READ);
    let events = api.list(&parameters).await.ok()?.items;
    events.into_iter().rev().find(|event| event.type_.as_deref() == Some("Warning"))
}

/// Why a claim has no volume, in the provisioner's words. The pod says of it only that it cannot be scheduled.
pub(super) async fn claim_waits(cluster: &RedisCluster, context: &Context, claim: &str) -> Option<(String, String)> {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let found = api.get_opt(claim).await.ok()??;
    if found.status.and_then(|status| status.phase).as_deref() == Some("Bound") {
        return None;
    }
    let last = last_warning(cluster, context, claim).await?;
    Some((reasons::CLAIM_PENDING.to_owned(), format!("claim {claim}: {}", last.message.unwrap_or_default())))
}

/// What a cluster that has no `StatefulSet` yet is to be filled from.
#[derive(Debug)]
pub(super) struct Bootstrap {
    pub(super) claims: Vec<FoundClaim>,
    pub(super) task: TaskState,
    pub(super) found: Result<ValidatedBootstrap, Unresolved>,
}

pub(super) async fn bootstrap(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Context,
) -> Result<Bootstrap, ClusterError> {
    let status = cluster.status.as_ref().and_then(|status| status.bootstrap.clone()).unwrap_or_default();
    let is_over = bootstrap::is_pause_over(context.now(), cluster, &status);
    let mut task = match (status.attempts, is_over) {
        (Some(attempt), false) if status.task_name.is_some() => {
            let observed = context.executor.observe(&task_key(cluster, attempt)).await;
            observed.map_err(|source| ClusterError::Task { name: cluster.name_any(), source })?
        }
        _ => TaskState::Missing,
    };
    if let TaskState::Waiting { reason, message, .. } = &mut task
        && reason == reasons::UNSCHEDULABLE
        && let Some(why) = claim_waits(cluster, context, &names::claim(&validated.name, 0)).await
    {
        (*reason, *message) = why;
    }
    let claims = if validated.storage.is_some() { claims(cluster, validated, context).await? } else { Vec::new() };
    let found = if task == TaskState::Missing {
        match find(cluster, context).await {
            Err(source @ Unresolved::Read { .. }) => {
                return Err(ClusterError::Dereference { name: cluster.name_any(), source });
            }
            other => other,
        }
    } else {
        // It was all found when the task was made.
        Err(Unresolved::not_yet(reasons::RUNNING, "the task was made"))
    };
    Ok(Bootstrap { claims, task, found })
}

/// The pod of an attempt that still runs, or has not even begun to.
pub(super) async fn running_pod(
    cluster: &RedisCluster,
    context: &Context,
    attempt: i32,
) -> Result<Option<String>, ClusterError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let selector = format!("batch.kubernetes.io/job-name={}", task_key(cluster, attempt).name);
    let pods = api.list(&ListParams::default().labels(&selector)).await.map_err(failed(cluster, "list restores of"))?;
    let is_over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    Ok(pods.items.iter().find(|pod| !is_over(pod)).map(ResourceExt::name_any))
}

async fn find(cluster: &RedisCluster, context: &Context) -> Result<ValidatedBootstrap, Unresolved> {
    let Some(wanted) = &cluster.spec.bootstrap else {
        return Err(Unresolved::not_yet(reasons::NO_BOOTSTRAP, "no backup is named"));
    };
    let namespace = cluster.namespace().unwrap_or_default();
    let named = cluster.spec.backup_credentials_secret.as_ref();
    let found = selection::find(&context.client, &namespace, &wanted.from, named).await;
    let found = found.map_err(bootstrap::of_bootstrap)?;
    // A plugin that does not come with the program has its grants only from its BackupMethod.
    let made_by = found.made_by.clone().filter(|name| !method::is_bundled(name));
    let method = match wanted.method.clone().or(made_by) {
        Some(name) => method::resolve(&context.client, &name, &context.settings).await?,
        None => MethodAccess::default(),
    };
    bootstrap::validate(cluster, found, method, &context.settings)
}

async fn claims(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    context: &Context,
) -> Result<Vec<FoundClaim>, ClusterError> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &validated.namespace);
    let mut found = Vec::new();
    for ordinal in 0..validated.instances {
        let name = names::claim(&validated.name, ordinal);
        let claim = api.get_opt(&name).await.map_err(failed(cluster, "read a claim of"))?;
        found.extend(claim.map(|claim| FoundClaim {
            name,
            uid: claim.uid().unwrap_or_default(),
            filled_for: claim.annotations().get(names::FILLED_FOR).cloned(),
            is_terminating: claim.metadata.deletion_timestamp.is_some(),
        }));
    }
    Ok(found)
}
