//! Prune: retention of each cluster, then garbage: what no manifest names, and uploads that nobody finished.
//!
//! Touches only what stands where redkeep writes; everything else in the storage is left alone and reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::catalog::{BackupRef, CatalogEntry, Place, garbage, older_than, place};
use redkeep_core::identifier::{BackupId, ClusterName, Namespace};
use redkeep_core::layout::cluster_folder;
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::retention::{self, Decision};
use redkeep_core::storage::{ObjectMeta, StorageErrorKind, UnfinishedUpload, WriteStorage};
use redkeep_core::task::PruneTask;
use serde::Serialize;

use crate::cancel;
use crate::catalog::{self, ClusterListing, Folder, Problem, Scope};
use crate::delete::remove;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::index;
use crate::opened;

/// The most foreign keys that are reported by name.
const FOREIGN_SHOWN: usize = 20;

/// What prune decided and did.
#[derive(Debug, Default)]
pub struct PruneOutcome {
    /// Every backup, with why it stays or goes.
    pub decisions: Vec<Decision>,
    /// Backups that were deleted; empty in a dry run.
    pub deleted: Vec<BackupRef>,
    /// Garbage found; in a dry run it is still there.
    pub garbage: Vec<Garbage>,
    /// Uploads that nobody finished; in a dry run they are still there.
    pub uploads: Vec<String>,
    /// Backups that cannot be read; nothing of them was touched.
    pub problems: Vec<Problem>,
    /// Keys that are not redkeep's, at most 20 of them; nothing of them was touched.
    pub foreign: Vec<String>,
    /// How many such keys there are.
    pub foreign_count: usize,
    /// What was noticed.
    pub warnings: Vec<String>,
    /// What could not be deleted; all else was.
    pub error: Option<EngineError>,
}

/// One object that belongs to no backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Garbage {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// Prunes. Stopping it between two deletions leaves whole backups and garbage, never half a backup.
pub async fn prune(
    task: &PruneTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<PruneOutcome, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(&task.storage).await?;
        let work = Prune { task, storage, now: providers.now(), events };
        let mut outcome = PruneOutcome::default();
        let mut failures = Vec::new();
        let scope = Scope { namespace: task.namespace.clone(), cluster: task.cluster.clone() };
        for (namespace, cluster) in catalog::clusters(&work.storage, &scope).await? {
            work.cluster(namespace, cluster, &mut outcome, &mut failures).await?;
        }
        work.uploads(&scope, &mut outcome, &mut failures).await;
        let total = failures.len() + outcome.deleted.len() + outcome.garbage.len() + outcome.uploads.len();
        let failed = failures.len();
        outcome.error = failures.into_iter().next().map(|source| EngineError::Partly {
            act: format!("prune {}", work.storage.address()),
            failed,
            total,
            source: Box::new(source),
        });
        if outcome.foreign_count > 0 {
            let foreign = outcome.foreign_count;
            outcome
                .warnings
                .push(format!("{foreign} object(s) beside the backups are not redkeep's and were left alone"));
        }
        for problem in &outcome.problems {
            outcome.warnings.push(format!("{} was left alone: {}", problem.backup.backup_id, problem.message));
        }
        Ok(outcome)
    })
    .await
}

struct Prune<'a> {
    task: &'a PruneTask,
    storage: Arc<dyn WriteStorage>,
    now: Timestamp,
    events: &'a Arc<dyn TaskEvents>,
}

impl Prune<'_> {
    fn grace(&self) -> Duration {
        Duration::from_secs(self.task.grace_seconds)
    }

    fn failed(&self, error: EngineError, failures: &mut Vec<EngineError>) {
        self.events.log(LogLevel::Error, &error.chain(), &[]);
        failures.push(error);
    }

    async fn cluster(
        &self,
        namespace: Namespace,
        cluster: ClusterName,
        outcome: &mut PruneOutcome,
        failures: &mut Vec<EngineError>,
    ) -> Result<(), EngineError> {
        self.events.stage("plan", &format!("{namespace}/{cluster}"));
        let index = index::read(&self.storage, &namespace, &cluster).await;
        let mut listing = catalog::list_cluster(&self.storage, namespace, cluster, &index, true).await?;
        let catalog = catalog::read_cluster(&self.storage, &listing, index).await?;
        outcome.foreign_count += listing.foreign.len();
        let room = FOREIGN_SHOWN.saturating_sub(outcome.foreign.len());
        outcome.foreign.extend(std::mem::take(&mut listing.foreign).into_iter().take(room));
        let decisions = retention::plan(&catalog.entries, &self.task.keep, self.task.origin.as_deref(), self.now);
        let mut gone = BTreeSet::new();
        if !self.task.dry_run {
            for decision in decisions.iter().filter(|decision| !decision.keep) {
                self.events.stage("delete", decision.backup.backup_id.as_str());
                match self.delete(decision).await {
                    Ok(true) => {
                        gone.insert(decision.backup.backup_id.clone());
                        outcome.deleted.push(decision.backup.clone());
                    }
                    Ok(false) => {}
                    Err(error) => self.failed(error, failures),
                }
            }
        }
        self.garbage(&listing, &catalog.entries, &gone, outcome, failures).await?;
        outcome.decisions.extend(decisions);
        outcome.problems.extend(catalog.problems);
        Ok(())
    }

    /// Deletes one backup after a last look: what was decided on entries may come from the index.
    async fn delete(&self, decision: &Decision) -> Result<bool, EngineError> {
        let backup = &decision.backup;
        let manifest = match opened::manifest(self.storage.as_ref(), backup).await {
            Ok(manifest) => manifest,
            // Somebody else deleted it.
            Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_as_decided = manifest.started_at == decision.started_at
            && self.task.origin.as_ref().is_none_or(|origin| *origin == manifest.origin);
        if !is_as_decided {
            let object = self.storage.address_of(&backup.folder().manifest());
            return Err(EngineError::Damaged { object, what: "it is not what the index says".to_owned() });
        }
        match self.storage.head(&backup.folder().pin()).await {
            // Pinned since it was listed.
            Ok(_) => return Ok(false),
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(EngineError::storage("see whether the backup is pinned")(error)),
        }
        remove(&self.storage, backup).await?;
        Ok(true)
    }

    /// Finds the garbage of every folder that was not just deleted, and deletes it.
    async fn garbage(
        &self,
        listing: &ClusterListing,
        entries: &[CatalogEntry],
        gone: &BTreeSet<BackupId>,
        outcome: &mut PruneOutcome,
        failures: &mut Vec<EngineError>,
    ) -> Result<(), EngineError> {
        for (id, folder) in listing.folders.iter().filter(|(id, _)| !gone.contains(*id)) {
            let entry = entries.iter().find(|entry| entry.backup_id == *id);
            if folder.manifest.is_some() && entry.is_none_or(|entry| is_tidy(entry, folder)) {
                // Without an entry the manifest could not be read, so that nothing here is known to be garbage.
                continue;
            }
            let backup = listing.backup(id);
            let found = match self.find_garbage(&backup, folder).await {
                Ok(found) => found,
                Err(error) => {
                    self.failed(error, failures);
                    continue;
                }
            };
            if found.is_empty() {
                continue;
            }
            let keys: Vec<String> = found.iter().map(|object| object.key.clone()).collect();
            let deleted = if self.task.dry_run { Ok(()) } else { self.storage.delete(&keys).await };
            match deleted {
                Ok(()) => outcome.garbage.extend(found),
                Err(error) => self.failed(EngineError::storage(format!("delete the garbage of {id}"))(error), failures),
            }
        }
        Ok(())
    }

    /// The garbage of one folder, by the manifest as it is now: a backup may have been committed since the listing.
    async fn find_garbage(&self, backup: &BackupRef, folder: &Folder) -> Result<Vec<Garbage>, EngineError> {
        let manifest = match opened::manifest(self.storage.as_ref(), backup).await {
            Ok(manifest) => Some(manifest),
            Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let found = garbage(&folder.objects, manifest.as_ref(), self.now, self.grace());
        let garbage_of =
            |object: &ObjectMeta| Garbage { key: object.key.clone(), size: object.size, modified: object.modified };
        Ok(found.into_iter().map(garbage_of).collect())
    }

    /// Throws away uploads in scope that were begun longer ago than the grace period. The storage is asked once for the whole scope,
    /// not by the folders of clusters: one whose every backup was killed has uploads and no folder.
    async fn uploads(&self, scope: &Scope, outcome: &mut PruneOutcome, failures: &mut Vec<EngineError>) {
        self.events.stage("plan", "unfinished uploads");
        let uploads = match self.storage.unfinished_uploads(&prefix_of(scope)).await {
            Ok(uploads) => uploads,
            Err(error) if error.kind == StorageErrorKind::Unsupported => return,
            Err(error) => return self.failed(EngineError::storage("find unfinished uploads")(error), failures),
        };
        let is_abandoned = |upload: &&UnfinishedUpload| {
            is_ours(&upload.key, scope) && older_than(upload.started, self.now, self.grace())
        };
        for upload in uploads.iter().filter(is_abandoned) {
            let aborted = if self.task.dry_run { Ok(()) } else { self.storage.abort_unfinished(upload).await };
            match aborted {
                Ok(()) => outcome.uploads.push(upload.key.clone()),
                Err(error) => {
                    self.failed(EngineError::storage(format!("abort the upload of {}", upload.key))(error), failures);
                }
            }
        }
    }
}

/// What all keys in a scope begin with. A cluster of any namespace has no beginning of its own.
fn prefix_of(scope: &Scope) -> String {
    match (&scope.namespace, &scope.cluster) {
        (Some(namespace), Some(cluster)) => cluster_folder(namespace, cluster),
        (Some(namespace), None) => format!("{namespace}/"),
        (None, _) => String::new(),
    }
}

/// Whether an upload of this key was begun by redkeep and is in scope. The prefix of a storage may hold what others upload, so
/// that only keys count that redkeep itself writes.
fn is_ours(key: &str, scope: &Scope) -> bool {
    let (namespace, cluster) = match place(key) {
        Place::Manifest(backup) | Place::Pin(backup) | Place::Verification(backup, _) | Place::Artifact(backup) => {
            (backup.namespace, backup.cluster)
        }
        Place::Index(namespace, cluster) if index::is_chunk(key) => (namespace, cluster),
        // It is no cluster's: whoever names one does not mean it.
        Place::Plugin => return scope.namespace.is_none() && scope.cluster.is_none(),
        Place::Index(..) | Place::Foreign => return false,
    };
    scope.namespace.as_ref().is_none_or(|wanted| *wanted == namespace)
        && scope.cluster.as_ref().is_none_or(|wanted| *wanted == cluster)
}

/// Whether a folder holds exactly as many artifacts as its manifest names, all of the winning attempt: then none is garbage and
/// the manifest need not be read again. (One missing and one too many is damage, which `verify` finds.)
fn is_tidy(entry: &CatalogEntry, folder: &Folder) -> bool {
    let attempt = format!("{}{}/", entry.backup().folder().prefix(), entry.attempt);
    let mut artifacts = folder.objects.iter().filter(|object| matches!(place(&object.key), Place::Artifact(_)));
    let mut count = 0;
    artifacts.all(|object| {
        count += 1;
        object.key.starts_with(&attempt)
    }) && count == entry.objects
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn scope(namespace: Option<&str>, cluster: Option<&str>) -> Scope {
        Scope {
            namespace: namespace.map(|name| name.parse().expect("a namespace")),
            cluster: cluster.map(|name| name.parse().expect("a cluster")),
        }
    }

    const ARTIFACT: &str = "default/cache/20261121T091348Z-cache-x7k2p/c3/0/dump.rdb.zst";
    const PLUGIN: &str = "plugins/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.wasm";

    #[rstest]
    #[case::everything(None, None, "", true)]
    #[case::its_namespace(Some("default"), None, "default/", true)]
    #[case::its_cluster(None, Some("cache"), "", true)]
    #[case::both(Some("default"), Some("cache"), "default/cache/", true)]
    #[case::another_namespace(Some("other"), None, "other/", false)]
    #[case::another_cluster(None, Some("cach"), "", false)]
    #[case::its_name_in_another_namespace(Some("other"), Some("cache"), "other/cache/", false)]
    fn a_scope_narrows_which_uploads_are_meant(
        #[case] namespace: Option<&str>,
        #[case] cluster: Option<&str>,
        #[case] prefix: &str,
        #[case] meant: bool,
    ) {
        let scope = scope(namespace, cluster);
        assert_eq!(prefix_of(&scope), prefix);
        assert_eq!(is_ours(ARTIFACT, &scope), meant);
        assert!(!meant || ARTIFACT.starts_with(prefix), "the storage is asked too narrowly");
        assert_eq!(is_ours(PLUGIN, &scope), namespace.is_none() && cluster.is_none());
    }

    #[rstest]
    #[case::an_artifact(ARTIFACT, true)]
    #[case::a_manifest("default/cache/20261121T091348Z-cache-x7k2p/manifest.json", true)]
    #[case::a_pin("default/cache/20261121T091348Z-cache-x7k2p/pin.json", true)]
    #[case::an_index("default/cache/index/2026-11.jsonl", true)]
    #[case::a_plugin(PLUGIN, true)]
    #[case::a_page_of_a_site("site/static/index/page.html", false)]
    #[case::a_chunk_of_nothing("site/static/index/a/2026-11.jsonl", false)]
    #[case::a_folder_without_a_time("default/cache/backup-1/c3/0/dump.rdb.zst", false)]
    #[case::deeper("default/cache/20261121T091348Z-cache-x7k2p/c3/0/1/dump.rdb.zst", false)]
    #[case::beside("default/cache/20261121T091348Z-cache-x7k2p/mine.txt", false)]
    #[case::at_the_top("video.mp4", false)]
    #[case::no_key("", false)]
    fn only_keys_that_redkeep_writes_are_its_uploads(#[case] key: &str, #[case] ours: bool) {
        assert_eq!(is_ours(key, &Scope::default()), ours);
    }
}
