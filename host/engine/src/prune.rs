//! Prune: retention of each cluster, then garbage: what no manifest names, and uploads that nobody finished.
//!
//! Touches only what stands where redkeep writes; everything else in the storage is left alone and reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::catalog::{BackupRef, CatalogEntry, Place, VerificationSummary, garbage, older_than, place};
use redkeep_core::identifier::{BackupId, ClusterName, Namespace};
use redkeep_core::layout::cluster_folder;
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::retention::{self, Decision};
use redkeep_core::storage::{ObjectMeta, StorageErrorKind, UnfinishedUpload, WriteStorage};
use redkeep_core::task::{PruneTask, VerifyLevel};
use serde::Serialize;

use crate::cancel;
use crate::catalog::{self, ClusterListing, Folder, Problem, Scope};
use crate::delete::remove;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::index;
use crate::opened;
use crate::presence;

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
    /// Objects that belong to no backup and stay: younger than the grace period, or of a backup that may be running.
    pub young_garbage: usize,
    /// Unfinished uploads that stay for the same reasons.
    pub young_uploads: usize,
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

impl PruneOutcome {
    /// Whether there was nothing at all to decide on.
    pub fn is_of_nothing(&self) -> bool {
        let left = self.garbage.len() + self.uploads.len() + self.young_garbage + self.young_uploads;
        self.decisions.is_empty() && self.problems.is_empty() && self.foreign_count == 0 && left == 0
    }
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
        let now = task.as_of.map_or_else(|| providers.now(), |as_of| as_of.min(providers.now()));
        let work = Prune { task, storage, now, events };
        let mut outcome = PruneOutcome::default();
        let mut failures = Vec::new();
        let scope = Scope { namespace: task.namespace.clone(), cluster: task.cluster.clone() };
        let mut running = BTreeSet::new();
        let abandoned = work.uploads(&scope, &mut running, &mut outcome, &mut failures).await;
        for (namespace, cluster) in catalog::clusters(&work.storage, &scope).await? {
            work.cluster(namespace, cluster, &mut running, &mut outcome, &mut failures).await?;
        }
        work.abort(&abandoned, &running, &mut outcome, &mut failures).await;
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
        running: &mut BTreeSet<BackupRef>,
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
        let judged = self.judged(&listing, &catalog.entries, outcome).await?;
        let decisions = retention::plan(&judged, &self.task.keep, self.task.origin.as_deref(), self.now);
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
        self.garbage(&listing, &catalog.entries, &gone, running, outcome, failures).await?;
        outcome.decisions.extend(decisions);
        outcome.problems.extend(catalog.problems);
        Ok(())
    }

    /// The entries as retention shall see them: one whose objects are not all there counts as one whose verification failed, for
    /// it must not stand in for a backup that can be restored. The listing says so of nearly all at no cost; the newest that
    /// counts, on which the others are let go, is compared with its manifest object by object.
    async fn judged(
        &self,
        listing: &ClusterListing,
        entries: &[CatalogEntry],
        outcome: &mut PruneOutcome,
    ) -> Result<Vec<CatalogEntry>, EngineError> {
        let mut judged = entries.to_vec();
        judged.sort_by_cached_key(|entry| std::cmp::Reverse(entry.age_order()));
        let mut is_one_proved = false;
        for entry in &mut judged {
            let Some(folder) = listing.folders.get(&entry.backup_id) else { continue };
            let is_ours = self.task.origin.as_ref().is_none_or(|origin| *origin == entry.origin);
            let counts = is_ours && entry.verified.as_ref().is_none_or(|verified| verified.ok);
            if presence::looks_whole(entry, &folder.objects) && (is_one_proved || !counts) {
                continue;
            }
            match presence::damage(self.storage.as_ref(), &entry.backup(), &folder.objects).await? {
                None => is_one_proved |= counts,
                Some(what) => {
                    let warning = format!("{} is damaged and stands in for no other: {what}", entry.backup_id);
                    self.events.log(LogLevel::Warn, &warning, &[]);
                    outcome.warnings.push(warning);
                    entry.verified =
                        Some(VerificationSummary { time: self.now, level: VerifyLevel::Checksum, ok: false });
                }
            }
        }
        Ok(judged)
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
        running: &mut BTreeSet<BackupRef>,
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
            // Shards of one backup may be captured by tasks of their own, and wait for the longest.
            let is_young = |object: &ObjectMeta| !older_than(object.modified, self.now, self.grace());
            if folder.objects.iter().any(|object| backup_written_to(&object.key).is_some() && is_young(object)) {
                running.insert(backup.clone());
            }
            let (mut found, young) = match self.find_garbage(&backup, folder).await {
                Ok(found) => found,
                Err(error) => {
                    self.failed(error, failures);
                    continue;
                }
            };
            outcome.young_garbage += young;
            if running.contains(&backup) {
                outcome.young_garbage += std::mem::take(&mut found).len();
            }
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

    /// The garbage of one folder, by the manifest as it is now: a backup may have been committed since the listing. And how much
    /// more there is that is younger than the grace period.
    async fn find_garbage(&self, backup: &BackupRef, folder: &Folder) -> Result<(Vec<Garbage>, usize), EngineError> {
        let manifest = match opened::manifest(self.storage.as_ref(), backup).await {
            Ok(manifest) => Some(manifest),
            Err(EngineError::Storage { source, .. }) if source.kind == StorageErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let found = garbage(&folder.objects, manifest.as_ref(), self.now, self.grace());
        let of_any_age = garbage(&folder.objects, manifest.as_ref(), Timestamp::MAX, Duration::ZERO);
        let young = of_any_age.len().saturating_sub(found.len());
        let garbage_of =
            |object: &ObjectMeta| Garbage { key: object.key.clone(), size: object.size, modified: object.modified };
        Ok((found.into_iter().map(garbage_of).collect(), young))
    }

    /// Uploads in scope of which nothing came for longer than the grace period, and into `running` the backups of the others: a
    /// run may take longer than that, as long as it goes on. The storage is asked once for the whole scope, not by the folders
    /// of clusters: one whose every backup was killed has uploads and no folder.
    async fn uploads(
        &self,
        scope: &Scope,
        running: &mut BTreeSet<BackupRef>,
        outcome: &mut PruneOutcome,
        failures: &mut Vec<EngineError>,
    ) -> Vec<UnfinishedUpload> {
        self.events.stage("plan", "unfinished uploads");
        let uploads = match self.storage.unfinished_uploads(&prefix_of(scope)).await {
            Ok(uploads) => uploads,
            Err(error) if error.kind == StorageErrorKind::Unsupported => return Vec::new(),
            Err(error) => {
                self.failed(EngineError::storage("find unfinished uploads")(error), failures);
                return Vec::new();
            }
        };
        let mut abandoned = Vec::new();
        for upload in uploads.into_iter().filter(|upload| is_ours(&upload.key, scope)) {
            let is_old = |time| older_than(time, self.now, self.grace());
            // Only of an old one it matters when it was written last.
            let written = if is_old(upload.started) { self.storage.last_written(&upload).await } else { Ok(self.now) };
            match written {
                Ok(written) if is_old(written) => abandoned.push(upload),
                Ok(_) => {
                    outcome.young_uploads += 1;
                    running.extend(backup_written_to(&upload.key));
                }
                Err(error) if error.kind == StorageErrorKind::NotFound => {}
                Err(error) => {
                    let act = format!("see whether the upload of {} goes on", upload.key);
                    self.failed(EngineError::storage(act)(error), failures);
                    running.extend(backup_written_to(&upload.key));
                }
            }
        }
        abandoned
    }

    /// Throws abandoned uploads away, but for those of backups to which something else was written since.
    async fn abort(
        &self,
        abandoned: &[UnfinishedUpload],
        running: &BTreeSet<BackupRef>,
        outcome: &mut PruneOutcome,
        failures: &mut Vec<EngineError>,
    ) {
        let goes_on =
            |upload: &&UnfinishedUpload| backup_written_to(&upload.key).is_some_and(|backup| running.contains(&backup));
        outcome.young_uploads += abandoned.iter().filter(goes_on).count();
        for upload in abandoned.iter().filter(|upload| !goes_on(upload)) {
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

/// The backup that an artifact is being written for.
fn backup_written_to(key: &str) -> Option<BackupRef> {
    match place(key) {
        Place::Artifact(backup) => Some(backup),
        _ => None,
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
