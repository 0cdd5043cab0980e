//! `redkeep verify`.

use clap::{Args, ValueEnum};
use redkeep_core::task::{VerifyLevel, VerifyTask};
use redkeep_engine::verify::{COMPARED, VerificationRecord, verify};

use crate::arguments::{BackupArgs, KeyArgs, PluginArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::{table, text};
use crate::session::Session;

/// Check a stored backup
#[derive(Args, Debug)]
pub(crate) struct VerifyCommand {
    #[command(flatten)]
    backup: BackupArgs,
    /// How much is proved; each level includes those before it
    #[arg(long, value_enum, default_value_t = Level::Parse)]
    level: Level,
    /// Do not write the result beside the backup
    #[arg(long)]
    no_record: bool,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// How much a verification proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Every stored byte has the digest that the manifest says
    Checksum,
    /// The plugin read every artifact whole, and it holds what the manifest says
    Parse,
    /// A throw-away server loaded it, and has the keys that the manifest says (of an append-only file: its snapshot's)
    Boot,
}

impl From<Level> for VerifyLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Checksum => Self::Checksum,
            Level::Parse => Self::Parse,
            Level::Boot => Self::Boot,
        }
    }
}

impl VerifyCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let outcome = verify(&self.task(), &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.warnings(&outcome.warnings);
        session.format.print(&outcome.record, || render(&outcome.record))?;
        outcome.error.or(outcome.unrecorded).map_or(Ok(()), |error| Err(Failure::from(error)))
    }

    fn task(&self) -> VerifyTask {
        VerifyTask {
            storage: self.storage.spec(),
            backup: self.backup.spec(),
            level: self.level.into(),
            method: self.plugin.spec(""),
            keys: self.keys.spec(),
            record: !self.no_record,
            server: None,
        }
    }
}

fn render(record: &VerificationRecord) -> String {
    let proved = match record.level {
        VerifyLevel::Checksum => "every stored byte has its digest",
        VerifyLevel::Parse => "every artifact was read whole and holds what the manifest says",
        VerifyLevel::Boot => match record.facts.get(COMPARED).map(String::as_str) {
            Some("all") => "a throw-away server loaded it and has the keys of the manifest",
            Some("snapshot") => {
                "a throw-away server loaded it; the keys of its snapshot are as many as the manifest says, those after the \
                 commands behind it were not compared"
            }
            _ => "a throw-away server loaded it; its keys were not compared",
        },
    };
    let mut lines = vec![
        ("backup".to_owned(), record.backup_id.to_string()),
        ("result".to_owned(), if record.ok { format!("good: {proved}") } else { "DAMAGED".to_owned() }),
    ];
    // What was compared is in the result's own words.
    let shown = record
        .facts
        .iter()
        .filter(|(key, _)| !key.starts_with("keys-db-") && !key.starts_with("expires-db-") && *key != COMPARED);
    lines.extend(shown.map(|(key, value)| {
        let value = match key.as_str() {
            "stored-bytes" => value.parse().map_or_else(|_| value.clone(), text::size),
            "keys" | "expires" | "commands" | "booted-keys" => text::count_of(value),
            _ => value.clone(),
        };
        (key.replace('-', " "), value)
    }));
    table::pairs(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;

    #[test]
    fn the_result_is_recorded_and_the_level_is_parse_unless_told() {
        let task = |line: &str| match parse(line).unwrap().command {
            Command::Verify(command) => command.task(),
            other => panic!("{other:?}"),
        };
        let usual = task("verify --storage /s latest");
        assert_eq!((usual.level, usual.record), (VerifyLevel::Parse, true));
        let other = task("verify --storage /s latest --level boot --no-record");
        assert_eq!((other.level, other.record), (VerifyLevel::Boot, false));
    }

    #[test]
    fn a_result_says_what_was_proved() {
        let record = |ok| VerificationRecord {
            backup_id: "20261121T090000Z-a-aaaaa".parse().unwrap(),
            level: VerifyLevel::Checksum,
            ok,
            time: redkeep_core::Timestamp::UNIX_EPOCH,
            tool: "redkeep".into(),
            facts: [("keys".to_owned(), "1234".to_owned()), ("keys-db-0".to_owned(), "1234".to_owned())].into(),
            error: None,
        };
        assert_eq!(
            render(&record(true)),
            "backup: 20261121T090000Z-a-aaaaa\nresult: good: every stored byte has its digest\nkeys:   1,234\n"
        );
        assert!(render(&record(false)).contains("DAMAGED"));
    }

    #[test]
    fn a_boot_claims_only_the_keys_that_were_compared() {
        let text = |compared: &[&str]| {
            render(&VerificationRecord {
                backup_id: "20261121T090000Z-a-aaaaa".parse().unwrap(),
                level: VerifyLevel::Boot,
                ok: true,
                time: redkeep_core::Timestamp::UNIX_EPOCH,
                tool: "redkeep".into(),
                facts: compared.iter().map(|word| (COMPARED.to_owned(), (*word).to_owned())).collect(),
                error: None,
            })
        };
        assert!(text(&["all"]).ends_with("has the keys of the manifest\n"));
        assert!(text(&["snapshot"]).contains("the keys of its snapshot"));
        for not_compared in [&["none"][..], &[]] {
            assert!(text(not_compared).ends_with("its keys were not compared\n"));
        }
    }
}
