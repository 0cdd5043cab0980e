//! Listing a large cluster in ranges, by storages that keep the order of keys and one that does not.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use redkeep_core::catalog::CatalogEntry;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, UnfinishedUpload, Upload, WriteStorage,
};
use redkeep_storage::MemoryStorage;

use crate::catalog::list_cluster;
use crate::index::{Index, Line};

/// Lists the last key first, as a bucket without order may, and heeds `after`.
struct Backwards(MemoryStorage);

#[async_trait]
impl ReadStorage for Backwards {
    fn address(&self) -> String {
        self.0.address()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let found = self.0.list_after(prefix, after).collect::<Vec<_>>();
        futures::stream::once(found)
            .flat_map(|mut found| {
                found.reverse();
                futures::stream::iter(found)
            })
            .boxed()
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.0.list_folder(prefix).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.0.head(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        self.0.get(key, range).await
    }
}

#[async_trait]
impl WriteStorage for Backwards {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.0.put(key, data).await
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        self.0.put_if_absent(key, data).await
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        self.0.create(key).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        self.0.delete(keys).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        self.0.unfinished_uploads(prefix).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        self.0.abort_unfinished(upload).await
    }
}

#[tokio::test]
async fn a_large_cluster_is_listed_whole_in_ranges_and_by_a_storage_without_order() {
    const BACKUPS: usize = 2500;
    let memory = MemoryStorage::new("m");
    let mut index = Index::default();
    let mut expected = Vec::new();
    for number in 0..BACKUPS {
        let id = format!("20261121T{:02}{:02}{:02}Z-cache-x7k2p", number / 3600, number / 60 % 60, number % 60);
        for object in ["manifest.json", "a1/0/dump.rdb"] {
            memory.put(&format!("default/cache/{id}/{object}"), Bytes::from_static(b"{}")).await.unwrap();
        }
        // The index knows of the older half only: the rest is behind its last bound.
        if number < BACKUPS - 200 {
            let entry: CatalogEntry = serde_json::from_value(serde_json::json!({
                "backupId": id, "name": "cache", "namespace": "default", "cluster": "cache", "origin": "host:a",
                "startedAt": "2026-11-21T00:00:00Z", "completedAt": "2026-11-21T00:00:01Z", "method": "redis-rdb",
                "artifactTypes": ["rdb"], "size": 3, "storedSize": 2, "shards": 1, "encrypted": false, "attempt": "a1",
                "objects": 1
            }))
            .unwrap();
            index.lines.insert(id.parse().unwrap(), Line { version: "v".to_owned(), entry, listed: 2 });
        }
        expected.push(id);
    }
    let storages: [Arc<dyn WriteStorage>; 2] = [Arc::new(memory.clone()), Arc::new(Backwards(memory))];
    for storage in storages {
        let (namespace, cluster) = ("default".parse().unwrap(), "cache".parse().unwrap());
        let listing = list_cluster(&storage, namespace, cluster, &index, false).await.unwrap();
        let found: Vec<&str> = listing.folders.keys().map(redkeep_core::identifier::BackupId::as_str).collect();
        assert_eq!(found, expected);
        assert!(listing.folders.values().all(|folder| folder.manifest.is_some()));
    }
}
