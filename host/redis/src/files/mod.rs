//! Local data directories: read as a source, filled as a target. Nothing outside, no symbolic links.

mod beneath;
mod claim;
mod owner;
mod served;
mod staging;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{FileEntry, Files};
use redkeep_core::stream::{MAX_READ, Sink, Source};
use rustix::fs::{Dir, FileType, Mode, OFlags};

use crate::error::AccessError;
pub use staging::stage;

/// Most entries of one directory that are listed.
const MAX_ENTRIES: usize = 100_000;

/// A data directory, read only.
pub struct LocalFiles {
    directory: Arc<File>,
}

impl LocalFiles {
    /// Opens a directory; later renames of the path change nothing.
    ///
    /// # Errors
    /// When there is no such directory, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, AccessError> {
        let failed =
            |source| AccessError::File { act: "open the data directory", path: path.display().to_string(), source };
        let directory = File::open(path).map_err(failed)?;
        if !directory.metadata().map_err(failed)?.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { directory: Arc::new(directory) })
    }

    pub(crate) fn from_directory(directory: Arc<File>) -> Self {
        Self { directory }
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, MethodError> + Send + 'static,
) -> Result<T, MethodError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(error) => Err(MethodError::new(code::INTERNAL, format!("failed to finish an act on files: {error}"))),
    }
}

/// The error of an act on a file of the directory.
pub(crate) fn file_error(act: &str, path: &str, other: &str, error: &io::Error) -> MethodError {
    let code = match error.kind() {
        io::ErrorKind::NotFound => code::NOT_FOUND,
        io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidInput => code::REFUSED,
        _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => code::REFUSED,
            _ => other,
        },
    };
    MethodError::new(code, format!("failed to {act} {path}: {error}"))
}

#[async_trait]
impl Files for LocalFiles {
    async fn list_directory(&self, path: &str) -> Result<Vec<FileEntry>, MethodError> {
        let (directory, path) = (Arc::clone(&self.directory), path.to_owned());
        blocking(move || list(&directory, &path).map_err(|error| file_error("list", &path, code::SOURCE_IO, &error)))
            .await
    }

    async fn open(&self, path: &str) -> Result<Box<dyn Source>, MethodError> {
        let (directory, path) = (Arc::clone(&self.directory), path.to_owned());
        blocking(move || {
            let failed = |error: io::Error| file_error("open", &path, code::SOURCE_IO, &error);
            // Never waits: a FIFO in the directory would otherwise hold us for ever.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = File::from(beneath::open(&directory, &path, flags, Mode::empty()).map_err(failed)?);
            let metadata = file.metadata().map_err(failed)?;
            if !metadata.is_file() {
                return Err(MethodError::new(code::REFUSED, format!("failed to open {path}: it is no ordinary file")));
            }
            let source = FileSource { file: Arc::new(file), path, position: 0, size: metadata.len() };
            Ok(Box::new(source) as Box<dyn Source>)
        })
        .await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, format!("failed to create {path}: this directory is only read")))
    }

    async fn remove(&self, path: &str) -> Result<(), MethodError> {
        Err(MethodError::new(code::NOT_SUPPORTED, format!("failed to remove {path}: this directory is only read")))
    }
}

fn list(directory: &File, path: &str) -> io::Result<Vec<FileEntry>> {
    let opened = beneath::open(directory, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let prefix = beneath::components(path)?.join("/");
    let mut entries = Vec::new();
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") || name.starts_with(claim::PREFIX) {
            continue;
        }
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let status = match rustix::fs::statat(&opened, name, flags) {
            Ok(status) => status,
            // Files of a running server come and go.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(status.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            continue;
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(io::Error::other("the directory has more than 100,000 entries"));
        }
        let milliseconds = status.st_mtime.saturating_mul(1000);
        entries.push(FileEntry {
            path: if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") },
            size: u64::try_from(status.st_size).unwrap_or(0),
            modified_ms: u64::try_from(milliseconds).unwrap_or(0) + status.st_mtime_nsec as u64 / 1_000_000,
            directory: kind == FileType::Directory,
            attributes: Vec::new(),
        });
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// A file, up to the length that it had when it was opened.
struct FileSource {
    file: Arc<File>,
    path: String,
    position: u64,
    size: u64,
}

#[async_trait]
impl Source for FileSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        let left = self.size - self.position;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(max.clamp(1, MAX_READ));
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let (file, position, path) = (Arc::clone(&self.file), self.position, self.path.clone());
        let bytes = blocking(move || {
            let mut buffer = vec![0; wanted];
            let mut filled = 0;
            while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
                match file.read_at(room, position + filled as u64) {
                    Ok(0) => {
                        let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut while it was read");
                        return Err(file_error("read", &path, code::SOURCE_IO, &cut));
                    }
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(file_error("read", &path, code::SOURCE_IO, &error)),
                }
            }
            Ok(Bytes::from(buffer))
        })
        .await?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_to_the_length_it_had_whatever_happens_to_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dump.rdb");
        std::fs::write(&path, vec![7_u8; 3_000_000]).unwrap();
        let files = LocalFiles::open(root.path()).unwrap();
        let mut source = files.open("dump.rdb").await.unwrap();
        let mut appended = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut appended, b"more").unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut total = 0;
        loop {
            let piece = source.read(usize::MAX).await.unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= MAX_READ);
            total += piece.len();
        }
        assert_eq!((total, source.position(), source.size()), (3_000_000, 3_000_000, Some(3_000_000)));
    }

    #[tokio::test]
    async fn a_file_cut_while_it_is_read_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), vec![7_u8; 1000]).unwrap();
        let files = LocalFiles::open(root.path()).unwrap();
        let mut source = files.open("a").await.unwrap();
        std::fs::OpenOptions::new().write(true).open(root.path().join("a")).unwrap().set_len(10).unwrap();
        assert_eq!(source.read(1000).await.unwrap_err().code, code::SOURCE_IO);
    }

    #[tokio::test]
    async fn listing_names_files_and_directories_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("appendonlydir")).unwrap();
        std::fs::write(root.path().join("appendonlydir/x.aof"), "12345").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        let files = LocalFiles::open(root.path()).unwrap();
        let top = files.list_directory("").await.unwrap();
        assert_eq!(top.len(), 1);
        assert!(top[0].directory && top[0].path == "appendonlydir");
        let inner = files.list_directory("appendonlydir").await.unwrap();
        assert_eq!((inner[0].path.as_str(), inner[0].size), ("appendonlydir/x.aof", 5));
        assert!(inner[0].modified_ms > 1_600_000_000_000);
        assert_eq!(files.list_directory("none").await.unwrap_err().code, code::NOT_FOUND);
        assert_eq!(files.list_directory("..").await.unwrap_err().code, code::REFUSED);
        assert_eq!(files.open("link").await.err().unwrap().code, code::REFUSED);
        assert_eq!(files.create("x").await.err().unwrap().code, code::NOT_SUPPORTED);
    }
}
