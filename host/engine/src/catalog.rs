//! Reading the catalog: a listing says which backups exist, the index what was read before, and the rest is read now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use redkeep_core::catalog::{BackupRef, CatalogEntry, Place, VerificationSummary, place};
use redkeep_core::identifier::{BackupId, ClusterName, Namespace};
use redkeep_core::layout::cluster_folder;
use redkeep_core::storage::{ObjectMeta, StorageError, StorageErrorKind, WriteStorage};
use redkeep_core::{Class, Classify};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::cover::{self, Range};
use crate::error::EngineError;
use crate::index::{self, Index, Line, version_of};
use crate::object::{MAX_MANIFEST, SMALL_MANIFEST};
use crate::opened;

/// Listings at the same time.
const LISTINGS_AT_ONCE: usize = 16;
/// Manifests read at the same time; of those larger than [`SMALL_MANIFEST`] one, or a hostile storage could fill the memory.
const READS_AT_ONCE: usize = 32;
/// Manifests that the index may lack before it is written anew: reading these few costs less than a write each time.
const LACKING: usize = 32;

/// Which clusters are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only this namespace.
    pub namespace: Option<Namespace>,
    /// Only this cluster.
    pub cluster: Option<ClusterName>,
}

/// What a storage holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// Backups, by namespace, cluster and time.
    pub entries: Vec<CatalogEntry>,
    /// Backups whose manifest cannot be understood. Nothing of them is ever deleted by rule.
    pub problems: Vec<Problem>,
}

/// A backup that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which one.
    #[serde(flatten)]
    pub backup: BackupRef,
    /// What kind of problem: `damaged`, `refused` (a newer format).
    pub class: Class,
    /// What it is.
    pub message: String,
    /// What can be done.
    pub help: Option<String>,
}

/// What a listing found of one backup's folder.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) manifest: Option<ObjectMeta>,
    pub(crate) pinned: bool,
    verifications: Vec<VerificationSummary>,
    listed: u64,
    /// Every object of the folder that redkeep wrote; filled only where the caller asked for objects.
    pub(crate) objects: Vec<ObjectMeta>,
}

/// One cluster, listed.
pub(crate) struct ClusterListing {
    pub(crate) namespace: Namespace,
    pub(crate) cluster: ClusterName,
    pub(crate) folders: BTreeMap<BackupId, Folder>,
    /// Keys that are not redkeep's; filled only where the caller asked for objects.
    pub(crate) foreign: Vec<String>,
}

impl ClusterListing {
    pub(crate) fn backup(&self, id: &BackupId) -> BackupRef {
        BackupRef { namespace: self.namespace.clone(), cluster: self.cluster.clone(), backup_id: id.clone() }
    }
}

/// The clusters in scope, by name, whether or not they hold backups.
pub(crate) async fn clusters(
    storage: &Arc<dyn WriteStorage>,
    scope: &Scope,
) -> Result<Vec<(Namespace, ClusterName)>, EngineError> {
    let act = || format!("list the clusters in {}", storage.address());
    let namespaces: Vec<Namespace> = match &scope.namespace {
        Some(namespace) => vec![namespace.clone()],
        None => folders(storage, "").await.map_err(EngineError::storage(act()))?,
    };
    let mut found = Vec::new();
    for namespace in namespaces {
        let clusters: Vec<ClusterName> = match &scope.cluster {
            Some(cluster) => vec![cluster.clone()],
            None => folders(storage, &format!("{namespace}/")).await.map_err(EngineError::storage(act()))?,
        };
        found.extend(clusters.into_iter().map(|cluster| (namespace.clone(), cluster)));
    }
    Ok(found)
}

/// The folders directly under `prefix` whose names are identifiers.
async fn folders<T: std::str::FromStr>(storage: &Arc<dyn WriteStorage>, prefix: &str) -> Result<Vec<T>, StorageError> {
    let listing = storage.list_folder(prefix).await?;
    let names = listing.folders.iter().filter_map(|folder| folder.trim_end_matches('/').rsplit('/').next());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// The backups in scope, by listing alone.
pub(crate) async fn backups(storage: &Arc<dyn WriteStorage>, scope: &Scope) -> Result<Vec<BackupRef>, EngineError> {
    let mut found = Vec::new();
    for (namespace, cluster) in clusters(storage, scope).await? {
        let index = index::read(storage, &namespace, &cluster).await;
        let listing = list_cluster(storage, namespace, cluster, &index, false).await?;
        let committed = listing.folders.iter().filter(|(_, folder)| folder.manifest.is_some());
        found.extend(committed.map(|(id, _)| listing.backup(id)));
    }
    Ok(found)
}

/// Lists one cluster's folder: whole when objects are wanted, else side by side where the index says that it is large. Where
/// the storage turns out not to list by key, in whose order the ranges end, or not to list from a key on, whole as well.
pub(crate) async fn list_cluster(
    storage: &Arc<dyn WriteStorage>,
    namespace: Namespace,
    cluster: ClusterName,
    index: &Index,
    with_objects: bool,
) -> Result<ClusterListing, EngineError> {
    let folder = cluster_folder(&namespace, &cluster);
    let ranges = if with_objects {
        vec![Range::default()]
    } else {
        cover::ranges(index.lines.iter().map(|(id, line)| (id, line.listed)))
    };
    let divided = ranges.len() > 1;
    let listed: Result<Vec<Collected>, StorageError> = stream::iter(ranges)
        .map(|range| collect(storage, &folder, range, with_objects))
        .buffer_unordered(LISTINGS_AT_ONCE)
        .try_collect()
        .await;
    let failed = EngineError::storage(format!("list the backups of {namespace}/{cluster}"));
    let believed = match &listed {
        // Each range is made of backups that were there: one that finds none may be one that was not answered (OneLake did so).
        Ok(listed) => !listed.iter().any(|collected| !collected.in_order || collected.folders.is_empty()),
        Err(error) => !matches!(error.kind, StorageErrorKind::Invalid | StorageErrorKind::Unsupported),
    };
    let listed = if divided && !believed {
        collect(storage, &folder, Range::default(), with_objects).await.map(|collected| vec![collected])
    } else {
        listed
    };
    let listed = listed.map_err(failed)?;
    let mut listing = ClusterListing { namespace, cluster, folders: BTreeMap::new(), foreign: Vec::new() };
    for collected in listed {
        // Ranges do not overlap, and a backup's objects are in one.
        listing.folders.extend(collected.folders);
        listing.foreign.extend(collected.foreign);
    }
    Ok(listing)
}

/// What one listing found.
struct Collected {
    folders: BTreeMap<BackupId, Folder>,
    foreign: Vec<String>,
    /// Whether keys came in their order: else a range may have been left before its end.
    in_order: bool,
}

async fn collect(
    storage: &Arc<dyn WriteStorage>,
    cluster_folder: &str,
    range: Range,
    with_objects: bool,
) -> Result<Collected, StorageError> {
    let mut folders: BTreeMap<BackupId, Folder> = BTreeMap::new();
    let mut foreign = Vec::new();
    let bound = |end: String| format!("{cluster_folder}{end}");
    let after = if range.after.is_empty() { String::new() } else { bound(range.after) };
    let until = range.until.map(bound);
    let mut objects = storage.list_after(cluster_folder, &after);
    let (mut in_order, mut last) = (true, String::new());
    while let Some(object) = objects.try_next().await? {
        in_order &= last <= object.key;
        last.clone_from(&object.key);
        if until.as_ref().is_some_and(|until| object.key > *until) {
            break;
        }
        if object.key <= after {
            // Of the range before: this storage heeds no `after`, and each range would keep all of them.
            continue;
        }
        let place = place(&object.key);
        let (Place::Manifest(backup) | Place::Pin(backup) | Place::Verification(backup, _) | Place::Artifact(backup)) =
            &place
        else {
            if with_objects && matches!(place, Place::Foreign) {
                foreign.push(object.key);
            }
            continue;
        };
        debug_assert!(object.key.starts_with(cluster_folder));
        let folder = folders.entry(backup.backup_id.clone()).or_default();
        folder.listed += 1;
        if with_objects {
            folder.objects.push(object.clone());
        }
        match place {
            Place::Manifest(_) => folder.manifest = Some(object),
            Place::Pin(_) => folder.pinned = true,
            Place::Verification(_, result) => folder.verifications.extend(result),
            _ => {}
        }
    }
    Ok(Collected { folders, foreign, in_order })
}

/// Reads the catalog of everything in scope.
pub async fn load(storage: &Arc<dyn WriteStorage>, scope: &Scope) -> Result<Catalog, EngineError> {
    let mut catalog = Catalog::default();
    for (namespace, cluster) in clusters(storage, scope).await? {
        let index = index::read(storage, &namespace, &cluster).await;
        let listing = list_cluster(storage, namespace, cluster, &index, false).await?;
        let read = read_cluster(storage, &listing, index).await?;
        catalog.entries.extend(read.entries);
        catalog.problems.extend(read.problems);
    }
    Ok(catalog)
}

/// Makes entries of a listing: from the index where it fits, else from the manifests. Writes the index when it lacked much.
pub(crate) async fn read_cluster(
    storage: &Arc<dyn WriteStorage>,
    listing: &ClusterListing,
    mut index: Index,
) -> Result<Catalog, EngineError> {
    let committed = listing.folders.iter().filter_map(|(id, folder)| Some((id, folder, folder.manifest.as_ref()?)));
    let work: Vec<(&BackupId, &Folder, &ObjectMeta, Option<CatalogEntry>)> = committed
        .map(|(id, folder, manifest)| {
            let line = index.lines.remove(id).filter(|line| line.version == version_of(manifest));
            (id, folder, manifest, line.map(|line| line.entry))
        })
        .collect();
    // Lines left over are of backups that are gone.
    let mut changed: BTreeSet<BackupId> = index.lines.into_keys().collect();
    let mut catalog = Catalog::default();
    let mut lines = Vec::with_capacity(work.len());
    let large = Mutex::new(());
    let mut results = stream::iter(work)
        .map(|(id, folder, manifest, known)| read_backup(storage, listing.backup(id), folder, manifest, known, &large))
        .buffered(READS_AT_ONCE);
    while let Some(read) = results.next().await {
        match read? {
            ReadBackup::Entry { line, fresh } => {
                if fresh {
                    changed.insert(line.entry.backup_id.clone());
                }
                catalog.entries.push(line.entry.clone());
                lines.push(*line);
            }
            ReadBackup::Problem(problem) => catalog.problems.push(problem),
            ReadBackup::Gone => {}
        }
    }
    if changed.len() >= LACKING {
        // Only a cache, and perhaps the storage may not be written to: a failure changes nothing.
        if let Err(error) = index::write(storage, &listing.namespace, &listing.cluster, &lines, &changed).await {
            tracing::debug!(error = %error, cluster = %listing.cluster, "the index could not be written");
        }
    }
    Ok(catalog)
}

enum ReadBackup {
    Entry { line: Box<Line>, fresh: bool },
    Problem(Problem),
    Gone,
}

async fn read_backup(
    storage: &Arc<dyn WriteStorage>,
    backup: BackupRef,
    folder: &Folder,
    manifest: &ObjectMeta,
    known: Option<CatalogEntry>,
    large: &Mutex<()>,
) -> Result<ReadBackup, EngineError> {
    let mut fresh = false;
    let mut entry = if let Some(entry) = known {
        entry
    } else {
        fresh = true;
        let is_large = manifest.size > SMALL_MANIFEST;
        let _turn = if is_large { Some(large.lock().await) } else { None };
        // A listing that says less than comes buys nothing.
        let limit = if is_large { MAX_MANIFEST } else { SMALL_MANIFEST };
        match opened::manifest_within(storage.as_ref(), &backup, limit).await {
            Ok(manifest) => CatalogEntry::of(&manifest),
            Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::NotFound => {
                // Deleted since it was listed.
                return Ok(ReadBackup::Gone);
            }
            Err(error @ (EngineError::Manifest(_) | EngineError::Damaged { .. })) => {
                let (class, help) = (error.class(), error.help());
                return Ok(ReadBackup::Problem(Problem { backup, class, message: error.chain(), help }));
            }
            Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::Damaged => {
                let (class, help) = (Class::Damaged, source.help.clone());
                return Ok(ReadBackup::Problem(Problem { backup, class, message: source.to_string(), help }));
            }
            Err(error) => return Err(error),
        }
    };
    // The index keeps these two as well, and every listing says them anew.
    entry.pinned = folder.pinned;
    entry.verified = VerificationSummary::standing(folder.verifications.clone());
    let line = Line { version: version_of(manifest), entry, listed: folder.listed };
    Ok(ReadBackup::Entry { line: Box::new(line), fresh })
}
