//! Whose a staging folder is: a file beside it says so, and stays locked while the process that fills the folder lives.
//!
//! So a folder that a killed restore left behind is known as such, and the next restore removes it; one that is being filled, or
//! that anything else made, is never touched.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use redkeep_core::Class;
use redkeep_core::provider::ProviderError;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::beneath;

/// How the names of staging folders begin.
pub(super) const PREFIX: &str = ".redkeep-restore-";
/// What follows a folder's name in its claim's.
const SUFFIX: &str = ".claim";
/// The longest claim that is read: a path has at most 4 KiB.
const MAX_CLAIM: u64 = 8 << 10;

/// A claim, locked until it is dropped.
pub(super) struct Claim {
    _file: File,
    name: String,
}

/// Everything that a claim says.
fn text(folder: &str, target: &Path) -> String {
    format!("redkeep restores into {}\nby way of {folder}, which goes when this file is not locked\n", target.display())
}

impl Claim {
    /// Claims `folder`, which is not there yet, of the directory `target`, opened as `root`.
    pub(super) fn take(root: &File, target: &Path, folder: &str) -> io::Result<Self> {
        let name = format!("{folder}{SUFFIX}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(beneath::open(root, &name, flags, Mode::RUSR | Mode::WUSR)?);
        // A file system without locks: the folder is then never taken for abandoned, for that needs one too.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        file.write_all(text(folder, target).as_bytes())?;
        file.sync_all()?;
        Ok(Self { _file: file, name })
    }

    /// Removes it, when the folder is gone.
    pub(super) fn release(&self, root: &File) -> io::Result<()> {
        match rustix::fs::unlinkat(root, &self.name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What stands in a target directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Staging folders, or what is named like one.
    folders: Vec<String>,
    /// Claims, or what is named like one.
    claims: Vec<String>,
    /// The first of everything else.
    other: Option<String>,
}

fn sort(names: impl Iterator<Item = OsString>) -> Contents {
    let mut contents = Contents::default();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        match name.strip_prefix(PREFIX) {
            // Made by mkfs on every ext volume.
            _ if name == "lost+found" => {}
            Some(rest) if rest.ends_with(SUFFIX) => contents.claims.push(name),
            Some(_) => contents.folders.push(name),
            None => contents.other = contents.other.or(Some(name)),
        }
    }
    contents
}

/// Makes sure that `target` is empty: what killed restores left is removed, anything else is a refusal, and then nothing was touched.
pub(super) fn make_empty(root: &File, target: &Path) -> Result<(), ProviderError> {
    let failed = |act: &str, error: io::Error| {
        ProviderError::new(Class::Failed, "TargetFailed", format!("failed to {act} {}", target.display()))
            .caused_by(error)
    };
    let entries = std::fs::read_dir(target).map_err(|error| failed("list", error))?;
    let names: io::Result<Vec<OsString>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let contents = sort(names.map_err(|error| failed("list", error))?.into_iter());
    if let Some(name) = &contents.other {
        return Err(not_empty(
            target,
            name,
            "choose an empty directory or one that does not exist; nothing there was touched",
        ));
    }
    for folder in &contents.folders {
        if !contents.claims.contains(&format!("{folder}{SUFFIX}")) {
            return Err(not_empty(
                target,
                folder,
                "nothing says that a restore of this directory made it: when none runs any more, remove it and try again",
            ));
        }
    }
    // All claims first: one that is held refuses before anything is removed.
    let mut abandoned = Vec::new();
    for claim in &contents.claims {
        let folder = claim.trim_end_matches(SUFFIX);
        match abandoned_claim(root, target, folder, claim) {
            Ok(Standing::Abandoned(lock)) => abandoned.push((folder, claim, lock)),
            Ok(Standing::Held) => {
                let why = format!("failed to restore into {}: another restore is filling it", target.display());
                return Err(ProviderError::new(Class::Refused, "TargetBusy", why)
                    .with_help("wait until it has ended, or choose another directory"));
            }
            Ok(Standing::Foreign) => {
                return Err(not_empty(
                    target,
                    folder,
                    "a restore of another directory made it, or its file system has no locks: when no restore runs any more, \
                     remove it and the file of its name with .claim, and try again",
                ));
            }
            Err(error) => return Err(failed("look at what a killed restore left in", error)),
        }
    }
    for (folder, claim, _lock) in abandoned {
        match std::fs::remove_dir_all(target.join(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove what a killed restore left in", error));
            }
            _ => tracing::info!(folder, "removed what a killed restore left"),
        }
        rustix::fs::unlinkat(root, claim.as_str(), AtFlags::empty())
            .map_err(|error| failed("remove what a killed restore left in", error.into()))?;
    }
    Ok(())
}

fn not_empty(target: &Path, name: &str, help: &str) -> ProviderError {
    let why = format!("failed to restore into {}: it is not empty (it holds `{name}`)", target.display());
    ProviderError::new(Class::Refused, "TargetNotEmpty", why).with_help(help)
}

enum Standing {
    /// Nobody holds it, and it is ours; locked now.
    Abandoned(File),
    Held,
    /// Not what a restore of this directory writes.
    Foreign,
}

fn abandoned_claim(root: &File, target: &Path, folder: &str, claim: &str) -> io::Result<Standing> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = match beneath::open(root, claim, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // A link, a directory: not what we make.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => return Ok(Standing::Foreign),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Ok(Standing::Foreign);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Standing::Held),
        Err(_) => return Ok(Standing::Foreign),
    }
    let mut said = String::new();
    if (&mut file).take(MAX_CLAIM).read_to_string(&mut said).is_err() {
        return Ok(Standing::Foreign);
    }
    let place = std::fs::symlink_metadata(target.join(folder));
    let is_ours = match place {
        // Killed between the two, or while it was written.
        Err(error) if error.kind() == io::ErrorKind::NotFound => text(folder, target).starts_with(&said),
        Err(error) => return Err(error),
        Ok(place) => place.is_dir() && place.uid() == metadata.uid() && said == text(folder, target),
    };
    Ok(if is_ours { Standing::Abandoned(file) } else { Standing::Foreign })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> File {
        File::open(path).unwrap()
    }

    /// A directory with what a restore that was killed leaves: its lock is gone with its process.
    fn left_behind() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(&opened(root.path()), root.path(), ".redkeep-restore-00000001").unwrap();
        std::fs::create_dir(root.path().join(".redkeep-restore-00000001")).unwrap();
        std::fs::write(root.path().join(".redkeep-restore-00000001/dump.rdb"), "half").unwrap();
        drop(claim);
        root
    }

    fn count(root: &tempfile::TempDir) -> usize {
        std::fs::read_dir(root.path()).unwrap().count()
    }

    #[test]
    fn what_a_killed_restore_left_goes() {
        let root = left_behind();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        make_empty(&opened(root.path()), root.path()).unwrap();
        assert_eq!(count(&root), 1);
    }

    #[test]
    fn a_claim_whose_folder_was_never_made_goes_even_half_written() {
        for length in [0, 20] {
            let root = tempfile::tempdir().unwrap();
            let half = text(".redkeep-restore-00000001", root.path())[..length].to_owned();
            std::fs::write(root.path().join(".redkeep-restore-00000001.claim"), half).unwrap();
            make_empty(&opened(root.path()), root.path()).unwrap();
            assert_eq!(count(&root), 0);
        }
    }

    #[test]
    fn a_folder_that_is_being_filled_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let claim = Claim::take(&opened(root.path()), root.path(), ".redkeep-restore-00000001").unwrap();
        std::fs::create_dir(root.path().join(".redkeep-restore-00000001")).unwrap();
        let error = make_empty(&opened(root.path()), root.path()).unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Refused, "TargetBusy"));
        assert_eq!(count(&root), 2);
        std::fs::remove_dir(root.path().join(".redkeep-restore-00000001")).unwrap();
        claim.release(&opened(root.path())).unwrap();
        assert_eq!(count(&root), 0);
    }

    #[test]
    fn whatever_is_not_certainly_ours_stays() {
        let without_claim = tempfile::tempdir().unwrap();
        std::fs::create_dir(without_claim.path().join(".redkeep-restore-00000001")).unwrap();
        let moved = left_behind();
        let moved_to = tempfile::tempdir().unwrap();
        for name in [".redkeep-restore-00000001", ".redkeep-restore-00000001.claim"] {
            std::fs::rename(moved.path().join(name), moved_to.path().join(name)).unwrap();
        }
        let with_data = left_behind();
        std::fs::write(with_data.path().join("dump.rdb"), "theirs").unwrap();
        let with_link = left_behind();
        std::fs::remove_file(with_link.path().join(".redkeep-restore-00000001.claim")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", with_link.path().join(".redkeep-restore-00000001.claim")).unwrap();
        for root in [without_claim, moved_to, with_data, with_link] {
            let before = count(&root);
            let error = make_empty(&opened(root.path()), root.path()).unwrap_err();
            assert_eq!((error.class, error.reason), (Class::Refused, "TargetNotEmpty"));
            assert_eq!(count(&root), before);
        }
    }
}
