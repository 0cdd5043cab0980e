use std::collections::BTreeMap;
use std::time::Duration;

use rstest::rstest;

use super::*;

fn peer(pod: &str) -> Peer {
    let last = pod.bytes().next().unwrap_or(0);
    Peer { pod: pod.to_owned(), ip: format!("10.0.0.{last}"), redis_port: 6379, instance_port: 8443 }
}

fn orders(epoch: u64, process: &str, role: Role) -> Orders {
    Orders { epoch, process: process.to_owned(), role, peers: vec![peer("b"), peer("c")], config: BTreeMap::new() }
}

fn notice(epoch: u64, primary: Option<&str>) -> Notice {
    Notice { epoch, primary: primary.map(str::to_owned) }
}

/// Serving, following nobody.
fn standby() -> Facts {
    Facts { follows: Some((NOBODY.0.to_owned(), NOBODY.1)), offset: 1, ..Facts::default() }
}

fn following(pod: &str, link_up: bool, offset: u64) -> Facts {
    Facts { follows: Some((peer(pod).ip, 6379)), link_up, offset, ..Facts::default() }
}

fn primary_facts() -> Facts {
    Facts { is_primary: true, offset: 50, ..Facts::default() }
}

fn fresh() -> State {
    let mut state = State::new("a", 3);
    state.started("p1".to_owned());
    state
}

/// Primary by epoch 5.
fn primary() -> State {
    let mut state = fresh();
    assert_eq!(state.order(&orders(5, "p1", Role::Primary), Some(&standby())).acts, [Act::Promote]);
    state.promoted(Duration::from_secs(100));
    state
}

fn replica_of_b() -> State {
    let mut state = fresh();
    let obeyed = state.order(&orders(5, "p1", Role::Replica { of: peer("b") }), Some(&standby()));
    assert_eq!(obeyed, Obeyed { acts: vec![Act::Follow(peer("b"))], refused: None });
    state.followed(peer("b"));
    state
}

// Primary by epoch 5 in process p1.
#[rstest]
#[case::the_same_again(5, "p1", Role::Primary, vec![Act::Promote], None, Played::Primary)]
#[case::a_newer_grant(6, "p1", Role::Primary, vec![Act::Promote], None, Played::Primary)]
#[case::older(4, "p1", Role::Primary, vec![], Some("StaleEpoch"), Played::Primary)]
#[case::older_standby(4, "p1", Role::Standby, vec![], Some("StaleEpoch"), Played::Primary)]
#[case::another_process(5, "p0", Role::Primary, vec![], Some("OtherProcess"), Played::Primary)]
#[case::another_process_but_a_newer_epoch(6, "p0", Role::Standby, vec![Act::RefuseWrites], Some("OtherProcess"), Played::Standby)]
#[case::standby(6, "p1", Role::Standby, vec![Act::RefuseWrites, Act::RefuseWrites], None, Played::Standby)]
#[case::standby_of_the_same_epoch(5, "p1", Role::Standby, vec![Act::RefuseWrites], None, Played::Standby)]
#[case::replica(6, "p1", Role::Replica { of: peer("b") }, vec![Act::RefuseWrites, Act::Follow(peer("b"))], None, Played::Standby)]
#[case::replica_of_the_same_epoch(5, "p1", Role::Replica { of: peer("b") }, vec![Act::RefuseWrites, Act::Follow(peer("b"))], None, Played::Standby)]
#[case::hand_over(5, "p1", Role::HandOver { to: peer("b") }, vec![Act::HandOver(peer("b"))], None, Played::Primary)]
fn orders_to_a_primary(
    #[case] epoch: u64,
    #[case] process: &str,
    #[case] role: Role,
    #[case] acts: Vec<Act>,
    #[case] refused: Option<&str>,
    #[case] played: Played,
) {
    let mut state = primary();
    let obeyed = state.order(&orders(epoch, process, role), Some(&primary_facts()));
    assert_eq!((obeyed.acts, obeyed.refused.map(|why| why.reason), state.played()), (acts, refused, played));
    assert_eq!(state.notice().epoch, epoch.max(5));
}

#[rstest]
#[case::silent(None)]
#[case::loading(Some(Facts { loading: true, ..standby() }))]
#[case::half_copied(Some(Facts { syncing: true, ..standby() }))]
fn no_grant_for_who_cannot_serve(#[case] facts: Option<Facts>) {
    let mut state = fresh();
    let obeyed = state.order(&orders(5, "p1", Role::Primary), facts.as_ref());
    assert_eq!((obeyed.acts, obeyed.refused.map(|why| why.reason)), (vec![], Some("NotServing")));
    assert_eq!(state.notice(), notice(5, Some("a")), "but the decision is known");
}

#[test]
fn a_grant_is_true_only_once_redis_has_obeyed() {
    let mut state = fresh();
    state.order(&orders(5, "p1", Role::Primary), Some(&standby()));
    assert_eq!(state.played(), Played::Standby);
}

#[test]
fn a_grant_ends_with_the_process() {
    let mut state = primary();
    state.ended();
    assert_eq!(state.played(), Played::Standby);
    assert_eq!(state.order(&orders(5, "p1", Role::Primary), None).refused.map(|why| why.reason), Some("NotServing"));
    state.started("p2".to_owned());
    let again = state.order(&orders(5, "p1", Role::Primary), Some(&standby()));
    assert_eq!((again.acts, again.refused.map(|why| why.reason)), (vec![], Some("OtherProcess")));
    let standing = state.standing(Some(&standby()));
    assert_eq!((standing.role, standing.epoch, standing.in_sync_once), (Played::Standby, 5, false));
    assert_eq!(state.peers().len(), 2, "peers are known still");
}

#[rstest]
#[case::newer_and_another(6, Some("b"), Played::Standby)]
#[case::newer_and_not_chosen_yet(6, None, Played::Standby)]
#[case::newer_and_it_itself(6, Some("a"), Played::Primary)]
#[case::same(5, None, Played::Primary)]
#[case::same_naming_another(5, Some("b"), Played::Primary)]
#[case::older(4, Some("b"), Played::Primary)]
fn notices_to_a_primary(#[case] epoch: u64, #[case] named: Option<&str>, #[case] played: Played) {
    let mut state = primary();
    let act = state.learn(&notice(epoch, named));
    assert_eq!(act, (played == Played::Standby).then_some(Act::RefuseWrites));
    assert_eq!((state.played(), state.notice().epoch), (played, epoch.max(5)));
}

#[test]
fn a_replica_that_hears_of_a_newer_epoch_waits_for_orders() {
    let mut state = replica_of_b();
    assert_eq!(state.learn(&notice(6, None)), None);
    assert_eq!((state.played(), state.notice()), (Played::Replica, notice(6, None)));
    assert_eq!(state.learn(&notice(6, Some("c"))), None);
    assert_eq!(state.notice(), notice(6, Some("c")), "who was chosen is learned later");
    assert_eq!(state.learn(&notice(6, Some("b"))), None);
    assert_eq!(state.notice(), notice(6, Some("c")));
}

#[test]
fn hand_over_is_remembered_in_its_epoch() {
    let mut state = primary();
    state.hand_over = Some(HandOver { to: peer("b"), paused_at: Duration::ZERO });
    let again = state.order(&orders(5, "p1", Role::HandOver { to: peer("b") }), Some(&primary_facts()));
    assert_eq!(again, Obeyed::default(), "the same is under way");
    let other = state.order(&orders(5, "p1", Role::HandOver { to: peer("c") }), Some(&primary_facts()));
    assert_eq!(other.refused.map(|why| why.reason), Some("Failed"));
    assert_eq!(state.handed_over(), Act::RefuseWrites);
    assert_eq!(state.standing(None).handed_over_to.as_deref(), Some("b"));
    let again = state.order(&orders(5, "p1", Role::HandOver { to: peer("b") }), Some(&standby()));
    assert_eq!(again, Obeyed::default(), "it is done already");
    state.learn(&notice(6, None));
    assert_eq!(state.standing(None).handed_over_to, None);
}

// Somebody saw it stand by and made another primary; then a grant from before arrives late.
#[rstest]
#[case::after_a_hand_over(|state: &mut State| { state.hand_over = Some(HandOver { to: peer("b"), paused_at: Duration::ZERO }); state.handed_over(); })]
#[case::after_orders(|state: &mut State| { state.order(&orders(5, "p1", Role::Standby), Some(&primary_facts())); })]
#[case::after_a_client_of_redis(|state: &mut State| { state.observe(&following("c", true, 9)); })]
fn a_grant_that_it_stood_down_from_is_never_taken_again(#[case] stand_down: fn(&mut State)) {
    let mut state = primary();
    stand_down(&mut state);
    assert_eq!(state.played(), Played::Standby);
    let late = state.order(&orders(5, "p1", Role::Primary), Some(&standby()));
    assert_eq!((late.acts, late.refused.map(|why| why.reason)), (vec![], Some("StaleEpoch")));
    assert_eq!(state.order(&orders(6, "p1", Role::Primary), Some(&standby())).acts, [Act::Promote]);
}

#[test]
fn a_primary_that_was_replaced_by_an_epoch_may_be_chosen_in_it() {
    let mut state = primary();
    state.learn(&notice(6, None));
    assert_eq!(state.order(&orders(6, "p1", Role::Standby), Some(&standby())).refused, None);
    assert_eq!(state.order(&orders(6, "p1", Role::Primary), Some(&standby())).acts, [Act::Promote]);
    state.promoted(Duration::from_secs(200));
    // Named again by a newer epoch, it is primary by that one.
    state.learn(&notice(7, Some("a")));
    state.step_down();
    let late = state.order(&orders(7, "p1", Role::Primary), Some(&standby()));
    assert_eq!(late.refused.map(|why| why.reason), Some("StaleEpoch"));
}

#[test]
fn a_hand_over_that_failed_may_be_tried_again() {
    let mut state = primary();
    state.hand_over = Some(HandOver { to: peer("b"), paused_at: Duration::ZERO });
    state.gave_up_hand_over("too slow".to_owned());
    assert_eq!((state.played(), state.standing(None).hand_over_failed.as_deref()), (Played::Primary, Some("too slow")));
    let again = state.order(&orders(5, "p1", Role::HandOver { to: peer("b") }), Some(&primary_facts()));
    assert_eq!(again.acts, [Act::HandOver(peer("b"))]);
    assert_eq!(state.standing(None).hand_over_failed, None);
}

#[test]
fn who_is_not_primary_has_nothing_to_hand_over() {
    let mut state = replica_of_b();
    let obeyed = state.order(&orders(5, "p1", Role::HandOver { to: peer("b") }), Some(&following("b", true, 9)));
    assert_eq!(obeyed.refused.map(|why| why.reason), Some("Failed"));
}

#[test]
fn only_a_primary_fences_itself() {
    let (long, limit, contacts) = (Duration::from_secs(1000), Duration::from_secs(15), Contacts::default());
    assert!(!replica_of_b().must_fence(long, limit, &contacts));
    assert!(!fresh().must_fence(long, limit, &contacts));
    let mut state = primary();
    assert!(!state.must_fence(Duration::from_secs(114), limit, &contacts));
    assert!(state.must_fence(Duration::from_secs(115), limit, &contacts));
    assert_eq!(state.fence(Duration::from_secs(115)), Act::RefuseWrites);
    state.ended();
    assert_eq!(state.played(), Played::Fenced, "until it is started again");
    assert!(!state.may_start(&contacts));
    assert_eq!(state.order(&orders(5, "p1", Role::Primary), None).refused.map(|why| why.reason), Some("NotServing"));
    let contacts = Contacts { object: Some(Duration::from_secs(116)), ..Contacts::default() };
    assert!(state.may_start(&contacts));
    state.started("p2".to_owned());
    assert_eq!(state.played(), Played::Standby);
}

#[test]
fn what_a_replica_has_is_whole_from_its_first_sync_on_until_another_begins() {
    let mut state = replica_of_b();
    let whole = |state: &mut State, facts: &Facts| {
        state.observe(facts);
        state.standing(Some(facts)).in_sync_once
    };
    assert!(!whole(&mut state, &following("b", false, 1)));
    assert!(!whole(&mut state, &Facts { syncing: true, ..following("b", false, 1) }));
    assert!(!whole(&mut state, &following("c", true, 10)), "in sync, but not with whom it was told");
    assert!(whole(&mut state, &following("b", true, 10)));
    assert!(whole(&mut state, &following("b", false, 10)), "a link that is down takes nothing away");
    assert!(!whole(&mut state, &Facts { syncing: true, ..following("b", false, 10) }));
    assert!(whole(&mut state, &following("b", true, 20)));
    assert!(!whole(&mut state, &following("b", false, 1)), "a copy began and failed between two looks");
}

#[test]
fn a_primary_is_whole_and_stays_so_as_standby() {
    let mut state = primary();
    state.observe(&primary_facts());
    state.step_down();
    let facts = Facts { offset: 50, ..standby() };
    state.observe(&facts);
    assert!(state.standing(Some(&facts)).in_sync_once);
}

// Somebody with a client ordered Redis about.
#[rstest]
#[case::standby_made_primary(fresh(), primary_facts(), Some(Act::RefuseWrites))]
#[case::standby_made_replica(fresh(), following("c", true, 9), Some(Act::RefuseWrites))]
#[case::standby(fresh(), standby(), None)]
#[case::replica_made_primary(replica_of_b(), primary_facts(), Some(Act::Follow(peer("b"))))]
#[case::replica_of_another(replica_of_b(), following("c", true, 9), Some(Act::Follow(peer("b"))))]
#[case::replica(replica_of_b(), following("b", false, 9), None)]
#[case::primary_made_replica(primary(), following("c", true, 9), Some(Act::RefuseWrites))]
#[case::primary(primary(), primary_facts(), None)]
fn redis_is_put_right(#[case] mut state: State, #[case] facts: Facts, #[case] expected: Option<Act>) {
    assert_eq!(state.observe(&facts), expected);
    if facts.follows.is_some() {
        assert_ne!(state.played(), Played::Primary);
    }
}

#[test]
fn what_was_loaded_at_the_start_is_kept() {
    let mut state = fresh();
    state.observe(&Facts { loading: true, loaded: Some((0, 0)), ..standby() });
    state.observe(&Facts { loaded: Some((7, 2)), ..standby() });
    state.observe(&Facts { loaded: Some((9, 0)), ..standby() });
    let standing = state.standing(None);
    assert_eq!((standing.keys_loaded, standing.keys_expired), (Some(7), Some(2)));
}

#[rstest]
#[case(Standing { role: Played::Primary, serving: true, ..Standing::default() }, Ok(()))]
#[case(Standing { role: Played::Primary, serving: false, ..Standing::default() }, Err("Redis does not answer"))]
#[case(Standing { role: Played::Primary, loading: true, ..Standing::default() }, Err("loading"))]
#[case(Standing { role: Played::Replica, serving: true, link_up: true, ..Standing::default() }, Ok(()))]
#[case(Standing { role: Played::Replica, serving: true, ..Standing::default() }, Err("the link to the primary is down"))]
#[case(Standing { role: Played::Standby, serving: true, ..Standing::default() }, Err("standby"))]
#[case(Standing { role: Played::Fenced, ..Standing::default() }, Err("fenced"))]
fn ready_is_who_serves(#[case] standing: Standing, #[case] expected: Result<(), &str>) {
    assert_eq!(readiness(&standing), expected);
}
