//! The report's file: written anew at every stage, so that whoever finds it after a kill reads how far the task came.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::Timestamp;
use redkeep_core::provider::Providers;
use redkeep_core::task::{TaskReport, TaskSpec};
use redkeep_engine::watch::{Watched, running, stopping};
use tokio_util::sync::CancellationToken;

use crate::output::failure::Failure;

/// Within a stage the counts are written this often.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// The file that a report goes to.
pub(super) struct ReportFile {
    path: PathBuf,
    file: File,
    written: usize,
}

impl ReportFile {
    /// Opens it, so that a task whose report could not be handed over is not begun.
    pub(super) fn open(path: &Path, help: &str) -> Result<Self, Failure> {
        // Kubernetes mounts it into the container: it must be written in place.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(|error| {
            Failure::failed("ReportUnwritable", format!("failed to write the report to {}", path.display()))
                .caused_by(&error)
                .with_help(help)
        })?;
        Ok(Self { path: path.to_owned(), file, written: 0 })
    }

    /// Replaces what it holds. One write that is never shorter than the last: a process killed at any moment leaves one report
    /// or the other, at worst with spaces behind it, never a mixture.
    pub(super) fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        let mut bytes = line.to_vec();
        bytes.resize(line.len().max(self.written), b' ');
        let written = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&bytes));
        written.map_err(|error| {
            Failure::failed("ReportUnwritable", format!("failed to write the report to {}", self.path.display()))
                .caused_by(&error)
        })?;
        self.written = line.len();
        // Only tidies; where it is not possible the spaces stay.
        let _ = self.file.set_len(line.len() as u64);
        Ok(())
    }
}

/// What a running report is made of.
pub(super) struct Running {
    pub(super) spec: TaskSpec,
    pub(super) watched: Arc<Watched>,
    pub(super) providers: Arc<dyn Providers>,
    pub(super) started_at: Timestamp,
}

impl Running {
    pub(super) fn report(&self) -> TaskReport {
        running(&self.spec, &self.watched.so_far(), self.started_at, self.providers.now())
    }

    fn stopping(&self) -> TaskReport {
        stopping(&self.spec, &self.watched.so_far(), self.started_at, self.providers.now())
    }

    /// Writes a report at every stage, and every few seconds within one, until it is told to stop; then gives the file back.
    ///
    /// Once the task is cancelled, the file says so: whatever is killed from here on was cancelled.
    pub(super) async fn keep_written(
        self,
        mut file: ReportFile,
        cancelled: CancellationToken,
        ended: CancellationToken,
    ) -> ReportFile {
        let mut stages = self.watched.stages();
        loop {
            let is_cancelled = cancelled.is_cancelled();
            let report = if is_cancelled { self.stopping() } else { self.report() };
            let line = super::compact(&report).and_then(|line| file.write(&line));
            if let Err(failure) = line {
                tracing::warn!(error = %failure.message, "the report of a running task could not be written");
            }
            tokio::select! {
                biased;
                () = ended.cancelled() => return file,
                () = cancelled.cancelled(), if !is_cancelled => {}
                _ = stages.changed(), if !is_cancelled => {}
                () = tokio::time::sleep(WRITE_EVERY), if !is_cancelled => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_report_leaves_nothing_of_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        std::fs::write(&path, "").unwrap();
        let mut file = ReportFile::open(&path, "").unwrap();
        for text in ["{}", r#"{"a":"a long one"}"#, "[1]"] {
            file.write(text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_report_that_cannot_be_handed_over_is_found_before_the_work() {
        let failure = ReportFile::open(Path::new("/no/such/folder/report"), "help").err().unwrap();
        assert_eq!((failure.reason.as_str(), failure.help.as_deref()), ("ReportUnwritable", Some("help")));
    }
}
