//! `RedisScheduledBackup`: makes a RedisBackup for each slot, keeps the history short, and lets retention run.
//!
//! Six steps a look. What was decided is written down right after it was done, with the object's version, so that a crash
//! between both is found by the child's name and no slot runs twice.

mod apply;
mod build;
mod children;
mod decide;
mod dereference;
mod look;
mod retention;
mod siblings;
mod status;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod validate;
mod verification;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;
use tokio::sync::watch as signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::metrics::ClusterLabels;
use crate::runtime::{Drive, ObjectKey, Queue, drive};
use crate::server::Readiness;
use crate::timer::Timer;
use children::Children;
use look::Look;
use siblings::Siblings;
use validate::{cluster_name, validate};

const NAME: &str = "redisscheduledbackup";
const KIND: &str = "RedisScheduledBackup";
/// How long after a write the cache may still show the object as it was before.
const CACHE_LAG: Duration = Duration::from_secs(30);

/// What all looks share.
#[derive(Default)]
struct Shared {
    children: Children,
    siblings: Siblings,
    timer: Timer,
    fired: Mutex<HashMap<ObjectKey, Fired>>,
}

/// A slot that was written down a moment ago.
struct Fired {
    uid: String,
    slot: Timestamp,
    at: Instant,
}

impl Shared {
    /// Whether the cache has not seen yet what we wrote: deciding on it again would only ask for a conflict.
    fn is_stale(&self, key: &ObjectKey, uid: &str, last_slot: Option<Timestamp>) -> bool {
        let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = fired.get(key) else { return false };
        let is_stale = known.uid == uid && last_slot < Some(known.slot) && known.at.elapsed() < CACHE_LAG;
        if !is_stale {
            fired.remove(key);
        }
        is_stale
    }

    fn remember(&self, key: &ObjectKey, uid: &str, slot: Timestamp) {
        let entry = Fired { uid: uid.to_owned(), slot, at: Instant::now() };
        self.fired.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), entry);
    }
}

/// Runs the controller until it is cancelled.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let shared = Arc::new(Shared::default());
    let namespace = context.settings.watch_namespace.as_deref();
    let backups: Api<PartialObjectMeta<RedisBackup>> = match namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let (listed, mut is_listed) = signal::channel(false);
    readiness.wait_for(&format!("cache of {NAME}"), "the backups of schedules are not listed yet");
    let ask = |key| context.triggers.ask(KIND, key);
    let index = shared.children.run(backups, &listed, ask, &shutdown);
    let timer = shared.timer.run(context.clock.as_ref(), KIND, &context.triggers, &shutdown);
    let work = async {
        // Before that a schedule would not know its own runs.
        // What is waited for is a lock on the signal: it must not be held on.
        let is_whole = matches!(shutdown.run_until_cancelled(is_listed.wait_for(|listed| *listed)).await, Some(Ok(_)));
        if !is_whole {
            return;
        }
        let how = Drive { name: NAME, shutdown: shutdown.clone(), readiness: readiness.clone() };
        let watched = watch_schedules(&context, &shared);
        let shared = Arc::clone(&shared);
        drive(how, Arc::clone(&context), watched, move |schedule, context| {
            let shared = Arc::clone(&shared);
            async move { reconcile(&schedule, &context, &shared).await }
        })
        .await;
    };
    tokio::join!(index, timer, work);
}

type Guarded = DeserializeGuard<RedisScheduledBackup>;

/// As [`crate::runtime::watch`]; besides, what is kept of a schedule goes with it.
fn watch_schedules(context: &Arc<Context>, shared: &Arc<Shared>) -> (Store<Guarded>, Queue<Guarded>) {
    let api: Api<Guarded> = match context.settings.watch_namespace.as_deref() {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let (reader, writer) = store();
    shared.siblings.are_in(reader.clone());
    let (context, shared) = (Arc::clone(context), Arc::clone(shared));
    let queue = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(gone) = event {
                forget_schedule(gone, &context, &shared);
            }
        })
        .applied_objects()
        .map_ok(|object| ObjectRef::from_obj(&object));
    (reader, queue.boxed())
}

/// A schedule that is gone must not be missed by an alert for ever.
fn forget_schedule(gone: &Guarded, context: &Context, shared: &Shared) {
    let key = ObjectKey { namespace: gone.namespace().unwrap_or_default(), name: gone.name_any() };
    shared.timer.set(&key, None);
    shared.fired.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    let Ok(schedule) = &gone.0 else { return };
    let cluster = cluster_name(&schedule.spec.backup);
    let ObjectKey { namespace, name } = key;
    context.metrics.schedule_gone(&namespace, &cluster, &name);
    let is_scheduled = shared.siblings.all().iter().filter_map(|other| other.0.as_ref().ok()).any(|other| {
        other.namespace().as_deref() == Some(namespace.as_str()) && cluster_name(&other.spec.backup) == cluster
    });
    if !is_scheduled {
        context.metrics.last_success.remove(&ClusterLabels { namespace, cluster });
    }
}

async fn reconcile(
    schedule: &RedisScheduledBackup,
    context: &Context,
    shared: &Shared,
) -> Result<Action, ReconcileError> {
    let key = ObjectKey { namespace: schedule.namespace().unwrap_or_default(), name: schedule.name_any() };
    let uid = schedule.uid().unwrap_or_default();
    let previous = schedule.status.clone().unwrap_or_default();
    if schedule.metadata.deletion_timestamp.is_some() {
        shared.timer.set(&key, None);
        return Ok(Action::await_change());
    }
    if shared.is_stale(&key, &uid, previous.last_schedule_time.as_ref().map(|time| time.0)) {
        return Ok(Action::await_change());
    }
    let look = Look {
        schedule,
        context,
        shared,
        key: &key,
        uid: &uid,
        cluster: &cluster_name(&schedule.spec.backup),
        previous: &previous,
        children: shared.children.of(&key, &uid),
        now: context.now(),
    };
    match validate(&key.namespace, &key.name, &schedule.spec, &context.settings) {
        Ok(valid) => look.follow(&valid).await,
        Err(error) => look.refuse(&error).await,
    }
}
