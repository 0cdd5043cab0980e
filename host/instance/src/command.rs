//! The command line: `run` (also without a word), `install` and `boot`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::sync::mpsc;

use crate::error::InstanceError;
use crate::settings::Settings;
use crate::supervisor::Supervisor;
use crate::{boot, child, install, look, program, server};

/// Process 1 of a managed Redis pod
#[derive(Parser)]
#[command(name = "redkeep-instance", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start Redis and obey the operator; what is done when no command is named
    Run(Box<Settings>),
    /// Copy this program, for an init container: images of Redis may have no shell
    Install {
        /// Where to
        path: PathBuf,
    },
    /// Start throw-away servers of this image for the task in the container beside this one, one at a time
    Boot {
        /// The folder that both see: the socket is made there
        folder: PathBuf,
    },
}

pub(crate) fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("REDKEEP_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    match parse().command {
        Command::Install { path } => end(install::install(&path), None),
        Command::Boot { folder } => end(boot::run(&folder), None),
        Command::Run(settings) => {
            let log = settings.termination_log.clone();
            let result = runtime().and_then(|runtime| {
                let result = runtime.block_on(run(*settings));
                // A question to Redis or a peer that still waits must not hold the end up.
                runtime.shutdown_background();
                result
            });
            end(result, Some(log))
        }
    }
}

/// `run` is what is meant when no command is named, for process 1 is best started without arguments.
fn parse() -> Arguments {
    let mut words: Vec<_> = std::env::args_os().collect();
    let named = words.get(1).and_then(|word| word.to_str()).is_some_and(|word| {
        matches!(word, "-h" | "--help" | "-V" | "--version" | "help")
            || Arguments::command().get_subcommands().any(|command| command.get_name() == word)
    });
    if !named {
        words.insert(1.min(words.len()), "run".into());
    }
    let matches = Arguments::command().get_matches_from(words);
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, InstanceError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| InstanceError::System { act: "start the runtime", source })
}

async fn run(settings: Settings) -> Result<(), InstanceError> {
    let settings = Arc::new(settings);
    let program = program::find(settings.redis_server.as_deref())?;
    tracing::info!(program = %program.path.display(), server = program.server, version = program.version, "found the server");
    let (events, inbox) = mpsc::channel(256);
    let _signals = child::watch_signals(events.clone())?;
    let supervisor = Supervisor::new(Arc::clone(&settings), program, events.clone(), inbox);
    let _looks = look::start(Arc::clone(&settings), events.clone(), supervisor.knowledge())?;
    let _server = server::start(Arc::clone(&settings), events, supervisor.beat()).await?;
    supervisor.run().await
}

/// Says how it ended, where a person will look.
fn end(result: Result<(), InstanceError>, termination_log: Option<PathBuf>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let text = format!("{}\nhelp: {}\n", error.chain(), error.help());
    eprint!("error: {text}");
    // The kubelet makes the file; elsewhere there is none to fill.
    if let Some(path) = termination_log.filter(|path| path.exists()) {
        let _ = std::fs::write(path, text);
    }
    ExitCode::from(error.exit_code())
}
