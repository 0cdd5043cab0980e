//! What was fetched, by its digest: manifests, components, and the signatures of them.
//!
//! Nothing in it is believed: every file is held against its digest, or its key, each time it is read.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::artifact::sha256;

/// A folder of fetched files.
#[derive(Clone, Debug)]
pub(super) struct FetchCache(Option<PathBuf>);

impl FetchCache {
    /// The cache in `folder`, which is made at the first write.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self(folder)
    }

    /// The bytes with this digest, where they are here and whole.
    pub(super) fn get(&self, digest: &str, limit: u64) -> Option<Vec<u8>> {
        let bytes = self.read(&format!("sha256-{digest}"), limit)?;
        if sha256(&bytes) == digest {
            return Some(bytes);
        }
        tracing::warn!(digest, "a fetched plugin in the cache is damaged; fetching it again");
        None
    }

    pub(super) fn put(&self, digest: &str, bytes: &[u8]) {
        self.write(&format!("sha256-{digest}"), bytes);
    }

    /// Signatures of a manifest, as they were fetched.
    pub(super) fn signatures(&self, digest: &str, limit: u64) -> Option<Vec<u8>> {
        self.read(&format!("sha256-{digest}.sig"), limit)
    }

    pub(super) fn put_signatures(&self, digest: &str, bytes: &[u8]) {
        self.write(&format!("sha256-{digest}.sig"), bytes);
    }

    fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let file = File::open(self.0.as_ref()?.join(name)).ok()?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= limit).then_some(bytes)
    }

    /// A failure costs only the next run its time, so it is told and no more.
    fn write(&self, name: &str, bytes: &[u8]) {
        let Some(folder) = &self.0 else { return };
        let written = DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| {
            let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.persist(folder.join(name)).map_err(|error| error.error)
        });
        if let Err(error) = written {
            tracing::warn!(folder = %folder.display(), %error, "failed to keep a fetched plugin in the cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FetchCache::new(Some(folder.path().join("a/b")));
        let digest = sha256(b"hello");
        assert_eq!(cache.get(&digest, 100), None);
        cache.put(&digest, b"hello");
        assert_eq!(cache.get(&digest, 100).as_deref(), Some(&b"hello"[..]));
        assert_eq!(cache.get(&digest, 4), None);
        cache.put(&digest, b"hellO");
        assert_eq!(cache.get(&digest, 100), None);
        FetchCache::new(None).put(&digest, b"hello");
    }
}
