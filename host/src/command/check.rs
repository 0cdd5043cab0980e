//! `redkeep check`: for monitors.

use std::time::Duration;

use clap::Args;
use redkeep_engine::check::{ClusterAge, check};

use crate::arguments::values::duration;
use crate::arguments::{ScopeArgs, StorageArgs};
use crate::command::list::{fail_for_damage, problem_line};
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
        session.warnings(&outcome.warnings);
        for problem in &outcome.problems {
            session.progress.warn("warning", &problem_line(problem));
        }
        session.format.print(&outcome.clusters, || render(&outcome.clusters))?;
        outcome.error.map_or_else(|| fail_for_damage(&outcome.problems), |error| Err(Failure::from(error)))
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
            match (cluster.damaged, cluster.ok) {
                (true, _) => "DAMAGED",
                (false, true) => "good",
                (false, false) => "TOO OLD",
            }
            .to_owned(),
        ]);
    }
    if clusters.is_empty() { String::new() } else { table.render() }
}
