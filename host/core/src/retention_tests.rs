//! Tables, and a model: the same rules written once more in the most naive way.

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::catalog::VerificationSummary;
use crate::task::VerifyLevel;

fn entry(started: &str) -> CatalogEntry {
    entry_at(started.parse().unwrap(), 0)
}

fn entry_at(started_at: Timestamp, uid: usize) -> CatalogEntry {
    CatalogEntry {
        backup_id: crate::identifier::BackupId::new(started_at, "cache", &format!("u{uid:05}")).unwrap(),
        name: "cache".to_owned(),
        namespace: "default".parse().unwrap(),
        cluster: "cache".parse().unwrap(),
        origin: "host:a".to_owned(),
        started_at,
        completed_at: started_at,
        method: "redis-rdb".to_owned(),
        artifact_types: vec!["rdb".to_owned()],
        size: 10,
        stored_size: 5,
        shards: 1,
        keys: Some(1),
        encrypted: false,
        attempt: "a1".parse().unwrap(),
        objects: 1,
        pinned: false,
        verified: None,
    }
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn verified(mut entry: CatalogEntry, ok: bool) -> CatalogEntry {
    entry.verified = Some(VerificationSummary { time: now(), level: VerifyLevel::Parse, ok });
    entry
}

fn rules(text: &str) -> KeepRules {
    let mut rules = KeepRules::default();
    for (key, count) in text.split_whitespace().filter_map(|pair| pair.split_once('=')) {
        let count: u32 = count.parse().unwrap();
        match key {
            "last" => rules.last = Some(count),
            "hourly" => rules.hourly = Some(count),
            "daily" => rules.daily = Some(count),
            "weekly" => rules.weekly = Some(count),
            "monthly" => rules.monthly = Some(count),
            "yearly" => rules.yearly = Some(count),
            "within" => rules.within_seconds = Some(u64::from(count)),
            other => panic!("{other}"),
        }
    }
    rules
}

fn kept(entries: &[CatalogEntry], rules: &KeepRules) -> Vec<String> {
    plan(entries, rules, None, now())
        .into_iter()
        .filter(|decision| decision.keep)
        .map(|decision| decision.started_at.to_string())
        .collect()
}

#[rstest]
#[case::no_rules_keep_all("", &["2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z"], &["2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z"])]
#[case::last("last=2", &["2026-11-18T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z"], &["2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z"])]
#[case::of_an_hour_the_newest("hourly=2", &["2026-11-20T10:59:59Z", "2026-11-20T10:00:00Z", "2026-11-20T09:30:00Z", "2026-11-20T08:30:00Z"], &["2026-11-20T10:59:59Z", "2026-11-20T09:30:00Z"])]
#[case::days_without_backups_do_not_count("daily=2", &["2026-11-20T00:00:00Z", "2026-10-01T00:00:00Z", "2026-09-01T00:00:00Z"], &["2026-11-20T00:00:00Z", "2026-10-01T00:00:00Z"])]
#[case::a_day_ends_at_midnight_utc("daily=2", &["2026-11-20T00:00:00Z", "2026-11-19T23:59:59Z", "2026-11-19T00:00:00Z"], &["2026-11-20T00:00:00Z", "2026-11-19T23:59:59Z"])]
#[case::a_week_begins_on_monday("weekly=2", &["2026-11-16T00:00:00Z", "2026-11-15T23:00:00Z", "2026-11-09T00:00:00Z"], &["2026-11-16T00:00:00Z", "2026-11-15T23:00:00Z"])]
#[case::one_iso_week_spans_the_turn_of_the_year("weekly=2", &["2027-01-03T00:00:00Z", "2026-12-28T00:00:00Z", "2026-12-27T00:00:00Z"], &["2027-01-03T00:00:00Z", "2026-12-27T00:00:00Z"])]
#[case::months_and_years("monthly=2 yearly=2", &["2026-11-20T00:00:00Z", "2026-10-20T00:00:00Z", "2026-09-20T00:00:00Z", "2025-12-31T00:00:00Z", "2025-01-01T00:00:00Z"], &["2026-11-20T00:00:00Z", "2026-10-20T00:00:00Z", "2025-12-31T00:00:00Z"])]
#[case::within_includes_its_edge("within=3600", &["2026-11-21T12:30:00Z", "2026-11-21T11:00:00Z", "2026-11-21T10:59:59Z"], &["2026-11-21T12:30:00Z", "2026-11-21T11:00:00Z"])]
#[case::the_newest_stays_even_with_zero("last=0", &["2026-11-20T00:00:00Z", "2026-11-19T00:00:00Z"], &["2026-11-20T00:00:00Z"])]
#[case::within_longer_than_time("within=4294967295", &["1999-11-20T00:00:00Z", "2026-11-19T00:00:00Z"], &["2026-11-19T00:00:00Z", "1999-11-20T00:00:00Z"])]
fn rules_keep(#[case] text: &str, #[case] starts: &[&str], #[case] expected: &[&str]) {
    let entries: Vec<CatalogEntry> = starts.iter().map(|start| entry(start)).collect();
    assert_eq!(kept(&entries, &rules(text)), expected);
}

#[test]
fn the_newest_verified_is_the_floor_and_a_failed_verification_is_not() {
    let newest = verified(entry("2026-11-20T00:00:00Z"), false);
    let middle = entry("2026-11-19T00:00:00Z");
    let oldest = verified(entry("2026-11-18T00:00:00Z"), true);
    let zero = rules("last=0");
    assert_eq!(kept(&[newest.clone(), middle.clone(), oldest], &zero), ["2026-11-18T00:00:00Z"]);
    assert_eq!(kept(&[newest.clone(), middle], &zero), ["2026-11-19T00:00:00Z"]);
    assert_eq!(kept(&[newest], &zero), ["2026-11-20T00:00:00Z"]);
}

#[test]
fn pinned_and_foreign_backups_stay_and_foreign_ones_do_not_count() {
    let mut pinned = entry("2026-11-10T00:00:00Z");
    pinned.pinned = true;
    let mut foreign = entry("2026-11-20T00:00:00Z");
    foreign.origin = "host:b".to_owned();
    let entries = [foreign, entry("2026-11-19T00:00:00Z"), entry("2026-11-18T00:00:00Z"), pinned];
    let decisions = plan(&entries, &rules("last=1"), Some("host:a"), now());
    let summary: Vec<(bool, String)> = decisions
        .iter()
        .map(|decision| {
            let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            (decision.keep, reasons.join("; "))
        })
        .collect();
    let expected = [
        (true, "made by another origin (host:b)"),
        (true, "last (1 of 1); newest backup of its cluster"),
        (false, "no rule keeps it"),
        (true, "pinned"),
    ];
    assert_eq!(summary, expected.map(|(keep, reasons)| (keep, reasons.to_owned())));
}

#[test]
fn clusters_are_decided_each_for_itself() {
    let mut other = entry("2020-01-01T00:00:00Z");
    other.cluster = "other".parse().unwrap();
    let entries = [entry("2026-11-20T00:00:00Z"), entry("2026-11-19T00:00:00Z"), other];
    let keeps: Vec<bool> =
        plan(&entries, &rules("last=1"), None, now()).into_iter().map(|decision| decision.keep).collect();
    assert_eq!(keeps, [true, false, true]);
}

#[test]
fn a_backup_known_to_be_damaged_takes_no_place_of_a_good_one() {
    let good = [entry("2026-11-18T00:00:00Z"), entry("2026-11-17T00:00:00Z")];
    let bad = [verified(entry("2026-11-20T00:00:00Z"), false), verified(entry("2026-11-19T00:00:00Z"), false)];
    let all = [bad[0].clone(), bad[1].clone(), good[0].clone(), good[1].clone()];
    assert_eq!(kept(&all, &rules("last=2")), ["2026-11-18T00:00:00Z", "2026-11-17T00:00:00Z"]);
}

/// The model: an entry is kept by a span's rule when fewer than N spans that have a backup are newer than its own, and no
/// backup of its own span is newer.
fn naive_keeps(entries: &[CatalogEntry], index: usize, rules: &KeepRules, now: Timestamp) -> bool {
    let entry = &entries[index];
    let key = |entry: &CatalogEntry| (entry.started_at, entry.backup_id.clone());
    let newer = |other: &&CatalogEntry| key(other) > key(entry);
    let known_bad = |entry: &CatalogEntry| entry.verified.as_ref().is_some_and(|result| !result.ok);
    let counted: Vec<CatalogEntry> = entries.iter().filter(|entry| !known_bad(entry)).cloned().collect();
    let seconds = |span: Span, time: Timestamp| {
        let zoned = time.to_zoned(TimeZone::UTC);
        let date = zoned.date();
        match span {
            Span::Hourly => time.as_second().div_euclid(3600),
            Span::Daily => time.as_second().div_euclid(86_400),
            // 1970-01-01 was a Thursday: three days later a week begins.
            Span::Weekly => (time.as_second() + 3 * 86_400).div_euclid(7 * 86_400),
            Span::Monthly => i64::from(date.year()) * 12 + i64::from(date.month()),
            Span::Yearly => i64::from(date.year()),
        }
    };
    let counts = [rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly];
    let by_span = Span::ALL.into_iter().zip(counts).any(|(span, count)| {
        let own = seconds(span, entry.started_at);
        let newer_spans: BTreeSet<i64> =
            counted.iter().map(|other| seconds(span, other.started_at)).filter(|other| *other > own).collect();
        let newest_of_own = !counted.iter().filter(newer).any(|other| seconds(span, other.started_at) == own);
        newest_of_own && (newer_spans.len() as u64) < u64::from(count.unwrap_or(0))
    });
    let by_last = (counted.iter().filter(newer).count() as u64) < u64::from(rules.last.unwrap_or(0));
    let by_age = rules.within_seconds.is_some_and(|within| {
        i128::from(now.as_second()) - i128::from(entry.started_at.as_second()) <= i128::from(within)
    });
    let is_newest = |wanted: &dyn Fn(&CatalogEntry) -> bool| wanted(entry) && !entries.iter().filter(newer).any(wanted);
    let ok = |entry: &CatalogEntry| entry.verified.as_ref().is_some_and(|result| result.ok);
    let bad = |entry: &CatalogEntry| entry.verified.as_ref().is_some_and(|result| !result.ok);
    let by_floor = if entries.iter().any(ok) {
        is_newest(&ok)
    } else if entries.iter().all(bad) {
        is_newest(&|_| true)
    } else {
        is_newest(&|entry| !bad(entry))
    };
    let by_rule = !known_bad(entry) && (by_span || by_last);
    rules.is_empty() || entry.pinned || by_rule || by_age || by_floor
}

proptest! {
    #[test]
    fn the_plan_is_what_the_model_says(
        backups in proptest::collection::vec((0_i64..40_000_000, any::<bool>(), 0_u8..6), 0..40),
        counts in proptest::collection::vec(proptest::option::of(0_u32..5), 6),
        within in proptest::option::of(0_u64..20_000_000),
    ) {
        let now = now();
        let entries: Vec<CatalogEntry> = backups.iter().enumerate().map(|(uid, (age, coarse, state))| {
            // Half of them fall on whole hours, where the borders are.
            let age = if *coarse { age / 3600 * 3600 } else { *age };
            let mut entry = entry_at(Timestamp::from_second(now.as_second() - age).unwrap(), uid);
            entry.pinned = *state == 0;
            match state { 1 => verified(entry, true), 2 | 3 => verified(entry, false), _ => entry }
        }).collect();
        let rules = KeepRules {
            last: counts[0], hourly: counts[1], daily: counts[2], weekly: counts[3], monthly: counts[4], yearly: counts[5],
            within_seconds: within,
        };
        let decisions = plan(&entries, &rules, None, now);
        prop_assert_eq!(decisions.len(), entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let decision = decisions.iter().find(|decision| decision.backup.backup_id == entry.backup_id).unwrap();
            prop_assert_eq!(decision.keep, naive_keeps(&entries, index, &rules, now), "{}", entry.backup_id);
            prop_assert!(!decision.reasons.is_empty());
        }
        if !entries.is_empty() {
            prop_assert!(decisions.iter().any(|decision| decision.keep), "a cluster never loses its last backup");
        }
    }
}
