use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::redis_cluster::decide::testing::World;
use crate::redis_cluster::decide::{Stage, decide};

fn at() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn cluster(status: Value) -> RedisCluster {
    serde_json::from_value(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisCluster",
        "metadata": {"name": "c", "namespace": "shop", "uid": "u", "generation": 3},
        "spec": {"instances": 3, "imageName": "redis:7.2", "storage": {"size": "1Gi"}},
        "status": status,
    }))
    .unwrap()
}

fn after(world: &mut World, before: Value) -> (RedisClusterStatus, Option<Outcome>) {
    let seen = world.seen();
    let plan = decide(&seen);
    looked(&cluster(before), &seen, &plan, &[], &Restore::None, None, at())
}

fn ready(status: &RedisClusterStatus) -> (&str, &str) {
    let ready = status.conditions.iter().find(|condition| condition.type_ == READY).unwrap();
    (&ready.status, &ready.reason)
}

fn running() -> World {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    world
}

#[test]
fn all_serve_is_healthy_and_told_once() {
    let mut world = running();
    let (status, news) = after(&mut world, json!({"phase": "Creating"}));
    assert_eq!((status.phase, ready(&status)), (Some(ClusterPhase::Healthy), ("True", "Healthy")));
    assert_eq!((status.ready_instances, status.instances), (Some(3), Some(3)));
    assert_eq!(news.unwrap().reason, "Healthy");
    let (_, news) = after(&mut world, json!({"phase": "Healthy"}));
    assert_eq!(news, None);
}

#[rstest]
#[case::was_whole(json!({"phase": "Healthy"}), ClusterPhase::Degraded)]
#[case::is_being_made(json!({"phase": "Creating"}), ClusterPhase::Creating)]
fn a_replica_that_does_not_serve_is_degraded_once_the_cluster_was_whole(
    #[case] before: Value,
    #[case] phase: ClusterPhase,
) {
    let mut world = running();
    world.isolate(&["c-2"]);
    let (status, _) = after(&mut world, before);
    assert_eq!((status.phase, ready(&status)), (Some(phase), ("True", "Degraded")));
    assert_eq!(status.members.iter().filter(|member| member.ready).count(), 2);
    assert!(ClusterPhase::Degraded.serves(), "it can be backed up");
}

#[test]
fn a_lost_primary_is_failing_over() {
    let mut world = running();
    world.restart("c-0", true);
    let (status, _) = after(&mut world, json!({"phase": "Healthy"}));
    assert_eq!((status.phase, ready(&status)), (Some(ClusterPhase::FailingOver), ("False", "FailingOver")));
    assert_eq!((status.epoch, status.primary_process), (Some(2), None));
    assert!(status.failover_since.is_some());
}

#[test]
fn other_keys_than_the_backups_are_a_failure() {
    let mut world = running();
    let seen = world.seen();
    let mut plan = decide(&seen);
    plan.stage = Stage::KeysDiffer { message: "5 and 0".into() };
    plan.loaded = Some((0, Some(0)));
    let (status, news) = looked(&cluster(json!({})), &seen, &plan, &[], &Restore::None, None, at());
    assert_eq!((status.phase, ready(&status)), (Some(ClusterPhase::Failed), ("False", "KeysDiffer")));
    assert_eq!(news.unwrap().reason, "KeysDiffer");
    assert_eq!(status.bootstrap.unwrap().keys_loaded, Some(0));
}

#[test]
fn what_hinders_pods_is_said() {
    let mut world = World::new(3);
    let seen = world.seen();
    let troubles = [("ImagePullFailed".to_owned(), "c-0: no such image".to_owned())];
    let (status, _) = looked(&cluster(json!({})), &seen, &decide(&seen), &troubles, &Restore::None, None, at());
    assert_eq!((status.phase, ready(&status)), (Some(ClusterPhase::Creating), ("False", "ImagePullFailed")));
}

#[test]
fn a_spec_that_cannot_be_followed_does_not_end_a_cluster_that_serves() {
    let why = Unresolved::invalid("spec.serviceAccountName", "not on the list");
    let (status, _) = refused(&cluster(json!({"phase": "Healthy", "epoch": 4})), &why, at());
    assert_eq!(status.phase, Some(ClusterPhase::Healthy));
    let (status, _) = refused(&cluster(json!({})), &why, at());
    assert_eq!((status.phase, ready(&status)), (Some(ClusterPhase::Failed), ("False", "InvalidSpec")));
}

#[test]
fn what_redis_refuses_is_said_with_what_a_restart_would_do() {
    let mut world = running();
    let mut seen = world.seen();
    let standing = seen.members.get_mut("c-1").unwrap().standing.as_mut().unwrap();
    standing.refused_config.insert("maxmemory".into(), "ERR no such memory".into());
    let plan = decide(&seen);
    let (status, _) = looked(&cluster(json!({})), &seen, &plan, &[], &Restore::None, None, at());
    let said = status.conditions.iter().find(|condition| condition.type_ == PROGRESSING).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "ConfigRefused"));
    for part in ["maxmemory: ERR no such memory", "started anew it would end at once"] {
        assert!(said.message.contains(part), "{}", said.message);
    }
}
