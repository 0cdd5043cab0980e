//! The catalog: what a listing of the storage means. Takes keys apart, sums a manifest up in one entry, tells garbage.
//!
//! Existence is the listing's word alone: a backup is there when its `manifest.json` is listed (DESIGN D4).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::facts::counted_keys;
use crate::identifier::{BackupId, COMPACT_TIME, ClusterName, Namespace, timestamp_of};
use crate::layout::{BackupFolder, MANIFEST, PIN, VERIFICATION_PREFIX};
use crate::manifest::Manifest;
use crate::storage::ObjectMeta;
use crate::task::VerifyLevel;

/// Which backup, fully said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupRef {
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster.
    pub cluster: ClusterName,
    /// Its id.
    pub backup_id: BackupId,
}

impl BackupRef {
    /// Where it lies.
    pub fn folder(&self) -> BackupFolder {
        BackupFolder::new(&self.namespace, &self.cluster, &self.backup_id)
    }
}

/// What an object under a backup's folder is, by its key alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The commit.
    Manifest(BackupRef),
    /// The pin.
    Pin(BackupRef),
    /// The result of a verification, and what its key says of it: nothing, where the key is not one that redkeep writes.
    Verification(BackupRef, Option<VerificationSummary>),
    /// Anything deeper: `<attempt>/<shard>/<object>`.
    Artifact(BackupRef),
    /// Part of a cluster's index.
    Index(Namespace, ClusterName),
    /// A plugin kept beside the backups.
    Plugin,
    /// Nothing that redkeep writes. Never touched.
    Foreign,
}

/// First and last year that a backup's id may begin with.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2099;

/// The id in a folder's name, if that is what it is: a time in [`YEARS`], a name, and a uid.
pub fn backup_id_of(folder: &str) -> Option<BackupId> {
    let id: BackupId = folder.parse().ok()?;
    let started = id.started()?;
    let year = started.to_zoned(jiff::tz::TimeZone::UTC).year();
    // `strptime` is lenient; only the one spelling that `BackupId::new` writes is ours.
    let stamp = compact_time(started);
    let rest = folder.strip_prefix(&stamp)?.strip_prefix('-')?;
    let (name, uid) = rest.rsplit_once('-')?;
    (YEARS.contains(&year) && !name.is_empty() && !uid.is_empty()).then_some(id)
}

/// What `key` is.
pub fn place(key: &str) -> Place {
    let mut segments = key.splitn(4, '/');
    let (Some(first), Some(second)) = (segments.next(), segments.next()) else { return Place::Foreign };
    let (Some(third), rest) = (segments.next(), segments.next()) else {
        let is_plugin = first == "plugins"
            && second.strip_suffix(".wasm").is_some_and(|digest| {
                digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            });
        return if is_plugin { Place::Plugin } else { Place::Foreign };
    };
    let (Ok(namespace), Ok(cluster), Some(rest)) = (first.parse(), second.parse(), rest) else {
        return Place::Foreign;
    };
    if third == "index" {
        return Place::Index(namespace, cluster);
    }
    let Some(backup_id) = backup_id_of(third) else { return Place::Foreign };
    let backup = BackupRef { namespace, cluster, backup_id };
    match rest {
        MANIFEST => Place::Manifest(backup),
        PIN => Place::Pin(backup),
        _ if backup.folder().is_annotation(key) => Place::Verification(backup, VerificationSummary::in_name(rest)),
        // Writers only ever put objects at `<attempt>/<shard>/<object>`, so that anything else is somebody else's.
        _ if rest.split('/').count() == 3 && rest.split('/').all(|segment| !segment.is_empty()) => {
            Place::Artifact(backup)
        }
        _ => Place::Foreign,
    }
}

/// How a verification ended, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationSummary {
    /// When.
    pub time: Timestamp,
    /// How much was proved.
    pub level: VerifyLevel,
    /// Whether it held.
    pub ok: bool,
}

const LEVELS: [VerifyLevel; 3] = [VerifyLevel::Checksum, VerifyLevel::Parse, VerifyLevel::Boot];

/// How a level is spelled in a key.
fn level_word(level: VerifyLevel) -> &'static str {
    match level {
        VerifyLevel::Checksum => "checksum",
        VerifyLevel::Parse => "parse",
        VerifyLevel::Boot => "boot",
    }
}

impl VerificationSummary {
    /// The name of the object that holds this result: it says all of it, so that a listing needs no reading.
    pub fn object_name(&self) -> String {
        let outcome = if self.ok { "ok" } else { "failed" };
        format!("{VERIFICATION_PREFIX}{}-{}-{outcome}.json", compact_time(self.time), level_word(self.level))
    }

    /// What such a name says.
    pub fn in_name(name: &str) -> Option<Self> {
        let words = name.strip_prefix(VERIFICATION_PREFIX)?.strip_suffix(".json")?;
        let mut words = words.splitn(3, '-');
        let time = timestamp_of(words.next()?)?;
        let level = words.next()?;
        let level = LEVELS.into_iter().find(|known| level_word(*known) == level)?;
        let ok = match words.next()? {
            "ok" => true,
            "failed" => false,
            _ => return None,
        };
        Some(Self { time, level, ok })
    }

    /// What several results say together. A failure stands against whatever held before it, for each level includes those below;
    /// but a later success outweighs only results of its own level or below: digests that hold do not mend a file that could
    /// not be read.
    pub fn standing(mut results: Vec<Self>) -> Option<Self> {
        // Of the same second, the failure counts as the later one.
        results.sort_by_key(|result| (result.time, !result.ok, result.level));
        results.into_iter().reduce(
            |standing, later| {
                if !later.ok || later.level >= standing.level { later } else { standing }
            },
        )
    }
}

/// One backup in one line: what lists, selection and retention need, without reading its manifest again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogEntry {
    /// The backup's id.
    pub backup_id: BackupId,
    /// Its name.
    pub name: String,
    /// Namespace.
    pub namespace: Namespace,
    /// Cluster.
    pub cluster: ClusterName,
    /// Who made it.
    pub origin: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When its last artifact was stored.
    pub completed_at: Timestamp,
    /// The method's name.
    pub method: String,
    /// The types of its artifacts, each once.
    pub artifact_types: Vec<String>,
    /// Plain bytes.
    pub size: u64,
    /// Stored bytes.
    pub stored_size: u64,
    /// Shards.
    pub shards: u64,
    /// Keys, where the method counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The folder of the attempt that won.
    pub attempt: crate::identifier::AttemptId,
    /// Objects that the manifest names, part tables included.
    pub objects: u64,
    /// Whether it is pinned.
    #[serde(default)]
    pub pinned: bool,
    /// What its verifications say together, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerificationSummary>,
}

impl CatalogEntry {
    /// Sums a manifest up; pin and verification are the listing's to add.
    pub fn of(manifest: &Manifest) -> Self {
        let (size, stored_size) = manifest.sizes();
        let types: BTreeSet<&str> = manifest.artifacts.iter().map(|artifact| artifact.artifact_type.as_str()).collect();
        Self {
            backup_id: manifest.backup_id.clone(),
            name: manifest.name.clone(),
            namespace: manifest.namespace.clone(),
            cluster: manifest.cluster.clone(),
            origin: manifest.origin.clone(),
            started_at: manifest.started_at,
            completed_at: manifest.completed_at,
            method: manifest.method.name.clone(),
            artifact_types: types.into_iter().map(str::to_owned).collect(),
            size,
            stored_size,
            shards: manifest.shards.len() as u64,
            keys: counted_keys(&manifest.facts),
            encrypted: manifest.encryption.is_some(),
            attempt: manifest.attempt.clone(),
            objects: named_objects(manifest).len() as u64,
            pinned: false,
            verified: None,
        }
    }

    /// What orders backups of one cluster by age, the newest last.
    pub fn age_order(&self) -> impl Ord + Clone + use<> {
        age_order(self.started_at, self.completed_at, &self.backup_id)
    }

    /// Which backup it is.
    pub fn backup(&self) -> BackupRef {
        BackupRef {
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
            backup_id: self.backup_id.clone(),
        }
    }
}

/// What orders backups by age: the second of their start, which their ids say; then their end; then their ids.
pub fn age_order(started: Timestamp, completed: Timestamp, id: &BackupId) -> impl Ord + Clone + use<> {
    (started.as_second(), completed, id.clone())
}

/// Every object that a manifest names: artifacts and part tables, not the manifest itself.
pub fn named_objects(manifest: &Manifest) -> BTreeSet<String> {
    manifest
        .artifacts
        .iter()
        .flat_map(|artifact| {
            let table = artifact.parts.as_ref().map(|parts| parts.key.clone());
            artifact.stored_objects().into_iter().map(|object| object.key).chain(table)
        })
        .collect()
}

/// Whether every object that the manifest names lies where artifacts lie in the backup's own folder: not elsewhere, and not
/// where its manifest, its pin or a verification's result is. One that does not is not a manifest that redkeep wrote, and
/// following it could delete or read what belongs to others.
pub fn stays_in_its_folder(manifest: &Manifest, folder: &BackupFolder) -> bool {
    named_objects(manifest).iter().all(|key| {
        matches!(place(key), Place::Artifact(backup) if backup.folder() == *folder)
            && key.split('/').all(|segment| segment != "." && segment != "..")
    })
}

/// The garbage among `objects`, all of one backup's folder: what its manifest (if it has one) does not name, except pins and
/// verification results, last written more than `grace` before `now`. Without a manifest pins and results are garbage too.
/// Objects that are not in redkeep's layout are never garbage.
pub fn garbage<'a>(
    objects: &'a [ObjectMeta],
    manifest: Option<&Manifest>,
    now: Timestamp,
    grace: Duration,
) -> Vec<&'a ObjectMeta> {
    let named = manifest.map(named_objects).unwrap_or_default();
    objects
        .iter()
        .filter(|object| match place(&object.key) {
            Place::Manifest(_) | Place::Index(..) | Place::Plugin | Place::Foreign => false,
            Place::Pin(_) | Place::Verification(..) => manifest.is_none(),
            Place::Artifact(_) => !named.contains(&object.key),
        })
        .filter(|object| older_than(object.modified, now, grace))
        .collect()
}

/// Whether `time` lies more than `age` before `now`. A time in the future (clocks differ) does not.
pub fn older_than(time: Timestamp, now: Timestamp, age: Duration) -> bool {
    let elapsed = now.as_millisecond().saturating_sub(time.as_millisecond());
    u64::try_from(elapsed).is_ok_and(|elapsed| u128::from(elapsed) > age.as_millis())
}

/// The compact UTC time in a verification's key.
fn compact_time(time: Timestamp) -> String {
    time.strftime(COMPACT_TIME).to_string()
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
