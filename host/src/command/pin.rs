//! `redkeep pin` and `redkeep unpin`.

use clap::Args;
use redkeep_core::catalog::BackupRef;
use redkeep_engine::pin::{pin, unpin};

use crate::arguments::{BackupArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::session::Session;

/// Keep a backup from retention and deletion
#[derive(Args, Debug)]
pub(crate) struct PinCommand {
    #[command(flatten)]
    which: Which,
}

/// Take a backup's pin away
#[derive(Args, Debug)]
pub(crate) struct UnpinCommand {
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
struct Which {
    #[command(flatten)]
    backup: BackupArgs,
    #[command(flatten)]
    storage: StorageArgs,
}

impl PinCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let (storage, backup) = (self.which.storage.spec(), self.which.backup.spec());
        said(session, &pin(&storage, &backup, &session.providers(), &session.events()).await?, true)
    }
}

impl UnpinCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let (storage, backup) = (self.which.storage.spec(), self.which.backup.spec());
        said(session, &unpin(&storage, &backup, &session.providers(), &session.events()).await?, false)
    }
}

fn said(session: &Session, backup: &BackupRef, pinned: bool) -> Result<(), Failure> {
    let mut value = serde_json::to_value(backup).unwrap_or_default();
    value["pinned"] = pinned.into();
    session
        .format
        .print(&value, || format!("{} is {}\n", backup.backup_id, if pinned { "pinned" } else { "not pinned" }))
}
