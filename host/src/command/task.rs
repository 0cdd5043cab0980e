//! `redkeep task`: `TaskSpec` in, `TaskReport` out; what a Kubernetes Job runs.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use redkeep_core::task::{Outcome, TaskReport, TaskSpec};

use crate::output::failure::Failure;
use crate::output::print;
use crate::session::Session;

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
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the report to /dev/termination-log too, or to the file that REDKEEP_REPORT_FILE names
    #[arg(long)]
    report: bool,
}

impl TaskCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let spec = parse(&read(&self.file)?)?;
        let report = redkeep_engine::run(spec, session.providers(), session.events()).await;
        session.progress.clear();
        let line = compact(&report)?;
        // The report's file first: it is what an operator waits for, whoever reads standard output.
        let place = std::env::var_os(REPORT_VARIABLE).filter(|place| !place.is_empty()).map(PathBuf::from);
        let place = place.or_else(|| self.report.then(|| PathBuf::from(TERMINATION_LOG)));
        if let Some(place) = place {
            std::fs::write(&place, &line).map_err(|error| {
                Failure::failed("ReportUnwritable", format!("failed to write the report to {}", place.display()))
                    .caused_by(&error)
                    .with_help(format!("make it writable, or let {REPORT_VARIABLE} name another file"))
            })?;
        }
        print(&line)?;
        print(b"\n")?;
        failure_of(&report)
    }
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
