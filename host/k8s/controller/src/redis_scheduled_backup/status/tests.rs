use redkeep_k8s_api::redis_backup::RedisBackup;
use serde_json::Value;

use super::*;
use crate::apply::{condition, same_ignoring_times};
use crate::redis_scheduled_backup::testing::child;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn known(children: &[Value]) -> BTreeMap<String, Child> {
    let of = |value: &Value| {
        let backup: RedisBackup = serde_json::from_value(value.clone()).unwrap();
        (value["metadata"]["name"].as_str().unwrap().to_owned(), Child::of(&backup))
    };
    children.iter().map(of).collect()
}

fn ended(day: u32, end: &str) -> Value {
    let at = format!("2026-11-{day:02}T02:00:00Z");
    child(&format!("nightly-202611{day:02}0200"), &at, Some((end, &at)))
}

fn plan() -> Plan {
    Plan { start: None, state: State::Scheduled, next: Some(at("2026-11-22T02:00:00Z")), in_force: None }
}

fn next(previous: &RedisScheduledBackupStatus, children: &[Value]) -> RedisScheduledBackupStatus {
    let children = known(children);
    let facts = Facts { generation: Some(3), cluster: "carts", children: &children, now: at("2026-11-21T12:00:00Z") };
    facts.followed(previous, &plan(), std::time::Duration::from_secs(192), None, None)
}

#[test]
fn the_last_success_outlives_its_object() {
    let first = next(&RedisScheduledBackupStatus::default(), &[ended(20, "completed"), ended(19, "completed")]);
    assert_eq!(first.last_successful_backup.as_deref(), Some("nightly-202611200200"));
    let later = next(&first, &[]);
    assert_eq!(later.last_successful_time, first.last_successful_time);
    assert_eq!(later.last_successful_backup, first.last_successful_backup);
    let older_only = next(&first, &[ended(18, "completed")]);
    assert_eq!(older_only.last_successful_backup, first.last_successful_backup);
}

#[test]
fn failures_in_a_row_count_from_the_last_success_and_survive_the_limit() {
    let mut previous = next(
        &RedisScheduledBackupStatus::default(),
        &[ended(17, "completed"), ended(18, "failed"), ended(19, "failed")],
    );
    assert_eq!(
        (previous.failures_in_row, previous.last_failed_backup.as_deref()),
        (Some(2), Some("nightly-202611190200"))
    );
    previous = next(&previous, &[ended(19, "failed")]);
    assert_eq!(previous.failures_in_row, Some(2));
    previous = next(&previous, &[ended(19, "failed"), ended(20, "completed")]);
    assert_eq!(previous.failures_in_row, None);
}

#[test]
fn nothing_new_is_the_same_status() {
    let first = next(&RedisScheduledBackupStatus::default(), &[ended(20, "completed")]);
    let again = next(&first, &[ended(20, "completed")]);
    let value = |status: &RedisScheduledBackupStatus| serde_json::to_value(status).unwrap();
    assert!(same_ignoring_times(&value(&first), &value(&again)));
    assert_eq!((first.jitter.as_deref(), first.observed_generation), (Some("3m12s"), Some(3)));
}

#[test]
fn a_run_that_was_begun_is_written_down_before_the_watch_shows_it() {
    let children = known(&[]);
    let facts = Facts { generation: None, cluster: "carts", children: &children, now: at("2026-11-21T02:00:01Z") };
    let start = Start {
        name: "nightly-202611210200".into(),
        slot: at("2026-11-21T02:00:00Z"),
        cause: Cause::Slot { missed: 0 },
        replace: Vec::new(),
    };
    let previous = RedisScheduledBackupStatus::default();
    let next = facts.followed(&previous, &plan(), std::time::Duration::ZERO, None, Some((&start, Some("u"))));
    assert_eq!(next.last_schedule_time, Some(Time(start.slot)));
    assert_eq!(next.active.iter().map(|active| active.name.as_str()).collect::<Vec<_>>(), ["nightly-202611210200"]);
    let foreign = facts.followed(&previous, &plan(), std::time::Duration::ZERO, None, Some((&start, None)));
    assert_eq!((foreign.last_schedule_time, foreign.active), (Some(Time(start.slot)), vec![]));
}

#[test]
fn failures_are_counted_though_the_history_keeps_none() {
    let mut status = next(&RedisScheduledBackupStatus::default(), &[ended(18, "completed")]);
    for (day, failures) in [(19, 1), (20, 2)] {
        status = next(&status, &[ended(day, "failed")]);
        assert_eq!(status.failures_in_row, Some(failures));
        status = next(&status, &[]);
    }
    assert_eq!(next(&status, &[ended(21, "completed")]).failures_in_row, None);
}

#[test]
fn a_schedule_that_cannot_verify_is_accepted_and_says_what_it_does_not_do() {
    let children = known(&[]);
    let facts = Facts { generation: Some(4), cluster: "carts", children: &children, now: at("2026-11-21T12:00:00Z") };
    let next = facts.followed(
        &RedisScheduledBackupStatus::default(),
        &plan(),
        std::time::Duration::ZERO,
        Some("spec.verification.image: valkey:9 is not on the operator's list"),
        None,
    );
    let accepted = condition(&next.conditions, ACCEPTED).unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("True", reasons::VERIFICATION_NOT_POSSIBLE));
    assert!(accepted.message.ends_with("valkey:9 is not on the operator's list"), "{}", accepted.message);
}

#[test]
fn a_refused_spec_says_why_and_forgets_no_success() {
    let good = next(&RedisScheduledBackupStatus::default(), &[ended(20, "completed")]);
    let children = known(&[]);
    let facts = Facts { generation: Some(4), cluster: "carts", children: &children, now: at("2026-11-21T12:00:00Z") };
    let refused = facts.refused(&good, &Unresolved::invalid("spec.schedule", "no year has it"));
    let accepted = condition(&refused.conditions, ACCEPTED).unwrap();
    assert_eq!((accepted.status.as_str(), accepted.message.as_str()), ("False", "spec.schedule: no year has it"));
    assert_eq!(refused.last_successful_time, good.last_successful_time);
    assert_eq!(refused.next_schedule_time, None);
}
