//! `redkeep backup`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use redkeep_core::attribute::to_map;
use redkeep_core::encoding::{Compression, Encryption};
use redkeep_core::identifier::{ClusterName, Namespace};
use redkeep_core::task::{BackupTask, EndpointSpec, NodePreference};
use redkeep_engine::backup::{BackupResult, ShardPlan, backup};
use serde_json::{Map, Value};

use crate::arguments::keys::secret_file;
use crate::arguments::values::{duration, key_value, rate, renamed_command};
use crate::arguments::{ConnectionArgs, PluginArgs, StorageArgs, parameters};
use crate::output::failure::Failure;
use crate::output::{manifest, table};
use crate::session::Session;
use crate::wiring::Wiring;

/// The parameter that the host takes for itself: commands that the server has renamed.
const RENAME_PARAMETER: &str = "rename-command";

/// Back a server, its replicas, a cluster or a data directory up
#[derive(Args, Debug)]
pub(crate) struct BackupCommand {
    /// redis://[user[:password]@]host:port, rediss://…, unix:///path, redis-sentinel://host:port,…/MASTER,
    /// redis-cluster://host:port,…, or a data directory
    #[arg(long, value_name = "URL")]
    source: String,
    /// rdb, aof, or the name of another method
    #[arg(long, value_name = "METHOD", required_unless_present = "plugin")]
    method: Option<String>,
    /// The server's data directory, where it is readable here
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which node of a sentinel or cluster source is read
    #[arg(long, value_enum, default_value_t = Node::PreferReplica)]
    node: Node,
    /// What the cluster is called in the storage [default: made from the source's address]
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// What the backup is called [default: the cluster's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Namespace in the storage
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: Namespace,
    /// Who makes the backup: retention touches only backups of its own origin [default: host:NAME of this machine]
    #[arg(long, value_name = "NAME", env = "REDKEEP_ORIGIN")]
    origin: Option<String>,
    /// none, gzip[:1-9] or zstd[:1-19]
    #[arg(long, value_name = "COMPRESSION", default_value_t = Compression::DEFAULT)]
    compression: Compression,
    /// Encrypt to this age recipient or ssh public key; may be given several times
    #[arg(long, value_name = "AGE", help_heading = "Encryption", conflicts_with = "passphrase_file")]
    recipient: Vec<String>,
    /// Encrypt with the passphrase in this file (- is standard input)
    #[arg(long, value_name = "FILE", help_heading = "Encryption")]
    passphrase_file: Option<PathBuf>,
    /// A parameter of the method; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
    /// Take the capture to this folder at full speed first, so that slow storage does not hold the server
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Bytes a second towards the storage, e.g. 50M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<u64>,
    /// How long slow storage may hold the server (and its fork) before the backup is given up, e.g. 10m; 0s: without end
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30m")]
    hold_limit: Duration,
    /// Pin the backup: retention keeps it
    #[arg(long)]
    pin: bool,
    /// Check everything that can be checked by reading and say what would be done; store nothing (`storage probe` tries to write)
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// Which node of a shard is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Node {
    /// The primary
    Primary,
    /// A replica in good order, else the primary with a warning
    PreferReplica,
}

impl From<Node> for NodePreference {
    fn from(node: Node) -> Self {
        match node {
            Node::Primary => Self::Primary,
            Node::PreferReplica => Self::PreferReplica,
        }
    }
}

impl BackupCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let mut source = session.endpoint(|surroundings| {
            self.connection.source(&self.source, self.data_dir.as_deref(), self.node.into(), surroundings)
        })?;
        let providers = session.providers();
        let spec = self.plugin.spec(self.method.as_deref().unwrap_or_default());
        let pairs = take_renamed_commands(&self.param, &mut source)?;
        // The schema says which type a parameter has; without parameters there is no need to ask for it yet.
        let parameters = if pairs.is_empty() {
            Map::new()
        } else {
            parameters::typed(&pairs, providers.method(&spec).await?.info())?
        };
        let mut task = self.task(source, parameters);
        task.origin = self.origin.clone().unwrap_or_else(Wiring::origin);
        let outcome = backup(&task, &providers, &session.events()).await?;
        session.progress.clear();
        session.warnings(&outcome.warnings);
        match &outcome.result {
            BackupResult::Committed(stored) => session.format.print(stored.as_ref(), || manifest::render(stored)),
            BackupResult::Existing(stored) => {
                session.progress.say("this backup was stored already; this is the one that is there");
                session.format.print(stored.as_ref(), || manifest::render(stored))
            }
            BackupResult::Planned(shards) => {
                let value = plan_value(&outcome.address, shards);
                session.format.print(&value, || plan_text(&outcome.address, shards))
            }
        }
    }

    fn task(&self, source: EndpointSpec, parameters: Map<String, Value>) -> BackupTask {
        BackupTask {
            source,
            method: self.plugin.spec(self.method.as_deref().unwrap_or_default()),
            storage: self.storage.spec(),
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            backup_id: None,
            origin: self.origin.clone().unwrap_or_default(),
            compression: self.compression,
            encryption: Encryption {
                recipients: self.recipient.clone(),
                passphrase: self.passphrase_file.as_deref().map(secret_file),
            },
            parameters,
            spool: self.spool.clone(),
            limit_rate: self.limit_rate,
            hold_limit_seconds: Some(self.hold_limit.as_secs()).filter(|seconds| *seconds > 0),
            pin: self.pin,
            dry_run: self.dry_run,
        }
    }
}

/// Takes `rename-command` out of the parameters: it is the connection's, and no plugin needs to know of it.
fn take_renamed_commands(
    pairs: &[(String, String)],
    source: &mut EndpointSpec,
) -> Result<Vec<(String, String)>, Failure> {
    let mut others = Vec::new();
    for (key, value) in pairs {
        if key == RENAME_PARAMETER {
            let (name, new) = renamed_command(value).map_err(Failure::usage)?;
            source.renamed_commands.insert(name, new);
        } else {
            others.push((key.clone(), value.clone()));
        }
    }
    Ok(others)
}

fn plan_value(address: &str, shards: &[ShardPlan]) -> Value {
    let shards: Vec<Value> = shards
        .iter()
        .map(|plan| serde_json::json!({"shard": plan.shard, "node": plan.node, "plan": to_map(&plan.attributes)}))
        .collect();
    serde_json::json!({"planned": true, "manifest": address, "shards": shards})
}

fn plan_text(address: &str, shards: &[ShardPlan]) -> String {
    let mut text = format!("would be stored as {address}\n");
    for plan in shards {
        let _ = write!(text, "\nshard {} from {}\n", plan.shard, plan.node);
        let lines: Vec<(String, String)> =
            plan.attributes.iter().map(|line| (format!("  {}", line.key), line.value.clone())).collect();
        text.push_str(&table::pairs(&lines));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;
    use redkeep_core::secret::SecretRef;
    use serde_json::json;

    fn task(line: &str) -> BackupTask {
        match parse(line).unwrap().command {
            Command::Backup(command) => command.task(EndpointSpec::default(), Map::new()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_that_must_be_said_is_source_method_and_storage() {
        let task = task("backup --source redis://h --method rdb --storage /s");
        assert_eq!(task.method.name, "redis-rdb");
        assert_eq!(task.storage.url, "/s");
        assert_eq!(task.namespace, Namespace::default_namespace());
        assert_eq!(task.compression, Compression::Zstd(1));
        assert!(task.encryption.is_none() && !task.pin && !task.dry_run && task.cluster.is_none());
    }

    #[test]
    fn slow_storage_does_not_hold_a_server_without_end_unless_told() {
        let of = |option: &str| {
            task(&format!("backup --source redis://h --method rdb --storage /s {option}")).hold_limit_seconds
        };
        assert_eq!(of(""), Some(1_800));
        assert_eq!(of("--hold-limit 10m"), Some(600));
        assert_eq!(of("--hold-limit 0s"), None);
    }

    #[test]
    fn every_option_arrives_in_the_task() {
        let task = task(
            "backup --source redis://h --storage s3://b/p --s3-endpoint http://m --s3-region eu --s3-path-style \
             --s3-ca /ca.pem --cluster c --name nightly --namespace n --origin me --compression gzip:9 --recipient age1a \
             --recipient age1b --spool /spool --limit-rate 50M --hold-limit 10m --pin --dry-run --plugin /p.wasm \
             --grant redis:replicate --grant redis:info",
        );
        assert_eq!(
            serde_json::to_value(&task).unwrap(),
            json!({
                "source": serde_json::to_value(EndpointSpec::default()).unwrap(),
                "method": {
                    "name": "", "file": "/p.wasm", "digest": null, "grants": ["redis:replicate", "redis:info"]
                },
                "storage": {
                    "url": "s3://b/p", "endpoint": "http://m", "region": "eu", "pathStyle": true, "caFile": "/ca.pem",
                    "credentialsDir": null
                },
                "namespace": "n", "cluster": "c", "name": "nightly", "backupId": null, "origin": "me",
                "compression": "gzip:9", "encryption": {"recipients": ["age1a", "age1b"], "passphrase": null},
                "parameters": {}, "spool": "/spool", "limitRate": 50_000_000, "holdLimitSeconds": 600,
                "pin": true, "dryRun": true
            })
        );
    }

    #[test]
    fn a_passphrase_is_named_by_its_file_and_a_dash_is_standard_input() {
        let line = "backup --source redis://h --method aof --storage /s --passphrase-file";
        let of = |file: &str| task(&format!("{line} {file}")).encryption.passphrase;
        assert_eq!(of("/run/p"), Some(SecretRef::File("/run/p".into())));
        assert_eq!(of("-"), Some(SecretRef::File("/dev/stdin".into())));
    }

    #[test]
    fn renamed_commands_never_reach_the_plugin() {
        let mut source = EndpointSpec::default();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let pairs = [pair("source", "files"), pair("rename-command", "psync=hidden")];
        assert_eq!(take_renamed_commands(&pairs, &mut source).unwrap(), [pair("source", "files")]);
        assert_eq!(source.renamed_commands.get("PSYNC").map(String::as_str), Some("hidden"));
        let failure = take_renamed_commands(&[pair("rename-command", "x")], &mut source).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
    }
}
