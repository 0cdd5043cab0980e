use redkeep_core::schedule::SkipReason;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::redis_scheduled_backup::testing::{child, schedule};
use crate::redis_scheduled_backup::validate::validate;
use crate::settings::Settings;
use redkeep_k8s_api::redis_backup::RedisBackup;

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

fn planned(object: &RedisScheduledBackup, children: &[Value], now: &str, run_now: Option<&str>) -> Plan {
    let valid = validate("shop", "nightly", &object.spec, &Settings::new("i", "n", "o")).unwrap();
    let status = object.status.clone().unwrap_or_default();
    let situation = Situation {
        name: "nightly",
        created: at("2026-11-01T00:00:30Z"),
        spec: &object.spec,
        status: &status,
        run_now,
        children: &known(children),
        now: at(now),
    };
    decide(&valid, &situation, &[])
}

fn ran(until: &str) -> Value {
    json!({
        "observedGeneration": 1, "lastScheduleTime": until,
        "inForce": {"schedule": "0 2 * * *", "timeZone": "UTC", "since": "2026-11-01T00:00:30Z"},
    })
}

fn name_of(plan: &Plan) -> Option<&str> {
    plan.start.as_ref().map(|start| start.name.as_str())
}

#[test]
fn a_new_schedule_makes_good_what_it_missed_since_its_creation_once() {
    let plan = planned(&schedule(json!({}), json!({})), &[], "2026-11-05T12:00:00Z", None);
    assert_eq!(name_of(&plan), Some("nightly-202611050200"));
    assert_eq!(plan.start.unwrap().cause, Cause::Slot { missed: 4 });
    assert_eq!(plan.next, Some(at("2026-11-06T02:00:00Z")));
}

#[rstest]
#[case::the_last_slot_ran("2026-11-20T02:00:00Z", "2026-11-20T12:00:00Z", 0)]
#[case::one_waits_its_turn("2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z", 1)]
#[case::three_were_left_out("2026-11-20T02:00:00Z", "2026-11-23T12:00:00Z", 3)]
#[case::more_say_no_more("2026-11-20T02:00:00Z", "2027-11-20T12:00:00Z", 100)]
#[case::the_clock_went_back("2026-11-20T02:00:00Z", "2026-11-10T12:00:00Z", 0)]
fn slots_since_the_last_run_are_missed(#[case] last: &str, #[case] now: &str, #[case] expected: usize) {
    let object = schedule(json!({}), ran(last));
    let valid = validate("shop", "nightly", &object.spec, &Settings::new("i", "n", "o")).unwrap();
    assert_eq!(missed(&valid, &object.status.unwrap(), at(now)), expected);
}

#[rstest]
#[case::another_time(json!({"schedule": "0 9 * * *"}))]
#[case::another_zone(json!({"timeZone": "Asia/Tokyo"}))]
fn an_edited_schedule_counts_from_its_edit(#[case] change: Value) {
    let plan = planned(&schedule(change, ran("2026-11-20T02:00:00Z")), &[], "2026-11-20T23:30:00Z", None);
    assert_eq!(plan.start, None);
    let since = plan.in_force.unwrap().since.unwrap().0;
    assert_eq!(since, at("2026-11-20T23:30:00Z"));
}

#[test]
fn a_resumed_schedule_counts_from_its_resumption() {
    let suspended =
        planned(&schedule(json!({"suspend": true}), ran("2026-11-10T02:00:00Z")), &[], "2026-11-20T10:00:00Z", None);
    assert_eq!((suspended.state, &suspended.start, &suspended.in_force), (State::Suspended, &None, &None));
    let mut status = ran("2026-11-10T02:00:00Z");
    status["inForce"] = Value::Null;
    let resumed = planned(&schedule(json!({}), status), &[], "2026-11-20T10:00:00Z", None);
    assert_eq!((resumed.start, resumed.next), (None, Some(at("2026-11-21T02:00:00Z"))));
}

#[test]
fn a_run_that_goes_on_is_seen_whether_or_not_the_status_knows_it() {
    let object = schedule(json!({}), ran("2026-11-20T02:00:00Z"));
    let running = child("nightly-202611200200", "2026-11-20T02:00:00Z", None);
    let plan = planned(&object, &[running], "2026-11-21T02:00:00Z", None);
    let slot = at("2026-11-21T02:00:00Z");
    assert_eq!((plan.start, plan.state), (None, State::Skipped { slot, reason: SkipReason::StillRunning }));
    let ended = child("nightly-202611200200", "2026-11-20T02:00:00Z", Some(("failed", "2026-11-21T02:00:00Z")));
    assert_eq!(name_of(&planned(&object, &[ended], "2026-11-21T02:00:00Z", None)), Some("nightly-202611210200"));
}

#[test]
fn a_value_of_the_annotation_makes_one_run_even_when_suspended() {
    let object = schedule(json!({"suspend": true}), ran("2026-11-20T02:00:00Z"));
    let first = planned(&object, &[], "2026-11-21T02:00:00Z", Some("please"));
    let later = planned(&object, &[], "2026-11-21T02:07:00Z", Some("please"));
    assert_eq!(name_of(&first), name_of(&later));
    assert_eq!(name_of(&first).unwrap().len(), "nightly-202611210200".len());
    let mut status = ran("2026-11-20T02:00:00Z");
    status["runNow"] = json!("please");
    assert_eq!(
        planned(&schedule(json!({"suspend": true}), status), &[], "2026-11-21T02:00:00Z", Some("please")).start,
        None
    );
}

#[test]
fn limits_let_go_of_the_oldest_that_ended_and_of_nothing_else() {
    let day = |day: u32, end: Option<&str>| {
        let at = format!("2026-11-{day:02}T02:00:00Z");
        child(&format!("nightly-202611{day:02}0200"), &at, end.map(|end| (end, at.as_str())))
    };
    let children = known(&[
        day(1, None),
        day(2, Some("completed")),
        day(3, Some("failed")),
        day(4, Some("completed")),
        day(5, Some("failed")),
        day(6, Some("completed")),
    ]);
    let names = |keep_successful, keep_failed| -> Vec<String> {
        let gone = beyond_limits(&children, keep_successful, keep_failed);
        gone.into_iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(7, 3), Vec::<String>::new());
    assert_eq!(names(1, 1), ["nightly-202611020200", "nightly-202611040200", "nightly-202611030200"]);
    assert_eq!(names(0, 0).len(), 5, "what runs is not history");
}
