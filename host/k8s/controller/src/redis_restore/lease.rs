//! Leases of a target: two restores never write to the same Redis at once.
//!
//! One for how the spec spells the target, and one for each of the servers that it turned out to be, so that two spellings of one
//! Redis meet. Taken in this order and all of them or none; the first says which the others are, so that they are found again
//! whatever the spelling means by then.
//!
//! Held until the restore ended, however long that takes: not a time frees them but the end of their holder, and of every pod that
//! was made for the target. A pod outlives its restore's object for its grace period, and on a lost node for longer.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use redkeep_k8s_api::labels::{PART_OF, PART_OF_VALUE, RESTORE, RESTORE_TARGET};
use redkeep_k8s_api::redis_restore::{RedisRestore, RestoreTarget};
use redkeep_k8s_api::run::Phase;

use crate::apply::{is_conflict, is_not_found};
use crate::common::{ReconcileError, digest};
use crate::context::Context;

/// An annotation: on pods of a restore all Leases of their target, on the first Lease the others; a comma between them.
pub(super) const LEASES: &str = "redis.io/restore-leases";

/// Who may write a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// Nobody has it, or one whose restore ended.
    Free,
    /// This restore.
    Ours,
    /// Another restore that has not ended.
    Held {
        /// Its name.
        by: String,
    },
}

/// The first: `redkeep-restore-` and a digest of how the spec spells the target.
pub(super) fn name(target: &RestoreTarget) -> String {
    named(&serde_json::to_vec(target).unwrap_or_default())
}

/// All of them, in the order in which they are taken. `servers`: as [`super::target::servers`] says.
pub(super) fn names(target: &RestoreTarget, servers: &BTreeSet<String>) -> Vec<String> {
    let first = name(target);
    let others: BTreeSet<String> = servers.iter().map(|server| named(server.as_bytes())).collect();
    [first.clone()].into_iter().chain(others.into_iter().filter(|other| *other != first)).collect()
}

fn named(said: &[u8]) -> String {
    format!("redkeep-restore-{}", digest::short(said))
}

fn failed(act: &'static str, lease: &str) -> impl FnOnce(kube::Error) -> ReconcileError {
    ReconcileError::api(act, format!("Lease {lease} of the restore's target"))
}

fn api(restore: &RedisRestore, context: &Context) -> Api<Lease> {
    Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default())
}

/// Who has the target's Leases.
pub(super) async fn look(
    restore: &RedisRestore,
    context: &Context,
    names: &[String],
) -> Result<LeaseState, ReconcileError> {
    Ok(match survey(restore, context, names).await? {
        Survey::Held { by } => LeaseState::Held { by },
        Survey::Open(places) if places.iter().all(|place| place.is_ours) => LeaseState::Ours,
        Survey::Open(_) => LeaseState::Free,
    })
}

/// How they stand.
enum Survey {
    /// Another restore, or its pod, still has one of them.
    Held { by: String },
    /// Nobody else has any.
    Open(Vec<Place>),
}

struct Place {
    name: String,
    found: Option<Lease>,
    is_ours: bool,
}

async fn survey(restore: &RedisRestore, context: &Context, names: &[String]) -> Result<Survey, ReconcileError> {
    let api = api(restore, context);
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        let found = api.get_opt(name).await.map_err(failed("read", name))?;
        let is_ours = found.as_ref().is_some_and(|lease| is_held_by(lease, restore));
        if let Some(lease) = found.as_ref().filter(|_| !is_ours)
            && let Some(by) = live_holder(lease, restore, context).await?
        {
            return Ok(Survey::Held { by });
        }
        places.push(Place { name: name.clone(), found, is_ours });
    }
    if let Some(pod) = writer(&places, restore, context).await? {
        return Ok(Survey::Held { by: format!("whose pod {pod} has not ended") });
    }
    Ok(Survey::Open(places))
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn is_held_by(lease: &Lease, restore: &RedisRestore) -> bool {
    holder(lease).is_some_and(|holder| restore.meta().uid.as_deref() == Some(holder))
}

/// The restore that has a Lease and has not ended.
async fn live_holder(
    lease: &Lease,
    restore: &RedisRestore,
    context: &Context,
) -> Result<Option<String>, ReconcileError> {
    let Some(holder) = holder(lease) else { return Ok(None) };
    let by = lease.labels().get(RESTORE).cloned().unwrap_or_default();
    let restores: Api<RedisRestore> = Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default());
    let other = restores.get_opt(&by).await.map_err(failed("find the holder of", &lease.name_any()))?;
    let is_live = other.is_some_and(|other| {
        let is_over = other.status.and_then(|status| status.phase).is_some_and(Phase::is_terminal);
        other.metadata.uid.as_deref() == Some(holder) && !is_over
    });
    Ok(is_live.then_some(by))
}

/// A pod of an earlier restore that may still write under one of those Leases that are not ours.
async fn writer(places: &[Place], restore: &RedisRestore, context: &Context) -> Result<Option<String>, ReconcileError> {
    let open: Vec<&str> = places.iter().filter(|place| !place.is_ours).map(|place| place.name.as_str()).collect();
    let Some(first) = open.first() else { return Ok(None) };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &restore.namespace().unwrap_or_default());
    let of_restores = ListParams::default().labels(RESTORE_TARGET);
    let found = pods.list(&of_restores).await.map_err(failed("find pods that write under", first))?;
    let writes = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let all = pod.annotations().get(LEASES).into_iter().flat_map(|all| all.split(','));
        let mut under = pod.labels().get(RESTORE_TARGET).map(String::as_str).into_iter().chain(all);
        !matches!(phase, Some("Succeeded" | "Failed")) && under.any(|name| open.contains(&name))
    };
    Ok(found.items.iter().find(writes).map(ResourceExt::name_any))
}

/// Takes the Leases; whether this restore has all of them now. Those that it had before it has again.
pub(super) async fn take(
    restore: &RedisRestore,
    context: &Context,
    names: &[String],
) -> Result<LeaseState, ReconcileError> {
    let places = match survey(restore, context, names).await? {
        Survey::Open(places) => places,
        Survey::Held { by } => {
            // What an operator that died here had taken already.
            release(restore, context).await?;
            return Ok(LeaseState::Held { by });
        }
    };
    let api = api(restore, context);
    let before = places.first().filter(|first| first.is_ours).and_then(|first| first.found.as_ref());
    let mut others: BTreeSet<String> = before.into_iter().flat_map(others).collect();
    others.extend(names.iter().skip(1).cloned());
    for (number, place) in places.iter().enumerate() {
        let others = (number == 0).then_some(&others);
        let says_so =
            |lease: &Lease| others.is_none_or(|others| self::others(lease).collect::<BTreeSet<_>>() == *others);
        if place.is_ours && place.found.as_ref().is_some_and(says_so) {
            continue;
        }
        let mut wanted = lease_of(restore, context, &place.name, others);
        let written = match &place.found {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(found) => {
                // With the version that was looked at: whoever was faster has it.
                wanted.metadata.resource_version.clone_from(&found.metadata.resource_version);
                api.replace(&place.name, &PostParams::default(), &wanted).await
            }
        };
        match written {
            Ok(_) => {}
            Err(kube::Error::Api(status))
                if matches!(status.reason.as_str(), "AlreadyExists" | "Conflict" | "NotFound") =>
            {
                release(restore, context).await?;
                return Ok(LeaseState::Held { by: "that was faster".to_owned() });
            }
            Err(error) => return Err(failed("take", &place.name)(error)),
        }
    }
    Ok(LeaseState::Ours)
}

/// The others that the first Lease tells of.
fn others(first: &Lease) -> impl Iterator<Item = String> {
    let all = first.annotations().get(LEASES).cloned().unwrap_or_default();
    all.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn lease_of(restore: &RedisRestore, context: &Context, name: &str, others: Option<&BTreeSet<String>>) -> Lease {
    let labels = [(PART_OF.to_owned(), PART_OF_VALUE.to_owned()), (RESTORE.to_owned(), restore.name_any())];
    let others = others.map(|others| others.iter().map(String::as_str).collect::<Vec<_>>().join(","));
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: restore.namespace(),
            labels: Some(labels.into()),
            annotations: others.map(|others| [(LEASES.to_owned(), others)].into()),
            owner_references: restore.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: restore.uid(),
            acquire_time: Some(MicroTime(context.now())),
            ..LeaseSpec::default()
        }),
    }
}

/// Gives the Leases back, the first one last. One that another restore has by now is left alone.
pub(super) async fn release(restore: &RedisRestore, context: &Context) -> Result<(), ReconcileError> {
    let (api, first) = (api(restore, context), name(&restore.spec.target));
    let found = api.get_opt(&first).await.map_err(failed("read", &first))?;
    let Some(first) = found.filter(|lease| is_held_by(lease, restore)) else { return Ok(()) };
    for name in others(&first) {
        if let Some(other) = api.get_opt(&name).await.map_err(failed("read", &name))?
            && is_held_by(&other, restore)
        {
            give_back(&api, &other).await?;
        }
    }
    give_back(&api, &first).await
}

async fn give_back(api: &Api<Lease>, lease: &Lease) -> Result<(), ReconcileError> {
    let name = lease.name_any();
    let preconditions = Preconditions { resource_version: lease.resource_version(), uid: lease.uid() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(failed("release", &name)(error)),
    }
}
