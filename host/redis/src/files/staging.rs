//! A target directory being filled: everything goes to a hidden folder inside it, and appears as a whole.
//!
//! Inside, because a volume is a mount point: only there is the same file system certain. Publishing is one rename for each
//! top-level entry, after every byte is on disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redkeep_core::Class;
use redkeep_core::method::{MethodError, code};
use redkeep_core::provider::{ProviderError, StagedDirectory};
use redkeep_core::redis::{FileEntry, Files};
use redkeep_core::stream::{Sink, Source};
use redkeep_core::task::DirectoryTarget;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

mod sink;

use self::sink::FileSink;
use super::claim::{self, Claim, PREFIX};
use super::owner::Owner;
use super::{LocalFiles, beneath, blocking, file_error, served};

/// Prepares a target directory.
///
/// # Errors
/// `Refused` when it is not empty; else what the file system says.
pub async fn stage(target: &DirectoryTarget) -> Result<Arc<dyn StagedDirectory>, ProviderError> {
    let target = target.clone();
    let staged = tokio::task::spawn_blocking(move || prepare(&target)).await;
    let staged = staged.map_err(|error| failed("prepare", Path::new("the target"), io::Error::other(error)))?;
    Ok(Arc::new(staged?))
}

fn failed(act: &'static str, path: &Path, source: io::Error) -> ProviderError {
    ProviderError::new(Class::Failed, "TargetFailed", format!("failed to {act} {}", path.display())).caused_by(source)
}

fn prepare(target: &DirectoryTarget) -> Result<Staged, ProviderError> {
    let path = &target.path;
    let owner = target
        .owner
        .as_ref()
        .map(|owner| Owner::parse(owner, Path::new("/etc/passwd"), Path::new("/etc/group")))
        .transpose()?;
    let created = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(|error| failed("create", path, error))?;
            true
        }
        Err(error) => return Err(failed("look at", path, error)),
        Ok(_) => false,
    };
    let root = File::open(path).map_err(|error| failed("open", path, error))?;
    // A claim names its directory, however this run was told of it.
    let whole = path.canonicalize().map_err(|error| failed("look at", path, error))?;
    let metadata = root.metadata().map_err(|error| failed("look at", path, error))?;
    served::refuse_served(&whole, &metadata)?;
    claim::make_empty(&root, &whole)?;
    let owner = match owner {
        Some(owner) => owner,
        None => Owner::of(&root).map_err(|error| failed("look at", path, error))?,
    };
    let name = format!("{PREFIX}{:08x}", rand::random::<u32>());
    let claim = Claim::take(&root, &whole, &name).map_err(|error| failed("write to", path, error))?;
    let folder = rustix::fs::mkdirat(&root, &name, Mode::RWXU)
        .map_err(io::Error::from)
        .and_then(|()| beneath::open(&root, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()))
        .map_err(|error| {
            let _ = claim.release(&root);
            failed("write to", path, error)
        })?;
    let folder = Arc::new(File::from(folder));
    Ok(Staged {
        path: path.clone(),
        created,
        root,
        name,
        claim,
        owner,
        files: Arc::new(StagedFiles {
            reader: LocalFiles::from_directory(Arc::clone(&folder)),
            folder,
            busy: Arc::default(),
        }),
        done: Mutex::new(false),
    })
}

struct Staged {
    path: PathBuf,
    /// The target did not exist before.
    created: bool,
    root: File,
    name: String,
    claim: Claim,
    owner: Owner,
    files: Arc<StagedFiles>,
    done: Mutex<bool>,
}

#[async_trait]
impl StagedDirectory for Staged {
    fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.files) as Arc<dyn Files>
    }

    fn free_bytes(&self) -> Option<u64> {
        let said = rustix::fs::fstatvfs(&self.root).ok()?;
        // File systems that are somebody else's tell of no blocks at all.
        (said.f_blocks > 0).then(|| said.f_bavail.saturating_mul(said.f_frsize))
    }

    async fn publish(&self) -> Result<(), ProviderError> {
        self.publish_blocking()
    }

    async fn discard(&self) -> Result<(), ProviderError> {
        self.discard_blocking()
    }
}

impl Staged {
    fn is_done(&self) -> bool {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_blocking(&self) -> Result<(), ProviderError> {
        let at = |error| failed("put the restored files into", &self.path, error);
        if self.files.busy().next().is_some() {
            return Err(at(io::Error::other("a file was not finished")));
        }
        let staging = self.path.join(&self.name);
        own_and_sync(&self.files.folder, self.owner).map_err(|error| {
            at(error).with_help("giving files to another user needs root: run as root, or leave --owner out")
        })?;
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&staging).map_err(at)? {
            let entry = entry.map_err(at)?;
            entries.push((entry.file_type().map_err(at)?.is_dir(), entry.file_name()));
        }
        // Files before directories: a manifest-less append-only directory must never be seen without its RDB.
        entries.sort();
        for (index, (_, name)) in entries.iter().enumerate() {
            if let Err(error) = rename_to_nothing(&self.files.folder, &self.root, name) {
                // All or nothing: what is there already goes back, and the target is as it was.
                let moved = entries.iter().take(index).rev().map(|(_, name)| name);
                let stuck = moved.filter(|name| rename_to_nothing(&self.root, &self.files.folder, name).is_err());
                let stuck: Vec<_> = stuck.map(|name| name.to_string_lossy()).collect();
                return Err(if stuck.is_empty() {
                    at(error)
                } else {
                    at(error).with_help(format!("remove what could not be taken back: {}", stuck.join(", ")))
                });
            }
        }
        self.root.sync_all().map_err(at)?;
        rustix::fs::unlinkat(&self.root, &self.name, AtFlags::REMOVEDIR).map_err(|error| at(error.into()))?;
        self.claim.release(&self.root).map_err(at)?;
        if self.created {
            self.owner.take(&self.root).map_err(at)?;
        }
        self.root.sync_all().map_err(at)?;
        if let Some(parent) = self.path.parent().filter(|parent| self.created && !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(at)?;
        }
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    fn discard_blocking(&self) -> Result<(), ProviderError> {
        if self.is_done() {
            return Ok(());
        }
        let staging = self.path.join(&self.name);
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &staging, error)),
            _ => {}
        }
        self.claim.release(&self.root).map_err(|error| failed("remove", &staging, error))?;
        if self.created {
            // Only when it is as empty as we made it.
            let _ = std::fs::remove_dir(&self.path);
        }
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // A task that was cancelled leaves nothing behind.
        let _ = self.discard_blocking();
    }
}

/// Moves an entry from one directory to another, never over anything: the target was empty when we came.
fn rename_to_nothing(from: &File, to: &File, name: &OsStr) -> io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it (NFS): looked at before.
        Err(Errno::INVAL | Errno::NOSYS) => match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(rustix::fs::renameat(from, name, to, name)?),
            Ok(_) => Err(Errno::EXIST.into()),
            Err(error) => Err(error.into()),
        },
        other => Ok(other?),
    }
}

/// Owner and durability of everything beneath a directory, and of itself.
fn own_and_sync(directory: &File, owner: Owner) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let opened = File::from(beneath::open(directory, name, OFlags::RDONLY, Mode::empty())?);
        if opened.metadata()?.is_dir() {
            own_and_sync(&opened, owner)?;
        } else {
            owner.take(&opened)?;
        }
    }
    owner.take(directory)?;
    directory.sync_all()
}

/// The staging folder as plugins see it: what is created can be read and removed again.
struct StagedFiles {
    folder: Arc<File>,
    reader: LocalFiles,
    /// Paths being written.
    busy: Arc<Mutex<BTreeSet<String>>>,
}

impl StagedFiles {
    fn busy(&self) -> impl Iterator<Item = String> + use<> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter()
    }
}

#[async_trait]
impl Files for StagedFiles {
    async fn list_directory(&self, path: &str) -> Result<Vec<FileEntry>, MethodError> {
        self.reader.list_directory(path).await
    }

    async fn open(&self, path: &str) -> Result<Box<dyn Source>, MethodError> {
        self.reader.open(path).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn Sink>, MethodError> {
        let (folder, busy, path) = (Arc::clone(&self.folder), Arc::clone(&self.busy), path.to_owned());
        blocking(move || {
            let failed = |error: io::Error| file_error("create", &path, code::TARGET_IO, &error);
            let components = beneath::components(&path).map_err(failed)?;
            let Some((_, parents)) = components.split_last() else {
                return Err(MethodError::new(code::REFUSED, "failed to create a file: it has no name"));
            };
            let mut parent = String::new();
            for name in parents {
                let at = beneath::open(&folder, &parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                    .map_err(failed)?;
                match rustix::fs::mkdirat(&at, *name, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(failed(error.into())),
                }
                parent = if parent.is_empty() { (*name).to_owned() } else { format!("{parent}/{name}") };
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
            let file = File::from(beneath::open(&folder, &path, flags, mode).map_err(failed)?);
            let path = components.join("/");
            busy.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
            Ok(Box::new(FileSink::new(folder, busy, file, path)) as Box<dyn Sink>)
        })
        .await
    }

    async fn remove(&self, path: &str) -> Result<(), MethodError> {
        let (folder, busy, path) = (Arc::clone(&self.folder), Arc::clone(&self.busy), path.to_owned());
        blocking(move || {
            let failed = |error: io::Error| file_error("remove", &path, code::TARGET_IO, &error);
            let components = beneath::components(&path).map_err(failed)?;
            if busy.lock().unwrap_or_else(PoisonError::into_inner).contains(&components.join("/")) {
                return Err(MethodError::new(code::REFUSED, format!("failed to remove {path}: it is being written")));
            }
            remove(&folder, &components).map_err(failed)
        })
        .await
    }
}

fn remove(folder: &File, components: &[&str]) -> io::Result<()> {
    let Some((name, parents)) = components.split_last() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name"));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let parent = beneath::open(folder, &parents.join("/"), flags, Mode::empty())?;
    Ok(rustix::fs::unlinkat(&parent, *name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use redkeep_core::Classify as _;
    use redkeep_core::stream::Artifact;
    use std::os::unix::fs::MetadataExt as _;

    fn target(path: &Path) -> DirectoryTarget {
        DirectoryTarget { path: path.to_path_buf(), ..DirectoryTarget::default() }
    }

    async fn write(files: &dyn Files, path: &str, content: &'static [u8]) -> Artifact {
        let mut sink = files.create(path).await.unwrap();
        sink.write(Bytes::from_static(content)).await.unwrap();
        sink.finish(Vec::new()).await.unwrap()
    }

    #[tokio::test]
    async fn everything_appears_at_once_and_only_when_published() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/data");
        let staged = stage(&target(&path)).await.unwrap();
        let files = staged.files();
        assert_eq!(write(&*files, "appendonlydir/a.manifest", b"x").await.size, 1);
        write(&*files, "dump.rdb", b"REDIS").await;
        assert!(!path.join("dump.rdb").exists());
        assert_eq!(files.list_directory("").await.unwrap().len(), 2);
        staged.publish().await.unwrap();
        assert_eq!(std::fs::read(path.join("dump.rdb")).unwrap(), b"REDIS");
        assert_eq!(std::fs::read(path.join("appendonlydir/a.manifest")).unwrap(), b"x");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "the staging folder is gone");
        staged.discard().await.unwrap();
        drop(staged);
        assert!(path.join("dump.rdb").exists(), "what is published stays");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_empty_is_refused_untouched_and_lost_found_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        let staged = stage(&target(root.path())).await.unwrap();
        let again = stage(&target(root.path())).await.err().unwrap();
        assert_eq!(again.reason, "TargetBusy");
        staged.discard().await.unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        std::fs::write(root.path().join("dump.rdb"), "old").unwrap();
        let refused = stage(&target(root.path())).await.err().unwrap();
        assert_eq!((refused.class, refused.reason()), (Class::Refused, "TargetNotEmpty"));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_publication_that_fails_half_way_leaves_the_target_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let staged = stage(&target(root.path())).await.unwrap();
        for path in ["appendonlydir/a", "dump.rdb", "users.acl", "z/a"] {
            write(&*staged.files(), path, b"ours").await;
        }
        // A directory by a name that sorts after every file's, made meanwhile by somebody else.
        std::fs::create_dir(root.path().join("z")).unwrap();
        std::fs::write(root.path().join("z/theirs"), "theirs").unwrap();
        staged.publish().await.unwrap_err();
        assert_eq!(staged.files().list_directory("").await.unwrap().len(), 4, "all went back");
        for ours in ["appendonlydir", "dump.rdb", "users.acl"] {
            assert!(!root.path().join(ours).exists(), "{ours}");
        }
        staged.discard().await.unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(root.path().join("z/theirs")).unwrap(), b"theirs");
    }

    #[tokio::test]
    async fn a_file_is_published_before_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let staged = stage(&target(root.path())).await.unwrap();
        write(&*staged.files(), "appendonlydir/a", b"1").await;
        write(&*staged.files(), "dump.rdb", b"1").await;
        // The file cannot be placed: had the directory gone first, its time of change would tell of two renames.
        std::fs::write(root.path().join("dump.rdb"), "theirs").unwrap();
        let directory = || std::fs::metadata(root.path()).unwrap();
        let before = (directory().mtime(), directory().mtime_nsec());
        staged.publish().await.unwrap_err();
        assert_eq!((directory().mtime(), directory().mtime_nsec()), before, "nothing was moved before the file");
    }

    #[tokio::test]
    async fn discarding_or_dropping_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        for drop_only in [false, true] {
            let path = root.path().join("data");
            let staged = stage(&target(&path)).await.unwrap();
            write(&*staged.files(), "a/b/c", b"1").await;
            if !drop_only {
                staged.discard().await.unwrap();
            }
            drop(staged);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_sink_that_is_dropped_leaves_no_file_and_one_that_is_open_stops_the_publication() {
        let root = tempfile::tempdir().unwrap();
        let staged = stage(&target(root.path())).await.unwrap();
        let files = staged.files();
        let mut sink = files.create("half").await.unwrap();
        sink.write(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(files.create("half").await.err().unwrap().code, code::REFUSED);
        assert_eq!(files.remove("half").await.unwrap_err().code, code::REFUSED);
        assert!(staged.publish().await.is_err());
        drop(sink);
        assert!(files.list_directory("").await.unwrap().is_empty());
        write(&*files, "whole", b"1").await;
        files.remove("whole").await.unwrap();
        assert_eq!(files.remove("whole").await.unwrap_err().code, code::NOT_FOUND);
        for outside in ["../x", "/etc/x", ""] {
            assert_eq!(files.create(outside).await.err().unwrap().code, code::REFUSED, "{outside}");
        }
    }

    #[tokio::test]
    async fn files_belong_to_whom_they_should() {
        let root = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(root.path()).unwrap();
        let path = root.path().join("data");
        let mut wanted = target(&path);
        // Only root may give files away; others can still name themselves.
        let is_root = owner.uid() == 0;
        wanted.owner =
            Some(if is_root { "12345:12346".to_owned() } else { format!("{}:{}", owner.uid(), owner.gid()) });
        let staged = stage(&wanted).await.unwrap();
        write(&*staged.files(), "appendonlydir/a", b"1").await;
        staged.publish().await.unwrap();
        for made in ["", "appendonlydir", "appendonlydir/a"] {
            let metadata = std::fs::metadata(path.join(made)).unwrap();
            let ids = if is_root { (12345, 12346) } else { (owner.uid(), owner.gid()) };
            assert_eq!((metadata.uid(), metadata.gid()), ids, "{made}");
        }
        wanted.owner = Some("no-such-user".to_owned());
        assert_eq!(stage(&wanted).await.err().unwrap().class, Class::Usage);
    }
}
