//! `redkeep operator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use redkeep_controller::settings::PLUGIN_FOLDER;

use crate::arguments::values::duration;
use crate::output::failure::Failure;
use crate::session::Session;
use crate::wiring::operator::{self, ExecutorKind, OperatorOptions};

/// Run the controllers of the custom resources, on Kubernetes
#[derive(Args, Debug)]
pub(crate) struct OperatorCommand {
    /// Where tasks run: as Jobs, or in this process (small installations, development)
    #[arg(long, value_enum, default_value = "job", env = "REDKEEP_EXECUTOR")]
    executor: ExecutorName,
    /// Image of task pods: the operator's own
    #[arg(long, env = "REDKEEP_IMAGE")]
    image: Option<String>,
    /// Watch this namespace only
    #[arg(long, env = "REDKEEP_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// Namespace of the operator itself, where its Lease lies
    #[arg(long, env = "REDKEEP_OPERATOR_NAMESPACE", default_value = "redkeep-system")]
    operator_namespace: String,
    /// The operator's own service account there: instances of managed Redis obey no other
    #[arg(long, env = "REDKEEP_SERVICE_ACCOUNT", default_value = "redkeep-operator")]
    service_account: String,
    /// Name of this process in Events and in the Lease; by default the host name
    #[arg(long, env = "REDKEEP_INSTANCE")]
    instance: Option<String>,
    /// Who makes backups here; by default the uid of namespace kube-system
    #[arg(long, env = "REDKEEP_ORIGIN")]
    origin: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, alias = "listen", env = "REDKEEP_METRICS_LISTEN", default_value = "0.0.0.0:8080")]
    metrics_listen: SocketAddr,
    /// Work without a Lease: only where nobody else can
    #[arg(long, env = "REDKEEP_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    /// Service account that custom resources may ask for; once for each
    #[arg(long, env = "REDKEEP_TASK_SERVICE_ACCOUNTS", value_delimiter = ',')]
    task_service_account: Vec<String>,
    /// Image that may load backups when they are verified at level boot; once for each. One without tag and digest allows every
    /// one of its repository; the first other one is taken where nothing else names one
    #[arg(long, env = "REDKEEP_VERIFICATION_IMAGES", value_delimiter = ',')]
    verification_image: Vec<String>,
    /// Folder of plugins in the image of operator and tasks, for BackupMethods with source `file`
    #[arg(long, env = "REDKEEP_PLUGIN_FOLDER", default_value = PLUGIN_FOLDER)]
    plugin_folder: PathBuf,
    /// How many objects of one kind are looked at at once
    #[arg(long, env = "REDKEEP_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// How many tasks run at once with --executor in-process
    #[arg(long, env = "REDKEEP_PARALLEL_TASKS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    parallel_tasks: u16,
    /// Let in-process tasks read Secrets (needs the optional role)
    #[arg(long, env = "REDKEEP_READ_SECRETS")]
    read_secrets: bool,
    /// How often a waiting or running task is asked how it stands
    #[arg(long, env = "REDKEEP_POLL_INTERVAL", default_value = "10s", value_parser = duration)]
    poll_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExecutorName {
    Job,
    InProcess,
}

impl OperatorCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let executor = match self.executor {
            ExecutorName::Job => ExecutorKind::Job,
            ExecutorName::InProcess => {
                ExecutorKind::InProcess { parallel: usize::from(self.parallel_tasks), read_secrets: self.read_secrets }
            }
        };
        let options = OperatorOptions {
            executor,
            image: self.image()?,
            watch_namespace: self.watch_namespace.clone(),
            namespace: self.operator_namespace.clone(),
            service_account: self.service_account.clone(),
            instance: self.instance.clone(),
            origin: self.origin.clone(),
            listen: self.metrics_listen,
            is_alone: self.no_leader_election,
            task_service_accounts: self.task_service_account.iter().cloned().collect(),
            // A variable that is set to nothing is one empty entry.
            verification_images: self.verification_image.iter().filter(|image| !image.is_empty()).cloned().collect(),
            plugin_folder: self.plugin_folder.clone(),
            concurrency: self.concurrency,
            poll_interval: self.poll_interval,
        };
        operator::run(&session.wiring, options, session.cancellation()).await
    }

    /// Jobs run an image, and nobody can guess which.
    fn image(&self) -> Result<String, Failure> {
        match (self.executor, &self.image) {
            (_, Some(image)) => Ok(image.clone()),
            (ExecutorName::InProcess, None) => Ok(String::new()),
            (ExecutorName::Job, None) => Err(Failure::usage("the image of task pods is not known")
                .with_help("give it by --image or REDKEEP_IMAGE, or run tasks in this process: --executor in-process")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OperatorCommand;
    use crate::command::Command;
    use crate::command::tests::parse;

    fn operator(line: &str) -> OperatorCommand {
        match parse(line).unwrap().command {
            Command::Operator(command) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn jobs_need_an_image_and_a_process_does_not() {
        assert!(operator("operator --executor in-process").image().is_ok());
        let line = "operator --image redkeep:1 --watch-namespace shop --task-service-account a,b";
        assert_eq!(operator(line).image().unwrap(), "redkeep:1");
        let line = "operator --image i --verification-image redis:8.2,valkey --verification-image r.io/redis";
        assert_eq!(operator(line).verification_image, ["redis:8.2", "valkey", "r.io/redis"]);
        for line in ["operator", "operator --executor job"] {
            assert_eq!(operator(line).image().unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["operator --image i --concurrency 0", "operator --executor vm"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
