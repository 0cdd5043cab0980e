//! Third-party plugins lie beside their backups, and restoring needs only the prefix.

use std::sync::Arc;
use std::time::Duration;

use redkeep_core::storage::WriteStorage;
use redkeep_core::task::{CopyTask, KeepRules, VerifyLevel};
use redkeep_core::{Class, Classify};

use crate::backup::backup;
use crate::copy::copy;
use crate::object;
use crate::prune::prune;
use crate::restore::restore;
use crate::testing::{
    World, backup_task, into_directory, prune_task, restore_task, selector, silent, storage_spec, verify_task,
};
use crate::verify::verify;

const COMPONENT: &[u8] = b"a component";

fn key() -> String {
    format!("plugins/{}.wasm", crate::index::hex(COMPONENT))
}

/// A backup made by a plugin that is no longer at hand.
async fn made_by_a_third_party() -> Arc<World> {
    let world = World::new();
    *world.component.lock().unwrap() = Some(COMPONENT.to_vec());
    for _ in 0..2 {
        backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
        world.advance(Duration::from_secs(1));
    }
    *world.component_at_hand.lock().unwrap() = false;
    world
}

#[tokio::test]
async fn a_plugin_of_a_third_party_is_kept_once_and_never_pruned() {
    let world = made_by_a_third_party().await;
    assert_eq!(world.keys().await.iter().filter(|key| key.starts_with("plugins/")).collect::<Vec<_>>(), [&key()]);
    world.advance(Duration::from_secs(400 * 24 * 3600));
    let rules = KeepRules { last: Some(1), ..KeepRules::default() };
    let outcome = prune(&prune_task(rules), &world.providers(), &silent()).await.unwrap();
    assert_eq!((outcome.deleted.len(), outcome.foreign_count), (1, 0));
    assert!(world.keys().await.contains(&key()));
}

#[tokio::test]
async fn a_plugin_that_every_redkeep_has_is_not_kept() {
    let world = World::new();
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    assert!(!world.keys().await.iter().any(|key| key.starts_with("plugins/")));
}

#[tokio::test]
async fn the_kept_plugin_restores_when_granted_and_says_what_it_asks_for() {
    let world = made_by_a_third_party().await;
    let mut task = restore_task(into_directory("/data"));
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("NotGranted", Class::Refused));
    task.method.grants = vec!["redis:replicate".to_owned()];
    restore(&task, &world.providers(), &silent()).await.unwrap();
    let mut task = verify_task(VerifyLevel::Parse);
    task.method.grants = vec!["redis:replicate".to_owned()];
    assert!(verify(&task, &world.providers(), &silent()).await.unwrap().error.is_none());
}

#[tokio::test]
async fn a_kept_plugin_that_is_not_what_its_name_says_is_damage() {
    let world = made_by_a_third_party().await;
    world.memory.put(&key(), "another component".into()).await.unwrap();
    let mut task = restore_task(into_directory("/data"));
    task.method.grants = vec!["redis:replicate".to_owned()];
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.class(), Class::Damaged);
    assert!(error.to_string().contains(&key()), "{error}");
    world.memory.delete(&[key()]).await.unwrap();
    let error = restore(&task, &world.providers(), &silent()).await.unwrap_err();
    assert_eq!(error.reason(), "NoPluginReads");
}

#[tokio::test]
async fn a_copy_takes_the_plugin_along() {
    let world = made_by_a_third_party().await;
    let task = CopyTask { storage: storage_spec("test"), to: storage_spec("other"), backups: vec![selector("latest")] };
    assert!(copy(&task, &world.providers(), &silent()).await.unwrap().error.is_none());
    let other = world.providers().storage(&storage_spec("other")).await.unwrap();
    assert_eq!(object::read(other.as_ref(), &key(), 100).await.unwrap(), COMPONENT);
}
