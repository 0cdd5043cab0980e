//! Every form of source against an API in memory.

use super::*;
use crate::testing::FakeApi;
use rstest::rstest;
use serde_json::{Value, json};

fn cluster(phase: &str) -> Value {
    json!({"apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": "carts", "namespace": "shop"},
        "spec": {"instances": 3, "imageName": "redis:7.2", "storage": {"size": "10Gi"}, "backupCredentialsSecret": {"name": "keys"}},
        "status": {"phase": phase, "authSecret": {"name": "carts-auth"}}})
}

fn slice(service: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
    "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
    "endpoints": [
        {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
        {"addresses": ["10.0.0.1"], "conditions": {}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
    ]})
}

fn pod(name: &str, address: &str, owner: &str, ready: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "redis"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "redis", "uid": owner}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]}})
}

async fn of(fake: &FakeApi, source: Value) -> Result<SourceAccess, Unresolved> {
    let source: RedisEndpoint = serde_json::from_value(source).unwrap();
    resolve(&fake.client(), "shop", None, Some(&source), NodePreference::Primary).await
}

#[tokio::test]
async fn a_cluster_is_read_when_it_serves_and_brings_its_credentials() {
    let fake = FakeApi::new();
    let read = || async { resolve(&fake.client(), "shop", Some("carts"), None, NodePreference::PreferReplica).await };
    assert_eq!(read().await.unwrap_err().reason_word(), reasons::CLUSTER_NOT_FOUND);
    fake.put(cluster("Creating"));
    assert_eq!(read().await.unwrap_err().reason_word(), reasons::CLUSTER_NOT_READY);
    fake.put(cluster("Degraded"));
    assert_eq!(read().await.unwrap_err().reason_word(), reasons::SOURCE_NOT_FOUND);
    fake.put(slice("carts-r"));
    let access = read().await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("redis-nodes://10.0.0.1:6379,10.0.0.2:6379"));
    assert_eq!(access.cluster, "carts");
    assert_eq!(access.credentials.unwrap().name, "keys");
    assert_eq!(access.mounts, [Mount::secret("carts-auth", "/redis-auth")]);
}

#[tokio::test]
async fn a_cluster_that_was_never_whole_is_read_when_its_primary_serves() {
    let fake = FakeApi::new();
    fake.put(slice("carts-r"));
    let read = || async { resolve(&fake.client(), "shop", Some("carts"), None, NodePreference::PreferReplica).await };
    let mut creating = cluster("Creating");
    let mut ready = |status: &str| {
        creating["status"]["conditions"] = json!([{"type": "Ready", "status": status, "reason": "Degraded", "message": "",
            "lastTransitionTime": "2026-11-27T12:00:00Z"}]);
        fake.put(creating.clone());
    };
    ready("False");
    assert_eq!(read().await.unwrap_err().reason_word(), reasons::CLUSTER_NOT_READY);
    ready("True");
    assert!(read().await.is_ok());
}

#[rstest]
#[case::made(json!({}), Some(("/redis-auth/password", "carts-auth")))]
#[case::named(json!({"secret": {"name": "mine", "key": "word"}}), Some(("/redis-auth/word", "mine")))]
#[case::none_whatever_the_status_says(json!({"enabled": false}), None)]
#[tokio::test]
async fn the_password_of_a_cluster_is_as_its_spec_says(#[case] auth: Value, #[case] expected: Option<(&str, &str)>) {
    let fake = FakeApi::new();
    fake.put(slice("carts-r"));
    let mut cluster = cluster("Healthy");
    cluster["spec"]["auth"] = auth;
    fake.put(cluster);
    let access = resolve(&fake.client(), "shop", Some("carts"), None, NodePreference::PreferReplica).await.unwrap();
    let (password, secret) = expected.unzip();
    assert_eq!(access.endpoint.password, password.map(|path| SecretRef::File(path.into())));
    assert_eq!(access.mounts, secret.map(|name| Mount::secret(name, "/redis-auth")).into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replica_is_offered_as_soon_as_the_status_calls_it_ready() {
    let fake = FakeApi::new();
    let mut new = cluster("Healthy");
    new["status"]["members"] =
        json!([{"name": "carts-0", "ready": true}, {"name": "carts-1", "ready": true}, {"name": "carts-2"}]);
    fake.put(new);
    let mut slice = slice("carts-r");
    let endpoint = |number: usize, serving: bool, terminating: bool| {
        json!({"addresses": [format!("10.0.0.{number}")], "targetRef": {"kind": "Pod", "name": format!("carts-{number}")},
            "conditions": {"ready": true, "serving": serving, "terminating": terminating}})
    };
    slice["endpoints"] = json!([endpoint(0, true, false), endpoint(1, false, false), endpoint(2, false, false)]);
    fake.put(slice.clone());
    let read = || async { resolve(&fake.client(), "shop", Some("carts"), None, NodePreference::PreferReplica).await };
    assert_eq!(read().await.unwrap().endpoint.url.as_deref(), Some("redis-nodes://10.0.0.0:6379,10.0.0.1:6379"));
    slice["endpoints"][1] = endpoint(1, false, true);
    fake.put(slice);
    assert_eq!(read().await.unwrap().endpoint.url.as_deref(), Some("redis-nodes://10.0.0.0:6379"), "it is going away");
}

#[tokio::test]
async fn of_a_cluster_with_tls_the_names_are_asked_of_pods_that_serve() {
    let fake = FakeApi::new();
    let mut with_tls = cluster("Degraded");
    with_tls["spec"]["tls"] = json!({"secret": {"name": "carts-tls"}});
    fake.put(with_tls);
    let mut slice = slice("carts-r");
    // The headless Service shows pods before they are ready: `ready` says nothing, `serving` does.
    slice["endpoints"] = json!([
        {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true}, "targetRef": {"kind": "Pod", "name": "carts-0"}},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": true, "serving": false}, "targetRef": {"kind": "Pod", "name": "carts-1"}},
    ]);
    fake.put(slice);
    let access = resolve(&fake.client(), "shop", Some("carts"), None, NodePreference::PreferReplica).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("rediss-nodes://carts-0.carts-r.shop.svc:6379"));
}

#[tokio::test]
async fn a_service_is_its_ready_pods() {
    let fake = FakeApi::new();
    fake.put(slice("redis"));
    let access = of(&fake, json!({"service": {"name": "redis", "port": 6380}})).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("redis-nodes://10.0.0.1:6380,10.0.0.2:6380"));
    let access = of(&fake, json!({"service": {"name": "redis"}, "mode": "cluster", "tls": {}})).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("rediss-cluster://10.0.0.1:6379,10.0.0.2:6379"));
}

#[tokio::test]
async fn a_stateful_set_is_its_own_ready_pods() {
    let fake = FakeApi::new();
    assert!(of(&fake, json!({"statefulSet": {"name": "redis"}})).await.is_err());
    fake.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "redis", "namespace": "shop", "uid": "u1"},
        "spec": {"serviceName": "redis", "selector": {"matchLabels": {"app": "redis"}}, "template": {}}}));
    fake.put(pod("redis-0", "10.0.0.1", "u1", "True"));
    fake.put(pod("redis-1", "10.0.0.2", "u1", "False"));
    fake.put(pod("stranger", "10.0.0.3", "u2", "True"));
    fake.put(pod("redis-2", "fd00::4", "u1", "True"));
    let access = of(&fake, json!({"statefulSet": {"name": "redis"}})).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("redis-nodes://10.0.0.1:6379,[fd00::4]:6379"));
    assert_eq!(access.endpoint.node, NodePreference::Primary);
    assert_eq!(pod_at(&fake.client(), "shop", "redis://[fd00::4]:6379").await.unwrap().as_deref(), Some("redis-2"));
    assert_eq!(pod_at(&fake.client(), "shop", "redis.example.org:6379").await.unwrap(), None);
    assert_eq!(pod_at(&fake.client(), "shop", "rediss://redis.shop.svc:6379").await.unwrap(), None);
    let by_name = pod_at(&fake.client(), "shop", "rediss://carts-0.carts-r.shop.svc:6379").await.unwrap();
    assert_eq!(by_name.as_deref(), Some("carts-0"));
}

#[tokio::test]
async fn a_redis_failover_is_read_as_its_own_operator_lays_it_out() {
    let fake = FakeApi::new();
    fake.put(json!({"apiVersion": "databases.spotahome.com/v1", "kind": "RedisFailover",
        "metadata": {"name": "carts", "namespace": "shop"}, "spec": {"auth": {"secretPath": "carts-password"}}}));
    let access = of(&fake, json!({"redisFailover": {"name": "carts"}})).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("redis-sentinel://rfs-carts.shop.svc:26379/mymaster"));
    assert_eq!(access.endpoint.password, Some(SecretRef::File("/redis-auth/password".into())));
    assert_eq!(access.mounts, [Mount::secret("carts-password", "/redis-auth")]);
}

#[rstest]
#[case(json!({"sentinel": {"service": "sentinels", "master": "m"}}), "redis-sentinel://sentinels.shop.svc:26379/m", "m")]
#[case(json!({"sentinel": {"endpoints": ["a:1", "b:2"]}, "tls": {}}), "rediss-sentinel://a:1,b:2/mymaster", "mymaster")]
#[case(json!({"endpoints": ["a:1", "b:2"]}), "redis-nodes://a:1,b:2", "a-1")]
#[case(json!({"endpoints": ["a:1"], "name": "carts"}), "redis-nodes://a:1", "carts")]
#[case(json!({"endpoints": ["a:1"], "mode": "cluster"}), "redis-cluster://a:1", "a-1")]
#[tokio::test]
async fn addresses_need_no_look_up(#[case] source: Value, #[case] url: &str, #[case] cluster: &str) {
    let fake = FakeApi::new();
    let access = of(&fake, source).await.unwrap();
    assert_eq!((access.endpoint.url.as_deref(), access.cluster.as_str()), (Some(url), cluster));
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn passwords_and_certificates_are_files_of_mounted_secrets() {
    let source = json!({"endpoints": ["a:1"],
        "auth": {"secret": {"name": "redis"}, "passwordKey": "pw", "username": "backup"},
        "tls": {"secret": {"name": "certificates"}}});
    let access = of(&FakeApi::new(), source).await.unwrap();
    assert_eq!(access.endpoint.username.as_deref(), Some("backup"));
    assert_eq!(access.endpoint.password, Some(SecretRef::File("/redis-auth/pw".into())));
    assert_eq!(access.endpoint.tls.ca_file, Some("/redis-tls/ca.crt".into()));
    assert_eq!(access.mounts, [Mount::secret("redis", "/redis-auth"), Mount::secret("certificates", "/redis-tls")]);
}

#[tokio::test]
async fn the_user_may_stand_in_the_secret_and_a_client_certificate_is_taken_where_there_is_one() {
    let source = json!({"endpoints": ["a:1"], "auth": {"secret": {"name": "redis"}, "usernameKey": "user"},
        "tls": {"secret": {"name": "certificates"}}});
    let access = of(&FakeApi::new(), source).await.unwrap();
    assert_eq!(access.endpoint.username, None);
    assert_eq!(access.endpoint.username_from, Some(SecretRef::File("/redis-auth/user".into())));
    let tls = access.endpoint.tls;
    assert_eq!((tls.cert_file, tls.key_file), (Some("/redis-tls/tls.crt".into()), Some("/redis-tls/tls.key".into())));
    assert!(tls.client_certificate_if_present);
    let without = of(&FakeApi::new(), json!({"endpoints": ["a:1"], "tls": {}})).await.unwrap();
    assert_eq!(without.endpoint.tls, TlsSpec::default());
}

#[tokio::test]
async fn files_are_checked_against_the_set_and_its_servers_are_asked_first() {
    let fake = FakeApi::new();
    let template = json!({"spec": {"securityContext": {"runAsUser": 9},
        "containers": [{"name": "redis", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}});
    fake.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "redis", "namespace": "shop", "uid": "u1"},
        "spec": {"serviceName": "redis", "selector": {"matchLabels": {"app": "redis"}}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}}));
    fake.put(pod("redis-0", "10.0.0.1", "u1", "True"));
    fake.put(pod("stranger", "10.0.0.3", "u2", "True"));
    let access = of(&fake, json!({"statefulSet": {"name": "redis", "files": {}}})).await.unwrap();
    assert_eq!(access.endpoint.url.as_deref(), Some("redis-nodes://10.0.0.1:6379"));
    assert_eq!(access.files.unwrap().volume, "data");
    let other = of(&fake, json!({"statefulSet": {"name": "redis", "files": {"volume": "other"}}})).await.unwrap_err();
    assert!(other.to_string().contains("no volume claim template other"), "{other}");
    let client = fake.client();
    assert_eq!(
        pod_of_set(&client, "shop", "redis", "redis://10.0.0.3:6379").await.unwrap(),
        None,
        "not one of the set"
    );
}

impl Unresolved {
    fn reason_word(&self) -> &'static str {
        redkeep_core::classify::Classify::reason(self)
    }
}
