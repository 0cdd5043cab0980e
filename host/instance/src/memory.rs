//! The newest decision outlives a restart of the container, in the folder that lives as long as the pod: a peer that forgot
//! what it was told would vouch for a primary that is being replaced.
//!
//! Not synced: that a node crashes, starts again within T, and nobody has read the object since is not guarded against.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use redkeep_core::managed::Notice;

use crate::error::InstanceError;

const NAME: &str = "notice.json";

/// What was known last; `None` in a new pod.
pub(crate) fn recall(folder: &Path) -> Option<Notice> {
    serde_json::from_slice(&std::fs::read(folder.join(NAME)).ok()?).ok()
}

/// Keeps it, whole or not at all.
pub(crate) fn keep(folder: &Path, notice: &Notice) -> Result<(), InstanceError> {
    let path = folder.join(NAME);
    let staged = folder.join("notice.new");
    let text = serde_json::to_vec(notice).map_err(std::io::Error::from);
    let kept = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let kept = kept.and(text).and_then(|text| std::fs::write(&staged, text));
    let kept = kept.and_then(|()| std::fs::rename(&staged, &path));
    kept.map_err(|source| InstanceError::Write { path, source })
}
