//! Tables of what users type.

use rstest::rstest;

use super::*;
use crate::Classify;

fn backup(cluster: &str, id: &str) -> BackupRef {
    BackupRef {
        namespace: "default".parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        backup_id: id.parse().unwrap(),
    }
}

fn backups() -> Vec<BackupRef> {
    vec![
        backup("cache", "20261121T091348Z-cache-x7k2p"),
        backup("cache", "20261120T091348Z-before-upgrade-aaaaa"),
        backup("cache", "20261119T091348Z-cache-bbbbb"),
    ]
}

fn selector(text: &str, cluster: Option<&str>) -> BackupSelector {
    BackupSelector {
        backup: text.to_owned(),
        cluster: cluster.map(|cluster| cluster.parse().unwrap()),
        namespace: None,
        before: None,
        origin: None,
    }
}

fn ids<'a>(backups: &[&'a BackupRef]) -> Vec<&'a str> {
    backups.iter().map(|backup| backup.backup_id.as_str()).collect()
}

#[test]
fn latest_of_backups_begun_in_one_second_is_left_to_their_manifests() {
    let mut backups = backups();
    backups.push(backup("cache", "20261121T091348Z-aaa-00000"));
    let latest = select(&backups, &selector("latest", None)).unwrap();
    assert_eq!(ids(&latest), ["20261121T091348Z-cache-x7k2p", "20261121T091348Z-aaa-00000"]);
}

fn entry(cluster: &str, id: &str, ended: &str) -> CatalogEntry {
    let backup = backup(cluster, id);
    CatalogEntry {
        name: backup.backup_id.name().to_owned(),
        started_at: backup.backup_id.started().unwrap(),
        backup_id: backup.backup_id,
        namespace: backup.namespace,
        cluster: backup.cluster,
        origin: "host:a".to_owned(),
        completed_at: ended.parse().unwrap(),
        method: "redis-rdb".to_owned(),
        artifact_types: vec!["rdb".to_owned()],
        size: 1,
        stored_size: 1,
        shards: 1,
        keys: None,
        encrypted: false,
        attempt: "a".parse().unwrap(),
        objects: 1,
        pinned: false,
        verified: None,
    }
}

/// Begun at nine each day; the second one took two hours.
fn entries() -> Vec<CatalogEntry> {
    vec![
        entry("cache", "20261121T090000Z-cache-c", "2026-11-21T09:10:00Z"),
        entry("cache", "20261120T090000Z-cache-b", "2026-11-20T11:00:00Z"),
        entry("cache", "20261119T090000Z-cache-a", "2026-11-19T09:10:00Z"),
        entry("other", "20261101T090000Z-other-o", "2026-11-01T09:10:00Z"),
    ]
}

#[rstest]
#[case::later_than_all("latest", "2026-12-01T00:00:00Z", Ok("20261121T090000Z-cache-c"))]
#[case::between("latest", "2026-11-21T00:00:00Z", Ok("20261120T090000Z-cache-b"))]
#[case::while_one_ran("latest", "2026-11-20T10:00:00Z", Ok("20261119T090000Z-cache-a"))]
#[case::the_very_moment_is_not_before("latest", "2026-11-20T11:00:00Z", Ok("20261119T090000Z-cache-a"))]
#[case::by_prefix("20261120", "2026-11-21T00:00:00Z", Ok("20261120T090000Z-cache-b"))]
#[case::a_prefix_of_a_later_one(
    "20261121",
    "2026-11-21T00:00:00Z",
    Err("there is no backup `20261121` of cluster cache")
)]
#[case::earlier_than_all(
    "latest",
    "2026-11-19T00:00:00Z",
    Err("there is no backup of cluster cache that ended before 2026-11-19T00:00:00Z")
)]
fn the_backup_before_a_time_is_the_newest_that_had_ended(
    #[case] text: &str,
    #[case] before: &str,
    #[case] wanted: Result<&str, &str>,
) {
    let selector = BackupSelector { before: Some(before.parse().unwrap()), ..selector(text, Some("cache")) };
    let found = select_entry(&entries(), &selector);
    match (found, wanted) {
        (Ok(found), wanted) => assert_eq!(Ok(found.backup_id.as_str()), wanted),
        (Err(error), wanted) => {
            assert_eq!((Err(error.to_string().as_str()), error.class()), (wanted, crate::Class::NotFound));
            assert!(error.help().is_some());
        }
    }
}

#[test]
fn a_time_says_no_cluster() {
    let selector = BackupSelector { before: Some("2026-12-01T00:00:00Z".parse().unwrap()), ..selector("latest", None) };
    let error = select_entry(&entries(), &selector).unwrap_err();
    assert_eq!(error.reason(), "ClusterNeeded");
    assert_eq!(select_entry(&[], &selector).unwrap_err().reason(), "NoBackups");
}

#[rstest]
#[case::of_the_first("host:a", None, Ok("20261120T090000Z-cache-b"))]
#[case::of_the_other("host:b", None, Ok("20261121T090000Z-cache-c"))]
#[case::of_the_other_in_time(
    "host:b",
    Some("2026-11-21T00:00:00Z"),
    Err("there is no backup of cluster cache made by host:b that ended before 2026-11-21T00:00:00Z")
)]
#[case::of_nobody("host:c", None, Err("there are no backups of cluster cache made by host:c"))]
fn the_latest_of_an_origin_is_none_of_anothers(
    #[case] origin: &str,
    #[case] before: Option<&str>,
    #[case] wanted: Result<&str, &str>,
) {
    let mut entries = entries();
    entries[0].origin = "host:b".to_owned();
    let selector = BackupSelector {
        origin: Some(origin.to_owned()),
        before: before.map(|before| before.parse().unwrap()),
        ..selector("latest", Some("cache"))
    };
    let found = select_entry(&entries, &selector).map(|backup| backup.backup_id.to_string());
    assert_eq!(found.map_err(|error| error.to_string()), wanted.map(str::to_owned).map_err(str::to_owned));
}

#[rstest]
#[case::id("20261119T091348Z-cache-bbbbb", "20261119T091348Z-cache-bbbbb")]
#[case::id_in_lower_case("20261119t091348z-cache-bbbbb", "20261119T091348Z-cache-bbbbb")]
#[case::prefix("20261120", "20261120T091348Z-before-upgrade-aaaaa")]
#[case::name("Before-Upgrade", "20261120T091348Z-before-upgrade-aaaaa")]
#[case::latest("latest", "20261121T091348Z-cache-x7k2p")]
fn one_backup_is_meant(#[case] text: &str, #[case] expected: &str) {
    let backups = backups();
    assert_eq!(ids(&select(&backups, &selector(text, None)).unwrap()), [expected]);
}

#[rstest]
#[case::name_of_several(
    "cache",
    "BackupAmbiguous",
    "`cache` may mean 2 backups: 20261121T091348Z-cache-x7k2p, 20261119T091348Z-cache-bbbbb"
)]
#[case::prefix_of_several(
    "202611",
    "BackupAmbiguous",
    "`202611` may mean 3 backups: 20261121T091348Z-cache-x7k2p, 20261120T091348Z-before-upgrade-aaaaa, 20261119T091348Z-cache-bbbbb"
)]
#[case::nothing("nightly", "BackupNotFound", "there is no backup `nightly`")]
#[case::empty("", "BackupNotFound", "there is no backup ``")]
fn no_single_backup_is_meant(#[case] text: &str, #[case] reason: &str, #[case] message: &str) {
    let error = select(&backups(), &selector(text, None)).unwrap_err();
    assert_eq!((error.reason(), error.to_string().as_str()), (reason, message));
}

#[test]
fn a_slip_of_the_finger_is_helped() {
    for typed in ["befor-upgrade", "20261120T091348Z-before-upgrade-aaaab", "20261120T091349"] {
        let error = select(&backups(), &selector(typed, None)).unwrap_err();
        let help = error.help().unwrap_or_default();
        assert!(help.contains("20261120T091348Z-before-upgrade-aaaaa"), "{typed}: {help}");
    }
}

#[test]
fn several_clusters_need_one_named_unless_only_one_matches() {
    let mut all = backups();
    all.push(backup("queue", "20261121T101348Z-queue-ccccc"));
    let error = select(&all, &selector("latest", None)).unwrap_err();
    assert_eq!(error.to_string(), "`latest` may mean a backup of any of 2 clusters: default/cache, default/queue");
    assert_eq!(select(&all, &selector("queue", None)).unwrap()[0].cluster.as_str(), "queue");
    assert_eq!(select(&all, &selector("latest", Some("cache"))).unwrap()[0].backup_id.name(), "cache");
    let error = select(&all, &selector("latest", Some("other"))).unwrap_err();
    assert_eq!(error.to_string(), "there are no backups of cluster other");
    assert_eq!(error.help().unwrap(), "clusters with backups here: default/cache, default/queue");
}

proptest::proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,40}") {
        let _ = select(&backups(), &selector(&text, None));
    }
}
