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
    /// Whether the servers' and our files lie in memory (`TMPDIR=/dev/shm`): a virtual disk is noisier than what is compared.
    in_memory: bool,
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
        let kind =
            Command::new("stat").args(["-f", "-c", "%T"]).arg(place.path()).output().context("failed to run stat")?;
        let in_memory = kind.stdout.trim_ascii() == b"tmpfs";
        let gateway = Gateway::start().await?;
        Ok(Self { options, place, gateway, recipient, identity, in_memory, mixed: None, small: None })
    }

    pub(crate) async fn run(&mut self) -> Table {
        let mut table = Table::default();
        for version in Version::ALL {
            let name = format!("capture {}", version.name());
            if self.wanted(&name) {
                let rows = capture::against_redis_cli(self, version).await;
                take(self, &mut table, &name, rows);
            }
        }
        if self.wanted("pipeline of tools") {
            let rows = capture::against_tools(self).await;
            take(self, &mut table, "pipeline of tools", rows);
        }
        if self.wanted("archive") {
            let rows = capture::archive(self).await;
            take(self, &mut table, "archive", rows);
        }
        if self.wanted("files") {
            let rows = capture::files(self).await;
            take(self, &mut table, "files", rows);
        }
        if self.wanted("restore directory") {
            let rows = restore::directory(self).await;
            take(self, &mut table, "restore directory", rows);
        }
        if self.wanted("restore live") {
            let rows = restore::live(self).await;
            take(self, &mut table, "restore live", rows);
        }
        if self.wanted("plugin") {
            let rows = plugin::figures(self.options.plugin_figures.as_deref());
            take(self, &mut table, "plugin", rows);
        }
        if self.wanted("memory") {
            let rows = memory::peaks(self).await;
            take(self, &mut table, "memory", rows);
        }
        if self.wanted("list") {
            let rows = catalog::list(self).await;
            take(self, &mut table, "list", rows);
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

/// Takes rows into the table, and the table to its file: a run that is stopped half-way keeps what it measured.
fn take(bench: &Bench, table: &mut Table, name: &str, rows: Result<Vec<Row>>) {
    match rows {
        Ok(mut rows) => {
            for row in &mut rows {
                if bench.in_memory {
                    row.what.push_str(", files in memory");
                }
                eprintln!("bench: {}: {} against {}: {}", row.what, row.ours, row.theirs, row.figure);
            }
            table.rows.extend(rows);
        }
        Err(error) => {
            eprintln!("bench: {name}: {error:#}");
            table.failures.push(format!("{name}: {error:#}"));
        }
    }
    if let Err(error) = table.save(&bench.options.results) {
        eprintln!("bench: {error:#}");
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
