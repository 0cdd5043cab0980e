//! Which backup a user means: an id, a unique prefix of one, a name, or `latest`. Decides; reads nothing.

use jiff::Timestamp;

use crate::catalog::{BackupRef, CatalogEntry};
use crate::classify::{Class, Classify};
use crate::task::BackupSelector;

/// The word for the newest backup.
pub const LATEST: &str = "latest";
/// How many candidates an error names.
const SHOWN: usize = 8;

/// Why no single backup is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// The storage has none at all (in that namespace and cluster).
    #[error("there are no backups{}", place(.selector))]
    Empty {
        /// What was asked for.
        selector: Box<BackupSelector>,
        /// `namespace/cluster` that do have backups.
        clusters: Vec<String>,
    },
    /// There are some, and all ended later.
    #[error("there is no backup{} that ended before {before}", place(.selector))]
    NoneBefore {
        /// What was asked for.
        selector: Box<BackupSelector>,
        /// The time.
        before: Timestamp,
        /// The one that ended first, and when.
        oldest: Option<(String, Timestamp)>,
    },
    /// None matches.
    #[error("there is no backup `{}`{}", .selector.backup, place(.selector))]
    NotFound {
        /// What was asked for.
        selector: Box<BackupSelector>,
        /// The nearest ids.
        near: Vec<String>,
    },
    /// Several of one cluster match.
    #[error("`{}` may mean {total} backups: {}", .selector.backup, shown(.candidates, *.total))]
    Ambiguous {
        /// What was asked for.
        selector: Box<BackupSelector>,
        /// The newest of them.
        candidates: Vec<String>,
        /// All of them.
        total: usize,
    },
    /// Several clusters have one that matches.
    #[error("`{}` may mean a backup of any of {} clusters: {}", .selector.backup, .clusters.len(), shown(.clusters, .clusters.len()))]
    SeveralClusters {
        /// What was asked for.
        selector: Box<BackupSelector>,
        /// `namespace/cluster` of each.
        clusters: Vec<String>,
    },
}

fn place(selector: &BackupSelector) -> String {
    let place = match (&selector.namespace, &selector.cluster) {
        (Some(namespace), Some(cluster)) => format!(" of {namespace}/{cluster}"),
        (None, Some(cluster)) => format!(" of cluster {cluster}"),
        (Some(namespace), None) => format!(" in namespace {namespace}"),
        (None, None) => String::new(),
    };
    match &selector.origin {
        Some(origin) => format!("{place} made by {origin}"),
        None => place,
    }
}

fn shown(names: &[String], total: usize) -> String {
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if total > names.len().min(SHOWN) {
        text.push_str(", …");
    }
    text
}

impl Classify for SelectionError {
    fn class(&self) -> Class {
        match self {
            Self::Empty { .. } | Self::NotFound { .. } | Self::NoneBefore { .. } => Class::NotFound,
            Self::Ambiguous { .. } | Self::SeveralClusters { .. } => Class::Usage,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "NoBackups",
            Self::NotFound { .. } | Self::NoneBefore { .. } => "BackupNotFound",
            Self::Ambiguous { .. } => "BackupAmbiguous",
            Self::SeveralClusters { .. } => "ClusterNeeded",
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Empty { clusters, .. } if clusters.is_empty() => {
                "check the storage's address and prefix; `redkeep backup` makes the first one".to_owned()
            }
            Self::Empty { clusters, .. } => {
                format!("clusters with backups here: {}", shown(clusters, clusters.len()))
            }
            Self::NoneBefore { oldest: Some((id, ended)), .. } => format!("the oldest, {id}, ended at {ended}"),
            Self::NoneBefore { oldest: None, .. } => "`redkeep list` shows what there is".to_owned(),
            Self::NotFound { near, .. } if near.is_empty() => "`redkeep list` shows what there is".to_owned(),
            Self::NotFound { near, .. } => format!("did you mean {}?", near.join(" or ")),
            Self::Ambiguous { .. } => "give more of the id, or `latest`".to_owned(),
            Self::SeveralClusters { .. } => "say which by --cluster (and --namespace)".to_owned(),
        })
    }
}

/// The one backup that `selector` means among `backups` (in any order).
///
/// Of a `before` or an `origin` it knows nothing: for those see [`select_entry`]. A whole id wins; else everything whose id begins with the text or whose name is the text (case does not matter) is a
/// candidate, and there must be exactly one. `latest` is the newest of the only cluster; where several began in its second, all
/// of them are the answer, for only their manifests say which ended last.
pub fn select<'a>(backups: &'a [BackupRef], selector: &BackupSelector) -> Result<Vec<&'a BackupRef>, SelectionError> {
    let in_scope: Vec<&BackupRef> = backups
        .iter()
        .filter(|backup| selector.namespace.as_ref().is_none_or(|namespace| *namespace == backup.namespace))
        .filter(|backup| selector.cluster.as_ref().is_none_or(|cluster| *cluster == backup.cluster))
        .collect();
    if in_scope.is_empty() {
        return Err(SelectionError::Empty { selector: Box::new(selector.clone()), clusters: clusters(backups.iter()) });
    }
    let text = selector.backup.to_ascii_lowercase();
    let exact: Vec<&BackupRef> =
        in_scope.iter().copied().filter(|backup| backup.backup_id.as_str().eq_ignore_ascii_case(&text)).collect();
    let candidates: Vec<&BackupRef> = if !exact.is_empty() {
        exact
    } else if text == LATEST {
        in_scope.clone()
    } else {
        in_scope
            .iter()
            .copied()
            .filter(|backup| {
                let id = backup.backup_id.as_str();
                let is_prefix =
                    !text.is_empty() && id.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(&text));
                is_prefix || backup.backup_id.name().eq_ignore_ascii_case(&text)
            })
            .collect()
    };
    let of_clusters = clusters(candidates.iter().copied());
    if of_clusters.len() > 1 {
        return Err(SelectionError::SeveralClusters { selector: Box::new(selector.clone()), clusters: of_clusters });
    }
    let newest = candidates.iter().filter_map(|backup| backup.backup_id.started()).max();
    match candidates.as_slice() {
        [] => Err(SelectionError::NotFound { selector: Box::new(selector.clone()), near: near(&in_scope, &text) }),
        [only] => Ok(vec![*only]),
        _ if text == LATEST => {
            Ok(candidates.into_iter().filter(|backup| backup.backup_id.started() == newest).collect())
        }
        _ => {
            let mut ids: Vec<String> = candidates.iter().map(|backup| backup.backup_id.to_string()).collect();
            ids.sort_unstable_by(|left, right| right.cmp(left));
            let total = ids.len();
            ids.truncate(SHOWN);
            Err(SelectionError::Ambiguous { selector: Box::new(selector.clone()), candidates: ids, total })
        }
    }
}

/// The one backup that `selector` means among those of `entries` that its origin made, and that had ended before its time.
pub fn select_entry(entries: &[CatalogEntry], selector: &BackupSelector) -> Result<BackupRef, SelectionError> {
    let made = |entry: &&CatalogEntry| selector.origin.as_ref().is_none_or(|origin| *origin == entry.origin);
    let entries: Vec<&CatalogEntry> = entries.iter().filter(made).collect();
    let ended: Vec<BackupRef> = entries
        .iter()
        .filter(|entry| selector.before.is_none_or(|before| entry.completed_at < before))
        .map(|entry| entry.backup())
        .collect();
    let in_scope = |backup: &BackupRef| {
        selector.namespace.as_ref().is_none_or(|namespace| *namespace == backup.namespace)
            && selector.cluster.as_ref().is_none_or(|cluster| *cluster == backup.cluster)
    };
    let oldest = entries.iter().filter(|entry| in_scope(&entry.backup())).min_by_key(|entry| entry.completed_at);
    if let (Some(before), Some(oldest)) = (selector.before, oldest.filter(|_| !ended.iter().any(in_scope))) {
        let oldest = Some((oldest.backup_id.to_string(), oldest.completed_at));
        return Err(SelectionError::NoneBefore { selector: Box::new(selector.clone()), before, oldest });
    }
    let meant = select(&ended, selector)?;
    let newest = entries
        .iter()
        .filter(|entry| meant.iter().any(|backup| **backup == entry.backup()))
        .max_by_key(|entry| entry.age_order());
    let nothing = || SelectionError::NotFound { selector: Box::new(selector.clone()), near: Vec::new() };
    newest.map(|entry| entry.backup()).ok_or_else(nothing)
}

fn clusters<'a>(backups: impl Iterator<Item = &'a BackupRef>) -> Vec<String> {
    let names: std::collections::BTreeSet<String> =
        backups.map(|backup| format!("{}/{}", backup.namespace, backup.cluster)).collect();
    names.into_iter().collect()
}

/// The ids or names nearest to what was typed, nearest first, at most three.
fn near(backups: &[&BackupRef], text: &str) -> Vec<String> {
    // Editing distance costs the product of both lengths; the newest thousand are enough to spot a slip of the finger.
    let mut newest: Vec<&BackupRef> = backups.to_vec();
    newest.sort_unstable_by(|left, right| right.backup_id.cmp(&left.backup_id));
    newest.truncate(1000);
    let text: String = text.chars().take(200).collect();
    let mut scored: Vec<(usize, &str)> = newest
        .iter()
        .filter_map(|backup| {
            let id = backup.backup_id.as_str().to_ascii_lowercase();
            let start: String = id.chars().take(text.chars().count()).collect();
            let name = backup.backup_id.name();
            let best = distance(&text, &id).min(distance(&text, &start)).min(distance(&text, name));
            (best * 3 <= text.chars().count()).then(|| (best, backup.backup_id.as_str()))
        })
        .collect();
    scored.sort_by_key(|(distance, _)| *distance);
    scored.into_iter().take(3).map(|(_, id)| id.to_owned()).collect()
}

/// Editing distance (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (column, to) in right.iter().enumerate() {
            let above = row.get(column + 1).copied().unwrap_or(usize::MAX - 1);
            before = (diagonal + usize::from(from != *to)).min(before + 1).min(above + 1);
            diagonal = above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
