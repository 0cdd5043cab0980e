//! Which backup, and among which.

use clap::Args;
use redkeep_core::Timestamp;
use redkeep_core::identifier::{ClusterName, Namespace};
use redkeep_core::task::BackupSelector;

use super::values::time;

/// One backup.
#[derive(Args, Clone, Debug)]
pub(crate) struct BackupArgs {
    /// An id, a unique prefix of one, a name, or `latest`
    #[arg(value_name = "BACKUP")]
    backup: String,
    /// Only backups that ended before this time (RFC 3339): `latest` is then the newest of them
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<Timestamp>,
    #[command(flatten)]
    scope: ScopeArgs,
}

/// Among which backups.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ScopeArgs {
    /// Only backups of this cluster; needed where the storage holds several
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<ClusterName>,
    /// Only backups in this namespace [default: any]
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<Namespace>,
}

impl BackupArgs {
    /// As the engine takes it.
    pub(crate) fn spec(&self) -> BackupSelector {
        BackupSelector { before: self.before, ..self.scope.select(&self.backup) }
    }
}

impl ScopeArgs {
    /// The backup that `text` means within this scope.
    pub(crate) fn select(&self, text: &str) -> BackupSelector {
        BackupSelector {
            backup: text.to_owned(),
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            before: None,
            origin: None,
        }
    }
}
