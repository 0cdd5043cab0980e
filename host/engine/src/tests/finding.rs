//! Probing a storage and finding a backup again, as the operator asks for both.

use std::time::Duration;

use redkeep_core::report_facts;
use redkeep_core::storage::{StorageErrorKind, WriteStorage};
use redkeep_core::task::{
    BackupSelector, FindTask, KeepRules, LoadTask, MethodSpec, Outcome, ProbeTask, Task, TaskReport, TaskSpec,
    VerifyLevel,
};
use redkeep_core::{Class, Timestamp};
use redkeep_storage::layer::Operation;
use redkeep_storage::layer::fault::Fault;
use rstest::rstest;

use crate::backup::backup;
use crate::testing::{World, backup_task, prune_task, selector, silent, storage_spec, verify_task};
use crate::verify::verify;

async fn run(world: &std::sync::Arc<World>, task: Task) -> TaskReport {
    crate::run(TaskSpec { version: 1, deadline: None, task }, world.providers(), silent()).await
}

fn find(backup: BackupSelector) -> Task {
    Task::Find(FindTask { storage: storage_spec("test"), backup })
}

fn probe(catalog_only: bool) -> Task {
    Task::Probe(ProbeTask { storage: storage_spec("test"), namespace: None, cluster: None, catalog_only })
}

fn refusal(report: &TaskReport) -> (Class, &str) {
    match &report.outcome {
        Outcome::Failed { class, reason, .. } => (*class, reason),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::one_shard(&[("0", 10)])]
#[case::three_shards(&[("0", 10), ("1", 20), ("2", 30)])]
#[tokio::test]
async fn a_backup_that_is_found_says_what_its_own_report_said(#[case] shards: &[(&str, usize)]) {
    let world = World::new();
    world.set_shards(shards);
    let mut task = backup_task();
    task.backup_id = Some("20261121T091348Z-cache-x7k2p".parse().unwrap());
    let made = run(&world, Task::Backup(task)).await;
    let exact = BackupSelector {
        cluster: Some("cache".parse().unwrap()),
        namespace: Some("default".parse().unwrap()),
        ..selector("20261121T091348Z-cache-x7k2p")
    };
    let found = run(&world, find(exact)).await;
    assert_eq!(found.outcome, Outcome::Done);
    assert_eq!((&found.backup_id, &found.manifest, &found.facts), (&made.backup_id, &made.manifest, &made.facts));
    assert_eq!(found.warnings, made.warnings);
    let keys: usize = shards.iter().map(|(_, keys)| keys).sum();
    assert_eq!(found.facts[report_facts::KEYS], keys.to_string());
    let path = &found.facts[report_facts::BACKUP_PATH];
    assert!(found.manifest.as_ref().unwrap().starts_with(path.split("20261121").next().unwrap()), "{path}");
    assert_eq!(path.ends_with('/'), shards.len() > 1, "{path}");
    assert_eq!(found.facts.contains_key(report_facts::STORED_SHA256), shards.len() == 1);
}

#[tokio::test]
async fn a_backup_that_is_not_there_is_told_from_a_storage_that_does_not_answer() {
    let world = World::new();
    assert_eq!(refusal(&run(&world, find(selector("latest"))).await), (Class::NotFound, "NoBackups"));
    backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
    let exact = BackupSelector {
        cluster: Some("cache".parse().unwrap()),
        namespace: Some("default".parse().unwrap()),
        ..selector("20261121T091348Z-cache-zzzzz")
    };
    assert_eq!(refusal(&run(&world, find(exact.clone())).await), (Class::NotFound, "BackupNotFound"));
    for operation in [Operation::Head, Operation::List] {
        world.faults.add(Fault::fail(StorageErrorKind::Unreachable).on(operation));
        let report = run(&world, find(exact.clone())).await;
        world.faults.clear();
        assert_eq!(refusal(&report).0, Class::Failed, "{operation:?}: {report:?}");
    }
}

#[tokio::test]
async fn the_newest_backup_before_a_time_is_the_one_that_had_ended() {
    let world = World::new();
    let mut ended: Vec<(String, Timestamp)> = Vec::new();
    for _ in 0..3 {
        let outcome = backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
        let manifest = outcome.result.manifest().unwrap();
        ended.push((manifest.backup_id.to_string(), manifest.completed_at));
        world.advance(Duration::from_secs(3600));
    }
    for (index, (id, _)) in ended.iter().enumerate() {
        let before = ended.get(index + 1).map_or(ended[2].1 + Duration::from_secs(1), |(_, next)| *next);
        let report = run(&world, find(BackupSelector { before: Some(before), ..selector("latest") })).await;
        assert_eq!(report.backup_id.unwrap().as_str(), id);
    }
    let report = run(&world, find(BackupSelector { before: Some(ended[0].1), ..selector("latest") })).await;
    assert_eq!(refusal(&report), (Class::NotFound, "BackupNotFound"));
}

#[tokio::test]
async fn the_newest_backup_of_an_origin_is_none_of_anothers_and_never_passes_over_a_damaged_one() {
    let world = World::new();
    let mut ids = Vec::new();
    for origin in ["host:a", "host:a", "host:b"] {
        let task = redkeep_core::task::BackupTask { origin: origin.to_owned(), ..backup_task() };
        let outcome = backup(&task, &world.providers(), &silent()).await.unwrap();
        ids.push(outcome.result.manifest().unwrap().backup_id.to_string());
        world.advance(Duration::from_secs(3600));
    }
    let of = |origin: &str, text: &str| BackupSelector { origin: Some(origin.to_owned()), ..selector(text) };
    for (origin, id) in [("host:a", &ids[1]), ("host:b", &ids[2])] {
        let report = run(&world, find(of(origin, "latest"))).await;
        assert_eq!(report.backup_id.unwrap().as_str(), id, "{origin}");
        assert_eq!(run(&world, find(of(origin, id))).await.outcome, Outcome::Done);
    }
    assert_eq!(refusal(&run(&world, find(of("host:b", &ids[1]))).await), (Class::NotFound, "BackupNotFound"));
    assert_eq!(refusal(&run(&world, find(of("host:c", "latest"))).await), (Class::NotFound, "NoBackups"));
    let mut checked = verify_task(VerifyLevel::Checksum);
    checked.backup = of("host:a", "latest");
    let verified = run(&world, Task::Verify(checked.clone())).await;
    assert_eq!(verified.backup_id.unwrap().as_str(), ids[1]);
    let manifest = format!("default/cache/{}/manifest.json", ids[2]);
    world.memory.put(&manifest, "{".into()).await.unwrap();
    assert_eq!(refusal(&run(&world, Task::Verify(checked)).await).0, Class::Damaged, "whose it is nobody can say");
}

#[tokio::test]
async fn a_probe_says_what_works_and_what_is_there() {
    let world = World::new();
    let report = run(&world, probe(false)).await;
    assert_eq!(report.outcome, Outcome::Done);
    assert_eq!((report.facts["usable"].as_str(), report.facts["backups"].as_str()), ("yes", "0"));
    assert_eq!(report.facts["supports-write"], "yes");
    assert!(!report.facts.contains_key("oldest"));
    assert_eq!(world.keys().await, Vec::<String>::new(), "a probe leaves nothing");
    let mut made = Vec::new();
    for cluster in ["cache", "cache", "other"] {
        let mut task = backup_task();
        task.cluster = Some(cluster.parse().unwrap());
        let outcome = backup(&task, &world.providers(), &silent()).await.unwrap();
        made.push(outcome.result.manifest().unwrap().clone());
        world.advance(Duration::from_secs(3600));
    }
    let mut checked = verify_task(VerifyLevel::Checksum);
    checked.backup = selector(made[0].backup_id.as_str());
    verify(&checked, &world.providers(), &silent()).await.unwrap();
    let facts = run(&world, probe(true)).await.facts;
    assert!(!facts.contains_key("usable"), "{facts:?}");
    let stored = |index: usize| made[index].sizes().1;
    for (key, value) in [
        ("backups", "3".to_owned()),
        ("clusters", "2".to_owned()),
        (
            "cluster-counts",
            format!(
                "default/cache=2,{},{} default/other=1,{},{}",
                stored(0) + stored(1),
                made[1].completed_at,
                stored(2),
                made[2].completed_at
            ),
        ),
        ("stored-size", made.iter().map(|manifest| manifest.sizes().1).sum::<u64>().to_string()),
        ("oldest", made[0].completed_at.to_string()),
        ("newest", made[2].completed_at.to_string()),
        ("newest-id", made[2].backup_id.to_string()),
        ("newest-verified-id", made[0].backup_id.to_string()),
    ] {
        assert_eq!(facts.get(key), Some(&value), "{key}");
    }
}

#[tokio::test]
async fn a_storage_that_lacks_something_fails_its_probe_and_says_what() {
    let world = World::new();
    *world.lists_late.lock().unwrap() = true;
    let report = run(&world, probe(false)).await;
    assert_eq!(refusal(&report), (Class::Failed, "StorageUnusable"));
    assert_eq!(report.facts["supports-list"], "no, needed: shows old objects only");
    assert_eq!(report.facts["usable"], "no");
    world.faults.add(Fault::fail(StorageErrorKind::Denied).on(Operation::Put));
    let report = run(&world, probe(false)).await;
    assert_eq!(refusal(&report).0, Class::Failed);
    let report = run(&world, probe(true)).await;
    assert_eq!(report.outcome, Outcome::Done, "the catalog alone writes nothing");
}

#[tokio::test]
async fn a_prune_reports_its_plan_keeps_the_floor_and_touches_only_its_own() {
    let world = World::new();
    let mut made = Vec::new();
    for _ in 0..3 {
        let outcome = backup(&backup_task(), &world.providers(), &silent()).await.unwrap();
        made.push(outcome.result.manifest().unwrap().clone());
        world.advance(Duration::from_secs(3600));
    }
    let mut checked = verify_task(VerifyLevel::Checksum);
    checked.backup = selector(made[0].backup_id.as_str());
    let verified = run(&world, Task::Verify(checked)).await;
    let fact = |key: &str| verified.facts.get(key).map(String::as_str);
    assert_eq!((fact(report_facts::LEVEL), fact(report_facts::VERIFIED)), (Some("checksum"), Some("yes")));
    assert!(fact(report_facts::VERIFIED_AT).is_some());
    let mut task = prune_task(KeepRules { last: Some(1), ..KeepRules::default() });
    task.cluster = Some("cache".parse().unwrap());
    for (origin, cluster) in [(Some("host:b"), "cache"), (Some("host:a"), "other")] {
        let mut others = task.clone();
        others.origin = origin.map(str::to_owned);
        others.cluster = Some(cluster.parse().unwrap());
        let report = run(&world, Task::Prune(others)).await;
        assert_eq!((&report.outcome, report.facts["deleted"].as_str()), (&Outcome::Done, "0"), "{report:?}");
    }
    task.origin = Some("host:a".to_owned());
    task.dry_run = true;
    let planned = run(&world, Task::Prune(task.clone())).await;
    assert_eq!((&planned.outcome, planned.facts["deleted"].as_str()), (&Outcome::Planned, "0"));
    task.dry_run = false;
    let report = run(&world, Task::Prune(task)).await;
    assert_eq!(report.outcome, Outcome::Done);
    for (index, fate) in ["keep: newest verified", "delete: no rule keeps it", "keep: last (1 of 1)"].iter().enumerate()
    {
        let key = format!("{}{}", report_facts::PLAN_PREFIX, made[index].backup_id);
        assert!(report.facts[&key].starts_with(fate), "{key}: {}", report.facts[&key]);
        assert_eq!(planned.facts[&key], report.facts[&key]);
    }
    let freed = made[1].sizes().1.to_string();
    assert_eq!((report.facts["deleted"].as_str(), report.facts["freed-size"].as_str()), ("1", freed.as_str()));
    for (index, manifest) in made.iter().enumerate() {
        let found = run(&world, find(selector(manifest.backup_id.as_str()))).await;
        assert_eq!(found.outcome == Outcome::Done, index != 1, "{found:?}");
    }
}

#[tokio::test]
async fn a_plugin_that_is_loaded_says_what_it_is_and_an_unknown_one_fails_with_its_reason() {
    let world = World::new();
    let load = |name: &str| {
        let method = MethodSpec { name: name.to_owned(), grants: vec!["redis:info".into()], ..MethodSpec::default() };
        Task::Load(LoadTask { method })
    };
    let report = run(&world, load("rdb")).await;
    assert_eq!(report.outcome, Outcome::Done);
    let facts = redkeep_core::loaded::LoadFacts::of(&report).unwrap();
    assert_eq!((facts.name.as_str(), facts.granted.as_slice()), ("fake-rdb", &["redis:info".to_owned()][..]));
    assert_eq!(facts.attributes["reads"], "rdb aof");
    assert_eq!(refusal(&run(&world, load("nobody")).await), (Class::NotFound, "MethodNotFound"));
}
