//! Check: whether the newest good backup of each cluster is young enough, and there. For monitors.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use redkeep_core::Timestamp;
use redkeep_core::catalog::CatalogEntry;
use redkeep_core::provider::Providers;
use redkeep_core::storage::{ObjectMeta, WriteStorage};
use redkeep_core::task::StorageSpec;
use serde::Serialize;

use crate::cancel;
use crate::catalog::{self, Problem, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::presence;

/// The newest backup of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAge {
    /// The backup.
    pub newest: CatalogEntry,
    /// Seconds since it began; 0 when that lies in the future.
    pub age_seconds: u64,
    /// Whether its last verification failed or parts of it are missing: there is no good backup of this cluster.
    pub damaged: bool,
    /// Whether it is young enough, there, and not known to be damaged.
    pub ok: bool,
}

/// What a check found.
#[derive(Debug)]
pub struct CheckOutcome {
    /// Every cluster in scope that has backups.
    pub clusters: Vec<ClusterAge>,
    /// Backups whose manifest cannot be read: a check that cannot look at one does not call its cluster good.
    pub problems: Vec<Problem>,
    /// What was noticed: newer backups that were passed over.
    pub warnings: Vec<String>,
    /// The first cluster that is too old or damaged, or that there is none: exit code 1.
    pub error: Option<EngineError>,
}

/// Checks the age of the newest backup of each cluster in scope that is not known to be damaged, and whose objects are there in
/// their sizes. A backup counts from its start: what came later is not in it.
pub async fn check(
    storage: &StorageSpec,
    scope: &Scope,
    max_age: Duration,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<CheckOutcome, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(storage).await?;
        let catalog = catalog::load(&storage, scope).await?;
        let now = providers.now();
        let mut by_cluster: BTreeMap<(String, String), Vec<CatalogEntry>> = BTreeMap::new();
        for entry in catalog.entries {
            by_cluster.entry((entry.namespace.to_string(), entry.cluster.to_string())).or_default().push(entry);
        }
        let mut warnings = Vec::new();
        let mut clusters = Vec::new();
        let mut why = BTreeMap::new();
        for (cluster, mut entries) in by_cluster {
            // One that is not known to be damaged comes before any that is.
            entries.sort_by_cached_key(|entry| (failed_verification(entry), Reverse(entry.age_order())));
            let is_young = |entry: &CatalogEntry| age(entry, now) <= max_age.as_secs();
            let mut whole = None;
            for entry in entries.iter().filter(|entry| !failed_verification(entry)) {
                // Of one that is too old it does not matter what is there of it.
                let missing = if is_young(entry) { missing(&storage, entry).await? } else { None };
                let Some(what) = missing else {
                    whole = Some(entry.clone());
                    break;
                };
                warnings.push(format!("{} is damaged: {what}", entry.backup_id));
                why.entry(cluster.clone()).or_insert(what);
            }
            // Where none is whole, the newest of those that are not.
            let damaged = whole.is_none();
            let Some(newest) = whole.or_else(|| entries.into_iter().next()) else { continue };
            let age_seconds = age(&newest, now);
            let ok = !damaged && is_young(&newest);
            clusters.push(ClusterAge { newest, age_seconds, damaged, ok });
        }
        let too_old = clusters.iter().find(|cluster| !cluster.ok);
        let error = match too_old {
            Some(cluster) if cluster.damaged => {
                let key = (cluster.newest.namespace.to_string(), cluster.newest.cluster.to_string());
                let what = why.remove(&key).unwrap_or_else(|| "it failed its last verification".to_owned());
                Some(EngineError::NoGoodBackup { backup: cluster.newest.backup_id.to_string(), what })
            }
            Some(cluster) => Some(EngineError::TooOld {
                cluster: format!("{}/{}", cluster.newest.namespace, cluster.newest.cluster),
                age_seconds: cluster.age_seconds,
                limit_seconds: max_age.as_secs(),
            }),
            None if clusters.is_empty() => Some(EngineError::NoBackup { storage: place(&storage.address(), scope) }),
            None => None,
        };
        Ok(CheckOutcome { clusters, problems: catalog.problems, warnings, error })
    })
    .await
}

/// Seconds since it began; 0 when that lies in the future.
fn age(entry: &CatalogEntry, now: Timestamp) -> u64 {
    u64::try_from(now.as_second().saturating_sub(entry.started_at.as_second())).unwrap_or(0)
}

fn failed_verification(entry: &CatalogEntry) -> bool {
    entry.verified.as_ref().is_some_and(|verified| !verified.ok)
}

/// What is missing of one backup: its folder is listed, and its manifest read.
async fn missing(storage: &Arc<dyn WriteStorage>, entry: &CatalogEntry) -> Result<Option<String>, EngineError> {
    let backup = entry.backup();
    let act = || format!("list the objects of the backup {}", entry.backup_id);
    let listed: Vec<ObjectMeta> =
        storage.list(backup.folder().prefix()).try_collect().await.map_err(EngineError::storage(act()))?;
    presence::damage(storage.as_ref(), &backup, &listed).await
}

fn place(storage: &str, scope: &Scope) -> String {
    match (&scope.namespace, &scope.cluster) {
        (None, None) => storage.to_owned(),
        (None, Some(cluster)) => format!("{storage} for the cluster {cluster}"),
        (Some(namespace), None) => format!("{storage} for the namespace {namespace}"),
        (Some(namespace), Some(cluster)) => format!("{storage} for {namespace}/{cluster}"),
    }
}
