//! Small objects, read whole and within a limit.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use redkeep_core::storage::{ReadStorage, StorageError, StorageErrorKind};

/// The largest manifest that is read: a thousand shards with two artifacts each need about 2 MiB.
pub(crate) const MAX_MANIFEST: u64 = 32 << 20;
/// The largest manifest of which many are read at the same time.
pub(crate) const SMALL_MANIFEST: u64 = 1 << 20;

/// The whole object; `Damaged` when it is longer than `limit`.
pub(crate) async fn read(storage: &dyn ReadStorage, key: &str, limit: u64) -> Result<Bytes, StorageError> {
    let mut stream = storage.get(key, None).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            let act = format!("failed to read {}: it is longer than {limit} bytes", storage.address_of(key));
            return Err(StorageError::new(StorageErrorKind::Damaged, act));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
