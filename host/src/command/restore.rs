//! `redkeep restore`.

mod next;

use std::fmt::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use redkeep_core::attribute::to_map;
use redkeep_core::task::{DirectoryTarget, EndpointSpec, RESTORE_OPTIONS, RestoreTask, TargetSpec};
use redkeep_engine::restore::{RestoreOutcome, RestoreResult, RestoredShard, restore};
use serde_json::{Map, Value};

use crate::arguments::values::{database, file_name, glob, key_value, not_empty, point, server_version, yes_no};
use crate::arguments::{BackupArgs, ConnectionArgs, KeyArgs, PluginArgs, StorageArgs, parameters};
use crate::output::failure::Failure;
use crate::output::{table, text as wording};
use crate::session::Session;
use crate::tasks::method_that_restores;

/// Put a backup back, into a data directory or a running server or cluster
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("to").args(["target_dir", "target"]).required(true))]
pub(crate) struct RestoreCommand {
    #[command(flatten)]
    backup: BackupArgs,
    /// Lay the data out in this folder, which must be empty or missing; its server must not be running
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Write into this running server or cluster
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Stop after the plan: check everything, touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore an append-only file up to this time (RFC 3339) or replication offset
    #[arg(long, value_name = "TIME|OFFSET", value_parser = point)]
    until: Option<String>,
    /// The server's `appendonly`: yes or no [default: laid out so that both work, where that is possible]
    #[arg(long, value_name = "YES|NO", value_parser = yes_no, conflicts_with = "target", help_heading = "Data directory")]
    appendonly: Option<bool>,
    /// The server's version [default: the source's]
    #[arg(long, value_name = "V", value_parser = server_version, conflicts_with = "target", help_heading = "Data directory")]
    server_version: Option<String>,
    /// The server's `dbfilename` [default: dump.rdb]
    #[arg(long, value_name = "FILE", value_parser = file_name, conflicts_with = "target", help_heading = "Data directory")]
    dbfilename: Option<String>,
    /// The server's `appenddirname` [default: appendonlydir]
    #[arg(long, value_name = "DIR", value_parser = file_name, conflicts_with = "target", help_heading = "Data directory")]
    appenddirname: Option<String>,
    /// The server's `appendfilename` [default: appendonly.aof]
    #[arg(long, value_name = "FILE", value_parser = file_name, conflicts_with = "target", help_heading = "Data directory")]
    appendfilename: Option<String>,
    /// Who owns the files [default: the folder's owner]
    #[arg(long, value_name = "USER:GROUP", value_parser = not_empty, conflicts_with = "target", help_heading = "Data directory")]
    owner: Option<String>,
    /// Only this shard, where the backup has several
    #[arg(long, value_name = "NAME", conflicts_with = "target", help_heading = "Data directory")]
    shard: Option<String>,
    /// Only keys that match this glob; may be given several times
    #[arg(long = "match", value_name = "GLOB", value_parser = glob, conflicts_with = "target_dir", help_heading = "Live target")]
    matching: Vec<String>,
    /// Only this database, or N:M to restore N into M; may be given several times
    #[arg(long, value_name = "N[:M]", value_parser = database, conflicts_with = "target_dir", help_heading = "Live target")]
    db: Vec<String>,
    /// What is done with a key that is there already; skip and replace allow a target that is not empty
    #[arg(long, value_enum, conflicts_with = "target_dir", help_heading = "Live target")]
    on_conflict: Option<Conflict>,
    /// What becomes of expiry times: kept, shifted by the backup's age, or removed
    #[arg(long, value_enum, conflicts_with = "target_dir", help_heading = "Live target")]
    ttl: Option<Ttl>,
    /// Do not read and check every stored byte before the first key is written
    #[arg(long, conflicts_with = "target_dir", help_heading = "Live target")]
    skip_preverify: bool,
    /// A parameter of the method that has no option of its own; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// What is done with a key that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Conflict {
    /// Stop
    Fail,
    /// Keep the target's
    Skip,
    /// Take the backup's
    Replace,
}

/// What becomes of expiry times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ttl {
    /// The same moment as in the source
    Keep,
    /// Later by the age of the backup
    Shift,
    /// Keys never expire
    Persist,
}

impl RestoreCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let live = self
            .target
            .as_deref()
            .map(|target| session.endpoint(|surroundings| self.connection.target(target, surroundings)))
            .transpose()?;
        let mut task = self.task(live);
        if !self.param.is_empty() {
            let method = method_that_restores(&task, &session.providers(), &session.events()).await?;
            add(&mut task.parameters, parameters::typed(&self.param, method.info())?)?;
        }
        let outcome = restore(&task, &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.warnings(&outcome.warnings);
        session.format.print(&value(&outcome, &task), || text(&outcome, &task))
    }

    fn task(&self, live: Option<EndpointSpec>) -> RestoreTask {
        let target = match live {
            Some(endpoint) => TargetSpec::Live { endpoint },
            None => TargetSpec::Directory(DirectoryTarget {
                path: self.target_dir.clone().unwrap_or_default(),
                appendonly: self.appendonly,
                server_version: self.server_version.clone(),
                dbfilename: self.dbfilename.clone(),
                appenddirname: self.appenddirname.clone(),
                appendfilename: self.appendfilename.clone(),
                owner: self.owner.clone(),
                ..DirectoryTarget::default()
            }),
        };
        RestoreTask {
            storage: self.storage.spec(),
            backup: self.backup.spec(),
            target,
            method: self.plugin.spec(""),
            keys: self.keys.spec(),
            parameters: self.parameters(),
            skip_preverify: self.skip_preverify,
            allow_non_empty: matches!(self.on_conflict, Some(Conflict::Skip | Conflict::Replace)),
            shard: self.shard.clone(),
            dry_run: self.dry_run,
        }
    }

    /// Only what was said: a plugin that knows none of these takes a restore without them.
    fn parameters(&self) -> Map<String, Value> {
        let mut parameters = Map::new();
        if !self.matching.is_empty() {
            parameters.insert("match".to_owned(), self.matching.clone().into());
        }
        if !self.db.is_empty() {
            parameters.insert("db".to_owned(), self.db.clone().into());
        }
        let word = |value: Option<clap::builder::PossibleValue>| value.map(|value| Value::from(value.get_name()));
        for (key, value) in [
            ("on-conflict", word(self.on_conflict.and_then(|choice| choice.to_possible_value()))),
            ("ttl", word(self.ttl.and_then(|choice| choice.to_possible_value()))),
            ("until", self.until.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                parameters.insert(key.to_owned(), value);
            }
        }
        parameters
    }
}

/// Adds parameters of `--param` to those of options; one that has an option is given by that.
fn add(parameters: &mut Map<String, Value>, more: Map<String, Value>) -> Result<(), Failure> {
    for (key, value) in more {
        if RESTORE_OPTIONS.contains(&key.as_str()) {
            return Err(Failure::usage(format!("the parameter `{key}` has an option of its own"))
                .with_help(format!("give it by --{key}")));
        }
        parameters.insert(key, value);
    }
    Ok(())
}

fn shards_of(outcome: &RestoreOutcome) -> (bool, &[RestoredShard]) {
    match &outcome.result {
        RestoreResult::Restored(shards) => (false, shards),
        RestoreResult::Planned(shards) => (true, shards),
    }
}

fn value(outcome: &RestoreOutcome, task: &RestoreTask) -> Value {
    let (planned, shards) = shards_of(outcome);
    let shards: Vec<Value> = shards
        .iter()
        .map(|shard| serde_json::json!({"shard": shard.shard, "facts": to_map(&shard.attributes)}))
        .collect();
    let next = next::of(outcome, task);
    serde_json::json!({
        "backupId": outcome.backup_id,
        "manifest": outcome.address,
        "target": outcome.target,
        "planned": planned,
        "facts": outcome.facts,
        "shards": shards,
        "next": next.as_ref().map(|next| &next.start),
        "nextSlots": next.as_ref().and_then(|next| next.slots.as_ref()),
        "warnings": outcome.warnings,
    })
}

fn text(outcome: &RestoreOutcome, task: &RestoreTask) -> String {
    let (planned, shards) = shards_of(outcome);
    let mut lines = vec![
        (if planned { "would restore" } else { "restored" }.to_owned(), outcome.backup_id.to_string()),
        (if planned { "to" } else { "target" }.to_owned(), outcome.target.clone()),
    ];
    let in_backup = wording::keys(&outcome.manifest.facts);
    lines.extend(in_backup.map(|keys| ("keys in the backup".to_owned(), keys)));
    if shards.len() == 1 || !planned {
        lines.extend(outcome.facts.iter().map(|(key, value)| (key.replace('-', " "), wording::count_of(value))));
    }
    let mut text = table::pairs(&lines);
    if planned && shards.len() > 1 {
        for shard in shards {
            let _ = write!(text, "\nshard {}\n", shard.shard);
            let lines: Vec<(String, String)> =
                shard.attributes.iter().map(|line| (format!("  {}", line.key), line.value.clone())).collect();
            text.push_str(&table::pairs(&lines));
        }
    }
    if let Some(next) = next::of(outcome, task).filter(|_| !planned) {
        text.push_str(&next.text());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;
    use serde_json::json;

    fn task(line: &str) -> RestoreTask {
        let Command::Restore(command) = parse(line).unwrap().command else { panic!("{line}") };
        let endpoint =
            command.target.as_ref().map(|url| EndpointSpec { url: Some(url.clone()), ..EndpointSpec::default() });
        command.task(endpoint)
    }

    #[test]
    fn a_directory_takes_what_its_server_will_run_with() {
        let task = task(
            "restore --storage /s latest --target-dir /data --appendonly yes --server-version 7.2 --dbfilename d.rdb \
             --appenddirname a --appendfilename f.aof --owner redis:redis --shard 2 --dry-run --cluster c --until 17 \
             --identity /k1 --identity /k2",
        );
        assert_eq!(
            serde_json::to_value(&task).unwrap(),
            json!({
                "storage": {
                    "url": "/s", "endpoint": null, "region": null, "pathStyle": null, "caFile": null, "credentialsDir": null
                },
                "backup": {"backup": "latest", "cluster": "c", "namespace": null},
                "target": {
                    "type": "directory", "path": "/data", "appendonly": true, "loadsAppendOnlyFiles": false, "serverVersion": "7.2",
                    "dbfilename": "d.rdb", "appenddirname": "a", "appendfilename": "f.aof", "owner": "redis:redis"
                },
                "method": {"name": "", "file": null, "digest": null, "grants": []},
                "keys": {"identities": ["/k1", "/k2"], "passphrase": null},
                "parameters": {"until": "17"},
                "skipPreverify": false, "allowNonEmpty": false, "shard": "2", "dryRun": true
            })
        );
    }

    #[test]
    fn a_live_target_takes_filters_as_parameters() {
        let all = task(
            "restore --storage /s latest --target redis://h --match user:* --match a? --db 0 --db 9:1 --on-conflict skip \
             --ttl shift --until 2026-11-21T10:13:48+01:00 --skip-preverify",
        );
        assert_eq!(
            Value::Object(all.parameters),
            json!({
                "match": ["user:*", "a?"], "db": ["0", "9:1"], "on-conflict": "skip", "ttl": "shift",
                "until": "2026-11-21T09:13:48Z"
            })
        );
        assert!(all.skip_preverify && all.allow_non_empty);
        assert_eq!(Value::Object(task("restore --storage /s latest --target redis://h").parameters), json!({}));
    }

    #[test]
    fn only_a_rule_for_conflicts_lets_a_restore_into_a_target_with_keys() {
        for (option, allowed) in
            [("", false), ("--on-conflict fail", false), ("--on-conflict skip", true), ("--on-conflict replace", true)]
        {
            let task = task(&format!("restore --storage /s latest --target redis://h {option}"));
            assert_eq!(task.allow_non_empty, allowed, "{option}");
        }
    }

    #[test]
    fn a_parameter_that_has_an_option_is_given_by_that() {
        let mut parameters = Map::from_iter([("until".to_owned(), json!("17"))]);
        add(&mut parameters, Map::from_iter([("speed".to_owned(), json!(5))])).unwrap();
        assert_eq!(Value::Object(parameters.clone()), json!({"until": "17", "speed": 5}));
        let failure = add(&mut parameters, Map::from_iter([("on-conflict".to_owned(), json!("skip"))])).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.help.unwrap().contains("--on-conflict"));
    }
}
