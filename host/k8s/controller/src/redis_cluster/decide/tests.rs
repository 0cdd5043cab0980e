use std::time::Duration;

use rstest::rstest;

use super::testing::World;
use super::*;

fn running(instances: i32) -> World {
    let mut world = World::new(instances);
    world.run(Duration::from_secs(20));
    assert!(world.is_whole(), "{:?}", world.last);
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"));
    world
}

fn stage(world: &World) -> &Stage {
    &world.last.as_ref().unwrap().stage
}

#[rstest]
#[case(1)]
#[case(3)]
#[case(5)]
fn a_new_cluster_gets_its_first_instance_as_primary_and_the_others_follow(#[case] instances: i32) {
    let world = running(instances);
    assert_eq!((world.truth.epoch, world.promotions.len()), (1, 1));
    assert_eq!(world.pod("c-0").label.as_deref(), Some("primary"));
    let labels: Vec<_> = (1..instances).map(|number| world.pod(&format!("c-{number}")).label.clone()).collect();
    assert!(labels.iter().all(|label| label.as_deref() == Some("replica")), "{labels:?}");
    assert_eq!(*stage(&world), Stage::Serving { progress: None });
}

#[test]
fn a_steady_cluster_is_left_in_peace() {
    let mut world = running(3);
    let seen = world.seen();
    let plan = decide(&seen);
    assert_eq!((plan.steps, plan.truth == seen.truth), (Vec::new(), true));
}

#[test]
fn a_primary_that_restarts_is_replaced_at_once_by_a_replica_that_has_everything() {
    let mut world = running(3);
    world.restart("c-0", true);
    world.run(Duration::from_secs(4));
    assert_eq!(world.truth.primary.as_deref(), Some("c-1"), "{:?}", world.last);
    assert_eq!(world.truth.epoch, 2);
    world.run(Duration::from_secs(20));
    assert!(world.is_whole());
    assert!(world.pod("c-0").log.len() > 20, "it has the others' data again");
}

#[test]
fn a_primary_that_is_cut_off_is_replaced_after_it_must_have_stopped() {
    let mut world = running(3);
    world.isolate(&["c-0"]);
    let begun = world.now;
    while world.promotions.len() < 2 {
        world.tick();
        assert!(world.writers().len() <= 1, "{:?}", world.writers());
        assert!(world.now.saturating_sub(begun) < Duration::from_secs(20), "{:?}", world.last);
    }
    let waited = world.now.saturating_sub(begun);
    assert!(waited > world.wanted.margin(), "{waited:?}");
    assert_eq!(world.pod("c-0").role, Played::Fenced);
}

#[test]
fn a_primary_whose_operator_alone_is_gone_goes_on() {
    let mut world = running(3);
    let uid = world.pod("c-0").uid.clone();
    world.cut.insert(("operator".into(), uid));
    // Its replicas answer, so it is replaced: it learns that from the object.
    world.run(Duration::from_secs(30));
    assert_ne!(world.truth.primary.as_deref(), Some("c-0"));
    assert_eq!(world.writers().len(), 1);
}

#[test]
fn a_primary_is_kept_when_nobody_could_follow_it() {
    let mut world = running(3);
    for pod in ["c-0", "c-1", "c-2"] {
        let uid = world.pod(pod).uid.clone();
        world.cut.insert(("operator".into(), uid));
    }
    world.run(Duration::from_secs(60));
    assert_eq!((world.truth.epoch, world.writers().len()), (1, 1), "an operator that is cut off changes nothing");
    assert!(matches!(stage(&world), Stage::Lost { .. }));
}

#[test]
fn a_lone_instance_that_restarts_is_granted_anew() {
    let mut world = running(1);
    let before = world.pod("c-0").log.len();
    world.restart("c-0", false);
    world.run(Duration::from_secs(6));
    assert!(world.is_whole(), "{:?}", world.last);
    assert!(world.pod("c-0").log.len() >= before);
}

#[test]
fn when_all_have_restarted_the_former_primary_is_waited_for() {
    let mut world = running(3);
    world.delete("c-0", Duration::from_secs(40), false, false);
    world.restart("c-1", false);
    world.restart("c-2", false);
    world.run(Duration::from_secs(30));
    assert_eq!(world.writers(), Vec::<String>::new(), "what the others have may be older");
    world.run(Duration::from_secs(60));
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"), "{:?}", world.last);
}

#[test]
fn a_former_primary_that_is_empty_does_not_wipe_one_that_is_not() {
    let mut world = running(2);
    world.restart("c-1", false);
    world.restart("c-0", true);
    world.run(Duration::from_secs(30));
    assert_eq!(world.truth.primary.as_deref(), Some("c-1"), "{:?}", world.last);
}

#[test]
fn an_empty_former_primary_waits_for_those_who_may_have_keys() {
    let mut world = running(2);
    let uid = world.pod("c-1").uid.clone();
    world.restart("c-1", false);
    world.cut.insert(("operator".into(), uid));
    world.restart("c-0", true);
    world.run(Duration::from_secs(300));
    assert_eq!(world.writers(), Vec::<String>::new());
    world.heal();
    world.run(Duration::from_secs(30));
    assert_eq!(world.truth.primary.as_deref(), Some("c-1"));
}

#[test]
fn a_switch_over_loses_nothing() {
    let mut world = running(3);
    let before = world.pod("c-0").log.clone();
    world.wanted.switch_over = Some("c-2".into());
    world.run(Duration::from_secs(20));
    assert_eq!(world.truth.primary.as_deref(), Some("c-2"));
    assert!(world.pod("c-2").log.starts_with(&before));
    assert!(world.is_whole());
    assert_eq!((world.truth.switch_over.as_deref(), world.promotions.len()), (Some("c-2"), 2));
}

#[test]
fn a_switch_over_to_the_same_pod_is_asked_for_again_by_an_annotation_that_was_away() {
    let mut world = running(3);
    let mut ask = |to: Option<&str>| {
        world.wanted.switch_over = to.map(str::to_owned);
        world.run(Duration::from_secs(20));
        (world.truth.primary.clone().unwrap(), world.truth.switch_over.clone())
    };
    assert_eq!(ask(Some("c-2")), ("c-2".into(), Some("c-2".into())));
    assert_eq!(ask(Some("c-0")), ("c-0".into(), Some("c-0".into())));
    assert_eq!(ask(None), ("c-0".into(), None));
    world.restart("c-0", false);
    world.run(Duration::from_secs(20));
    assert_ne!(world.truth.primary.as_deref(), Some("c-0"));
    world.wanted.switch_over = Some("c-0".into());
    world.run(Duration::from_secs(20));
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"), "{:?}", world.last);
}

#[rstest]
#[case::nobody("c-7")]
#[case::another_cluster("d-1")]
fn a_switch_over_to_no_instance_is_refused_once(#[case] to: &str) {
    let mut world = running(3);
    world.wanted.switch_over = Some(to.into());
    world.run(Duration::from_secs(10));
    assert_eq!(world.said.iter().filter(|reason| *reason == "SwitchOverFailed").count(), 1);
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"));
}

#[test]
fn a_switch_over_that_does_not_come_to_an_end_leaves_the_primary() {
    let mut world = running(3);
    let pair = (world.pod("c-0").uid.clone(), world.pod("c-2").uid.clone());
    world.wanted.switch_over = Some("c-2".into());
    world.operator_looks(usize::MAX);
    world.cut.insert(pair);
    world.run(Duration::from_secs(20));
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"));
    assert!(world.said.contains(&"SwitchOverFailed".to_owned()), "{:?}", world.said);
    assert_eq!(world.writers().len(), 1);
}

#[rstest]
#[case::first(&["c-0"], "c-1")]
#[case::with_the_first_replica(&["c-0", "c-1"], "c-2")]
fn a_primary_that_is_evicted_hands_over_first(#[case] evicted: &[&str], #[case] heir: &str) {
    let mut world = running(3);
    let uid = world.pod("c-0").uid.clone();
    let begun = world.now;
    for pod in evicted {
        world.evict(pod);
    }
    let mut last = Vec::new();
    while world.promotions.len() < 2 {
        if let Some(old) = world.containers.iter().find(|one| one.uid == uid) {
            last.clone_from(&old.log);
        }
        world.tick();
        assert!(world.now.saturating_sub(begun) < Duration::from_secs(5), "{:?}", world.last);
    }
    assert_eq!(world.promotions, ["c-0", heir]);
    assert!(world.pod(heir).log.starts_with(&last), "all that it had is there");
    world.run(Duration::from_secs(30));
    assert!(world.is_whole(), "{:?}", world.last);
    assert_ne!(world.pod("c-0").uid, uid);
    assert_eq!(world.promotions.len(), 2);
}

#[test]
fn a_primary_that_is_evicted_does_not_wait_for_who_was_asked_for() {
    let mut world = running(3);
    let uid = world.pod("c-2").uid.clone();
    world.cut.insert((uid, "operator".into()));
    world.wanted.switch_over = Some("c-2".into());
    world.run(Duration::from_secs(3));
    world.evict("c-0");
    world.run(Duration::from_secs(4));
    assert_eq!(world.truth.primary.as_deref(), Some("c-1"), "{:?}", world.last);
}

#[test]
fn an_evicted_primary_whom_nobody_can_follow_ends_and_is_granted_anew() {
    let mut world = running(1);
    world.evict("c-0");
    world.run(Duration::from_secs(40));
    assert!(world.is_whole(), "{:?}", world.last);
    assert_eq!(world.promotions, ["c-0", "c-0"]);
}

#[test]
fn a_new_template_exchanges_replicas_first_then_the_primary_after_it_handed_over() {
    let mut world = running(3);
    let before: Vec<String> = world.containers.iter().map(|one| one.uid.clone()).collect();
    world.template += 1;
    world.run(Duration::from_secs(120));
    assert!(world.is_whole(), "{:?}", world.last);
    assert!(world.containers.iter().all(|one| !before.contains(&one.uid) && one.template == 2));
    assert_eq!(world.promotions, ["c-0", "c-1"], "one hand-over, to one that was exchanged already");
}

#[rstest]
#[case::alone(None)]
#[case::while_it_is_waited_for_to_hand_over(Some("c-2"))]
fn a_replica_that_can_never_sync_is_exchanged_when_its_template_is_put_right(#[case] switch_over: Option<&str>) {
    let mut world = running(3);
    world.template += 1;
    world.unsyncable = Some(world.template);
    world.run(Duration::from_secs(60));
    let templates = |world: &World| ["c-0", "c-1", "c-2"].map(|pod| world.pod(pod).template);
    assert_eq!(templates(&world), [1, 1, 2], "the others stay in sync");
    world.wanted.switch_over = switch_over.map(str::to_owned);
    world.template += 1;
    world.run(Duration::from_secs(120));
    assert!(world.is_whole(), "{:?}", world.last);
    assert_eq!(templates(&world), [3, 3, 3]);
}

#[test]
fn a_lone_instance_is_exchanged_too() {
    let mut world = running(1);
    world.template += 1;
    world.run(Duration::from_secs(40));
    assert!(world.is_whole(), "{:?}", world.last);
    assert_eq!(world.pod("c-0").template, 2);
}

#[test]
fn scaled_down_the_primary_hands_over_before_its_place_goes() {
    let mut world = running(3);
    world.wanted.switch_over = Some("c-2".into());
    world.run(Duration::from_secs(20));
    let before = world.pod("c-2").log.clone();
    world.wanted.instances = 1;
    world.run(Duration::from_secs(30));
    assert_eq!(world.truth.primary.as_deref(), Some("c-0"), "{:?}", world.last);
    assert!(world.pod("c-0").log.starts_with(&before));
    assert_eq!(world.containers.len(), 1);
    world.wanted.instances = 4;
    world.replicas = 4;
    world.run(Duration::from_secs(30));
    assert!(world.is_whole());
}

#[test]
fn an_operator_that_starts_anew_at_any_step_goes_on() {
    for at in 0..40 {
        let mut world = running(3);
        world.isolate(&["c-0"]);
        for look in 0..40 {
            world.tick();
            assert!(world.writers().len() <= 1);
            if look == at {
                world.operator_looks(at % 3);
                world.restart_operator(Duration::from_secs(1));
            }
        }
        world.run(Duration::from_secs(30));
        assert_ne!(world.truth.primary.as_deref(), Some("c-0"), "{at}");
        world.heal();
        world.run(Duration::from_secs(60));
        assert!(world.is_whole(), "{at}: {:?}", world.last);
    }
}

#[rstest]
#[case::same(Some(0), true)]
#[case::other(Some(7), false)]
fn a_restored_cluster_has_a_primary_only_with_the_keys_of_the_backup(#[case] keys: Option<u64>, #[case] granted: bool) {
    let mut world = World::new(3);
    world.first = FirstGrant::Restored(ExpectedKeys { keys, expires: 0, has_commands: false });
    world.run(Duration::from_secs(20));
    assert_eq!(world.truth.epoch > 0, granted, "{:?}", world.last);
    assert_eq!(matches!(stage(&world), Stage::KeysDiffer { .. }), !granted);
}

#[test]
fn one_that_stood_down_from_its_grant_gets_a_newer_one() {
    let mut world = World::new(1);
    while world.writers().is_empty() {
        world.tick();
    }
    // Before the operator hears that it is primary, it is none any more.
    let at = world.index("c-0").unwrap();
    let orders = Orders {
        epoch: world.truth.epoch,
        process: world.containers[at].process.clone(),
        role: Role::Standby,
        peers: Vec::new(),
        config: BTreeMap::new(),
    };
    assert!(world.order(at, &orders));
    world.run(Duration::from_secs(10));
    assert!(world.is_whole(), "{:?} {:?}", world.truth, world.last);
    assert!(world.truth.epoch > 1);
}

#[test]
fn pods_that_never_came_up_are_exchanged_when_their_template_is_put_right() {
    let mut world = World::new(3);
    for container in &mut world.containers {
        container.is_down = true;
    }
    world.run(Duration::from_secs(30));
    assert_eq!((world.truth.epoch, world.containers.len()), (0, 3), "nothing to be done about them");
    world.template += 1;
    world.run(Duration::from_secs(30));
    assert!(world.is_whole(), "{:?}", world.last);
}
