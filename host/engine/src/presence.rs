//! Whether what a backup's manifest names is there in its size. No byte of it is read: digests are `verify`'s.

use redkeep_core::catalog::{BackupRef, CatalogEntry, Place, place};
use redkeep_core::storage::{ObjectMeta, ReadStorage, StorageErrorKind};
use redkeep_core::{Class, Classify};

use crate::error::EngineError;
use crate::opened;
use crate::pipeline::{PART_TABLE_SUFFIX, check_sizes};

/// Whether a listing of its folder leaves no doubt: as many objects in the winning attempt's folder as the manifest names, and in
/// its artifacts as many bytes. Costs nothing; of what it doubts [`damage`] decides. (Sizes of part tables are not in an entry.)
pub(crate) fn looks_whole(entry: &CatalogEntry, listed: &[ObjectMeta]) -> bool {
    let attempt = format!("{}{}/", entry.backup().folder().prefix(), entry.attempt);
    let own = || {
        listed
            .iter()
            .filter(|object| object.key.starts_with(&attempt) && matches!(place(&object.key), Place::Artifact(_)))
    };
    let artifacts = own().filter(|object| !object.key.ends_with(PART_TABLE_SUFFIX));
    own().count() as u64 == entry.objects
        && artifacts.map(|object| object.size).fold(0, u64::saturating_add) == entry.stored_size
}

/// What is missing or of another size, by the manifest as it is now: `None` where nothing is, or where the backup is gone. Only
/// what a listing does not show as it should be is asked for: a backup may have been committed while it was listed.
///
/// # Errors
/// Where the storage did not answer: then nothing is known.
pub(crate) async fn damage(
    storage: &dyn ReadStorage,
    backup: &BackupRef,
    listed: &[ObjectMeta],
) -> Result<Option<String>, EngineError> {
    let manifest = match opened::manifest(storage, backup).await {
        Ok(manifest) => manifest,
        Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) if error.class() == Class::Damaged => return Ok(Some(error.chain())),
        Err(error) => return Err(error),
    };
    let is_listed = |key: &str, size: u64| listed.iter().any(|object| object.key == key && object.size == size);
    for artifact in &manifest.artifacts {
        let table = artifact.parts.as_ref();
        let is_there = artifact.stored_objects().iter().all(|object| is_listed(&object.key, object.size))
            && table.is_none_or(|table| is_listed(&table.key, table.size));
        if is_there {
            continue;
        }
        match check_sizes(storage, artifact).await {
            Ok(()) => {}
            Err(error) if error.class() == Class::Damaged => return Ok(Some(error.to_string())),
            Err(error) => {
                let act = format!("see whether {} of the backup {} is there", artifact.name, backup.backup_id);
                return Err(EngineError::pipeline(act)(error));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use redkeep_core::Timestamp;
    use rstest::rstest;

    use super::*;

    const ARTIFACT: &str = "default/cache/20261121T091348Z-cache-x7k2p/a1/0/dump.rdb.zst";

    #[rstest]
    #[case::whole(&[("a1/0/dump.rdb.zst", 100), ("a1/0/dump.rdb.zst.parts.json", 7)], true)]
    #[case::with_a_manifest_and_another_attempt(
        &[("a1/0/dump.rdb.zst", 100), ("a1/0/dump.rdb.zst.parts.json", 7), ("manifest.json", 9), ("b2/0/dump.rdb.zst", 3)],
        true
    )]
    #[case::nothing(&[("manifest.json", 9)], false)]
    #[case::short(&[("a1/0/dump.rdb.zst", 99), ("a1/0/dump.rdb.zst.parts.json", 7)], false)]
    #[case::short_by_what_its_table_has(&[("a1/0/dump.rdb.zst", 93), ("a1/0/dump.rdb.zst.parts.json", 7)], false)]
    #[case::no_table(&[("a1/0/dump.rdb.zst", 100)], false)]
    #[case::of_another_attempt(&[("b2/0/dump.rdb.zst", 100), ("b2/0/dump.rdb.zst.parts.json", 7)], false)]
    fn a_listing_is_compared_with_what_is_known(#[case] listed: &[(&str, u64)], #[case] whole: bool) {
        let entry = serde_json::json!({
            "backupId": "20261121T091348Z-cache-x7k2p", "name": "cache", "namespace": "default", "cluster": "cache",
            "origin": "host:a", "startedAt": "2026-11-21T09:13:48Z", "completedAt": "2026-11-21T09:13:49Z",
            "method": "redis-rdb", "artifactTypes": ["rdb"], "size": 300, "storedSize": 100, "shards": 1,
            "encrypted": false, "attempt": "a1", "objects": 2
        });
        let entry: CatalogEntry = serde_json::from_value(entry).unwrap();
        let folder = ARTIFACT.split_once("a1/").unwrap().0;
        let listed: Vec<ObjectMeta> = listed
            .iter()
            .map(|(key, size)| ObjectMeta {
                key: format!("{folder}{key}"),
                size: *size,
                modified: Timestamp::UNIX_EPOCH,
                etag: None,
            })
            .collect();
        assert_eq!(looks_whole(&entry, &listed), whole);
    }
}
