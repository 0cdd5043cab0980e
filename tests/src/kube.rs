//! A real Kubernetes under the tests: reused where `KUBECONFIG` points at one, else started by `tests/cluster/cluster`, once
//! for a test program, and taken down when that program ends, however it ends.
//!
//! Nothing starts unless it was asked for: `REDKEEP_TEST_CLUSTER=api` (API server and controllers) or `node` (pods run).
//! What was asked for and cannot be had is a failure, never a skip.

pub mod ask;
mod fake_node;
pub mod faults;
pub mod managed;
mod namespace;
mod operator;
mod sentinels;
pub mod tls;
pub mod witness;
mod workloads;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config};
use anyhow::{Context, Result, bail};

pub use fake_node::FakeNode;
pub use namespace::{LIMIT, TestNamespace, resource};
pub use operator::{LEADER_LEASE, Operator, Proxy};
pub use sentinels::Sentinels;
pub use workloads::{BUCKET, Redis, RedisOptions, Storage, finished_job, job, redis_image};

/// Which level was asked for.
const ASKED: &str = "REDKEEP_TEST_CLUSTER";

/// How much of a cluster a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// etcd, the API server and its controllers: objects, but no pods.
    Api,
    /// A node too.
    Node,
}

/// A cluster that is up.
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Where `tests/cluster/cluster` keeps it; unknown for a cluster of someone else's.
    folder: Option<PathBuf>,
    level: Level,
    /// Ends, and takes the cluster down, when its standard input does.
    _holder: Option<Child>,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

impl Cluster {
    /// The cluster for a test that needs an API server; `None`, said by name, where none was asked for.
    pub fn api(test: &str) -> Option<&'static Self> {
        Self::of(Level::Api, test)
    }

    /// The cluster for a test that runs pods.
    pub fn node(test: &str) -> Option<&'static Self> {
        Self::of(Level::Node, test)
    }

    fn of(needed: Level, test: &str) -> Option<&'static Self> {
        let asked = match std::env::var(ASKED).as_deref() {
            Ok("api") => Level::Api,
            Ok("node") => Level::Node,
            Ok(other) => panic!("{ASKED}={other}: it is api or node"),
            Err(_) => {
                eprintln!(
                    "skipped: {test} needs a cluster (`cargo xtask test --only operator,cluster`, or {ASKED}=node)"
                );
                return None;
            }
        };
        if asked < needed {
            eprintln!("skipped: {test} runs pods, and {ASKED}=api has no node");
            return None;
        }
        Some(
            CLUSTER
                .get_or_init(|| Self::start(asked).unwrap_or_else(|error| panic!("no cluster for {test}: {error:#}"))),
        )
    }

    fn start(level: Level) -> Result<Self> {
        if let Some(kubeconfig) = std::env::var_os("KUBECONFIG") {
            let folder = std::env::var_os("CLUSTER_DIR").map(PathBuf::from);
            return Ok(Self { kubeconfig: PathBuf::from(kubeconfig), folder, level, _holder: None });
        }
        let home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?);
        let folder = home.join(".cache/redkeep-cluster").join(format!("test-{}", std::process::id()));
        let mut command = Command::new(script());
        command.arg("hold").args((level == Level::Api).then_some("--api-only"));
        command.env("CLUSTER_DIR", &folder).env("CLUSTER_WAIT", "1200");
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("failed to start it")?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("no standard output")?).read_line(&mut line)?;
        if line.trim().is_empty() {
            bail!("it did not come up ({}): run `cargo xtask cluster up` and see", holder.wait()?);
        }
        if level == Level::Node {
            let images = images()?;
            let status = Command::new(script()).arg("image").args(images).env("CLUSTER_DIR", &folder).status()?;
            anyhow::ensure!(status.success(), "failed to import images ({status})");
        }
        Ok(Self { kubeconfig: PathBuf::from(line.trim()), folder: Some(folder), level, _holder: Some(holder) })
    }

    /// What it can do.
    pub fn level(&self) -> Level {
        self.level
    }

    /// For programs that are started against it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// An administrator's client. Every test makes its own: a client's connections live in one runtime.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.read_timeout = Some(Duration::from_secs(60));
        Ok(Client::try_from(config)?)
    }

    /// A command of `kubectl` as administrator.
    pub fn kubectl(&self) -> Command {
        let program = Command::new(script()).arg("program").output().map(|said| said.stdout).unwrap_or_default();
        let program = PathBuf::from(String::from_utf8_lossy(&program).trim());
        let mut command = if program.is_file() {
            let mut command = Command::new(program);
            command.arg("kubectl");
            command
        } else {
            Command::new("kubectl")
        };
        command.arg("--kubeconfig").arg(&self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs `kubectl`, which must succeed, and returns what it printed.
    pub fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl().args(arguments).output().context("failed to start kubectl")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "kubectl {arguments:?} failed: {}", stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills one of the node's programs (`kubelet`, `containerd`, …) at once.
    pub fn halt(&self, program: &str) -> Result<()> {
        self.act("halt", program)
    }

    /// Starts it again.
    pub fn resume(&self, program: &str) -> Result<()> {
        self.act("resume", program)
    }

    fn act(&self, verb: &str, program: &str) -> Result<()> {
        let folder = self.folder.as_ref().context("this cluster's programs are not ours (CLUSTER_DIR is not set)")?;
        let status = Command::new(script()).args([verb, program]).env("CLUSTER_DIR", folder).status()?;
        anyhow::ensure!(status.success(), "failed to {verb} {program} ({status})");
        Ok(())
    }

    /// A namespace of the test's own, in which pod security `restricted` is enforced; gone when this is dropped.
    pub async fn namespace(&'static self, name: &str) -> Result<TestNamespace> {
        TestNamespace::create(self, name).await
    }
}

/// Applies what `redkeep crd` prints.
pub fn install_crds(cluster: &Cluster) -> Result<()> {
    let printed = crate::succeed(["crd"]).stdout;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), printed)?;
    let path = file.path().to_str().context("a path")?;
    cluster.succeed(&["apply", "--server-side", "--force-conflicts", "-f", path])?;
    cluster.succeed(&["wait", "--for", "condition=Established", "--timeout", "120s", "-f", path])?;
    Ok(())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster")
}

/// The archives that `cargo xtask image --servers` packed beside the program.
fn images() -> Result<Vec<PathBuf>> {
    let program = crate::program()?;
    let folder = program.ancestors().nth(2).context("the program has no target folder")?.join("images");
    let listed = std::fs::read_dir(&folder)
        .with_context(|| format!("{} is missing: run `cargo xtask image --servers`", folder.display()))?;
    let mut found: Vec<PathBuf> = listed
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    found.sort();
    anyhow::ensure!(found.len() >= 6, "{} lacks images: run `cargo xtask image --servers`", folder.display());
    Ok(found)
}
