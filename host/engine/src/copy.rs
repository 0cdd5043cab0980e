//! Copy: backups as they are to another storage, every digest checked on the way, the manifest last.
//!
//! What is there already is not sent again, so that a copy that stopped goes on where it was. Pins are not copied.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use redkeep_core::catalog::BackupRef;
use redkeep_core::manifest::{Manifest, StoredObject};
use redkeep_core::method::LogLevel;
use redkeep_core::provider::Providers;
use redkeep_core::storage::{ObjectMeta, PutOutcome, ReadStorage, StorageError, StorageErrorKind, WriteStorage};
use redkeep_core::task::CopyTask;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cancel;
use crate::catalog::{self, Scope};
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::index::to_hex;
use crate::kept_plugin;
use crate::object;
use crate::opened;

/// What a copy did.
#[derive(Debug)]
pub struct CopyOutcome {
    /// Every backup that is now at the destination.
    pub copies: Vec<Copied>,
    /// What could not be copied; all else was.
    pub error: Option<EngineError>,
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// Which one.
    #[serde(flatten)]
    pub backup: BackupRef,
    /// Whether it was copied now; else it was there already.
    pub copied: bool,
    /// Bytes sent.
    pub bytes: u64,
}

/// Copies backups.
pub async fn copy(
    task: &CopyTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<CopyOutcome, EngineError> {
    cancel::cancellable(events, async {
        let from = providers.storage(&task.storage).await?;
        let to = providers.storage(&task.to).await?;
        let mut backups = Vec::new();
        if task.backups.is_empty() {
            backups = catalog::backups(&from, &Scope::default()).await?;
        }
        for selector in &task.backups {
            let backup = opened::find(&from, selector).await?;
            if !backups.contains(&backup) {
                backups.push(backup);
            }
        }
        let total = backups.len();
        let mut copies = Vec::new();
        let mut failures = Vec::new();
        for (index, backup) in backups.into_iter().enumerate() {
            events.stage("copy", backup.backup_id.as_str());
            match copy_backup(&from, &to, &backup, events).await {
                Ok(bytes) => copies.push(Copied { backup, copied: bytes.is_some(), bytes: bytes.unwrap_or(0) }),
                Err(error) => {
                    events.log(LogLevel::Error, &error.chain(), &[]);
                    failures.push(error);
                }
            }
            events.progress("", "copy", "backups", index as u64 + 1, Some(total as u64));
        }
        let failed = failures.len();
        let first = failures.into_iter().next().map(Box::new);
        // A single backup's failure is the failure.
        let error = first.map(|source| match total {
            1 => *source,
            _ => EngineError::Partly { act: format!("copy to {}", to.address()), failed, total, source },
        });
        Ok(CopyOutcome { copies, error })
    })
    .await
}

/// Copies one backup; `None` when it is there already.
async fn copy_backup(
    from: &Arc<dyn WriteStorage>,
    to: &Arc<dyn WriteStorage>,
    backup: &BackupRef,
    events: &Arc<dyn TaskEvents>,
) -> Result<Option<u64>, EngineError> {
    let key = backup.folder().manifest();
    let act = format!("copy the backup {}", backup.backup_id);
    let bytes = object::read(from.as_ref(), &key, object::MAX_MANIFEST).await.map_err(EngineError::storage(&act))?;
    let manifest = opened::parse_manifest(from.as_ref(), backup, &bytes)?;
    let conflict = || EngineError::CopyConflict { manifest: to.address_of(&key) };
    match object::read(to.as_ref(), &key, object::MAX_MANIFEST).await {
        Ok(there) if there == bytes => return Ok(None),
        Ok(_) => return Err(conflict()),
        Err(error) if error.kind == StorageErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::storage(&act)(error)),
    }
    let objects = objects(&manifest);
    let total = objects.iter().map(|object| object.size).fold(0, u64::saturating_add);
    let mut done = 0_u64;
    let mut sent = 0_u64;
    for object in &objects {
        if !is_there(to, object).await.map_err(EngineError::storage(&act))? {
            let copied = copy_object(from, to, object, &act, |bytes| {
                events.progress(backup.backup_id.as_str(), "copy", "bytes", done.saturating_add(bytes), Some(total));
            })
            .await?;
            sent = sent.saturating_add(copied);
        }
        done = done.saturating_add(object.size);
    }
    kept_plugin::copy(from, to, &manifest.method.digest).await?;
    let put = to.put_if_absent(&key, bytes.clone()).await.map_err(EngineError::storage(&act))?;
    if put == PutOutcome::Exists {
        let there = object::read(to.as_ref(), &key, object::MAX_MANIFEST).await.map_err(EngineError::storage(&act))?;
        if there != bytes {
            return Err(conflict());
        }
    }
    Ok(Some(sent))
}

/// Every object that the manifest names, with its digest.
fn objects(manifest: &Manifest) -> Vec<StoredObject> {
    manifest
        .artifacts
        .iter()
        .flat_map(|artifact| {
            let table = artifact.parts.as_ref().map(|table| StoredObject {
                key: table.key.clone(),
                size: table.size,
                sha256: table.sha256.clone(),
            });
            artifact.stored_objects().into_iter().chain(table)
        })
        .collect()
}

/// Whether the destination has the object, whole: an earlier copy's. It is read, for a size proves nothing.
async fn is_there(to: &Arc<dyn WriteStorage>, object: &StoredObject) -> Result<bool, StorageError> {
    match to.head(&object.key).await {
        Ok(ObjectMeta { size, .. }) if size == object.size => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut digest = Sha256::new();
    let mut stream = to.get(&object.key, None).await?;
    while let Some(chunk) = stream.try_next().await? {
        digest.update(&chunk);
    }
    Ok(to_hex(&digest.finalize()) == object.sha256)
}

/// Sends one object; it appears only when its digest is right.
async fn copy_object(
    from: &Arc<dyn WriteStorage>,
    to: &Arc<dyn WriteStorage>,
    object: &StoredObject,
    act: &str,
    progress: impl Fn(u64),
) -> Result<u64, EngineError> {
    let address = from.address_of(&object.key);
    let damaged = |what: String| EngineError::Damaged { object: address.clone(), what };
    let source: &dyn ReadStorage = from.as_ref();
    let mut stream = match source.get(&object.key, None).await {
        Ok(stream) => stream,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Err(damaged("it is missing".to_owned())),
        Err(error) => return Err(EngineError::storage(act)(error)),
    };
    let mut upload = to.create(&object.key).await.map_err(EngineError::storage(act))?;
    let mut digest = Sha256::new();
    let mut bytes = 0_u64;
    let mut sent = async || -> Result<(), EngineError> {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(EngineError::storage(act))?;
            bytes += chunk.len() as u64;
            digest.update(&chunk);
            upload.write(chunk).await.map_err(EngineError::storage(act))?;
            progress(bytes);
        }
        Ok(())
    };
    let sent = sent().await;
    let checked = sent.and_then(|()| {
        if bytes != object.size {
            return Err(damaged(format!("it has {bytes} bytes, its manifest says {}", object.size)));
        }
        if to_hex(&digest.finalize()) != object.sha256 {
            return Err(damaged("its SHA-256 is not what its manifest says".to_owned()));
        }
        Ok(())
    });
    match checked {
        Ok(()) => {
            upload.finish().await.map_err(EngineError::storage(act))?;
            Ok(bytes)
        }
        Err(error) => {
            // Best effort: what stays is an unfinished upload, which `prune` removes.
            let _ = upload.abort().await;
            Err(error)
        }
    }
}
