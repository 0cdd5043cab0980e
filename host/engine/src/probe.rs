//! Probe: what a storage supports, really tried, and what it holds, in a few numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use redkeep_core::catalog::CatalogEntry;
use redkeep_core::provider::Providers;
use redkeep_core::storage::{ProbeCheck, ProbeReport};
use redkeep_core::task::ProbeTask;

use crate::cancel;
use crate::catalog::{self, Catalog, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;

/// The most bytes that the clusters take in a report; those that have no room are counted only.
const CLUSTERS_ROOM: usize = 1500;

/// What a probe found.
#[derive(Debug)]
pub struct ProbeOutcome {
    /// What was tried; `None` where only the catalog was asked for.
    pub report: Option<ProbeReport>,
    /// What it holds.
    pub catalog: Catalog,
    /// Address of the storage.
    pub address: String,
    /// What backups need and the storage does not do.
    pub error: Option<EngineError>,
}

/// Probes.
///
/// # Errors
/// When nothing can be written at all, or the storage cannot be listed. A storage that lacks something is an outcome.
pub async fn probe(
    task: &ProbeTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<ProbeOutcome, EngineError> {
    cancel::cancellable(events, async {
        let storage = providers.storage(&task.storage).await?;
        let address = storage.address();
        let report = if task.catalog_only {
            None
        } else {
            events.stage("probe", &address);
            Some(providers.probe(&task.storage).await?)
        };
        events.stage("plan", "reading the catalog");
        let scope = Scope { namespace: task.namespace.clone(), cluster: task.cluster.clone() };
        let catalog = catalog::load(&storage, &scope).await?;
        let error = report.as_ref().and_then(|report| unusable(report, &address));
        Ok(ProbeOutcome { report, catalog, address, error })
    })
    .await
}

fn unusable(report: &ProbeReport, address: &str) -> Option<EngineError> {
    let lacks: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.required && !check.supported)
        .map(|check| format!("{} ({})", check.name, check.detail))
        .collect();
    let storage = address.to_owned();
    (!lacks.is_empty()).then(|| EngineError::StorageUnusable { storage, lacks: lacks.join("; ") })
}

impl ProbeOutcome {
    /// As facts of a report.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = summary(&self.catalog.entries);
        facts.insert("storage".to_owned(), self.address.clone());
        facts.insert("problems".to_owned(), self.catalog.problems.len().to_string());
        if let Some(report) = &self.report {
            facts.insert("usable".to_owned(), if report.usable() { "yes" } else { "no" }.to_owned());
            facts.extend(report.checks.iter().map(|check| (format!("supports-{}", check.name), said(check))));
        }
        facts
    }
}

/// `yes`, or `no` and what was seen; `no, needed` where backups cannot do without it.
fn said(check: &ProbeCheck) -> String {
    const SHOWN: usize = 120;
    if check.supported {
        return "yes".to_owned();
    }
    let detail: String = check.detail.chars().take(SHOWN).collect();
    let needed = if check.required { ", needed" } else { "" };
    format!("no{needed}: {detail}")
}

/// `NAMESPACE/CLUSTER=BACKUPS,STORED BYTES,NEWEST`, one behind the other, as many as have room.
fn counts(clusters: &BTreeMap<String, Vec<&CatalogEntry>>) -> String {
    let mut text = String::new();
    for (name, entries) in clusters {
        let stored = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.stored_size));
        let newest = entries.iter().map(|entry| entry.completed_at).max().unwrap_or_default();
        let one = format!("{name}={},{stored},{newest}", entries.len());
        if text.len() + one.len() >= CLUSTERS_ROOM {
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&one);
    }
    text
}

/// Counts, sizes and ages of backups.
fn summary(entries: &[CatalogEntry]) -> BTreeMap<String, String> {
    let mut clusters: BTreeMap<String, Vec<&CatalogEntry>> = BTreeMap::new();
    for entry in entries {
        clusters.entry(format!("{}/{}", entry.namespace, entry.cluster)).or_default().push(entry);
    }
    let sum = |size: fn(&CatalogEntry) -> u64| entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(size(entry)));
    let mut facts = BTreeMap::from([
        ("backups".to_owned(), entries.len().to_string()),
        ("size".to_owned(), sum(|entry| entry.size).to_string()),
        ("stored-size".to_owned(), sum(|entry| entry.stored_size).to_string()),
        ("pinned".to_owned(), entries.iter().filter(|entry| entry.pinned).count().to_string()),
        ("clusters".to_owned(), clusters.len().to_string()),
        ("cluster-counts".to_owned(), counts(&clusters)),
    ]);
    let by_end = |entry: &&CatalogEntry| (entry.completed_at, entry.backup_id.clone());
    let is_verified = |entry: &&CatalogEntry| entry.verified.as_ref().is_some_and(|verified| verified.ok);
    for (key, entry) in [
        ("oldest", entries.iter().min_by_key(by_end)),
        ("newest", entries.iter().max_by_key(by_end)),
        ("newest-verified", entries.iter().filter(is_verified).max_by_key(by_end)),
    ] {
        if let Some(entry) = entry {
            facts.insert(key.to_owned(), entry.completed_at.to_string());
            facts.insert(format!("{key}-id"), entry.backup_id.to_string());
        }
    }
    facts
}
