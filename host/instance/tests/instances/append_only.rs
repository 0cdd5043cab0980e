//! `appendonly` that changes: by itself Redis would start without what is in the file that it is told not to read.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use redkeep_core::managed::Role;
use redkeep_testing::server::Version;
use rstest::rstest;

use crate::rig::{Instance, Rig, Setup, eventually};

fn is_old(version: Version) -> bool {
    version == Version::Redis62
}

/// The user edits `spec.redisConfig`: the file changes, and later the orders.
fn edit(rig: &mut Rig, conf: &str) {
    conf.clone_into(&mut rig.setup.conf);
    for instance in &rig.instances {
        std::fs::write(instance.folder.join("config/redis.conf"), conf).unwrap();
    }
}

async fn save(instance: &Instance, keys: usize, size: usize) {
    let value = "x".repeat(size);
    for key in 0..keys {
        assert_eq!(instance.redis(&["SET", &format!("k{key}"), &value]).await.as_deref(), Ok("OK"));
    }
    assert_eq!(instance.redis(&["SAVE"]).await.as_deref(), Ok("OK"));
}

/// Waits until Redis has written its first append-only file.
async fn appends(instance: &Instance, file: PathBuf) {
    eventually("an append-only file", async || {
        let info = instance.redis(&["INFO", "persistence"]).await?;
        let whole = ["aof_enabled:1\r", "aof_rewrite_in_progress:0\r", "aof_rewrite_scheduled:0\r"];
        let size = std::fs::metadata(&file).map_or(0, |it| it.len());
        if whole.iter().all(|field| info.contains(field)) && size > 0 { Ok(()) } else { Err(format!("{size} {info}")) }
    })
    .await;
    assert!(instance.redis(&["CONFIG", "GET", "appendonly"]).await.unwrap().contains("yes"));
}

/// Waits until Redis appends nothing, and has written an RDB file with what it appended.
async fn appends_no_more(instance: &Instance) {
    let file = instance.folder.join("data/dump.rdb");
    eventually("an RDB file instead", async || {
        let info = instance.redis(&["INFO", "persistence"]).await?;
        let whole = ["aof_enabled:0\r", "rdb_bgsave_in_progress:0\r"].iter().all(|field| info.contains(field));
        if whole && file.is_file() { Ok(()) } else { Err(info) }
    })
    .await;
    eventually("the instance to know", async || {
        let log = instance.log();
        if log.contains("what was appended is in an RDB file") { Ok(()) } else { Err(log) }
    })
    .await;
}

async fn set(instance: &Instance, keys: &[&str]) {
    for key in keys {
        assert_eq!(instance.redis(&["SET", key, "1"]).await.as_deref(), Ok("OK"));
    }
}

/// How often the file that Redis is told not to read was loaded.
fn loads_of_append_only_files(instance: &Instance) -> usize {
    instance.log().matches("in no RDB file").count()
}

fn append_only_file(instance: &Instance, version: Version) -> PathBuf {
    let name = if is_old(version) { "appendonly.aof" } else { "appendonlydir/appendonly.aof.manifest" };
    instance.folder.join("data").join(name)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rdb_is_loaded_and_the_append_only_file_written(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(true, false)] whole_pod: bool,
) {
    let mut rig = Rig::with(Setup { conf: "save 3600 1\nappendonly no\n".to_owned(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    save(&rig.instances[0], 2, 1).await;
    let first = rig.standing(0).await.unwrap().process;
    edit(&mut rig, "save 3600 1\nAppendOnly Yes\n");
    if whole_pod {
        rig.instances[0].signal("TERM");
        assert_eq!(rig.instances[0].ended().await, Some(0));
        rig.instances[0].start();
    } else {
        rig.instances[0].signal_redis("KILL");
    }
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!(second.keys, 2, "{second:?}");
    // Nobody needs to order it.
    appends(&rig.instances[0], append_only_file(&rig.instances[0], version)).await;
    let ordered = rig.order(0, 2, Role::Primary).await.unwrap();
    assert_eq!((ordered.restart_for.len(), ordered.refused_config.len()), (0, 0), "{ordered:?}");

    // It is what the next start loads, from then on in Redis' own way.
    assert_eq!(rig.instances[0].redis(&["SET", "later", "1"]).await.as_deref(), Ok("OK"));
    std::fs::remove_file(rig.instances[0].folder.join("data/dump.rdb")).unwrap();
    rig.instances[0].signal_redis("KILL");
    let third = rig.wait(0, "started once more", |it| it.serving && it.process != second.process).await;
    assert_eq!((third.keys, third.restart_for.len()), (3, 0), "{third:?}");
    assert_eq!(rig.instances[0].log().matches("no append-only file").count(), 1);
}

/// As a claim that was filled from a backup by `aof`, whose cluster says `appendonly no`, or nothing of it; an older RDB file
/// beside it is no reason to go back.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_only_file_is_loaded_though_it_is_to_be_written_no_more(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values(true, false)] has_older_rdb: bool,
) {
    let conf = "save \"\"\nappendonly yes\nappendfsync always\n";
    let mut rig = Rig::with(Setup { conf: conf.to_owned(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    if has_older_rdb {
        save(&rig.instances[0], 1, 1).await;
    } else {
        set(&rig.instances[0], &["k0"]).await;
    }
    set(&rig.instances[0], &["k1"]).await;
    let first = rig.standing(0).await.unwrap().process;
    edit(&mut rig, if has_older_rdb { "save \"\"\nappendonly no\n" } else { "save \"\"\n" });
    rig.instances[0].signal_redis("KILL");
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!(second.keys, 2, "{second:?}");
    // Nobody needs to order it.
    appends_no_more(&rig.instances[0]).await;
    let ordered = rig.order(0, 2, Role::Primary).await.unwrap();
    assert_eq!((ordered.restart_for.len(), ordered.refused_config.len()), (0, 0), "{ordered:?}");

    // The RDB file is what the next start loads, from then on in Redis' own way.
    set(&rig.instances[0], &["later"]).await;
    assert_eq!(rig.instances[0].redis(&["SAVE"]).await.as_deref(), Ok("OK"));
    rig.instances[0].signal_redis("KILL");
    let third = rig.wait(0, "started once more", |it| it.serving && it.process != second.process).await;
    assert_eq!((third.keys, third.restart_for.len()), (3, 0), "{third:?}");
    assert_eq!(loads_of_append_only_files(&rig.instances[0]), 1);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_appending_while_it_runs_writes_an_rdb_file(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
    #[values("appendonly no\n", "")] conf: &str,
) {
    let before = "save \"\"\nappendonly yes\nappendfsync always\n";
    let mut rig = Rig::with(Setup { conf: before.to_owned(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    save(&rig.instances[0], 1, 1).await;
    set(&rig.instances[0], &["k1"]).await;
    edit(&mut rig, &format!("save \"\"\nappendfsync always\n{conf}"));
    let ordered = rig.order(0, 1, Role::Primary).await.unwrap();
    assert_eq!((ordered.restart_for.len(), ordered.refused_config.len()), (0, 0), "{ordered:?}");
    appends_no_more(&rig.instances[0]).await;
    let first = rig.standing(0).await.unwrap().process;
    rig.instances[0].signal_redis("KILL");
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!((second.keys, loads_of_append_only_files(&rig.instances[0])), (2, 0), "{second:?}");

    // What it appended then is old when it is to append again, and is not loaded although it is there.
    rig.order(0, 2, Role::Primary).await.unwrap();
    set(&rig.instances[0], &["k2"]).await;
    assert_eq!(rig.instances[0].redis(&["SAVE"]).await.as_deref(), Ok("OK"));
    assert!(append_only_file(&rig.instances[0], version).is_file());
    edit(&mut rig, before);
    rig.instances[0].signal_redis("KILL");
    let third = rig.wait(0, "started once more", |it| it.serving && it.process != second.process).await;
    assert_eq!(third.keys, 3, "{third:?}");
    appends(&rig.instances[0], append_only_file(&rig.instances[0], version)).await;
    rig.order(0, 3, Role::Primary).await.unwrap();
    set(&rig.instances[0], &["k3"]).await;
    rig.instances[0].signal_redis("KILL");
    let fourth = rig.wait(0, "started a last time", |it| it.serving && it.process != third.process).await;
    assert_eq!((fourth.keys, loads_of_append_only_files(&rig.instances[0])), (4, 0), "{fourth:?}");
}

/// Redis writes append-only files when it is asked to, whether it appends or not.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_only_file_that_somebody_had_written_once_is_not_what_was_written_last(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let mut rig = Rig::with(Setup::of(version), 1).await;
    rig.establish().await;
    set(&rig.instances[0], &["k0"]).await;
    rig.instances[0].redis(&["BGREWRITEAOF"]).await.unwrap();
    let file = append_only_file(&rig.instances[0], version);
    eventually("an append-only file", async || {
        if file.is_file() { Ok(()) } else { Err("none") }.map_err(str::to_owned)
    })
    .await;
    save(&rig.instances[0], 3, 1).await;
    let first = rig.standing(0).await.unwrap().process;
    rig.instances[0].signal_redis("KILL");
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!((second.keys, loads_of_append_only_files(&rig.instances[0])), (3, 0), "{second:?}");
    edit(&mut rig, "save \"\"\nappendonly yes\n");
    rig.instances[0].signal_redis("KILL");
    let third = rig.wait(0, "started once more", |it| it.serving && it.process != second.process).await;
    assert_eq!(third.keys, 3, "{third:?}");
    appends(&rig.instances[0], append_only_file(&rig.instances[0], version)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rdb_file_that_cannot_be_written_is_said_and_tried_again() {
    let conf = "save \"\"\nappendonly yes\nappendfsync always\n";
    let mut rig = Rig::with(Setup { conf: conf.to_owned(), ..Setup::of(Version::Redis70) }, 1).await;
    rig.establish().await;
    set(&rig.instances[0], &["k0"]).await;
    let in_the_way = rig.instances[0].folder.join("data/dump.rdb");
    std::fs::create_dir(&in_the_way).unwrap();
    edit(&mut rig, "save \"\"\n");
    rig.order(0, 1, Role::Primary).await.unwrap();
    let said = |it: &redkeep_core::managed::Standing| {
        it.message.as_ref().is_some_and(|text| text.contains("nothing is appended any more"))
    };
    let first = rig.wait(0, "the message", said).await.process;
    // Until it can be, what was appended is what the next start loads.
    rig.instances[0].signal_redis("KILL");
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!((second.keys, loads_of_append_only_files(&rig.instances[0])), (1, 1), "{second:?}");
    rig.wait(0, "the message again", said).await;
    std::fs::remove_dir(&in_the_way).unwrap();
    appends_no_more(&rig.instances[0]).await;
}

#[rstest]
#[case(Version::Redis62, "")]
#[case(Version::Redis70, "appenddirname d\n")]
#[case(Version::Redis82, "appenddirname d\n")]
#[case(Version::Valkey81, "appenddirname d\n")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_have_the_names_that_the_configuration_gives_them(#[case] version: Version, #[case] folder: &str) {
    let names = format!("save \"\"\nDbFilename \"keys.rdb\"\nappendfilename a.aof\n{folder}");
    let mut rig = Rig::with(Setup { conf: names.clone(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    save(&rig.instances[0], 2, 1).await;
    // Those are another's.
    let data = rig.instances[0].folder.join("data");
    std::fs::write(data.join("appendonly.aof"), "*1\r\n$8\r\nFLUSHALL\r\n").unwrap();
    let first = rig.standing(0).await.unwrap().process;
    edit(&mut rig, &format!("{names}appendonly yes\n"));
    rig.instances[0].signal_redis("KILL");
    let second = rig.wait(0, "started again", |it| it.serving && it.process != first).await;
    assert_eq!(second.keys, 2, "{second:?}");
    appends(&rig.instances[0], data.join(if is_old(version) { "a.aof" } else { "d/a.aof.manifest" })).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_loaded_by_half_is_not_taken_for_the_whole(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    const KEYS: usize = 30;
    let slow = "save \"\"\nrdbcompression no\nkey-load-delay 100000\n";
    let mut rig = Rig::with(Setup { conf: slow.to_owned(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    // While it loads, Redis answers every 2 MiB.
    save(&rig.instances[0], KEYS, 1 << 20).await;
    let first = rig.standing(0).await.unwrap().process;
    edit(&mut rig, &format!("{slow}appendonly yes\n"));
    rig.instances[0].signal_redis("KILL");
    let loads = rig.wait(0, "loading", |it| it.process != first && !it.process.is_empty()).await;
    eventually("a loading Redis", async || {
        let info = rig.instances[0].redis(&["INFO", "persistence"]).await?;
        if info.contains("loading:1") { Ok(()) } else { Err(info) }
    })
    .await;
    rig.order_process(0, 2, &loads.process, Role::Standby).await.unwrap();
    assert!(rig.instances[0].redis(&["INFO", "persistence"]).await.unwrap().contains("loading:1"));
    let second = rig.wait(0, "started again", |it| it.serving).await;
    assert_eq!((second.keys, &second.process), (u64::try_from(KEYS).unwrap(), &loads.process), "{second:?}");
    appends(&rig.instances[0], append_only_file(&rig.instances[0], version)).await;
    std::fs::remove_file(rig.instances[0].folder.join("data/dump.rdb")).unwrap();
    rig.instances[0].signal_redis("KILL");
    let third = rig.wait(0, "started once more", |it| it.serving && it.process != second.process).await;
    assert_eq!(third.keys, u64::try_from(KEYS).unwrap(), "{third:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_cannot_end_yet_is_told_again(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let mut rig = Rig::with(Setup { conf: "save \"\"\n".to_owned(), ..Setup::of(version) }, 1).await;
    rig.establish().await;
    for key in 0..12 {
        assert_eq!(rig.instances[0].redis(&["SET", &format!("k{key}"), "v"]).await.as_deref(), Ok("OK"));
    }
    // Microseconds: it writes its first append-only file for 3 s.
    assert!(rig.instances[0].redis(&["CONFIG", "SET", "rdb-key-save-delay", "250000"]).await.is_ok());
    edit(&mut rig, "save \"\"\nappendonly yes\n");
    rig.order(0, 1, Role::Primary).await.unwrap();
    let begun = Instant::now();
    rig.instances[0].signal("TERM");
    assert_eq!(rig.instances[0].ended().await, Some(0), "{}", rig.instances[0].log());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(rig.instances[0].log().contains("Writing initial AOF"), "{}", rig.instances[0].log());
    rig.instances[0].start();
    rig.wait(0, "with its keys", |standing| standing.serving && standing.keys == 12).await;
}
