//! `redkeep check`: for monitors.

use std::time::Duration;

use clap::Args;
use redkeep_engine::check::{ClusterAge, check};

use crate::arguments::values::duration;
use crate::arguments::{ScopeArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::table::{Side, Table};
use crate::output::text;
use crate::session::Session;

/// Exit 1 where the newest backup of a cluster is too old, or there is none: for monitors
#[derive(Args, Debug)]
pub(crate) struct CheckCommand {
    #[command(flatten)]
    scope: ScopeArgs,
    /// How old the newest backup may be, e.g. 36h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Duration,
    #[command(flatten)]
    storage: StorageArgs,
}

impl CheckCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let (storage, scope) = (self.storage.spec(), self.scope.spec());
        let outcome = check(&storage, &scope, self.max_age, &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.format.print(&outcome.clusters, || render(&outcome.clusters))?;
        outcome.error.map_or(Ok(()), |error| Err(Failure::from(error)))
    }
}

fn render(clusters: &[ClusterAge]) -> String {
    let mut table =
        Table::new(&[("CLUSTER", Side::Left), ("NEWEST", Side::Left), ("AGE", Side::Right), ("STATE", Side::Left)]);
    for cluster in clusters {
        table.row([
            format!("{}/{}", cluster.newest.namespace, cluster.newest.cluster),
            cluster.newest.backup_id.to_string(),
            text::duration(Duration::from_secs(cluster.age_seconds)),
            if cluster.ok { "good" } else { "TOO OLD" }.to_owned(),
        ]);
    }
    if clusters.is_empty() { String::new() } else { table.render() }
}
