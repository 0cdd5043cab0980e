//! The index: what is known of manifests without reading them again. A cache by key and version; never says what exists.
//!
//! `<namespace>/<cluster>/index/<YYYY-MM>.jsonl`: a head line with the digest of the rest, then a line for each backup begun in
//! that month. Whatever is stale, foreign or damaged in it is ignored and written anew (`docs/adr/0006-index.md`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, stream};
use redkeep_core::catalog::CatalogEntry;
use redkeep_core::identifier::{BackupId, ClusterName, Namespace};
use redkeep_core::layout::index_folder;
use redkeep_core::storage::{ObjectMeta, StorageError, WriteStorage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::object;

/// Version of the lines.
const INDEX_VERSION: u32 = 1;
/// The largest chunk that is read: about 50,000 backups in one month.
const MAX_CHUNK: u64 = 32 << 20;
/// The most bytes of chunks that are read: what a hostile storage can make a reader hold. The newest months come first.
const MAX_TOTAL: u64 = 64 << 20;
/// Chunks read or written at the same time.
const AT_ONCE: usize = 16;

/// What a line says of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// Version of the manifest that was read.
    pub(crate) version: String,
    /// Its sum. Pin and verification in it are not used.
    pub(crate) entry: CatalogEntry,
    /// Objects in the folder when it was written: tells the next listing where to split.
    pub(crate) listed: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    index_version: u32,
    sha256: String,
}

/// What changes when an object changes: its `ETag`, or time and size where the storage has none.
pub(crate) fn version_of(object: &ObjectMeta) -> String {
    match &object.etag {
        Some(etag) => format!("{etag}/{}", object.size),
        None => format!("{}/{}", object.modified.as_nanosecond(), object.size),
    }
}

/// Everything that the index says, by backup.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) lines: HashMap<BackupId, Line>,
}

fn chunk_name(id: &BackupId) -> Option<String> {
    let text = id.as_str();
    Some(format!("{}-{}.jsonl", text.get(0..4)?, text.get(4..6)?))
}

/// Whether a key's name is that of a chunk: `<YYYY-MM>.jsonl`, directly in an index folder.
pub(crate) fn is_chunk(key: &str) -> bool {
    let Some(month) = key.splitn(4, '/').nth(3).and_then(|name| name.strip_suffix(".jsonl")) else { return false };
    month.len() == 7
        && month.bytes().enumerate().all(|(at, byte)| if at == 4 { byte == b'-' } else { byte.is_ascii_digit() })
}

/// Reads the whole index of a cluster. What cannot be read is as if it were not there.
pub(crate) async fn read(storage: &Arc<dyn WriteStorage>, namespace: &Namespace, cluster: &ClusterName) -> Index {
    let listing = storage.list_folder(&index_folder(namespace, cluster)).await.unwrap_or_default();
    let mut room = MAX_TOTAL;
    let mut objects = listing.objects;
    objects.retain(|object| object.key.ends_with(".jsonl") && object.size <= MAX_CHUNK);
    objects.sort_by(|one, other| other.key.cmp(&one.key));
    objects.retain(|object| match room.checked_sub(object.size) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    });
    let chunks: Vec<Option<Vec<Line>>> = stream::iter(objects)
        .map(|object| async move {
            // What became longer since it was listed is not read: the limit is for what is said and for what comes.
            let bytes = object::read(storage.as_ref(), &object.key, object.size).await.ok()?;
            decode(&bytes)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let lines = chunks.into_iter().flatten().flatten();
    // A line is believed only of the cluster in whose index it stands.
    let own = lines.filter(|line| line.entry.namespace == *namespace && line.entry.cluster == *cluster);
    Index { lines: own.map(|line| (line.entry.backup_id.clone(), line)).collect() }
}

/// Writes the chunks of the months named, from `lines`. Other writers may do the same: the last one's is as good.
pub(crate) async fn write(
    storage: &Arc<dyn WriteStorage>,
    namespace: &Namespace,
    cluster: &ClusterName,
    lines: &[Line],
    changed: &BTreeSet<BackupId>,
) -> Result<(), StorageError> {
    let months: BTreeSet<String> = changed.iter().filter_map(chunk_name).collect();
    let mut chunks: BTreeMap<&str, Vec<&Line>> = months.iter().map(|month| (month.as_str(), Vec::new())).collect();
    for line in lines {
        let name = chunk_name(&line.entry.backup_id);
        if let Some(chunk) = name.as_deref().and_then(|name| chunks.get_mut(name)) {
            chunk.push(line);
        }
    }
    let folder = index_folder(namespace, cluster);
    let results: Vec<Result<(), StorageError>> = stream::iter(chunks)
        .map(|(name, lines)| {
            let key = format!("{folder}{name}");
            async move {
                if lines.is_empty() {
                    return storage.delete(&[key]).await;
                }
                storage.put(&key, encode(&lines).into()).await
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().collect()
}

pub(crate) fn encode(lines: &[&Line]) -> Vec<u8> {
    let mut body = Vec::new();
    for line in lines {
        // A struct of strings and numbers always serializes.
        body.extend(serde_json::to_vec(line).unwrap_or_default());
        body.push(b'\n');
    }
    with_head(body)
}

/// A chunk of these lines.
pub(crate) fn with_head(body: Vec<u8>) -> Vec<u8> {
    let head = Head { index_version: INDEX_VERSION, sha256: hex(&body) };
    let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend(body);
    bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Line>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = bytes.split_at(end);
    let body = rest.get(1..)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    if head.index_version != INDEX_VERSION || head.sha256 != hex(body) {
        return None;
    }
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Some(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> Line {
        let entry = serde_json::json!({
            "backupId": id, "name": "cache", "namespace": "default", "cluster": "cache", "origin": "host:a",
            "startedAt": "2026-11-21T09:13:48Z", "completedAt": "2026-11-21T09:13:49Z", "method": "redis-rdb",
            "artifactTypes": ["rdb"], "size": 3, "storedSize": 2, "shards": 1, "encrypted": false, "attempt": "a1", "objects": 1
        });
        Line { version: "v".to_owned(), entry: serde_json::from_value(entry).unwrap(), listed: 2 }
    }

    #[test]
    fn a_chunk_survives_its_own_bytes_and_any_flipped_bit_makes_it_nothing() {
        let line = line("20261121T091348Z-cache-x7k2p");
        let bytes = encode(&[&line]);
        assert_eq!(decode(&bytes), Some(vec![line]));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {position}");
            assert_eq!(decode(&bytes[..position]), None, "cut at {position}");
        }
    }
}
