//! Backups whose objects are not all there, or not in their size: what retention and `check` make of them.

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::catalog::BackupRef;
use redkeep_core::encoding::Compression;
use redkeep_core::storage::WriteStorage;
use redkeep_core::task::{BackupTask, KeepRules};
use redkeep_core::{Class, Classify};
use redkeep_storage::layer::Operation;
use rstest::rstest;

use crate::backup::backup;
use crate::catalog::Scope;
use crate::check::check;
use crate::list::list;
use crate::object;
use crate::prune::prune;
use crate::testing::{World, backup_task, prune_task, silent, storage_spec};

const HOUR: Duration = Duration::from_secs(3600);

async fn with_backups(count: usize, keys: usize) -> (Arc<World>, Vec<BackupRef>) {
    let world = World::new();
    world.set_shards(&[("0", keys)]);
    let task = BackupTask { compression: Compression::None, ..backup_task() };
    for _ in 0..count {
        backup(&task, &world.providers(), &silent()).await.unwrap();
        world.advance(HOUR);
    }
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    let all = catalog.entries.iter().map(redkeep_core::catalog::CatalogEntry::backup).collect();
    (world, all)
}

async fn left(world: &Arc<World>) -> Vec<BackupRef> {
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    catalog.entries.iter().map(redkeep_core::catalog::CatalogEntry::backup).collect()
}

#[derive(Clone, Copy)]
enum Loss {
    Missing,
    OneByte,
    Longer,
}

/// Spoils an object of a backup as a listing can see it.
async fn lose(world: &Arc<World>, backup: &BackupRef, suffix: &str, loss: Loss) {
    let keys = world.keys().await;
    let is_meant = |key: &&String| key.starts_with(backup.folder().prefix()) && key.ends_with(suffix);
    let key = keys.iter().find(is_meant).unwrap();
    let mut bytes = object::read(&world.memory, key, 1 << 20).await.unwrap().to_vec();
    match loss {
        Loss::Missing => return world.memory.delete(std::slice::from_ref(key)).await.unwrap(),
        Loss::OneByte => drop(bytes.pop()),
        Loss::Longer => bytes.push(0),
    }
    world.memory.put(key, bytes.into()).await.unwrap();
}

#[rstest]
#[case::an_artifact_missing(".rdb", Loss::Missing)]
#[case::an_artifact_short(".rdb", Loss::OneByte)]
#[case::an_artifact_long(".rdb", Loss::Longer)]
#[case::a_part_table_missing(".parts.json", Loss::Missing)]
#[case::a_part_table_short(".parts.json", Loss::OneByte)]
#[tokio::test]
async fn the_last_backup_that_can_be_restored_stays(#[case] suffix: &str, #[case] loss: Loss) {
    // An artifact of more than one part has a table of them.
    let keys = if suffix == ".rdb" { 1000 } else { 1_200_000 };
    let (world, all) = with_backups(2, keys).await;
    lose(&world, &all[1], suffix, loss).await;
    let providers = world.providers();
    let checked = check(&storage_spec("test"), &Scope::default(), HOUR * 3, &providers, &silent()).await.unwrap();
    assert_eq!(checked.clusters[0].newest.backup_id, all[0].backup_id, "the older one is the newest good one");
    assert!(checked.error.is_none() && checked.warnings[0].contains(all[1].backup_id.as_str()), "{checked:?}");
    let young = check(&storage_spec("test"), &Scope::default(), HOUR, &providers, &silent()).await.unwrap();
    assert_eq!(young.error.unwrap().reason(), "BackupTooOld");

    let rules = KeepRules { last: Some(1), ..KeepRules::default() };
    let outcome = prune(&prune_task(rules), &providers, &silent()).await.unwrap();
    assert!(outcome.error.is_none());
    assert!(outcome.warnings.iter().any(|line| line.contains(all[1].backup_id.as_str())), "{:?}", outcome.warnings);
    assert_eq!(left(&world).await, [all[0].clone()], "a damaged one stays or goes as one that failed its verification");
}

#[tokio::test]
async fn where_all_are_damaged_the_newest_stays_and_check_says_so() {
    let (world, all) = with_backups(2, 1000).await;
    for backup in &all {
        lose(&world, backup, ".rdb", Loss::Missing).await;
    }
    let providers = world.providers();
    let checked = check(&storage_spec("test"), &Scope::default(), HOUR * 3, &providers, &silent()).await.unwrap();
    assert!(checked.clusters[0].damaged && checked.clusters[0].newest.backup_id == all[1].backup_id, "{checked:?}");
    let error = checked.error.unwrap();
    assert_eq!((error.reason(), error.class()), ("NoGoodBackup", Class::Failed));
    assert!(error.to_string().contains("is missing"), "{error}");
    let rules = KeepRules { last: Some(1), ..KeepRules::default() };
    prune(&prune_task(rules), &providers, &silent()).await.unwrap();
    assert_eq!(left(&world).await, [all[1].clone()]);
}

#[tokio::test]
async fn looking_costs_one_manifest_however_many_backups_there_are() {
    let (world, all) = with_backups(40, 10).await;
    let reads = || world.faults.count(Operation::Get) + world.faults.count(Operation::Head);
    let before = reads();
    prune(&prune_task(KeepRules::default()), &world.providers(), &silent()).await.unwrap();
    assert!(reads() - before <= 4, "{} reads of {} backups", reads() - before, all.len());
    let before = reads();
    check(&storage_spec("test"), &Scope::default(), HOUR * 3, &world.providers(), &silent()).await.unwrap();
    assert!(reads() - before <= 4, "{} reads of {} backups", reads() - before, all.len());
}
