//! `redkeep task`: `TaskSpec` in, `TaskReport` out; what a Kubernetes Job runs.

mod report;
mod server;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use redkeep_core::task::{Outcome, TaskReport, TaskSpec};
use redkeep_engine::watch::Watched;
use tokio_util::sync::CancellationToken;

use crate::output::failure::Failure;
use crate::output::print;
use crate::session::Session;
use crate::tasks;
use report::{ReportFile, Running};
use server::ProgressPage;

/// Where the report goes as well.
const REPORT_VARIABLE: &str = "REDKEEP_REPORT_FILE";
/// Where Kubernetes takes a container's last words from.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// A spec is small; a wrong file must not be read whole.
const MAX_SPEC: u64 = 1 << 20;

/// Run a task from its JSON description and print its report
#[derive(Args, Debug)]
pub(crate) struct TaskCommand {
    /// The task (- is standard input)
    #[arg(value_name = "FILE", required_unless_present = "env")]
    file: Option<PathBuf>,
    /// Take the task from this environment variable
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    env: Option<String>,
    /// Write the report to /dev/termination-log too, or to the file that REDKEEP_REPORT_FILE names: at every stage, so that
    /// a task that is killed leaves how far it came, and at the end
    #[arg(long)]
    report: bool,
    /// Answer GET /progress and GET /livez here while the task runs
    #[arg(long, value_name = "ADDRESS:PORT")]
    progress_listen: Option<SocketAddr>,
}

impl TaskCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let spec = self.spec()?;
        let watched = Watched::new(session.events());
        let _page = match self.progress_listen {
            Some(address) => Some(ProgressPage::serve(address, Arc::clone(&watched)).await?),
            None => None,
        };
        let report = match self.report_file()? {
            Some(file) => reported(spec, session, &watched, file).await?,
            None => tasks::run(spec, session.providers(), watched).await,
        };
        session.progress.clear();
        print(&compact(&report)?)?;
        print(b"\n")?;
        failure_of(&report)
    }

    fn spec(&self) -> Result<TaskSpec, Failure> {
        if let Some(name) = &self.env {
            let text = std::env::var(name).map_err(|error| {
                Failure::usage(format!("failed to read the task from the variable {name}"))
                    .caused_by(&error)
                    .with_help(format!("set {name} to a task as JSON"))
            })?;
            return parse(text.as_bytes());
        }
        parse(&read(self.file.as_deref().unwrap_or(Path::new("-")))?)
    }

    fn report_file(&self) -> Result<Option<ReportFile>, Failure> {
        let place = std::env::var_os(REPORT_VARIABLE).filter(|place| !place.is_empty()).map(PathBuf::from);
        let place = place.or_else(|| self.report.then(|| PathBuf::from(TERMINATION_LOG)));
        let help = format!("make it writable, or let {REPORT_VARIABLE} name another file");
        place.map(|place| ReportFile::open(&place, &help)).transpose()
    }
}

/// Runs the task with its report kept in a file.
async fn reported(
    spec: TaskSpec,
    session: &Session,
    watched: &Arc<Watched>,
    mut file: ReportFile,
) -> Result<TaskReport, Failure> {
    let providers = session.providers();
    let running = Running {
        spec: spec.clone(),
        watched: Arc::clone(watched),
        started_at: providers.now(),
        providers: Arc::clone(&providers),
    };
    // The first word before the first act: a file that takes none is found now.
    file.write(&compact(&running.report())?)?;
    let ended = CancellationToken::new();
    let writer = tokio::spawn(running.keep_written(file, session.cancellation(), ended.clone()));
    let report = tasks::run(spec, providers, Arc::clone(watched) as _).await;
    ended.cancel();
    let mut file = writer.await.map_err(|error| {
        Failure::failed("ReportUnwritable", "failed to keep the report of the running task").caused_by(&error)
    })?;
    // The report's file first: it is what an operator waits for, whoever reads standard output.
    file.write(&compact(&report)?)?;
    Ok(report)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!("failed to read the task {}", file.display()))
            .caused_by(&error)
            .with_help("name a file that holds a task as JSON, or - for standard input")
    };
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    source.take(MAX_SPEC + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_SPEC {
        return Err(failed(std::io::Error::other("it is larger than 1 MiB")));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<TaskSpec, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::usage("the task cannot be understood")
            .caused_by(&error)
            .with_help("a task is JSON: {\"version\": 1, \"task\": {\"kind\": \"backup\", …}}")
    })
}

/// One line, so that it fits where 4096 bytes are all there is.
fn compact(report: &TaskReport) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(report)
        .map_err(|error| Failure::failed("OutputFailed", "failed to write the report as JSON").caused_by(&error))
}

/// The report says it all; what is left is a line for people and the exit code.
fn failure_of(report: &TaskReport) -> Result<(), Failure> {
    match &report.outcome {
        Outcome::Done | Outcome::Planned => Ok(()),
        // The engine always ends a task; a report that says otherwise is not one to trust.
        Outcome::Running { stage } => {
            Err(Failure::failed("NotEnded", format!("the task stopped in the stage {stage} without an end")))
        }
        Outcome::Failed { class, reason, message, help, retryable } => {
            let mut failure = Failure::new(*class, reason, message.clone());
            failure.help.clone_from(help);
            failure.retryable = *retryable;
            Err(failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_core::classify::Class;
    use serde_json::json;

    #[test]
    fn a_task_that_cannot_be_understood_is_a_usage_error() {
        for bad in ["", "nonsense", "[]", r#"{"version": 1}"#, r#"{"version": 1, "task": {"kind": "dance"}}"#] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err().exit_code(), 2, "{bad}");
        }
        let good =
            json!({"version": 1, "task": {"kind": "delete", "storage": {"url": "/s"}, "backup": {"backup": "latest"}}});
        assert_eq!(parse(good.to_string().as_bytes()).unwrap().version, 1);
    }

    #[test]
    fn a_failed_report_has_the_exit_code_of_its_class() {
        let report = |outcome| TaskReport {
            outcome,
            started_at: redkeep_core::Timestamp::UNIX_EPOCH,
            ended_at: redkeep_core::Timestamp::UNIX_EPOCH,
            backup_id: None,
            manifest: None,
            facts: std::collections::BTreeMap::new(),
            warnings: Vec::new(),
        };
        assert!(failure_of(&report(Outcome::Done)).is_ok());
        for class in [Class::Failed, Class::Usage, Class::Damaged, Class::NotFound, Class::Refused] {
            let failed = Outcome::Failed {
                class,
                reason: "R".into(),
                message: "m".into(),
                help: Some("h".into()),
                retryable: true,
            };
            let failure = failure_of(&report(failed)).unwrap_err();
            assert_eq!(failure.exit_code(), class.exit_code());
            assert_eq!((failure.help.as_deref(), failure.retryable), (Some("h"), true));
        }
    }
}
