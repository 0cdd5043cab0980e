//! A file of the staging folder, being written: what the plugin makes next waits for neither the write before nor the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::stream::{Artifact, Sink};
use tokio::task::JoinHandle;

use super::super::{blocking, file_error};
use super::remove;

/// One file being written; removed again when it is dropped unfinished.
pub(super) struct FileSink {
    folder: Arc<File>,
    busy: Arc<Mutex<BTreeSet<String>>>,
    pen: Pen,
    path: String,
    written: u64,
    /// Taken, and not on its way yet: a turn of another thread for each chunk would cost as much as writing it.
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    /// What was written before is on its way to the disk meanwhile: else all of it waits for the end.
    sync: Option<JoinHandle<io::Result<()>>>,
    /// What had been written when that began.
    synced: u64,
}

/// Bytes that gather in memory before they are sent to the disk.
const SYNC_EVERY: u64 = 32 << 20;
/// Bytes of one turn of writing.
const BATCH: usize = 1 << 20;
/// And no more pieces, however small.
const PIECES: usize = 64;

/// Who has the file. One write is on its way while the plugin makes the next; its failure is the next call's.
enum Pen {
    Idle(File),
    Writing(JoinHandle<Result<File, MethodError>>),
    /// A call was cancelled, or a write failed.
    Lost,
}

impl FileSink {
    pub(super) fn new(folder: Arc<File>, busy: Arc<Mutex<BTreeSet<String>>>, file: File, path: String) -> Self {
        Self {
            folder,
            busy,
            pen: Pen::Idle(file),
            path,
            written: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            sync: None,
            synced: 0,
        }
    }

    /// The file, once the write before is through.
    async fn take(&mut self) -> Result<File, MethodError> {
        match std::mem::replace(&mut self.pen, Pen::Lost) {
            Pen::Idle(file) => Ok(file),
            Pen::Writing(write) => write.await.unwrap_or_else(|error| {
                Err(file_error("write", &self.path, code::TARGET_IO, &io::Error::other(error)))
            }),
            Pen::Lost => {
                let why = format!("failed to write {}: an earlier write was not finished", self.path);
                Err(MethodError::new(code::TARGET_IO, why))
            }
        }
    }
}

impl FileSink {
    /// Sends what is written by now to the disk, unless an earlier such turn is still at it. The system tells a failure once, to
    /// whoever asks first: it is kept for the end.
    fn sync_behind(&mut self, file: &File) {
        if self.written - self.synced >= SYNC_EVERY && self.sync.is_none() {
            let Ok(file) = file.try_clone() else { return };
            self.synced = self.written;
            self.sync = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        }
    }

    /// Writes what was gathered, once the write before is through.
    async fn flush(&mut self) -> Result<(), MethodError> {
        let mut file = self.take().await?;
        self.synced(false).await?;
        self.sync_behind(&file);
        let (path, batch) = (self.path.clone(), std::mem::take(&mut self.gathered));
        self.written += std::mem::take(&mut self.gathered_bytes) as u64;
        self.pen = Pen::Writing(tokio::task::spawn_blocking(move || {
            match batch.iter().try_for_each(|data| file.write_all(data)) {
                Ok(()) => Ok(file),
                Err(error) => Err(file_error("write", &path, code::TARGET_IO, &error)),
            }
        }));
        Ok(())
    }

    /// How the last turn ended, if it has.
    async fn synced(&mut self, wait: bool) -> Result<(), MethodError> {
        let Some(sync) = self.sync.take_if(|sync| wait || sync.is_finished()) else { return Ok(()) };
        let result = sync.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        result.map_err(|error| file_error("write", &self.path, code::TARGET_IO, &error))
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path) {
            let _ = remove(&self.folder, &self.path.split('/').collect::<Vec<_>>());
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        self.gathered_bytes += data.len();
        self.gathered.push(data);
        if self.gathered_bytes < BATCH && self.gathered.len() < PIECES {
            return Ok(());
        }
        self.flush().await
    }

    async fn finish(mut self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        self.flush().await?;
        let (file, path) = (self.take().await?, self.path.clone());
        self.synced(true).await?;
        blocking(move || file.sync_all().map_err(|error| file_error("write", &path, code::TARGET_IO, &error))).await?;
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
        Ok(Artifact { name: self.path.clone(), size: self.written, sha256: String::new(), attributes })
    }
}
