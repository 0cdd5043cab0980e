//! `redkeep delete`.

use clap::Args;
use redkeep_core::task::DeleteTask;
use redkeep_engine::delete::delete;

use crate::arguments::{BackupArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::session::Session;

/// Delete one backup
#[derive(Args, Debug)]
pub(crate) struct DeleteCommand {
    #[command(flatten)]
    backup: BackupArgs,
    /// Even when it is pinned, or the last of its cluster
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

impl DeleteCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let task = DeleteTask { storage: self.storage.spec(), backup: self.backup.spec(), force: self.force };
        let outcome = delete(&task, &session.providers(), &session.events()).await?;
        session.progress.clear();
        for key in &outcome.foreign {
            session.progress.warn("warning", &format!("{key} is not redkeep's and was left alone"));
        }
        let value = serde_json::json!({
            "deleted": outcome.backup,
            "objects": outcome.objects,
            "foreign": outcome.foreign,
        });
        session.format.print(&value, || format!("deleted {} ({} objects)\n", outcome.backup.backup_id, outcome.objects))
    }
}
