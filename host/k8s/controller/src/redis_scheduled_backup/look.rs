//! One look at one schedule: what was decided is done, written down, and said.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use redkeep_k8s_api::conditions::{ACCEPTED, READY, VERIFIED, reasons};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_scheduled_backup::{RedisScheduledBackup, RedisScheduledBackupStatus};
use redkeep_k8s_api::run::Phase;

use super::apply::{self, Created, Written};
use super::children::Child;
use super::decide::{self, Cause, Plan, Situation, Start, State};
use super::retention::{self, Progress, Retention};
use super::siblings::Sibling;
use super::status::Facts;
use super::validate::Validated;
use super::verification::{self, Due};
use super::{Shared, build, dereference, readers, siblings};
use crate::apply::condition;
use crate::common::ReconcileError;
use crate::common::Unresolved;
use crate::common::verdict::Verdict;
use crate::context::Context;
use crate::executor::TaskState;
use crate::metrics::{ScheduleLabels, Standing};
use crate::outcome::{Outcome, publish};
use crate::runtime::{Action, ObjectKey};
use redkeep_core::classify::chain;

/// The object changed while it was looked at; the newer one is on its way.
const OUTDATED: Duration = Duration::from_secs(1);
/// When it is looked again whether somebody still reads backups.
const READERS_AGAIN: Duration = Duration::from_secs(60);

/// One look at one schedule.
pub(super) struct Look<'a> {
    pub(super) schedule: &'a RedisScheduledBackup,
    pub(super) context: &'a Context,
    pub(super) shared: &'a Shared,
    pub(super) key: &'a ObjectKey,
    pub(super) uid: &'a str,
    pub(super) cluster: &'a str,
    pub(super) previous: &'a RedisScheduledBackupStatus,
    pub(super) children: BTreeMap<String, Child>,
    pub(super) now: Timestamp,
}

impl Look<'_> {
    fn facts(&self) -> Facts<'_> {
        Facts {
            generation: self.schedule.metadata.generation,
            cluster: self.cluster,
            children: &self.children,
            now: self.now,
        }
    }

    pub(super) async fn refuse(&self, error: &Unresolved) -> Result<Action, ReconcileError> {
        self.shared.timer.set(self.key, None);
        let next = self.facts().refused(self.previous, error);
        self.count(&next, 0);
        if apply::write_status(self.context, self.schedule, &next).await? == Written::Yes
            && condition(&self.previous.conditions, READY).map(|before| &before.message)
                != condition(&next.conditions, READY).map(|now| &now.message)
        {
            let outcome = Outcome::warning("Accept", reasons::INVALID_SPEC, error.to_string());
            publish(self.context, self.schedule, &outcome).await;
        }
        Ok(Action::await_change())
    }

    pub(super) async fn follow(&self, valid: &Validated) -> Result<Action, ReconcileError> {
        let plan = self.plan(valid).await?;
        // Whatever fails below, the next slot comes.
        self.shared.timer.set(self.key, plan.next);
        let started = match &plan.start {
            Some(start) => match self.begin(start).await? {
                Some(created) => Some((start, created)),
                None => return Ok(Action::await_change()),
            },
            None => None,
        };
        let uid = started.as_ref().and_then(|(_, created)| match created {
            Created::New(child) | Created::Ours(child) => child.metadata.uid.as_deref(),
            Created::Foreign | Created::Terminating => None,
        });
        let told = started.as_ref().map(|(start, _)| (*start, uid));
        let mut next =
            self.facts().followed(self.previous, &plan, valid.rules.jitter, valid.unverifiable.as_deref(), told);
        let (mut pruning, mut reading) = (Aside::default(), Aside::default());
        // A run that was begun is written down before anything else is tried.
        if started.is_none() {
            pruning = self.or_again("retention", self.retain(valid, &mut next).await);
            reading = self.or_again("verification", self.verify(valid, &plan, &mut next).await);
        }
        self.count(&next, decide::missed(valid, &next, self.now));
        let written = apply::write_status(self.context, self.schedule, &next).await?;
        if written == Written::Outdated {
            return Ok(Action::requeue(OUTDATED));
        }
        if let Some((start, created)) = &started {
            self.tell_start(start, created).await;
        } else if written == Written::Yes {
            self.tell_changes(&plan, &next, &pruning, &reading).await;
        }
        if let Some(task) = &pruning.ended {
            self.context.executor.forget(&retention::key(self.schedule, task)).await?;
        }
        if let Some(begun) = &reading.ended {
            self.context.executor.forget(&verification::key(self.schedule, *begun)).await?;
        }
        for (name, child) in decide::beyond_limits(&self.children, valid.keep_successful, valid.keep_failed) {
            apply::forget_run(self.context, &self.key.namespace, name, child).await?;
        }
        self.shared.timer.set(self.key, [plan.next, pruning.wake, reading.wake].into_iter().flatten().min());
        Ok(if pruning.runs || reading.runs {
            Action::requeue(self.context.settings.poll_interval)
        } else {
            Action::await_change()
        })
    }

    /// What failed is tried again at the next look; what else there is to say does not wait for it.
    fn or_again<Task>(&self, what: &str, looked: Result<Aside<Task>, ReconcileError>) -> Aside<Task> {
        looked.unwrap_or_else(|error| {
            let (namespace, name) = (&self.key.namespace, &self.key.name);
            tracing::warn!(namespace, name, error = %chain(&error), "unable to look after {what}");
            Aside { runs: true, ..Aside::default() }
        })
    }

    async fn plan(&self, valid: &Validated) -> Result<Plan, ReconcileError> {
        let situation = Situation {
            name: &self.key.name,
            created: self.schedule.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0),
            spec: &self.schedule.spec,
            status: self.previous,
            run_now: self.schedule.annotations().get(labels::RUN_NOW).map(String::as_str),
            children: &self.children,
            now: self.now,
        };
        let unknown = decide::unknown_active(&situation);
        let plan = decide::decide(valid, &situation, &unknown);
        let matters = plan.start.as_ref().is_some_and(|start| !start.replace.is_empty())
            || matches!(plan.state, State::Skipped { .. });
        if unknown.is_empty() || !matters {
            return Ok(plan);
        }
        let running = dereference::still_running(self.context, &self.key.namespace, &unknown, self.uid).await?;
        Ok(decide::decide(valid, &situation, &running))
    }

    /// Begins a run; `None` when the namespace is going away.
    async fn begin(&self, start: &Start) -> Result<Option<Created>, ReconcileError> {
        let namespace = &self.key.namespace;
        for name in &start.replace {
            let uid = self.children.get(name).map(|child| child.uid.as_str());
            if !apply::cancel(self.context, namespace, name, uid).await? {
                continue;
            }
            let message = format!("{name} gives way to the run of slot {}", start.slot);
            publish(self.context, self.schedule, &Outcome::normal("Schedule", "Replaced", message)).await;
        }
        let child = build::child(self.schedule, start);
        let created = match apply::create(self.context, namespace, &child, self.uid).await {
            Ok(created) => created,
            Err(error) => {
                let message = format!("unable to create {}: {}", start.name, chain(&error));
                publish(self.context, self.schedule, &Outcome::warning("Schedule", "CreateFailed", message)).await;
                return Err(error);
            }
        };
        if let Created::New(child) | Created::Ours(child) = &created {
            // The watch may take a while to say so.
            self.shared.children.made(child);
        }
        Ok((created != Created::Terminating).then_some(created))
    }

    async fn tell_start(&self, start: &Start, created: &Created) {
        let outcome = match created {
            Created::New(_) => {
                let missed = match start.cause {
                    Cause::Slot { missed } if missed > 0 => format!("; {missed} slots before it were missed"),
                    _ => String::new(),
                };
                Outcome::normal("Schedule", "Created", format!("{} for slot {}{missed}", start.name, start.slot))
            }
            Created::Foreign => {
                let message = format!("slot {} is left out: {} is another owner's", start.slot, start.name);
                Outcome::warning("Schedule", "NameTaken", message)
            }
            Created::Ours(_) | Created::Terminating => return,
        };
        publish(self.context, self.schedule, &outcome).await;
    }

    async fn tell_changes(
        &self,
        plan: &Plan,
        next: &RedisScheduledBackupStatus,
        pruning: &Aside<String>,
        reading: &Aside<Timestamp>,
    ) {
        let said_newly = |kind: &str| {
            let message = |status: &RedisScheduledBackupStatus| {
                condition(&status.conditions, kind).map(|condition| condition.message.clone()).unwrap_or_default()
            };
            Some(message(next)).filter(|now| *now != message(self.previous))
        };
        if matches!(plan.state, State::Skipped { .. })
            && let Some(message) = said_newly(READY)
        {
            publish(self.context, self.schedule, &Outcome::warning("Schedule", reasons::SKIPPED, message)).await;
        }
        let reason = reasons::VERIFICATION_NOT_POSSIBLE;
        if condition(&next.conditions, ACCEPTED).is_some_and(|accepted| accepted.reason == reason)
            && let Some(message) = said_newly(ACCEPTED)
        {
            publish(self.context, self.schedule, &Outcome::warning("Accept", reason, message)).await;
        }
        if let Some(outcome) = &pruning.outcome {
            let deleted = next.retention.as_ref().and_then(|retention| retention.deleted).unwrap_or(0);
            self.context.metrics.retention_deleted.inc_by(u64::try_from(deleted).unwrap_or(0));
            publish(self.context, self.schedule, outcome).await;
        }
        if let Some(outcome) = &reading.outcome {
            publish(self.context, self.schedule, outcome).await;
        }
    }

    /// Retention: begins, watches or ends its task.
    async fn retain(
        &self,
        valid: &Validated,
        next: &mut RedisScheduledBackupStatus,
    ) -> Result<Aside<String>, ReconcileError> {
        // Suspending is how somebody who found a damaged backup stops everything.
        let keep = valid.retention.as_ref().filter(|_| !valid.rules.suspended);
        let generation = self.schedule.metadata.generation;
        let (task, started) = match retention::due(keep, &self.key.name, next, self.now) {
            Retention::Idle(wake) => {
                retention::not_postponed(next);
                return Ok(Aside { wake, ..Aside::default() });
            }
            Retention::Begin(task) => {
                // A backup that is being read must not be deleted, and one that turns out damaged must not count. Those that came
                // later are not waited for, or retention might never run; the newest that was verified stays whatever the rules
                // say. The end of a verification asks for the next look, that of a restore does not.
                let since = retention::due_since(next, self.now);
                let verified = self.children.iter().filter(|(_, child)| child.was_being_verified(since));
                let mut awaited: Vec<String> = verified.map(|(name, _)| format!("RedisBackup {name}")).collect();
                let readers = readers::of(&self.context.client, &self.key.namespace, since).await?;
                let wake = self.now.checked_add(READERS_AGAIN).ok().filter(|_| !readers.is_empty());
                awaited.extend(readers);
                if !awaited.is_empty() {
                    retention::postponed(next, &awaited, generation, self.now);
                    return Ok(Aside { wake, ..Aside::default() });
                }
                // An operator that ended right after it had noted the last one's report did not get to that.
                if let Some(last) = next.retention.as_ref().and_then(|last| last.task_name.as_deref()) {
                    self.context.executor.forget(&retention::key(self.schedule, last)).await?;
                }
                retention::begun(next, &task, generation, self.now);
                return Ok(Aside { runs: true, ..Aside::default() });
            }
            Retention::Watch(task, started) => (task, started),
        };
        let state = self.context.executor.observe(&retention::key(self.schedule, &task)).await?;
        let (reason, message) = match (retention::progress(state, started, self.now), keep) {
            (Progress::Runs, _) => return Ok(Aside { runs: true, ..Aside::default() }),
            (Progress::Start, Some(keep)) => {
                let keep = siblings::union(keep, &self.siblings().await?);
                match retention::start(self.context, self.schedule, &task, &keep).await? {
                    Ok(()) => return Ok(Aside { runs: true, ..Aside::default() }),
                    Err((reason, message)) => (reason.to_owned(), message),
                }
            }
            (Progress::Start, None) => {
                (reasons::CANCELLED.to_owned(), "spec.retention was taken away, or the schedule suspended".to_owned())
            }
            (Progress::Ended(report), _) => {
                let remark = siblings::remark(&self.siblings().await?);
                let outcome = if retention::reported(next, &report, &remark, generation, self.now) {
                    Outcome::normal("Prune", reasons::COMPLETED, retention::summary(next) + &remark)
                } else {
                    let error = next.retention.as_ref().and_then(|retention| retention.error.clone());
                    Outcome::warning("Prune", "PruneFailed", error.unwrap_or_default())
                };
                return Ok(Aside { ended: Some(task), outcome: Some(outcome), ..Aside::default() });
            }
            (Progress::Failed { reason, message }, _) => (reason, message),
        };
        retention::failed(next, &reason, &message, generation, self.now);
        let outcome = Outcome::warning("Prune", reason, message);
        Ok(Aside { ended: Some(task), outcome: Some(outcome), ..Aside::default() })
    }

    async fn siblings(&self) -> Result<Vec<Sibling>, Unresolved> {
        self.shared.siblings.of(self.schedule, &self.context.client).await
    }

    /// Verification by a schedule of its own: begins, watches or ends its task.
    async fn verify(
        &self,
        valid: &Validated,
        plan: &Plan,
        next: &mut RedisScheduledBackupStatus,
    ) -> Result<Aside<Timestamp>, ReconcileError> {
        next.next_verification_time = None;
        let Some(spec) = &self.schedule.spec.backup.verification else { return Ok(Aside::default()) };
        let schedule = valid.verification.as_ref().filter(|_| !valid.rules.suspended);
        let since = plan.in_force.as_ref().and_then(|known| known.since.as_ref()).map_or(self.now, |since| since.0);
        let upcoming = schedule.and_then(|schedule| schedule.next_after(self.now));
        next.next_verification_time = upcoming.map(Time);
        let started = match verification::due(schedule, next, since, self.now) {
            Due::Idle(wake) => return Ok(Aside { wake, ..Aside::default() }),
            Due::Begin => {
                // As with retention.
                if let Some(last) = next.verification.as_ref().and_then(|last| last.started_at.as_ref()) {
                    self.context.executor.forget(&verification::key(self.schedule, last.0)).await?;
                }
                verification::begun(next, spec.level, self.now);
                return Ok(Aside { runs: true, ..Aside::default() });
            }
            Due::Watch(started) => started,
        };
        let state = self.context.executor.observe(&verification::key(self.schedule, started)).await?;
        let place = next.verification.get_or_insert_default();
        if matches!(state, TaskState::Running { .. }) {
            place.phase = Phase::Running;
        }
        let longest = verification::longest(self.schedule);
        let (verdict, backup) = match verification::progress(&state, place.phase, started, longest, self.now) {
            verification::Progress::Runs => {
                verification::keep_place(self.context, self.schedule, started);
                return Ok(Aside { runs: true, ..Aside::default() });
            }
            verification::Progress::Start => {
                match verification::start(self.context, self.schedule, started, spec).await? {
                    Ok(()) => return Ok(Aside { runs: true, ..Aside::default() }),
                    Err((reason, message)) => (Verdict::Unknown { reason: reason.to_owned(), message }, None),
                }
            }
            verification::Progress::Ended(verdict, backup) => (verdict, backup),
        };
        verification::release_place(self.context, self.schedule, started);
        verification::ended(next, &verdict, backup, self.schedule.metadata.generation, self.now);
        Ok(Aside { ended: Some(started), outcome: Some(verdict.outcome()), ..Aside::default() })
    }

    /// From the status, so that the last success is known after its object was pruned. A schedule that never succeeded has no
    /// last success to be too old: its own age counts, unless it is suspended. `missed`: slots since the last that was begun.
    fn count(&self, next: &RedisScheduledBackupStatus, missed: usize) {
        let ObjectKey { namespace, name } = self.key;
        let metrics = &self.context.metrics;
        let about = |cluster: &str| ScheduleLabels {
            namespace: namespace.clone(),
            cluster: cluster.to_owned(),
            schedule: name.clone(),
        };
        let labels = about(self.cluster);
        if let Some(before) = self.previous.cluster.as_deref().filter(|before| *before != self.cluster) {
            metrics.schedule_gone(&about(before));
        }
        if let Some(verification) = &next.verification
            && let Some(at) = &verification.completed_at
        {
            let verdict = condition(&next.conditions, VERIFIED).map_or("", |condition| condition.status.as_str());
            metrics.schedule_verified(&labels, at.0, verdict.to_ascii_lowercase().parse().ok());
        }
        if self.schedule.spec.suspend {
            metrics.schedule_rests(&labels);
            return;
        }
        let created = self.schedule.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0);
        let is_ready = condition(&next.conditions, READY).is_some_and(|ready| ready.status == "True");
        let standing = Standing { created, failures: next.failures_in_row.unwrap_or(0), is_ready, missed };
        metrics.schedule_seen(&labels, &standing);
        if let Some(at) = &next.last_successful_time {
            metrics.backup_succeeded(namespace, self.cluster, at.0);
            metrics.schedule_succeeded(namespace, self.cluster, name, at.0);
        }
    }
}

/// What a look at a task besides the backups came to.
struct Aside<Task> {
    /// It goes on.
    runs: bool,
    /// When it is due again.
    wake: Option<Timestamp>,
    /// A task whose report was read.
    ended: Option<Task>,
    outcome: Option<Outcome>,
}

impl<Task> Default for Aside<Task> {
    fn default() -> Self {
        Self { runs: false, wake: None, ended: None, outcome: None }
    }
}
