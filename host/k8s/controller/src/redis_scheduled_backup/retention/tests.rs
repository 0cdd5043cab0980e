use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::apply::condition;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn status(value: serde_json::Value) -> RedisScheduledBackupStatus {
    serde_json::from_value(value).unwrap()
}

fn begin(now: &str) -> Retention {
    Retention::Begin(format!("nightly-{}", at(now).as_second()))
}

const NOW: &str = "2026-11-21T12:00:00Z";

#[rstest]
#[case::nothing_was_stored_yet(json!({}), Retention::Idle(None))]
#[case::after_the_first_success(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z"}), begin(NOW))]
#[case::after_each_success(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "retention": {"startedAt": "2026-11-20T02:00:00Z", "completedAt": "2026-11-20T02:01:00Z", "taskName": "t"}}), begin(NOW))]
#[case::not_twice_for_one(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "retention": {"startedAt": "2026-11-21T02:00:05Z", "completedAt": "2026-11-21T02:01:00Z", "taskName": "t"}}), Retention::Idle(Some(at("2026-11-22T02:00:05Z"))))]
#[case::once_a_day(json!({"lastSuccessfulTime": "2026-11-19T02:00:00Z", "retention": {"startedAt": "2026-11-20T12:00:00Z", "completedAt": "2026-11-20T12:01:00Z", "taskName": "t"}}), begin(NOW))]
#[case::while_it_runs(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "retention": {"startedAt": "2026-11-20T02:00:00Z", "taskName": "t"}}), Retention::Watch("t".into(), at("2026-11-20T02:00:00Z")))]
#[case::the_clock_was_wrong(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "retention": {"startedAt": "2030-01-01T00:00:00Z", "completedAt": "2030-01-01T00:00:00Z", "taskName": "t"}}), begin(NOW))]
fn retention_is_due(#[case] known: serde_json::Value, #[case] expected: Retention) {
    let keep = KeepRules { last: Some(3), ..KeepRules::default() };
    assert_eq!(due(Some(&keep), "nightly", &status(known), at(NOW)), expected);
}

#[test]
fn without_rules_nothing_begins() {
    let known = status(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z"}));
    assert_eq!(due(None, "nightly", &known, at(NOW)), Retention::Idle(None));
}

#[test]
fn a_run_that_does_not_end_is_given_up() {
    let running = || TaskState::Running { pod: None, progress: None };
    assert_eq!(progress(running(), at("2026-11-21T11:00:00Z"), at(NOW)), Progress::Runs);
    let late = progress(running(), at("2026-11-21T09:59:59Z"), at(NOW));
    assert!(matches!(late, Progress::Failed { reason, .. } if reason == "DeadlineExceeded"));
    assert_eq!(progress(TaskState::Missing, at("2026-11-21T11:00:00Z"), at(NOW)), Progress::Start);
    assert!(matches!(progress(TaskState::Missing, at("2026-11-21T09:00:00Z"), at(NOW)), Progress::Failed { .. }));
}

fn report(outcome: Ending) -> TaskReport {
    let facts = [
        ("kept", "2"),
        ("deleted", "1"),
        ("freed-size", "4096"),
        ("plan-20261119T020000Z-n-a", "delete: no rule keeps it"),
        ("plan-20261120T020000Z-n-b", "keep: daily (2026-11-20, 2 of 7)"),
        ("plan-20261121T020000Z-n-c", "keep: last (1 of 2), newest verified backup of its cluster"),
    ];
    TaskReport {
        outcome,
        started_at: at(NOW),
        ended_at: at(NOW),
        backup_id: None,
        manifest: None,
        facts: facts.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>(),
        warnings: Vec::new(),
    }
}

#[test]
fn the_plan_and_its_reasons_are_shown_newest_first() {
    let mut shown = RedisScheduledBackupStatus::default();
    assert!(reported(&mut shown, &report(Ending::Done), "", Some(1), at(NOW)));
    let retention = shown.retention.clone().unwrap();
    assert_eq!((retention.kept, retention.deleted, retention.freed_bytes), (Some(2), Some(1), Some(4096)));
    let plan: Vec<(&str, bool, usize)> =
        retention.plan.iter().map(|one| (one.backup_id.as_str(), one.keep, one.reasons.len())).collect();
    assert_eq!(plan[0], ("20261121T020000Z-n-c", true, 2));
    assert_eq!(plan[2], ("20261119T020000Z-n-a", false, 1));
    assert_eq!(retention.plan[1].reasons, ["daily (2026-11-20, 2 of 7)"]);
    let pruned = condition(&shown.conditions, "Pruned").unwrap();
    assert_eq!((pruned.status.as_str(), pruned.message.as_str()), ("True", "kept 2 backups, deleted 1"));
}

#[test]
fn a_run_that_failed_half_way_says_what_it_did() {
    let mut shown = RedisScheduledBackupStatus::default();
    let outcome = Ending::Failed {
        class: redkeep_core::classify::Class::Failed,
        reason: "Storage".into(),
        message: "failed to delete".into(),
        help: None,
        retryable: true,
    };
    assert!(!reported(&mut shown, &report(outcome), "", Some(1), at(NOW)));
    let retention = shown.retention.clone().unwrap();
    assert_eq!((retention.deleted, retention.error.as_deref()), (Some(1), Some("failed to delete")));
    assert_eq!(condition(&shown.conditions, "Pruned").unwrap().reason, "Storage");
}
