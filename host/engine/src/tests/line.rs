//! Backup, list, verify, restore: the line, and what each step refuses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::attribute::find;
use redkeep_core::encoding::{Compression, DecryptionKeys, Encryption};
use redkeep_core::secret::SecretRef;
use redkeep_core::task::{Outcome, Task, TaskSpec, VerifyLevel, VerifyTask};
use redkeep_core::{Class, Classify};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupOutcome, BackupResult, backup};
use crate::cat::{CatRequest, open};
use crate::catalog::Scope;
use crate::error::EngineError;
use crate::events::TaskEvents;
use crate::list::list;
use crate::restore::restore;
use crate::testing::{
    Cancellable, Conduct, World, backup_task, into_directory, into_server, restore_task, selector, silent,
    storage_spec, verify_task,
};
use crate::verify::verify;

async fn make(world: &Arc<World>) -> BackupOutcome {
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap()
}

#[tokio::test]
async fn a_backup_is_listed_verified_and_restored() {
    let world = World::new();
    let outcome = make(&world).await;
    let manifest = outcome.result.manifest().unwrap().clone();
    assert_eq!(manifest.facts.get("keys").unwrap(), "1000");
    assert_eq!(manifest.facts.get("node-role").unwrap(), "replica");
    assert_eq!(outcome.warnings, ["the first replica lags"]);
    assert!(outcome.address.ends_with(&format!("default/cache/{}/manifest.json", manifest.backup_id)));

    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert_eq!(catalog.problems, []);
    assert_eq!(catalog.entries.len(), 1);
    assert_eq!(catalog.entries[0].backup_id, manifest.backup_id);
    assert_eq!(catalog.entries[0].keys, Some(1000));

    let verified = verify(&verify_task(VerifyLevel::Boot), &world.providers(), &silent()).await.unwrap();
    assert!(verified.error.is_none(), "{:?}", verified.error);
    assert_eq!(verified.record.facts.get("booted-keys").unwrap(), "1000");

    // A server in a container beside the task finds the data in the folder that both see.
    let shared = tempfile::tempdir().unwrap();
    let beside = VerifyTask { server: Some(shared.path().to_owned()), ..verify_task(VerifyLevel::Boot) };
    verify(&beside, &world.providers(), &silent()).await.unwrap();
    let laid_out = world.directories.lock().unwrap().keys().filter(|path| Path::new(path).starts_with(&shared)).count();
    assert_eq!((laid_out, std::fs::read_dir(shared.path()).unwrap().count()), (1, 0), "and nothing of it stays");
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert!(catalog.entries[0].verified.as_ref().unwrap().ok);

    let restored = restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap();
    assert_eq!(restored.facts.get("keys-restored").unwrap(), "1000");
    let expected = world.source.lock().unwrap()["0"].join("\n") + "\n";
    assert_eq!(world.directories.lock().unwrap()["/data"]["dump.rdb"], expected.into_bytes());
    assert_eq!(*world.staged.lock().unwrap(), 0);

    let restored = restore(&restore_task(into_server()), &world.providers(), &silent()).await.unwrap();
    assert_eq!(restored.facts.get("keys-restored").unwrap(), "1000");
    assert_eq!(*world.target.lock().unwrap(), world.source.lock().unwrap()["0"]);
}

#[tokio::test]
async fn a_context_says_what_the_vocabulary_promises() {
    let world = World::new();
    make(&world).await;
    restore(&restore_task(into_directory("/data")), &world.providers(), &silent()).await.unwrap();
    let contexts = world.contexts.lock().unwrap().clone();
    let [plan, capture, restore_plan, restoring] = contexts.as_slice() else { panic!("{contexts:?}") };
    for context in [plan, capture] {
        assert_eq!(find(context, "run"), Some("capture"), "a server cannot overrule what the run is about");
        assert_eq!(find(context, "shards"), Some("1"));
        assert_eq!(find(context, "mode"), Some("standalone"));
        assert_eq!(find(context, "primary-offset"), Some("77"));
    }
    for context in [restore_plan, restoring] {
        assert_eq!(find(context, "run"), Some("restore"));
        assert_eq!(find(context, "target"), Some("directory"));
        assert_eq!(find(context, "server-version"), Some("7.0.15"));
        assert_eq!(find(context, "appendfilename"), Some("appendonly.aof"));
        assert_eq!(find(context, "appendonly"), None);
    }
}

#[rstest]
#[case::plain(Compression::None, Encryption::default(), DecryptionKeys::default())]
#[case::gzip(Compression::Gzip(1), Encryption::default(), DecryptionKeys::default())]
#[case::passphrase(
    Compression::DEFAULT,
    Encryption { recipients: Vec::new(), passphrase: Some(SecretRef::Env("P".to_owned())) },
    DecryptionKeys { identities: Vec::new(), passphrase: Some(SecretRef::Env("P".to_owned())) },
)]
#[tokio::test]
async fn every_encoding_comes_back(
    #[case] compression: Compression,
    #[case] encryption: Encryption,
    #[case] keys: DecryptionKeys,
) {
    let world = World::new();
    let encrypted = !encryption.is_none();
    let mut task = backup_task();
    task.compression = compression;
    task.encryption = encryption;
    backup(&task, &world.providers(), &silent()).await.unwrap();
    let mut restoring = restore_task(into_server());
    if encrypted {
        let error = restore(&restoring, &world.providers(), &silent()).await.unwrap_err();
        assert_eq!(error.class(), Class::Refused, "without the key: {}", error.chain());
        assert!(world.target.lock().unwrap().is_empty());
    }
    restoring.keys = keys.clone();
    restore(&restoring, &world.providers(), &silent()).await.unwrap();
    assert_eq!(*world.target.lock().unwrap(), world.source.lock().unwrap()["0"]);
    let request = CatRequest { storage: storage_spec("test"), backup: selector("latest"), artifact: None, keys };
    let mut opened = open(&request, &world.providers(), &silent()).await.unwrap();
    let mut size = 0;
    loop {
        let chunk = opened.source.read(1000).await.unwrap();
        if chunk.is_empty() {
            break;
        }
        size += chunk.len() as u64;
    }
    assert_eq!(size, opened.record.size);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let world = World::new();
    let mut task = backup_task();
    task.dry_run = true;
    let outcome = backup(&task, &world.providers(), &silent()).await.unwrap();
    let BackupResult::Planned(plans) = outcome.result else { panic!() };
    assert_eq!(find(&plans[0].attributes, "route"), Some("replication"));
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[rstest]
#[case::link_drops(Conduct::FailAt("0", 1), "SourceFailed")]
#[case::link_drops_late(Conduct::FailAt("0", 11_000), "SourceFailed")]
#[case::drops_its_sink(Conduct::DropSink, "NothingCaptured")]
#[case::refuses(Conduct::RefusePlan, "Refused")]
#[case::secrets_in_clear(Conduct::Secret, "Refused")]
#[tokio::test]
async fn a_method_that_fails_leaves_nothing(#[case] conduct: Conduct, #[case] reason: &str) {
    let world = World::new();
    world.behave(conduct);
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), reason, "{}", error.chain());
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_eq!(world.uploads().await, 0);
    world.behave(Conduct::Sound);
    make(&world).await;
}

#[rstest]
#[case::elements(',', 1 << 20, "more elements than any manifest")]
#[case::bytes('x', 17 << 20, "33554432 are the most")]
#[tokio::test]
async fn a_manifest_that_nobody_could_read_is_not_written(
    #[case] character: char,
    #[case] count: usize,
    #[case] why: &str,
) {
    let world = World::new();
    world.behave(Conduct::Sprawl(character, count));
    let mut task = backup_task();
    task.pin = true;
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Failed, "ManifestUnreadable"));
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_failing_shard_of_three_leaves_nothing() {
    let world = World::new();
    world.set_shards(&[("a", 100), ("b", 5000), ("c", 100)]);
    world.behave(Conduct::FailAt("c", 1));
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to capture shard c with the method fake-rdb");
    assert_eq!(world.keys().await, Vec::<String>::new());
    world.behave(Conduct::Sound);
    let outcome = make(&world).await;
    let manifest = outcome.result.manifest().unwrap();
    let shards: Vec<&str> = manifest.artifacts.iter().map(|artifact| artifact.shard.as_str()).collect();
    assert_eq!(shards, ["a", "b", "c"]);
    assert_eq!(manifest.facts.get("keys").unwrap(), "5200");
}

#[tokio::test]
async fn a_topology_that_moved_leaves_nothing() {
    let world = World::new();
    *world.topology.lock().unwrap() = Some("slot 5 moved to b".to_owned());
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.chain(), "the source changed during the backup: slot 5 moved to b");
    assert!(error.retryable());
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_source_without_what_the_method_needs_is_refused() {
    let world = World::new();
    *world.source_has_server.lock().unwrap() = false;
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("CapabilityMissing", Class::Refused));
}

#[rstest]
#[case::parameters(|task: &mut redkeep_core::task::BackupTask| { task.parameters.insert("bad".to_owned(), 1.into()); }, Class::Usage)]
#[case::method(|task: &mut redkeep_core::task::BackupTask| task.method.name = "rbd".to_owned(), Class::NotFound)]
#[case::name(|task: &mut redkeep_core::task::BackupTask| task.name = Some("a/b".to_owned()), Class::Usage)]
#[case::id(|task: &mut redkeep_core::task::BackupTask| task.backup_id = Some("not-a-time".parse().unwrap()), Class::Usage)]
#[case::recipient(|task: &mut redkeep_core::task::BackupTask| task.encryption.recipients = vec!["age1x".to_owned()], Class::Usage)]
#[tokio::test]
async fn a_task_that_cannot_work_is_refused(
    #[case] spoil: fn(&mut redkeep_core::task::BackupTask),
    #[case] class: Class,
) {
    let world = World::new();
    let mut task = backup_task();
    spoil(&mut task);
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.class(), class, "{}", error.chain());
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_backup_takes_its_uploads_back() {
    let world = World::new();
    world.behave(Conduct::Hang);
    let token = CancellationToken::new();
    let events: Arc<dyn TaskEvents> = Arc::new(Cancellable(token.clone()));
    let providers = world.providers();
    let task = backup_task();
    let running = backup(&task, &providers, &events);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        token.cancel();
    };
    let (ended, ()) = tokio::join!(running, stop);
    assert_eq!(ended.unwrap_err().reason(), "Cancelled");
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_eq!(world.uploads().await, 0);
}

#[tokio::test]
async fn a_dropped_backup_takes_its_uploads_back() {
    let world = World::new();
    world.set_shards(&[("a", 10), ("b", 10)]);
    world.behave(Conduct::Hang);
    let providers = world.providers();
    let task = backup_task();
    let timeout = tokio::time::timeout(Duration::from_millis(50), backup(&task, &providers, &silent())).await;
    assert!(timeout.is_err());
    for _ in 0..200 {
        if world.uploads().await == 0 && world.keys().await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("left: {:?}, {} uploads", world.keys().await, world.uploads().await);
}

#[tokio::test]
async fn a_deadline_ends_a_task_and_a_report_says_so() {
    let world = World::new();
    world.behave(Conduct::Hang);
    let deadline = *world.now.lock().unwrap() + Duration::from_millis(50);
    let spec = TaskSpec { version: 1, deadline: Some(deadline), task: Task::Backup(backup_task()) };
    let report = crate::run(spec, world.providers(), silent()).await;
    let Outcome::Failed { reason, .. } = report.outcome else { panic!("{report:?}") };
    assert_eq!(reason, "DeadlineExceeded");
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_task_comes_back_as_a_report() {
    let world = World::new();
    let spec = |task| TaskSpec { version: 1, deadline: None, task };
    let report = crate::run(spec(Task::Backup(backup_task())), world.providers(), silent()).await;
    assert_eq!(report.outcome, Outcome::Done);
    assert_eq!(report.facts.get("keys").unwrap(), "1000");
    assert!(report.manifest.unwrap().starts_with("memory://"));
    let report = crate::run(spec(Task::Verify(verify_task(VerifyLevel::Parse))), world.providers(), silent()).await;
    assert_eq!(report.outcome, Outcome::Done);
    let newer = TaskSpec { version: 2, deadline: None, task: Task::Backup(backup_task()) };
    let report = crate::run(newer, world.providers(), silent()).await;
    assert!(matches!(report.outcome, Outcome::Failed { class: Class::Usage, .. }));
}

#[tokio::test]
async fn the_same_id_again_is_the_same_backup() {
    let world = World::new();
    let mut task = backup_task();
    task.backup_id = Some("20261121T091348Z-cache-x7k2p".parse().unwrap());
    let first = backup(&task, &world.providers(), &silent()).await.unwrap();
    let keys = world.keys().await;
    let second = backup(&task, &world.providers(), &silent()).await.unwrap();
    let BackupResult::Existing(existing) = &second.result else { panic!("{second:?}") };
    assert_eq!(existing.attempt, first.result.manifest().unwrap().attempt);
    assert_eq!(world.keys().await, keys);
}

#[tokio::test]
async fn of_two_attempts_at_one_id_exactly_one_wins() {
    let world = World::new();
    let mut task = backup_task();
    task.backup_id = Some("20261121T091348Z-cache-x7k2p".parse().unwrap());
    let providers = world.providers();
    let events = silent();
    let attempts = (0..6).map(|_| backup(&task, &providers, &events));
    let outcomes: Vec<BackupOutcome> =
        futures::future::join_all(attempts).await.into_iter().collect::<Result<_, EngineError>>().unwrap();
    let won = outcomes.iter().filter(|outcome| matches!(outcome.result, BackupResult::Committed(_))).count();
    assert_eq!(won, 1);
    let attempts: std::collections::BTreeSet<String> =
        outcomes.iter().map(|outcome| outcome.result.manifest().unwrap().attempt.to_string()).collect();
    assert_eq!(attempts.len(), 1, "all report the winner");
    assert_eq!(world.keys().await.len(), 2, "one manifest, one artifact: {:?}", world.keys().await);
}

#[tokio::test]
async fn a_capture_that_boasts_is_found_out_by_verification() {
    let world = World::new();
    world.behave(Conduct::Boast);
    make(&world).await;
    let checksum = verify(&verify_task(VerifyLevel::Checksum), &world.providers(), &silent()).await.unwrap();
    assert!(checksum.error.is_none());
    world.advance(Duration::from_secs(1));
    let outcome = verify(&verify_task(VerifyLevel::Parse), &world.providers(), &silent()).await.unwrap();
    let error = outcome.error.unwrap();
    assert_eq!(error.to_string(), "shard 0 is damaged: keys was 1001 when captured, and is 1000 now");
    assert!(!outcome.record.ok);
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    assert!(!catalog.entries[0].verified.as_ref().unwrap().ok, "the newest verification counts");
}

#[tokio::test]
async fn digests_that_hold_do_not_hide_that_a_server_could_not_load_it() {
    let world = World::new();
    make(&world).await;
    *world.boot_loses.lock().unwrap() = 1;
    verify(&verify_task(VerifyLevel::Boot), &world.providers(), &silent()).await.unwrap();
    world.advance(Duration::from_secs(1));
    let checksum = verify(&verify_task(VerifyLevel::Checksum), &world.providers(), &silent()).await.unwrap();
    assert!(checksum.error.is_none());
    let catalog = list(&storage_spec("test"), &Scope::default(), &world.providers(), &silent()).await.unwrap();
    let verified = catalog.entries[0].verified.clone().unwrap();
    assert_eq!((verified.level, verified.ok), (VerifyLevel::Boot, false));
}

#[tokio::test]
async fn the_latest_of_one_second_is_the_one_that_ended_last() {
    let world = World::new();
    let mut task = backup_task();
    for id in ["20261121T091348Z-zzz-00001", "20261121T091348Z-aaa-00002"] {
        task.backup_id = Some(id.parse().unwrap());
        backup(&task, &world.providers(), &silent()).await.unwrap();
        world.advance(Duration::from_millis(5));
    }
    let outcome = verify(&verify_task(VerifyLevel::Checksum), &world.providers(), &silent()).await.unwrap();
    assert_eq!(outcome.record.backup_id.as_str(), "20261121T091348Z-aaa-00002");
}

#[tokio::test]
async fn a_server_that_loads_fewer_keys_is_found_out() {
    let world = World::new();
    make(&world).await;
    *world.boot_loses.lock().unwrap() = 1;
    let outcome = verify(&verify_task(VerifyLevel::Boot), &world.providers(), &silent()).await.unwrap();
    let error = outcome.error.unwrap();
    assert_eq!(error.to_string(), "a redis 7.0.15 started on the restored shard 0 has 999 keys, the backup 1000");
    assert_eq!(error.class(), Class::Damaged);
}
