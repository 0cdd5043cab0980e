//! Uploads that nobody finished, where no backup was ever finished either: no listing shows the folders they would lie in.

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::storage::WriteStorage;
use redkeep_core::task::{KeepRules, PruneTask};
use redkeep_storage::{FolderStorage, MemoryStorage};
use rstest::rstest;

use crate::prune::prune;
use crate::testing::{World, prune_task, silent, storage_spec};

const FIRST: &str = "default/cache/20261121T091348Z-cache-x7k2p/c3/0/dump.rdb.zst";
const SECOND: &str = "default/cache/20261122T091348Z-cache-y8l3q/d4/0/dump.rdb.zst";
/// Of the same backup as the second, by another task.
const SHARD: &str = "default/cache/20261122T091348Z-cache-y8l3q/e5/1/dump.rdb.zst";
const OTHER: &str = "shop/carts/20261121T091348Z-carts-x7k2p/c3/0/dump.rdb.zst";
const PLUGIN: &str = "plugins/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.wasm";
/// What others upload into the same bucket or folder.
const FOREIGN: [&str; 4] =
    ["video.mp4", "site/static/index/page.html", "default/cache/mine.bin", "default/cache/x/y/z"];

/// A storage that holds nothing but what killed processes left; the folder is removed with the first value.
async fn abandoned(in_folder: bool) -> (Option<tempfile::TempDir>, Arc<World>, Arc<dyn WriteStorage>) {
    let folder = in_folder.then(|| tempfile::tempdir().unwrap());
    let storage: Arc<dyn WriteStorage> = match &folder {
        Some(folder) => Arc::new(FolderStorage::new(folder.path()).unwrap()),
        None => Arc::new(MemoryStorage::new("first")),
    };
    for key in [FIRST, SECOND, OTHER, PLUGIN].into_iter().chain(FOREIGN) {
        let mut upload = storage.create(key).await.unwrap();
        upload.write("begun".into()).await.unwrap();
        // As a kill would leave it.
        std::mem::forget(upload);
    }
    let world = World::new();
    world.storages.lock().unwrap().insert("memory://first".to_owned(), Arc::clone(&storage));
    (folder, world, storage)
}

fn narrowed(namespace: Option<&str>, cluster: Option<&str>) -> PruneTask {
    PruneTask {
        storage: storage_spec("first"),
        namespace: namespace.map(|name| name.parse().unwrap()),
        cluster: cluster.map(|name| name.parse().unwrap()),
        ..prune_task(KeepRules::default())
    }
}

async fn left(storage: &Arc<dyn WriteStorage>) -> Vec<String> {
    let mut keys: Vec<String> =
        storage.unfinished_uploads("").await.unwrap().into_iter().map(|upload| upload.key).collect();
    keys.sort();
    keys
}

#[rstest]
#[case::everything(None, None, &[FIRST, SECOND, OTHER, PLUGIN])]
#[case::a_namespace(Some("default"), None, &[FIRST, SECOND])]
#[case::a_cluster(None, Some("cache"), &[FIRST, SECOND])]
#[case::both(Some("shop"), Some("carts"), &[OTHER])]
#[case::none_of_that_name(None, Some("cach"), &[])]
#[tokio::test]
async fn a_first_backup_that_was_killed_every_night_leaves_nothing_for_ever(
    #[case] namespace: Option<&str>,
    #[case] cluster: Option<&str>,
    #[case] expected: &[&str],
    #[values(false, true)] in_folder: bool,
) {
    let (_folder, world, storage) = abandoned(in_folder).await;
    let mut task = narrowed(namespace, cluster);
    let all = left(&storage).await;
    assert_eq!(all.len(), 8);

    let young = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!((young.uploads, left(&storage).await), (Vec::new(), all.clone()), "they may be going on");

    world.advance(Duration::from_secs(2 * 86_400));
    task.dry_run = true;
    let planned = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert_eq!(left(&storage).await, all, "a dry run touches nothing");

    task.dry_run = false;
    let mut outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let mut planned = planned.uploads;
    planned.sort();
    outcome.uploads.sort();
    let mut expected: Vec<String> = expected.iter().map(|key| (*key).to_owned()).collect();
    expected.sort();
    assert_eq!((&planned, &outcome.uploads), (&expected, &expected));
    let rest: Vec<String> = all.into_iter().filter(|key| !expected.contains(key)).collect();
    assert_eq!(left(&storage).await, rest);
}

#[rstest]
#[case::bytes_came_since(1, 9, &[])]
#[case::another_shard_was_finished_since(9, 1, &[])]
#[case::it_was_killed(9, 9, &[SECOND, SHARD])]
#[tokio::test]
async fn a_run_that_takes_longer_than_the_grace_period_is_left_alone_while_it_goes_on(
    #[case] days_since_bytes: u64,
    #[case] days_since_object: u64,
    #[case] expected: &[&str],
) {
    let folder = tempfile::tempdir().unwrap();
    let storage = FolderStorage::new(folder.path()).unwrap();
    let mut upload = storage.create(SECOND).await.unwrap();
    upload.write("begun".into()).await.unwrap();
    std::mem::forget(upload);
    storage.put(SHARD, "the first shard, whole".into()).await.unwrap();
    let begun = storage.unfinished_uploads("").await.unwrap();
    let temporary = folder.path().join(".redkeep-tmp").join(&begun[0].upload_id).join(SECOND);

    let world = World::new();
    world.storages.lock().unwrap().insert("memory://first".to_owned(), Arc::new(storage.clone()));
    world.advance(Duration::from_secs(10 * 86_400));
    let now = std::time::SystemTime::from(*world.now.lock().unwrap());
    for (path, days) in [(temporary, days_since_bytes), (folder.path().join(SHARD), days_since_object)] {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(now - Duration::from_secs(days * 86_400)).unwrap();
    }
    let task = PruneTask { grace_seconds: 7 * 86_400, ..narrowed(None, None) };
    let outcome = prune(&task, &world.providers(), &silent()).await.unwrap();
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let gone = outcome.garbage.iter().map(|object| &object.key).chain(&outcome.uploads);
    let mut gone: Vec<&str> = gone.map(String::as_str).collect();
    gone.sort_unstable();
    assert_eq!(gone, expected);
    assert_eq!(left(&(Arc::new(storage) as Arc<dyn WriteStorage>)).await.len(), usize::from(expected.is_empty()));
}
