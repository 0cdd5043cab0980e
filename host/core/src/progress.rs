//! How far a running task is, as it is handed to those who watch it (`GET /progress` of a task's pod).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Phases and units are a plugin's own words: no more counts than this are kept.
pub const MAX_COUNTS: usize = 64;
/// The most characters of a name in it: stages, shards, phases and units.
const MAX_NAME: usize = 80;

/// A running task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskProgress {
    /// The stage that began last: `plan`, `capture`, `commit`, …; empty before the first.
    #[serde(default)]
    pub stage: String,
    /// What was counted in this stage, by shard, phase and unit.
    #[serde(default)]
    pub shards: Vec<ShardProgress>,
}

/// One count of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardProgress {
    /// The shard; empty where the count is of the whole.
    pub shard: String,
    /// What is being done to it, e.g. `read` or `store`.
    pub phase: String,
    /// What is counted: `bytes`, `keys`, `commands`, `backups`.
    pub unit: String,
    /// How many are done.
    pub done: u64,
    /// Of how many, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// The counts of a running task as they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counting {
    stage: String,
    counts: BTreeMap<(String, String, String), (u64, Option<u64>)>,
}

impl Counting {
    /// A stage began: what was counted in the one before no longer says anything.
    pub fn begin(&mut self, stage: &str) {
        self.stage = cut(stage);
        self.counts.clear();
    }

    /// A count; beyond [`MAX_COUNTS`] of them new ones are not kept.
    pub fn count(&mut self, shard: &str, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        let key = (cut(shard), cut(phase), cut(unit));
        if self.counts.len() < MAX_COUNTS || self.counts.contains_key(&key) {
            self.counts.insert(key, (done, total));
        }
    }

    /// What is known now.
    pub fn progress(&self) -> TaskProgress {
        let one = |((shard, phase, unit), (done, total)): (&(String, String, String), &(u64, Option<u64>))| {
            let (shard, phase, unit) = (shard.clone(), phase.clone(), unit.clone());
            ShardProgress { shard, phase, unit, done: *done, total: *total }
        };
        TaskProgress { stage: self.stage.clone(), shards: self.counts.iter().map(one).collect() }
    }
}

fn cut(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(MAX_NAME).collect()
}

impl TaskProgress {
    /// One line for people: `capture, shard 0: 5 of 10 bytes read`; cut to the first few counts.
    pub fn line(&self) -> String {
        const SHOWN: usize = 4;
        let mut parts = vec![if self.stage.is_empty() { "start".to_owned() } else { self.stage.clone() }];
        for count in self.shards.iter().take(SHOWN) {
            let of = count.total.map(|total| format!(" of {total}")).unwrap_or_default();
            let shard = if count.shard.is_empty() { String::new() } else { format!("shard {} ", count.shard) };
            parts.push(format!("{shard}{}: {}{of} {}", count.phase, count.done, count.unit));
        }
        if self.shards.len() > SHOWN {
            parts.push("…".to_owned());
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_shard_phase_and_unit_until_the_next_stage() {
        let mut counting = Counting::default();
        assert_eq!(counting.progress().line(), "start");
        counting.begin("capture");
        counting.count("1", "read", "bytes", 5, Some(10));
        counting.count("0", "read", "bytes", 1, None);
        counting.count("1", "read", "bytes", 7, Some(10));
        assert_eq!(counting.progress().line(), "capture, shard 0 read: 1 bytes, shard 1 read: 7 of 10 bytes");
        let json = serde_json::to_value(counting.progress()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"stage": "capture", "shards": [
                {"shard": "0", "phase": "read", "unit": "bytes", "done": 1},
                {"shard": "1", "phase": "read", "unit": "bytes", "done": 7, "total": 10},
            ]})
        );
        assert_eq!(serde_json::from_value::<TaskProgress>(json).unwrap(), counting.progress());
        counting.begin("commit");
        assert_eq!(counting.progress(), TaskProgress { stage: "commit".to_owned(), shards: Vec::new() });
    }

    #[test]
    fn a_plugin_cannot_fill_the_memory_with_words() {
        let mut counting = Counting::default();
        counting.begin(&"s".repeat(10_000));
        for number in 0..1_000 {
            counting.count("0", &format!("{number}{}\u{1b}", "x".repeat(10_000)), "bytes", number, None);
        }
        let progress = counting.progress();
        assert_eq!((progress.stage.len(), progress.shards.len()), (MAX_NAME, MAX_COUNTS));
        assert!(progress.shards.iter().all(|count| count.phase.len() == MAX_NAME && !count.phase.contains('\u{1b}')));
        assert!(progress.line().len() < 1_500);
    }
}
