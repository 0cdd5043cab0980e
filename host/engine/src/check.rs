//! Check: whether the newest backup of each cluster is young enough. For monitors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::catalog::CatalogEntry;
use redkeep_core::provider::Providers;
use redkeep_core::task::StorageSpec;
use serde::Serialize;

use crate::cancel;
use crate::catalog::{self, Problem, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;

/// The newest backup of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAge {
    /// The backup.
    pub newest: CatalogEntry,
    /// Seconds since it began; 0 when that lies in the future.
    pub age_seconds: u64,
    /// Whether its last verification failed: there is no good backup of this cluster.
    pub damaged: bool,
    /// Whether it is young enough, and not known to be damaged.
    pub ok: bool,
}

/// What a check found.
#[derive(Debug)]
pub struct CheckOutcome {
    /// Every cluster in scope that has backups.
    pub clusters: Vec<ClusterAge>,
    /// Backups whose manifest cannot be read: a check that cannot look at one does not call its cluster good.
    pub problems: Vec<Problem>,
    /// The first cluster that is too old or damaged, or that there is none: exit code 1.
    pub error: Option<EngineError>,
}

/// Checks the age of the newest backup of each cluster in scope that is not known to be damaged. A backup counts from its
/// start: what came later is not in it.
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
        let mut newest: BTreeMap<(String, String), CatalogEntry> = BTreeMap::new();
        for entry in catalog.entries {
            let cluster = (entry.namespace.to_string(), entry.cluster.to_string());
            // One that is not known to be damaged comes before any that is.
            let rank = |entry: &CatalogEntry| (!is_damaged(entry), entry.age_order());
            if newest.get(&cluster).is_none_or(|known| rank(known) < rank(&entry)) {
                newest.insert(cluster, entry);
            }
        }
        let clusters: Vec<ClusterAge> = newest
            .into_values()
            .map(|newest| {
                let age = now.as_second().saturating_sub(newest.started_at.as_second());
                let age_seconds = u64::try_from(age).unwrap_or(0);
                let damaged = is_damaged(&newest);
                ClusterAge { newest, age_seconds, damaged, ok: !damaged && age_seconds <= max_age.as_secs() }
            })
            .collect();
        let too_old = clusters.iter().find(|cluster| !cluster.ok);
        let error = match too_old {
            Some(cluster) if cluster.damaged => {
                Some(EngineError::NoGoodBackup { backup: cluster.newest.backup_id.to_string() })
            }
            Some(cluster) => Some(EngineError::TooOld {
                cluster: format!("{}/{}", cluster.newest.namespace, cluster.newest.cluster),
                age_seconds: cluster.age_seconds,
                limit_seconds: max_age.as_secs(),
            }),
            None if clusters.is_empty() => Some(EngineError::NoBackup { storage: place(&storage.address(), scope) }),
            None => None,
        };
        Ok(CheckOutcome { clusters, problems: catalog.problems, error })
    })
    .await
}

fn is_damaged(entry: &CatalogEntry) -> bool {
    entry.verified.as_ref().is_some_and(|verified| !verified.ok)
}

fn place(storage: &str, scope: &Scope) -> String {
    match (&scope.namespace, &scope.cluster) {
        (None, None) => storage.to_owned(),
        (None, Some(cluster)) => format!("{storage} for the cluster {cluster}"),
        (Some(namespace), None) => format!("{storage} for the namespace {namespace}"),
        (Some(namespace), Some(cluster)) => format!("{storage} for {namespace}/{cluster}"),
    }
}
