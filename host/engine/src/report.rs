//! `TaskSpec` in, `TaskReport` out: every task kind behind one function, its deadline kept, its report cut to 4 KiB.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redkeep_core::identifier::BackupId;
use redkeep_core::layout::MANIFEST;
use redkeep_core::manifest::Manifest;
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::report_facts;
use redkeep_core::task::{MAX_REPORT_BYTES, Outcome, SPEC_VERSION, Task, TaskReport, TaskSpec};
use redkeep_core::{Attribute, Classify, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupOutcome, BackupResult};
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::parts::CaptureOutcome;
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

    fn backed_up(&mut self, outcome: BackupOutcome) {
        self.warnings = outcome.warnings;
        match outcome.result {
            BackupResult::Committed(manifest) => self.describe(&manifest, &outcome.address),
            BackupResult::Existing(manifest) => {
                self.describe(&manifest, &outcome.address);
                self.fact("existing", "yes");
            }
            BackupResult::Planned(plans) => {
                self.planned = true;
                if let [only] = plans.as_slice() {
                    self.fact(report_facts::NODE, &only.node);
                }
                for plan in plans {
                    self.fact(&format!("node-{}", plan.shard), plan.node);
                }
                return;
            }
        }
        self.manifest = Some(outcome.address);
    }

    /// `manifest_address`: where it lies; the rest of the backup lies beside it.
    fn describe(&mut self, manifest: &Manifest, manifest_address: &str) {
        let folder = manifest_address.strip_suffix(MANIFEST).unwrap_or(manifest_address);
        self.backup_id = Some(manifest.backup_id.clone());
        self.facts.extend(report_facts::of_backup(manifest, folder));
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
            ended.backed_up(crate::backup::backup(task, providers, events).await?);
        }
        Task::Restore(task) => {
            let outcome = crate::restore::restore(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup_id);
            ended.manifest = Some(outcome.address);
            ended.facts = outcome.facts;
            ended.fact("target", outcome.target);
            ended.warnings = outcome.warnings;
            ended.planned = matches!(outcome.result, RestoreResult::Planned(_));
        }
        Task::Verify(task) => {
            let outcome = crate::verify::verify(task, providers, events).await?;
            ended.backup_id = Some(outcome.record.backup_id.clone());
            ended.manifest = Some(outcome.address);
            ended.facts = outcome.record.facts;
            ended.fact(report_facts::LEVEL, word(&outcome.record.level));
            ended.fact(report_facts::VERIFIED_AT, outcome.record.time);
            ended.fact(report_facts::VERIFIED, if outcome.record.ok { "yes" } else { "no" });
            ended.warnings = outcome.warnings;
            ended.error = outcome.error.or(outcome.unrecorded);
        }
        Task::Inspect(task) => {
            let outcome = crate::inspect::inspect(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup_id);
            ended.fact("answer", outcome.answer);
        }
        Task::Prune(task) => {
            let outcome = crate::prune::prune(task, providers, events).await?;
            ended.planned = task.dry_run;
            ended.facts = report_facts::of_plan(&outcome.decisions);
            ended.fact("problems", outcome.problems.len());
            let freed = outcome.decisions.iter().filter(|decision| outcome.deleted.contains(&decision.backup));
            ended.fact("freed-size", freed.fold(0_u64, |sum, one| sum.saturating_add(one.stored_size)));
            ended.fact("kept", outcome.decisions.iter().filter(|decision| decision.keep).count());
            ended.fact("deleted", outcome.deleted.len());
            ended.fact("garbage-objects", outcome.garbage.len());
            ended.fact("unfinished-uploads", outcome.uploads.len());
            ended.fact("young-garbage-objects", outcome.young_garbage);
            ended.fact("young-unfinished-uploads", outcome.young_uploads);
            ended.warnings = outcome.warnings;
            ended.error = outcome.error;
        }
        Task::Delete(task) => {
            let outcome = crate::delete::delete(task, providers, events).await?;
            ended.backup_id = Some(outcome.backup.backup_id);
            ended.fact("objects", outcome.objects);
        }
        Task::Pin(task) => {
            let set = if task.pinned {
                crate::pin::pin(&task.storage, &task.backup, providers, events).await?
            } else {
                crate::pin::unpin(&task.storage, &task.backup, providers, events).await?
            };
            ended.backup_id = Some(set.backup_id);
            ended.fact(report_facts::PINNED, if task.pinned { "yes" } else { "no" });
        }
        Task::Copy(task) => {
            let outcome = crate::copy::copy(task, providers, events).await?;
            let copied = outcome.copies.iter().filter(|copy| copy.copied).count();
            ended.fact("copied", copied);
            ended.fact("there-already", outcome.copies.len() - copied);
            ended.error = outcome.error;
        }
        Task::Probe(task) => {
            let outcome = crate::probe::probe(task, providers, events).await?;
            ended.facts = outcome.facts();
            let problems = outcome.catalog.problems.iter();
            ended.warnings =
                problems.map(|problem| format!("{}: {}", problem.backup.backup_id, problem.message)).collect();
            ended.error = outcome.error;
        }
        Task::Capture(task) => match crate::parts::capture(task, providers, events).await? {
            CaptureOutcome::Ended(outcome) => ended.backed_up(outcome),
            CaptureOutcome::Captured { attempt, shard, size, stored_size, warnings } => {
                ended.backup_id.clone_from(&task.backup.backup_id);
                ended.facts = shard.facts;
                ended.fact(report_facts::PART_SHARD, shard.name);
                ended.fact(report_facts::PART_ATTEMPT, attempt);
                ended.fact(report_facts::NODE, shard.node);
                ended.fact(report_facts::SIZE, size);
                ended.fact(report_facts::STORED_SIZE, stored_size);
                ended.warnings = warnings;
            }
        },
        Task::Commit(task) => ended.backed_up(crate::parts::commit(task, providers, events).await?),
        Task::Load(task) => ended.facts = crate::load::load(task, providers, events).await?.facts(),
        Task::Find(task) => {
            let outcome = crate::find::find(task, providers, events).await?;
            ended.describe(&outcome.manifest, &outcome.address);
            ended.manifest = Some(outcome.address);
            ended.warnings = outcome.manifest.warnings;
        }
    }
    Ok(ended)
}

/// A plain enum as its serialized word.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
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
        Some(error) => failure(&error),
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

/// An error as the outcome of a task.
pub(crate) fn failure(error: &EngineError) -> Outcome {
    Outcome::Failed {
        class: error.class(),
        reason: error.reason().to_owned(),
        message: error.chain(),
        help: error.help(),
        retryable: error.retryable(),
    }
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

/// Makes the report fit: first long texts are cut, then the newest warnings go, then the longest facts, those that the
/// operator needs last.
pub(crate) fn fit(mut report: TaskReport) -> TaskReport {
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
        for (_, value) in report.facts.iter_mut().filter(|(key, _)| !report_facts::ESSENTIAL.contains(&key.as_str())) {
            cut(value, limit);
        }
        while report.warnings.len() > 1 && bytes(&report) > MAX_REPORT_BYTES {
            report.warnings.pop();
        }
    }
    while bytes(&report) > MAX_REPORT_BYTES {
        let dispensable = |key: &str| !report_facts::ESSENTIAL.contains(&key);
        let longest = report.facts.iter().max_by_key(|(key, value)| (dispensable(key), key.len() + value.len()));
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
    fn what_the_operator_reads_goes_last() {
        let now = Timestamp::UNIX_EPOCH;
        let mut facts: BTreeMap<String, String> =
            (0..200).map(|number| (format!("keys-db-{number}"), "1".repeat(30))).collect();
        facts.extend(report_facts::ESSENTIAL.iter().map(|key| ((*key).to_owned(), "v".repeat(100))));
        let (outcome, manifest) = (Outcome::Done, Some("s3://bucket/manifest.json".to_owned()));
        let warnings = vec!["w".repeat(400); 50];
        let report =
            fit(TaskReport { outcome, started_at: now, ended_at: now, backup_id: None, manifest, facts, warnings });
        assert!(bytes(&report) <= MAX_REPORT_BYTES && report.manifest.is_some());
        for key in report_facts::ESSENTIAL {
            assert_eq!(report.facts.get(key).map(String::len), Some(100), "{key}");
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
