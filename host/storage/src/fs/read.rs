//! Reading a file as an object: large blocks, one read ahead, an early end is an error.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use redkeep_core::storage::{ObjectMeta, ObjectStream, StorageError, StorageErrorKind};
use rustix::fs::{Advice, OFlags};
use tokio::task::JoinHandle;

use super::{io_error, require_root, resolve};
use crate::range::check_range;

/// Bytes of one read: large enough that the hop to the blocking thread costs nothing beside it.
const BLOCK: u64 = 1024 * 1024;

/// What the file system says of a regular file.
pub(super) fn meta(key: String, metadata: &Metadata) -> ObjectMeta {
    let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    ObjectMeta {
        key,
        size: metadata.len(),
        modified: Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH),
        etag: Some(format!("{:x}-{:x}-{nanoseconds:x}", metadata.ino(), metadata.len())),
    }
}

pub(super) fn head(root: &Path, key: &str) -> Result<ObjectMeta, StorageError> {
    require_root(root)?;
    let path = resolve(root, key)?;
    let act = format!("failed to look up {}", path.display());
    let metadata = std::fs::symlink_metadata(&path).map_err(|error| missing_or(&act, error))?;
    if metadata.is_file() { Ok(meta(key.to_owned(), &metadata)) } else { Err(not_an_object(&act)) }
}

fn not_an_object(act: &str) -> StorageError {
    StorageError::new(StorageErrorKind::NotFound, format!("{act}: it is not a file"))
}

fn missing_or(act: &str, error: std::io::Error) -> StorageError {
    match error.kind() {
        // A key below another object's key: in a bucket there is nothing there either.
        std::io::ErrorKind::NotADirectory => StorageError::new(StorageErrorKind::NotFound, act).caused_by(error),
        _ => io_error(act, error),
    }
}

/// A range of an open file.
pub(super) struct Reader {
    file: File,
    left: u64,
    address: String,
}

impl Reader {
    pub(super) fn open(root: &Path, key: &str, range: Option<Range<u64>>) -> Result<Self, StorageError> {
        require_root(root)?;
        let path = resolve(root, key)?;
        let address = path.display().to_string();
        let act = format!("failed to read {address}");
        // Not waiting: a named pipe under this key must not hang the reader.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let mut file = opened.map_err(|error| missing_or(&act, error))?;
        let metadata = file.metadata().map_err(|error| io_error(&act, error))?;
        if !metadata.is_file() {
            return Err(not_an_object(&act));
        }
        let range = check_range(&address, range, metadata.len())?;
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start)).map_err(|error| io_error(&act, error))?;
        }
        // Only a hint; a file system that does not know it reads on as it did.
        let _ = rustix::fs::fadvise(&file, range.start, None, Advice::Sequential);
        Ok(Self { file, left: range.end - range.start, address })
    }

    fn block(mut self) -> (Self, Result<Bytes, StorageError>) {
        let wanted = self.left.min(BLOCK);
        let mut data = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
        let result = match (&mut self.file).take(wanted).read_to_end(&mut data) {
            Err(error) => Err(io_error(&format!("failed to read {}", self.address), error)),
            Ok(count) if (count as u64) < wanted => Err(StorageError::new(
                StorageErrorKind::Damaged,
                format!("failed to read {}: it became shorter while it was read", self.address),
            )),
            Ok(_) => Ok(Bytes::from(data)),
        };
        self.left = if result.is_ok() { self.left - wanted } else { 0 };
        (self, result)
    }

    fn next(self) -> Option<JoinHandle<(Self, Result<Bytes, StorageError>)>> {
        (self.left > 0).then(|| tokio::task::spawn_blocking(move || self.block()))
    }

    pub(super) fn stream(self) -> ObjectStream {
        let address = self.address.clone();
        stream::unfold((self.next(), address), |(ahead, address)| async move {
            match ahead?.await {
                // The next block is read while the caller works on this one.
                Ok((reader, item)) => Some((item, (reader.next(), address))),
                Err(error) => {
                    let act = format!("failed to read {address}");
                    Some((Err(StorageError::new(StorageErrorKind::Other, act).caused_by(error)), (None, address)))
                }
            }
        })
        .boxed()
    }
}
