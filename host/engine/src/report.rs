//! `TaskSpec` in, `TaskReport` out: every task kind behind one function, its deadline kept, its report cut to 4 KiB.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redkeep_core::identifier::BackupId;
use redkeep_core::manifest::Manifest;
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::task::{MAX_REPORT_BYTES, Outcome, SPEC_VERSION, Task, TaskReport, TaskSpec};
use redkeep_core::{Attribute, Classify, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::backup::BackupResult;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::restore::RestoreResult;

/// Does what the spec says and always answers. Nothing panics or hangs past the deadline plus the time of cleaning up.
pub async fn run(spec: TaskSpec, providers: Arc<dyn Providers>, events: Arc<dyn TaskEvents>) -> TaskReport {
    let started_at = providers.now();
    let deadline = Deadline::new(events, spec.deadline, started_at);
    let events: Arc<dyn TaskEvents> = deadline.clone();
    let ended = match spec.version {
        SPEC_VERSION => {
            let work = dispatch(&spec.task, &providers, &events);
            tokio::pin!(work);
            tokio::select! {
                ended = &mut work => ended,
                () = deadline.pass() => work.await,
            }
        }
        found => Err(EngineError::SpecVersion { found }),
    };
    let ended = match ended {
        Err(EngineError::Cancelled) if deadline.passed.load(Ordering::SeqCst) => Err(EngineError::Deadline),
        other => other,
    };
    report(ended, started_at, providers.now())
}

/// The caller's events, with a token that the deadline cancels too.
struct Deadline {
    inner: Arc<dyn TaskEvents>,
    token: CancellationToken,
    left: Option<Duration>,
    passed: AtomicBool,
}

impl Deadline {
    fn new(inner: Arc<dyn TaskEvents>, deadline: Option<Timestamp>, now: Timestamp) -> Arc<Self> {
        let left = deadline.map(|deadline| {
            let milliseconds = deadline.as_millisecond().saturating_sub(now.as_millisecond());
            Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
        });
        let token = inner.cancellation().child_token();
        Arc::new(Self { inner, token, left, passed: AtomicBool::new(false) })
    }

    /// Waits for the deadline and cancels; for ever where there is none.
    async fn pass(&self) {
        match self.left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
        self.passed.store(true, Ordering::SeqCst);
        self.token.cancel();
    }
}

impl TaskEvents for Deadline {
    fn stage(&self, name: &str, detail: &str) {
        self.inner.stage(name, detail);
    }

    fn progress(&self, shard: &str, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        self.inner.progress(shard, phase, unit, done, total);
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        self.inner.log(level, message, fields);
    }

    fn cancellation(&self) -> CancellationToken {
        self.token.clone()
    }
}

/// What a task led to, before it is a report.
#[derive(Default)]
struct Ended {
    planned: bool,
    backup_id: Option<BackupId>,
    manifest: Option<String>,
    facts: BTreeMap<String, String>,
    warnings: Vec<String>,
    /// A task that did its work and found that something is wrong: a failed verification, a prune with failures.
    error: Option<EngineError>,
}

impl Ended {
    fn fact(&mut self, key: &str, value: impl ToString) {
        self.facts.insert(key.to_owned(), value.to_string());
    }

    fn describe(&mut self, manifest: &Manifest) {
        let (size, stored_size) = manifest.sizes();
        self.backup_id = Some(manifest.backup_id.clone());
        self.facts.extend(manifest.facts.iter().map(|(key, value)| (key.clone(), value.clone())));
        self.fact("method", &manifest.method.name);
        self.fact("method-digest", &manifest.method.digest);
        self.fact("size", size);
        self.fact("stored-size", stored_size);
        self.fact("shards", manifest.shards.len());
        if let [only] = manifest.artifacts.as_slice() {
            self.fact("artifact-type", &only.artifact_type);
            self.fact("stored-sha256", &only.stored_sha256);
            self.fact("key", &only.key);
        }
    }
}

async fn dispatch(
    task: &Task,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<Ended, EngineError> {
    let mut ended = Ended::default();
    match task {
        Task::Backup(task) => {
            let outcome = crate::backup::backup(task, providers, events).await?;
            ended.manifest = Some(outcome.address.clone());
            ended.warnings = outcome.warnings;
            match outcome.result {
                BackupResult::Committed(manifest) => ended.describe(&manifest),
                BackupResult::Existing(manifest) => {
                    ended.describe(&manifest);
                    ended.fact("existing", "yes");
                }
                BackupResult::Planned(plans) => {
                    ended.planned = true;
                    ended.manifest = None;
                    for plan in plans {
                        ended.fact(&format!("node-{}", plan.shard), plan.node);
                    }
                }
            }
        }
        Task::Restore(task) => {
            let outcome = crate::restore::restore(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup_id);
            ended.manifest = Some(outcome.address);
            ended.facts = outcome.facts;
            ended.warnings = outcome.warnings;
            ended.planned = matches!(outcome.result, RestoreResult::Planned(_));
        }
        Task::Verify(task) => {
            let outcome = crate::verify::verify(task, providers, events).await?;
            ended.backup_id = Some(outcome.record.backup_id.clone());
            ended.manifest = Some(outcome.address);
            ended.facts = outcome.record.facts;
            ended.warnings = outcome.warnings;
            ended.error = outcome.error;
        }
        Task::Inspect(task) => {
            let outcome = crate::inspect::inspect(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup_id);
            ended.fact("answer", outcome.answer);
        }
        Task::Prune(task) => {
            let outcome = crate::prune::prune(task, providers, events).await?;
            ended.planned = task.dry_run;
            ended.fact("kept", outcome.decisions.iter().filter(|decision| decision.keep).count());
            ended.fact("deleted", outcome.deleted.len());
            ended.fact("garbage-objects", outcome.garbage.len());
            ended.fact("unfinished-uploads", outcome.uploads.len());
            ended.warnings = outcome.warnings;
            ended.error = outcome.error;
        }
        Task::Delete(task) => {
            let outcome = crate::delete::delete(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup.backup_id);
            ended.fact("objects", outcome.objects);
        }
        Task::Copy(task) => {
            let outcome = crate::copy::copy(task, providers, events).await?;
            let copied = outcome.copies.iter().filter(|copy| copy.copied).count();
            ended.fact("copied", copied);
            ended.fact("there-already", outcome.copies.len() - copied);
            ended.error = outcome.error;
        }
    }
    Ok(ended)
}

fn report(ended: Result<Ended, EngineError>, started_at: Timestamp, ended_at: Timestamp) -> TaskReport {
    let (ended, error) = match ended {
        Ok(mut ended) => {
            let error = ended.error.take();
            (ended, error)
        }
        Err(error) => (Ended::default(), Some(error)),
    };
    let outcome = match error {
        None if ended.planned => Outcome::Planned,
        None => Outcome::Done,
        Some(error) => Outcome::Failed {
            class: error.class(),
            reason: error.reason().to_owned(),
            message: error.chain(),
            help: error.help(),
            retryable: error.retryable(),
        },
    };
    fit(TaskReport {
        outcome,
        started_at,
        ended_at,
        backup_id: ended.backup_id,
        manifest: ended.manifest,
        facts: ended.facts,
        warnings: ended.warnings,
    })
}

fn bytes(report: &TaskReport) -> usize {
    serde_json::to_vec(report).map_or(usize::MAX, |json| json.len())
}

/// Cuts a text to at most `limit` characters.
fn cut(text: &mut String, limit: usize) {
    if text.chars().count() > limit {
        *text = text.chars().take(limit.saturating_sub(1)).collect::<String>() + "…";
    }
}

/// The longest a message, a help line, a warning and a fact are once the report is too long, in characters.
const LIMITS: [usize; 5] = [1000, 500, 200, 100, 40];

/// Makes the report fit: first long texts are cut, then the newest warnings go, then the longest facts.
fn fit(mut report: TaskReport) -> TaskReport {
    for limit in LIMITS {
        if bytes(&report) <= MAX_REPORT_BYTES {
            return report;
        }
        if let Outcome::Failed { message, help, .. } = &mut report.outcome {
            cut(message, limit);
            if let Some(help) = help {
                cut(help, limit);
            }
        }
        report.warnings.iter_mut().for_each(|warning| cut(warning, limit));
        report.facts.values_mut().for_each(|value| cut(value, limit));
        while report.warnings.len() > 1 && bytes(&report) > MAX_REPORT_BYTES {
            report.warnings.pop();
        }
    }
    while bytes(&report) > MAX_REPORT_BYTES {
        let longest = report.facts.iter().max_by_key(|(key, value)| key.len() + value.len());
        let Some(key) = longest.map(|(key, _)| key.clone()) else { break };
        report.facts.remove(&key);
    }
    if bytes(&report) > MAX_REPORT_BYTES {
        // Addresses are the last thing that can be long.
        report.manifest = None;
        report.warnings.clear();
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Reports of hundreds of kilobytes are serialized over and over: a few of them are enough.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_report_fits_a_termination_message(
            message in "\\PC{0,6000}",
            warnings in proptest::collection::vec("\\PC{0,600}", 0..60),
            facts in proptest::collection::btree_map("\\PC{0,80}", "\\PC{0,3000}", 0..60),
            address in "\\PC{0,9000}",
        ) {
            let now = Timestamp::UNIX_EPOCH;
            let report = fit(TaskReport {
                outcome: Outcome::Failed {
                    class: redkeep_core::Class::Failed,
                    reason: "Failed".to_owned(),
                    message: message.clone(),
                    help: Some(message),
                    retryable: false,
                },
                started_at: now, ended_at: now, backup_id: None, manifest: Some(address), facts, warnings,
            });
            prop_assert!(bytes(&report) <= MAX_REPORT_BYTES);
        }
    }

    #[test]
    fn a_report_that_fits_is_left_alone() {
        let now = Timestamp::UNIX_EPOCH;
        let warnings = vec!["the oldest".to_owned(), "the newest".to_owned()];
        let report = TaskReport {
            outcome: Outcome::Done,
            started_at: now,
            ended_at: now,
            backup_id: None,
            manifest: None,
            facts: BTreeMap::new(),
            warnings,
        };
        assert_eq!(fit(report.clone()), report);
    }
}
