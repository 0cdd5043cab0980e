//! Holds a cluster's spec against the rules and makes of it what the pods need. Takes no client.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;
use redkeep_core::managed::{DIRECTIVES_WITH_FIELDS, RESERVED_DIRECTIVES};
use redkeep_k8s_api::labels::MAX_CLUSTER_NAME;
use redkeep_k8s_api::redis_cluster::{ClusterStorage, RedisCluster};

use super::names;
use crate::common::Unresolved;
use crate::settings::Settings;

/// T where the spec says nothing.
const FENCING: Duration = Duration::from_secs(15);
/// Whom Redis runs as where the spec says nothing: `redis` of the official Debian image, and any number will do for the others.
const USER: i64 = 999;

/// A cluster that can be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ValidatedCluster {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) instances: i32,
    pub(super) storage: Option<ClusterStorage>,
    /// `redis.conf`, ours included.
    pub(super) config: BTreeMap<String, String>,
    pub(super) fencing: Duration,
    /// Clients need a password.
    pub(super) has_password: bool,
    pub(super) service_account: String,
    /// The user and the group of Redis.
    pub(super) user: i64,
    pub(super) group: i64,
    pub(super) layout: Layout,
}

/// What decides how a data directory is laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) appendonly: bool,
    /// `7.2`, `valkey-8.1`; `None` where the image's name does not say.
    pub(super) server_version: Option<String>,
    pub(super) dbfilename: Option<String>,
    pub(super) appenddirname: Option<String>,
    pub(super) appendfilename: Option<String>,
}

/// The definitions refuse most of this already; they may be older than this program.
pub(super) fn validate(cluster: &RedisCluster, settings: &Settings) -> Result<ValidatedCluster, Unresolved> {
    let (spec, name) = (&cluster.spec, cluster.name_any());
    if name.len() > MAX_CLUSTER_NAME {
        let why = format!("must have at most {MAX_CLUSTER_NAME} characters: the names of pods are made from it");
        return Err(Unresolved::invalid("metadata.name", why));
    }
    if spec.instances < 1 {
        return Err(Unresolved::invalid("spec.instances", "must be at least 1"));
    }
    if spec.image_name.trim().is_empty() {
        return Err(Unresolved::invalid("spec.imageName", "must name an image of Redis or Valkey"));
    }
    if spec.storage.is_some() == spec.ephemeral.is_some() {
        return Err(Unresolved::invalid("spec", "exactly one of storage and ephemeral must be set"));
    }
    if let Some(bootstrap) = &spec.bootstrap
        && bootstrap.from.backup_name.is_some() == bootstrap.from.storage_ref.is_some()
    {
        return Err(Unresolved::invalid("spec.bootstrap", "exactly one of backupName and storageRef must be set"));
    }
    let (user, group) = user(cluster)?;
    let config = config(cluster)?;
    Ok(ValidatedCluster {
        namespace: cluster.namespace().unwrap_or_default(),
        instances: spec.instances,
        storage: spec.storage.clone(),
        fencing: fencing(cluster),
        has_password: spec.auth.as_ref().is_none_or(|auth| auth.enabled),
        service_account: service_account(cluster, &name, settings)?,
        user,
        group,
        layout: layout(&config, &spec.image_name),
        config,
        name,
    })
}

/// T.
pub(super) fn fencing(cluster: &RedisCluster) -> Duration {
    let failover = cluster.spec.failover.as_ref();
    let fencing = failover.map(|failover| Duration::from_secs(u64::try_from(failover.fencing_seconds).unwrap_or(15)));
    fencing.unwrap_or(FENCING).max(Duration::from_secs(1))
}

fn service_account(cluster: &RedisCluster, name: &str, settings: &Settings) -> Result<String, Unresolved> {
    let Some(named) = &cluster.spec.service_account_name else { return Ok(names::service_account(name)) };
    if settings.task_service_accounts.contains(named) {
        return Ok(named.clone());
    }
    let why = format!("service account {named} is not on the operator's list (--task-service-account)");
    Err(Unresolved::invalid("spec.serviceAccountName", why))
}

fn user(cluster: &RedisCluster) -> Result<(i64, i64), Unresolved> {
    let (pod, container) = (cluster.spec.pod_security_context.as_ref(), cluster.spec.security_context.as_ref());
    let of = |container: Option<i64>, pod: Option<i64>| container.or(pod).unwrap_or(USER);
    let user = of(container.and_then(|one| one.run_as_user), pod.and_then(|one| one.run_as_user));
    let group = of(container.and_then(|one| one.run_as_group), pod.and_then(|one| one.run_as_group.or(one.fs_group)));
    if user == 0 {
        return Err(Unresolved::invalid("spec.podSecurityContext.runAsUser", "Redis does not run as root"));
    }
    Ok((user, group))
}

/// `redis.conf` as the instances get it, by file and by orders alike.
fn config(cluster: &RedisCluster) -> Result<BTreeMap<String, String>, Unresolved> {
    let mut config = BTreeMap::new();
    for (key, value) in &cluster.spec.redis_config {
        if value.contains(['\n', '\r']) || key.is_empty() || key.contains(char::is_whitespace) {
            return Err(Unresolved::invalid("spec.redisConfig", format!("`{key}` must be one directive of one line")));
        }
        let name = key.to_ascii_lowercase();
        if RESERVED_DIRECTIVES.contains(&name.as_str()) {
            return Err(Unresolved::invalid("spec.redisConfig", format!("`{key}` is the operator's")));
        }
        if let Some((_, field)) = DIRECTIVES_WITH_FIELDS.iter().find(|(directive, _)| *directive == name) {
            return Err(Unresolved::invalid("spec.redisConfig", format!("`{key}` is set by spec.{field}")));
        }
        config.insert(name, value.trim().to_owned());
    }
    let failover = cluster.spec.failover.as_ref();
    let mut replicas = failover.map_or(0, |failover| failover.min_replicas_to_write);
    if cluster.status.as_ref().is_some_and(|status| status.epoch.is_some()) {
        // One that serves is not left alone because there are fewer of it now.
        replicas = replicas.min(cluster.spec.instances.saturating_sub(1));
    }
    if replicas >= cluster.spec.instances {
        let why = "there are not so many replicas: every write would be refused";
        return Err(Unresolved::invalid("spec.failover.minReplicasToWrite", why));
    }
    // Always said, so that taking them out of the spec takes them out of Redis.
    config.insert("min-replicas-to-write".to_owned(), replicas.to_string());
    let lag = failover.map_or(10, |failover| failover.min_replicas_max_lag);
    config.insert("min-replicas-max-lag".to_owned(), lag.to_string());
    Ok(config)
}

fn layout(config: &BTreeMap<String, String>, image: &str) -> Layout {
    let plain = |key: &str| config.get(key).map(|value| value.trim_matches(['"', '\'']).to_owned());
    Layout {
        appendonly: plain("appendonly").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
        server_version: server_version(image),
        dbfilename: plain("dbfilename"),
        appenddirname: plain("appenddirname"),
        appendfilename: plain("appendfilename"),
    }
}

/// The server's version, where the image's name says it: `docker.io/library/redis:7.2.4-alpine`, `valkey/valkey:8.1`.
fn server_version(image: &str) -> Option<String> {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let last = image.rsplit('/').next()?;
    let (name, tag) = last.split_once(':')?;
    let tag = tag.trim_start_matches('v');
    let version: String = tag.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    let version = version.trim_end_matches('.');
    if version.is_empty() {
        return None;
    }
    match name {
        name if name.contains("valkey") => Some(format!("valkey-{version}")),
        name if name.contains("redis") => Some(version.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn cluster(name: &str, mut spec: Value) -> RedisCluster {
        let defaults = json!({"imageName": "redis:7.2", "storage": {"size": "1Gi"}});
        for (key, value) in defaults.as_object().unwrap() {
            let is_other_storage = key == "storage" && spec.get("ephemeral").is_some();
            if spec.get(key).is_none() && !is_other_storage {
                spec[key] = value.clone();
            }
        }
        serde_json::from_value(json!({
            "apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": name, "namespace": "shop"}, "spec": spec
        }))
        .unwrap()
    }

    fn settings() -> Settings {
        Settings::new("redkeep:1", "redkeep-system", "k8s:1")
    }

    #[rstest]
    #[case::instances("c", json!({"instances": 0}), "spec.instances")]
    #[case::name("a-name-of-more-than-forty-five-characters-in-all", json!({}), "metadata.name")]
    #[case::image("c", json!({"imageName": " "}), "spec.imageName")]
    #[case::both_storages("c", json!({"ephemeral": {}, "storage": {"size": "1Gi"}}), "spec")]
    #[case::two_lines("c", json!({"redisConfig": {"maxmemory": "1gb\nport 1"}}), "spec.redisConfig")]
    #[case::reserved("c", json!({"redisConfig": {"ReplicaOf": "10.0.0.1 6379"}}), "spec.redisConfig")]
    #[case::protected("c", json!({"redisConfig": {"enable-protected-configs": "yes"}}), "spec.redisConfig")]
    #[case::has_a_field("c", json!({"redisConfig": {"min-replicas-to-write": "1"}}), "spec.redisConfig")]
    #[case::has_a_field_by_its_old_name("c", json!({"redisConfig": {"min-slaves-max-lag": "1"}}), "spec.redisConfig")]
    #[case::two_sources("c", json!({"bootstrap": {"backupName": "b", "storageRef": {"name": "s"}}}), "spec.bootstrap")]
    #[case::no_source("c", json!({"bootstrap": {}}), "spec.bootstrap")]
    #[case::root("c", json!({"podSecurityContext": {"runAsUser": 0}}), "spec.podSecurityContext.runAsUser")]
    #[case::account("c", json!({"serviceAccountName": "admin"}), "spec.serviceAccountName")]
    #[case::replicas("c", json!({"instances": 2, "failover": {"minReplicasToWrite": 2}}), "spec.failover.minReplicasToWrite")]
    fn what_cannot_be_followed_is_named(#[case] name: &str, #[case] spec: Value, #[case] field: &str) {
        let error = validate(&cluster(name, spec), &settings()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
    }

    #[test]
    fn what_is_not_said_has_a_value() {
        let validated = validate(&cluster("carts", json!({})), &settings()).unwrap();
        assert_eq!((validated.user, validated.group, validated.instances), (999, 999, 1));
        assert_eq!(validated.fencing, Duration::from_secs(15));
        assert!(validated.has_password);
        assert_eq!(validated.service_account, "carts-redis");
        assert_eq!(validated.config["min-replicas-to-write"], "0");
    }

    #[rstest]
    #[case("redis:7.2", Some("7.2"))]
    #[case("docker.io/library/redis:8.2.3-alpine", Some("8.2.3"))]
    #[case("localhost:5000/valkey/valkey:8.1@sha256:00", Some("valkey-8.1"))]
    #[case("redis:latest", None)]
    #[case("redis@sha256:00", None)]
    #[case("registry:5000/redis", None)]
    #[case("own/cache:7.2", None)]
    fn a_version_is_known_where_the_images_name_says_it(#[case] image: &str, #[case] version: Option<&str>) {
        assert_eq!(server_version(image).as_deref(), version);
    }

    #[test]
    fn a_layout_follows_the_configuration() {
        let spec = json!({"redisConfig": {"AppendOnly": "Yes", "dbfilename": "\"data.rdb\""}});
        let layout = validate(&cluster("carts", spec), &settings()).unwrap().layout;
        assert_eq!((layout.appendonly, layout.dbfilename.as_deref()), (true, Some("data.rdb")));
    }
}
