//! What goes wrong on a node: processes that are killed or stand still, pods that are cut off. Only where the node is this
//! machine, as `tests/cluster/cluster` makes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Cluster, TestNamespace};

/// Where the network plugin writes down which pod has which address.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Longer names of processes the kernel cuts.
const NAME_LENGTH: usize = 15;
/// Where Redis answers its clients: the test may always ask.
const REDIS_PORT: &str = "6379";
/// Where the instance answers the operator.
const INSTANCE_PORT: &str = "8443";

/// A process of a pod by its name.
pub fn process(pod: &Value, name: &str) -> Result<Pid> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
    let name = &name[..name.len().min(NAME_LENGTH)];
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("cgroup").contains(uid) && read("comm").trim() == name {
            let number = entry.file_name().to_string_lossy().parse()?;
            return Pid::from_raw(number).context("no process id");
        }
    }
    bail!("pod {} has no process {name} on this machine", pod["metadata"]["name"])
}

/// Kills a process of a pod (SIGKILL).
pub async fn kill(namespace: &TestNamespace, pod: &str, name: &str) -> Result<()> {
    let pod = namespace.get("v1", "Pod", pod).await?.context("no pod")?;
    Ok(kill_process(process(&pod, name)?, Signal::KILL)?)
}

/// A process that stands still until this is dropped.
pub struct Stalled(Pid);

impl Stalled {
    /// Stops it (SIGSTOP).
    pub async fn of(namespace: &TestNamespace, pod: &str, name: &str) -> Result<Self> {
        let pod = namespace.get("v1", "Pod", pod).await?.context("no pod")?;
        let process = process(&pod, name)?;
        kill_process(process, Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// One of the node's programs that does not run until this is dropped.
pub struct Halted {
    cluster: &'static Cluster,
    program: &'static str,
}

impl Halted {
    /// Kills it.
    pub fn of(cluster: &'static Cluster, program: &'static str) -> Result<Self> {
        cluster.halt(program)?;
        Ok(Self { cluster, program })
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.resume(self.program) {
            eprintln!("{} was not started again: {error:#}", self.program);
        }
    }
}

/// Pods that are cut off from other pods, from the API server and from the operator, until this is dropped. Their Redis still
/// answers this machine, and they still reach each other.
pub struct CutOff {
    /// Network namespace, and the rule without its verb.
    rules: Vec<(PathBuf, Vec<String>)>,
}

impl CutOff {
    /// Cuts `inside` off from `outside`.
    pub async fn of(namespace: &TestNamespace, inside: &[&str], outside: &[&str]) -> Result<Self> {
        let service = namespace.cluster().succeed(&[
            "-n",
            "default",
            "get",
            "service",
            "kubernetes",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])?;
        let mut strangers = Vec::new();
        for pod in outside {
            strangers.push(super::managed::address(namespace, pod).await?);
        }
        // Dropped half-way, it takes away what it has made so far.
        let mut this = Self { rules: Vec::new() };
        for pod in inside {
            let (netns, gateway) = network(&super::managed::address(namespace, pod).await?)?;
            for stranger in &strangers {
                this.add(&netns, &["INPUT", "-s", stranger])?;
                this.add(&netns, &["OUTPUT", "-d", stranger])?;
            }
            this.add(&netns, &["OUTPUT", "-d", service.trim()])?;
            this.add(&netns, &["OUTPUT", "-d", &gateway, "-p", "tcp", "!", "--sport", REDIS_PORT])?;
            this.add(&netns, &["INPUT", "-s", &gateway, "-p", "tcp", "--dport", INSTANCE_PORT])?;
        }
        Ok(this)
    }

    fn add(&mut self, netns: &Path, rule: &[&str]) -> Result<()> {
        let rule: Vec<String> = rule.iter().chain(&["-j", "DROP"]).map(|&word| word.to_owned()).collect();
        iptables(netns, "-I", &rule)?;
        self.rules.push((netns.to_owned(), rule));
        Ok(())
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        for (netns, rule) in self.rules.drain(..).rev() {
            // With the pod its network is gone, and the rules with it.
            if netns.exists()
                && let Err(error) = iptables(&netns, "-D", &rule)
            {
                eprintln!("{error:#}");
            }
        }
    }
}

fn iptables(netns: &Path, verb: &str, rule: &[String]) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).args(["iptables", "-w", verb]).args(rule);
    let output = command.output().context("failed to start nsenter")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "iptables {verb} {rule:?} failed: {}", stderr.trim());
    Ok(())
}

/// The network namespace of the pod that has an address, and its gateway.
fn network(address: &str) -> Result<(PathBuf, String)> {
    for entry in std::fs::read_dir(CNI_RESULTS).context("the node is not this machine")?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let Ok(kept) = serde_json::from_str::<Value>(&text) else { continue };
        let addresses = kept["result"]["ips"].as_array();
        let own = addresses.and_then(|all| {
            all.iter().find(|one| one["address"].as_str().and_then(|text| text.split('/').next()) == Some(address))
        });
        let interfaces = kept["result"]["interfaces"].as_array();
        let netns = interfaces
            .and_then(|all| all.iter().find_map(|one| one["sandbox"].as_str().filter(|path| !path.is_empty())));
        if let (Some(own), Some(netns)) = (own, netns) {
            let gateway = own["gateway"].as_str().context("no gateway")?;
            return Ok((PathBuf::from(netns), gateway.to_owned()));
        }
    }
    bail!("{CNI_RESULTS} knows no pod of address {address}")
}
