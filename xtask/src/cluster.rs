//! `cargo xtask cluster`: installs what `tests/cluster/cluster` needs and runs it; and holds a cluster for a test run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{find_program, install_packages, need_programs, output, root, run, say};
use crate::{go, image};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Compile the Kubernetes programs (4 minutes on 2 cores, then cached)
    Build,
    /// Start a cluster: a whole node, or only the API server and its controllers
    Up {
        /// No node: several of these run side by side, each in its own `CLUSTER_DIR`
        #[arg(long)]
        api_only: bool,
    },
    /// Stop what `up` started and remove its state
    Down,
    /// Print the shell line that sets KUBECONFIG
    Env,
    /// Import image archives into the node; without one, all that the tests need
    Image {
        /// What `cargo xtask image` or `mkimage` packed
        files: Vec<PathBuf>,
    },
}

/// How much of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// etcd, the API server and its controllers.
    Api,
    /// All of it: pods run.
    Node,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    match &options.verb {
        Verb::Build => build(Level::Api),
        Verb::Up { api_only } => {
            need(if *api_only { Level::Api } else { Level::Node })?;
            run(script().arg("up").args(api_only.then_some("--api-only")))
        }
        Verb::Down => run(script().arg("down")),
        Verb::Env => {
            print!("{}", output(script().arg("env"))?);
            Ok(())
        }
        Verb::Image { files } => {
            let files = if files.is_empty() { image::pack_all()? } else { files.clone() };
            run(script().arg("image").args(files))
        }
    }
}

/// Installs what a cluster of that level needs, and compiles Kubernetes where that was not done yet.
pub(crate) fn build(level: Level) -> Result<()> {
    need(level)?;
    run(script().arg("build"))
}

/// Installs what a cluster of that level needs.
fn need(level: Level) -> Result<()> {
    go::need()?;
    need_programs(&[
        ("python3", "python3"),
        ("openssl", "openssl"),
        ("pgrep", "procps"),
        ("setsid", "util-linux"),
        ("flock", "util-linux"),
    ])?;
    if level == Level::Node {
        need_programs(&[
            ("containerd", "containerd"),
            ("ctr", "containerd"),
            ("runc", "runc"),
            ("iptables", "iptables"),
            ("ip", "iproute2"),
            ("sysctl", "procps"),
            ("mount", "mount"),
            ("cc", "gcc"),
        ])?;
        if !Path::new("/usr/lib/cni/bridge").is_file() && std::env::var_os("CNI_BIN").is_none() {
            install_packages(&["containernetworking-plugins"])?;
        }
        // The pause program is static.
        if find_program("cc").is_some() && !Path::new("/usr/lib/x86_64-linux-gnu/libc.a").is_file() {
            install_packages(&["libc6-dev"])?;
        }
    }
    Ok(())
}

fn script() -> Command {
    let mut command = Command::new(root().join("tests/cluster/cluster"));
    command.env("PATH", go::path());
    command
}

/// A running cluster; it goes down when this is dropped, or when this process ends in whatever way.
pub(crate) struct Held {
    child: Child,
    folder: PathBuf,
    level: Level,
}

impl Held {
    /// Builds what is missing and starts it in a folder of its own.
    pub(crate) fn start(level: Level) -> Result<Self> {
        build(level)?;
        let name = format!("run-{}-{}", if level == Level::Api { "api" } else { "node" }, std::process::id());
        let home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?);
        let folder = home.join(".cache/redkeep-cluster").join(name);
        let mut command = script();
        command.arg("hold").args((level == Level::Api).then_some("--api-only"));
        command.env("CLUSTER_DIR", &folder).env("CLUSTER_WAIT", "1200");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("failed to start the cluster")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the cluster has no standard output")?;
        BufReader::new(stdout).read_line(&mut line).context("failed to read what the cluster says")?;
        if line.trim().is_empty() {
            bail!("the cluster did not come up ({})", child.wait()?);
        }
        say(&format!("cluster: KUBECONFIG={}", line.trim()));
        Ok(Self { child, folder, level })
    }

    /// Brings image archives into the node.
    pub(crate) fn import(&self, files: &[PathBuf]) -> Result<()> {
        run(script().arg("image").args(files).env("CLUSTER_DIR", &self.folder))
    }

    /// Points tests at it.
    pub(crate) fn tell(&self, command: &mut Command) {
        command
            .env("REDKEEP_TEST_CLUSTER", if self.level == Level::Api { "api" } else { "node" })
            .env("KUBECONFIG", self.folder.join("admin.kubeconfig"))
            .env("CLUSTER_DIR", &self.folder);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // `hold` takes the cluster down when its standard input ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
