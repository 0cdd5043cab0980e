use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(line: &str, zone: &str) -> Schedule {
    Schedule::parse(line, Some(zone)).unwrap()
}

fn slots(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let slots = schedule(line, zone).slots(at(after), Timestamp::MAX, count);
    slots.times.iter().map(ToString::to_string).collect()
}

#[rstest]
#[case::five_fields("30 2 * * *", &["2026-11-21T02:30:00Z", "2026-11-22T02:30:00Z"])]
#[case::daily("@daily", &["2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"])]
#[case::midnight("@midnight", &["2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"])]
#[case::hourly("@Hourly", &["2026-11-21T01:00:00Z", "2026-11-21T02:00:00Z"])]
#[case::weekly_is_sunday("@weekly", &["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"])]
#[case::monthly("@monthly", &["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"])]
#[case::yearly("@yearly", &["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"])]
#[case::annually("@annually", &["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"])]
#[case::zero_is_sunday("0 0 * * 0", &["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"])]
#[case::seven_is_sunday("0 0 * * 7", &["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"])]
#[case::sunday_by_name("0 0 * * sun", &["2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"])]
#[case::sunday_ends_a_range("0 0 * * FRI-SUN", &["2026-11-22T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"])]
#[case::one_to_seven_is_every_day("0 0 * * 1-7", &["2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"])]
#[case::names_of_months("0 0 1 jan,DEC *", &["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-12-01T00:00:00Z"])]
#[case::day_or_weekday("0 0 25 * MON", &["2026-11-23T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-30T00:00:00Z"])]
#[case::a_stepped_star_is_no_restriction("0 0 */2 * MON", &["2026-11-23T00:00:00Z", "2026-12-07T00:00:00Z", "2026-12-21T00:00:00Z"])]
#[case::a_question_mark_is_a_star("0 0 25 * ?", &["2026-11-25T00:00:00Z", "2026-12-25T00:00:00Z"])]
#[case::steps_in_ranges("10-30/10 4 * * *", &["2026-11-21T04:10:00Z", "2026-11-21T04:20:00Z", "2026-11-21T04:30:00Z", "2026-11-22T04:10:00Z"])]
#[case::leap_day("0 0 29 2 *", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"])]
#[case::the_31st_skips_short_months("0 0 31 * *", &["2026-12-31T00:00:00Z", "2027-01-31T00:00:00Z", "2027-03-31T00:00:00Z"])]
#[case::an_impossible_day_or_a_weekday("0 0 30 2 MON", &["2027-02-01T00:00:00Z", "2027-02-08T00:00:00Z"])]
fn lines_name_slots(#[case] line: &str, #[case] expected: &[&str]) {
    assert_eq!(slots(line, "Etc/UTC", "2026-11-21T00:30:00Z", expected.len()), expected);
}

#[rstest]
#[case::empty("", "five fields")]
#[case::four_fields("0 0 * *", "not 4")]
#[case::seconds("0 0 0 * * *", "not 6")]
#[case::every("@every 1h", "unknown")]
#[case::reboot("@reboot", "unknown")]
#[case::february("0 0 30 2 *", "no year")]
#[case::thirty_first_of_short_months("0 0 31 2,4,6,9,11 *", "no year")]
#[case::minute_60("60 0 * * *", "minute field: a number from 0 to 59")]
#[case::hour_24("0 24 * * *", "hour field")]
#[case::day_0("0 0 0 * *", "day-of-month field: a number from 1 to 31")]
#[case::month_13("0 0 1 13 *", "month field: a number from 1 to 12 is needed, or JAN to DEC")]
#[case::weekday_8("0 0 * * 8", "day-of-week field")]
#[case::a_month_among_weekdays("0 0 * * JAN", "or SUN to SAT")]
#[case::a_weekday_among_days("0 0 MON * *", "day-of-month field")]
#[case::backwards("0 22-2 * * *", "begins with the smaller one")]
#[case::step_zero("*/0 * * * *", "a step is a number from 1 to 59")]
#[case::step_without_range("5/15 * * * *", "a step follows a star or a range")]
#[case::empty_item("1,,2 * * * *", "minute field")]
#[case::signed("+5 * * * *", "minute field")]
#[case::last_day("0 0 L * *", "day-of-month field")]
#[case::nth("0 0 * * 5#2", "day-of-week field")]
#[case::zone_prefix("TZ=UTC 0 0 * * *", "not 6")]
#[case::not_ascii("０ 0 * * *", "minute field")]
fn lines_are_refused(#[case] line: &str, #[case] message: &str) {
    let error = Schedule::parse(line, None).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn a_line_longer_than_any_schedule_is_refused() {
    assert_eq!(Schedule::parse(&"0,".repeat(200), None).unwrap_err(), InvalidSchedule::TooLong);
}

#[rstest]
#[case("Mars/Olympus")]
#[case("Local")]
#[case("+02:00")]
#[case("europe/berlin")]
#[case("")]
#[case("../../etc/passwd")]
fn zones_outside_the_list_are_refused(#[case] zone: &str) {
    assert!(matches!(Schedule::parse("@daily", Some(zone)), Err(InvalidSchedule::TimeZone { .. })));
}

/// The rules for day-light saving, as the documentation has them.
#[rstest]
// Berlin, 29 March 2026: 02:00 to 03:00 does not exist; 03:00 is 01:00Z.
#[case::skipped_time_runs_right_after_the_gap("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"])]
#[case::several_skipped_times_run_once("0,20,40 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"])]
#[case::a_skipped_time_and_one_right_after_are_one("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"])]
#[case::every_two_hours_loses_none_in_the_gap("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"])]
#[case::hourly_runs_real_hours_over_the_gap("30 * * * *", "Europe/Berlin", "2026-03-28T23:45:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"])]
#[case::minutely_runs_every_minute_over_the_gap("* * * * *", "Europe/Berlin", "2026-03-29T00:58:00Z", &["2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:01:00Z"])]
// Berlin, 25 October 2026: 02:00 to 03:00 comes twice, from 00:00Z and from 01:00Z.
#[case::repeated_time_runs_at_the_first("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"])]
#[case::asked_between_both_it_runs_tomorrow("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", &["2026-10-26T01:30:00Z"])]
#[case::every_two_hours_doubles_none_in_the_overlap("0 */2 * * *", "Europe/Berlin", "2026-10-24T21:59:00Z", &["2026-10-24T22:00:00Z", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"])]
#[case::hourly_runs_both_repeated_hours("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"])]
#[case::quarters_run_both_repeated_hours("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"])]
// New York: gap on 8 March 2026 at 07:00Z, overlap on 1 November at 06:00Z.
#[case::new_york_gap("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"])]
#[case::new_york_overlap("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"])]
// Lord Howe moves by half an hour: 02:00 to 02:30 is skipped on 4 October 2026 (15:30Z the day before).
#[case::half_an_hour_gap("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"])]
#[case::half_an_hour_overlap("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"])]
// Beirut and Havana change at midnight: the day begins at 01:00, or twice.
#[case::midnight_in_a_gap("0 0 * * *", "Asia/Beirut", "2026-03-28T00:00:00Z", &["2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"])]
#[case::midnight_in_an_overlap("0 0 * * *", "America/Havana", "2022-11-05T12:00:00Z", &["2022-11-06T04:00:00Z", "2022-11-07T05:00:00Z"])]
// Apia left out the whole of 30 December 2011.
#[case::a_day_that_never_was("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"])]
// Kathmandu has no hours of its own: 15 minutes off.
#[case::odd_offsets("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", &["2026-01-01T18:15:00Z"])]
fn day_light_saving(#[case] line: &str, #[case] zone: &str, #[case] after: &str, #[case] expected: &[&str]) {
    assert_eq!(slots(line, zone, after, expected.len()), expected);
}

#[test]
fn slots_are_bounded_and_say_so() {
    let minutely = schedule("* * * * *", "Etc/UTC");
    let (from, until) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:05:00Z"));
    assert_eq!(minutely.slots(from, until, 3).times.len(), 3);
    assert!(minutely.slots(from, until, 3).more);
    let exact = minutely.slots(from, until, 5);
    assert_eq!((exact.times.len(), exact.more), (5, false));
    assert_eq!(minutely.slots(until, from, 5), Slots { times: vec![], more: false });
    assert_eq!(minutely.next_after(Timestamp::MAX), None);
    assert_eq!(minutely.last_before(Timestamp::MIN), None);
}

#[test]
fn a_child_is_named_after_the_utc_minute_and_fits() {
    let name = child_name(&"a".repeat(39), at("2026-11-21T09:05:59.9Z"));
    assert_eq!(name, format!("{}-202611210905", "a".repeat(39)));
    assert_eq!(name.len(), 52);
    assert_eq!(CHILD_SUFFIX, 13);
}

#[test]
fn jitter_is_the_same_each_time_within_its_span_and_spread() {
    let hour = Duration::from_secs(3600);
    let all: Vec<u64> =
        (0..10_000).map(|number| jitter("default", &format!("nightly-{number}"), hour).as_secs()).collect();
    assert_eq!(all[17], jitter("default", "nightly-17", hour).as_secs());
    assert!(all.iter().all(|delay| *delay <= 3600));
    // Ten minutes hold a sixth: within a tenth of it.
    for bucket in 0..6 {
        let count = all.iter().filter(|delay| **delay / 600 == bucket).count();
        assert!((1500..1834).contains(&count), "{bucket}: {count}");
    }
    assert_eq!(jitter("default", "nightly", Duration::ZERO), Duration::ZERO);
    assert!(jitter("a", "bc", Duration::MAX) != jitter("ab", "c", Duration::MAX));
}

// ---------------------------------------------------------------------------------------------------------------- decide

struct Case {
    rules: Rules,
    observed: Observed,
}

/// A schedule at 02:00 that was made on the first of November and ran last on the twentieth.
fn nightly() -> Case {
    let created = at("2026-11-01T00:00:30Z");
    let observed = Observed {
        name: "nightly".to_owned(),
        created,
        since: created,
        last_slot: Some(at("2026-11-20T02:00:00Z")),
        active: vec![],
    };
    Case { rules: Rules::default(), observed }
}

impl Case {
    fn decide(&self, now: &str) -> Decision {
        decide(&schedule("0 2 * * *", "Etc/UTC"), &self.rules, &self.observed, at(now))
    }

    fn running(mut self, name: &str) -> Self {
        self.observed.active.push(Run { name: name.to_owned() });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut self.rules);
        self
    }

    fn seen(mut self, change: impl FnOnce(&mut Observed)) -> Self {
        change(&mut self.observed);
        self
    }
}

fn fire(slot: &str, missed: usize, next: &str) -> Decision {
    let slot = at(slot);
    let name = child_name("nightly", slot);
    Decision::Fire(Fire { slot, name, replace: vec![], missed, next: Some(at(next)) })
}

fn wait(until: &str) -> Decision {
    Decision::Wait { until: Some(at(until)) }
}

#[rstest]
#[case::before_its_time(nightly(), "2026-11-21T01:59:59Z", wait("2026-11-21T02:00:00Z"))]
#[case::on_time(nightly(), "2026-11-21T02:00:00Z", fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"))]
#[case::a_little_late(nightly(), "2026-11-21T02:00:09Z", fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"))]
#[case::after_downtime_once(nightly(), "2026-11-25T11:00:00Z", fire("2026-11-25T02:00:00Z", 4, "2026-11-26T02:00:00Z"))]
#[case::a_new_one_waits_for_its_first_slot(nightly().seen(|seen| (seen.last_slot, seen.created, seen.since) = (None, at("2026-11-21T09:00:00Z"), at("2026-11-21T09:00:00Z"))), "2026-11-21T09:00:01Z", wait("2026-11-22T02:00:00Z"))]
#[case::an_edited_one_does_not_run_what_was_before(nightly().seen(|seen| seen.since = at("2026-11-21T10:00:00Z")), "2026-11-21T10:00:00Z", wait("2026-11-22T02:00:00Z"))]
#[case::suspended(nightly().with(|rules| rules.suspended = true), "2026-11-25T11:00:00Z", Decision::Suspended)]
#[case::the_clock_went_back_five_minutes(nightly(), "2026-11-20T01:57:00Z", wait("2026-11-21T02:00:00Z"))]
#[case::the_clock_was_years_ahead(nightly().seen(|seen| seen.last_slot = Some(at("2030-01-01T02:00:00Z"))), "2026-11-21T12:00:00Z", fire("2026-11-21T02:00:00Z", 20, "2026-11-22T02:00:00Z"))]
#[case::it_was_edited_when_the_clock_was_ahead(nightly().seen(|seen| seen.since = at("2030-01-01T02:00:00Z")), "2026-11-21T02:00:00Z", fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"))]
fn decisions(#[case] case: Case, #[case] now: &str, #[case] expected: Decision) {
    assert_eq!(case.decide(now), expected);
}

#[test]
fn jitter_moves_every_start_and_no_slot() {
    let case = nightly().with(|rules| rules.jitter = Duration::from_secs(600));
    assert_eq!(case.decide("2026-11-21T02:09:59Z"), wait("2026-11-21T02:10:00Z"));
    assert_eq!(case.decide("2026-11-21T02:10:00Z"), fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:10:00Z"));
}

#[test]
fn a_slot_later_than_its_deadline_is_left_out() {
    let case = nightly().with(|rules| {
        rules.starting_deadline = Some(Duration::from_secs(60));
        rules.jitter = Duration::from_secs(600);
    });
    let (slot, next) = (at("2026-11-21T02:00:00Z"), Some(at("2026-11-22T02:10:00Z")));
    assert_eq!(case.decide("2026-11-21T02:11:00Z"), fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:10:00Z"));
    let skip = Decision::Skip { slot, reason: SkipReason::StartingDeadlineExceeded, next };
    assert_eq!(case.decide("2026-11-21T02:11:01Z"), skip);
}

#[test]
fn forbid_waits_for_the_run_before_and_then_starts_late() {
    let slot = at("2026-11-21T02:00:00Z");
    let next = Some(at("2026-11-22T02:00:00Z"));
    let busy = nightly().running("nightly-202611200200");
    assert_eq!(busy.decide("2026-11-21T03:00:00Z"), Decision::Skip { slot, reason: SkipReason::StillRunning, next });
    assert_eq!(nightly().decide("2026-11-21T03:00:00Z"), fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"));
}

#[test]
fn a_run_of_the_slot_itself_is_found_again() {
    let own = nightly().running("nightly-202611210200");
    assert_eq!(own.decide("2026-11-21T02:00:05Z"), fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"));
}

#[test]
fn allow_runs_both_and_replace_stops_the_old_one() {
    let allow = nightly().running("nightly-202611200200").with(|rules| rules.concurrency = Concurrency::Allow);
    assert_eq!(allow.decide("2026-11-21T02:00:00Z"), fire("2026-11-21T02:00:00Z", 0, "2026-11-22T02:00:00Z"));
    let replace = nightly().running("nightly-202611200200").with(|rules| rules.concurrency = Concurrency::Replace);
    let Decision::Fire(fire) = replace.decide("2026-11-21T02:00:00Z") else { panic!("fires") };
    assert_eq!(fire.replace, ["nightly-202611200200"]);
}

#[test]
fn immediate_runs_once_after_creation_and_never_beside_a_slot() {
    let new = nightly().with(|rules| rules.immediate = true).seen(|seen| seen.last_slot = None);
    let first = fire("2026-11-01T00:00:00Z", 0, "2026-11-01T02:00:00Z");
    assert_eq!(new.decide("2026-11-01T00:00:31Z"), first);
    let ran =
        nightly().with(|rules| rules.immediate = true).seen(|seen| seen.last_slot = Some(at("2026-11-01T00:00:00Z")));
    assert_eq!(ran.decide("2026-11-01T00:00:32Z"), wait("2026-11-01T02:00:00Z"));
    // The operator was not there: one run, that of the slot that came meanwhile.
    assert_eq!(new.decide("2026-11-02T12:00:00Z"), fire("2026-11-02T02:00:00Z", 1, "2026-11-03T02:00:00Z"));
    let late = nightly()
        .with(|rules| (rules.immediate, rules.starting_deadline) = (true, Some(Duration::from_secs(10))))
        .seen(|seen| seen.last_slot = None);
    assert_eq!(late.decide("2026-11-02T12:00:00Z"), fire("2026-11-01T00:00:00Z", 0, "2026-11-03T02:00:00Z"));
}

#[test]
fn a_minutely_schedule_after_years_counts_no_further_than_a_hundred() {
    let observed = nightly().observed;
    let minutely = schedule("* * * * *", "Etc/UTC");
    let decision = decide(&minutely, &Rules::default(), &observed, at("2036-11-21T02:00:00Z"));
    assert!(matches!(decision, Decision::Fire(Fire { missed: 100, .. })), "{decision:?}");
}

// ----------------------------------------------------------------------------------------------------------------- model

/// Written apart from the code: minute by minute over local time, sets by brute force.
struct Model {
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
    days: BTreeSet<i8>,
    months: BTreeSet<i8>,
    weekdays: BTreeSet<i8>,
    either: bool,
}

fn set(field: &str, first: i8, last: i8) -> BTreeSet<i8> {
    let item = |item: &str| {
        let (range, step) =
            item.split_once('/').map_or((item, 1), |(range, step)| (range, step.parse::<usize>().unwrap()));
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (first, last),
            Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        (from..=to).step_by(step).collect::<Vec<i8>>()
    };
    field.split(',').flat_map(item).collect()
}

impl Model {
    fn new(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        Self {
            minutes: set(fields[0], 0, 59),
            hours: set(fields[1], 0, 23),
            days: set(fields[2], 1, 31),
            months: set(fields[3], 1, 12),
            weekdays: set(fields[4], 0, 7).into_iter().map(|day| day % 7).collect(),
            either: !fields[2].starts_with('*') && !fields[4].starts_with('*'),
        }
    }

    fn matches(&self, local: DateTime) -> bool {
        let day = self.days.contains(&local.day());
        let weekday = self.weekdays.contains(&local.weekday().to_sunday_zero_offset());
        self.minutes.contains(&local.minute())
            && self.hours.contains(&local.hour())
            && self.months.contains(&local.month())
            && if self.either { day || weekday } else { day && weekday }
    }

    /// Every slot after `from`, for some days: walks real minutes and notes which local minutes have been shown.
    fn slots(&self, zone: &TimeZone, from: Timestamp, days: i64) -> Vec<Timestamp> {
        let minute = |number: i64| Timestamp::from_second((from.as_second().div_euclid(60) + number) * 60).unwrap();
        let hourly = self.hours.len() == 24;
        let mut slots = BTreeSet::new();
        // What was shown before `from` counts as shown: begin two days earlier.
        let mut shown_up_to = zone.to_datetime(minute(-2881));
        for number in -2880..days * 1440 {
            let now = minute(number);
            let local = zone.to_datetime(now);
            if hourly {
                if self.matches(local) {
                    slots.insert(now);
                }
            } else {
                // All local minutes that this real minute is the first to reach, whether the clock showed them or not.
                let mut reached = shown_up_to;
                while reached < local {
                    reached = reached.checked_add(jiff::Span::new().minutes(1)).unwrap();
                    if self.matches(reached) {
                        slots.insert(now);
                    }
                }
                shown_up_to = shown_up_to.max(local);
            }
        }
        slots.into_iter().filter(|slot| *slot > from).collect()
    }
}

fn number_field(first: u8, last: u8) -> impl Strategy<Value = String> {
    let item = prop_oneof![
        (first..=last).prop_map(|number| number.to_string()),
        (first..=last, first..=last).prop_map(|(one, other)| format!("{}-{}", one.min(other), one.max(other))),
        (first..=last, first..=last, 1..=(last - first)).prop_map(|(one, other, step)| format!(
            "{}-{}/{step}",
            one.min(other),
            one.max(other)
        )),
        (1..=(last - first)).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![2 => Just("*".to_owned()), 3 => proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))]
}

const ZONES: [&str; 9] = [
    "Etc/UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "America/St_Johns",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn slots_are_what_the_model_says(
        fields in (number_field(0, 59), number_field(0, 23), number_field(1, 31), number_field(1, 12), number_field(0, 7)),
        zone in 0..ZONES.len(),
        // Near a change of the clock in half of the cases.
        second in 1_262_304_000_i64..2_208_988_800,
        near_change in any::<bool>(),
    ) {
        let line = format!("{} {} {} {} {}", fields.0, fields.1, fields.2, fields.3, fields.4);
        let Ok(schedule) = Schedule::parse(&line, Some(ZONES[zone])) else {
            let possible = (0..366).any(|day| {
                let date = jiff::civil::date(2028, 1, 1).checked_add(jiff::Span::new().days(day)).unwrap();
                let model = Model::new(&line);
                model.months.contains(&date.month()) && (model.either || model.days.contains(&date.day()))
            });
            prop_assert!(!possible, "refused: {}", line);
            return Ok(());
        };
        let zone = zone::find(ZONES[zone]).unwrap();
        let mut from = Timestamp::from_second(second).unwrap();
        if near_change && let Some(change) = zone.following(from).next() {
            from = change.timestamp().checked_sub(SignedDuration::from_secs(second % 200_000)).unwrap();
        }
        let days = 4;
        let expected = Model::new(&line).slots(&zone, from, days);
        let until = Timestamp::from_second((from.as_second().div_euclid(60) + days * 1440 - 1) * 60).unwrap();
        let found = schedule.slots(from, until, 10_000);
        prop_assert_eq!(&found.times, &expected, "{} from {}", line, from);
        // Backwards the same, from a time between, on and after slots.
        for pair in expected.windows(2).take(50) {
            prop_assert_eq!(schedule.last_before(pair[1]), Some(pair[0]), "{} before {}", line, pair[1]);
            prop_assert_eq!(schedule.last_at_or_before(pair[0]), Some(pair[0]));
            let between = pair[0].checked_add(SignedDuration::from_millis(30_500)).unwrap();
            prop_assert_eq!(schedule.last_at_or_before(between), Some(pair[0]), "{} at {}", line, between);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(line in "[-0-9*/,@?A-Za-z \u{e9}]{0,40}") {
        let _ = Schedule::parse(&line, None);
    }
}
