//! `cargo xtask test`: installs what is missing, then every check and test. `--full` runs the long forms too.
//!
//! Tests come in groups, cheapest first; each is timed, and a failure in one does not hide the next.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cluster::{Held, Level};
use crate::workspace::{cargo, output, root, run, say};
use crate::{check, cluster, fuzz, image, packaging, plugins, servers};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The whole of every matrix, and the long runs
    #[arg(long)]
    full: bool,
    /// Skip formatting, lints and the workspace's rules
    #[arg(long)]
    no_lint: bool,
    /// Only these groups of tests; skips the rest
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    only: Vec<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    /// Everything that needs no Kubernetes
    Core,
    /// `operator_*`: against a real API server, without a node
    Operator,
    /// `cluster_*`: pods on a node
    Cluster,
    /// `plugin_*`: building and running plugins in other languages
    Plugins,
}

impl Group {
    const ALL: [Self; 4] = [Self::Core, Self::Operator, Self::Cluster, Self::Plugins];

    /// What the names of its test files begin with; the core has what is left.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::Core => None,
            Self::Operator => Some("operator_"),
            Self::Cluster => Some("cluster_"),
            Self::Plugins => Some("plugin_"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Core => "core tests",
            Self::Operator => "operator tests",
            Self::Cluster => "cluster tests",
            Self::Plugins => "plugin tests",
        }
    }
}

pub(crate) fn start(options: &Options) -> Result<()> {
    let asked = |group: Group| options.only.is_empty() || options.only.contains(&group);
    let mut timed = Timed::default();
    timed.step("servers", || {
        servers::install()?;
        servers::install_storage()
    })?;
    if asked(Group::Operator) || asked(Group::Cluster) {
        let level = if asked(Group::Cluster) { Level::Node } else { Level::Api };
        timed.step("kubernetes", || cluster::build(level))?;
    }
    timed.step("plugins", || plugins::build().map(drop))?;
    if !options.no_lint && options.only.is_empty() {
        timed.step("rules of the workspace", check::start)?;
        timed.step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
        timed.step("lints", || {
            run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        })?;
    }
    // `cargo test` builds the program too (host/tests/program.rs), before the first test runs.
    timed.step("build", || run(cargo().args(["test", "--quiet", "--workspace", "--no-run"])))?;
    let mut failed = Vec::new();
    if options.only.is_empty()
        && let Err(error) = timed.step("packaging", packaging::check)
    {
        say(&format!("packaging: {error:#}"));
        failed.push("packaging");
    }
    for group in Group::ALL.into_iter().filter(|&group| asked(group) && has_tests(group)) {
        if let Err(error) = timed.step(group.name(), || run_group(group, options.full)) {
            say(&format!("{}: {error:#}", group.name()));
            failed.push(group.name());
        }
    }
    if options.only.is_empty() {
        let seconds = if options.full { 300 } else { 60 };
        timed.step("fuzzing", || fuzz::start(&fuzz::Options { seconds }))?;
    }
    timed.summary();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// One group against what it needs. The same package selection everywhere, so that nothing is compiled twice.
fn run_group(group: Group, full: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).env("REDKEEP_SERVERS", servers::folder());
    // A cluster of the user's own is used only by tests that were told so.
    command.env_remove("REDKEEP_TEST_CLUSTER");
    if full {
        command.env("REDKEEP_FULL", "1");
    }
    let Some(prefix) = group.prefix() else { return run_core(command) };
    command.args(["--test", &format!("{prefix}*")]);
    match group {
        Group::Core | Group::Plugins => run(&mut command),
        Group::Operator => against(Level::Api, &mut command),
        Group::Cluster => against(Level::Node, command.env("REDKEEP_HELM", packaging::helm()?)),
    }
}

/// What no other group has, and what the documentation shows.
fn run_core(mut command: Command) -> Result<()> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("failed to read cargo metadata")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
    let elsewhere: Vec<_> = Group::ALL.into_iter().filter_map(Group::prefix).collect();
    command.args(["--lib", "--bins"]);
    for name in tests.filter(|name| !elsewhere.iter().any(|prefix| name.starts_with(prefix))) {
        command.args(["--test", name]);
    }
    let tests = run(&mut command);
    run(cargo().args(["test", "--quiet", "--workspace", "--doc"]))?;
    tests
}

/// Runs tests against the cluster that `KUBECONFIG` names, else one that lives as long as they do.
fn against(level: Level, command: &mut Command) -> Result<()> {
    if std::env::var_os("KUBECONFIG").is_some() {
        command.env("REDKEEP_TEST_CLUSTER", if level == Level::Api { "api" } else { "node" });
        return run(command);
    }
    let archives = if level == Level::Node { image::pack_all()? } else { Vec::new() };
    let held = Held::start(level)?;
    if !archives.is_empty() {
        held.import(&archives)?;
    }
    held.tell(command);
    // Pods share two cores: one test at a time.
    if level == Level::Node {
        command.args(["--", "--test-threads", "1"]);
    }
    run(command)
}

fn has_tests(group: Group) -> bool {
    let Some(prefix) = group.prefix() else { return true };
    let listed = std::fs::read_dir(root().join("tests/tests")).into_iter().flatten().flatten();
    listed.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
}

/// Says how long each step took, and all of it together at the end.
#[derive(Default)]
struct Timed {
    steps: Vec<(String, u64, bool)>,
}

impl Timed {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        say(&format!("{name} …"));
        let begun = Instant::now();
        let result = work();
        let seconds = begun.elapsed().as_secs();
        let said = if result.is_ok() { "ok" } else { "FAILED" };
        say(&format!("{name}: {said} after {seconds} s"));
        self.steps.push((name.to_owned(), seconds, result.is_ok()));
        result
    }

    fn summary(&self) {
        let total: u64 = self.steps.iter().map(|(_, seconds, _)| seconds).sum();
        for (name, seconds, ok) in &self.steps {
            say(&format!("{:>5} s  {name}{}", seconds, if *ok { "" } else { "  FAILED" }));
        }
        say(&format!("{total:>5} s  in all"));
    }
}
