use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::apply::condition;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn status(value: Value) -> RedisScheduledBackupStatus {
    serde_json::from_value(value).unwrap()
}

const NOW: &str = "2026-11-21T12:00:00Z";
const SINCE: &str = "2026-11-01T00:00:00Z";

fn ended_at(started: &str) -> Value {
    json!({"phase": "Completed", "level": "parse", "startedAt": started, "completedAt": started})
}

#[rstest]
#[case::nothing_is_stored_yet(json!({}), Due::Idle(Some(at("2026-11-22T04:00:00Z"))))]
#[case::a_slot_missed_is_made_good(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z"}), Due::Begin)]
#[case::its_slot_came(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "verification": ended_at("2026-11-20T04:00:02Z")}), Due::Begin)]
#[case::not_twice_for_one(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "verification": ended_at("2026-11-21T04:00:02Z")}), Due::Idle(Some(at("2026-11-22T04:00:00Z"))))]
#[case::while_it_runs(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "verification": {"phase": "Running", "level": "parse", "startedAt": "2026-11-20T04:00:02Z"}}), Due::Watch(at("2026-11-20T04:00:02Z")))]
#[case::the_clock_was_wrong(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z", "verification": ended_at("2031-01-01T04:00:02Z")}), Due::Begin)]
fn verification_is_due(#[case] known: Value, #[case] expected: Due) {
    let schedule = Schedule::parse("0 4 * * *", None).unwrap();
    assert_eq!(due(Some(&schedule), &status(known), at(SINCE), at(NOW)), expected);
}

#[test]
fn without_a_schedule_nothing_begins_and_slots_from_before_are_nobodys() {
    let known = status(json!({"lastSuccessfulTime": "2026-11-21T02:00:00Z"}));
    assert_eq!(due(None, &known, at(SINCE), at(NOW)), Due::Idle(None));
    let schedule = Schedule::parse("0 4 * * *", None).unwrap();
    let since = at("2026-11-21T04:00:00Z");
    assert_eq!(due(Some(&schedule), &known, since, at(NOW)), Due::Idle(Some(at("2026-11-22T04:00:00Z"))));
}

#[test]
fn two_runs_of_one_minute_have_tasks_of_their_own_whose_names_fit() {
    let name = "n".repeat(redkeep_k8s_api::labels::MAX_SCHEDULE_NAME);
    let mut schedule = RedisScheduledBackup::new(&name, crate::redis_scheduled_backup::testing::spec(json!({})));
    schedule.metadata.uid = Some("0f8e9c1d".to_owned());
    let names = ["2026-11-21T04:00:02Z", "2026-11-21T04:00:41Z"].map(|started| key(&schedule, at(started)).name);
    assert!(names[0] != names[1] && names.iter().all(|task| task.len() <= 63), "{names:?}");
    assert!(names[0].ends_with(&format!("-{}-0f8e9-verify", at("2026-11-21T04:00:02Z").as_second())), "{names:?}");
}

#[test]
fn a_run_that_does_not_end_is_given_up() {
    let hour = Duration::from_hours(1);
    let running = TaskState::Running { pod: None, progress: None };
    let stand = |task: &TaskState, phase, started: &str| progress(task, phase, at(started), hour, at(NOW));
    assert_eq!(stand(&running, Phase::Running, "2026-11-21T11:00:00Z"), Progress::Runs);
    let late = stand(&running, Phase::Running, "2026-11-21T10:29:59Z");
    assert!(matches!(late, Progress::Ended(Verdict::Unknown { reason, .. }, None) if reason == "DeadlineExceeded"));
    assert_eq!(stand(&TaskState::Missing, Phase::Pending, "2026-11-21T11:00:00Z"), Progress::Start);
    let gone = stand(&TaskState::Missing, Phase::Running, "2026-11-21T11:00:00Z");
    assert!(matches!(gone, Progress::Ended(Verdict::Unknown { reason, .. }, None) if reason == "JobVanished"));
}

#[test]
fn a_damaged_backup_is_named_and_said() {
    let mut shown = RedisScheduledBackupStatus::default();
    begun(&mut shown, VerificationLevel::Parse, at("2026-11-21T11:00:00Z"));
    let verdict = Verdict::Bad { reason: "DigestMismatch".into(), message: "dump.rdb was changed".into() };
    ended(&mut shown, &verdict, Some("20261121T020000Z-n-a".into()), Some(1), at(NOW));
    let verification = shown.verification.clone().unwrap();
    assert_eq!((verification.phase, verification.backup_id.as_deref()), (Phase::Failed, Some("20261121T020000Z-n-a")));
    let verified = condition(&shown.conditions, "Verified").unwrap();
    assert_eq!((verified.status.as_str(), verified.reason.as_str()), ("False", "DigestMismatch"));
    begun(&mut shown, VerificationLevel::Parse, at(NOW));
    assert_eq!(shown.verification.clone().unwrap().message, None, "a new run has no message yet");
    assert_eq!(condition(&shown.conditions, "Verified").unwrap().status, "False", "until it has ended");
}
