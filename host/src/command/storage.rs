//! `redkeep storage probe`.

use clap::{Args, Subcommand};
use redkeep_core::classify::Class;
use redkeep_core::storage::ProbeReport;

use crate::arguments::S3Args;
use crate::arguments::values::not_empty;
use crate::output::failure::Failure;
use crate::output::table::{Side, Table};
use crate::session::Session;

/// Look at a storage itself
#[derive(Args, Debug)]
pub(crate) struct StorageCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Try what a storage supports; leaves nothing behind
    Probe(ProbeCommand),
}

#[derive(Args, Debug)]
struct ProbeCommand {
    /// A folder, file:///dir, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[arg(value_name = "STORAGE", env = "REDKEEP_STORAGE", value_parser = not_empty)]
    storage: String,
    #[command(flatten)]
    s3: S3Args,
}

impl StorageCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let What::Probe(probe) = &self.what;
        let spec = probe.s3.spec(&probe.storage);
        let report = session.until_cancelled(Box::pin(async { Ok(session.providers().probe(&spec).await?) })).await?;
        session.format.print(&report, || render(&report))?;
        if report.usable() {
            return Ok(());
        }
        let missing: Vec<&str> = report
            .checks
            .iter()
            .filter(|check| check.required && !check.supported)
            .map(|check| check.name.as_str())
            .collect();
        let message = format!("{} lacks what backups need: {}", report.address, missing.join(", "));
        Err(Failure::new(Class::Failed, "StorageUnusable", message)
            .with_help("see the table for what was seen; permissions of the credentials are the usual cause"))
    }
}

fn render(report: &ProbeReport) -> String {
    let mut table =
        Table::new(&[("CHECK", Side::Left), ("NEEDED", Side::Left), ("WORKS", Side::Left), ("DETAIL", Side::Left)]);
    for check in &report.checks {
        let yes_no = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
        table.row([check.name.clone(), yes_no(check.required), yes_no(check.supported), check.detail.clone()]);
    }
    format!("{}\n\n{}", report.address, table.render())
}
