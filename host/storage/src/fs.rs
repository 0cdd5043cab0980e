//! A folder as storage. An object is a file; it appears whole and durable or not at all.
//!
//! What is being written lies in `.redkeep-tmp/<upload>/<key>` inside the folder, so that the last step is a rename or a
//! hard link on the same file system. No symbolic link below the folder is followed. A folder that is not there is made
//! by the first write; reading it is an error, so that a mistyped path does not look like a storage without backups.

mod list;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use redkeep_core::storage::{
    Listing, ObjectMeta, ObjectStream, PutOutcome, ReadStorage, StorageError, StorageErrorKind, UnfinishedUpload,
    Upload, WriteStorage,
};

use crate::key::{check_folder, check_key, check_prefix};
use place::{Placement, Temporary};

/// A folder of this machine. Clones share it.
#[derive(Clone, Debug)]
pub struct FolderStorage {
    root: Arc<Path>,
}

impl FolderStorage {
    /// The folder at `root`, which need not be there yet. A relative path is taken from the working directory now.
    ///
    /// # Errors
    /// `Invalid` when the path is empty or the working directory is gone.
    pub fn new(root: impl AsRef<Path>) -> Result<Self, StorageError> {
        let root = root.as_ref();
        let absolute = std::path::absolute(root)
            .map_err(|error| io_error(&format!("failed to use the folder {}", root.display()), error))?;
        Ok(Self { root: absolute.into() })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Runs file calls where they may wait.
async fn blocking<T: Send + 'static>(
    act: String,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StorageError::new(StorageErrorKind::Other, act).caused_by(error)),
    }
}

/// An error of the operating system, with what the user can do about it.
fn io_error(act: &str, error: io::Error) -> StorageError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (kind, help) = match (error.kind(), errno) {
        (_, Some(Errno::NOSPC | Errno::DQUOT)) => {
            (StorageErrorKind::Full, Some("free space or quota on the file system, or use another folder"))
        }
        (_, Some(Errno::FBIG)) => {
            (StorageErrorKind::Full, Some("the file system or a limit (ulimit -f) caps a file's size"))
        }
        (_, Some(Errno::ROFS)) => (StorageErrorKind::Denied, Some("the file system is mounted read-only")),
        (_, Some(Errno::LOOP)) => (StorageErrorKind::Denied, Some("symbolic links inside a storage are not followed")),
        (io::ErrorKind::PermissionDenied, _) => {
            (StorageErrorKind::Denied, Some("give this user the right to the folder, or run as the one who has it"))
        }
        (io::ErrorKind::NotFound, _) => (StorageErrorKind::NotFound, None),
        (io::ErrorKind::AlreadyExists, _) => (StorageErrorKind::AlreadyExists, None),
        (io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput, _) => {
            (StorageErrorKind::Invalid, Some("a storage is a folder; check the path"))
        }
        (io::ErrorKind::TimedOut, _) => (StorageErrorKind::TimedOut, None),
        (_, Some(Errno::STALE | Errno::HOSTDOWN | Errno::HOSTUNREACH)) => {
            (StorageErrorKind::Unreachable, Some("the network file system does not answer"))
        }
        _ => (StorageErrorKind::Other, None),
    };
    let error = StorageError::new(kind, act).caused_by(error);
    match help {
        Some(help) => error.with_help(help),
        None => error,
    }
}

/// The folder must be there and be one.
fn require_root(root: &Path) -> Result<(), StorageError> {
    let act = format!("failed to read the storage {}", root.display());
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(StorageError::new(StorageErrorKind::Invalid, format!("{act}: it is not a folder"))
            .with_help("a storage is a folder; check the path")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StorageError::new(StorageErrorKind::NotFound, format!("{act}: there is no such folder"))
                .with_help("check the path; the first backup makes the folder"))
        }
        Err(error) => Err(io_error(&act, error)),
    }
}

/// The path of a key below the root, once every folder on the way was seen to be no symbolic link.
fn resolve(root: &Path, key: &str) -> Result<PathBuf, StorageError> {
    let mut path = root.to_path_buf();
    for segment in key.split('/') {
        path.push(segment);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.file_type().is_symlink() => return Err(refuse_link(&path)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => break,
            Err(error) => return Err(io_error(&format!("failed to look up {}", path.display()), error)),
        }
    }
    Ok(root.join(key))
}

fn refuse_link(path: &Path) -> StorageError {
    let act = format!("failed to use {}: it is a symbolic link", path.display());
    StorageError::new(StorageErrorKind::Denied, act)
        .with_help("symbolic links inside a storage are not followed; mount or bind the other place instead")
}

#[async_trait]
impl ReadStorage for FolderStorage {
    fn address(&self) -> String {
        self.root.display().to_string()
    }

    fn list_after(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        match check_prefix(prefix) {
            Ok(()) => list::stream(self.root.clone(), prefix.to_owned(), after.to_owned()),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_folder(&self, prefix: &str) -> Result<Listing, StorageError> {
        check_folder(prefix)?;
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        blocking(format!("failed to list {}", self.address_of(&prefix)), move || list::folder(&root, &prefix)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        check_key(key)?;
        let (root, key) = (self.root.clone(), key.to_owned());
        blocking(format!("failed to look up {}", self.address_of(&key)), move || read::head(&root, &key)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<ObjectStream, StorageError> {
        check_key(key)?;
        let act = format!("failed to read {}", self.address_of(key));
        let (root, key) = (self.root.clone(), key.to_owned());
        let reader = blocking(act, move || read::Reader::open(&root, &key, range)).await?;
        Ok(reader.stream())
    }
}

#[async_trait]
impl WriteStorage for FolderStorage {
    async fn put(&self, key: &str, data: Bytes) -> Result<(), StorageError> {
        self.put_as(key, data, Placement::Replace).await.map(drop)
    }

    async fn put_if_absent(&self, key: &str, data: Bytes) -> Result<PutOutcome, StorageError> {
        self.put_as(key, data, Placement::IfAbsent).await
    }

    async fn create(&self, key: &str) -> Result<Box<dyn Upload>, StorageError> {
        check_key(key)?;
        let (root, key) = (self.root.clone(), key.to_owned());
        let act = format!("failed to begin {}", self.address_of(&key));
        let temporary = blocking(act, move || {
            resolve(&root, &key)?;
            Temporary::create(&root, &key)
        })
        .await?;
        Ok(Box::new(upload::FolderUpload::new(temporary)))
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StorageError> {
        let (root, keys) = (self.root.clone(), keys.to_vec());
        blocking(format!("failed to delete in {}", self.address()), move || place::delete(&root, &keys)).await
    }

    async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
        check_prefix(prefix)?;
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        let act = format!("failed to list unfinished uploads in {}", self.address());
        blocking(act, move || place::unfinished(&root, &prefix)).await
    }

    async fn last_written(&self, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
        let (root, upload) = (self.root.clone(), upload.clone());
        let act = format!("failed to look at the upload of {}", self.address_of(&upload.key));
        blocking(act, move || place::last_written(&root, &upload)).await
    }

    async fn abort_unfinished(&self, upload: &UnfinishedUpload) -> Result<(), StorageError> {
        let (root, id) = (self.root.clone(), upload.upload_id.clone());
        let act = format!("failed to abort the upload of {}", self.address_of(&upload.key));
        blocking(act, move || place::abort(&root, &id)).await
    }
}

impl FolderStorage {
    async fn put_as(&self, key: &str, data: Bytes, placement: Placement) -> Result<PutOutcome, StorageError> {
        check_key(key)?;
        let act = format!("failed to write {}", self.address_of(key));
        let (root, key) = (self.root.clone(), key.to_owned());
        blocking(act, move || {
            let target = resolve(&root, &key)?;
            if placement == Placement::IfAbsent && std::fs::symlink_metadata(&target).is_ok() {
                return Ok(PutOutcome::Exists);
            }
            let mut temporary = Temporary::create(&root, &key)?;
            temporary.write(&[data])?;
            temporary.place(placement)
        })
        .await
    }
}
