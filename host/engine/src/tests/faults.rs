//! Every storage call fails once, in every way: never a manifest without its artifacts, and everything works afterwards.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use redkeep_core::attribute::find;
use redkeep_core::catalog::named_objects;
use redkeep_core::manifest::Manifest;
use redkeep_core::storage::{ReadStorage, StorageErrorKind, WriteStorage};
use redkeep_core::task::{KeepRules, VerifyLevel};
use redkeep_core::{Class, Classify};
use redkeep_storage::layer::Operation;
use redkeep_storage::layer::fault::Fault;
use rstest::rstest;

use crate::backup::backup;
use crate::catalog::Scope;
use crate::list::list;
use crate::object;
use crate::prune::prune;
use crate::restore::restore;
use crate::testing::{
    World, backup_task, into_directory, into_server, prune_task, restore_task, selector, silent, storage_spec,
    verify_task,
};
use crate::verify::verify;

/// Every manifest in the storage has every object that it names.
async fn assert_whole(world: &World) -> usize {
    let keys = world.keys().await;
    let mut manifests = 0;
    for key in keys.iter().filter(|key| key.ends_with("/manifest.json")) {
        let bytes = object::read(&world.memory, key, object::MAX_MANIFEST).await.unwrap();
        let manifest = Manifest::parse(key, &bytes).unwrap();
        for named in named_objects(&manifest) {
            assert!(keys.contains(&named), "{key} names {named}, there is {keys:?}");
        }
        manifests += 1;
    }
    manifests
}

/// What must work after any failure.
async fn assert_usable(world: &Arc<World>) {
    let providers = world.providers();
    backup(&backup_task(), &providers, &silent()).await.unwrap();
    let catalog = list(&storage_spec("test"), &Scope::default(), &providers, &silent()).await.unwrap();
    assert_eq!(catalog.problems, []);
    let verified = verify(&verify_task(VerifyLevel::Parse), &providers, &silent()).await.unwrap();
    assert!(verified.error.is_none());
    world.advance(Duration::from_secs(3 * 86_400));
    let pruned = prune(&prune_task(KeepRules::default()), &providers, &silent()).await.unwrap();
    assert!(pruned.error.is_none(), "{:?}", pruned.error);
    let manifests = assert_whole(world).await;
    let keys = world.keys().await;
    assert_eq!(catalog.entries.len(), manifests);
    let attempts: std::collections::BTreeSet<&str> =
        keys.iter().filter(|key| key.contains("dump.rdb")).filter_map(|key| key.split('/').nth(2)).collect();
    assert_eq!(attempts.len(), manifests, "no artifact without its manifest after a prune: {keys:?}");
    assert_eq!(world.uploads().await, 0);
    restore(&restore_task(into_server()), &providers, &silent()).await.unwrap();
}

#[rstest]
#[case::unreachable(StorageErrorKind::Unreachable, false)]
#[case::denied(StorageErrorKind::Denied, false)]
#[case::full(StorageErrorKind::Full, false)]
#[case::lost_answer(StorageErrorKind::TimedOut, true)]
#[tokio::test]
async fn a_backup_survives_a_fault_at_every_call(#[case] kind: StorageErrorKind, #[case] after: bool) {
    let sound = World::new();
    let mut task = backup_task();
    task.pin = true;
    backup(&task, &sound.providers(), &silent()).await.unwrap();
    let calls: Vec<Operation> = sound.faults.calls().into_iter().map(|(operation, _)| operation).collect();
    assert!(calls.len() >= 4, "{calls:?}");
    let mut failed = 0;
    for index in 1..=calls.len() as u64 {
        let world = World::new();
        let fault = Fault::fail(kind).nth(index);
        world.faults.add(if after { fault.after_the_act() } else { fault });
        let outcome = backup(&task, &world.providers(), &silent()).await;
        world.faults.clear();
        let manifests = assert_whole(&world).await;
        match outcome {
            Ok(_) => assert_eq!(manifests, 1, "call {index}"),
            Err(error) => {
                failed += 1;
                assert!(error.reason() == "CommitUnclear" || manifests == 0, "call {index}: {}", error.chain());
                assert!(
                    manifests == 1
                        || error.reason() == "CommitUnclear"
                        || world.keys().await.iter().all(|key| key.ends_with("pin.json")),
                    "call {index}: {:?}",
                    world.keys().await
                );
            }
        }
        assert_usable(&world).await;
    }
    assert!(failed > 0, "a test whose faults never show has shown nothing");
}

#[tokio::test]
async fn an_answer_lost_at_the_commit_is_found_out() {
    let world = World::new();
    let fault = Fault::fail(StorageErrorKind::TimedOut).on(Operation::PutIfAbsent).after_the_act();
    world.faults.add(fault.times(1));
    let outcome = backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    assert_eq!(world.faults.struck(), 1);
    assert!(outcome.result.manifest().is_some());
    assert_eq!(assert_whole(&world).await, 1);
}

#[tokio::test]
async fn a_commit_that_may_yet_take_effect_keeps_its_artifacts() {
    let world = World::new();
    world.faults.add(Fault::fail(StorageErrorKind::Unreachable).on(Operation::PutIfAbsent));
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "CommitUnclear");
    assert_eq!(world.keys().await.len(), 1, "the artifact waits for prune");
    world.faults.clear();
    assert_usable(&world).await;
}

#[rstest]
#[case::gone(true)]
#[case::cut(false)]
#[tokio::test]
async fn a_backup_whose_artifacts_were_pruned_while_it_ran_fails(#[case] gone: bool) {
    let world = World::new();
    *world.meanwhile.lock().unwrap() = Some(Box::new(move |memory| {
        Box::pin(async move {
            let objects: Vec<String> = memory.list("").map_ok(|object| object.key).try_collect().await.unwrap();
            assert_eq!(objects.len(), 1);
            if gone {
                memory.delete(&objects).await.unwrap();
            } else {
                memory.put(&objects[0], "cut".into()).await.unwrap();
            }
        })
    }));
    let mut task = backup_task();
    task.pin = true;
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("ArtifactGone", Class::Failed), "{}", error.chain());
    assert_eq!(world.keys().await, Vec::<String>::new());
    assert_usable(&world).await;
}

#[tokio::test]
async fn a_backup_dropped_during_its_commit_keeps_the_artifacts_of_its_manifest() {
    let world = World::new();
    world.faults.add(Fault::hang().on(Operation::PutIfAbsent).after_the_act());
    let (task, providers, events) = (backup_task(), world.providers(), silent());
    let committing = async {
        while world.faults.struck() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = backup(&task, &providers, &events) => panic!("the commit hangs"),
        () = committing => {}
    }
    world.faults.clear();
    // What a dropped attempt still does is done by a task.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(assert_whole(&world).await, 1);
    assert_usable(&world).await;
}

#[tokio::test]
async fn a_manifest_that_was_there_first_and_cannot_be_read_leaves_the_commit_unclear() {
    let world = World::new();
    let mut task = backup_task();
    task.backup_id = Some("20261121T091348Z-cache-x7k2p".parse().unwrap());
    *world.meanwhile.lock().unwrap() = Some(Box::new(|memory| {
        Box::pin(async move {
            memory.put("default/cache/20261121T091348Z-cache-x7k2p/manifest.json", "{".into()).await.unwrap();
        })
    }));
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("CommitUnclear", Class::Failed), "{}", error.chain());
    assert_eq!(world.keys().await.len(), 2, "the artifact stays");
}

#[tokio::test]
async fn a_clean_up_that_fails_is_made_good_by_prune() {
    let world = World::new();
    world.behave(crate::testing::Conduct::FailAt("b", 1));
    world.set_shards(&[("a", 10), ("b", 100_000)]);
    for operation in [Operation::Delete, Operation::Abort, Operation::UnfinishedUploads, Operation::List] {
        world.faults.add(Fault::fail(StorageErrorKind::Denied).on(operation));
    }
    let error = backup(&backup_task(), &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "SourceFailed", "what failed first is what is told: {}", error.chain());
    world.faults.clear();
    world.behave(crate::testing::Conduct::Sound);
    assert_whole(&world).await;
    world.set_shards(&[("0", 10)]);
    assert_usable(&world).await;
}

#[rstest]
#[case::list("list")]
#[case::verify("verify")]
#[case::restore("restore")]
#[case::prune("prune")]
#[case::delete("delete")]
#[tokio::test]
async fn reading_and_deleting_survive_a_fault_at_every_call(#[case] what: &str) {
    for index in 1..60 {
        let world = World::new();
        for _ in 0..3 {
            backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
            world.advance(Duration::from_secs(3600));
        }
        let before = world.faults.calls().len();
        world.faults.add(Fault::fail(StorageErrorKind::Unreachable).nth(index));
        let providers = world.providers();
        let events = silent();
        match what {
            "list" => drop(list(&storage_spec("test"), &Scope::default(), &providers, &events).await),
            "verify" => drop(verify(&verify_task(VerifyLevel::Parse), &providers, &events).await),
            "restore" => {
                if restore(&restore_task(into_directory("/data")), &providers, &events).await.is_err() {
                    assert!(world.directories.lock().unwrap().is_empty(), "call {index}: nothing is placed");
                }
                assert_eq!(*world.staged.lock().unwrap(), 0, "call {index}: nothing is left staged");
            }
            "prune" => {
                let keep = KeepRules { last: Some(1), ..KeepRules::default() };
                drop(prune(&prune_task(keep), &providers, &events).await);
            }
            _ => {
                let task = redkeep_core::task::DeleteTask {
                    storage: storage_spec("test"),
                    backup: selector("latest"),
                    force: false,
                };
                drop(crate::delete::delete(&task, &providers, &events).await);
            }
        }
        let struck = world.faults.struck() > 0;
        world.faults.clear();
        assert!(assert_whole(&world).await >= 1);
        assert_usable(&world).await;
        if !struck {
            assert!(index > 2, "{what} made {} calls", world.faults.calls().len() - before);
            return;
        }
    }
    panic!("{what} makes more calls than were tried");
}

#[tokio::test]
async fn secrets_in_clear_and_an_unusable_spool_are_refused_before_anything_is_captured() {
    let world = World::new();
    let spool = tempfile::tempdir().unwrap();
    let mut task = backup_task();
    task.spool = Some(spool.path().join("not-there"));
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert!(error.help().unwrap().contains("--spool"), "{error:?}");
    task.spool = Some(spool.path().to_owned());
    task.source.data_dir = Some(spool.path().to_owned());
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "SpoolMisplaced");
    assert!(world.contexts.lock().unwrap().is_empty(), "no plugin was asked");
    task.source.data_dir = None;
    *world.artifact_type.lock().unwrap() = "acl".to_owned();
    let error = backup(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("SecretUnencrypted", Class::Refused));
    assert!(world.contexts.lock().unwrap().iter().all(|context| find(context, "run") == Some("capture")));
    assert_eq!(world.contexts.lock().unwrap().len(), 1, "planned, never captured");
    assert!(world.keys().await.is_empty());
}
