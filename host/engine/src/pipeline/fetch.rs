//! Stored bytes by parts, each checked against its digest before anything else sees it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use redkeep_core::manifest::ArtifactRecord;
use redkeep_core::storage::{ReadStorage, StorageError, StorageErrorKind};
use sha2::{Digest as _, Sha256};

use super::digest::{self, Digest};
use super::error::PipelineError;
use super::part_table::{self, LARGEST_PART, LARGEST_TABLE, Part};

/// Parts fetched at a time: one arrives while the other is decoded.
pub(crate) const READ_AHEAD: usize = 2;

/// A stretch of one object, with its digest.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) key: String,
    pub(crate) range: Range<u64>,
    pub(crate) sha256: Digest,
}

impl Piece {
    pub(crate) fn size(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A failed read, told apart: what is not there, or comes back otherwise, is damage of the backup.
pub(crate) fn failed(storage: &dyn ReadStorage, artifact: &str, key: &str, source: StorageError) -> PipelineError {
    match source.kind {
        StorageErrorKind::NotFound => {
            PipelineError::damaged(artifact, format!("{} is missing", storage.address_of(key)))
        }
        StorageErrorKind::Damaged => PipelineError::damaged(
            artifact,
            format!("{} does not give back what was stored in it", storage.address_of(key)),
        ),
        _ => PipelineError::Fetch { artifact: artifact.to_owned(), source },
    }
}

/// That every stored object of an artifact, its part table included, is there with its size.
pub(crate) async fn check_sizes(storage: &dyn ReadStorage, record: &ArtifactRecord) -> Result<(), PipelineError> {
    let artifact = record.name.as_str();
    let mut expected: Vec<(String, u64)> =
        record.stored_objects().into_iter().map(|object| (object.key, object.size)).collect();
    let total = expected.iter().try_fold(0_u64, |total, (_, size)| total.checked_add(*size));
    if total != Some(record.stored_size) {
        return Err(PipelineError::damaged(artifact, "the manifest's sizes of its objects contradict one another"));
    }
    if let Some(table) = &record.parts {
        expected.push((table.key.clone(), table.size));
    }
    for (key, size) in expected {
        let meta = storage.head(&key).await.map_err(|error| failed(storage, artifact, &key, error))?;
        if meta.size != size {
            let what = format!("{} has {} bytes and should have {size}", storage.address_of(&key), meta.size);
            return Err(PipelineError::damaged(artifact, what));
        }
    }
    Ok(())
}

/// A whole object or a range of it, of exactly `range.end - range.start` bytes, and their digest.
async fn read_exactly(
    storage: &dyn ReadStorage,
    artifact: &str,
    key: &str,
    range: Range<u64>,
) -> Result<(Vec<Bytes>, Digest), PipelineError> {
    let size = range.end - range.start;
    let mut chunks = Vec::new();
    let mut hasher = Sha256::new();
    let mut read = 0_u64;
    if size > 0 {
        let fail = |error| failed(storage, artifact, key, error);
        let mut stream = storage.get(key, Some(range)).await.map_err(fail)?;
        while let Some(chunk) = stream.try_next().await.map_err(fail)? {
            read += chunk.len() as u64;
            if read > size {
                break;
            }
            hasher.update(&chunk);
            chunks.push(chunk);
        }
    }
    if read != size {
        let what = format!("{} gave {read} bytes where {size} are stored", storage.address_of(key));
        return Err(PipelineError::damaged(artifact, what));
    }
    Ok((chunks, digest::finish(hasher)))
}

/// The bytes of a piece. An error unless their digest is right.
pub(crate) async fn fetch(
    storage: &dyn ReadStorage,
    artifact: &str,
    piece: &Piece,
) -> Result<Vec<Bytes>, PipelineError> {
    let (chunks, sha256) = read_exactly(storage, artifact, &piece.key, piece.range.clone()).await?;
    if sha256 == piece.sha256 {
        return Ok(chunks);
    }
    let what = format!(
        "bytes {} to {} of {} are not those that were stored",
        piece.range.start,
        piece.range.end,
        storage.address_of(&piece.key)
    );
    Err(PipelineError::damaged(artifact, what))
}

/// What an artifact is stored as, in order: by its part table, or one piece where it has none.
pub(crate) async fn pieces(storage: &dyn ReadStorage, record: &ArtifactRecord) -> Result<Vec<Piece>, PipelineError> {
    let artifact = record.name.as_str();
    let damaged = |what: &str| PipelineError::damaged(artifact, what);
    let Some(table) = &record.parts else {
        return match record.stored_objects().as_slice() {
            [object] if object.size <= LARGEST_PART => {
                let sha256 =
                    digest::from_hex(&object.sha256).ok_or_else(|| damaged("the manifest's digest of it is none"))?;
                Ok(vec![Piece { key: object.key.clone(), range: 0..object.size, sha256 }])
            }
            _ => Err(damaged("the manifest names no part table for it, and it is too large to go without")),
        };
    };
    if table.size > LARGEST_TABLE {
        return Err(damaged("its part table is larger than any can be"));
    }
    let (chunks, sha256) = read_exactly(storage, artifact, &table.key, 0..table.size).await?;
    if digest::from_hex(&table.sha256) != Some(sha256) {
        let what = format!("its part table {} is not what was stored", storage.address_of(&table.key));
        return Err(PipelineError::damaged(artifact, what));
    }
    let parts = part_table::parse(artifact, &chunks.concat(), table.count, record.stored_size)?;
    drop(chunks);
    split(record, &parts)
}

/// Parts as stretches of the objects they lie in; none lies in two.
fn split(record: &ArtifactRecord, parts: &[Part]) -> Result<Vec<Piece>, PipelineError> {
    let contradicts =
        || PipelineError::damaged(record.name.as_str(), "its part table contradicts the manifest's objects");
    let mut pieces = Vec::with_capacity(parts.len());
    let mut parts = parts.iter().peekable();
    let mut begin = 0_u64;
    for object in record.stored_objects() {
        let end = begin.checked_add(object.size).ok_or_else(contradicts)?;
        while let Some(part) = parts.next_if(|part| part.offset < end) {
            let range = part.offset.checked_sub(begin).zip(part.offset.checked_add(part.size));
            let (start, part_end) = range.ok_or_else(contradicts)?;
            if part_end > end {
                return Err(contradicts());
            }
            let range = start..start + part.size;
            pieces.push(Piece { key: object.key.clone(), range, sha256: part.sha256 });
        }
        begin = end;
    }
    if parts.next().is_some() { Err(contradicts()) } else { Ok(pieces) }
}

/// Fetches a piece as a task of its own, which ends when it is dropped.
pub(crate) fn fetching(
    storage: Arc<dyn ReadStorage>,
    artifact: String,
    piece: Piece,
) -> impl Future<Output = Result<Vec<Bytes>, PipelineError>> + Send {
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        fetch(storage.as_ref(), &artifact, &piece).await
    }));
    async move { task.await.unwrap_or(Err(PipelineError::Internal { stage: "fetch" })) }
}
