//! A stored backup, found and opened: its manifest checked, its keys at hand, its method chosen.

use std::sync::Arc;

use redkeep_core::Attribute;
use redkeep_core::catalog::{BackupRef, age_order, stays_in_its_folder};
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::identifier::ShardName;
use redkeep_core::manifest::{Manifest, ShardRecord};
use redkeep_core::method::{Method, Run, RunEvents};
use redkeep_core::provider::Providers;
use redkeep_core::selection::{SelectionError, select, select_entry};
use redkeep_core::storage::{ReadStorage, StorageErrorKind, WriteStorage};
use redkeep_core::task::{BackupSelector, MethodSpec};

use crate::catalog;
use crate::error::EngineError;
use crate::kept_plugin;
use crate::object;
use crate::pipeline::{Keys, StoredStore};

/// Finds the one backup that is meant. Reads no manifest, but where the newest are of one second, or a time is given that it
/// must have ended before, or an origin that must have made it.
pub(crate) async fn find(storage: &Arc<dyn WriteStorage>, selector: &BackupSelector) -> Result<BackupRef, EngineError> {
    if selector.before.is_some() || selector.origin.is_some() {
        let scope = catalog::Scope { namespace: selector.namespace.clone(), cluster: selector.cluster.clone() };
        let catalog = catalog::load(storage, &scope).await?;
        let found = select_entry(&catalog.entries, selector);
        return match (found, selector.before) {
            (found, None) => Ok(or_unreadable(found, &catalog.problems, selector)?),
            (found, Some(_)) => Ok(found?),
        };
    }
    if let (Some(namespace), Some(cluster)) = (&selector.namespace, &selector.cluster)
        && let Some(backup_id) = redkeep_core::catalog::backup_id_of(&selector.backup)
    {
        let backup = BackupRef { namespace: namespace.clone(), cluster: cluster.clone(), backup_id };
        match storage.head(&backup.folder().manifest()).await {
            Ok(_) => return Ok(backup),
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(EngineError::storage(format!("look for the backup {}", selector.backup))(error)),
        }
    }
    // All clusters are listed although one may be named: an error then says which there are.
    let scope = catalog::Scope { namespace: selector.namespace.clone(), cluster: selector.cluster.clone() };
    let mut backups = catalog::backups(storage, &scope).await?;
    if backups.is_empty() && scope.cluster.is_some() {
        backups = catalog::backups(storage, &catalog::Scope::default()).await?;
    }
    let meant = select(&backups, selector)?;
    if let [only] = meant.as_slice() {
        return Ok((*only).clone());
    }
    newest_of(storage.as_ref(), &meant).await.ok_or_else(|| EngineError::Damaged {
        object: storage.address(),
        what: "none of its newest backups has a manifest that can be read".to_owned(),
    })
}

/// What cannot be read says neither who made it nor that it is none of those asked for. Where it would be the one that is meant
/// it is: whoever reads it then says what is wrong with it, and an older backup is not taken for the newest.
fn or_unreadable(
    found: Result<BackupRef, SelectionError>,
    problems: &[catalog::Problem],
    selector: &BackupSelector,
) -> Result<BackupRef, SelectionError> {
    let unreadable: Vec<BackupRef> = problems.iter().map(|problem| problem.backup.clone()).collect();
    let meant = select(&unreadable, selector).ok().and_then(|meant| meant.first().map(|backup| (*backup).clone()));
    match (found, meant) {
        (Ok(found), Some(meant)) if meant.backup_id.started() <= found.backup_id.started() => Ok(found),
        (_, Some(meant)) => Ok(meant),
        (found, None) => found,
    }
}

/// The newest of backups that began in the same second. One whose manifest cannot be read says nothing about itself and comes last.
async fn newest_of(storage: &dyn ReadStorage, backups: &[&BackupRef]) -> Option<BackupRef> {
    let mut newest = None;
    for backup in backups {
        let manifest = manifest(storage, backup).await.ok();
        let rank = manifest.map(|manifest| age_order(manifest.started_at, manifest.completed_at, &backup.backup_id));
        if newest.as_ref().is_none_or(|(known, _)| *known < rank) {
            newest = Some((rank, (*backup).clone()));
        }
    }
    newest.map(|(_, backup)| backup)
}

/// Reads a manifest and checks that it belongs where it lies.
pub(crate) async fn manifest(storage: &dyn ReadStorage, backup: &BackupRef) -> Result<Manifest, EngineError> {
    manifest_within(storage, backup, object::MAX_MANIFEST).await
}

/// The same for a manifest of at most `limit` bytes.
pub(crate) async fn manifest_within(
    storage: &dyn ReadStorage,
    backup: &BackupRef,
    limit: u64,
) -> Result<Manifest, EngineError> {
    let key = backup.folder().manifest();
    let bytes = object::read(storage, &key, limit)
        .await
        .map_err(EngineError::storage(format!("read the manifest of {}", backup.backup_id)))?;
    parse_manifest(storage, backup, &bytes)
}

/// The same for bytes that were read already.
pub(crate) fn parse_manifest(
    storage: &dyn ReadStorage,
    backup: &BackupRef,
    bytes: &[u8],
) -> Result<Manifest, EngineError> {
    let folder = backup.folder();
    let address = storage.address_of(&folder.manifest());
    let manifest = Manifest::parse(&address, bytes)?;
    let is_at_home = manifest.backup_id == backup.backup_id
        && manifest.cluster == backup.cluster
        && manifest.namespace == backup.namespace;
    let damaged = |what: &str| Err(EngineError::Damaged { object: address.clone(), what: what.to_owned() });
    if !is_at_home {
        return damaged("it is the manifest of another backup");
    }
    if !stays_in_its_folder(&manifest, &folder) {
        return damaged("it names objects outside its own folder");
    }
    let has_shard = |name: &ShardName| manifest.shards.iter().any(|shard| shard.name == *name);
    if !manifest.artifacts.iter().all(|artifact| has_shard(&artifact.shard)) {
        return damaged("it names an artifact of a shard that it does not have");
    }
    Ok(manifest)
}

/// A backup that can be read.
pub(crate) struct OpenedBackup {
    pub(crate) storage: Arc<dyn WriteStorage>,
    pub(crate) manifest: Manifest,
    pub(crate) backup: BackupRef,
    keys: Arc<Keys>,
}

impl OpenedBackup {
    /// Finds it, reads its manifest and the keys. Nothing of its artifacts is read.
    pub(crate) async fn open(
        storage: Arc<dyn WriteStorage>,
        selector: &BackupSelector,
        keys: &DecryptionKeys,
        providers: &Arc<dyn Providers>,
    ) -> Result<Self, EngineError> {
        let backup = find(&storage, selector).await?;
        let manifest = manifest(storage.as_ref(), &backup).await?;
        let passphrase = match &keys.passphrase {
            Some(place) => Some(providers.secret(place).await?),
            None => None,
        };
        let keys =
            Keys::read(&keys.identities, passphrase).map_err(EngineError::pipeline("read the decryption keys"))?;
        Ok(Self { storage, manifest, backup, keys: Arc::new(keys) })
    }

    /// Where its manifest lies.
    pub(crate) fn address(&self) -> String {
        self.storage.address_of(&self.backup.folder().manifest())
    }

    /// The artifacts of one shard.
    pub(crate) fn store(&self, shard: &ShardRecord, events: Arc<dyn RunEvents>) -> Arc<StoredStore> {
        let records = self.manifest.artifacts.iter().filter(|artifact| artifact.shard == shard.name).cloned().collect();
        let facts = shard.facts.iter().map(|(key, value)| Attribute::new(key.clone(), value)).collect();
        let storage: Arc<dyn ReadStorage> = self.storage.clone();
        StoredStore::with_encryption(
            storage,
            records,
            facts,
            Arc::clone(&self.keys),
            events,
            self.manifest.encryption.as_ref(),
        )
    }

    /// The method that reads it: the one that captured, unless the user named another or another is at hand; where none is, the
    /// plugin that is kept beside the backup.
    pub(crate) async fn method(
        &self,
        spec: &MethodSpec,
        providers: &Arc<dyn Providers>,
    ) -> Result<Arc<dyn Method>, EngineError> {
        let mut types: Vec<String> =
            self.manifest.artifacts.iter().map(|artifact| artifact.artifact_type.clone()).collect();
        types.sort_unstable();
        types.dedup();
        let made_by = &self.manifest.method;
        match providers.method_that_reads(spec, &made_by.name, &types).await {
            Ok(method) => Ok(method),
            Err(lacking) => {
                kept_plugin::load(self.storage.as_ref(), providers, spec, &made_by.digest, &types, lacking).await
            }
        }
    }

    /// What a call of the method on one shard is given, without server and files.
    pub(crate) fn run(
        &self,
        what: &str,
        shard: &ShardRecord,
        store: Arc<StoredStore>,
        parameters: String,
        events: Arc<dyn RunEvents>,
    ) -> Run {
        Run {
            context: context(what, self.backup.backup_id.as_str(), shard.name.as_str(), self.manifest.shards.len()),
            parameters,
            events,
            artifacts: store,
            redis: None,
            files: None,
            socket: None,
        }
    }
}

/// The attributes that every context has.
pub(crate) fn context(run: &str, backup: &str, shard: &str, shards: usize) -> Vec<Attribute> {
    vec![
        Attribute::new("run", run),
        Attribute::new("backup", backup),
        Attribute::new("shard", shard),
        Attribute::new("shards", shards),
    ]
}
