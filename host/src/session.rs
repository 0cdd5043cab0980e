//! One run of the program: its runtime, its signals, and what every command is handed.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::provider::Providers;
use redkeep_core::task::EndpointSpec;
use redkeep_engine::events::TaskEvents;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::connection::{Endpoint, PASSWORD_VARIABLE, Surroundings};
use crate::output::failure::Failure;
use crate::output::progress::{LogWriter, Mode, Progress};
use crate::output::{Format, OutputArgs, stderr_takes_colours};
use crate::wiring::Wiring;

/// How long a task that was told to stop may take to clean up.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// What every command is handed.
pub(crate) struct Session {
    /// How the result is printed.
    pub(crate) format: Format,
    /// The world.
    pub(crate) wiring: Arc<Wiring>,
    /// Standard error.
    pub(crate) progress: Arc<Progress>,
    cancellation: CancellationToken,
}

impl Session {
    /// Sets logging and the world up.
    pub(crate) fn start(output: &OutputArgs) -> Self {
        let colours = stderr_takes_colours();
        let cancellation = CancellationToken::new();
        let progress = Progress::new(Mode::detect(output.no_progress), colours, cancellation.clone());
        start_logging(output, colours, &progress);
        Self { format: output.output, wiring: Wiring::new(), progress, cancellation }
    }

    /// The world, as the engine asks for it.
    pub(crate) fn providers(&self) -> Arc<dyn Providers> {
        Arc::clone(&self.wiring) as Arc<dyn Providers>
    }

    /// Where a task's progress goes.
    pub(crate) fn events(&self) -> Arc<dyn TaskEvents> {
        Arc::clone(&self.progress) as Arc<dyn TaskEvents>
    }

    /// Cancelled when a signal asks the task to stop.
    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.cancellation.clone()
    }

    /// Keeps a password that stood in a URL, and says where such are safer.
    pub(crate) fn endpoint(
        &self,
        resolve: impl FnOnce(&Surroundings<'_>) -> Result<Endpoint, Failure>,
    ) -> Result<EndpointSpec, Failure> {
        let is_set = std::env::var_os(PASSWORD_VARIABLE).is_some_and(|value| !value.is_empty());
        let Endpoint { mut spec, url_password } =
            resolve(&Surroundings { has_password_variable: is_set, is_directory: &Path::is_dir })?;
        if let Some(password) = url_password {
            spec.password = Some(self.wiring.keep_secret(password));
            let hint = "a password in the address is seen by everyone who lists processes; \
                        --password-file or the variable REDISCLI_AUTH is safer";
            self.progress.warn("hint", hint);
        }
        Ok(spec)
    }

    /// Runs work that leaves nothing to clean up until it ends or a signal stops it.
    pub(crate) async fn until_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.cancellation.cancelled() => Err(Failure::failed("Cancelled", "cancelled")),
        }
    }

    /// Prints warnings of a result that were not shown while it was made.
    pub(crate) fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            self.progress.warn("warning", warning);
        }
    }

    /// Runs `work` until it ends, or until a signal stops it.
    ///
    /// The first signal asks the task to stop and waits until it has cleaned up, the second leaves at once.
    async fn until_signal(&self, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let no_signals = |error: std::io::Error| {
            Failure::failed("SignalsUnavailable", "failed to listen for signals").caused_by(&error)
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut next_signal = async || {
            tokio::select! {
                _ = interrupt.recv() => 2_u8,
                _ = terminate.recv() => 15_u8,
            }
        };
        tokio::pin!(work);
        let number = tokio::select! {
            result = &mut work => return result,
            number = next_signal() => number,
        };
        let stages = self.progress.stages();
        self.cancellation.cancel();
        self.progress.say("stopping and cleaning up; once more to leave at once");
        let cleaned = tokio::select! {
            result = &mut work => Some(result),
            () = tokio::time::sleep(CLEANUP_LIMIT) => None,
            _ = next_signal() => None,
        };
        match cleaned {
            // What was finished before the signal was seen is finished.
            Some(Ok(())) => Ok(()),
            // It says what was written until then.
            Some(Err(failure)) if failure.reason == "RestoreCancelled" => Err(failure.by_signal(number)),
            Some(Err(failure)) if failure.reason != "Cancelled" => Err(failure),
            Some(Err(_)) => Err(Failure::interrupted(number, interrupted_text(&stages, true))),
            None => Err(Failure::interrupted(number, interrupted_text(&stages, false))
                .with_help("`redkeep prune` removes what was left in the storage")),
        }
    }
}

/// What a stopped task leaves behind, as far as the stages that it went through say it; the last is the one it was stopped in.
fn interrupted_text(stages: &[String], cleaned: bool) -> &'static str {
    let stage = stages.last().map_or("", String::as_str);
    match (stage, cleaned) {
        // A prune plans cluster after cluster.
        ("plan", _) if stages.iter().any(|stage| stage == "delete") => "interrupted between two clusters",
        ("plan", _) => "interrupted while planning; nothing was stored or changed",
        ("capture", true) => "interrupted; nothing was stored",
        ("capture", false) => "interrupted before clean-up was done; no backup was made, parts of it may be left over",
        ("checksum" | "parse" | "boot", _) => "interrupted; the backup was not changed",
        ("commit", _) => "interrupted while committing; `redkeep list` says whether the backup was made",
        // A live restore says itself what it wrote; files are staged until all of them are there.
        ("restore", true) => "interrupted; nothing was placed at the target",
        ("restore" | "publish", _) => "interrupted while restoring; look at the target before it is used",
        (_, true) => "interrupted",
        (_, false) => "interrupted before clean-up was done",
    }
}

/// Runs one command to its end.
pub(crate) fn run<F>(output: &OutputArgs, command: impl FnOnce(Arc<Session>) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("redkeep")
        .build()
        .map_err(|error| Failure::failed("RuntimeFailed", "failed to start worker threads").caused_by(&error))?;
    let session = Arc::new(runtime.block_on(async { Session::start(output) }));
    let result = runtime.block_on(session.until_signal(command(Arc::clone(&session))));
    session.progress.clear();
    // A thread that blocks (a slow disk, a compilation) must not keep a finished command from ending.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

fn start_logging(output: &OutputArgs, colours: bool, progress: &Arc<Progress>) {
    let filter = tracing_subscriber::EnvFilter::new(filter_of(output.log_level.name()));
    let writer = LogWriter(Arc::clone(progress));
    // A second call in one process (tests) keeps the first subscriber.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colours)
            .with_writer(move || writer.clone())
            .try_init(),
    );
}

/// What is logged: other crates' details are for those who ask for everything.
fn filter_of(level: &str) -> String {
    let others = match level {
        "trace" => "trace",
        "error" => "error",
        _ => "warn",
    };
    // It dumps whole HTTP answers of each place where credentials are not; the error of the request says it in one line.
    let credentials = if level == "trace" { "trace" } else { "error" };
    format!(
        "{others},aws_config={credentials},redkeep={level},redkeep_core={level},redkeep_engine={level},\
         redkeep_storage={level},redkeep_redis={level},redkeep_plugin={level},redkeep_controller={level}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_for_credentials_is_logged_only_for_those_who_ask_for_everything() {
        for (level, wanted) in [("error", "error"), ("warn", "error"), ("debug", "error"), ("trace", "trace")] {
            let filter = filter_of(level);
            assert!(filter.split(',').any(|part| part == format!("aws_config={wanted}")), "{filter}");
            assert!(filter.parse::<tracing_subscriber::EnvFilter>().is_ok());
        }
    }

    #[test]
    fn an_interruption_promises_only_what_the_stage_allows() {
        let text = |stages: &[&str], cleaned| {
            interrupted_text(&stages.iter().map(ToString::to_string).collect::<Vec<_>>(), cleaned)
        };
        assert!(text(&["plan"], true).contains("nothing was stored"));
        assert!(text(&["plan", "capture"], true).contains("nothing was stored"));
        assert!(!text(&["plan", "capture"], false).contains("nothing was stored"));
        assert!(!text(&["plan", "capture", "commit"], true).contains("nothing was stored"));
        assert!(!text(&["plan", "delete", "plan"], true).contains("nothing was stored"));
        assert!(text(&["plan", "restore"], true).contains("nothing was placed"));
        assert!(text(&["plan", "restore"], false).contains("look at the target"));
        assert!(text(&["plan", "checksum", "restore", "publish"], true).contains("look at the target"));
        assert_eq!(text(&[], true), "interrupted");
    }
}
