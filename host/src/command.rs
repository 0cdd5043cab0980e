//! The commands: parsing, dispatch, and how a failure leaves the program. One file a subcommand in `command/`.

mod backup;
mod cat;
mod check;
mod completions;
mod copy;
mod crd;
mod delete;
mod inspect;
mod list;
mod operator;
mod pin;
mod plugin;
mod prune;
mod restore;
mod storage;
mod task;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::output::failure::Failure;
use crate::output::{Format, OutputArgs, stderr_takes_colours, usage};
use crate::session;

const AFTER_HELP: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 the backup or storage is damaged, 4 not found, 5 refused.";

/// Back up, verify and restore Redis and Valkey through sandboxed plugins
#[derive(Debug, Parser)]
#[command(name = "redkeep", version, after_help = AFTER_HELP, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backup(backup::BackupCommand),
    List(list::ListCommand),
    Verify(verify::VerifyCommand),
    Restore(restore::RestoreCommand),
    Inspect(inspect::InspectCommand),
    Cat(cat::CatCommand),
    Prune(prune::PruneCommand),
    Copy(copy::CopyCommand),
    Check(check::CheckCommand),
    Delete(delete::DeleteCommand),
    Pin(pin::PinCommand),
    Unpin(pin::UnpinCommand),
    Storage(storage::StorageCommand),
    Plugin(plugin::PluginCommand),
    Task(task::TaskCommand),
    Crd(crd::CrdCommand),
    Operator(operator::OperatorCommand),
    Completions(completions::CompletionsCommand),
}

/// The program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let arguments: Vec<_> = std::env::args_os().skip(1).collect();
            let Some(failure) = usage::failure(&error, &Cli::command(), &arguments) else { error.exit() };
            let is_json = usage::wants_json(&arguments);
            let text = usage::text(&error, &failure, stderr_takes_colours());
            return end(&failure, &if is_json { failure.to_json() } else { text });
        }
    };
    let is_json = cli.output.output == Format::Json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            end(&failure, &if is_json { failure.to_json() } else { failure.to_text(stderr_takes_colours()) })
        }
    }
}

fn end(failure: &Failure, text: &str) -> ExitCode {
    if !failure.is_silent() {
        // Nothing is left to say it to when standard error is closed.
        drop(std::io::stderr().write_all(text.as_bytes()));
    }
    ExitCode::from(failure.exit_code())
}

fn run(cli: Cli) -> Result<(), Failure> {
    let output = cli.output;
    match cli.command {
        Command::Backup(command) => session::run(&output, async |session| command.run(&session).await),
        Command::List(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Verify(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Restore(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Inspect(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Cat(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Prune(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Copy(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Check(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Delete(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Pin(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Unpin(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Storage(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Plugin(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Operator(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Task(command) => session::run(&output, async |session| command.run(&session).await),
        Command::Crd(command) => command.run(&output),
        Command::Completions(command) => command.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a command line as the shell would hand it over; for the tests of every command.
    pub(super) fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("redkeep").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_the_output_options_before_and_after_its_name() {
        for line in ["-o json list --storage /s", "list --storage /s -o json", "list -q --storage /s --output=json"] {
            assert_eq!(parse(line).unwrap().output.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn every_plugin_command_is_parsed() {
        for line in [
            "plugin new --lang python my-method --dir /x",
            "plugin build /x --out /y.wasm --world socket-method -o json",
            "plugin inspect oci://r/x:1 --grant redis:info --plugin-key k.pub --plain-http",
            "plugin test p.wasm --scenario a.yaml --scenario b.yaml",
            "plugin push p.wasm oci://r/x:1 --sign key.pem --registry-ca ca.pem",
            "plugin pull oci://r/x:1 --out p.wasm --registry-user bob --registry-password-file f",
            "backup --source tcp://h:1 --storage /s --method zk --plugin oci://r/x:1 --plugin-key k.pub --grant socket:connect",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_line_is_exit_code_2() {
        for line in [
            "",
            "nonsense",
            "list --storage /s -o xml",
            "backup --storage /s --method rdb",
            "backup --source redis://h --storage /s",
            "backup --source redis://h --storage /s --method rdb --compression brotli",
            "backup --source redis://h --storage /s --method rdb --compression zstd:20",
            "backup --source redis://h --storage /s --method rdb --limit-rate fast",
            "backup --source redis://h --storage /s --method rdb --hold-limit soon",
            "backup --source redis://h --storage /s --method rdb --cluster ../up",
            "backup --source redis://h --storage /s --method rdb --cert c.pem",
            "backup --source redis://h --storage /s --method rdb --recipient age1x --passphrase-file p",
            "restore --storage /s latest",
            "restore --storage /s latest --target redis://h --target-dir /d",
            "restore --storage /s latest --target redis://h --appendonly yes",
            "restore --storage /s latest --target-dir /d --match a*",
            "restore --storage /s latest --target-dir /d --on-conflict skip",
            "restore --storage /s latest --target redis://h --match [a",
            "restore --storage /s latest --target redis://h --db x:y",
            "restore --storage /s latest --target redis://h --until yesterday",
            "restore --storage /s latest --target redis://h --ttl later",
            "restore --storage /s latest --target-dir /d --dbfilename ../x",
            "verify --storage /s latest --level deep",
            "check --storage /s --max-age tomorrow",
            "prune --storage /s --keep-within 1y",
            "inspect --storage /s",
            "completions tcsh-ng",
            "plugin push p.wasm registry/name:1",
            "plugin pull oci://r/x:1 --registry-user bob",
            "plugin new --lang cobol x",
            "plugin new --lang rust X",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
