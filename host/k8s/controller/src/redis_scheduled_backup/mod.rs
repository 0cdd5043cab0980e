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
mod readers;
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

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

use crate::common::ReconcileError;
use crate::context::Context;
use crate::metrics::ScheduleLabels;
use crate::runtime::{Action, Changes, Drive, ObjectKey, drive, key_of};
use crate::server::Readiness;
use crate::timer::Timer;
use children::Children;
use look::Look;
use siblings::Siblings;
use validate::{cluster_name, validate};

const NAME: &str = "redisscheduledbackup";
const KIND: &str = "RedisScheduledBackup";
/// What all looks share.
#[derive(Default)]
struct Shared {
    children: Children,
    siblings: Siblings,
    timer: Timer,
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
fn watch_schedules(context: &Arc<Context>, shared: &Arc<Shared>) -> (Store<Guarded>, Changes) {
    let api: Api<Guarded> = match context.settings.watch_namespace.as_deref() {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let (reader, writer) = store();
    shared.siblings.are_in(reader.clone());
    let (context, shared) = (Arc::clone(context), Arc::clone(shared));
    let changes = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(gone) = event {
                forget_schedule(gone, &context, &shared);
            }
        })
        .applied_objects()
        .map_ok(|object| key_of(&object));
    (reader, changes.boxed())
}

/// A schedule that is gone must not be missed by an alert for ever.
fn forget_schedule(gone: &Guarded, context: &Context, shared: &Shared) {
    let key = key_of(gone);
    shared.timer.set(&key, None);
    let Ok(schedule) = &gone.0 else { return };
    let cluster = cluster_name(&schedule.spec.backup);
    let ObjectKey { namespace, name } = key;
    context.metrics.schedule_gone(&ScheduleLabels { namespace, cluster, schedule: name });
}

async fn reconcile(
    schedule: &RedisScheduledBackup,
    context: &Context,
    shared: &Shared,
) -> Result<Action, ReconcileError> {
    let key = key_of(schedule);
    let uid = schedule.uid().unwrap_or_default();
    let previous = schedule.status.clone().unwrap_or_default();
    if schedule.metadata.deletion_timestamp.is_some() {
        shared.timer.set(&key, None);
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
