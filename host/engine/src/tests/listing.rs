//! Listing a large cluster in ranges, by a storage that keeps the order of keys and by some that do it wrong.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use redkeep_core::catalog::CatalogEntry;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};
use redkeep_storage::MemoryStorage;

use crate::catalog::list_cluster;
use crate::index::{Index, Line};

/// What an endpoint does wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// Lists the last key first, as a bucket without order may.
    Backwards,
    /// Answers a listing from a key on with nothing.
    Empty,
    /// Begins at the first key whatever it is told.
    Deaf,
    /// Refuses to begin at a key.
    Refuses,
}

struct Faulty(MemoryStorage, Fault);

#[async_trait]
impl ReadStorage for Faulty {
    fn address(&self) -> String {
        self.0.address()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let refused =
            || StorageError::new(StorageErrorKind::Unsupported, "failed to list: start-after is not supported");
        match self.1 {
            Fault::Empty if !after.is_empty() => futures::stream::empty().boxed(),
            Fault::Refuses if !after.is_empty() => futures::stream::iter([Err(refused())]).boxed(),
            Fault::Empty | Fault::Refuses | Fault::Deaf => self.0.list(prefix),
            Fault::Backwards => {
                let found = self.0.list_after(prefix, after).collect::<Vec<_>>();
                let backwards = |found: Vec<_>| futures::stream::iter(found.into_iter().rev());
                futures::stream::once(found).flat_map(backwards).boxed()
            }
        }
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
impl WriteStorage for Faulty {
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
async fn a_large_cluster_is_listed_whole_in_ranges_whatever_its_storage_makes_of_them() {
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
    let wrong = [Fault::Backwards, Fault::Empty, Fault::Deaf, Fault::Refuses];
    let faulty = wrong.map(|fault| Arc::new(Faulty(memory.clone(), fault)) as Arc<dyn WriteStorage>);
    for storage in [Arc::new(memory) as Arc<dyn WriteStorage>].into_iter().chain(faulty) {
        let (namespace, cluster) = ("default".parse().unwrap(), "cache".parse().unwrap());
        let listing = list_cluster(&storage, namespace, cluster, &index, false).await.unwrap();
        let found: Vec<&str> = listing.folders.keys().map(redkeep_core::identifier::BackupId::as_str).collect();
        assert_eq!(found, expected);
        assert!(listing.folders.values().all(|folder| folder.manifest.is_some()));
    }
}
