//! A primary that may have been replaced stops.

use std::time::{Duration, Instant};

use redkeep_core::managed::{NOTICE_PATH, Notice, Orders, Played, Role};
use redkeep_testing::server::Version;

use crate::rig::{FENCING, PEER_TOKEN, Rig, Wire, eventually};

/// Whether it takes writes for so long, tried every 20 ms.
async fn writes_for(rig: &Rig, index: usize, duration: Duration) -> bool {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        if rig.instances[index].redis(&["INCR", "n"]).await.is_err() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reaches_neither_the_api_nor_every_peer_refuses_writes_within_t_and_stops() {
    let mut rig = Rig::start(Version::Redis70, 3).await;
    rig.establish().await;
    rig.instances[0].to_api.cut();
    assert!(writes_for(&rig, 0, FENCING * 3).await, "every peer is there, so it goes on");

    rig.instances[2].signal("KILL");
    let cut = Instant::now();
    let mut last = cut;
    // A client that writes as fast as it can, on a connection that it keeps.
    let mut client = rig.instances[0].client().await.unwrap();
    while redis::cmd("INCR").arg("n").query_async::<u64>(&mut client).await.is_ok() {
        last = Instant::now();
        assert!(last - cut < FENCING + Duration::from_secs(2), "it still takes writes");
    }
    assert!(last - cut > FENCING / 5, "it stopped before it had to: {:?}", last - cut);
    let fenced = rig.wait(0, "fenced", |it| it.role == Played::Fenced && it.process.is_empty()).await;
    assert!(fenced.message.unwrap().contains("neither"), "it says why");
    assert_eq!(rig.order_process(0, 1, &fenced.process, Role::Primary).await.unwrap_err().reason, "NotServing");
    assert!(rig.instances[0].redis(&["PING"]).await.is_err());
    // A replica that is cut off stays as it is.
    rig.instances[1].to_api.cut();
    tokio::time::sleep(FENCING * 2).await;
    assert_eq!(rig.standing(1).await.unwrap().role, Played::Replica);
    assert_eq!(rig.standing(0).await.unwrap().role, Played::Fenced, "nothing has changed");

    rig.instances[0].to_api.mend();
    let back = rig.wait(0, "back", |standing| standing.serving).await;
    assert_eq!((back.role, back.epoch), (Played::Standby, 1));
    assert!(rig.instances[0].redis(&["INCR", "n"]).await.is_err());
    rig.instances[2].start();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_everybody_but_one_candidate_learns_from_it() {
    let rig = Rig::start(Version::Redis82, 3).await;
    rig.establish().await;
    rig.instances[0].to_api.cut();
    // Written and told to a candidate, as at the begin of a failover; the operator does not reach the primary.
    rig.order(1, 2, Role::Standby).await.unwrap();
    let standing = rig.wait(0, "replaced", |standing| standing.role != Played::Primary).await;
    assert_eq!((standing.role, standing.epoch), (Played::Standby, 2));
    assert!(rig.instances[0].redis(&["SET", "k", "v"]).await.is_err());
    // And passes it on.
    assert_eq!(rig.notice(2, &Notice { epoch: 0, primary: None }).await.epoch, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_the_operator_reads_that_it_was_replaced() {
    let rig = Rig::start(Version::Valkey81, 2).await;
    rig.establish().await;
    // `primary` still names it while another is being chosen.
    rig.api.write(2, "cart-0", "");
    let standing = rig.wait(0, "replaced", |standing| standing.role != Played::Primary).await;
    assert_eq!((standing.role, standing.epoch), (Played::Standby, 2));
    assert!(rig.instances[0].redis(&["SET", "k", "v"]).await.is_err());
    // A replica waits for orders.
    assert_eq!(rig.wait(1, "told", |standing| standing.epoch == 2).await.role, Played::Replica);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_instance_never_stops() {
    let rig = Rig::start(Version::Redis70, 1).await;
    rig.establish().await;
    rig.instances[0].to_api.cut();
    assert!(writes_for(&rig, 0, FENCING * 3).await);
    assert_eq!(rig.standing(0).await.unwrap().role, Played::Primary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_of_no_peers_yet_is_not_lone() {
    let rig = Rig::start(Version::Redis70, 2).await;
    rig.api.write(1, "", "cart-0");
    let process = rig.standing(0).await.unwrap().process;
    let orders = Orders { epoch: 1, process, role: Role::Primary, peers: Vec::new(), config: rig.setup.config() };
    rig.send(0, &orders).await.unwrap();
    rig.instances[0].to_api.cut();
    rig.wait(0, "fenced", |standing| standing.role == Played::Fenced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hangs_is_not_reached() {
    let rig = Rig::start(Version::Redis62, 2).await;
    let wire = Wire::to(rig.instances[1].port).await;
    let mut peer = rig.instances[1].peer();
    peer.instance_port = wire.port;
    rig.api.write(1, "", "cart-0");
    let process = rig.standing(0).await.unwrap().process;
    let orders = Orders { epoch: 1, process, role: Role::Primary, peers: vec![peer], config: rig.setup.config() };
    rig.send(0, &orders).await.unwrap();
    rig.instances[0].to_api.cut();
    assert!(writes_for(&rig, 0, FENCING * 2).await, "its peer is there");
    wire.cut();
    rig.wait(0, "fenced", |standing| standing.role == Played::Fenced).await;
    wire.mend();
    let back = rig.wait(0, "back", |standing| standing.serving).await;
    assert_eq!(back.role, Played::Standby, "its only peer is every peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_redis_that_hangs_is_killed() {
    let rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    let pid = rig.instances[0].redis_pid().unwrap();
    rig.instances[0].signal_redis("STOP");
    rig.instances[0].to_api.cut();
    rig.instances[1].signal("KILL");
    rig.wait(0, "stopped", |standing| standing.process.is_empty() || standing.role == Played::Standby).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it could have gone on to take writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_killed_and_stands_by() {
    let rig = Rig::start(Version::Redis70, 1).await;
    rig.establish().await;
    let before = rig.standing(0).await.unwrap();
    rig.instances[0].signal_redis("STOP");
    let after = rig.wait(0, "restarted", |it| it.serving && it.process != before.process).await;
    assert_eq!(after.role, Played::Standby);
    assert!(after.message.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_starts_anew_has_not_forgotten_what_it_was_told() {
    let mut rig = Rig::start(Version::Redis70, 2).await;
    rig.establish().await;
    rig.order(1, 7, Role::Standby).await.unwrap();
    // The operator did not get further, and the API is gone.
    rig.instances[1].to_api.cut();
    rig.instances[1].signal("KILL");
    rig.instances[1].ended().await;
    rig.instances[1].signal_redis("KILL");
    rig.instances[1].start();
    let told = eventually("the answer of the new one", async || {
        let notice = serde_json::json!({"epoch": 1, "primary": "cart-0"});
        let (status, body) = rig.ask(1, http::Method::PUT, NOTICE_PATH, Some(PEER_TOKEN), Some(notice)).await?;
        if status.is_success() { Ok(body) } else { Err(status.to_string()) }
    })
    .await;
    let told: Notice = serde_json::from_slice(&told).unwrap();
    assert_eq!(told.epoch, 7);
}
