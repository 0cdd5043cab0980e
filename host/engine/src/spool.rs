//! The folder of `--spool`, tried before anything is asked of the server: an hour later is too late to learn that it cannot be used.

use std::path::{Path, PathBuf};

use redkeep_core::Class;
use redkeep_core::provider::ProviderError;
use redkeep_core::task::BackupTask;

use crate::error::EngineError;
use crate::pipeline::try_spool;

/// Refuses a spool that cannot be written to, or that lies where it would fill what the backup is to protect.
pub(crate) async fn check(task: &BackupTask) -> Result<(), EngineError> {
    let Some(spool) = task.spool.clone() else { return Ok(()) };
    let data = task.source.data_dir.clone();
    let storage = storage_folder(&task.storage.url);
    let tried = tokio::task::spawn_blocking(move || {
        // Links lead where they lead; what does not exist is told by the try.
        let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
        if let Some(error) = refusal(&real(spool.clone()), data.map(real).as_deref(), storage.map(real).as_deref()) {
            return Err(error.into());
        }
        try_spool(&spool).map_err(EngineError::pipeline("try the spool"))
    });
    tried.await.unwrap_or_else(|_| Err(EngineError::Cancelled))
}

/// The folder that a storage's address names, where it is one.
fn storage_folder(url: &str) -> Option<PathBuf> {
    match url.strip_prefix("file://") {
        Some(path) => Some(path.into()),
        None if url.contains("://") => None,
        None => Some(url.into()),
    }
}

fn refusal(spool: &Path, data: Option<&Path>, storage: Option<&Path>) -> Option<ProviderError> {
    let (what, why) = if data.is_some_and(|data| spool.starts_with(data)) {
        ("in the server's data directory", "a backup would fill the disk that the server writes to")
    } else if storage.is_some_and(|storage| spool.starts_with(storage)) {
        ("in the storage", "what is spooled there is no nearer than the storage itself")
    } else {
        return None;
    };
    let message = format!("the spool {} lies {what}: {why}", spool.display());
    Some(ProviderError::new(Class::Usage, "SpoolMisplaced", message).with_help(
        "give --spool a folder on a disk of this machine that holds the whole compressed backup, or leave it out",
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/spool", Some("/data"), Some("/backups"), None)]
    #[case("/data-2", Some("/data"), None, None)]
    #[case("/data/spool", Some("/data"), None, Some("data directory"))]
    #[case("/data", Some("/data"), None, Some("data directory"))]
    #[case("/backups/spool", None, Some("/backups"), Some("in the storage"))]
    fn a_spool_that_fills_what_it_should_protect_is_refused(
        #[case] spool: &str,
        #[case] data: Option<&str>,
        #[case] storage: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let found = refusal(Path::new(spool), data.map(Path::new), storage.map(Path::new));
        match (found, expected) {
            (None, None) => {}
            (Some(error), Some(text)) => assert!(error.message.contains(text), "{error}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn only_folders_are_compared() {
        assert_eq!(storage_folder("/backups"), Some("/backups".into()));
        assert_eq!(storage_folder("file:///backups"), Some("/backups".into()));
        assert_eq!(storage_folder("s3://bucket/backups"), None);
    }
}
