//! Restores: what is refused before anything is touched, what is said when one stops half-way, and damaged backups.

use std::sync::Arc;

use redkeep_core::storage::{ReadStorage, WriteStorage};
use redkeep_core::task::VerifyLevel;
use redkeep_core::{Attribute, Class, Classify};
use rstest::rstest;

use crate::backup::backup;
use crate::object;
use crate::restore::{RestoreResult, restore};
use crate::testing::{
    Conduct, World, backup_task, into_directory, into_server, restore_task, selector, silent, verify_task,
};
use crate::verify::verify;

async fn with_backup() -> Arc<World> {
    let world = World::new();
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    world
}

/// Changes a stored object.
async fn spoil(world: &World, part: &str, change: impl Fn(&mut Vec<u8>)) -> String {
    let key = world.keys().await.into_iter().find(|key| key.contains(part)).unwrap();
    let mut bytes = object::read(&world.memory, &key, 1 << 30).await.unwrap().to_vec();
    change(&mut bytes);
    world.memory.put(&key, bytes.into()).await.unwrap();
    key
}

#[rstest]
#[case::cut(|bytes: &mut Vec<u8>| { bytes.pop(); })]
#[case::first_bit(|bytes: &mut Vec<u8>| bytes[0] ^= 1)]
#[case::last_bit(|bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 0x80)]
#[case::longer(|bytes: &mut Vec<u8>| bytes.push(0))]
#[case::empty(Vec::clear)]
#[tokio::test]
async fn a_damaged_artifact_places_nothing(#[case] change: fn(&mut Vec<u8>)) {
    let world = with_backup().await;
    spoil(&world, "dump.rdb", change).await;
    for level in [VerifyLevel::Checksum, VerifyLevel::Parse] {
        let outcome = verify(&verify_task(level), &world.providers(), &silent()).await.unwrap();
        assert_eq!(outcome.error.unwrap().class(), Class::Damaged);
    }
    for target in [into_directory("/data"), into_server()] {
        let error = restore(&restore_task(target), &world.providers(), &silent()).await.unwrap_err();
        assert_eq!(error.class(), Class::Damaged, "{}", error.chain());
        assert!(error.chain().contains("dump.rdb"), "{}", error.chain());
        assert!(error.help().is_some());
    }
    assert!(world.target.lock().unwrap().is_empty());
    assert!(world.directories.lock().unwrap().is_empty());
    assert_eq!(*world.staged.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_missing_artifact_is_damage() {
    let world = with_backup().await;
    let key = world.keys().await.into_iter().find(|key| key.contains("dump.rdb")).unwrap();
    world.memory.delete(&[key]).await.unwrap();
    for level in [VerifyLevel::Checksum, VerifyLevel::Parse] {
        let outcome = verify(&verify_task(level), &world.providers(), &silent()).await.unwrap();
        assert_eq!(outcome.error.unwrap().class(), Class::Damaged, "{level:?}");
    }
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.class(), Class::Damaged, "{}", error.chain());
}

#[rstest]
#[case::newer("\"formatVersion\": 1", "\"formatVersion\": 2", Class::Refused)]
#[case::another_cluster("\"cluster\": \"cache\"", "\"cluster\": \"other\"", Class::Damaged)]
#[case::outside("\"key\": \"default/cache/", "\"key\": \"default/other/", Class::Damaged)]
#[case::no_json("{", "", Class::Damaged)]
#[tokio::test]
async fn a_manifest_that_does_not_fit_is_refused(#[case] from: &str, #[case] to: &str, #[case] class: Class) {
    let world = with_backup().await;
    spoil(&world, "manifest.json", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(from));
        *bytes = text.replacen(from, to, 1).into_bytes();
    })
    .await;
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.class(), class, "{}", error.chain());
    assert!(world.target.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_fields_of_a_manifest_are_ignored() {
    let world = with_backup().await;
    spoil(&world, "manifest.json", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen('{', "{\"fromTheFuture\": [1, {\"a\": null}],", 1).into_bytes();
    })
    .await;
    restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap();
}

#[tokio::test]
async fn a_target_that_holds_keys_is_refused_unless_told() {
    let world = with_backup().await;
    world.target.lock().unwrap().push("mine".to_owned());
    let mut task = restore_task(into_server());
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "TargetNotEmpty");
    assert_eq!(world.target.lock().unwrap().len(), 1);
    task.parameters.insert("on-conflict".to_owned(), "skip".into());
    restore(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!(world.target.lock().unwrap().len(), 1001);

    world.directories.lock().unwrap().insert("/data".to_owned(), std::collections::BTreeMap::new());
    let error = restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Refused, "TargetNotEmpty"));
}

#[tokio::test]
async fn a_live_restore_that_stops_says_what_was_written() {
    let world = with_backup().await;
    world.behave(Conduct::StopRestore(0));
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "RestoreStopped", "{}", error.chain());
    world.behave(Conduct::StopRestore(417));
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the restore stopped half-way: shard 0: 417 commands were applied, 1 answered by an error"
    );
    assert!(error.chain().contains("OOM"), "{}", error.chain());
    assert_eq!(world.target.lock().unwrap().len(), 417);
}

#[tokio::test]
async fn a_restore_that_loses_a_key_fails_loudly() {
    let world = with_backup().await;
    world.behave(Conduct::LoseKey);
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.to_string(), "the restore of shard 0 ended with 999 keys of 1000");
}

#[tokio::test]
async fn a_directory_with_another_number_of_keys_than_the_backup_is_not_placed() {
    let world = World::new();
    world.behave(Conduct::Boast);
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    let error = restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Damaged, "FactsDiffer"), "{}", error.chain());
    assert!(error.to_string().contains("keys was 1001 when captured, and is 1000 now"), "{error}");
    assert!(world.directories.lock().unwrap().is_empty());
    assert_eq!(*world.staged.lock().unwrap(), 0);
}

#[rstest]
#[case::what_every_key_takes(&["restore"], "rdb", Some("restore"))]
#[case::that_one_alone_without_acl(&["restore", "acl"], "rdb", Some("restore"))]
#[case::the_database(&["select"], "rdb", Some("select"))]
#[case::a_command_that_only_commands_need(&["rpush"], "rdb", None)]
#[case::a_command_of_an_append_only_file(&["rpush", "zadd"], "aof", Some("rpush, zadd"))]
#[case::nobody_may_ask(&["rpush", "acl"], "aof", None)]
#[tokio::test]
async fn a_target_that_denies_what_is_needed_is_refused_before_it_is_touched(
    #[case] denied: &[&'static str],
    #[case] artifact_type: &str,
    #[case] named: Option<&str>,
) {
    let world = World::new();
    *world.artifact_type.lock().unwrap() = artifact_type.to_owned();
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    *world.denied.lock().unwrap() = denied.to_vec();
    let ended = restore(&restore_task(into_server()), &world.providers(), &silent()).await;
    assert_eq!(world.target.lock().unwrap().is_empty(), named.is_some());
    let Some(named) = named else { return drop(ended.unwrap()) };
    let error = ended.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Refused, "TargetDenies"), "{}", error.chain());
    assert!(error.to_string().ends_with(&format!("let its user restorer run {named}")), "{error}");
    let rule = format!("ACL SETUSER restorer +{}", named.replace(", ", " +"));
    assert!(error.help().unwrap().contains(&rule), "{:?}", error.help());
}

#[tokio::test]
async fn keys_that_the_target_evicts_make_a_restore_incomplete() {
    let world = with_backup().await;
    *world.target_room.lock().unwrap() = 300;
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Failed, "RestoreIncomplete"), "{}", error.chain());
    assert!(error.to_string().contains("evicted 700 keys"), "{error}");
    assert!(error.help().unwrap().contains("noeviction"));
}

#[rstest]
#[case::evicts("1000000", "allkeys-lru", true)]
#[case::evicts_keys_that_expire("1000000", "volatile-ttl", true)]
#[case::refuses_more("1000000", "noeviction", false)]
#[case::no_limit("0", "allkeys-lru", false)]
#[tokio::test]
async fn a_target_that_would_evict_is_refused_before_it_is_touched(
    #[case] limit: &str,
    #[case] policy: &str,
    #[case] refused: bool,
) {
    let world = with_backup().await;
    *world.target_info.lock().unwrap() =
        vec![Attribute::new("maxmemory", limit), Attribute::new("maxmemory_policy", policy)];
    let ended = restore(&restore_task(into_server()), &world.providers(), &silent()).await;
    assert_eq!(ended.is_err(), refused);
    assert_eq!(world.target.lock().unwrap().is_empty(), refused);
    if let Err(error) = ended {
        assert_eq!((error.class(), error.reason()), (Class::Refused, "TargetEvicts"), "{}", error.chain());
        assert!(error.help().unwrap().contains("noeviction"));
    }
}

#[rstest]
#[case::of_a_dry_run(true)]
#[case::of_a_restore(false)]
#[tokio::test]
async fn a_directory_without_room_is_refused_before_anything_is_fetched(#[case] dry_run: bool) {
    let world = with_backup().await;
    *world.free_bytes.lock().unwrap() = Some(10);
    let mut task = restore_task(into_directory("/small"));
    task.dry_run = dry_run;
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Refused, "DiskTooSmall"), "{}", error.chain());
    assert!(error.to_string().contains("/small") && error.to_string().contains("10 B are free"), "{error}");
    assert_eq!((*world.staged.lock().unwrap(), world.directories.lock().unwrap().len()), (0, 0));
    *world.free_bytes.lock().unwrap() = Some(1 << 30);
    restore(&task, &world.providers(), &silent()).await.unwrap();
}

#[tokio::test]
async fn what_a_live_target_says_of_its_memory_is_said_before_it_is_touched() {
    let world = with_backup().await;
    let full = [("maxmemory", "1000000"), ("used_memory", "999990"), ("maxmemory_policy", "noeviction")];
    *world.target_info.lock().unwrap() = full.map(|(key, value)| Attribute::new(key, value)).into();
    world.target_info.lock().unwrap().push(Attribute::new("rdb_bgsave_in_progress", 1));
    let mut task = restore_task(into_server());
    task.dry_run = true;
    let said = restore(&task, &world.providers(), &silent()).await.unwrap();
    let warnings = said.warnings.join("\n");
    assert!(warnings.contains("has 10 B of its 976.6 KiB of memory left"), "{warnings}");
    assert!(warnings.contains("a save is running on primary-0"), "{warnings}");
}

#[tokio::test]
async fn a_directory_restore_warns_of_databases_that_a_server_has_not_unless_told() {
    let world = with_backup().await;
    let said = restore(&restore_task(into_directory("/plain")), &world.providers(), &silent()).await.unwrap();
    assert_eq!(said.warnings, <[String; 0]>::default());
    spoil(&world, "manifest.json", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains(r#""databases": "0""#));
        *bytes = text.replace(r#""databases": "0""#, r#""databases": "0,9,17""#).into_bytes();
    })
    .await;
    let said = restore(&restore_task(into_directory("/many")), &world.providers(), &silent()).await.unwrap();
    assert_eq!(said.databases, Some(18));
    assert!(said.warnings.iter().any(|line| line.contains("databases 18")), "{:?}", said.warnings);
}

#[tokio::test]
async fn a_directory_restore_that_stops_places_nothing() {
    let world = with_backup().await;
    world.behave(Conduct::StopRestore(1));
    let error = restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "TargetFailed");
    assert!(world.directories.lock().unwrap().is_empty());
    assert_eq!(*world.staged.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_dry_restore_touches_nothing() {
    let world = with_backup().await;
    for target in [into_directory("/data"), into_server()] {
        let mut task = restore_task(target);
        task.dry_run = true;
        let outcome = restore(&task, &world.providers(), &silent()).await.unwrap();
        assert!(matches!(outcome.result, RestoreResult::Planned(_)));
    }
    assert!(world.target.lock().unwrap().is_empty());
    assert!(world.directories.lock().unwrap().is_empty());
    assert_eq!(*world.staged.lock().unwrap(), 0);
}

#[tokio::test]
async fn three_shards_go_into_one_server_or_each_into_a_directory() {
    let world = World::new();
    world.set_shards(&[("a", 100), ("b", 200), ("c", 300)]);
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    let error = restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.to_string(), "the backup has 3 shards (a, b, c), one data directory holds one");
    let mut one = restore_task(into_directory("/data"));
    one.shard = Some("b".to_owned());
    restore(&one, &world.providers(), &silent()).await.unwrap();
    let restored = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap();
    assert_eq!(restored.facts.get("keys-restored").unwrap(), "600");
    assert_eq!(world.target.lock().unwrap().len(), 600);
}

#[rstest]
#[case("20990101", Class::NotFound)]
#[case("", Class::NotFound)]
#[tokio::test]
async fn a_backup_that_is_not_there_is_not_found(#[case] text: &str, #[case] class: Class) {
    let world = with_backup().await;
    let mut task = restore_task(into_server());
    task.backup = selector(text);
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.class(), class);
    assert!(world.memory.head("x").await.is_err());
}

#[tokio::test]
async fn every_primary_of_a_cluster_is_asked_whether_it_evicts_and_how_much_it_did() {
    let world = World::new();
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    let evicting = |evicted: u64| {
        let limit = Attribute::new("maxmemory", 1_000_000);
        vec![limit, Attribute::new("maxmemory_policy", "allkeys-lru"), Attribute::new("evicted_keys", evicted)]
    };
    *world.other_primary.lock().unwrap() = Some(evicting(0));
    let error = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("TargetEvicts", Class::Refused));
    assert!(error.to_string().contains("primary-1"), "{error}");
    assert!(world.target.lock().unwrap().is_empty());
}

#[tokio::test]
async fn functions_of_a_target_are_not_replaced_unasked_by_those_of_several_shards() {
    let world = World::new();
    world.set_shards(&[("a", 10), ("b", 10)]);
    *world.functions.lock().unwrap() = 1;
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    *world.other_primary.lock().unwrap() = Some(vec![Attribute::new("evicted_keys", 0)]);
    *world.other_has_functions.lock().unwrap() = true;
    let mut task = restore_task(into_server());
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("TargetHasFunctions", Class::Refused));
    assert!(world.target.lock().unwrap().is_empty());
    task.parameters.insert("on-conflict".to_owned(), "replace".into());
    restore(&task, &world.providers(), &silent()).await.unwrap();
    world.target.lock().unwrap().clear();
    task.parameters.clear();
    *world.other_has_functions.lock().unwrap() = false;
    restore(&task, &world.providers(), &silent()).await.unwrap();
}
