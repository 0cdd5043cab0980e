//! Tasks in this process instead of Jobs: for development, and for installations that are small enough for one machine.
//!
//! The same engine with the same specs. What only a pod can give (a claim, a service account) is refused with the reason.

mod mounts;
pub(crate) mod secrets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use redkeep_controller::executor::{
    ChangedOwner, Executor, ExecutorError, ShardProgress, TaskKey, TaskProgress, TaskRequest, TaskState,
};
use redkeep_core::classify::Class;
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::task::{Outcome, TaskReport};
use redkeep_core::{Attribute, Timestamp};
use redkeep_engine::events::TaskEvents;
use redkeep_engine::watch::Watched;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tasks;
use mounts::Prepared;
pub(crate) use mounts::SecretReader;

/// Changes that wait for a slow controller; more are lost, and found when it polls.
const CHANGES_KEPT: usize = 1024;
/// A report that nobody asked for is dropped after so many seconds: its owner is gone.
const KEPT_AFTER_END: i64 = 3600;
/// Waited before the second attempt; doubled before each further one, as Jobs do.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(360);

/// Runs tasks as parts of this process, a few at a time.
pub(crate) struct InProcessExecutor {
    providers: Arc<dyn Providers>,
    secrets: Option<Arc<dyn SecretReader>>,
    first_retry: Duration,
    shared: Arc<Shared>,
}

/// What running tasks and their observers share.
struct Shared {
    permits: Semaphore,
    tasks: Mutex<HashMap<TaskKey, Entry>>,
    changes: broadcast::Sender<ChangedOwner>,
    tracker: TaskTracker,
}

struct Entry {
    /// Tells this run from a later one of the same key.
    run: Arc<()>,
    owner_uid: String,
    watched: Arc<Watched>,
    cancellation: CancellationToken,
    phase: Phase,
}

#[derive(Clone)]
enum Phase {
    Waiting { reason: &'static str, message: String, since: Timestamp },
    Running,
    Ended { report: TaskReport },
    Failed { reason: &'static str, message: String, at: Timestamp },
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, HashMap<TaskKey, Entry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a run stands, unless it was cancelled and another took its name.
    fn set(&self, task: &Running, phase: Phase) {
        if let Some(entry) = self.tasks().get_mut(&task.request.key).filter(|entry| Arc::ptr_eq(&entry.run, &task.run))
        {
            entry.phase = phase;
        }
        let owner = &task.request.owner;
        // Nobody listens before the controllers do.
        let _ = self.changes.send(ChangedOwner {
            kind: owner.kind.clone(),
            namespace: task.request.key.namespace.clone(),
            name: owner.name.clone(),
        });
    }
}

/// One run.
struct Running {
    run: Arc<()>,
    request: TaskRequest,
    prepared: Prepared,
    watched: Arc<Watched>,
    cancellation: CancellationToken,
    providers: Arc<dyn Providers>,
    first_retry: Duration,
}

impl InProcessExecutor {
    /// At most `parallelism` tasks run at once. Without `secrets` a task that needs a Secret is refused.
    pub(crate) fn new(
        providers: Arc<dyn Providers>,
        parallelism: usize,
        secrets: Option<Arc<dyn SecretReader>>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            permits: Semaphore::new(parallelism.max(1)),
            tasks: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            tracker: TaskTracker::new(),
        });
        Arc::new(Self { providers, secrets, first_retry: FIRST_RETRY, shared })
    }

    /// Cancels every task and waits until they have cleaned up.
    pub(crate) async fn shutdown(&self) {
        for entry in self.shared.tasks().values() {
            entry.cancellation.cancel();
        }
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }

    /// Whether the key is this owner's already.
    fn known(&self, request: &TaskRequest) -> Result<bool, ExecutorError> {
        match self.shared.tasks().get(&request.key) {
            None => Ok(false),
            Some(entry) if entry.owner_uid == request.owner.uid => Ok(true),
            Some(_) => Err(ExecutorError::NameTaken { key: request.key.clone() }),
        }
    }

    fn drop_forgotten(&self, now: Timestamp) {
        let is_old = |at: Timestamp| now.as_second().saturating_sub(at.as_second()) > KEPT_AFTER_END;
        self.shared.tasks().retain(|_, entry| match &entry.phase {
            Phase::Ended { report } => !is_old(report.ended_at),
            Phase::Failed { at, .. } => !is_old(*at),
            Phase::Waiting { .. } | Phase::Running => true,
        });
    }
}

/// Waits for its turn, runs, and tries again what may succeed another time.
async fn drive(shared: Arc<Shared>, task: Running) {
    let turn = tokio::select! {
        () = task.cancellation.cancelled() => return,
        turn = tokio::time::timeout(task.request.start_deadline, shared.permits.acquire()) => turn,
    };
    let Ok(Ok(_permit)) = turn else {
        let seconds = task.request.start_deadline.as_secs();
        let message = format!("not started within {seconds} seconds: other tasks came first");
        let at = task.providers.now();
        return shared.set(&task, Phase::Failed { reason: "TasksAhead", message, at });
    };
    let mut wait = task.first_retry;
    for attempt in 0..=task.request.retries {
        shared.set(&task, Phase::Running);
        let report = match attempt_once(&task).await {
            Ok(report) => report,
            Err(panic) => {
                let (message, at) = (format!("the task ended in a defect of redkeep: {panic}"), task.providers.now());
                return shared.set(&task, Phase::Failed { reason: "TaskPanicked", message, at });
            }
        };
        let Some(why) = worth_another(&report).filter(|_| attempt < task.request.retries) else {
            return shared.set(&task, Phase::Ended { report });
        };
        let message = format!("the last attempt failed: {why}");
        shared.set(&task, Phase::Waiting { reason: "Retrying", message, since: report.ended_at });
        tokio::select! {
            () = task.cancellation.cancelled() => return shared.set(&task, Phase::Ended { report }),
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_RETRY);
    }
}

async fn attempt_once(task: &Running) -> Result<TaskReport, tokio::task::JoinError> {
    let mut spec = task.prepared.spec.clone();
    let allowed = jiff::SignedDuration::try_from(task.request.deadline).unwrap_or(jiff::SignedDuration::MAX);
    spec.deadline = spec.deadline.or_else(|| task.providers.now().checked_add(allowed).ok());
    let (providers, events) = (Arc::clone(&task.providers), Arc::clone(&task.watched));
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own, so that a defect in one task ends that one alone.
    tokio::task::spawn_blocking(move || runtime.block_on(tasks::run(spec, providers, events))).await
}

/// Usage, damage, not found and refusals end the same way again; so does what was cancelled or out of time.
fn worth_another(report: &TaskReport) -> Option<String> {
    match &report.outcome {
        Outcome::Failed { class: Class::Failed, reason, message, .. }
            if !matches!(reason.as_str(), "Cancelled" | "DeadlineExceeded") =>
        {
            Some(format!("{reason}: {message}"))
        }
        _ => None,
    }
}

/// Log lines of a task; its progress is asked for.
struct Logged {
    key: TaskKey,
    cancellation: CancellationToken,
}

impl TaskEvents for Logged {
    fn stage(&self, name: &str, detail: &str) {
        tracing::info!(task = %self.key, stage = name, detail, "a stage began");
    }

    fn progress(&self, _shard: &str, _phase: &str, _unit: &str, _done: u64, _total: Option<u64>) {}

    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        let fields: Vec<String> = fields.iter().map(|field| format!("{}={}", field.key, field.value)).collect();
        let (task, fields) = (&self.key, fields.join(" "));
        match level {
            LogLevel::Trace => tracing::trace!(%task, fields, "{message}"),
            LogLevel::Debug => tracing::debug!(%task, fields, "{message}"),
            LogLevel::Info => tracing::info!(%task, fields, "{message}"),
            LogLevel::Warn => tracing::warn!(%task, fields, "{message}"),
            LogLevel::Error => tracing::error!(%task, fields, "{message}"),
        }
    }

    fn cancellation(&self) -> CancellationToken {
        self.cancellation.clone()
    }
}

fn progress_of(watched: &Watched) -> TaskProgress {
    let so_far = watched.so_far();
    let shards = so_far.shards.into_iter().map(|count| ShardProgress {
        shard: count.shard,
        phase: count.phase,
        unit: count.unit,
        done: count.done,
        total: count.total,
    });
    TaskProgress { stage: so_far.stage, shards: shards.collect() }
}

#[async_trait]
impl Executor for InProcessExecutor {
    async fn start(&self, request: &TaskRequest) -> Result<(), ExecutorError> {
        let key = &request.key;
        if self.known(request)? {
            return Ok(());
        }
        if let Some((reason, message)) = mounts::refusal(request, self.secrets.is_some()) {
            return Err(ExecutorError::Refused { key: key.clone(), reason, message });
        }
        let prepared = mounts::prepare(request, self.secrets.as_ref()).await?;
        let now = self.providers.now();
        self.drop_forgotten(now);
        let cancellation = CancellationToken::new();
        let watched = Watched::new(Arc::new(Logged { key: key.clone(), cancellation: cancellation.clone() }));
        let run = Arc::new(());
        {
            let mut tasks = self.shared.tasks();
            // Another call may have been faster while Secrets were read.
            if let Some(entry) = tasks.get(key) {
                let is_ours = entry.owner_uid == request.owner.uid;
                return if is_ours { Ok(()) } else { Err(ExecutorError::NameTaken { key: key.clone() }) };
            }
            let message = "other tasks come first".to_owned();
            let entry = Entry {
                run: Arc::clone(&run),
                owner_uid: request.owner.uid.clone(),
                watched: Arc::clone(&watched),
                cancellation: cancellation.clone(),
                phase: Phase::Waiting { reason: "TasksAhead", message, since: now },
            };
            tasks.insert(key.clone(), entry);
        }
        let (request, providers, first_retry) = (request.clone(), Arc::clone(&self.providers), self.first_retry);
        let task = Running { run, request, prepared, watched, cancellation, providers, first_retry };
        self.shared.tracker.spawn(drive(Arc::clone(&self.shared), task));
        Ok(())
    }

    async fn observe(&self, key: &TaskKey) -> Result<TaskState, ExecutorError> {
        let tasks = self.shared.tasks();
        let Some(entry) = tasks.get(key) else { return Ok(TaskState::Missing) };
        Ok(match entry.phase.clone() {
            Phase::Waiting { reason, message, since } => {
                TaskState::Waiting { reason: reason.to_owned(), message, since }
            }
            Phase::Running => TaskState::Running { pod: None, progress: Some(progress_of(&entry.watched)) },
            Phase::Ended { report } => TaskState::Ended { report, pod: None },
            Phase::Failed { reason, message, .. } => TaskState::Failed { reason: reason.to_owned(), message },
        })
    }

    async fn failed_at(&self, key: &TaskKey) -> Result<Option<Timestamp>, ExecutorError> {
        Ok(match self.shared.tasks().get(key).map(|entry| &entry.phase) {
            Some(Phase::Failed { at, .. }) => Some(*at),
            _ => None,
        })
    }

    async fn cancel(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        // It cleans up behind its back; the name is free at once, as that of a deleted Job is.
        if let Some(entry) = self.shared.tasks().remove(key) {
            entry.cancellation.cancel();
        }
        Ok(())
    }

    async fn forget(&self, key: &TaskKey) -> Result<(), ExecutorError> {
        self.cancel(key).await
    }

    fn changes(&self) -> BoxStream<'static, ChangedOwner> {
        let receiver = self.shared.changes.subscribe();
        stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(changed) => return Some((changed, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests;
