//! `redkeep copy`.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::CopyTask;
use redkeep_engine::copy::{Copied, copy};

use crate::arguments::values::not_empty;
use crate::arguments::{S3Args, ScopeArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::table::{Side, Table};
use crate::output::text;
use crate::session::Session;

/// Copy backups to another storage, every digest checked on the way
#[derive(Args, Debug)]
pub(crate) struct CopyCommand {
    /// Which ones: ids, unique prefixes, names, or `latest` [default: all]
    #[arg(value_name = "BACKUP")]
    backups: Vec<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Where to
    #[arg(long, value_name = "STORAGE", value_parser = not_empty)]
    to: String,
    /// S3 endpoint of --to; without any --to-s3 option it is reached like the source
    #[arg(long, value_name = "URL", help_heading = "Storage")]
    to_s3_endpoint: Option<String>,
    /// S3 region of --to
    #[arg(long, value_name = "REGION", help_heading = "Storage")]
    to_s3_region: Option<String>,
    /// Bucket in the path for --to
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Storage")]
    to_s3_path_style: Option<bool>,
    /// Certificate authorities for --to
    #[arg(long, value_name = "FILE", help_heading = "Storage")]
    to_s3_ca: Option<PathBuf>,
    #[command(flatten)]
    storage: StorageArgs,
}

impl CopyCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let outcome = copy(&self.task()?, &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.format.print(&outcome.copies, || render(&outcome.copies))?;
        outcome.error.map_or(Ok(()), |error| Err(Failure::from(error)))
    }

    fn task(&self) -> Result<CopyTask, Failure> {
        if self.backups.is_empty() && (self.scope.cluster.is_some() || self.scope.namespace.is_some()) {
            return Err(Failure::usage("--cluster and --namespace choose among the backups named, and none is named")
                .with_help("name backups, e.g. `latest`, or leave --cluster and --namespace out to copy all"));
        }
        let own = S3Args {
            s3_endpoint: self.to_s3_endpoint.clone(),
            s3_region: self.to_s3_region.clone(),
            s3_path_style: self.to_s3_path_style,
            s3_ca: self.to_s3_ca.clone(),
        };
        let reached = if own == S3Args::default() { &self.storage.s3 } else { &own };
        Ok(CopyTask {
            storage: self.storage.spec(),
            to: reached.spec(&self.to),
            backups: self.backups.iter().map(|backup| self.scope.select(backup)).collect(),
        })
    }
}

fn render(copies: &[Copied]) -> String {
    let mut table =
        Table::new(&[("ID", Side::Left), ("CLUSTER", Side::Left), ("SENT", Side::Right), ("STATE", Side::Left)]);
    for copied in copies {
        table.row([
            copied.backup.backup_id.to_string(),
            copied.backup.cluster.to_string(),
            text::size(copied.bytes),
            if copied.copied { "copied" } else { "was there" }.to_owned(),
        ]);
    }
    if copies.is_empty() { "nothing to copy\n".to_owned() } else { table.render() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;

    fn task(line: &str) -> Result<CopyTask, Failure> {
        match parse(line).unwrap().command {
            Command::Copy(command) => command.task(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_destination_is_reached_like_the_source_unless_told() {
        let same = task("copy --storage s3://a --s3-endpoint http://m --s3-region r --to s3://b").unwrap();
        assert_eq!((same.to.endpoint.as_deref(), same.to.region.as_deref()), (Some("http://m"), Some("r")));
        let other =
            task("copy --storage s3://a --s3-endpoint http://m --to s3://b --to-s3-region eu-1 latest x").unwrap();
        assert_eq!((other.to.endpoint.as_deref(), other.to.region.as_deref()), (None, Some("eu-1")));
        assert_eq!(other.backups.len(), 2);
    }

    #[test]
    fn a_cluster_alone_would_not_choose_and_is_refused() {
        assert_eq!(task("copy --storage /a --to /b --cluster c").unwrap_err().exit_code(), 2);
    }
}
