//! Random troubles, and what must hold whatever happens: never two that take writes, never an emptied one over a full one,
//! and when the troubles are over one primary whom everybody follows.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::World;

#[derive(Clone, Debug)]
enum Trouble {
    Restart { pod: i32, loses_data: bool },
    Delete { pod: i32, after: u64, loses_data: bool, zombie: bool },
    Evict { pod: i32 },
    Cut { one: usize, other: usize },
    Isolate { pods: Vec<i32> },
    Heal,
    OperatorDies { after_steps: usize, down: u64 },
    SwitchOver { to: i32 },
    Scale { to: i32 },
    NewTemplate,
    UnsyncableTemplate,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => (0..3, any::<bool>()).prop_map(|(pod, loses_data)| Trouble::Restart { pod, loses_data }),
        3 => (0..3, 1..20_u64, any::<bool>(), any::<bool>())
            .prop_map(|(pod, after, loses_data, zombie)| Trouble::Delete { pod, after, loses_data, zombie }),
        2 => (0..3).prop_map(|pod| Trouble::Evict { pod }),
        4 => (0..5_usize, 0..5_usize).prop_map(|(one, other)| Trouble::Cut { one, other }),
        3 => vec(0..3, 1..3).prop_map(|pods| Trouble::Isolate { pods }),
        3 => Just(Trouble::Heal),
        3 => (0..3_usize, 0..15_u64).prop_map(|(after_steps, down)| Trouble::OperatorDies { after_steps, down }),
        1 => (0..3).prop_map(|to| Trouble::SwitchOver { to }),
        1 => (1..=3).prop_map(|to| Trouble::Scale { to }),
        1 => Just(Trouble::NewTemplate),
        1 => Just(Trouble::UnsyncableTemplate),
    ]
}

fn happens(world: &mut World, trouble: &Trouble) {
    let name = |pod: &i32| format!("c-{pod}");
    match trouble {
        Trouble::Restart { pod, loses_data } => world.restart(&name(pod), *loses_data),
        Trouble::Delete { pod, after, loses_data, zombie } => {
            // A lone instance never fences itself: whoever force-deletes its pod has to see to the container (docs/operations.md).
            let has_peers = world.index(&name(pod)).is_some_and(|at| world.containers[at].has_peers());
            world.delete(&name(pod), Duration::from_secs(*after), *loses_data, *zombie && has_peers);
        }
        Trouble::Evict { pod } => world.evict(&name(pod)),
        Trouble::Cut { one, other } => {
            let end = |world: &World, number: usize| match number {
                3 => Some("api".to_owned()),
                4 => Some("operator".to_owned()),
                pod => world.index(&format!("c-{pod}")).map(|at| world.containers[at].uid.clone()),
            };
            if let (Some(one), Some(other)) = (end(world, *one), end(world, *other)) {
                world.cut.insert((one, other));
            }
        }
        Trouble::Isolate { pods } => {
            let names: Vec<String> = pods.iter().map(name).collect();
            world.isolate(&names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Trouble::Heal => world.heal(),
        Trouble::OperatorDies { after_steps, down } => {
            world.operator_looks(*after_steps);
            world.restart_operator(Duration::from_secs(*down));
        }
        Trouble::SwitchOver { to } => world.wanted.switch_over = Some(format!("c-{to}")),
        Trouble::Scale { to } => world.wanted.instances = *to,
        Trouble::NewTemplate => world.template += 1,
        Trouble::UnsyncableTemplate => {
            world.template += 1;
            world.unsyncable = Some(world.template);
        }
    }
}

fn watch(world: &mut World, span: Duration) -> Result<(), TestCaseError> {
    let end = world.now + span;
    while world.now < end {
        world.tick();
        let writers = world.writers();
        prop_assert!(writers.len() <= 1, "{:?} take writes at once, at {:?}: {:?}", writers, world.now, world.truth);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_two_that_take_writes_and_in_the_end_there_is_one(
        troubles in vec((trouble(), 0..30_u64), 1..25)
    ) {
        let mut world = World::new(3);
        watch(&mut world, Duration::from_secs(20))?;
        prop_assert!(world.is_whole(), "{:?}", world.last);
        for (trouble, pause) in &troubles {
            happens(&mut world, trouble);
            watch(&mut world, Duration::from_secs(*pause))?;
        }
        world.heal();
        if world.unsyncable == Some(world.template) {
            world.template += 1;
        }
        watch(&mut world, Duration::from_secs(400))?;
        prop_assert!(world.is_whole(), "not whole again: {:?} {:?}\n{}", world.truth, world.last.as_ref().map(|plan| &plan.stage), world.describe());
    }
}
