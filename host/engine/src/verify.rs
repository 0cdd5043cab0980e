//! Verification in three levels, each including those before: stored digests, a whole reading by the method, a real server.
//!
//! A result can be written beside the backup; the manifest is never touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use redkeep_core::attribute::{find, merge, to_map};
use redkeep_core::catalog::VerificationSummary;
use redkeep_core::facts::contradiction;
use redkeep_core::identifier::BackupId;
use redkeep_core::manifest::{Manifest, ShardRecord};
use redkeep_core::method::{LogLevel, Method, RunEvents};
use redkeep_core::provider::Providers;
use redkeep_core::storage::ReadStorage;
use redkeep_core::task::{DirectoryTarget, VerifyLevel, VerifyTask};
use redkeep_core::{Attribute, Class, Classify};
use serde::{Deserialize, Serialize};

use crate::backup::TOOL;
use crate::cancel;
use crate::error::EngineError;
use crate::events::{ShardEvents, TaskEvents, Warnings};
use crate::opened::OpenedBackup;
use crate::pipeline::verify_stored;
use crate::restore::{check_disk, directory_context, on_disk};

/// Artifacts whose digests are compared at the same time; each is itself read in parts side by side.
const ARTIFACTS_AT_ONCE: usize = 2;

/// The fact of a [`VerificationRecord`] that says which keys of the booted server were compared with the manifest.
pub const COMPARED: &str = "booted-keys-compared";

/// Which keys of a booted server were compared with the manifest, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Compared {
    /// None: the server only loaded everything.
    None,
    /// Those of an append-only file's snapshot, not what the commands behind it made of them.
    Snapshot,
    /// All.
    All,
}

impl Compared {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Snapshot => "snapshot",
            Self::All => "all",
        }
    }
}

/// The result of a verification, as stored in `verify-<time>-<level>-<ok or failed>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationRecord {
    /// The backup.
    pub backup_id: BackupId,
    /// How much was proved.
    pub level: VerifyLevel,
    /// Whether it held.
    pub ok: bool,
    /// When the verification began.
    pub time: Timestamp,
    /// `redkeep 0.1.0`.
    pub tool: String,
    /// What was seen: artifacts and bytes checked, keys, the server that was booted.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Why it did not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<VerificationFailure>,
}

/// Why a backup did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationFailure {
    /// A stable word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a verification ended.
#[derive(Debug)]
pub struct VerifyOutcome {
    /// The result.
    pub record: VerificationRecord,
    /// Address of the manifest.
    pub address: String,
    /// Why the backup did not hold: class `Damaged`. Anything else that went wrong is an error of [`verify`] itself and says
    /// nothing about the backup.
    pub error: Option<EngineError>,
    /// Why the result of a backup that held could not be written beside it. The result stands all the same.
    pub unrecorded: Option<EngineError>,
    /// What was noticed.
    pub warnings: Vec<String>,
}

/// Verifies a backup.
///
/// # Errors
/// When the backup could not be looked at: no such backup, missing key, storage or plugin failing. A backup that was looked
/// at and is damaged is an outcome.
pub async fn verify(
    task: &VerifyTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<VerifyOutcome, EngineError> {
    cancel::cancellable(events, verify_now(task, providers, events)).await
}

async fn verify_now(
    task: &VerifyTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<VerifyOutcome, EngineError> {
    let time = providers.now();
    let warnings = Arc::new(Warnings::default());
    let storage = providers.storage(&task.storage).await?;
    let opened = OpenedBackup::open(storage, &task.backup, &task.keys, providers).await?;
    let mut facts = BTreeMap::new();
    let held = levels(task, &opened, providers, events, &warnings, &mut facts).await;
    let error = match held {
        Ok(()) => None,
        Err(error) if error.class() == Class::Damaged => Some(error),
        Err(error) => return Err(error),
    };
    let record = VerificationRecord {
        backup_id: opened.backup.backup_id.clone(),
        level: task.level,
        ok: error.is_none(),
        time,
        tool: TOOL.to_owned(),
        facts,
        error: error
            .as_ref()
            .map(|error| VerificationFailure { reason: error.reason().to_owned(), message: error.chain() }),
    };
    let mut unrecorded = None;
    if task.record {
        let written = write(&opened, &record).await;
        match written {
            Ok(()) => {}
            // What was found outweighs that it could not be noted.
            Err(failure) if error.is_some() => warnings.add(failure.chain()),
            Err(failure) => unrecorded = Some(failure),
        }
    }
    Ok(VerifyOutcome { record, address: opened.address(), error, unrecorded, warnings: warnings.lines() })
}

async fn write(opened: &OpenedBackup, record: &VerificationRecord) -> Result<(), EngineError> {
    let result = VerificationSummary { time: record.time, level: record.level, ok: record.ok };
    let key = opened.backup.folder().verification(&result);
    // A struct of strings and maps always serializes.
    let mut bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
    bytes.push(b'\n');
    opened.storage.put(&key, bytes.into()).await.map_err(|source| EngineError::Unrecorded { source })
}

async fn levels(
    task: &VerifyTask,
    opened: &OpenedBackup,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
    facts: &mut BTreeMap<String, String>,
) -> Result<(), EngineError> {
    let manifest = &opened.manifest;
    // Whether it can be read at all is known before an hour of digests.
    let method = if task.level >= VerifyLevel::Parse {
        let method = opened.method(&task.method, providers).await?;
        check_stores(opened, events, warnings).await?;
        Some(method)
    } else {
        None
    };
    events.stage("checksum", &format!("{} artifact(s)", manifest.artifacts.len()));
    checksums(opened, events).await?;
    facts.insert("artifacts".to_owned(), manifest.artifacts.len().to_string());
    facts.insert("stored-bytes".to_owned(), manifest.sizes().1.to_string());
    let Some(method) = method else { return Ok(()) };
    events.stage("parse", &format!("with the method {}", method.info().name));
    for shard in &manifest.shards {
        let found = parse(opened, shard, &method, events, warnings).await?;
        if manifest.shards.len() == 1 {
            facts.extend(found);
        }
    }
    if task.level < VerifyLevel::Boot {
        return Ok(());
    }
    let mut least = if manifest.shards.is_empty() { Compared::None } else { Compared::All };
    for shard in &manifest.shards {
        events.stage("boot", &format!("shard {}", shard.name));
        let (seen, compared) = boot(task, opened, shard, &method, providers, events, warnings).await?;
        least = least.min(compared);
        if let Some(server) = find(&seen, "server") {
            facts.insert("booted-server".to_owned(), server.to_owned());
        }
        // Behind an append-only file's snapshot come commands: what was loaded is not what is there in the end.
        let counts = if compared == Compared::All { ["keys-loaded", "keys"] } else { ["keys", "keys-loaded"] };
        if let Some(keys) = counts.into_iter().find_map(|count| find(&seen, count)) {
            let key = if manifest.shards.len() == 1 {
                "booted-keys".to_owned()
            } else {
                format!("booted-keys-{}", shard.name)
            };
            facts.insert(key, keys.to_owned());
        }
    }
    facts.insert(COMPARED.to_owned(), least.word().to_owned());
    Ok(())
}

/// Every object is there in its size, and the keys at hand open it.
pub(crate) async fn check_stores(
    opened: &OpenedBackup,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<(), EngineError> {
    for shard in &opened.manifest.shards {
        check_store(opened, shard, events, warnings).await?;
    }
    Ok(())
}

/// The same for one shard.
pub(crate) async fn check_store(
    opened: &OpenedBackup,
    shard: &ShardRecord,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<(), EngineError> {
    let store = opened.store(shard, ShardEvents::new(shard.name.as_str(), events, warnings));
    let act = || format!("open the artifacts of shard {}", shard.name);
    store.check_presence().await.map_err(EngineError::pipeline(act()))?;
    store.check_keys().await.map_err(EngineError::pipeline(act()))
}

/// Every stored byte of every artifact has the digest that the manifest says.
pub(crate) async fn checksums(opened: &OpenedBackup, events: &Arc<dyn TaskEvents>) -> Result<(), EngineError> {
    stream::iter(&opened.manifest.artifacts)
        .map(|artifact| async move {
            let storage: Arc<dyn ReadStorage> = opened.storage.clone();
            let progress = |done: u64| {
                events.progress(artifact.shard.as_str(), "checksum", "bytes", done, Some(artifact.stored_size));
            };
            verify_stored(storage, artifact, &progress)
                .await
                .map_err(EngineError::pipeline(format!("verify {} of shard {}", artifact.name, artifact.shard)))
        })
        .buffer_unordered(ARTIFACTS_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .map(|_| ())
}

/// The method reads every artifact of the shard, and finds what the capture found.
async fn parse(
    opened: &OpenedBackup,
    shard: &ShardRecord,
    method: &Arc<dyn Method>,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<BTreeMap<String, String>, EngineError> {
    let shard_events = ShardEvents::new(shard.name.as_str(), events, warnings);
    let store = opened.store(shard, shard_events.clone());
    let run = opened.run("verify", shard, store, "{}".to_owned(), shard_events);
    let act = format!("verify shard {} with the method {}", shard.name, method.info().name);
    let found = to_map(&method.verify(run).await.map_err(EngineError::method(act))?);
    check_facts(shard, &found)?;
    Ok(found)
}

/// A fact under a key that the capture reported must have the same value.
pub(crate) fn check_facts(shard: &ShardRecord, found: &BTreeMap<String, String>) -> Result<(), EngineError> {
    match contradiction(&shard.facts, found) {
        None => Ok(()),
        Some((key, captured, found)) => {
            Err(EngineError::FactsDiffer { shard: shard.name.to_string(), key, captured, found })
        }
    }
}

/// A throw-away server loads the shard, and has the keys that the manifest says, as far as they can be compared.
async fn boot(
    task: &VerifyTask,
    opened: &OpenedBackup,
    shard: &ShardRecord,
    method: &Arc<dyn Method>,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
    warnings: &Arc<Warnings>,
) -> Result<(Vec<Attribute>, Compared), EngineError> {
    let appendonly = is_append_only(&opened.manifest, shard);
    let beside = task.server.as_deref();
    let mut temporary = tempfile::Builder::new();
    temporary.prefix("redkeep-boot-");
    let temporary = beside
        .map_or_else(|| temporary.tempdir(), |folder| temporary.tempdir_in(folder))
        .map_err(|source| EngineError::TemporaryDirectory { source })?;
    let target = DirectoryTarget {
        path: temporary.path().join("data"),
        appendonly: Some(appendonly),
        ..DirectoryTarget::default()
    };
    let staged = providers.directory(&target).await?;
    let needed = on_disk(&[], shard, &opened.manifest.artifacts);
    check_disk(&temporary.path().display().to_string(), needed, staged.free_bytes())?;
    let shard_events = ShardEvents::new(shard.name.as_str(), events, warnings);
    let store = opened.store(shard, shard_events.clone());
    let mut run = opened.run("restore", shard, store, "{}".to_owned(), shard_events.clone());
    run.context = merge(&run.context, &directory_context(&target, shard));
    run.files = Some(staged.files());
    let act = format!("lay shard {} out with the method {}", shard.name, method.info().name);
    method.restore(run).await.map_err(EngineError::method(act))?;
    staged.publish().await?;
    let fact = |key: &str| shard.facts.get(key).map_or("", String::as_str);
    let (name, version) = (fact("server-name"), fact("server-version"));
    let name = if name.is_empty() { "redis" } else { name };
    let seen = providers.boot_check(beside).boot(&target.path, appendonly, name, version).await?;
    let compared = compare_boot(shard, appendonly, &seen, shard_events.as_ref())?;
    Ok((seen, compared))
}

fn is_append_only(manifest: &Manifest, shard: &ShardRecord) -> bool {
    manifest.artifacts.iter().any(|artifact| {
        artifact.shard == shard.name && matches!(artifact.artifact_type.as_str(), "aof" | "aof-archive")
    })
}

/// Compares the server's count with the manifest's, where the two can be compared, and says so where they cannot.
fn compare_boot(
    shard: &ShardRecord,
    appendonly: bool,
    seen: &[Attribute],
    events: &dyn RunEvents,
) -> Result<Compared, EngineError> {
    let number = |key: &str| find(seen, key).and_then(|count| count.parse::<u64>().ok());
    let captured = shard.facts.get("keys").and_then(|keys| keys.parse::<u64>().ok());
    let commands = shard.facts.get("commands").and_then(|commands| commands.parse::<u64>().ok());
    let is_changed = appendonly && commands != Some(0);
    // Commands behind a snapshot add and delete keys. The fact counts the snapshot's alone, and so does a server that counts
    // what it loads; of one that does not, only that it loads all of it can be said.
    if is_changed && find(seen, "counted-by") != Some("server") {
        let message =
            "the server loaded the append-only file; it does not count what it loads, so keys are not compared";
        events.log(LogLevel::Info, message, &[]);
        return Ok(Compared::None);
    }
    let same = if is_changed { Compared::Snapshot } else { Compared::All };
    let Some(captured) = captured else {
        events.log(
            LogLevel::Warn,
            "the backup does not say how many keys it has, so the server's count is not compared",
            &[],
        );
        return Ok(Compared::None);
    };
    let differs = |found: u64| {
        let server = find(seen, "server").unwrap_or("server").to_owned();
        Err(EngineError::BootDiffers { shard: shard.name.to_string(), server, captured, found })
    };
    match (number("keys-loaded"), number("keys-expired"), number("keys")) {
        (Some(loaded), Some(expired), _) if loaded.checked_add(expired) == Some(captured) => Ok(same),
        (Some(loaded), Some(expired), _) => differs(loaded.saturating_add(expired)),
        // Servers before 7.0 do not count what they dropped as expired: no more than that can be missing.
        (_, _, Some(keys)) => {
            let expires = shard.facts.get("expires").and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            if keys > captured || keys < captured.saturating_sub(expires) { differs(keys) } else { Ok(same) }
        }
        _ => {
            events.log(LogLevel::Warn, "the server does not say how many keys it loaded", &[]);
            Ok(Compared::None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn shard(facts: &str) -> ShardRecord {
        let pairs = facts.split_whitespace().filter_map(|pair| pair.split_once('='));
        ShardRecord {
            name: "0".parse().unwrap(),
            node: "n".to_owned(),
            slots: Vec::new(),
            facts: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    #[rstest]
    #[case::equal("keys=5", false, "keys-loaded=4 keys-expired=1 keys=4", Some(Compared::All))]
    #[case::one_missing("keys=5", false, "keys-loaded=4 keys-expired=0 keys=4", None)]
    #[case::one_more("keys=5", false, "keys-loaded=6 keys-expired=0", None)]
    #[case::empty_server("keys=5", false, "keys-loaded=0 keys-expired=0", None)]
    #[case::nothing_to_compare_with("", false, "keys-loaded=4 keys-expired=0", Some(Compared::None))]
    #[case::an_old_server_and_no_expires("keys=5 expires=0", false, "keys=5", Some(Compared::All))]
    #[case::an_old_server_dropped_expired_keys("keys=5 expires=2", false, "keys=3", Some(Compared::All))]
    #[case::an_old_server_lost_keys("keys=5 expires=2", false, "keys=2", None)]
    #[case::commands_add_keys(
        "keys=5 commands=9",
        true,
        "keys-loaded=4 keys-expired=1 keys=7 counted-by=server",
        Some(Compared::Snapshot)
    )]
    #[case::a_lost_snapshot("keys=5 commands=9", true, "keys-loaded=0 keys-expired=0 keys=5 counted-by=server", None)]
    #[case::an_old_server_and_commands(
        "keys=5 commands=9",
        true,
        "keys-loaded=7 keys-expired=0 keys=7 counted-by=keys-present",
        Some(Compared::None)
    )]
    #[case::no_commands("keys=5 commands=0", true, "keys-loaded=4 keys-expired=0", None)]
    fn the_servers_count_is_compared(
        #[case] facts: &str,
        #[case] appendonly: bool,
        #[case] seen: &str,
        #[case] compared: Option<Compared>,
    ) {
        let pairs = seen.split_whitespace().filter_map(|pair| pair.split_once('='));
        let seen: Vec<Attribute> = pairs.map(|(key, value)| Attribute::new(key, value)).collect();
        let events: Arc<dyn TaskEvents> = Arc::new(crate::events::Silent);
        let shard_events = ShardEvents::new("0", &events, &Arc::new(Warnings::default()));
        assert_eq!(compare_boot(&shard(facts), appendonly, &seen, shard_events.as_ref()).ok(), compared);
    }
}
