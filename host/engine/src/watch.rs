//! Watching a task from outside: what it did last, for a progress page and for the message that outlives a killed process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use redkeep_core::identifier::BackupId;
use redkeep_core::method::LogLevel;
use redkeep_core::progress::{Counting, TaskProgress};
use redkeep_core::report_facts;
use redkeep_core::task::{Outcome, Task, TaskReport, TaskSpec};
use redkeep_core::{Attribute, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::report::{failure, fit};

/// Passes everything on, and remembers how far the task is.
pub struct Watched {
    inner: Arc<dyn TaskEvents>,
    counting: Mutex<Counting>,
    stages: watch::Sender<u64>,
}

impl Watched {
    /// Watches what is told to `inner`.
    pub fn new(inner: Arc<dyn TaskEvents>) -> Arc<Self> {
        Arc::new(Self { inner, counting: Mutex::default(), stages: watch::Sender::new(0) })
    }

    /// How far it is now.
    pub fn so_far(&self) -> TaskProgress {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).progress()
    }

    /// Changes whenever a stage begins.
    pub fn stages(&self) -> watch::Receiver<u64> {
        self.stages.subscribe()
    }
}

impl TaskEvents for Watched {
    fn stage(&self, name: &str, detail: &str) {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).begin(name);
        self.stages.send_modify(|count| *count = count.wrapping_add(1));
        self.inner.stage(name, detail);
    }

    fn progress(&self, shard: &str, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).count(shard, phase, unit, done, total);
        self.inner.progress(shard, phase, unit, done, total);
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        self.inner.log(level, message, fields);
    }

    fn cancellation(&self) -> CancellationToken {
        self.inner.cancellation()
    }
}

/// The report of a task that has not ended: the last word of one that is killed without a chance to speak.
pub fn running(spec: &TaskSpec, progress: &TaskProgress, started_at: Timestamp, now: Timestamp) -> TaskReport {
    let mut report = unfinished(spec, progress, started_at, now);
    report.outcome = Outcome::Running { stage: progress.stage.clone() };
    fit(report)
}

/// The report of a task that was told to stop and may be killed before it has cleaned up.
pub fn stopping(spec: &TaskSpec, progress: &TaskProgress, started_at: Timestamp, now: Timestamp) -> TaskReport {
    let mut report = unfinished(spec, progress, started_at, now);
    report.outcome = failure(&EngineError::Cancelled);
    fit(report)
}

fn unfinished(spec: &TaskSpec, progress: &TaskProgress, started_at: Timestamp, now: Timestamp) -> TaskReport {
    TaskReport {
        outcome: Outcome::Done,
        started_at,
        ended_at: now,
        backup_id: known_id(&spec.task),
        manifest: None,
        facts: BTreeMap::from([(report_facts::PROGRESS.to_owned(), progress.line())]),
        warnings: Vec::new(),
    }
}

/// The backup's id, where the caller chose it.
fn known_id(task: &Task) -> Option<BackupId> {
    match task {
        Task::Backup(task) => task.backup_id.clone(),
        Task::Capture(task) => task.backup.backup_id.clone(),
        Task::Commit(task) => task.backup.backup_id.clone(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{backup_task, silent};
    use redkeep_core::task::MAX_REPORT_BYTES;

    #[test]
    fn a_task_that_has_not_ended_says_how_far_it_came_and_is_no_end() {
        let mut task = backup_task();
        task.backup_id = Some("20261121T091348Z-cache-x7k2p".parse().unwrap());
        let spec = TaskSpec { version: 1, deadline: None, task: Task::Backup(task) };
        let watched = Watched::new(silent());
        let mut stages = watched.stages();
        watched.stage("capture", "1 shard(s)");
        watched.progress("0", "store", "bytes", 5, Some(10));
        assert!(stages.has_changed().unwrap());
        stages.mark_unchanged();
        watched.progress("0", &"long words ".repeat(1_000), "bytes", 6, Some(10));
        assert!(!stages.has_changed().unwrap(), "a count is no stage");
        let now = Timestamp::UNIX_EPOCH;
        let report = running(&spec, &watched.so_far(), now, now);
        assert_eq!(report.outcome, Outcome::Running { stage: "capture".to_owned() });
        assert!(!report.is_final());
        assert_eq!(report.backup_id.as_ref().unwrap().as_str(), "20261121T091348Z-cache-x7k2p");
        assert!(report.facts["progress"].contains("shard 0 store: 5 of 10 bytes"), "{:?}", report.facts);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""outcome":{"state":"running","stage":"capture"}"#), "{json}");
        assert!(json.len() <= MAX_REPORT_BYTES);
        let stopped = stopping(&spec, &watched.so_far(), now, now);
        assert!(stopped.is_final());
        let Outcome::Failed { reason, .. } = stopped.outcome else { panic!("{stopped:?}") };
        assert_eq!(reason, "Cancelled");
    }
}
