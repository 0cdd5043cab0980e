//! The comparisons, one function each. Adding one: a function that returns rows, and a line in [`Bench::run`].

mod capture;
mod catalog;
mod memory;
mod plugin;
mod restore;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use redkeep_testing::server::Version;

use crate::Options;
use crate::dataset::Data;
use crate::gateway::Gateway;
use crate::measure::Run;
use crate::table::{Row, Table};

/// What all rows share.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) place: tempfile::TempDir,
    pub(crate) gateway: Gateway,
    pub(crate) recipient: String,
    pub(crate) identity: PathBuf,
    mixed: Option<Data>,
    small: Option<Data>,
}

impl Bench {
    pub(crate) async fn new(options: Options) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let identity = place.path().join("key.txt");
        let made = Command::new("age-keygen").arg("-o").arg(&identity).output().context("failed to run age-keygen")?;
        let recipient =
            String::from_utf8_lossy(&made.stderr).split_whitespace().last().context("no public key")?.to_owned();
        Ok(Self { options, place, gateway: Gateway::start().await?, recipient, identity, mixed: None, small: None })
    }

    pub(crate) async fn run(&mut self) -> Table {
        let mut table = Table::default();
        for version in Version::ALL {
            let name = format!("capture {}", version.name());
            if self.wanted(&name) {
                take(&mut table, &name, capture::against_redis_cli(self, version).await);
            }
        }
        if self.wanted("pipeline of tools") {
            take(&mut table, "pipeline of tools", capture::against_tools(self).await);
        }
        if self.wanted("archive") {
            take(&mut table, "archive", capture::archive(self).await);
        }
        if self.wanted("files") {
            take(&mut table, "files", capture::files(self).await);
        }
        if self.wanted("restore directory") {
            take(&mut table, "restore directory", restore::directory(self).await);
        }
        if self.wanted("restore live") {
            take(&mut table, "restore live", restore::live(self).await);
        }
        if self.wanted("plugin") {
            take(&mut table, "plugin", plugin::figures(self.options.plugin_figures.as_deref()));
        }
        if self.wanted("memory") {
            take(&mut table, "memory", memory::peaks(self).await);
        }
        if self.wanted("list") {
            take(&mut table, "list", catalog::list(self).await);
        }
        table
    }

    fn wanted(&self, name: &str) -> bool {
        self.options.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// The data set of mixed types, made on first use.
    pub(crate) async fn mixed(&mut self) -> Result<&Data> {
        if self.mixed.is_none() {
            eprintln!("bench: filling the mixed data set");
            let data = Data::mixed(self.place.path(), self.options.mixed_mb).await?;
            eprintln!("bench: mixed data set of {} MB", data.size()? / 1_000_000);
            self.mixed = Some(data);
        }
        self.mixed.as_ref().context("no data set")
    }

    /// The data set of small keys, made on first use.
    pub(crate) async fn small(&mut self) -> Result<&Data> {
        if self.small.is_none() {
            eprintln!("bench: filling the data set of small keys");
            self.small = Some(Data::small(self.place.path(), self.options.small_keys).await?);
        }
        self.small.as_ref().context("no data set")
    }

    /// The program with the gateway's credentials.
    pub(crate) fn redkeep(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.redkeep);
        command.args(arguments);
        self.gateway.prepare(&mut command);
        command
    }
}

fn take(table: &mut Table, name: &str, rows: Result<Vec<Row>>) {
    match rows {
        Ok(rows) => {
            for row in &rows {
                eprintln!("bench: {}: {} against {}: {}", row.what, row.ours, row.theirs, row.figure);
            }
            table.rows.extend(rows);
        }
        Err(error) => {
            eprintln!("bench: {name}: {error:#}");
            table.failures.push(format!("{name}: {error:#}"));
        }
    }
}

/// A row whose figure is our time over theirs, at most `limit`.
pub(crate) fn ratio(what: String, against: &str, limit: f64, ours: Run, theirs: Run) -> Row {
    let ratio = ours.seconds / theirs.seconds;
    Row {
        what,
        against: against.to_owned(),
        target: format!("at most {limit} × its time"),
        ours: format!("{:.2} s (peak {:.0} MiB)", ours.seconds, ours.peak_mib),
        theirs: format!("{:.2} s", theirs.seconds),
        figure: format!("{ratio:.2} ×"),
        reached: ratio <= limit,
    }
}
