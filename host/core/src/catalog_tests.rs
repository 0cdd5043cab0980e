//! What keys mean, and what garbage is.

use rstest::rstest;

use super::*;

#[rstest]
#[case("default/cache/20261121T091348Z-cache-x7k2p/manifest.json", "manifest")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/pin.json", "pin")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/verify-20261121T101348Z-parse-ok.json", "verification")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/verify-by-hand.json", "verification")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/a1/0/dump.rdb.zst", "artifact")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/a1/0/dump.rdb.zst.parts.json", "artifact")]
#[case("default/cache/index/2026-11.jsonl", "index")]
#[case("plugins/0000000000000000000000000000000000000000000000000000000000000000.wasm", "plugin")]
#[case("plugins/readme.wasm", "foreign")]
#[case("plugins/cache/20261121T091348Z-cache-x7k2p/manifest.json", "manifest")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/notes.txt", "foreign")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/a1/dump.rdb", "foreign")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/a1/0/deep/dump.rdb", "foreign")]
#[case("default/cache/20261121T091348Z-cache-x7k2p/a1//dump.rdb", "foreign")]
#[case("default/cache/20261121T091348Z-cache-x7k2p", "foreign")]
#[case("default/cache/photos/a/b/c", "foreign")]
#[case("default/cache/29991121T091348Z-cache-x7k2p/manifest.json", "foreign")]
#[case("default/cache/20261321T091348Z-cache-x7k2p/manifest.json", "foreign")]
#[case("default/cache/20261121T91348Z-cache-x7k2p/manifest.json", "foreign")]
#[case("default/cache/20261121T091348Z/manifest.json", "foreign")]
#[case("default/cache/20261121T091348Z-cache/manifest.json", "foreign")]
#[case("default//20261121T091348Z-cache-x7k2p/manifest.json", "foreign")]
#[case("../cache/20261121T091348Z-cache-x7k2p/manifest.json", "foreign")]
#[case("manifest.json", "foreign")]
#[case("", "foreign")]
fn keys_are_recognised(#[case] key: &str, #[case] expected: &str) {
    let found = match place(key) {
        Place::Manifest(_) => "manifest",
        Place::Pin(_) => "pin",
        Place::Verification(..) => "verification",
        Place::Artifact(_) => "artifact",
        Place::Index(..) => "index",
        Place::Plugin => "plugin",
        Place::Foreign => "foreign",
    };
    assert_eq!(found, expected);
}

const FOLDER: &str = "default/cache/20261121T091348Z-cache-x7k2p/";

fn object(rest: &str, modified: &str) -> ObjectMeta {
    ObjectMeta { key: format!("{FOLDER}{rest}"), size: 1, modified: modified.parse().unwrap(), etag: None }
}

fn manifest() -> Manifest {
    let text = serde_json::json!({
        "formatVersion": 1, "backupId": "20261121T091348Z-cache-x7k2p", "name": "Cache", "namespace": "default",
        "cluster": "cache", "origin": "host:a", "attempt": "a1", "startedAt": "2026-11-21T09:13:48Z",
        "completedAt": "2026-11-21T09:14:00Z", "toolVersion": "redkeep 0.1.0",
        "method": {"name": "redis-rdb", "version": "0.1.0", "digest": "00"},
        "source": {"address": "redis://a:6379", "mode": "standalone"},
        "shards": [{"name": "0", "node": "a:6379", "facts": {"keys": "3"}}],
        "artifacts": [{
            "shard": "0", "name": "dump.rdb", "type": "rdb", "key": format!("{FOLDER}a1/0/dump.rdb.zst"),
            "size": 100, "sha256": "aa", "storedSize": 50, "storedSha256": "bb", "compression": "zstd:1", "encrypted": false,
            "parts": {"key": format!("{FOLDER}a1/0/dump.rdb.zst.parts.json"), "size": 9, "sha256": "cc", "count": 2},
            "attributes": {"type": "rdb"}, "unknownToUs": true
        }],
        "facts": {"keys": "3"}, "somethingNewer": {"a": 1}
    });
    Manifest::parse("m", text.to_string().as_bytes()).unwrap()
}

#[test]
fn garbage_is_what_the_manifest_does_not_name_and_is_old() {
    let old = "2026-11-20T00:00:00Z";
    let objects = [
        object("manifest.json", old),
        object("pin.json", old),
        object("verify-20261121T101348Z-parse-ok.json", old),
        object("a1/0/dump.rdb.zst", old),
        object("a1/0/dump.rdb.zst.parts.json", old),
        object("a1/0/left.rdb.zst", old),
        object("b2/0/dump.rdb.zst", old),
        object("b2/0/young.rdb.zst", "2026-11-21T11:30:00Z"),
        object("b2/0/future.rdb.zst", "2026-11-22T00:00:00Z"),
        object("notes.txt", old),
    ];
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let keys = |manifest: Option<&Manifest>| -> Vec<String> {
        garbage(&objects, manifest, now, Duration::from_secs(3600))
            .into_iter()
            .map(|object| object.key.trim_start_matches(FOLDER).to_owned())
            .collect()
    };
    assert_eq!(keys(Some(&manifest())), ["a1/0/left.rdb.zst", "b2/0/dump.rdb.zst"]);
    let all = [
        "pin.json",
        "verify-20261121T101348Z-parse-ok.json",
        "a1/0/dump.rdb.zst",
        "a1/0/dump.rdb.zst.parts.json",
        "a1/0/left.rdb.zst",
        "b2/0/dump.rdb.zst",
    ];
    assert_eq!(keys(None), all, "without a manifest everything that is ours and old goes");
}

#[test]
fn an_entry_sums_its_manifest_up() {
    let entry = CatalogEntry::of(&manifest());
    assert_eq!((entry.size, entry.stored_size, entry.objects, entry.keys), (100, 50, 2, Some(3)));
    assert_eq!(entry.artifact_types, ["rdb"]);
    assert_eq!(entry.backup().folder().prefix(), FOLDER);
}

#[test]
fn a_manifest_that_names_what_lies_elsewhere_is_noticed() {
    let mut manifest = manifest();
    let folder = CatalogEntry::of(&manifest).backup().folder();
    assert!(stays_in_its_folder(&manifest, &folder));
    let mut elsewhere = vec!["default/other/x".to_owned(), "/etc/passwd".to_owned()];
    // Nor its own manifest, nor what comes and goes, nor another backup's artifacts by a detour.
    let rests =
        ["../y", "../../x", "../20261121T091348Z-cache-bbbbb/a1/0/x", "", "manifest.json", "pin.json", "notes.txt"];
    elsewhere.extend(rests.iter().map(|rest| format!("{FOLDER}{rest}")));
    elsewhere.push(format!("{FOLDER}verify-20261121T101348Z-parse-ok.json"));
    elsewhere.push("default/cache/20261121T091348Z-cache-bbbbb/a1/0/dump.rdb.zst".to_owned());
    for key in elsewhere {
        manifest.artifacts[0].key.clone_from(&key);
        assert!(!stays_in_its_folder(&manifest, &folder), "{key}");
    }
}

#[test]
fn sizes_of_a_hostile_manifest_do_not_overflow() {
    let mut manifest = manifest();
    manifest.artifacts.push(manifest.artifacts[0].clone());
    manifest.artifacts[0].size = u64::MAX;
    manifest.artifacts[0].stored_size = u64::MAX;
    assert_eq!(manifest.sizes(), (u64::MAX, u64::MAX));
}

#[test]
fn a_manifest_survives_its_own_bytes_and_a_newer_major_is_refused() {
    let manifest = manifest();
    assert_eq!(Manifest::parse("m", &manifest.to_bytes()).unwrap(), manifest);
    let newer = String::from_utf8(manifest.to_bytes()).unwrap().replace("\"formatVersion\": 1", "\"formatVersion\": 2");
    let error = Manifest::parse("m", newer.as_bytes()).unwrap_err();
    assert_eq!(crate::Classify::class(&error), crate::Class::Refused);
    for damaged in ["", "{", "[]", "{\"formatVersion\": \"1\"}", "{\"formatVersion\": 1}", "\u{0}"] {
        let error = Manifest::parse("m", damaged.as_bytes()).unwrap_err();
        assert_eq!(crate::Classify::class(&error), crate::Class::Damaged, "{damaged:?}");
    }
}

#[test]
fn a_manifest_that_would_fill_the_memory_is_not_parsed() {
    let mut value = serde_json::to_value(manifest()).unwrap();
    let mut dense = |elements: usize| {
        value["parameters"] = vec![0; elements].into();
        Manifest::parse("m", value.to_string().as_bytes())
    };
    assert!(dense(1_000_000).is_ok());
    let error = std::error::Error::source(&dense(1_100_000).unwrap_err()).unwrap().to_string();
    assert_eq!(error, "it has more elements than any manifest");
}

proptest::proptest! {
    #[test]
    fn any_key_is_placed_without_a_panic(key in "\\PC{0,60}", id in "[0-9TZ-]{0,20}") {
        let _ = place(&key);
        let _ = place(&format!("default/cache/{id}/{key}"));
    }

    #[test]
    fn an_id_that_we_make_is_recognised(second in 0_i64..4_000_000_000, name in "[A-Za-z0-9._-]{1,40}", uid in "[a-z0-9]{5}") {
        let id = BackupId::new(Timestamp::from_second(second).unwrap(), &name, &uid).unwrap();
        proptest::prop_assert_eq!(backup_id_of(id.as_str()), Some(id));
    }
}

fn result(second: i64, level: VerifyLevel, ok: bool) -> VerificationSummary {
    VerificationSummary { time: Timestamp::from_second(1_795_000_000 + second).unwrap(), level, ok }
}

#[rstest]
#[case::nothing_is_known(&[], None)]
#[case::a_weaker_success_does_not_hide_a_failure(
    &[(1, VerifyLevel::Boot, false), (2, VerifyLevel::Parse, true), (3, VerifyLevel::Checksum, true)],
    Some((1, VerifyLevel::Boot, false))
)]
#[case::a_weaker_success_leaves_the_stronger_one(
    &[(1, VerifyLevel::Boot, true), (2, VerifyLevel::Checksum, true)],
    Some((1, VerifyLevel::Boot, true))
)]
#[case::the_same_level_is_done_anew(
    &[(1, VerifyLevel::Parse, false), (2, VerifyLevel::Parse, true)],
    Some((2, VerifyLevel::Parse, true))
)]
#[case::a_stronger_success_outweighs_a_failure(
    &[(1, VerifyLevel::Checksum, false), (2, VerifyLevel::Boot, true)],
    Some((2, VerifyLevel::Boot, true))
)]
#[case::a_failure_stands_against_any_success_before_it(
    &[(1, VerifyLevel::Boot, true), (2, VerifyLevel::Checksum, false)],
    Some((2, VerifyLevel::Checksum, false))
)]
#[case::of_the_same_second_the_failure_counts(
    &[(1, VerifyLevel::Checksum, false), (1, VerifyLevel::Boot, true)],
    Some((1, VerifyLevel::Checksum, false))
)]
fn verifications_stand_together(
    #[case] results: &[(i64, VerifyLevel, bool)],
    #[case] expected: Option<(i64, VerifyLevel, bool)>,
) {
    let results: Vec<VerificationSummary> =
        results.iter().map(|(second, level, ok)| result(*second, *level, *ok)).collect();
    let expected = expected.map(|(second, level, ok)| result(second, level, ok));
    assert_eq!(VerificationSummary::standing(results.clone()), expected);
    assert_eq!(
        VerificationSummary::standing(results.into_iter().rev().collect()),
        expected,
        "in whatever order listed"
    );
}

#[test]
fn the_name_of_a_verification_says_its_result() {
    for level in LEVELS {
        for ok in [true, false] {
            let result = result(1, level, ok);
            assert_eq!(VerificationSummary::in_name(&result.object_name()), Some(result));
        }
    }
    assert_eq!(result(0, VerifyLevel::Parse, false).object_name(), "verify-20261118T110640Z-parse-failed.json");
    for other in ["verify-.json", "verify-20261121T101348Z.json", "verify-20261121T101348Z-parse-good.json", "pin.json"]
    {
        assert_eq!(VerificationSummary::in_name(other), None, "{other}");
    }
}
