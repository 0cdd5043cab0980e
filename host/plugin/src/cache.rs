//! The compile cache: machine code of components that this process or an earlier one compiled.
//!
//! Loading machine code is trusting it: one flipped byte of a `.cwasm` loads without complaint or brings the host down
//! (WASM.md 2). So an entry carries its own digest and is compared before it is deserialized, and the folder must be
//! ours alone. What does not hold is compiled anew.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engine::{WASMTIME, compatibility};

/// Begins every entry; then the digest of the code, then the code. One file, so that both change in one step.
const MAGIC: &[u8; 16] = b"redkeep-cwasm-1\n";
const HEADER: usize = MAGIC.len() + 32;
/// The largest entry that is read, in bytes: code takes up to four times its component.
const MAX_ENTRY: u64 = 512 << 20;
/// Entries that are kept; the oldest go first.
const MAX_ENTRIES: usize = 32;

/// Why a folder is not used as cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("failed to open the folder")]
    Open(#[source] std::io::Error),
    #[error("it is not a folder")]
    NotAFolder,
    #[error("it belongs to user {owner}, not to {user}")]
    Foreign { owner: u32, user: u32 },
    #[error("others may write to it (mode {mode:03o}, must be 700)")]
    Writable { mode: u32 },
}

/// A folder of compiled components.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    /// What the entries' names end with: code of other engines is other entries.
    suffix: String,
}

impl Cache {
    /// The cache in `directory`, which is made when it is missing.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> Result<Self, CacheError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(CacheError::Open)?;
        let metadata = std::fs::metadata(directory).map_err(CacheError::Open)?;
        if !metadata.is_dir() {
            return Err(CacheError::NotAFolder);
        }
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(CacheError::Foreign { owner: metadata.uid(), user });
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(CacheError::Writable { mode });
        }
        let suffix = format!("-{WASMTIME}-{}.cwasm", compatibility(engine));
        Ok(Self { directory: directory.to_owned(), suffix })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(format!("{digest}{}", self.suffix))
    }

    /// The compiled component whose WebAssembly has this digest, where there is a whole entry for it.
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        let code = match read_entry(&path) {
            Ok(code) => code?,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled plugin in the cache is not readable; compiling again");
                return None;
            }
        };
        let Some(code) = whole(&code) else {
            tracing::warn!(path = %path.display(), "compiled plugin in the cache is damaged; compiling again");
            return None;
        };
        match deserialize(engine, code) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled plugin in the cache does not fit; compiling again");
                None
            }
        }
    }

    /// Keeps what was compiled. A failure costs only the next start its time, so it is told and no more.
    pub(crate) fn store(&self, component: &Component, digest: &str) {
        let result = component.serialize().map_err(std::io::Error::other).and_then(|code| {
            self.write(&self.path(digest), &code)?;
            self.shrink()
        });
        if let Err(error) = result {
            tracing::warn!(directory = %self.directory.display(), %error, "failed to keep a compiled plugin in the cache");
        }
    }

    fn write(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        // Made readable by its owner alone.
        let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(&self.directory)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes the oldest entries beyond [`MAX_ENTRIES`], and what a crash left half-written an hour ago.
    fn shrink(&self) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let written = entry.metadata()?.modified()?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".cwasm") {
                entries.push((written, entry.path()));
            } else if name.starts_with(".writing-")
                && SystemTime::now().duration_since(written).is_ok_and(|age| age.as_secs() > 3600)
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        entries.sort();
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        entries.iter().take(surplus).try_for_each(|(_, path)| match std::fs::remove_file(path) {
            // Another process shrinks too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }
}

/// The bytes of an entry; none where there is no entry.
fn read_entry(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_ENTRY)).unwrap_or(0));
    file.take(MAX_ENTRY).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The code of an entry whose digest holds.
fn whole(entry: &[u8]) -> Option<&[u8]> {
    let (header, code) = entry.split_at_checked(HEADER)?;
    let (magic, digest) = header.split_at(MAGIC.len());
    (magic == MAGIC && digest == Sha256::digest(code).as_slice()).then_some(code)
}

#[expect(unsafe_code, reason = "the one place where machine code is loaded; its digest was compared just before")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is what `Component::serialize` of this wasmtime version gave, written by this user into a folder to
    // which nobody else may write, and its SHA-256 was compared on these very bytes in memory.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine;

    const DIGEST: &str = "00ff";

    struct Fixture {
        folder: tempfile::TempDir,
        engine: Engine,
        cache: Cache,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine::start().unwrap();
        let cache = Cache::open(&folder.path().join("a/b"), &engine).unwrap();
        Fixture { folder, engine, cache }
    }

    fn component(engine: &Engine) -> Component {
        let text = "(component (core module $m (func (export \"f\") (result i32) i32.const 7)) (core instance (instantiate $m)))";
        Component::from_binary(engine, &wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn an_entry_is_found_again_and_only_by_its_owner() {
        let Fixture { engine, cache, folder } = fixture();
        assert!(cache.load(&engine, DIGEST).is_none());
        cache.store(&component(&engine), DIGEST);
        assert!(cache.load(&engine, DIGEST).is_some());
        assert!(cache.load(&engine, "other").is_none());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder.path().join("a/b")), mode(&cache.path(DIGEST))), (0o700, 0o600));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_makes_an_entry_worthless_without_loading_it() {
        let Fixture { engine, cache, folder: _folder } = fixture();
        cache.store(&component(&engine), DIGEST);
        let path = cache.path(DIGEST);
        let good = std::fs::read(&path).unwrap();
        let step = (good.len() / 200).max(1);
        for offset in (0..good.len()).step_by(step).chain(0..HEADER) {
            let mut bad = good.clone();
            bad[offset] ^= 1 << (offset % 8);
            assert!(whole(&bad).is_none(), "flip at {offset}");
            assert!(whole(&good[..offset]).is_none(), "cut at {offset}");
        }
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(cache.load(&engine, DIGEST).is_none());
        cache.store(&component(&engine), DIGEST);
        assert!(cache.load(&engine, DIGEST).is_some());
    }

    #[test]
    fn code_of_an_engine_with_other_settings_is_not_found() {
        let Fixture { engine, cache, folder: _folder } = fixture();
        cache.store(&component(&engine), DIGEST);
        let other = Engine::default();
        let cache_of_other = Cache::open(&cache.directory, &other).unwrap();
        assert!(cache_of_other.load(&other, DIGEST).is_none());
        // Even under its name it is refused, by wasmtime itself.
        assert!(cache.load(&other, DIGEST).is_none());
    }

    #[test]
    fn a_folder_to_which_others_may_write_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Cache::open(folder.path(), &engine).unwrap_err();
            assert!(matches!(error, CacheError::Writable { mode: found } if found == mode), "{error}");
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        Cache::open(folder.path(), &engine).unwrap();
    }

    #[test]
    fn a_folder_of_another_user_is_not_used() {
        // Only root can give a folder away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
        let error = Cache::open(folder.path(), &Engine::default()).unwrap_err();
        assert!(matches!(error, CacheError::Foreign { owner: 12_345, user: 0 }), "{error}");
    }

    #[test]
    fn a_link_in_place_of_an_entry_is_not_followed() {
        let Fixture { engine, cache, folder } = fixture();
        cache.store(&component(&engine), DIGEST);
        let moved = folder.path().join("moved");
        std::fs::rename(cache.path(DIGEST), &moved).unwrap();
        std::os::unix::fs::symlink(&moved, cache.path(DIGEST)).unwrap();
        assert!(cache.load(&engine, DIGEST).is_none());
    }

    #[test]
    fn the_oldest_entries_go_when_there_are_too_many() {
        let Fixture { engine, cache, folder: _folder } = fixture();
        let component = component(&engine);
        for number in 0..MAX_ENTRIES + 3 {
            let path = cache.path(&number.to_string());
            std::fs::write(&path, b"old").unwrap();
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        }
        cache.store(&component, DIGEST);
        assert!(cache.load(&engine, DIGEST).is_some());
        assert!(!cache.path("0").exists() && !cache.path("3").exists() && cache.path("4").exists());
    }
}
