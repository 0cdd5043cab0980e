//! Names under which storage keeps the backups of an object.

use jiff::Timestamp;
use redkeep_core::identifier::{BackupId, ClusterName, InvalidIdentifier, Namespace};

/// The id of a backup, from when it was begun and the object that asked for it: the same object never gets two.
///
/// # Errors
/// When the object's name cannot stand in a path.
pub fn backup_id(started: Timestamp, name: &str, uid: &str) -> Result<BackupId, InvalidIdentifier> {
    let short: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    BackupId::new(started, name, &short.to_ascii_lowercase())
}

/// Namespace and cluster as storage writes them.
///
/// # Errors
/// When one cannot stand in a path.
pub fn storage_names(namespace: &str, cluster: &str) -> Result<(Namespace, ClusterName), InvalidIdentifier> {
    Ok((namespace.parse()?, cluster.parse()?))
}
