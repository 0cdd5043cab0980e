//! What is installed, before anybody installs it: chart, plain manifests and alerts, checked by the tools that read them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{find_program, install_packages, need_programs, output, root, run, say, target_dir};
use crate::{generate, go, reasons};

const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.19.2";
const KUBECONFORM: &str = "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0";
/// Kubernetes' schemas as a package of Python; kubeconform's own come from a branch of a repository.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";
/// The lowest version that is supported, and the one that tests run on.
const VERSIONS: [&str; 2] = ["v1.33.0", "v1.34.0"];
/// Kinds of the Prometheus operator: promtool reads what is in them.
const SKIPPED: &str = "PrometheusRule,ServiceMonitor,Kustomization";
/// Sets of values that must all give valid manifests.
const VALUES: [&[&str]; 4] = [
    &[],
    &[
        "serviceMonitor.enabled=true",
        "alerts.enabled=true",
        "dashboard.enabled=true",
        "alerts.backupMissingSeconds=7200",
    ],
    &[
        "watchNamespace=shop",
        "replicas=1",
        "executor=in-process",
        "admission.enabled=false",
        "networkPolicy.enabled=false",
    ],
    &["executor=in-process", "inProcess.readSecrets=true", "inProcess.namespaces={shop,carts}"],
];
/// What tasks within the operator need besides, as the last of [`VALUES`] gives it: an operator of Jobs has none of it.
const IN_PROCESS: [&str; 5] = [
    "name: REDKEEP_READ_SECRETS",
    "{port: 6379, protocol: TCP}",
    "{port: 9000, protocol: TCP}",
    "name: redkeep-in-process\n  namespace: shop",
    "name: redkeep-in-process\n  namespace: carts",
];

/// Installs the tools, then checks that what is generated is current and that everything is valid.
pub(crate) fn check() -> Result<()> {
    generate::check_current()?;
    reasons::check()?;
    let tools = Tools::install()?;
    let rendered = target_dir().join("packaging");
    std::fs::create_dir_all(&rendered).with_context(|| format!("failed to make {}", rendered.display()))?;
    generate::write_schemas(&own_schemas())?;
    tools.chart(&rendered)?;
    tools.manifests(&rendered)?;
    tools.alerts(&rendered)
}

struct Tools {
    helm: PathBuf,
    kubeconform: PathBuf,
    promtool: PathBuf,
    schemas: PathBuf,
}

impl Tools {
    fn install() -> Result<Self> {
        need_programs(&[("python3", "python3-pip")])?;
        if find_program("promtool").is_none() {
            // Debian's package would start a server by itself where there is an init system.
            install_packages(&["prometheus"])?;
        }
        let promtool = find_program("promtool").context("promtool is still missing after installing prometheus")?;
        go::need()?;
        Ok(Self {
            helm: compiled("helm", HELM)?,
            kubeconform: compiled("kubeconform", KUBECONFORM)?,
            promtool,
            schemas: schemas()?,
        })
    }

    /// The chart with each set of values.
    fn chart(&self, rendered: &Path) -> Result<()> {
        run(Command::new(&self.helm).args(["lint", "--strict", "config/chart"]).current_dir(root()))?;
        for (index, values) in VALUES.iter().enumerate() {
            let text = output(&mut self.template(values))?;
            ensure!(
                !text.contains("redkeep-system"),
                "the chart with {values:?} names a namespace that is not the release's"
            );
            let is_last = index + 1 == VALUES.len();
            for words in IN_PROCESS {
                ensure!(
                    text.contains(words) == is_last,
                    "the chart with {values:?}: {words:?} is there, or not: {is_last}"
                );
            }
            let path = rendered.join(format!("chart-{index}.yaml"));
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
            self.conforms(&path)?;
        }
        // Secrets of the whole cluster are never read.
        let refused = self.template(&["executor=in-process", "inProcess.readSecrets=true"]).output()?;
        let words = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && words.contains("inProcess.readSecrets needs"),
            "it is not refused: {words}"
        );
        Ok(())
    }

    fn template(&self, values: &[&str]) -> Command {
        let mut command = Command::new(&self.helm);
        command.args(["template", "redkeep", "config/chart", "--namespace", "backup-system", "--include-crds"]);
        command.args(["--kube-version", "1.34"]).current_dir(root());
        for value in values {
            command.args(["--set", value]);
        }
        command
    }

    /// The plain manifests.
    fn manifests(&self, _rendered: &Path) -> Result<()> {
        for folder in ["rbac", "admission", "operator", "tenant", "in-process", "samples", "crd"] {
            self.conforms(&root().join("config").join(folder))?;
        }
        Ok(())
    }

    fn conforms(&self, path: &Path) -> Result<()> {
        for version in VERSIONS {
            let kubernetes = format!(
                "{}/{version}-local-strict/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
                self.schemas.display()
            );
            let ours = format!("{}/{{{{.ResourceKind}}}}.json", own_schemas().display());
            let mut command = Command::new(&self.kubeconform);
            command.args([
                "-strict",
                "-summary",
                "-skip",
                SKIPPED,
                "-schema-location",
                &kubernetes,
                "-schema-location",
                &ours,
            ]);
            run(command.arg(path))?;
        }
        Ok(())
    }

    /// The alerts, by their own tests; and as the chart gives them.
    fn alerts(&self, rendered: &Path) -> Result<()> {
        run(Command::new(&self.promtool)
            .args(["check", "rules", "rules.yaml"])
            .current_dir(root().join("config/monitoring")))?;
        run(Command::new(&self.promtool)
            .args(["test", "rules", "rules_test.yaml"])
            .current_dir(root().join("config/monitoring")))?;
        let chart = std::fs::read_to_string(rendered.join("chart-1.yaml")).context("the chart was not rendered")?;
        let rules = std::fs::read_to_string(root().join("config/monitoring/rules.yaml")).context("no alerts")?;
        let (found, changed) = (rules.matches("> 86400").count(), chart.matches("> 7200").count());
        ensure!(found > 0 && found == changed, "alerts.backupMissingSeconds changed {changed} places of {found}");
        Ok(())
    }
}

fn folder() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(".cache/redkeep-tools"))
}

/// A program of Go, compiled once for each version.
/// Where helm is, compiled first where it is missing.
pub(crate) fn helm() -> Result<PathBuf> {
    go::need()?;
    compiled("helm", HELM)
}

fn compiled(name: &str, module: &str) -> Result<PathBuf> {
    let version = module.rsplit('@').next().unwrap_or(module);
    let place = folder()?.join(format!("{name}-{version}"));
    let program = place.join(name);
    if program.is_file() {
        return Ok(program);
    }
    say(&format!("compiling {module}"));
    let path: OsString = go::path();
    let mut command = Command::new("go");
    command
        .args(["install", module])
        .env("PATH", path)
        .env("GOBIN", &place)
        .env("GOFLAGS", "-mod=mod")
        .current_dir("/");
    run(&mut command)?;
    if !program.is_file() {
        bail!("{} is missing after go install {module}", program.display());
    }
    Ok(program)
}

/// Kubernetes' schemas, in a folder for each version, with references that kubeconform finds beside them.
fn schemas() -> Result<PathBuf> {
    let place = folder()?.join(SCHEMAS.replace("==", "-"));
    let done = place.join("relative");
    if done.is_dir() {
        return Ok(done);
    }
    say(&format!("fetching {SCHEMAS}"));
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade", "--target"]);
    run(command.arg(&place).arg(SCHEMAS))?;
    let new = place.join("relative.new");
    for version in VERSIONS {
        let name = format!("{version}-local-strict");
        let from = place.join("kubernetes_validate/kubernetes-json-schema").join(&name);
        let to = new.join(&name);
        std::fs::create_dir_all(&to).with_context(|| format!("failed to make {}", to.display()))?;
        for entry in std::fs::read_dir(&from).with_context(|| format!("failed to list {}", from.display()))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            // Both name places on the internet.
            let text = text.replace("/api/_definitions.json", "_definitions.json").replace("\"$id\":", "\"x-id\":");
            std::fs::write(to.join(path.file_name().unwrap_or_default()), text)?;
        }
    }
    std::fs::rename(&new, &done).context("failed to place the schemas")?;
    Ok(done)
}

/// Where schemas of our own kinds lie, as kubeconform reads them.
fn own_schemas() -> PathBuf {
    target_dir().join("packaging/schemas")
}
