//! Sentinels, clusters, replicas and directories, resolved to shards; live targets described.

use std::collections::BTreeSet;

use redkeep_core::attribute::find;
use redkeep_core::manifest::SlotRange;
use redkeep_core::provider::SourceShard;
use redkeep_core::task::{EndpointSpec, NodePreference};
use redkeep_core::{Class, Classify as _};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_testing::topology::{RedisCluster, Sentinel, replicate, wait_until};
use rstest::rstest;

use crate::support::{endpoint, resolve, snapshot};

fn fact<'a>(shard: &'a SourceShard, key: &str) -> &'a str {
    find(&shard.facts, key).unwrap_or_else(|| panic!("no {key} in {:?}", shard.facts))
}

#[rstest]
#[case(Version::Redis62, "redis", "6.2.", "9")]
#[case(Version::Redis70, "redis", "7.0.15", "10")]
#[case(Version::Redis82, "redis", "8.2.3", "12")]
#[case(Version::Valkey81, "valkey", "8.1.8", "11")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_described_as_source_and_as_target(
    #[case] version: Version,
    #[case] name: &str,
    #[case] release: &str,
    #[case] rdb_version: &str,
) {
    let server = RedisServer::start(version).unwrap();
    server.command(&["SET", "a", "1"]).await.unwrap();
    let source = resolve(&server.url()).await.unwrap();
    let [shard] = source.shards() else { panic!("one shard") };
    assert_eq!((source.mode(), source.address(), shard.name.as_str()), ("standalone", server.url(), "0"));
    assert_eq!((fact(shard, "server-name"), fact(shard, "node-role")), (name, "primary"));
    assert!(fact(shard, "server-version").starts_with(release));
    assert!(fact(shard, "primary-offset").parse::<u64>().is_ok());
    source.check_topology().await.unwrap();
    let target = redkeep_redis::connect_target(&endpoint(&server.url()), None, None).await.unwrap();
    assert_eq!((target.keys, target.cluster), (1, false));
    for (key, value) in [("rdb-version", rdb_version), ("databases", "16"), ("appendonly", "no"), ("server-name", name)]
    {
        assert_eq!(find(&target.facts, key), Some(value), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_itself_with_the_offset_of_its_primary_and_is_no_target() {
    let (primary, replica) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    replicate(&replica, &primary).await.unwrap();
    primary.command(&["SET", "a", "1"]).await.unwrap();
    let before: u64 = primary.info("master_repl_offset").await.unwrap().parse().unwrap();
    let source = resolve(&replica.url()).await.unwrap();
    let shard = &source.shards()[0];
    assert_eq!(fact(shard, "node-role"), "replica");
    assert!(fact(shard, "primary-offset").parse::<u64>().unwrap() >= before);
    let refused = redkeep_redis::connect_target(&endpoint(&replica.url()), None, None).await.err().unwrap();
    assert_eq!((refused.class, refused.reason()), (Class::Refused, "TargetIsReplica"));
    assert!(refused.help.unwrap().contains(&primary.port().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_lead_to_a_replica_in_good_order_else_to_the_primary_with_a_warning() {
    let (primary, replica) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    replicate(&replica, &primary).await.unwrap();
    let sentinel = Sentinel::start(Version::Redis70, "mymaster", &primary, 1).await.unwrap();
    wait_until("the sentinel to see the replica", || async { Ok(sentinel.replicas("mymaster").await? == 1) })
        .await
        .unwrap();
    // The first Sentinel is gone; the second answers.
    let gone = redkeep_testing::server::free_port();
    let url = format!("redis-sentinel://127.0.0.1:{gone},127.0.0.1:{}/mymaster", sentinel.port());
    // A replica that a Sentinel has just heard of is not connected to it yet.
    wait_until("the sentinel to reach the replica", || async {
        Ok(resolve(&url).await?.shards()[0].node == replica.url())
    })
    .await
    .unwrap();
    let source = resolve(&url).await.unwrap();
    let shard = &source.shards()[0];
    assert_eq!(shard.warnings, Vec::<String>::new());
    assert_eq!((source.mode(), shard.node.as_str()), ("sentinel", replica.url().as_str()));
    let mut link = shard.redis.clone().unwrap().replicate(true).await.unwrap();
    assert!(snapshot(&mut *link).await.starts_with(b"REDIS"));
    let wanted = EndpointSpec { node: NodePreference::Primary, ..endpoint(&url) };
    let source = redkeep_redis::resolve(&wanted, None, None).await.unwrap();
    assert_eq!(source.shards()[0].node, primary.url());
    let target = redkeep_redis::connect_target(&endpoint(&url), None, None).await.unwrap();
    assert_eq!(
        target
            .redis
            .as_ref()
            .unwrap()
            .info(None)
            .await
            .map(|info| find(&info, "role").map(str::to_owned))
            .unwrap()
            .unwrap(),
        "master"
    );
    drop(replica);
    let source = resolve(&url).await.unwrap();
    assert_eq!(source.shards()[0].node, primary.url());
    assert_eq!(source.shards()[0].warnings.len(), 1);
    let unknown = resolve(&url.replace("mymaster", "other")).await.err().unwrap();
    assert_eq!(unknown.class, Class::NotFound);
    let no_sentinel = resolve(&format!("redis-sentinel://127.0.0.1:{}/mymaster", primary.port())).await.err().unwrap();
    assert_eq!(no_sentinel.reason(), "NotASentinel");
    let no_server = resolve(&format!("redis://127.0.0.1:{}", sentinel.port())).await.err().unwrap();
    assert_eq!(no_server.reason(), "ASentinel", "{no_server}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_its_shards_and_refused_while_slots_move_or_are_uncovered(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let cluster = RedisCluster::start(version, &[5461, 10_923], false).await.unwrap();
    let source = resolve(&cluster.url()).await.unwrap();
    let found: Vec<_> = source.shards().iter().map(|shard| (shard.node.clone(), shard.slots.clone())).collect();
    let ranges = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
    let wanted: Vec<_> = cluster
        .primaries
        .iter()
        .zip(ranges)
        .map(|(primary, (first, last))| (primary.url(), vec![SlotRange { first, last }]))
        .collect();
    assert_eq!((source.mode(), found), ("cluster", wanted));
    source.check_topology().await.unwrap();
    // Its only node is read when asked for as a server, but not without a word.
    let one = resolve(&cluster.primaries[0].url()).await.unwrap();
    assert!(one.shards()[0].warnings[0].contains("redis-cluster://"));

    let id: String =
        redis::from_redis_value(cluster.primaries[1].command(&["CLUSTER", "MYID"]).await.unwrap()).unwrap();
    let [first, second, third] = cluster.primaries.as_slice() else { panic!("three") };
    // Seen only by the node that the slot leaves, which is not the one asked first.
    third.command(&["CLUSTER", "SETSLOT", "16000", "MIGRATING", &id]).await.unwrap();
    let moving = resolve(&cluster.url()).await.err().unwrap();
    assert_eq!(moving.reason(), "SlotsMoving", "{moving}");
    assert!(moving.message.contains("16000"));
    assert!(source.check_topology().await.is_err());
    third.command(&["CLUSTER", "SETSLOT", "16000", "STABLE"]).await.unwrap();
    source.check_topology().await.unwrap();

    for node in [first, second, third] {
        node.command(&["CLUSTER", "DELSLOTS", "16000"]).await.unwrap();
    }
    wait_until("the slot to be nobody's", || async {
        Ok(resolve(&cluster.url())
            .await
            .is_err_and(|error| error.reason() == "SlotsUncovered" && error.message.contains("16000")))
    })
    .await
    .unwrap();
    let error = source.check_topology().await.unwrap_err();
    assert!(error.message.contains("16000"), "{error}");

    let alone = RedisServer::start(version).unwrap();
    let no_cluster = resolve(&format!("redis-cluster://{}", alone.address())).await.err().unwrap();
    assert_eq!(no_cluster.reason(), "NotACluster");
    let node_as_target = redkeep_redis::connect_target(&endpoint(&first.url()), None, None).await.err().unwrap();
    assert_eq!(node_as_target.reason(), "NodeOfACluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_cluster_are_preferred() {
    let cluster = RedisCluster::start(Version::Redis70, &[8192], true).await.unwrap();
    let wanted: BTreeSet<_> = cluster.replicas.iter().map(RedisServer::url).collect();
    // Nodes hear of one another's roles by gossip.
    wait_until("every node to know the replicas", || async {
        let source = resolve(&cluster.url()).await?;
        let replicas = source.shards().iter().filter(|shard| fact(shard, "node-role") == "replica");
        Ok(replicas.map(|shard| shard.node.clone()).collect::<BTreeSet<_>>() == wanted)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_directory_alone_is_a_source_and_joins_a_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dump.rdb"), "x").unwrap();
    let spec = EndpointSpec { data_dir: Some(folder.path().to_owned()), ..EndpointSpec::default() };
    let source = redkeep_redis::resolve(&spec, None, None).await.unwrap();
    let shard = &source.shards()[0];
    assert_eq!((source.mode(), fact(shard, "mode")), ("directory", "directory"));
    assert!(shard.redis.is_none());
    assert_eq!(shard.files.as_ref().unwrap().list_directory("").await.unwrap().len(), 1);
    let server = RedisServer::start(Version::Redis70).unwrap();
    let both = EndpointSpec { url: Some(server.url()), ..spec.clone() };
    let source = redkeep_redis::resolve(&both, None, None).await.unwrap();
    assert!(source.shards()[0].redis.is_some() && source.shards()[0].files.is_some());
    let nothing = redkeep_redis::resolve(&EndpointSpec::default(), None, None).await.err().unwrap();
    assert_eq!(nothing.class, Class::Usage);
    let gone = EndpointSpec { data_dir: Some("/nowhere".into()), ..EndpointSpec::default() };
    assert!(redkeep_redis::resolve(&gone, None, None).await.is_err());
}

fn nodes(servers: &[&RedisServer]) -> String {
    let list: Vec<String> = servers.iter().map(|server| server.address()).collect();
    format!("redis-nodes://{}", list.join(","))
}

#[rstest]
#[case(Version::Redis62)]
#[case(Version::Valkey81)]
#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_alone_a_replica_in_good_order_is_read_and_the_primary_written(#[case] version: Version) {
    let (primary, replica) = (RedisServer::start(version).unwrap(), RedisServer::start(version).unwrap());
    primary.command(&["SET", "a", "1"]).await.unwrap();
    replicate(&replica, &primary).await.unwrap();
    // The order in the list says nothing.
    let url = nodes(&[&replica, &primary]);
    let source = resolve(&url).await.unwrap();
    let shard = &source.shards()[0];
    assert_eq!((source.mode(), source.address(), source.shards().len()), ("nodes", url.clone(), 1));
    assert_eq!((shard.node.clone(), shard.warnings.clone()), (replica.url(), Vec::new()));
    assert_eq!(fact(shard, "node-role"), "replica");
    assert!(fact(shard, "primary-offset").parse::<u64>().is_ok());
    let mut link = shard.redis.clone().unwrap().replicate(true).await.unwrap();
    assert!(snapshot(&mut *link).await.starts_with(b"REDIS"));
    let wanted = EndpointSpec { node: NodePreference::Primary, ..endpoint(&url) };
    let source = redkeep_redis::resolve(&wanted, None, None).await.unwrap();
    assert_eq!(source.shards()[0].node, primary.url());
    let target = redkeep_redis::connect_target(&endpoint(&url), None, None).await.unwrap();
    assert_eq!((target.keys, target.cluster, target.address), (1, false, url));
    let info = target.redis.as_ref().unwrap().info(None).await.unwrap();
    assert_eq!(find(&info, "role"), Some("master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_do_not_answer_are_warnings_while_another_serves() {
    let (primary, replica) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    replicate(&replica, &primary).await.unwrap();
    let gone = format!("127.0.0.1:{}", redkeep_testing::server::free_port());
    let url = format!("{},{gone}", nodes(&[&primary, &replica]));
    let source = resolve(&url).await.unwrap();
    assert_eq!(source.shards()[0].node, replica.url());
    assert!(matches!(source.shards()[0].warnings.as_slice(), [one] if one.contains(&gone)));
    // Without its primary the replica has lost its link: it is not read, and there is no primary to write to.
    drop(primary);
    wait_until("the replica to notice", || async { Ok(replica.info("master_link_status").await? == "down") })
        .await
        .unwrap();
    let unfit = resolve(&url).await.err().unwrap();
    assert_eq!((unfit.reason, unfit.class, unfit.retryable), ("NoNodeFit", Class::Refused, true), "{unfit}");
    let no_primary = redkeep_redis::connect_target(&endpoint(&url), None, None).await.err().unwrap();
    assert_eq!(no_primary.reason, "NoPrimary");
    assert!(no_primary.message.contains(&format!("{} is a replica", replica.address())), "{no_primary}");
    // The primary alone serves, with a warning that names the others.
    replica.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    let source = resolve(&url).await.unwrap();
    assert_eq!(source.shards()[0].node, replica.url());
    assert!(source.shards()[0].warnings[0].contains(&gone), "{:?}", source.shards()[0].warnings);
    drop(replica);
    let silent = resolve(&url).await.err().unwrap();
    assert_eq!((silent.reason, silent.retryable), ("Unreachable", true), "{silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_more_than_one_dataset_are_refused_by_name() {
    let (first, second) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    let url = nodes(&[&first, &second]);
    for refused in [
        resolve(&url).await.err().unwrap(),
        redkeep_redis::connect_target(&endpoint(&url), None, None).await.err().unwrap(),
    ] {
        assert_eq!((refused.reason, refused.class), ("SeveralPrimaries", Class::Refused), "{refused}");
        assert!([&first, &second].iter().all(|server| refused.message.contains(&server.address())), "{refused}");
    }
    let (replica, other) =
        (RedisServer::start(Version::Redis70).unwrap(), RedisServer::start(Version::Redis70).unwrap());
    replicate(&replica, &first).await.unwrap();
    replicate(&other, &second).await.unwrap();
    let mixed = resolve(&nodes(&[&replica, &other])).await.err().unwrap();
    assert_eq!(mixed.reason, "SeveralDatasets", "{mixed}");
}
