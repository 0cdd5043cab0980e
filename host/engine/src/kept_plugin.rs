//! Third-party plugins, kept beside the backups that they made: restoring then needs only the prefix (DESIGN 5).
//!
//! Kept as `plugins/<sha256>.wasm`, before the manifest that names the digest. Nothing here ever deletes one: other clusters and
//! other writers may be about to name it.

use std::sync::Arc;

use bytes::Bytes;
use redkeep_core::catalog::{Place, place};
use redkeep_core::layout::plugin_key;
use redkeep_core::method::Method;
use redkeep_core::provider::{ProviderError, Providers};
use redkeep_core::storage::{PutOutcome, ReadStorage, StorageErrorKind, WriteStorage};
use redkeep_core::task::MethodSpec;

use crate::error::EngineError;
use crate::index::hex;
use crate::object;

/// The largest plugin that is read back: what the plugin host takes.
const MAX_PLUGIN: u64 = 64 << 20;
/// Why no plugin at hand can read a backup: there is none, it does not read the type, or it is not the one demanded.
const LACKING: [&str; 3] = ["NoPluginReads", "MethodNotFound", "PluginDigest"];

/// Keeps the plugin behind `method`, unless every redkeep has it or it is there.
pub(crate) async fn keep(
    storage: &Arc<dyn WriteStorage>,
    providers: &Arc<dyn Providers>,
    method: &Arc<dyn Method>,
) -> Result<(), EngineError> {
    let Some(component) = providers.component(method.digest()).await? else { return Ok(()) };
    put(storage.as_ref(), method.digest(), component.into()).await
}

/// Copies the plugin of that digest from one storage to another, where it is kept.
pub(crate) async fn copy(
    from: &Arc<dyn WriteStorage>,
    to: &Arc<dyn WriteStorage>,
    digest: &str,
) -> Result<(), EngineError> {
    match read(from.as_ref(), digest).await? {
        Some(component) => put(to.as_ref(), digest, component).await,
        None => Ok(()),
    }
}

async fn put(storage: &dyn WriteStorage, digest: &str, component: Bytes) -> Result<(), EngineError> {
    let key = plugin_key(digest);
    let act = || format!("keep the plugin {digest} beside its backups");
    let size = component.len() as u64;
    match storage.put_if_absent(&key, component).await.map_err(EngineError::storage(act()))? {
        PutOutcome::Created => Ok(()),
        PutOutcome::Exists => {
            let there = storage.head(&key).await.map_err(EngineError::storage(act()))?.size;
            if there == size {
                return Ok(());
            }
            let what = format!("it has {there} bytes, the plugin of that digest has {size}");
            Err(EngineError::Damaged { object: storage.address_of(&key), what })
        }
    }
}

/// The plugin that made a backup, from beside it, where no plugin at hand can read it: `lacking` says why not, and is the answer
/// where none is kept. It is granted what the user names, which is nothing by default, however familiar it is.
pub(crate) async fn load(
    storage: &dyn ReadStorage,
    providers: &Arc<dyn Providers>,
    spec: &MethodSpec,
    digest: &str,
    artifact_types: &[String],
    lacking: ProviderError,
) -> Result<Arc<dyn Method>, EngineError> {
    if spec.file.is_some() || spec.oci.is_some() || !LACKING.contains(&lacking.reason) {
        return Err(lacking.into());
    }
    let Some(component) = read(storage, digest).await? else { return Err(lacking.into()) };
    let origin = storage.address_of(&plugin_key(digest));
    let method = providers.kept_method(component.into(), &origin, spec).await?;
    let is_named = spec.name.is_empty() || spec.name == method.info().name;
    if is_named && artifact_types.iter().all(|artifact_type| method.info().reads(artifact_type)) {
        return Ok(method);
    }
    Err(lacking.into())
}

/// The bytes of a plugin that is kept, checked.
async fn read(storage: &dyn ReadStorage, digest: &str) -> Result<Option<Bytes>, EngineError> {
    let key = plugin_key(digest);
    // The digest is a manifest's word: it must not lead elsewhere.
    if !matches!(place(&key), Place::Plugin) {
        return Ok(None);
    }
    let bytes = match object::read(storage, &key, MAX_PLUGIN).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EngineError::storage("read the plugin kept beside its backups")(error)),
    };
    if hex(&bytes) != digest {
        let what = "its SHA-256 is not the one in its name".to_owned();
        return Err(EngineError::Damaged { object: storage.address_of(&key), what });
    }
    Ok(Some(bytes))
}
