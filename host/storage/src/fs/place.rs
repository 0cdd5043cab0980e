//! Temporary files and the step that makes one an object: sync, rename or hard link, sync the folders.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use jiff::Timestamp;
use redkeep_core::storage::{ObjectMeta, PutOutcome, StorageError, StorageErrorKind, UnfinishedUpload};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{io_error, read, refuse_link, require_root, resolve};
use crate::key::{TEMPORARY_FOLDER, check_key};

/// How often a place is tried again when another process removes the emptied folder in between.
const PLACE_ATTEMPTS: u32 = 8;
/// Only the owner reads what is not finished, and others get what the umask leaves.
const FOLDER_MODE: u32 = 0o777;

/// What happens to an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// It is replaced, at once and whole.
    Replace,
    /// It stays.
    IfAbsent,
}

/// A file that is not an object yet. Dropped, it goes, with its folder.
#[derive(Debug)]
pub(super) struct Temporary {
    root: PathBuf,
    key: String,
    folder: PathBuf,
    path: PathBuf,
    file: File,
    written: u64,
}

impl Temporary {
    pub(super) fn create(root: &Path, key: &str) -> Result<Self, StorageError> {
        let id = format!("{:012x}-{:016x}", Timestamp::now().as_millisecond(), rand::random::<u64>());
        let folder = root.join(TEMPORARY_FOLDER).join(&id);
        let path = folder.join(key);
        let act = format!("failed to begin {}", root.join(key).display());
        create_folder(root).map_err(|error| io_error(&act, error))?;
        resolve(root, TEMPORARY_FOLDER)?;
        let parent = path.parent().unwrap_or(&folder);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.map_err(|error| io_error(&act, error))?;
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
        match opened {
            Ok(file) => Ok(Self { root: root.to_path_buf(), key: key.to_owned(), folder, path, file, written: 0 }),
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                Err(io_error(&act, error))
            }
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn address(&self) -> String {
        self.target().display().to_string()
    }

    fn target(&self) -> PathBuf {
        self.root.join(&self.key)
    }

    /// Appends all of these.
    pub(super) fn write(&mut self, data: &[Bytes]) -> Result<(), StorageError> {
        let total: u64 = data.iter().map(|part| part.len() as u64).sum();
        let written = match data {
            [single] => self.file.write_all(single),
            several => write_all_vectored(&mut self.file, several),
        };
        written.map_err(|error| io_error(&format!("failed to write {}", self.address()), error))?;
        self.written += total;
        Ok(())
    }

    /// Asks the kernel to bring to disk what was written so far, so that the last sync has little left to do.
    pub(super) fn sync_data(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|error| io_error(&format!("failed to write {}", self.address()), error))
    }

    /// Makes it the object: durable when this returns.
    pub(super) fn place(self, placement: Placement) -> Result<PutOutcome, StorageError> {
        let act = format!("failed to finish {}", self.address());
        self.file.sync_all().map_err(|error| io_error(&act, error))?;
        let target = resolve(&self.root, &self.key)?;
        let parent = target.parent().unwrap_or(&self.root).to_path_buf();
        let mut attempt = 0;
        loop {
            attempt += 1;
            // The folders are made at each try: whoever deletes the last object of a folder removes the folder.
            let placed = create_folders(&self.root, &self.key).and_then(|()| match placement {
                Placement::Replace => fs::rename(&self.path, &target).map(|()| PutOutcome::Created),
                Placement::IfAbsent => place_if_absent(&self.path, &target),
            });
            match placed {
                Ok(PutOutcome::Exists) => return Ok(PutOutcome::Exists),
                Ok(PutOutcome::Created) => {
                    sync_folder(&parent).map_err(|error| io_error(&act, error))?;
                    return Ok(PutOutcome::Created);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempt < PLACE_ATTEMPTS && self.path.exists() => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.path.exists() => {
                    return Err(StorageError::new(
                        StorageErrorKind::NotFound,
                        format!("{act}: the upload was aborted by another process"),
                    ));
                }
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::OPNOTSUPP)) => {
                    return Err(StorageError::new(StorageErrorKind::Unsupported, act)
                        .caused_by(error)
                        .with_help("the file system has neither hard links nor RENAME_NOREPLACE; use another one"));
                }
                Err(error) => return Err(io_error(&act, error)),
            }
        }
    }

    /// [`Self::place`] over what may be there, and what the file system then says of the object.
    pub(super) fn finish(self) -> Result<ObjectMeta, StorageError> {
        let (root, key, written) = (self.root.clone(), self.key.clone(), self.written);
        self.place(Placement::Replace)?;
        let meta = read::head(&root, &key)?;
        if meta.size == written {
            Ok(meta)
        } else {
            let act = format!(
                "failed to finish {}: {written} bytes were written, {} are there",
                root.join(key).display(),
                meta.size
            );
            Err(StorageError::new(StorageErrorKind::Damaged, act))
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Done here and not on another thread: a process that ends after an interrupt would not come to it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write_all_vectored(file: &mut File, data: &[Bytes]) -> io::Result<()> {
    let mut rest: std::collections::VecDeque<Bytes> = data.iter().filter(|part| !part.is_empty()).cloned().collect();
    while !rest.is_empty() {
        let slices: Vec<IoSlice<'_>> = rest.iter().take(256).map(|part| IoSlice::new(part)).collect();
        let mut count = match file.write_vectored(&slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        while let Some(front) = rest.front_mut() {
            if count < front.len() {
                front.advance(count);
                break;
            }
            count -= front.len();
            rest.pop_front();
        }
    }
    Ok(())
}

/// A hard link fails when the name is taken, on every file system that has links; NFS included.
fn place_if_absent(temporary: &Path, target: &Path) -> io::Result<PutOutcome> {
    let Err(error) = fs::hard_link(temporary, target) else { return Ok(PutOutcome::Created) };
    // A repeated NFS request answers "exists" about our own link: who holds the name is what counts.
    if same_file(temporary, target) {
        return Ok(PutOutcome::Created);
    }
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => Ok(PutOutcome::Exists),
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK | Errno::ACCESS) => {
            rename_if_absent(temporary, target)
        }
        _ => Err(error),
    }
}

/// For file systems without hard links (exFAT, some FUSE and SMB mounts).
pub(super) fn rename_if_absent(temporary: &Path, target: &Path) -> io::Result<PutOutcome> {
    let here = rustix::fs::CWD;
    match rustix::fs::renameat_with(here, temporary, here, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(PutOutcome::Created),
        Err(Errno::EXIST) => Ok(PutOutcome::Exists),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::OPNOTSUPP.into()),
        Err(error) => Err(error.into()),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::symlink_metadata(one), fs::symlink_metadata(other)) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        _ => false,
    }
}

/// Makes the root and whatever is missing above it.
fn create_folder(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    let mut missing = vec![root];
    while let Some(parent) = missing.last().and_then(|path| path.parent()) {
        if parent.exists() {
            break;
        }
        missing.push(parent);
    }
    for folder in missing.into_iter().rev() {
        make_one(folder)?;
    }
    Ok(())
}

/// Makes the folders of a key, each durable, and follows no symbolic link.
fn create_folders(root: &Path, key: &str) -> io::Result<()> {
    create_folder(root)?;
    let Some((folders, _)) = key.rsplit_once('/') else { return Ok(()) };
    let mut path = root.to_path_buf();
    for segment in folders.split('/') {
        path.push(segment);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) if metadata.is_symlink() => return Err(io::Error::other(refuse_link(&path))),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => make_one(&path)?,
        }
    }
    Ok(())
}

fn make_one(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network and FUSE file systems cannot sync a folder; their names are as durable as they get.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => Ok(()),
        other => other,
    }
}

/// Deletes objects and the folders that this empties. Returns the first failure after all were tried.
pub(super) fn delete(root: &Path, keys: &[String]) -> Result<(), StorageError> {
    let mut first = Ok(());
    let mut touched = std::collections::BTreeSet::new();
    for key in keys {
        match delete_one(root, key) {
            Ok(Some(parent)) => {
                touched.insert(parent);
            }
            Ok(None) => {}
            Err(error) => first = first.and(Err(error)),
        }
    }
    // Durable before the next call: a manifest must be gone before its artifacts are, after a power cut too.
    for folder in touched {
        let mut folder = folder.as_path();
        while folder != root && folder.starts_with(root) && fs::remove_dir(folder).is_ok() {
            folder = folder.parent().unwrap_or(root);
        }
        match sync_folder(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                first = first.and(Err(io_error(&format!("failed to delete in {}", folder.display()), error)));
            }
            _ => {}
        }
    }
    first
}

fn delete_one(root: &Path, key: &str) -> Result<Option<PathBuf>, StorageError> {
    check_key(key)?;
    let path = resolve(root, key)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(path.parent().map(Path::to_path_buf)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        // Unlinking a folder is not deleting an object: there is none of this name.
        Err(_) if path.is_dir() => Ok(None),
        Err(error) => Err(io_error(&format!("failed to delete {}", path.display()), error)),
    }
}

/// What lies in the temporary folder, by the time of its beginning.
pub(super) fn unfinished(root: &Path, prefix: &str) -> Result<Vec<UnfinishedUpload>, StorageError> {
    require_root(root)?;
    let area = resolve(root, TEMPORARY_FOLDER)?;
    let act = format!("failed to list {}", area.display());
    let entries = match fs::read_dir(&area) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(&act, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error(&act, error))?;
        let name = entry.file_name();
        let Some(id) = name.to_str() else { continue };
        let Some(started) = started(id) else { continue };
        // An upload that ended meanwhile is gone; a folder without a file is one that was killed before it began.
        let key = first_file(&entry.path(), String::new()).unwrap_or_default();
        if key.starts_with(prefix) {
            found.push(UnfinishedUpload { key, upload_id: id.to_owned(), started });
        }
    }
    found.sort_by(|one, other| one.upload_id.cmp(&other.upload_id));
    Ok(found)
}

/// When an upload's temporary file was written last.
pub(super) fn last_written(root: &Path, upload: &UnfinishedUpload) -> Result<Timestamp, StorageError> {
    let area = resolve(root, TEMPORARY_FOLDER)?;
    let path = area.join(&upload.upload_id);
    let act = format!("failed to look at {}", path.display());
    if started(&upload.upload_id).is_none() {
        return Err(StorageError::new(StorageErrorKind::Invalid, format!("{act}: it is none of ours")));
    }
    if !upload.key.is_empty() {
        check_key(&upload.key)?;
    }
    // The folders were made at the beginning; where there is no file, they are what there is of it.
    let file = if upload.key.is_empty() { path } else { path.join(&upload.key) };
    let metadata = fs::symlink_metadata(file).map_err(|error| io_error(&act, error))?;
    let written = super::read::meta(upload.key.clone(), &metadata).modified;
    Ok(written.max(upload.started))
}

fn first_file(folder: &Path, key: String) -> Option<String> {
    let entry = fs::read_dir(folder).ok()?.next()?.ok()?;
    let name = entry.file_name();
    let name = name.to_str()?;
    let key = if key.is_empty() { name.to_owned() } else { format!("{key}/{name}") };
    if entry.file_type().ok()?.is_dir() { first_file(&entry.path(), key) } else { Some(key) }
}

fn started(id: &str) -> Option<Timestamp> {
    let (millis, random) = id.split_once('-')?;
    if random.len() != 16 || !random.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Timestamp::from_millisecond(i64::from_str_radix(millis, 16).ok()?).ok()
}

/// Removes one upload's temporary file; gone already is no error.
pub(super) fn abort(root: &Path, id: &str) -> Result<(), StorageError> {
    let area = resolve(root, TEMPORARY_FOLDER)?;
    if started(id).is_none() {
        let act = format!("failed to abort the upload {id:?} in {}: it is none of ours", root.display());
        return Err(StorageError::new(StorageErrorKind::Invalid, act));
    }
    match fs::remove_dir_all(area.join(id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(&format!("failed to abort an upload in {}", area.display()), error))
        }
        _ => Ok(()),
    }
}
