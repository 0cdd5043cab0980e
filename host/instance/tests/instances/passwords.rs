//! A password that is exchanged in its Secret: nothing restarts, nobody is locked out, and in the end only the new one is taken.

use redkeep_testing::server::Version;
use rstest::rstest;

use crate::rig::{Instance, Rig, Setup, eventually};

/// One command of a client with that password.
async fn ask(instance: &Instance, password: &str, words: &[&str]) -> Result<String, String> {
    let url = format!("redis://:{password}@127.0.0.1:{}", instance.redis_port);
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.map_err(|error| error.to_string())?;
    let reply: redis::Value =
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.map_err(|error| error.to_string())?;
    Ok(format!("{reply:?}"))
}

/// The kubelet of its node brings another password.
fn bring(instance: &Instance, password: &str) {
    std::fs::write(instance.folder.join("auth/password"), password).unwrap();
}

async fn takes(instance: &Instance, password: &str) {
    eventually(&format!("{} to take {password}", instance.pod), async || ask(instance, password, &["PING"]).await)
        .await;
}

async fn refuses(instance: &Instance, password: &str) {
    eventually(&format!("{} to refuse {password}", instance.pod), async || {
        match ask(instance, password, &["PING"]).await {
            Err(error) if error.contains("WRONGPASS") || error.contains("assword authentication failed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Ends the replica's connection, and waits until it has found back and has a new key.
async fn finds_back(rig: &Rig, password: &str, key: &str) {
    let [primary, replica] = rig.instances.as_slice() else { panic!("two instances") };
    ask(primary, password, &["CLIENT", "KILL", "TYPE", "replica"]).await.unwrap();
    ask(primary, password, &["SET", key, "v"]).await.unwrap();
    eventually(&format!("{key} at the replica"), async || match ask(replica, password, &["GET", key]).await {
        Ok(value) if value.contains("bulk-string") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_exchanged_while_everything_goes_on(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let setup = Setup { password: Some("one".to_owned()), password_grace: 12, ..Setup::of(version) };
    let rig = Rig::with(setup, 2).await;
    rig.establish().await;
    let [primary, replica] = rig.instances.as_slice() else { panic!("two instances") };
    let before = (rig.standing(0).await.unwrap().process, rig.standing(1).await.unwrap().process);
    bring(primary, "two");
    takes(primary, "two").await;
    takes(primary, "one").await;
    finds_back(&rig, "one", "the replica does not know it yet").await;
    bring(replica, "two");
    takes(replica, "two").await;
    finds_back(&rig, "two", "both know it").await;
    refuses(primary, "one").await;
    refuses(replica, "one").await;
    finds_back(&rig, "two", "the former one is gone").await;
    let after = [rig.standing(0).await.unwrap(), rig.standing(1).await.unwrap()];
    assert_eq!((&after[0].process, &after[1].process), (&before.0, &before.1), "nothing restarted");
    assert!(after.iter().all(|it| it.refused_config.is_empty() && it.restart_for.is_empty()), "{after:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_starts_with_a_password_that_its_primary_has_not_yet_finds_it_when_it_has(
    #[values(Version::Redis62, Version::Redis82)] version: Version,
) {
    let setup = Setup { password: Some("one".to_owned()), ..Setup::of(version) };
    let mut rig = Rig::with(setup, 2).await;
    rig.establish().await;
    bring(&rig.instances[1], "two");
    rig.instances[1].signal("TERM");
    assert_eq!(rig.instances[1].ended().await, Some(0));
    rig.instances[1].start();
    rig.wait(1, "started again", |it| it.serving).await;
    let of = rig.instances[0].peer();
    rig.order(1, 1, redkeep_core::managed::Role::Replica { of }).await.unwrap();
    let cut_off = rig.wait(1, "waiting for its primary", |it| it.role.as_str() == "replica").await;
    assert!(!cut_off.link_up, "{cut_off:?}");
    bring(&rig.instances[0], "two");
    rig.wait(1, "in sync", |it| it.link_up && it.in_sync_once).await;
    // Its primary starts anew: it takes both still, and shows neither.
    let first = rig.standing(0).await.unwrap().process;
    rig.instances[0].signal_redis("KILL");
    rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    takes(&rig.instances[0], "one").await;
    takes(&rig.instances[0], "two").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_end_only_the_new_one_is_taken(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(true, false)] restarts: bool,
) {
    let setup = Setup { password: Some("one".to_owned()), password_grace: 8, ..Setup::of(version) };
    let rig = Rig::with(setup, 1).await;
    rig.establish().await;
    let instance = &rig.instances[0];
    bring(instance, "two");
    takes(instance, "two").await;
    let (now, former) = if restarts {
        let first = rig.standing(0).await.unwrap().process;
        instance.signal_redis("KILL");
        rig.wait(0, "started again", |it| it.serving && it.process != first).await;
        takes(instance, "one").await;
        ("two", "one")
    } else {
        // Exchanged back.
        bring(instance, "one");
        takes(instance, "two").await;
        ("one", "two")
    };
    ask(instance, now, &["ACL", "SETUSER", "default", ">by-hand"]).await.unwrap();
    refuses(instance, former).await;
    refuses(instance, "by-hand").await;
    takes(instance, now).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_holds_no_password_any_more_opens_nothing_and_is_said() {
    let setup = Setup { password: Some("one".to_owned()), ..Setup::of(Version::Redis70) };
    let rig = Rig::with(setup, 1).await;
    rig.establish().await;
    bring(&rig.instances[0], "\n");
    let said = rig.wait(0, "the complaint", |it| !it.refused_config.is_empty()).await;
    assert!(said.refused_config["requirepass"].contains("holds a password"), "{said:?}");
    takes(&rig.instances[0], "one").await;
    let plain = redis::Client::open(format!("redis://127.0.0.1:{}", rig.instances[0].redis_port)).unwrap();
    let mut open = plain.get_multiplexed_async_connection().await.unwrap();
    assert!(redis::cmd("PING").query_async::<redis::Value>(&mut open).await.is_err());
    let first = said.process;
    rig.instances[0].signal_redis("KILL");
    rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    takes(&rig.instances[0], "one").await;
    bring(&rig.instances[0], "two");
    takes(&rig.instances[0], "two").await;
    rig.wait(0, "no complaint", |it| it.refused_config.is_empty()).await;
}
