//! Where a task's progress goes, how it is told to stop, and what is remembered of a plugin's log lines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use redkeep_core::Attribute;
use redkeep_core::method::{LogLevel, RunEvents};
use tokio_util::sync::CancellationToken;

/// Told by a task what it does. Called often and from any thread: must not block.
pub trait TaskEvents: Send + Sync {
    /// A stage began: `plan`, `capture`, `commit`, `checksum`, `parse`, `boot`, `restore`, `publish`, `copy`, `delete`,
    /// `clean`, `load`.
    fn stage(&self, name: &str, detail: &str);
    /// Counts of a shard: one for each pair of phase and unit (`bytes`, `keys`, `commands`, `backups`).
    fn progress(&self, shard: &str, phase: &str, unit: &str, done: u64, total: Option<u64>);
    /// A line for the log. Warnings of a task are part of its result as well.
    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]);
    /// Cancelling this token stops the task: it aborts its uploads, deletes what it wrote, and answers
    /// [`crate::EngineError::Cancelled`]. Keep polling its future until then. Asked once, at the start of a task.
    fn cancellation(&self) -> CancellationToken {
        CancellationToken::new()
    }
}

/// Says nothing to anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl TaskEvents for Silent {
    fn stage(&self, _name: &str, _detail: &str) {}
    fn progress(&self, _shard: &str, _phase: &str, _unit: &str, _done: u64, _total: Option<u64>) {}
    fn log(&self, _level: LogLevel, _message: &str, _fields: &[Attribute]) {}
}

/// The most warnings that a task keeps, and the most characters of one: a plugin may write as many as it likes.
const MAX_WARNINGS: usize = 50;
const MAX_WARNING_CHARACTERS: usize = 400;

/// The warnings of a task, each once, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    lines: Mutex<(Vec<String>, usize)>,
}

impl Warnings {
    pub(crate) fn add(&self, line: impl Into<String>) {
        let mut line = line.into();
        if line.chars().count() > MAX_WARNING_CHARACTERS {
            line = line.chars().take(MAX_WARNING_CHARACTERS).collect::<String>() + "…";
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.0.contains(&line) {
            return;
        }
        if lines.0.len() < MAX_WARNINGS {
            lines.0.push(line);
        } else {
            lines.1 += 1;
        }
    }

    /// Keeps a warning, and says it at once.
    pub(crate) fn note(&self, events: &Arc<dyn TaskEvents>, warning: &str) {
        self.add(warning);
        events.log(LogLevel::Warn, warning, &[]);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = lines.0.clone();
        if lines.1 > 0 {
            all.push(format!("{} more warnings are not shown", lines.1));
        }
        all
    }
}

/// The events of one call of a method: passed on with the shard's name; warnings and last counts are kept.
pub(crate) struct ShardEvents {
    shard: String,
    events: Arc<dyn TaskEvents>,
    warnings: Arc<Warnings>,
    counts: Mutex<BTreeMap<(String, String), u64>>,
}

impl ShardEvents {
    pub(crate) fn new(shard: &str, events: &Arc<dyn TaskEvents>, warnings: &Arc<Warnings>) -> Arc<Self> {
        Arc::new(Self {
            shard: shard.to_owned(),
            events: Arc::clone(events),
            warnings: Arc::clone(warnings),
            counts: Mutex::default(),
        })
    }

    /// The last count of `unit` in any phase that writes (everything but reading).
    pub(crate) fn counted(&self, unit: &str) -> Option<u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|((_, counted), _)| counted == unit).map(|(_, done)| *done).max()
    }
}

/// Phases and units are a plugin's own words: no more than this many are remembered.
const MAX_COUNTS: usize = 64;

impl RunEvents for ShardEvents {
    fn log(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        if level >= LogLevel::Warn {
            self.warnings.add(message);
        }
        self.events.log(level, message, fields);
    }

    fn progress(&self, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.len() < MAX_COUNTS {
                counts.insert((phase.to_owned(), unit.to_owned()), done);
            } else if let Some(known) = counts.get_mut(&(phase.to_owned(), unit.to_owned())) {
                *known = done;
            }
        }
        self.events.progress(&self.shard, phase, unit, done, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded_and_each_is_kept_once() {
        let warnings = Warnings::default();
        for index in 0..100 {
            warnings.add(format!("warning {index}"));
            warnings.add("the same again");
        }
        warnings.add("x".repeat(10_000));
        let lines = warnings.lines();
        assert_eq!(lines.len(), MAX_WARNINGS + 1);
        assert_eq!(lines.last().unwrap(), "52 more warnings are not shown");
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_WARNING_CHARACTERS + 1));
    }
}
