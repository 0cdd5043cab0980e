//! `RedisBackup`: one run, from the wish to the end. Every look at it is the same six steps; any of them may be the last
//! before a crash, and the next look goes on from what stands in the API server.

mod apply;
mod build;
mod decide;
mod delete;
mod dereference;
mod ended;
mod finished;
mod pause;
mod pin;
mod places;
mod plan;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod validate;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use kube::api::PartialObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use redkeep_core::classify::{Classify, chain};
use redkeep_core::report_facts;
use redkeep_core::task::TaskReport;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::{RedisBackup, RedisBackupStatus};
use redkeep_k8s_api::run::Phase;
use tokio_util::sync::CancellationToken;

use crate::common::identity::{backup_id, storage_names};
use crate::common::source::pod_at;
use crate::common::{ReconcileError, Unresolved, placement};
use crate::context::Context;
use crate::executor::{ExecutorError, Purpose, RETRY_NOT_STARTED, TaskRequest, TaskState};
use crate::metrics::{ByteLabels, TaskLabels};
use crate::outcome::{Outcome, publish};
use crate::runtime::{Action, Drive, drive, drive_metadata, watch, watch_metadata};
use crate::server::Readiness;
use apply::Written;
use build::{Identity, Stored};
use decide::{Decision, InspectionDecision};
pub(crate) use dereference::dereference_storage;
use pause::left_of_pause;
pub(crate) use pin::is_due as pin_is_due;
use status::Before;

/// How often the phases are counted.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// A look into storage that something stands in the way of is tried again.
const HINDERED_PAUSE: Duration = Duration::from_secs(30);
/// A run that waits for a place in its storage asks again.
const SLOT_EVERY: Duration = Duration::from_secs(5);

/// Runs the controllers of unfinished and of finished backups until they are cancelled.
pub async fn run(context: Arc<Context>, readiness: Readiness, shutdown: CancellationToken) {
    let namespace = context.settings.watch_namespace.as_deref();
    let whole: Api<DeserializeGuard<RedisBackup>> = match namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let metadata: Api<PartialObjectMeta<RedisBackup>> = match namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let active = watch(whole, watcher::Config::default().labels(&format!("!{}", labels::OUTCOME)));
    let ended = Arc::new(ended::Index::default());
    let finished = {
        let (ended, context) = (Arc::clone(&ended), Arc::clone(&context));
        let note = move |event: &_| finished::note(event, &ended, &context);
        watch_metadata(metadata, watcher::Config::default().labels(labels::OUTCOME), note)
    };
    let active_store = active.0.clone();
    let users = active_store.clone();
    context
        .places
        .are_also_in(move |namespace, storage, now| places::users_of(&users.state(), namespace, storage, now));
    let how = |name| Drive { name, shutdown: shutdown.clone(), readiness: readiness.clone() };
    let counting = async {
        let mut before = finished::Counted::default();
        let mut ticks = tokio::time::interval(COUNT_EVERY);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = context.clock.now();
            finished::count(&context, &active_store.state(), &ended, now, &mut before);
        }
    };
    let active =
        drive(how("redisbackup"), Arc::clone(&context), active, |backup: Arc<RedisBackup>, context| async move {
            reconcile(&backup, &context).await
        });
    let finished = drive_metadata(how("redisbackup-finished"), Arc::clone(&context), finished, finished::reconcile);
    tokio::join!(active, finished, counting);
}

async fn reconcile(backup: &RedisBackup, context: &Context) -> Result<Action, ReconcileError> {
    if backup.metadata.deletion_timestamp.is_some() {
        return delete::reconcile(backup, context).await;
    }
    if apply::sync_finalizer(context, backup).await? {
        return Ok(Action::requeue(context.settings.poll_interval));
    }
    let status = backup.status.clone().unwrap_or_default();
    let look = Look { backup, context, status: &status };
    if verify::is_due(&backup.spec, &status) {
        return look.verify().await;
    }
    if status.phase.is_some_and(Phase::is_terminal) {
        return look.settle(&status).await;
    }
    if status.backup_id.is_none() {
        return look.prepare().await;
    }
    if let Some(lost) = status::under_inspection(&status) {
        return look.inspect(lost).await;
    }
    if plan::is_due(&backup.spec, &status) {
        return look.plan().await;
    }
    let task = context.executor.observe(&build::key(backup, Purpose::Backup)).await?;
    match decide::decide(&backup.spec, &status, &task, context.now()) {
        Decision::Start => look.start().await,
        Decision::Wait { reason, message } => look.write(look.before().waiting(&reason, &message)).await,
        Decision::Run { progress } => look.run(&task, look.before().running(progress.as_ref())).await,
        Decision::Complete { report } => look.complete(&report).await,
        Decision::Fail { reason, message } => look.fail(&reason, &message).await,
        Decision::Inspect { reason, message } => {
            let goes_on = matches!(task, TaskState::Waiting { .. } | TaskState::Running { .. });
            if goes_on || reason == RETRY_NOT_STARTED {
                // Or it would commit after storage was asked.
                context.executor.cancel(&build::key(backup, Purpose::Backup)).await?;
            }
            look.write(look.before().inspecting(&reason, &message)).await
        }
    }
}

/// One look at one backup.
struct Look<'a> {
    backup: &'a RedisBackup,
    context: &'a Context,
    status: &'a RedisBackupStatus,
}

impl Look<'_> {
    fn before(&self) -> Before<'_> {
        Before { status: self.status, generation: self.backup.metadata.generation, now: self.context.now() }
    }

    fn again(&self) -> Action {
        Action::requeue(self.context.settings.poll_interval)
    }

    async fn write(&self, next: RedisBackupStatus) -> Result<Action, ReconcileError> {
        apply::write_status(self.context, self.backup, &next).await?;
        Ok(self.again())
    }

    /// Everything that can be refused is refused here, and the backup's id is fixed before there is a task.
    async fn prepare(&self) -> Result<Action, ReconcileError> {
        let (access, validated) = match self.resolve().await {
            Ok(resolved) => resolved,
            Err(error) => return self.unresolved(error).await,
        };
        let now = self.context.now();
        if let Err(message) = self.take_place(&access.storage) {
            if let Some(message) = self.no_place(self.backup.metadata.creation_timestamp.as_ref(), &message) {
                return self.fail(reasons::WAITING_FOR_SLOT, &message).await;
            }
            apply::write_status(self.context, self.backup, &self.before().queued(&message)).await?;
            return Ok(Action::requeue(SLOT_EVERY));
        }
        let (name, uid) = (self.backup.name_any(), self.backup.uid().unwrap_or_default());
        let id = match backup_id(now, &name, &uid) {
            Ok(id) => id,
            Err(error) => return self.unresolved(Unresolved::invalid("metadata.name", error)).await,
        };
        let task = build::key(self.backup, Purpose::Backup);
        let next = self.before().prepared(id.as_str(), &access.source.cluster, &task.name);
        let written = apply::write_status(self.context, self.backup, &next).await?;
        if written != Written::Yes || plan::is_due(&self.backup.spec, &next) {
            return Ok(self.again());
        }
        // The id stands there now, so the task may begin. Should this look end here, the next one begins it.
        let prepared = RedisBackup { status: Some(next.clone()), ..self.backup.clone() };
        let look = Look { backup: &prepared, status: &next, ..*self };
        Box::pin(look.start_resolved(&access, &validated)).await
    }

    async fn resolve(&self) -> Result<(dereference::Dereferenced, validate::Validated), Unresolved> {
        let namespace = self.backup.namespace().unwrap_or_default();
        let access =
            dereference::dereference(&self.context.client, &namespace, &self.backup.spec, &self.context.settings)
                .await?;
        storage_names(&namespace, &access.source.cluster)
            .map_err(|error| Unresolved::invalid("spec.source.name", error))?;
        let validated = validate::validate(&self.backup.spec, &access, &self.context.settings)?;
        validate::check_verification(self.backup, &self.context.settings)?;
        Ok((access, validated))
    }

    async fn unresolved(&self, error: Unresolved) -> Result<Action, ReconcileError> {
        let (reason, message) = (error.reason(), error.to_string());
        match error {
            Unresolved::Invalid { .. } => self.end(self.before().refused(reason, &message), None).await,
            Unresolved::NotYet { .. } => {
                let created = self.backup.metadata.creation_timestamp.as_ref().map(|time| time.0);
                let begun = self.status.started_at.as_ref().map(|time| time.0);
                if decide::gave_up_waiting(&self.backup.spec, begun.or(created), self.context.now()) {
                    return self.end(self.before().refused(reason, &message), None).await;
                }
                self.write(self.before().not_yet(reason, &message)).await
            }
            Unresolved::Read { .. } => {
                let message = chain(&error);
                // One that was begun ends by its deadline.
                let is_begun = self.status.started_at.is_some();
                if !is_begun && decide::gave_up_reading(&self.backup.spec, self.status, self.context.now()) {
                    return self.end(self.before().refused(reason, &message), None).await;
                }
                apply::write_status(self.context, self.backup, &self.before().not_yet(reason, &message)).await?;
                Err(error.into())
            }
        }
    }

    /// Makes the task of a backup whose id stands in the status.
    async fn start(&self) -> Result<Action, ReconcileError> {
        let (access, validated) = match self.resolve().await {
            Ok(resolved) => resolved,
            Err(error) => return self.unresolved(error).await,
        };
        self.start_resolved(&access, &validated).await
    }

    async fn start_resolved(
        &self,
        access: &dereference::Dereferenced,
        validated: &validate::Validated,
    ) -> Result<Action, ReconcileError> {
        let Some(mut request) = self.request(access, validated) else { return self.not_ours().await };
        if let Err(done) = self.pin(&mut request).await? {
            return Ok(done);
        }
        match self.context.executor.start(&request).await {
            Ok(()) => Ok(self.again()),
            Err(error) => self.not_started(error).await,
        }
    }

    /// The backup's own task; `None` when what fixes its place in storage was changed by somebody else.
    fn request(&self, access: &dereference::Dereferenced, validated: &validate::Validated) -> Option<TaskRequest> {
        let (identity, started) = (identity(self.backup)?, self.status.started_at.as_ref()?);
        let settings = &self.context.settings;
        Some(build::backup_request(self.backup, access, validated, &identity, settings, started.0))
    }

    async fn not_ours(&self) -> Result<Action, ReconcileError> {
        self.fail("InvalidSpec", "the backup's id in the status is not one of ours").await
    }

    async fn not_started(&self, error: ExecutorError) -> Result<Action, ReconcileError> {
        let (reason, message) = (error.reason(), chain(&error));
        let may_pass = error.may_pass();
        let begun = self.status.started_at.as_ref().map(|time| time.0);
        let waited_enough = decide::gave_up_waiting(&self.backup.spec, begun, self.context.now());
        if may_pass && !waited_enough {
            // Not `waiting`: a task that was never made is not one that vanished.
            return Ok(self.again());
        }
        if error.retryable() && !may_pass {
            return Err(error.into());
        }
        self.fail(reason, &message).await
    }

    async fn run(&self, task: &TaskState, next: RedisBackupStatus) -> Result<Action, ReconcileError> {
        let is_new = self.status.phase != Some(Phase::Running);
        if apply::write_status(self.context, self.backup, &next).await? == Written::Yes && is_new {
            let pod = if let TaskState::Running { pod: Some(pod), .. } = task { pod } else { "the operator" };
            let message = format!("backup {} runs in {pod}", next.backup_id.as_deref().unwrap_or_default());
            publish(self.context, self.backup, &Outcome::normal("Backup", "Started", message)).await;
        }
        Ok(self.again())
    }

    /// Asks storage whether a backup exists whose task ended without a word.
    async fn inspect(&self, lost: (&str, &str)) -> Result<Action, ReconcileError> {
        let key = build::key(self.backup, Purpose::Inspect);
        let task = self.context.executor.observe(&key).await?;
        match decide::decide_inspection(&self.backup.spec, self.status, &task, lost, self.context.now()) {
            InspectionDecision::Complete { report } => self.complete(&report).await,
            InspectionDecision::Fail { reason, message } => self.fail(&reason, &message).await,
            InspectionDecision::Start => self.start_inspection(lost).await,
            InspectionDecision::Wait => Ok(self.again()),
            InspectionDecision::Repeat { why, ended } => {
                let ended = match ended {
                    Some(ended) => Some(ended),
                    None => self.context.executor.failed_at(&key).await?,
                };
                if let Some(left) = ended.and_then(|ended| left_of_pause(ended, self.context.now())) {
                    apply::write_status(self.context, self.backup, &self.before().hindered(&why)).await?;
                    return Ok(Action::requeue(left));
                }
                self.context.executor.cancel(&key).await?;
                Ok(self.again())
            }
        }
    }

    async fn start_inspection(&self, lost: (&str, &str)) -> Result<Action, ReconcileError> {
        let (namespace, spec) = (self.backup.namespace().unwrap_or_default(), &self.backup.spec);
        let settings = &self.context.settings;
        let storage = match dereference::dereference_storage(&self.context.client, &namespace, spec).await {
            Ok(storage) => storage,
            Err(error) => return self.hindered(&chain(&error)).await,
        };
        let pod = match placement::task_pod(spec.task.as_ref(), storage.service_account.as_deref(), settings) {
            Ok(pod) => pod,
            Err(error) => return self.hindered(&chain(&error)).await,
        };
        let Some(identity) = identity(self.backup) else { return self.fail(lost.0, lost.1).await };
        let stored = Stored { backup: self.backup, storage: &storage, pod: &pod, identity: &identity, settings };
        match self.context.executor.start(&stored.find()).await {
            Ok(()) => Ok(self.again()),
            // There nothing can run any more.
            Err(error @ ExecutorError::NamespaceTerminating { .. }) => {
                self.fail(lost.0, &decide::unknown(lost.1, &chain(&error))).await
            }
            Err(error) => self.hindered(&chain(&error)).await,
        }
    }

    /// Storage cannot be asked now. What stands in the way may go: it is tried again until the limit, at which this is said.
    async fn hindered(&self, why: &str) -> Result<Action, ReconcileError> {
        apply::write_status(self.context, self.backup, &self.before().hindered(why)).await?;
        Ok(Action::requeue(HINDERED_PAUSE))
    }

    async fn complete(&self, report: &TaskReport) -> Result<Action, ReconcileError> {
        let pod = match report.facts.get(report_facts::NODE) {
            Some(node) => {
                let namespace = self.backup.namespace().unwrap_or_default();
                // Only a name for people: without it the address is shown.
                pod_at(&self.context.client, &namespace, node).await.ok().flatten()
            }
            None => None,
        };
        self.end(self.before().completed(report, pod), Some(report)).await
    }

    async fn fail(&self, reason: &str, message: &str) -> Result<Action, ReconcileError> {
        self.end(self.before().failed(reason, message), None).await
    }

    /// Writes the last status; then, and only by whoever wrote it, the world is told.
    async fn end(&self, next: RedisBackupStatus, report: Option<&TaskReport>) -> Result<Action, ReconcileError> {
        match apply::write_status(self.context, self.backup, &next).await? {
            Written::Outdated => return Ok(self.again()),
            Written::Yes => self.tell(&next, report).await,
            Written::Same => {}
        }
        self.settle(&next).await
    }

    async fn tell(&self, next: &RedisBackupStatus, report: Option<&TaskReport>) {
        let outcome = if next.phase == Some(Phase::Completed) {
            let size = next.size.as_deref().unwrap_or("unknown size");
            let path = next.backup_path.as_deref().unwrap_or_default();
            Outcome::normal("Backup", "Completed", format!("{path} ({size})"))
        } else {
            let condition = crate::apply::condition(&next.conditions, redkeep_k8s_api::conditions::FAILED);
            let reason = condition.map_or("Failed", |condition| condition.reason.as_str());
            Outcome::warning("Backup", reason, next.error.clone().unwrap_or_default())
        };
        if let Some(started) = &next.started_at {
            let labels = TaskLabels { kind: "backup".to_owned(), outcome: outcome.reason.clone() };
            let taken = self.context.now().duration_since(started.0).as_secs_f64().max(0.0);
            self.context.metrics.task_seconds.get_or_create(&labels).observe(taken);
        }
        for (fact, stage) in [(report_facts::SIZE, "plain"), (report_facts::STORED_SIZE, "stored")] {
            let bytes = report.and_then(|report| report.facts.get(fact)?.parse::<u64>().ok());
            let labels = ByteLabels { kind: "backup".to_owned(), stage: stage.to_owned() };
            self.context.metrics.task_bytes.get_or_create(&labels).inc_by(bytes.unwrap_or(0));
        }
        if let (Some(Phase::Completed), Some(cluster), Some(at)) = (next.phase, &next.cluster, &next.completed_at) {
            self.context.metrics.backup_succeeded(&self.backup.namespace().unwrap_or_default(), cluster, at.0);
        }
        publish(self.context, self.backup, &outcome).await;
    }

    /// After the last status: the tasks may go, and the object becomes one of the finished ones.
    async fn settle(&self, ended: &RedisBackupStatus) -> Result<Action, ReconcileError> {
        self.release_place();
        if ended.backup_id.is_some() {
            if self.is_planned() {
                self.context.executor.forget(&build::key(self.backup, Purpose::Plan)).await?;
            }
            self.context.executor.forget(&build::key(self.backup, Purpose::Backup)).await?;
            if crate::apply::condition(&ended.conditions, redkeep_k8s_api::conditions::FAILED).is_some()
                || status::under_inspection(self.status).is_some()
            {
                self.context.executor.forget(&build::key(self.backup, Purpose::Inspect)).await?;
            }
        }
        if verify::is_due(&self.backup.spec, ended) {
            // Marked as finished only then: until that it stays among those that are looked at. To its schedule it has ended: the
            // next slot neither waits for a verification nor replaces what is a good backup.
            apply::mark_completed(self.context, self.backup, ended.completed_at.as_ref().map(|time| time.0)).await?;
            return Ok(self.again());
        }
        self.mark(ended).await
    }

    async fn mark(&self, ended: &RedisBackupStatus) -> Result<Action, ReconcileError> {
        if ended.verification.is_some() {
            self.context.executor.forget(&build::key(self.backup, Purpose::Verify)).await?;
        }
        let phase = ended.phase.unwrap_or_default();
        let at = ended.completed_at.as_ref().map(|time| time.0);
        let verified = crate::apply::condition(&ended.conditions, redkeep_k8s_api::conditions::VERIFIED);
        let verified = verified.map(|condition| condition.status.to_ascii_lowercase());
        apply::mark_ended(self.context, self.backup, phase, at, verified.as_deref()).await?;
        Ok(Action::await_change())
    }
}

/// How a backup whose id is fixed is named in storage.
fn identity(backup: &RedisBackup) -> Option<Identity> {
    let status = backup.status.as_ref()?;
    let (namespace, cluster) = storage_names(&backup.namespace()?, status.cluster.as_deref()?).ok()?;
    Some(Identity { backup_id: status.backup_id.as_deref()?.parse().ok()?, namespace, cluster })
}
