//! Refusals of a restore that need only the manifest, the task and what is known of the target: decided before anything moves.
//!
//! What only a method can know (versions of its formats, its own parameters) its `plan` refuses after this.

use crate::attribute::{self, Attribute};
use crate::classify::{Class, Classify};
use crate::identifier::ShardName;
use crate::manifest::Manifest;
use crate::task::{DirectoryTarget, RestoreTask, TargetSpec};

/// What is known of a live target.
#[derive(Clone, Copy, Debug)]
pub struct LiveFacts<'a> {
    /// Its address, without secrets.
    pub address: &'a str,
    /// Whether it is a cluster.
    pub cluster: bool,
    /// Keys in it now.
    pub keys: u64,
    /// `databases` and what else is known.
    pub facts: &'a [Attribute],
}

/// Why a restore is not even begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// One data directory holds one shard.
    #[error("the backup has {} shards ({}), one data directory holds one", .shards.len(), .shards.join(", "))]
    SeveralShards {
        /// Their names.
        shards: Vec<String>,
    },
    /// No such shard.
    #[error("the backup has no shard `{given}`, its shards are {}", .shards.join(", "))]
    UnknownShard {
        /// What was asked for.
        given: String,
        /// What there is.
        shards: Vec<String>,
    },
    /// A live restore takes all shards.
    #[error("one shard alone cannot be restored into a live target")]
    ShardIntoLive,
    /// The target holds keys.
    #[error("the target {address} is not empty: it holds {keys} keys")]
    NotEmpty {
        /// The target.
        address: String,
        /// Keys in it.
        keys: u64,
        /// Whether a conflict rule could let it through.
        aof: bool,
    },
    /// Commands of a cluster run in a cluster only, and the reverse.
    #[error("an append-only file of a {source_mode} source cannot be replayed into {}", if *.target_is_cluster { "a cluster" } else { "a single server" })]
    WrongMode {
        /// Mode of the source.
        source_mode: String,
        /// Whether the target is a cluster.
        target_is_cluster: bool,
    },
    /// The commands of an AOF act on all keys at once.
    #[error("an append-only file cannot be restored by `{parameter}`")]
    AofFilter {
        /// The parameter.
        parameter: &'static str,
    },
    /// A server with `appendonly no` never reads the file.
    #[error("a server with `appendonly no` would start without the data of an append-only file")]
    AofWithoutAppendonly,
    /// The target lacks databases that the backup uses.
    #[error("the backup has keys in database {database}, the target {address} has {}", if *.databases == 1 { "only database 0".to_owned() } else { format!("databases 0 to {}", .databases - 1) })]
    DatabaseOutOfRange {
        /// The highest database used.
        database: u64,
        /// Databases of the target.
        databases: u64,
        /// The target.
        address: String,
    },
    /// Nothing to restore.
    #[error("the backup holds no artifacts")]
    NoArtifacts,
}

impl Classify for Refusal {
    fn class(&self) -> Class {
        match self {
            Self::UnknownShard { .. } => Class::NotFound,
            Self::NoArtifacts => Class::Damaged,
            _ => Class::Refused,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::SeveralShards { .. } => "SeveralShards",
            Self::UnknownShard { .. } => "ShardNotFound",
            Self::ShardIntoLive => "ShardIntoLive",
            Self::NotEmpty { .. } => "TargetNotEmpty",
            Self::WrongMode { .. } => "WrongMode",
            Self::AofFilter { .. } => "FilterNotSupported",
            Self::AofWithoutAppendonly => "AppendonlyNeeded",
            Self::DatabaseOutOfRange { .. } => "DatabaseOutOfRange",
            Self::NoArtifacts => "NoArtifacts",
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::SeveralShards { shards } => format!(
                "restore each into a directory of its own (--shard {}), or all into a live target (--target URL)",
                shards.first().map_or("NAME", String::as_str)
            ),
            Self::UnknownShard { .. } => "give one of these to --shard".to_owned(),
            Self::ShardIntoLive => {
                "leave --shard out (--match and --db choose keys), or restore into a directory (--target-dir)"
                    .to_owned()
            }
            Self::NotEmpty { aof: true, .. } => {
                "an append-only file needs an empty target: empty it, or restore into another".to_owned()
            }
            Self::NotEmpty { .. } => {
                "empty it, restore into another, or say what happens to keys in both by --on-conflict skip|replace"
                    .to_owned()
            }
            Self::WrongMode { .. } => {
                "restore into a target of the source's mode, restore into a directory, or use an rdb backup".to_owned()
            }
            Self::AofFilter { .. } => "use an rdb backup for single keys or databases".to_owned(),
            Self::AofWithoutAppendonly => {
                "run the server with `appendonly yes` (--appendonly yes), or use an rdb backup".to_owned()
            }
            Self::DatabaseOutOfRange { database, .. } => {
                format!(
                    "map it to one that the target has, e.g. --db {database}:0, or restore the others alone by --db"
                )
            }
            Self::NoArtifacts => "the manifest is damaged: restore from another backup".to_owned(),
        })
    }
}

fn holds_aof(manifest: &Manifest) -> bool {
    manifest.artifacts.iter().any(|artifact| matches!(artifact.artifact_type.as_str(), "aof" | "aof-archive"))
}

/// The shards to restore, in order, when only the manifest is known; the target is looked at by [`check_live`].
pub fn shards(manifest: &Manifest, task: &RestoreTask) -> Result<Vec<ShardName>, Refusal> {
    if manifest.artifacts.is_empty() || manifest.shards.is_empty() {
        return Err(Refusal::NoArtifacts);
    }
    let names: Vec<String> = manifest.shards.iter().map(|shard| shard.name.to_string()).collect();
    if let Some(given) = &task.shard {
        if matches!(task.target, TargetSpec::Live { .. }) && names.len() > 1 {
            return Err(Refusal::ShardIntoLive);
        }
        return manifest
            .shards
            .iter()
            .find(|shard| shard.name.as_str() == given)
            .map(|shard| vec![shard.name.clone()])
            .ok_or_else(|| Refusal::UnknownShard { given: given.clone(), shards: names });
    }
    match &task.target {
        TargetSpec::Directory(_) if names.len() > 1 => Err(Refusal::SeveralShards { shards: names }),
        TargetSpec::Directory(_) | TargetSpec::Live { .. } => {
            Ok(manifest.shards.iter().map(|shard| shard.name.clone()).collect())
        }
    }
}

/// A directory that is known only by what its server will run with, as it is to be laid out for this backup.
///
/// # Errors
/// [`Refusal::AofWithoutAppendonly`].
pub fn directory(manifest: &Manifest, target: &DirectoryTarget) -> Result<DirectoryTarget, Refusal> {
    let mut target = target.clone();
    if holds_aof(manifest) && target.appendonly == Some(false) {
        if !target.loads_append_only_files {
            return Err(Refusal::AofWithoutAppendonly);
        }
        target.appendonly = Some(true);
    }
    Ok(target)
}

/// Refusals of a live target.
pub fn check_live(manifest: &Manifest, task: &RestoreTask, target: LiveFacts<'_>) -> Result<(), Refusal> {
    let aof = holds_aof(manifest);
    if aof {
        for parameter in ["match", "db"] {
            if task.parameters.contains_key(parameter) {
                return Err(Refusal::AofFilter { parameter });
            }
        }
        if (manifest.source.mode == "cluster") != target.cluster {
            return Err(Refusal::WrongMode {
                source_mode: manifest.source.mode.clone(),
                target_is_cluster: target.cluster,
            });
        }
    }
    let says_what_happens =
        matches!(task.parameters.get("on-conflict").and_then(serde_json::Value::as_str), Some("skip" | "replace"));
    if target.keys > 0 && !task.allow_non_empty && (aof || !says_what_happens) {
        return Err(Refusal::NotEmpty { address: target.address.to_owned(), keys: target.keys, aof });
    }
    check_databases(manifest, task, target)
}

fn check_databases(manifest: &Manifest, task: &RestoreTask, target: LiveFacts<'_>) -> Result<(), Refusal> {
    if task.parameters.contains_key("db") {
        // The user maps databases; the method looks at the map.
        return Ok(());
    }
    let stated = attribute::find(target.facts, "databases").and_then(|count| count.parse().ok());
    let Some(databases) = (if target.cluster { Some(1) } else { stated }) else { return Ok(()) };
    let highest = manifest
        .shards
        .iter()
        .filter_map(|shard| shard.facts.get("databases"))
        .flat_map(|list| list.split(','))
        .filter_map(|number| number.trim().parse::<u64>().ok())
        .max();
    match highest {
        Some(database) if database >= databases => {
            Err(Refusal::DatabaseOutOfRange { database, databases, address: target.address.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// A manifest of `shards` shards.
    fn manifest(artifact_type: &str, mode: &str, shards: usize, databases: &str) -> Manifest {
        let shard = |index: usize| serde_json::json!({"name": format!("s{index}"), "node": "n", "facts": {"databases": databases}});
        let artifact = |index: usize| {
            serde_json::json!({
                "shard": format!("s{index}"), "name": "dump.rdb", "type": artifact_type, "key": "k", "size": 1, "sha256": "",
                "storedSize": 1, "storedSha256": "", "compression": "none", "encrypted": false
            })
        };
        let text = serde_json::json!({
            "formatVersion": 1, "backupId": "20261121T091348Z-cache-x7k2p", "name": "cache", "namespace": "default",
            "cluster": "cache", "origin": "host:a", "attempt": "a1", "startedAt": "2026-11-21T09:13:48Z",
            "completedAt": "2026-11-21T09:14:00Z", "toolVersion": "redkeep 0.1.0",
            "method": {"name": "m", "version": "0", "digest": "00"}, "source": {"address": "redis://a", "mode": mode},
            "shards": (0..shards).map(shard).collect::<Vec<_>>(), "artifacts": (0..shards).map(artifact).collect::<Vec<_>>()
        });
        Manifest::parse("m", text.to_string().as_bytes()).unwrap()
    }

    fn task(target: TargetSpec, parameters: &serde_json::Value) -> RestoreTask {
        RestoreTask {
            storage: crate::task::StorageSpec::default(),
            backup: crate::task::BackupSelector {
                backup: "latest".to_owned(),
                cluster: None,
                namespace: None,
                before: None,
                origin: None,
            },
            target,
            method: crate::task::MethodSpec::default(),
            keys: crate::encoding::DecryptionKeys::default(),
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            skip_preverify: false,
            allow_non_empty: false,
            shard: None,
            dry_run: false,
        }
    }

    fn live() -> TargetSpec {
        TargetSpec::Live { endpoint: crate::task::EndpointSpec::default() }
    }

    #[test]
    fn one_directory_takes_one_shard() {
        let directory = TargetSpec::Directory(DirectoryTarget::default());
        let mut task = task(directory, &serde_json::json!({}));
        let one = manifest("rdb", "standalone", 1, "0");
        let three = manifest("rdb", "cluster", 3, "0");
        assert_eq!(shards(&one, &task).unwrap().len(), 1);
        let error = shards(&three, &task).unwrap_err();
        assert_eq!(error.to_string(), "the backup has 3 shards (s0, s1, s2), one data directory holds one");
        task.shard = Some("s1".to_owned());
        assert_eq!(shards(&three, &task).unwrap(), ["s1".parse().unwrap()]);
        task.shard = Some("s9".to_owned());
        assert_eq!(shards(&three, &task).unwrap_err().class(), Class::NotFound);
        task.target = live();
        assert_eq!(shards(&three, &task).unwrap_err(), Refusal::ShardIntoLive);
        task.shard = None;
        assert_eq!(shards(&three, &task).unwrap().len(), 3);
        assert_eq!(shards(&manifest("rdb", "standalone", 0, "0"), &task).unwrap_err().class(), Class::Damaged);
    }

    #[rstest]
    #[case::empty("rdb", "standalone", "{}", false, 0, None)]
    #[case::holds_keys("rdb", "standalone", "{}", false, 5, Some("TargetNotEmpty"))]
    #[case::holds_keys_and_fail("rdb", "standalone", r#"{"on-conflict": "fail"}"#, false, 5, Some("TargetNotEmpty"))]
    #[case::holds_keys_and_skip("rdb", "standalone", r#"{"on-conflict": "skip"}"#, false, 5, None)]
    #[case::holds_keys_and_replace("rdb", "standalone", r#"{"on-conflict": "replace"}"#, false, 5, None)]
    #[case::aof_never_into_keys("aof", "standalone", r#"{"on-conflict": "replace"}"#, false, 5, Some("TargetNotEmpty"))]
    #[case::aof_same_mode("aof", "standalone", "{}", false, 0, None)]
    #[case::aof_of_a_sentinel_is_of_a_server("aof", "sentinel", "{}", false, 0, None)]
    #[case::aof_of_a_cluster_into_a_server("aof", "cluster", "{}", false, 0, Some("WrongMode"))]
    #[case::aof_of_a_server_into_a_cluster("aof-archive", "standalone", "{}", true, 0, Some("WrongMode"))]
    #[case::rdb_of_a_cluster_into_a_server("rdb", "cluster", "{}", false, 0, None)]
    #[case::aof_by_pattern("aof", "standalone", r#"{"match": ["a*"]}"#, false, 0, Some("FilterNotSupported"))]
    #[case::aof_by_database("aof", "standalone", r#"{"db": ["0"]}"#, false, 0, Some("FilterNotSupported"))]
    fn live_targets(
        #[case] artifact_type: &str,
        #[case] mode: &str,
        #[case] parameters: &str,
        #[case] cluster: bool,
        #[case] keys: u64,
        #[case] expected: Option<&str>,
    ) {
        let task = task(live(), &serde_json::from_str(parameters).unwrap());
        let target = LiveFacts { address: "redis://b", cluster, keys, facts: &[] };
        let found = check_live(&manifest(artifact_type, mode, 1, "0"), &task, target);
        assert_eq!(found.as_ref().err().map(Classify::reason), expected);
        assert!(found.err().is_none_or(|error| error.class() == Class::Refused && error.help().is_some()));
    }

    #[rstest]
    #[case::fits("0,15", "{}", false, Some("16"), None)]
    #[case::too_high(
        "0,16",
        "{}",
        false,
        Some("16"),
        Some("the backup has keys in database 16, the target redis://b has databases 0 to 15")
    )]
    #[case::mapped_by_the_user("0,16", r#"{"db": ["16:1"]}"#, false, Some("16"), None)]
    #[case::not_known("0,16", "{}", false, None, None)]
    #[case::into_a_cluster(
        "0,3",
        "{}",
        true,
        Some("16"),
        Some("the backup has keys in database 3, the target redis://b has only database 0")
    )]
    fn databases_must_be_there(
        #[case] databases: &str,
        #[case] parameters: &str,
        #[case] cluster: bool,
        #[case] has: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let task = task(live(), &serde_json::from_str(parameters).unwrap());
        let facts: Vec<Attribute> = has.map(|count| Attribute::new("databases", count)).into_iter().collect();
        let target = LiveFacts { address: "redis://b", cluster, keys: 0, facts: &facts };
        let found = check_live(&manifest("rdb", "standalone", 1, databases), &task, target);
        assert_eq!(found.err().map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn an_append_only_file_needs_a_server_that_reads_it() {
        let no = DirectoryTarget { appendonly: Some(false), ..DirectoryTarget::default() };
        let unknown = DirectoryTarget::default();
        let aof = manifest("aof", "standalone", 1, "0");
        let either = DirectoryTarget { loads_append_only_files: true, ..no.clone() };
        let rdb = manifest("rdb", "standalone", 1, "0");
        let laid_out = |manifest, target| directory(manifest, target).map(|target| target.appendonly);
        assert_eq!(laid_out(&aof, &no), Err(Refusal::AofWithoutAppendonly));
        assert_eq!(laid_out(&aof, &unknown), Ok(None));
        assert_eq!(laid_out(&aof, &either), Ok(Some(true)));
        assert_eq!(laid_out(&rdb, &no), Ok(Some(false)));
        assert_eq!(laid_out(&rdb, &either), Ok(Some(false)));
    }
}
