//! An instance's days: standing by, granted, following, restarted.

use http::StatusCode;
use redkeep_core::managed::{Played, Role};
use redkeep_testing::server::Version;
use rstest::rstest;

use crate::rig::{FENCING, Rig, Setup, eventually};

const OK: StatusCode = StatusCode::OK;
const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_is_for_one_start_of_redis_and_replicas_outlive_an_emptied_primary(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let rig = Rig::start(version, 2).await;
    let [a, b] = rig.instances.as_slice() else { panic!("two instances") };
    // Standing by: no writes, not ready, but alive.
    let standing = rig.standing(0).await.unwrap();
    assert_eq!((standing.role, standing.epoch, standing.in_sync_once), (Played::Standby, 0, false));
    let server = if version == Version::Valkey81 { "valkey-8.1" } else { version.name() };
    assert!(format!("{}-{}", standing.server, standing.version).starts_with(server), "{standing:?}");
    assert!(a.redis(&["SET", "k", "v"]).await.unwrap_err().to_lowercase().contains("read"), "writes are refused");
    assert_eq!(rig.probes(0).await, (UNAVAILABLE, OK));

    // A grant for another start of Redis is none; nor is an old one.
    let refusal = rig.order_process(0, 3, "another", Role::Primary).await.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.standing.role), ("OtherProcess", Played::Standby));
    let refusal = rig.order(0, 2, Role::Primary).await.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.standing.epoch), ("StaleEpoch", 3));
    assert!(a.redis(&["SET", "k", "v"]).await.is_err());

    let granted = rig.order(0, 3, Role::Primary).await.unwrap();
    assert_eq!((granted.role, granted.process.as_str()), (Played::Primary, standing.process.as_str()));
    assert_eq!(a.redis(&["SET", "k", "v"]).await.as_deref(), Ok("OK"));
    assert_eq!(rig.probes(0).await, (OK, OK));
    rig.follow(1, 3, 0).await;
    eventually("the key at the replica", async || match b.redis(&["GET", "k"]).await {
        Ok(value) if value == "v" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(b.redis(&["SET", "k", "w"]).await.is_err());
    assert_eq!(rig.probes(1).await, (OK, OK));
    // The first replica gives the primary a new id.
    let replica = rig.standing(1).await.unwrap();
    rig.wait(0, "with the replica's id", |standing| standing.replication_id == replica.replication_id).await;
    assert_eq!((replica.keys, replica.syncing, replica.lag_seconds.is_some()), (1, false, true));

    assert_eq!(a.redis(&["SET", "l", "w"]).await.as_deref(), Ok("OK"));
    rig.wait(1, "with the second key", |standing| standing.keys == 2).await;

    // Redis is killed and comes back empty: it is primary no longer, and its replica keeps the keys.
    // (6.2 writes its own file for a replica's first copy, also with `save ""`.)
    let _ = std::fs::remove_file(a.folder.join("data/dump.rdb"));
    a.signal_redis("KILL");
    let restarted = rig.wait(0, "restarted", |it| it.serving && it.process != standing.process).await;
    assert_eq!((restarted.role, restarted.keys, restarted.in_sync_once), (Played::Standby, 0, false));
    assert!(restarted.message.as_deref().unwrap_or_default().contains("signal 9"), "{restarted:?}");
    assert_eq!(rig.order_process(0, 3, &standing.process, Role::Primary).await.unwrap_err().reason, "OtherProcess");
    assert!(a.redis(&["SET", "k", "x"]).await.is_err());
    tokio::time::sleep(FENCING).await;
    let replica = rig.standing(1).await.unwrap();
    assert_eq!((replica.keys, replica.link_up, replica.in_sync_once), (2, false, true), "{replica:?}");
    assert!(replica.offset > 1);
    assert_eq!(rig.probes(1).await, (UNAVAILABLE, OK));

    // The replica takes over, and the old primary gets its data.
    assert_eq!(rig.order(1, 4, Role::Standby).await.unwrap().role, Played::Standby);
    let standby = rig.standing(1).await.unwrap();
    assert_eq!((standby.offset, standby.replication_id), (replica.offset, replica.replication_id));
    assert!(standby.in_sync_once, "what a former replica has is whole");
    rig.order(1, 4, Role::Primary).await.unwrap();
    rig.follow(0, 4, 1).await;
    assert_eq!(a.redis(&["GET", "k"]).await.as_deref(), Ok("v"));
    assert_eq!(b.redis(&["SET", "k", "y"]).await.as_deref(), Ok("OK"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_it_saves_and_starts_with_what_it_saved(
    #[values(Version::Redis62, Version::Redis82)] version: Version,
    #[values("no", "yes")] appendonly: &str,
) {
    let conf = format!("save 3600 1 300 100\nappendonly {appendonly}\n");
    let mut rig = Rig::with(Setup { conf, ..Setup::of(version) }, 1).await;
    rig.establish().await;
    assert_eq!(
        rig.instances[0].redis(&["CONFIG", "GET", "save"]).await.map(|reply| reply.contains("3600 1 300 100")),
        Ok(true)
    );
    assert_eq!(rig.instances[0].redis(&["MSET", "a", "1", "b", "2"]).await.as_deref(), Ok("OK"));
    rig.instances[0].signal("TERM");
    assert_eq!(rig.instances[0].ended().await, Some(0));
    rig.instances[0].start();
    let standing = rig.wait(0, "standing by with its keys", |standing| standing.serving && standing.keys == 2).await;
    assert_eq!((standing.role, standing.epoch), (Played::Standby, 1), "the epoch is read from the object");
    if version == Version::Redis82 && appendonly == "no" {
        assert_eq!((standing.keys_loaded, standing.keys_expired), (Some(2), Some(0)));
    }
    assert_eq!(
        std::fs::metadata(rig.path().join("cart-0/run/redis.conf"))
            .map(|it| { std::os::unix::fs::PermissionsExt::mode(&it.permissions()) & 0o777 })
            .unwrap(),
        0o600
    );
}

// Of the servers of the tests only Debian's has TLS.
#[rstest]
#[case(Version::Redis62, false)]
#[case(Version::Redis70, true)]
#[case(Version::Redis82, false)]
#[case(Version::Valkey81, false)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_and_tls_hold_for_clients_and_replication(#[case] version: Version, #[case] tls: bool) {
    let setup = Setup { password: Some("a-b_c".to_owned()), tls, ..Setup::of(version) };
    let rig = Rig::with(setup, 2).await;
    rig.establish().await;
    let [a, b] = rig.instances.as_slice() else { panic!("two instances") };
    assert_eq!(a.redis(&["SET", "k", "v"]).await.as_deref(), Ok("OK"));
    eventually("the key at the replica", async || match b.redis(&["GET", "k"]).await {
        Ok(value) if value == "v" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let plain = redis::Client::open(format!("redis://127.0.0.1:{}", a.redis_port)).unwrap();
    let mut open = match (plain.get_multiplexed_async_connection().await, tls) {
        (Err(_), true) => {
            let open = redis::Client::open(format!("rediss://127.0.0.1:{}/#insecure", a.redis_port)).unwrap();
            open.get_multiplexed_async_connection().await.unwrap()
        }
        (Ok(open), false) => open,
        (connected, _) => panic!("it speaks TLS only where it should: {:?}", connected.is_ok()),
    };
    let refused = redis::cmd("GET").arg("k").query_async::<redis::Value>(&mut open).await.unwrap_err();
    assert!(refused.to_string().contains("NOAUTH") || refused.to_string().contains("uthentication"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_orders_redis_about_is_overruled() {
    // Redis closes connections that were idle for a second.
    let mut setup = Setup::of(Version::Redis70);
    setup.conf.push_str("timeout 1\n");
    let rig = Rig::with(setup, 2).await;
    rig.establish().await;
    let [a, b] = rig.instances.as_slice() else { panic!("two instances") };
    assert_eq!(b.redis(&["REPLICAOF", "NO", "ONE"]).await.as_deref(), Ok("OK"));
    eventually("the replica to refuse writes again", async || match b.redis(&["SET", "k", "v"]).await {
        Err(_) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    rig.wait(1, "following again", |standing| standing.role == Played::Replica && standing.link_up).await;
    assert!(a.redis(&["REPLICAOF", "127.0.0.1", "2"]).await.is_ok());
    let process = rig.standing(0).await.unwrap().process;
    let standing = rig.wait(0, "no primary any longer", |standing| standing.role == Played::Standby).await;
    assert_eq!(standing.process, process, "for that Redis need not be killed");
}
