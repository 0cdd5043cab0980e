//! A planned change of the primary while clients write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redkeep_core::managed::{Played, Role};
use redkeep_testing::server::Version;
use rstest::rstest;

use crate::rig::{GRACE, Instance, Rig};

/// Writes 1, 2, 3 … to a list of its own until it is refused; returns the last number that was acknowledged.
async fn writer(instance: &Instance, list: &str, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> u64 {
    let mut client = instance.client().await.unwrap();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let pushed = redis::cmd("RPUSH").arg(list).arg(number + 1).query_async::<u64>(&mut client).await;
        match pushed {
            Ok(length) => {
                number += 1;
                assert_eq!(length, number);
                count.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) if error.to_string().to_lowercase().contains("read") => break,
            Err(error) => panic!("a write failed otherwise: {error}"),
        }
    }
    number
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_by_a_hand_over(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let rig = Rig::start(version, 2).await;
    rig.establish().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = async {
        let one = |list: &'static str| writer(&rig.instances[0], list, Arc::clone(&stop), Arc::clone(&count));
        tokio::join!(one("w0"), one("w1"), one("w2"), one("w3"))
    };
    let operator = async {
        while count.load(Ordering::SeqCst) < 2000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let to = rig.instances[1].peer();
        let begun = rig.order(0, 1, Role::HandOver { to: to.clone() }).await.unwrap();
        assert!(matches!(begun.role, Played::Primary | Played::Standby));
        // The same once more, as an operator does that was started anew.
        rig.order(0, 1, Role::HandOver { to }).await.unwrap();
        let done = rig.wait(0, "handed over", |standing| standing.handed_over_to.as_deref() == Some("cart-1")).await;
        assert_eq!((done.role, done.hand_over_failed), (Played::Standby, None));
        // A grant from before the hand-over that arrives late.
        assert_eq!(rig.order(0, 1, Role::Primary).await.unwrap_err().reason, "StaleEpoch");
        rig.api.write(2, "cart-0", "");
        rig.order(1, 2, Role::Standby).await.unwrap();
        rig.order(1, 2, Role::Primary).await.unwrap();
    };
    let (written, ()) = tokio::join!(writers, operator);
    for (list, last) in [("w0", written.0), ("w1", written.1), ("w2", written.2), ("w3", written.3)] {
        assert!(last > 0);
        assert_eq!(rig.instances[1].redis(&["LLEN", list]).await, Ok(last.to_string()), "{version:?} {list}");
    }
    // Without another full copy: what the old primary has is a beginning of what the new one has.
    let full = |info: &str| info.lines().find_map(|line| line.strip_prefix("sync_full:").map(str::to_owned));
    rig.follow(0, 2, 1).await;
    let info = rig.instances[1].redis(&["INFO", "stats"]).await.unwrap();
    assert_eq!(full(&info.replace('\r', "")), Some("0".to_owned()), "{version:?}");
    assert_eq!(rig.instances[0].redis(&["LLEN", "w0"]).await, Ok(written.0.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_waits_for_a_replica_that_is_behind() {
    let rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = writer(&rig.instances[0], "w", Arc::clone(&stop), Arc::clone(&count));
    let operator = async {
        let wrote = async |number: u64| {
            while count.load(Ordering::SeqCst) < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        wrote(100).await;
        rig.instances[1].signal_redis("STOP");
        wrote(count.load(Ordering::SeqCst) + 500).await;
        rig.order(0, 1, Role::HandOver { to: rig.instances[1].peer() }).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.standing(0).await.unwrap().role, Played::Primary, "the replica has not everything");
        rig.instances[1].signal_redis("CONT");
        rig.wait(0, "handed over", |standing| standing.handed_over_to.as_deref() == Some("cart-1")).await;
        rig.order(1, 2, Role::Standby).await.unwrap();
        rig.order(1, 2, Role::Primary).await.unwrap();
    };
    let (written, ()) = tokio::join!(writers, operator);
    assert_eq!(rig.instances[1].redis(&["LLEN", "w"]).await, Ok(written.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_to_a_replica_that_does_not_get_there_is_given_up_and_writes_go_on() {
    let rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    rig.instances[1].signal_redis("STOP");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = writer(&rig.instances[0], "w", Arc::clone(&stop), Arc::clone(&count));
    let operator = async {
        while count.load(Ordering::SeqCst) < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.order(0, 1, Role::HandOver { to: rig.instances[1].peer() }).await.unwrap();
        let before = count.load(Ordering::SeqCst);
        let failed = rig.wait(0, "given up", |standing| standing.hand_over_failed.is_some()).await;
        assert_eq!((failed.role, failed.handed_over_to), (Played::Primary, None));
        assert!(failed.hand_over_failed.unwrap().contains("within 10 s"));
        while count.load(Ordering::SeqCst) < before + 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (written, ()) = tokio::join!(writers, operator);
    rig.instances[1].signal_redis("CONT");
    assert_eq!(rig.instances[0].redis(&["LLEN", "w"]).await, Ok(written.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_to_who_does_not_follow_is_refused_without_a_pause() {
    let rig = Rig::start(Version::Redis82, 2).await;
    rig.api.write(1, "", "cart-0");
    rig.order(0, 1, Role::Primary).await.unwrap();
    let refusal = rig.order(0, 1, Role::HandOver { to: rig.instances[1].peer() }).await.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("Failed", "cart-1 does not follow"));
    assert_eq!(refusal.standing.hand_over_failed.as_deref(), Some("cart-1 does not follow"));
    assert_eq!(rig.instances[0].redis(&["SET", "k", "v"]).await.as_deref(), Ok("OK"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_to_end_hands_over_first_and_loses_nothing(
    #[values(Version::Redis62, Version::Redis82)] version: Version,
) {
    let mut rig = Rig::start(version, 2).await;
    rig.establish().await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = async {
        let one = |list: &'static str| writer(&rig.instances[0], list, Arc::clone(&stop), Arc::clone(&count));
        tokio::join!(one("w0"), one("w1"), one("w2"), one("w3"))
    };
    let operator = async {
        let wrote = async |number: u64| {
            while count.load(Ordering::SeqCst) < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        wrote(500).await;
        rig.instances[0].signal("TERM");
        rig.wait(0, "about to end", |standing| standing.ending && standing.role == Played::Primary).await;
        rig.instances[0].signal("TERM");
        wrote(count.load(Ordering::SeqCst) + 500).await;
        // The same grant once more is no new one.
        rig.order(0, 1, Role::Primary).await.unwrap();
        rig.order(0, 1, Role::HandOver { to: rig.instances[1].peer() }).await.unwrap();
        rig.wait(0, "handed over", |standing| standing.handed_over_to.as_deref() == Some("cart-1")).await;
        assert_eq!(rig.order(0, 2, Role::Primary).await.unwrap_err().reason, "NotServing", "it takes no grant");
        rig.api.write(2, "cart-0", "cart-1");
        rig.order(1, 2, Role::Standby).await.unwrap();
        rig.order(1, 2, Role::Primary).await.unwrap();
    };
    let (written, ()) = tokio::join!(writers, operator);
    for (list, last) in [("w0", written.0), ("w1", written.1), ("w2", written.2), ("w3", written.3)] {
        assert!(last > 0);
        assert_eq!(rig.instances[1].redis(&["LLEN", list]).await, Ok(last.to_string()), "{version:?} {list}");
    }
    assert_eq!(rig.instances[0].ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_primary_that_is_to_end_stays_until_its_hand_over_was_noticed() {
    let mut rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    // Its replica has acknowledged all: the hand-over is done as soon as it begins.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rig.instances[0].signal("TERM");
    rig.wait(0, "about to end", |standing| standing.ending && standing.role == Played::Primary).await;
    rig.order(0, 1, Role::HandOver { to: rig.instances[1].peer() }).await.unwrap();
    rig.wait(0, "handed over", |standing| standing.handed_over_to.as_deref() == Some("cart-1")).await;
    // The operator looks each second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    rig.wait(0, "there still", |standing| standing.ending && standing.handed_over_to.as_deref() == Some("cart-1"))
        .await;
    rig.api.write(2, "cart-0", "cart-1");
    rig.order(1, 2, Role::Standby).await.unwrap();
    rig.order(1, 2, Role::Primary).await.unwrap();
    assert_eq!(rig.instances[0].ended().await, Some(0));
}

#[rstest]
#[case::nobody_asks(false)]
#[case::its_cluster_is_deleted(true)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_to_end_does_not_wait_for_ever(#[case] is_deleted: bool) {
    let mut rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    let told = Instant::now();
    rig.instances[0].signal("TERM");
    rig.wait(0, "about to end", |standing| standing.ending).await;
    assert_eq!(rig.instances[0].redis(&["SET", "k", "v"]).await.as_deref(), Ok("OK"));
    if is_deleted {
        rig.api.delete();
    }
    assert_eq!(rig.instances[0].ended().await, Some(0));
    let waited = told.elapsed();
    assert_eq!(waited < GRACE / 4, is_deleted, "{waited:?}");
    assert!(waited < GRACE, "{waited:?}");
    assert_eq!(rig.instances[1].redis(&["GET", "k"]).await.as_deref(), Ok("v"));
}
