//! Writes: status, objects, orders, labels, pods. Each can be repeated: whoever takes over half-way finds what is there.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use redkeep_k8s_api::common::LocalReference;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::RedisClusterStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::bootstrap::FoundClaim;
use super::build::{self, Objects};
use super::decide::{Seen, Step};
use super::fleet::Fleet;
use super::instance::{Address, InstanceError, secrets};
use super::status::Hindrance;
use super::{ClusterError, growth, names};
use crate::apply::{FIELD_MANAGER, is_conflict, is_not_found, patch_status};
use crate::context::Context;
use crate::outcome::{Outcome, publish};

/// What was applied is applied again after this, in case somebody changed it meanwhile.
const APPLY_AGAIN: Duration = Duration::from_secs(60);

fn failed(cluster: &RedisCluster, act: &'static str) -> impl FnOnce(kube::Error) -> ClusterError {
    let name = cluster.name_any();
    move |source| ClusterError::Api { act, name, source: Box::new(source) }
}

/// Writes the status as it was decided on; `false` when the object changed meanwhile, and nothing was written.
pub(super) async fn status(
    cluster: &RedisCluster,
    context: &Arc<Context>,
    next: &RedisClusterStatus,
    outcomes: impl IntoIterator<Item = Outcome>,
) -> Result<bool, ClusterError> {
    let api: Api<RedisCluster> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let version = cluster.resource_version();
    match patch_status(&api, &cluster.name_any(), cluster.status.as_ref(), next, version.as_deref()).await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(false),
        Err(error) => return Err(failed(cluster, "write the status of")(error)),
    }
    for outcome in outcomes {
        publish(context, cluster, &outcome).await;
    }
    Ok(true)
}

/// Makes the Secrets that are the operator's to make, and says in the status which they are, before anybody uses them.
pub(super) async fn make_secrets(
    cluster: &RedisCluster,
    context: &Arc<Context>,
    has_password: bool,
) -> Result<Option<RedisClusterStatus>, ClusterError> {
    let mut status = cluster.status.clone().unwrap_or_default();
    let name = cluster.name_any();
    let mut changed = false;
    let prefix = format!("{name}-auth");
    let named = cluster.spec.auth.as_ref().and_then(|auth| auth.secret.as_ref());
    let wanted = match (named, &status.auth_secret) {
        _ if !has_password => None,
        (Some(named), _) => Some(LocalReference { name: named.name.clone() }),
        // One that the spec named before has its password under another key, and is not the operator's.
        (None, Some(made)) if secrets::is_fresh_name(&made.name, &prefix) => Some(made.clone()),
        (None, _) => {
            let secret = secrets::fresh_name(&prefix);
            let made = secrets::password(build::secret_metadata(cluster, secret.clone()));
            create(cluster, context, &made).await?;
            Some(LocalReference { name: secret })
        }
    };
    if status.auth_secret != wanted {
        status.auth_secret = wanted;
        changed = true;
    }
    if status.identity_secret.is_none() || status.certificate_digest.is_none() {
        let secret = secrets::fresh_name(&format!("{name}-identity"));
        let made = secrets::identity(build::secret_metadata(cluster, secret.clone()), &name);
        let (made, digest) = made.map_err(|source| ClusterError::Certificate { source })?;
        create(cluster, context, &made).await?;
        status.identity_secret = Some(LocalReference { name: secret });
        status.certificate_digest = Some(digest);
        changed = true;
    }
    Ok(changed.then_some(status))
}

async fn create(cluster: &RedisCluster, context: &Context, secret: &Secret) -> Result<(), ClusterError> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, secret).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refused::<Secret>(cluster, "make a Secret of", &secret.name_any(), error)),
    }
}

/// What the API server says no to is told in its words, the rest as a failure of ours.
fn refused<K: Resource<DynamicType = ()>>(
    cluster: &RedisCluster,
    act: &'static str,
    name: &str,
    error: kube::Error,
) -> ClusterError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            let (kind, name) = (K::kind(&()).into_owned(), name.to_owned());
            ClusterError::Refused { kind, name, message: status.message.clone() }
        }
        error => failed(cluster, act)(error),
    }
}

/// Makes the claim that is to be filled; one that is there already was looked at before.
pub(super) async fn make_claim(
    cluster: &RedisCluster,
    context: &Context,
    claim: &PersistentVolumeClaim,
) -> Result<(), ClusterError> {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, claim).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => {
            Err(refused::<PersistentVolumeClaim>(cluster, "make the first claim of", &claim.name_any(), error))
        }
        Ok(_) => Ok(()),
    }
}

/// A claim that was filled does not go with its cluster any more, but as the spec says.
pub(super) async fn keep_claim(cluster: &RedisCluster, context: &Context) -> Result<(), ClusterError> {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let (name, uid) = (names::claim(&cluster.name_any(), 0), cluster.uid().unwrap_or_default());
    let Some(claim) = api.get_opt(&name).await.map_err(failed(cluster, "read the first claim of"))? else {
        return Ok(());
    };
    let owners = claim.owner_references();
    if !owners.iter().any(|owner| owner.uid == uid) {
        return Ok(());
    }
    let others: Vec<_> = owners.iter().filter(|owner| owner.uid != uid).collect();
    let patch = json!({"metadata": {"ownerReferences": others, "uid": claim.uid(), "resourceVersion": claim.resource_version()}});
    let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).map_err(failed(cluster, "keep the first claim of"))
}

/// Takes away a claim that was made for this restore and that no pod of Redis ever had.
pub(super) async fn drop_claim(
    cluster: &RedisCluster,
    context: &Context,
    claim: &FoundClaim,
) -> Result<(), ClusterError> {
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: Some(claim.uid.clone()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&claim.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(failed(cluster, "delete the first claim of")(error)),
    }
}

/// Applies everything that a cluster is made of, when it changed or a while has passed.
pub(super) async fn objects(
    cluster: &RedisCluster,
    context: &Context,
    fleet: &Fleet,
    objects: &Objects,
    set: &StatefulSet,
) -> Result<Option<Hindrance>, ClusterError> {
    let uid = cluster.uid().unwrap_or_default();
    let hash = hash_of(&[
        serde_json::to_string(&cluster.spec.storage),
        serde_json::to_string(&objects.config),
        serde_json::to_string(&objects.services),
        serde_json::to_string(&objects.budget),
        serde_json::to_string(&objects.role_binding),
        serde_json::to_string(&objects.role),
        serde_json::to_string(&objects.service_account),
        serde_json::to_string(set),
    ]);
    let elapsed = fleet.elapsed();
    let before = fleet.with(&uid, |memory| memory.applied.clone());
    if let Some((before, at, not_grown)) = before
        && before == hash
        && elapsed.saturating_sub(at) < APPLY_AGAIN
    {
        return Ok(not_grown);
    }
    if let Some(account) = &objects.service_account {
        put(cluster, context, account).await?;
    }
    put(cluster, context, &objects.role).await?;
    put(cluster, context, &objects.role_binding).await?;
    put(cluster, context, &objects.config).await?;
    for service in &objects.services {
        put(cluster, context, service).await?;
    }
    match &objects.budget {
        Some(budget) => put(cluster, context, budget).await?,
        None => drop_budget(cluster, context).await?,
    }
    put(cluster, context, set).await?;
    let not_grown = match grow_claims(cluster, context, set).await {
        Ok(()) => None,
        Err(error @ ClusterError::ClaimNotGrown { .. }) => {
            tracing::warn!(cluster = cluster.name_any(), error = %error, "unable to grow a claim");
            Some(Hindrance::of_object(&error))
        }
        Err(error) => return Err(error),
    };
    fleet.with(&uid, |memory| memory.applied = Some((hash, elapsed, not_grown.clone())));
    Ok(not_grown)
}

/// Claims that ask for less than the spec does now; the storage class says whether they can grow. The first that cannot is told,
/// when all were tried.
async fn grow_claims(cluster: &RedisCluster, context: &Context, set: &StatefulSet) -> Result<(), ClusterError> {
    let Some(storage) = &cluster.spec.storage else { return Ok(()) };
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let mut not_grown = None;
    for ordinal in 0..replicas {
        let name = names::claim(&cluster.name_any(), ordinal);
        let Some(claim) = api.get_opt(&name).await.map_err(failed(cluster, "read a claim of"))? else { continue };
        let asked = claim.spec.and_then(|spec| spec.resources?.requests?.get("storage").cloned()).map(|asked| asked.0);
        if !growth::must_grow(asked.as_deref(), &storage.size) {
            continue;
        }
        let patch = json!({"spec": {"resources": {"requests": {"storage": storage.size}}}});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
                let (asked, wanted) = (asked.unwrap_or_default(), storage.size.clone());
                let message = status.message.clone();
                not_grown.get_or_insert(ClusterError::ClaimNotGrown { name, asked, wanted, message });
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(failed(cluster, "grow a claim of")(error)),
        }
    }
    not_grown.map_or(Ok(()), Err)
}

fn hash_of<E: Debug>(texts: &[Result<String, E>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for text in texts.iter().flatten() {
        text.hash(&mut hasher);
    }
    hasher.finish()
}

/// Server-side apply; an object of that name which is not this cluster's is left alone.
async fn put<K>(cluster: &RedisCluster, context: &Context, object: &K) -> Result<(), ClusterError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let name = object.name_any();
    let existing = api.get_opt(&name).await.map_err(failed(cluster, "read a part of"))?;
    let uid = cluster.uid().unwrap_or_default();
    if existing.is_some_and(|existing| !existing.owner_references().iter().any(|owner| owner.uid == uid)) {
        return Err(ClusterError::NameTaken { kind: K::kind(&()).into_owned(), name });
    }
    let mut value =
        serde_json::to_value(object).map_err(|source| ClusterError::Encode { name: name.clone(), source })?;
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch(&name, &parameters, &Patch::Apply(&value)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refused::<K>(cluster, "apply a part of", &name, error)),
    }
}

async fn drop_budget(cluster: &RedisCluster, context: &Context) -> Result<(), ClusterError> {
    let api: Api<PodDisruptionBudget> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let name = cluster.name_any();
    let uid = cluster.uid().unwrap_or_default();
    let existing = api.get_opt(&name).await.map_err(failed(cluster, "read a part of"))?;
    if !existing.is_some_and(|one| one.owner_references().iter().any(|owner| owner.uid == uid)) {
        return Ok(());
    }
    match api.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(failed(cluster, "delete a part of")(error)),
    }
}

/// Does what was planned. What an instance does not do now is asked of it again at the next look; what the API server does not is
/// told when everything was tried.
///
/// # Errors
/// The first change of a pod that failed or was refused.
pub(super) async fn steps(
    cluster: &RedisCluster,
    context: &Context,
    fleet: &Fleet,
    seen: &Seen,
    steps: Vec<Step>,
) -> Result<(), ClusterError> {
    let (told, rest): (Vec<_>, Vec<_>) =
        steps.into_iter().partition(|step| matches!(step, Step::Order { .. } | Step::Notify { .. }));
    join_all(told.into_iter().map(|step| tell(cluster, context, fleet, seen, step))).await;
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let mut untouched = None;
    for step in rest {
        let (Step::Label { pod, .. } | Step::Delete { pod, .. } | Step::Order { pod, .. } | Step::Notify { pod, .. }) =
            &step;
        let name = pod.clone();
        let done = match step {
            Step::Label { pod, role } => {
                let patch = json!({"metadata": {"labels": {labels::ROLE: role}}});
                pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
            }
            Step::Delete { pod, uid } => {
                let preconditions = Preconditions { uid: Some(uid), resource_version: None };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                tracing::info!(cluster = cluster.name_any(), pod, "deleting a pod that is to be made anew");
                pods.delete(&pod, &parameters).await.map(drop)
            }
            Step::Order { .. } | Step::Notify { .. } => Ok(()),
        };
        match done {
            Ok(()) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => {
                let error = refused::<Pod>(cluster, "change a pod of", &name, error);
                tracing::warn!(cluster = cluster.name_any(), pod = name, error = %redkeep_core::classify::chain(&error), "unable to change a pod");
                untouched.get_or_insert(error);
            }
        }
    }
    untouched.map_or(Ok(()), Err)
}

async fn tell(cluster: &RedisCluster, context: &Context, fleet: &Fleet, seen: &Seen, step: Step) {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let digest = cluster.status.as_ref().and_then(|status| status.certificate_digest.clone()).unwrap_or_default();
    let address = |pod: &str| {
        let ip = seen.members.get(pod).and_then(|member| member.ip.as_deref())?;
        Some(Address::new(&namespace, &name, pod, ip, &digest))
    };
    let told: Result<(), InstanceError> = match step {
        Step::Order { pod, orders } => match address(&pod) {
            Some(address) => match context.instances.order(&address, &orders).await {
                Ok(_) => {
                    tracing::info!(cluster = name, pod, epoch = orders.epoch, role = ?orders.role, "ordered");
                    fleet.with(&cluster.uid().unwrap_or_default(), |memory| memory.acknowledge(&pod, orders));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            None => Ok(()),
        },
        Step::Notify { pod, notice } => match address(&pod) {
            Some(address) => context.instances.notify(&address, &notice).await.map(drop),
            None => Ok(()),
        },
        Step::Label { .. } | Step::Delete { .. } => Ok(()),
    };
    if let Err(error) = told {
        tracing::warn!(cluster = name, namespace, error = %redkeep_core::classify::chain(&error), "unable to give orders");
    }
}
