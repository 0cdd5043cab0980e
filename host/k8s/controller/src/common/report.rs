//! What the statuses of all runs take from a task: progress, shards, counts, texts cut to what a definition allows. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::task::TaskReport;
use redkeep_k8s_api::run::{Progress, ShardStatus};

use crate::apply::whole_seconds;
use crate::executor::TaskProgress;

/// What a status may hold, as the definitions say. A text is cut by characters: none takes more than four bytes.
const MOST_WARNINGS: usize = 20;
const LONGEST_WARNING: usize = 1024;
const LONGEST_ERROR: usize = 4096;
/// How often the counts of a stage are written.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// As many shards as a status lists.
pub const MOST_SHARDS: usize = 1000;

/// An error as a status may hold it.
pub fn error_text(message: &str) -> String {
    message.chars().take(LONGEST_ERROR / 4).collect()
}

/// Whether a task that failed said that its backup is known not to be in storage. Of class `NotFound` is more than that: a bucket that is
/// not there, or whatever answers 404 while an endpoint is redeployed.
pub fn backup_is_gone(reason: &str) -> bool {
    matches!(reason, "BackupNotFound" | "NoBackups")
}

/// A word of a report's facts.
pub fn fact(report: &TaskReport, key: &str) -> Option<String> {
    report.facts.get(key).cloned()
}

/// A whole number of a report's facts.
pub fn number(report: &TaskReport, key: &str) -> Option<i64> {
    report.facts.get(key).and_then(|text| text.parse().ok())
}

/// When it ended. The clock of the task's node may be ahead: no later success or failure would be newer than that.
pub fn ended_at(report: &TaskReport, now: Timestamp) -> Time {
    Time(whole_seconds(report.ended_at.min(now)))
}

/// How many keys the backup holds, where that is known.
pub fn counted_keys(report: &TaskReport) -> Option<i64> {
    redkeep_core::facts::counted_keys(&report.facts).and_then(|keys| keys.try_into().ok())
}

/// What a person should know although it went well.
pub fn warnings(report: &TaskReport) -> Vec<String> {
    let one = |warning: &String| warning.chars().take(LONGEST_WARNING / 4).collect();
    report.warnings.iter().take(MOST_WARNINGS).map(one).collect()
}

/// The progress to show; its time moves only with what it says, so that a status is not written for nothing. Nor more often than
/// [`PROGRESS_EVERY`] in one stage: each write comes back as a change and asks for a look, which would find another count.
pub fn progress(before: Option<&Progress>, heard: &TaskProgress, now: Timestamp) -> Progress {
    let shown = sum(heard);
    let is_fresh = |before: &Progress| {
        let age = before.updated_at.as_ref().map(|written| now.duration_since(written.0).abs());
        before.stage == shown.stage && age.is_some_and(|age| age < PROGRESS_EVERY)
    };
    match before {
        Some(before) if is_fresh(before) => before.clone(),
        Some(before) if (Progress { updated_at: None, ..before.clone() }) == shown => before.clone(),
        _ => Progress { updated_at: Some(Time(whole_seconds(now))), ..shown },
    }
}

/// The whole from its shards: those counts that are of the unit of the last one.
fn sum(progress: &TaskProgress) -> Progress {
    let unit = progress.shards.last().map(|last| (last.unit.clone(), last.phase.clone()));
    let counted: Vec<_> = progress
        .shards
        .iter()
        .filter(|shard| unit.as_ref().is_some_and(|(unit, phase)| shard.unit == *unit && shard.phase == *phase))
        .collect();
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let done = counted.iter().map(|shard| shard.done).fold(0, u64::saturating_add);
    let total = counted.iter().map(|shard| shard.total).try_fold(0, |sum: u64, total| Some(sum.saturating_add(total?)));
    let total = total.filter(|_| !counted.is_empty());
    let percent = total.filter(|total| *total > 0).map(|total| (u128::from(done) * 100 / u128::from(total)).min(100));
    Progress {
        stage: progress.stage.chars().take(64).collect(),
        unit: unit.map(|(unit, _)| unit.chars().take(32).collect()),
        done: (!counted.is_empty()).then(|| whole(done)),
        total: total.map(whole),
        percent: percent.and_then(|percent| i32::try_from(percent).ok()),
        updated_at: None,
    }
}

/// One line a shard, where there are several; of several counts of a shard the last.
pub fn shards(progress: &TaskProgress) -> Vec<ShardStatus> {
    let mut shown: Vec<ShardStatus> = Vec::new();
    for count in &progress.shards {
        let line = ShardStatus {
            shard: count.shard.clone(),
            stage: Some(count.phase.chars().take(64).collect()),
            unit: Some(count.unit.chars().take(32).collect()),
            done: i64::try_from(count.done).ok(),
            total: count.total.and_then(|total| i64::try_from(total).ok()),
            ..ShardStatus::default()
        };
        let has_room = shown.len() < MOST_SHARDS;
        match shown.iter_mut().find(|one| one.shard == line.shard) {
            Some(place) => *place = line,
            None if has_room && !line.shard.is_empty() => shown.push(line),
            None => {}
        }
    }
    if shown.len() > 1 { shown } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn heard(stage: &str, done: u64) -> TaskProgress {
        serde_json::from_value(json!({"stage": stage, "shards": [
            {"shard": "0", "phase": "store", "done": done, "total": 100, "unit": "bytes"}]}))
        .unwrap()
    }

    #[test]
    fn counts_of_a_stage_are_shown_each_ten_seconds_and_another_stage_at_once() {
        let begun: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        let after = |seconds: i64| begun + SignedDuration::from_secs(seconds);
        let first = progress(None, &heard("capture", 1), begun);
        assert_eq!(progress(Some(&first), &heard("capture", 2), after(9)), first, "a write asks for a look");
        assert_eq!(progress(Some(&first), &heard("capture", 2), after(10)).done, Some(2));
        assert_eq!(progress(Some(&first), &heard("commit", 2), after(1)).stage, "commit");
        assert_eq!(progress(Some(&first), &heard("capture", 1), after(60)), first, "there is nothing new");
        // A clock that was put back.
        assert_eq!(progress(Some(&first), &heard("capture", 2), after(-60)).done, Some(2));
    }
}
