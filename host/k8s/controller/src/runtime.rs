//! Runs controllers: a watch and whatever else asks for a look become reconciles, a bounded number at once.
//!
//! Errors: a permanent one waits for a change of the object, a transient one is tried again with a growing, jittered, capped pause.

mod queue;
mod versions;
mod work;

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use redkeep_core::classify::{Classify, chain};
use redkeep_k8s_api::backup_method::BackupMethod;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::context::Context;
use crate::decode::report_unreadable;
use crate::executor::ChangedOwner;
use crate::metrics::ReconcileLabels;
use crate::server::Readiness;
pub use versions::Versions;
use work::Work;

/// No look takes so long: an API server that is asked again and again is given up within three minutes a request.
const LONGEST_LOOK: Duration = Duration::from_mins(10);
/// The first pause after a transient error, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// How soon a look is tried again that would have been at an older version than this process wrote; the watch comes sooner.
const BEHIND: Duration = Duration::from_secs(1);

/// When an object is looked at again without anybody's asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    again_after: Option<Duration>,
}

impl Action {
    /// After this.
    #[must_use]
    pub const fn requeue(after: Duration) -> Self {
        Self { again_after: Some(after) }
    }

    /// Not before somebody asks.
    #[must_use]
    pub const fn await_change() -> Self {
        Self { again_after: None }
    }
}

/// An object of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Where anybody (a task that changed, the clock, another controller) asks for a look at an object.
#[derive(Clone, Default)]
pub struct Triggers(Arc<Mutex<HashMap<String, Vec<UnboundedSender<ObjectKey>>>>>);

impl Triggers {
    /// What is asked about a kind from now on.
    pub fn listen(&self, kind: &str) -> UnboundedReceiver<ObjectKey> {
        let (sender, receiver) = unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.to_owned()).or_default().push(sender);
        receiver
    }

    /// Asks for a look; nobody listening is no error.
    pub fn ask(&self, kind: &str, key: ObjectKey) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listeners) = listeners.get_mut(kind) {
            listeners.retain(|listener| listener.send(key.clone()).is_ok());
        }
    }
}

/// Passes what the executor says of its tasks to the controllers of their owners, until it is cancelled.
pub async fn forward_changes(context: Arc<Context>, shutdown: CancellationToken) {
    let mut changes = pin!(context.executor.changes().take_until(shutdown.cancelled_owned()));
    while let Some(owner) = changes.next().await {
        context.triggers.ask(&owner.kind.clone(), key_of_owner(owner));
    }
}

/// A BackupMethod lies in no namespace, wherever its task runs.
fn key_of_owner(owner: ChangedOwner) -> ObjectKey {
    let is_of_cluster = owner.kind == BackupMethod::kind(&());
    ObjectKey { namespace: if is_of_cluster { String::new() } else { owner.namespace }, name: owner.name }
}

/// What a watch says is to be looked at.
pub type Changes = BoxStream<'static, Result<ObjectKey, watcher::Error>>;

/// Watches whole objects; one that does not parse is in the store as its error.
pub fn watch<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config) -> (Store<DeserializeGuard<K>>, Changes)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    changes_of(watcher(api, config).default_backoff())
}

/// Watches only metadata, and keeps that of objects that ask for a look: of tens of thousands that ended a few do.
/// `note` hears everything that the watch says, and says of an object whether it is kept and looked at.
pub fn watch_metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    mut note: impl FnMut(&watcher::Event<PartialObjectMeta<K>>) -> bool + Send + 'static,
) -> (Store<PartialObjectMeta<K>>, Changes)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kept = watcher(api, config).default_backoff().try_filter(move |event| {
        let is_wanted = note(event);
        let is_of_an_object = matches!(event, watcher::Event::Apply(_) | watcher::Event::InitApply(_));
        std::future::ready(is_wanted || !is_of_an_object)
    });
    changes_of(kept)
}

/// The cache that a watch fills, without what nobody here reads, and what the watch says is to be looked at.
fn changes_of<T>(
    events: impl Stream<Item = Result<watcher::Event<T>, watcher::Error>> + Send + 'static,
) -> (Store<T>, Changes)
where
    T: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let changes = events
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .applied_objects()
        .map_ok(|object| key_of(&object));
    (reader, changes.boxed())
}

/// Names a controller and how it stops.
#[derive(Clone)]
pub struct Drive {
    /// In metrics, logs and as a gate of readiness.
    pub name: &'static str,
    /// Ends it.
    pub shutdown: CancellationToken,
    /// Told when its cache is filled.
    pub readiness: Readiness,
}

/// Reconciles whole objects; those that do not parse are reported on themselves.
pub async fn drive<K, Reconcile, Running, Failure>(
    how: Drive,
    context: Arc<Context>,
    watched: (Store<DeserializeGuard<K>>, Changes),
    reconcile: Reconcile,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    Reconcile: Fn(Arc<K>, Arc<Context>) -> Running + Send + Sync + 'static,
    Running: Future<Output = Result<Action, Failure>> + Send + 'static,
    Failure: Classify + 'static,
{
    let reconcile = Arc::new(reconcile);
    drive_any(how, context, watched, move |guarded: Arc<DeserializeGuard<K>>, context: Arc<Context>| {
        let reconcile = Arc::clone(&reconcile);
        async move {
            match &guarded.0 {
                Ok(object) => reconcile(Arc::new(object.clone()), context).await.map_err(Trouble::Reconcile),
                Err(invalid) => {
                    report_unreadable::<K>(&context, invalid).await.map_err(Trouble::Report)?;
                    Ok(Action::await_change())
                }
            }
        }
    })
    .await;
}

/// Reconciles metadata.
pub async fn drive_metadata<K, Reconcile, Running, Failure>(
    how: Drive,
    context: Arc<Context>,
    watched: (Store<PartialObjectMeta<K>>, Changes),
    reconcile: Reconcile,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    Reconcile: Fn(Arc<PartialObjectMeta<K>>, Arc<Context>) -> Running + Send + Sync + 'static,
    Running: Future<Output = Result<Action, Failure>> + Send + 'static,
    Failure: Classify + 'static,
{
    let reconcile = Arc::new(reconcile);
    drive_any(how, context, watched, move |object, context| {
        let running = reconcile(object, context);
        async move { running.await.map_err(Trouble::Reconcile) }
    })
    .await;
}

/// Why a look at an object failed.
enum Trouble<Failure> {
    Reconcile(Failure),
    Report(kube::Error),
    TooLong(TooLong),
}

/// A look that never ended, as one whose answer was lost with its connection: it is given up, as a crash would, and made again.
#[derive(Debug, thiserror::Error)]
#[error("it was given up after {} seconds", LONGEST_LOOK.as_secs())]
struct TooLong;

async fn drive_any<K, Reconcile, Running, Failure>(
    how: Drive,
    context: Arc<Context>,
    (reader, watched): (Store<K>, Changes),
    reconcile: Reconcile,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    Reconcile: Fn(Arc<K>, Arc<Context>) -> Running + Send + Sync + 'static,
    Running: Future<Output = Result<Action, Trouble<Failure>>> + Send + 'static,
    Failure: Classify + 'static,
{
    let Drive { name, shutdown, readiness } = how;
    let gate = format!("cache of {name}");
    readiness.wait_for(&gate, "the first list has not come back");
    let asked = context.triggers.listen(&K::kind(&()));
    let ready = async {
        match reader.wait_until_ready().await {
            Ok(()) => readiness.open(&gate),
            // The watch is gone, and so is everything that could be looked at.
            Err(_) => std::future::pending().await,
        }
    };
    let attempts = Attempts::default();
    let look = |key: &ObjectKey| {
        let object = reader.get(&reference_to(key))?;
        if context.versions.is_behind(object.as_ref()) {
            return Some(futures::future::ready(Action::requeue(BEHIND)).left_future());
        }
        let span = tracing::info_span!("look", controller = name, namespace = key.namespace, name = key.name);
        let running = span.in_scope(|| reconcile(object, Arc::clone(&context)));
        let (attempts, context, key) = (&attempts, &context, key.clone());
        let judged = async move {
            let result = tokio::time::timeout(LONGEST_LOOK, running).await;
            attempts.judge(name, context, key, result.unwrap_or(Err(Trouble::TooLong(TooLong))))
        };
        Some(judged.instrument(span).right_future())
    };
    let work = Work { controller: name, at_once: context.settings.concurrency, shutdown: &shutdown };
    work.run(watched, asked, ready, look).await;
}

/// The key of an object.
pub(crate) fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectKey {
    ObjectKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn reference_to<K: Resource<DynamicType = ()>>(key: &ObjectKey) -> ObjectRef<K> {
    let object = ObjectRef::new(&key.name);
    if key.namespace.is_empty() { object } else { object.within(&key.namespace) }
}

/// How often in a row each object failed.
#[derive(Default)]
struct Attempts(Mutex<HashMap<ObjectKey, u32>>);

impl Attempts {
    fn judge<Failure: Classify>(
        &self,
        controller: &'static str,
        context: &Context,
        key: ObjectKey,
        result: Result<Action, Trouble<Failure>>,
    ) -> Action {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (reason, retryable, error): (&'static str, bool, &dyn std::error::Error) = match &result {
            Ok(action) => {
                failed.remove(&key);
                count(context, controller, "done");
                return *action;
            }
            Err(Trouble::Reconcile(error)) => (error.reason(), error.retryable(), error),
            Err(Trouble::Report(error)) => ("KubernetesApi", true, error),
            Err(Trouble::TooLong(error)) => ("LookTimedOut", true, error),
        };
        count(context, controller, reason);
        let ObjectKey { namespace, name } = &key;
        tracing::warn!(controller, namespace, name, reason, retryable, error = %chain(error), "reconcile failed");
        if !retryable {
            failed.remove(&key);
            return Action::await_change();
        }
        let attempt = failed.entry(key.clone()).or_default();
        *attempt = attempt.saturating_add(1);
        Action::requeue(pause(&key, *attempt))
    }
}

fn count(context: &Context, controller: &str, outcome: &str) {
    let labels = ReconcileLabels { controller: controller.to_owned(), outcome: outcome.to_owned() };
    context.metrics.reconciles.get_or_create(&labels).inc();
}

/// Doubles from the first pause to the longest, less up to a half by what object it is, so that many do not come at once.
fn pause(key: &ObjectKey, attempt: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let mut hasher = std::hash::DefaultHasher::new();
    (key, attempt).hash(&mut hasher);
    let thousandth = u32::try_from(hasher.finish() % 1_000).unwrap_or_default();
    doubled.saturating_sub(doubled / 2 * thousandth / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::ReconcileError;
    use crate::testing::{FakeApi, ScriptedExecutor};
    use futures::stream;
    use kube::runtime::watcher::Event;
    use redkeep_k8s_api::redis_backup::RedisBackup;
    use serde_json::json;

    #[test]
    fn pauses_grow_up_to_a_cap_and_differ_between_objects() {
        let key = |name: &str| ObjectKey { namespace: "ns".into(), name: name.into() };
        for attempt in 1..40 {
            let pause = pause(&key("a"), attempt);
            let doubled = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
            assert!(pause <= doubled && pause >= doubled / 2, "{attempt}: {pause:?}");
        }
        let different: std::collections::HashSet<Duration> =
            (0..20).map(|number| pause(&key(&number.to_string()), 5)).collect();
        assert!(different.len() > 10);
    }

    #[test]
    fn an_owner_without_a_namespace_is_found_by_its_name_alone() {
        let changed = |kind: &str| ChangedOwner { kind: kind.into(), namespace: "home".into(), name: "a".into() };
        assert_eq!(key_of_owner(changed("BackupMethod")).namespace, "");
        assert_eq!(key_of_owner(changed("RedisBackup")).namespace, "home");
    }

    #[tokio::test]
    async fn a_trigger_reaches_every_listener_of_its_kind_only() {
        let triggers = Triggers::default();
        let (mut one, mut two, mut other) =
            (triggers.listen("RedisBackup"), triggers.listen("RedisBackup"), triggers.listen("RedisRestore"));
        let key = ObjectKey { namespace: "ns".into(), name: "a".into() };
        triggers.ask("RedisBackup", key.clone());
        triggers.ask("Nobody", key.clone());
        assert_eq!((one.recv().await, two.recv().await), (Some(key.clone()), Some(key)));
        assert!(other.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_object_is_not_looked_at_before_the_watch_brings_what_was_written() {
        let object = |version: &str| -> PartialObjectMeta<RedisBackup> {
            let metadata = json!({"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": version});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let key = ObjectKey { namespace: "ns".into(), name: "a".into() };
        let (context, _) = FakeApi::new().context(Arc::new(ScriptedExecutor::default()));
        let (reader, mut writer) = store();
        for event in [Event::Init, Event::InitApply(object("1")), Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
        context.versions.wrote(&object("2"));
        let (looked, mut looks) = unbounded_channel();
        let shutdown = CancellationToken::new();
        let how = Drive { name: "test", shutdown: shutdown.clone(), readiness: Readiness::default() };
        let changes = stream::iter([Ok(key.clone())]).chain(stream::pending()).boxed();
        let look = move |object: Arc<PartialObjectMeta<RedisBackup>>, _| {
            looked.send(object.metadata.resource_version.clone()).unwrap();
            std::future::ready(Ok::<_, ReconcileError>(Action::await_change()))
        };
        tokio::join!(drive_metadata(how, Arc::clone(&context), (reader, changes), look), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(looks.try_recv().is_err());
            writer.apply_watcher_event(&Event::Apply(object("2")));
            context.triggers.ask("RedisBackup", key);
            assert_eq!(looks.recv().await.flatten().as_deref(), Some("2"));
            shutdown.cancel();
        });
    }
}
