//! Statuses, each from the one before.

use super::*;
use crate::executor::ShardProgress;
use rstest::rstest;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn before(status: &RedisBackupStatus, second: i64) -> Before<'_> {
    Before { status, generation: Some(1), now: at(second) }
}

fn report(facts: serde_json::Value) -> TaskReport {
    serde_json::from_value(json!({
        "outcome": {"state": "done"}, "startedAt": at(5), "endedAt": at(60), "manifest": "s3://b/x/manifest.json",
        "facts": facts, "warnings": ["a replica lagged"]
    }))
    .unwrap()
}

#[test]
fn a_run_goes_from_pending_over_running_to_completed() {
    let new = RedisBackupStatus::default();
    assert_eq!(phase(&new), Phase::Pending);
    let prepared = before(&new, 10).prepared("20261127T120000Z-nightly-0f8e9c1d", "carts", "nightly-0f8e9");
    assert_eq!((prepared.phase, prepared.started_at.clone().unwrap().0), (Some(Phase::Pending), at(10)));
    assert!(!task_was_seen(&prepared), "a task that was never seen cannot have vanished");
    let waiting = before(&prepared, 20).waiting("PodStarting", "x");
    assert_eq!(waiting.phase, Some(Phase::Pending));
    assert!(task_was_seen(&waiting));
    let running = before(&waiting, 30).running(None);
    assert_eq!(running.phase, Some(Phase::Running));
    let facts = json!({"stored-size": "1536", "keys": "7", "artifact-type": "rdb", "stored-sha256": "ab",
        "backup-path": "s3://b/x/dump.rdb", "method-digest": "sha256:cd", "node": "redis://10.0.0.1:6379"});
    let done = before(&running, 70).completed(&report(facts), Some("redis-1".into()));
    assert_eq!(done.phase, Some(Phase::Completed));
    assert_eq!((done.backup_size, done.size.as_deref(), done.keys), (Some(1536), Some("1.5 KiB"), Some(7)));
    assert_eq!((done.target_pod.as_deref(), done.artifact_type.as_deref()), (Some("redis-1"), Some("rdb")));
    assert_eq!(done.backup_path.as_deref(), Some("s3://b/x/dump.rdb"));
    assert_eq!(done.completed_at.unwrap().0, at(60), "when the task ended, not when it was looked at");
    assert_eq!(done.warnings, ["a replica lagged"]);
    assert!(done.error.is_none() && done.progress.is_none());
}

#[test]
fn what_every_pod_goes_through_is_one_state() {
    let new = RedisBackupStatus::default();
    let prepared = before(&new, 1).prepared("i", "c", "t");
    let first = before(&prepared, 2).waiting("PodNotCreated", "a");
    let second = before(&first, 9).waiting("PodStarting", "b");
    assert_eq!(first, second);
    assert_ne!(before(&second, 9).waiting("ImagePullFailed", "b"), second);
}

#[test]
fn a_failed_run_says_why_in_error_condition_and_phase() {
    let running = before(&RedisBackupStatus::default(), 1).running(None);
    let failed = before(&running, 5).failed("Evicted", "low on disk");
    assert_eq!((failed.phase, failed.error.as_deref()), (Some(Phase::Failed), Some("low on disk")));
    let condition = condition(&failed.conditions, FAILED).unwrap();
    assert_eq!((condition.reason.as_str(), condition.status.as_str()), ("Evicted", "True"));
    assert_eq!(failed.completed_at.unwrap().0, at(5));
}

#[test]
fn an_inspection_remembers_what_it_looks_into_and_a_found_backup_wipes_it_out() {
    let running = before(&RedisBackupStatus::default(), 1).running(None);
    let looking = before(&running, 2).inspecting("NodeLost", "the node is gone");
    assert_eq!(looking.phase, Some(Phase::Running));
    assert_eq!(under_inspection(&looking), Some(("NodeLost", "the node is gone")));
    let done = before(&looking, 3).completed(&report(json!({})), None);
    assert_eq!((done.phase, under_inspection(&done)), (Some(Phase::Completed), None));
    assert!(condition(&done.conditions, FAILED).is_none());
    let failed = before(&looking, 3).failed("NodeLost", "the node is gone");
    assert_eq!((failed.phase, under_inspection(&failed)), (Some(Phase::Failed), None));
}

#[test]
fn a_spec_that_cannot_be_followed_is_not_accepted_and_has_failed() {
    let refused = before(&RedisBackupStatus::default(), 1).refused("InvalidSpec", "spec.method: no");
    assert_eq!(refused.phase, Some(Phase::Failed));
    assert_eq!(condition(&refused.conditions, ACCEPTED).unwrap().status, "False");
    let pending = before(&RedisBackupStatus::default(), 1).not_yet("ClusterNotFound", "no carts");
    assert_eq!(pending.phase, Some(Phase::Pending));
    assert_eq!(condition(&pending.conditions, ACCEPTED).unwrap().reason, "ClusterNotFound");
}

fn counts(list: &[(&str, &str, u64, Option<u64>)]) -> TaskProgress {
    let one = |(shard, unit, done, total): &(&str, &str, u64, Option<u64>)| ShardProgress {
        shard: (*shard).into(),
        phase: "read".into(),
        unit: (*unit).into(),
        done: *done,
        total: *total,
    };
    TaskProgress { stage: "capture".into(), shards: list.iter().map(one).collect() }
}

#[rstest]
#[case(&[], None, None)]
#[case(&[("0", "bytes", 5, Some(10))], Some(5), Some(50))]
#[case(&[("0", "bytes", 5, Some(10)), ("1", "bytes", 10, Some(10))], Some(15), Some(75))]
#[case(&[("0", "bytes", 5, None), ("1", "bytes", 10, Some(10))], Some(15), None)]
#[case(&[("0", "keys", 3, None), ("0", "bytes", 10, Some(0))], Some(10), None)]
#[case(&[("0", "bytes", u64::MAX, Some(1))], Some(i64::MAX), Some(100))]
fn progress_is_summed_over_shards(
    #[case] list: &[(&str, &str, u64, Option<u64>)],
    #[case] done: Option<i64>,
    #[case] percent: Option<i32>,
) {
    let shown = before(&RedisBackupStatus::default(), 1).running(Some(&counts(list))).progress.unwrap();
    assert_eq!((shown.stage.as_str(), shown.done, shown.percent), ("capture", done, percent));
}

#[test]
fn progress_that_did_not_move_is_not_written_again() {
    let first = before(&RedisBackupStatus::default(), 1).running(Some(&counts(&[("0", "bytes", 5, None)])));
    let second = before(&first, 19).running(Some(&counts(&[("0", "bytes", 5, None)])));
    assert_eq!(first, second);
    let moved = before(&first, 19).running(Some(&counts(&[("0", "bytes", 6, None)])));
    assert_eq!(moved.progress.unwrap().updated_at.unwrap().0, at(19));
}

#[test]
fn shards_are_shown_each_once_and_only_where_there_are_several() {
    let status = RedisBackupStatus::default();
    let shown = |list| before(&status, 1).running(Some(&counts(list))).shards;
    assert!(shown(&[("0", "bytes", 1, None)]).is_empty());
    let several = shown(&[("0", "keys", 1, None), ("0", "bytes", 2, None), ("1", "bytes", 3, None)]);
    let lines: Vec<_> = several.iter().map(|shard| (shard.shard.as_str(), shard.done)).collect();
    assert_eq!(lines, [("0", Some(2)), ("1", Some(3))]);
}
