//! `redkeep cat`.

use std::io::IsTerminal;

use clap::Args;
use redkeep_core::classify::Class;
use redkeep_core::stream::CHUNK;
use redkeep_engine::cat::{CatRequest, open};

use crate::arguments::{BackupArgs, KeyArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::print;
use crate::session::Session;

/// Write an artifact's plain bytes to standard output
#[derive(Args, Debug)]
pub(crate) struct CatCommand {
    #[command(flatten)]
    backup: BackupArgs,
    /// Its name, or SHARD/NAME where several shards have one of that name [default: the only one]
    #[arg(value_name = "ARTIFACT")]
    artifact: Option<String>,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

impl CatCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new(
                Class::Refused,
                "TerminalRefused",
                "standard output is a terminal, and these are raw bytes",
            )
            .with_help("send them to a file or a program: `redkeep cat … > dump.rdb`"));
        }
        let request = CatRequest {
            storage: self.storage.spec(),
            backup: self.backup.spec(),
            artifact: self.artifact.clone(),
            keys: self.keys.spec(),
        };
        let mut opened = open(&request, &session.providers(), &session.events()).await?;
        let (shard, total) = (opened.record.shard.to_string(), opened.record.size);
        session
            .until_cancelled(async {
                loop {
                    let bytes = opened.source.read(CHUNK).await?;
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    // A reader that is slower than the storage must not hold a worker thread of the pipeline up.
                    tokio::task::block_in_place(|| print(&bytes))?;
                    session.events().progress(&shard, "cat", "bytes", opened.source.position(), Some(total));
                }
            })
            .await
    }
}
