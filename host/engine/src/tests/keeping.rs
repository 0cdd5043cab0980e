//! The catalog and its index, retention, garbage, pins, deletion, copies and ages.

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::catalog::BackupRef;
use redkeep_core::storage::WriteStorage;
use redkeep_core::task::{CopyTask, DeleteTask, KeepRules, VerifyLevel};
use redkeep_core::{Class, Classify};
use redkeep_storage::layer::Operation;

use crate::backup::backup;
use crate::catalog::Scope;
use crate::check::check;
use crate::copy::copy;
use crate::delete::delete;
use crate::list::{check_scope, list};
use crate::object;
use crate::pin::{pin, unpin};
use crate::prune::prune;
use crate::restore::restore;
use crate::testing::{
    World, backup_task, into_server, prune_task, restore_task, selector, silent, storage_spec, verify_task,
};
use crate::verify::verify;

async fn with_backups(count: usize) -> Arc<World> {
    let world = World::new();
    for _ in 0..count {
        backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
        world.advance(Duration::from_secs(3600));
    }
    world
}

async fn listed(world: &Arc<World>) -> Vec<BackupRef> {
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert_eq!(catalog.problems, []);
    catalog.entries.iter().map(redkeep_core::catalog::CatalogEntry::backup).collect()
}

fn last(count: u32) -> KeepRules {
    KeepRules { last: Some(count), ..KeepRules::default() }
}

#[tokio::test]
async fn the_index_saves_reads_and_never_says_what_exists() {
    let world = with_backups(40).await;
    let all = listed(&world).await;
    assert_eq!(all.len(), 40);
    assert!(world.keys().await.iter().any(|key| key.contains("/index/")), "40 manifests are worth an index");
    let reads = world.faults.count(Operation::Get);
    assert_eq!(listed(&world).await, all);
    assert!(world.faults.count(Operation::Get) - reads <= 3, "the index alone was read");

    // A manifest that is gone is gone, whatever the index says.
    world.memory.delete(&[all[7].folder().manifest()]).await.unwrap();
    let now = listed(&world).await;
    assert_eq!(now.len(), 39);
    assert!(!now.contains(&all[7]));
    // One that was replaced is read again.
    let key = all[8].folder().manifest();
    let text = String::from_utf8(object::read(&world.memory, &key, 1 << 20).await.unwrap().to_vec()).unwrap();
    world.memory.put(&key, text.replace("\"origin\": \"host:a\"", "\"origin\": \"host:b\"").into()).await.unwrap();
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    let entry = catalog.entries.iter().find(|entry| entry.backup_id == all[8].backup_id).unwrap();
    assert_eq!(entry.origin, "host:b");
    // A pin shows at once.
    pin(&storage_spec("test"), &selector(all[9].backup_id.as_str()), &world.providers(), &silent()).await.unwrap();
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert_eq!(catalog.entries.iter().filter(|entry| entry.pinned).count(), 1);
}

#[tokio::test]
async fn a_damaged_index_is_ignored_and_written_anew() {
    let world = with_backups(40).await;
    let all = listed(&world).await;
    for garbage in [&b"\x00\xff\n{}"[..], b"", b"{\"indexVersion\":1,\"sha256\":\"00\"}\n{}\n"] {
        for key in world.keys().await.iter().filter(|key| key.contains("/index/")) {
            world.memory.put(key, garbage.to_vec().into()).await.unwrap();
        }
        assert_eq!(listed(&world).await, all);
        let reads = world.faults.count(Operation::Get);
        assert_eq!(listed(&world).await, all);
        assert!(world.faults.count(Operation::Get) - reads <= 3, "it was written anew");
    }
}

#[tokio::test]
async fn a_storage_that_cannot_be_written_to_can_be_listed() {
    let world = with_backups(40).await;
    let denied = redkeep_core::storage::StorageErrorKind::Denied;
    world.faults.add(redkeep_storage::layer::fault::Fault::fail(denied).on(Operation::Put));
    assert_eq!(listed(&world).await.len(), 40);
    assert!(world.faults.struck() > 0);
}

#[tokio::test]
async fn a_damaged_manifest_is_told_and_never_pruned() {
    let world = with_backups(3).await;
    let all = listed(&world).await;
    world.memory.put(&all[0].folder().manifest(), "{".into()).await.unwrap();
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert_eq!(catalog.entries.len(), 2);
    assert_eq!((catalog.problems.len(), catalog.problems[0].class), (1, Class::Damaged));
    world.advance(Duration::from_secs(7 * 86_400));
    let outcome = prune(&prune_task(last(1)), &world.providers(), &silent()).await.unwrap();
    assert!(outcome.error.is_none());
    assert_eq!(outcome.deleted.len(), 1);
    let keys = world.keys().await;
    assert_eq!(keys.iter().filter(|key| key.starts_with(all[0].folder().prefix())).count(), 2, "{keys:?}");
}

#[tokio::test]
async fn prune_keeps_by_rule_and_leaves_what_is_not_ours() {
    let world = with_backups(4).await;
    let all = listed(&world).await;
    pin(&storage_spec("test"), &selector(all[0].backup_id.as_str()), &world.providers(), &silent()).await.unwrap();
    let folder = all[1].folder().prefix().to_owned();
    let foreign = [
        "notes.txt".to_owned(),
        "default/cache/README".to_owned(),
        format!("{folder}mine.txt"),
        "default/x/y/z/w".to_owned(),
    ];
    for key in &foreign {
        world.memory.put(key, "mine".into()).await.unwrap();
    }
    world.advance(Duration::from_secs(7 * 86_400));
    let mut task = prune_task(last(1));
    task.dry_run = true;
    let before = world.keys().await;
    let planned = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!(planned.decisions.iter().filter(|decision| !decision.keep).count(), 2);
    assert_eq!((planned.deleted.len(), world.keys().await), (0, before));
    task.dry_run = false;
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!(outcome.deleted.len(), 2);
    assert!(outcome.error.is_none());
    let left = listed(&world).await;
    assert_eq!(left, [all[0].clone(), all[3].clone()]);
    let keys = world.keys().await;
    assert!(foreign.iter().all(|key| keys.contains(key)), "{keys:?}");
    assert!(outcome.foreign_count >= 2 && outcome.foreign.contains(&foreign[2]), "{:?}", outcome.foreign);
}

#[tokio::test]
async fn of_two_clocks_the_one_by_which_more_stays_is_believed() {
    let world = with_backups(4).await;
    let four_hours_on = *world.now.lock().unwrap();
    let rules = KeepRules { within_seconds: Some(5 * 3600), ..KeepRules::default() };
    world.advance(Duration::from_secs(365 * 86_400));
    let mut task = prune_task(rules);
    // The clock of the task's node is a year ahead.
    task.as_of = Some(four_hours_on);
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.deleted.len(), listed(&world).await.len()), (0, 4));
    // That of whoever made the task.
    task.as_of = Some(four_hours_on + Duration::from_secs(730 * 86_400));
    *world.now.lock().unwrap() = four_hours_on;
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.deleted.len(), listed(&world).await.len()), (0, 4));
    world.advance(Duration::from_secs(365 * 86_400));
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.deleted.len(), listed(&world).await.len()), (3, 1));
}

#[tokio::test]
async fn garbage_goes_only_after_the_grace_period() {
    let world = with_backups(1).await;
    let backup = listed(&world).await[0].clone();
    let left = [
        format!("{}b2/0/dump.rdb.zst", backup.folder().prefix()),
        "default/cache/20261121T091348Z-cache-x7k2p/c3/0/dump.rdb.zst".to_owned(),
    ];
    for key in &left {
        world.memory.put(key, "rest of an attempt".into()).await.unwrap();
    }
    let upload = world.memory.create("default/cache/20261121T091348Z-cache-x7k2p/c3/1/dump.rdb.zst").await.unwrap();
    std::mem::forget(upload);
    let mut task = prune_task(KeepRules::default());
    // The grace period reaches to the time that objects in memory really have.
    task.grace_seconds = 30 * 86_400;
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.garbage.len(), outcome.uploads.len()), (0, 0));
    assert_eq!((outcome.young_garbage, outcome.young_uploads), (2, 1), "what stays is told");
    world.advance(Duration::from_secs(31 * 86_400));
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.garbage.len(), outcome.uploads.len()), (2, 1));
    assert_eq!((outcome.young_garbage, outcome.young_uploads), (0, 0));
    assert!(outcome.error.is_none());
    assert_eq!(world.uploads().await, 0);
    assert_eq!(world.keys().await.len(), 2);
    restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap();
}

#[tokio::test]
async fn prune_touches_only_its_own_origin() {
    let world = with_backups(2).await;
    let mut other = backup_task();
    other.origin = "host:b".to_owned();
    for _ in 0..2 {
        backup(&other, &world.providers(), &silent()).await.unwrap();
        world.advance(Duration::from_secs(3600));
    }
    let mut task = prune_task(last(1));
    task.origin = Some("host:a".to_owned());
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!(outcome.deleted.len(), 1);
    assert_eq!(listed(&world).await.len(), 3);
}

#[tokio::test]
async fn pinned_and_last_backups_are_not_deleted_unless_forced() {
    let world = with_backups(2).await;
    let providers = world.providers();
    let mut task = DeleteTask { storage: storage_spec("test"), backup: selector("latest"), force: false };
    pin(&task.storage, &task.backup, &providers, &silent()).await.unwrap();
    let error = delete(&task, &providers, &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("BackupPinned", Class::Refused));
    unpin(&task.storage, &task.backup, &providers, &silent()).await.unwrap();
    delete(&task, &providers, &silent()).await.unwrap();
    let error = delete(&task, &providers, &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("LastBackup", Class::Refused));
    task.force = true;
    delete(&task, &providers, &silent()).await.unwrap();
    assert_eq!(world.keys().await, Vec::<String>::new());
    let error = delete(&task, &providers, &silent()).await.unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[tokio::test]
async fn a_copy_is_whole_goes_on_where_it_stopped_and_leaves_pins() {
    let world = with_backups(3).await;
    let providers = world.providers();
    pin(&storage_spec("test"), &selector("latest"), &providers, &silent()).await.unwrap();
    let task = CopyTask { storage: storage_spec("test"), to: storage_spec("other"), backups: Vec::new() };
    let outcome = copy(&task, &providers, &silent()).await.unwrap();
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(outcome.copies.iter().filter(|copy| copy.copied).count(), 3);
    let there = list(&storage_spec("other"), &Scope::default(), &providers, &silent()).await.unwrap();
    assert_eq!(there.entries.len(), 3);
    assert!(there.entries.iter().all(|entry| !entry.pinned));
    let again = copy(&task, &providers, &silent()).await.unwrap();
    assert_eq!(again.copies.iter().filter(|copy| copy.copied).count(), 0);
    // The artifact is there and the manifest is not: nothing is sent twice. A false artifact is.
    let other = world.storages.lock().unwrap()["memory://other"].clone();
    let backup = there.entries[0].backup();
    other.delete(&[backup.folder().manifest()]).await.unwrap();
    let resumed = copy(&task, &providers, &silent()).await.unwrap();
    assert_eq!(resumed.copies.iter().map(|copy| copy.bytes).sum::<u64>(), 0);
    let mut restoring = restore_task(into_server());
    restoring.storage = storage_spec("other");
    restore(&restoring, &providers, &silent()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_backup_is_not_copied() {
    let world = with_backups(1).await;
    let providers = world.providers();
    let key = world.keys().await.into_iter().find(|key| key.contains("dump.rdb")).unwrap();
    let mut bytes = object::read(&world.memory, &key, 1 << 20).await.unwrap().to_vec();
    bytes[3] ^= 4;
    world.memory.put(&key, bytes.into()).await.unwrap();
    let task = CopyTask { storage: storage_spec("test"), to: storage_spec("other"), backups: vec![selector("latest")] };
    let outcome = copy(&task, &providers, &silent()).await.unwrap();
    assert_eq!(outcome.error.unwrap().class(), Class::Damaged);
    let there = list(&storage_spec("other"), &Scope::default(), &providers, &silent()).await.unwrap();
    assert_eq!(there.entries, []);
}

#[tokio::test]
async fn an_old_or_missing_backup_is_told() {
    let world = with_backups(2).await;
    let providers = world.providers();
    let hour = Duration::from_secs(3600);
    let young = check(&storage_spec("test"), &Scope::default(), hour, &providers, &silent()).await.unwrap();
    assert!(young.error.is_none(), "{:?}", young.error);
    assert_eq!(young.clusters[0].age_seconds, 3600);
    world.advance(hour);
    let old = check(&storage_spec("test"), &Scope::default(), hour, &providers, &silent()).await.unwrap();
    assert_eq!(old.error.unwrap().class().exit_code(), 1);
    let nothing = Scope { namespace: None, cluster: Some("other".parse().unwrap()) };
    let none = check(&storage_spec("test"), &nothing, hour, &providers, &silent()).await.unwrap();
    assert_eq!(none.error.unwrap().class().exit_code(), 1);
}

#[tokio::test]
async fn a_failed_verification_does_not_hold_the_floor() {
    let world = with_backups(3).await;
    let providers = world.providers();
    let all = listed(&world).await;
    let mut good = verify_task(VerifyLevel::Parse);
    good.backup = selector(all[0].backup_id.as_str());
    verify(&good, &providers, &silent()).await.unwrap();
    let outcome = prune(&prune_task(last(0)), &providers, &silent()).await.unwrap();
    assert_eq!(outcome.deleted.len(), 2);
    assert_eq!(listed(&world).await, [all[0].clone()]);
}

#[tokio::test]
async fn a_scope_that_the_storage_does_not_know_is_not_found() {
    let world = World::new();
    let known = |namespace: Option<&str>, cluster: Option<&str>| {
        let scope = Scope {
            namespace: namespace.map(|name| name.parse().unwrap()),
            cluster: cluster.map(|name| name.parse().unwrap()),
        };
        let world = Arc::clone(&world);
        async move { check_scope(&storage_spec("test"), &scope, &world.providers(), &silent()).await }
    };
    known(None, Some("nope")).await.unwrap();
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    for (namespace, cluster) in [(None, None), (Some("default"), None), (None, Some("cache"))] {
        known(namespace, cluster).await.unwrap();
    }
    for (namespace, cluster) in [(None, Some("nope")), (Some("nope"), None), (Some("nope"), Some("cache"))] {
        let error = known(namespace, cluster).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert!(error.help().unwrap().contains("default/cache"), "{:?}", error.help());
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_recorded_is_told_all_the_same() {
    let world = with_backups(1).await;
    let denied = redkeep_core::storage::StorageErrorKind::Denied;
    world.faults.add(redkeep_storage::layer::fault::Fault::fail(denied).on(Operation::Put));
    let outcome = verify(&verify_task(VerifyLevel::Parse), &world.providers(), &silent()).await.unwrap();
    assert!(outcome.record.ok && outcome.error.is_none());
    let unrecorded = outcome.unrecorded.unwrap();
    assert_eq!(unrecorded.class(), Class::Failed);
    assert!(unrecorded.help().unwrap().contains("--no-record"));
}

/// Gets begun by a listing whose every read hangs.
async fn reads_at_once(world: &Arc<World>) -> usize {
    world.faults.add(redkeep_storage::layer::fault::Fault::hang().on(Operation::Get));
    let (storage, scope, providers, events) = (storage_spec("test"), Scope::default(), world.providers(), silent());
    let before = world.faults.count(Operation::Get);
    let waiting = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = list(&storage, &scope, &providers, &events) => panic!("every read hangs"),
        () = waiting => {}
    }
    world.faults.clear();
    world.faults.count(Operation::Get) - before
}

#[tokio::test]
async fn large_manifests_are_read_one_at_a_time() {
    for (size, expected) in [(1 << 20, 32), ((1 << 20) + 1, 1)] {
        let world = World::new();
        let hostile = bytes::Bytes::from(vec![b' '; size]);
        for second in 10..50 {
            let key = format!("default/cache/20261121T0913{second}Z-cache-x7k2p/manifest.json");
            world.memory.put(&key, hostile.clone()).await.unwrap();
        }
        assert_eq!(reads_at_once(&world).await, expected);
        let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
        assert_eq!((catalog.entries.len(), catalog.problems.len()), (0, 40));
    }
}

#[tokio::test]
async fn an_index_is_read_within_a_limit() {
    let world = World::new();
    let hostile = bytes::Bytes::from(vec![0; 30 << 20]);
    for month in 1..=9 {
        world.memory.put(&format!("default/cache/index/2026-0{month}.jsonl"), hostile.clone()).await.unwrap();
    }
    assert_eq!(reads_at_once(&world).await, 2);
}

#[tokio::test]
async fn sizes_that_overflow_are_damage_and_no_panic() {
    let world = World::new();
    world.set_shards(&[("a", 10), ("b", 10)]);
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    let key = listed(&world).await[0].folder().manifest();
    let bytes = object::read(&world.memory, &key, 1 << 20).await.unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for artifact in manifest["artifacts"].as_array_mut().unwrap() {
        artifact["size"] = u64::MAX.into();
        artifact["storedSize"] = u64::MAX.into();
    }
    world.memory.put(&key, manifest.to_string().into()).await.unwrap();
    let providers = world.providers();
    let catalog = list(&storage_spec("test"), &Scope::default(), &providers, &silent()).await.unwrap();
    assert_eq!((catalog.entries[0].size, catalog.entries[0].stored_size), (u64::MAX, u64::MAX));
    let task = CopyTask { storage: storage_spec("test"), to: storage_spec("other"), backups: Vec::new() };
    assert_eq!(copy(&task, &providers, &silent()).await.unwrap().error.unwrap().class(), Class::Damaged);
    let verified = verify(&verify_task(VerifyLevel::Checksum), &providers, &silent()).await.unwrap();
    assert!(verified.error.is_some());
}
