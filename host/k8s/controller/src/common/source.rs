//! From a cluster's name, or a source written out, to the endpoint that a task reads.
//!
//! The operator only looks up addresses; which server is the primary, and which replica is in good order, the task finds out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use redkeep_core::identifier::ClusterName;
use redkeep_core::secret::SecretRef;
use redkeep_core::task::{EndpointSpec, NodePreference, TlsSpec};
use redkeep_k8s_api::conditions::{READY, reasons};
use redkeep_k8s_api::endpoint::{DataFiles, Mode, RedisEndpoint, SentinelEndpoint};
use redkeep_k8s_api::redis_cluster::RedisCluster;

use super::{Unresolved, endpoints, files};
use crate::apply::is_true;
use crate::executor::{Mount, REDIS_AUTH_PATH, REDIS_TLS_PATH};

/// Where the password of Sentinels is mounted, where they have one of their own.
const SENTINEL_AUTH_PATH: &str = "/sentinel-auth";
/// The key of a password that the operator made.
const PASSWORD: &str = "password";
/// The port of managed Redis.
const REDIS_PORT: i32 = 6379;
/// How the own operator of a `RedisFailover` lays it out.
const FAILOVER_SENTINEL_PORT: i32 = 26379;
const FAILOVER_MASTER: &str = "mymaster";

/// A source as a task sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAccess {
    /// For the task.
    pub endpoint: EndpointSpec,
    /// What the task's pod mounts for it.
    pub mounts: Vec<Mount>,
    /// The name under which storage keeps its backups.
    pub cluster: String,
    /// The files of its pods, where they are read instead.
    pub files: Option<DataFiles>,
    /// The Secret with the bucket's credentials that a RedisCluster brings along.
    pub credentials: Option<redkeep_k8s_api::common::LocalReference>,
}

/// Reads what has to be read: the RedisCluster, the addresses behind a Service, the pods of a `StatefulSet`, a `RedisFailover`.
///
/// # Errors
/// What is not there, not ready, or cannot be followed.
pub async fn resolve(
    client: &Client,
    namespace: &str,
    cluster_name: Option<&str>,
    source: Option<&RedisEndpoint>,
    node: NodePreference,
) -> Result<SourceAccess, Unresolved> {
    match (cluster_name, source) {
        (Some(name), None) => of_cluster(client, namespace, name, node).await,
        (None, Some(source)) => of_endpoint(client, namespace, source, node).await,
        _ => Err(Unresolved::invalid("spec", "exactly one of clusterName and source must be set")),
    }
}

async fn of_cluster(
    client: &Client,
    namespace: &str,
    name: &str,
    node: NodePreference,
) -> Result<SourceAccess, Unresolved> {
    let api: Api<RedisCluster> = Api::namespaced(client.clone(), namespace);
    let Some(cluster) = api.get_opt(name).await.map_err(Unresolved::read(format!("RedisCluster {name}")))? else {
        let message = format!("there is no RedisCluster {name} in namespace {namespace}");
        return Err(Unresolved::not_yet(reasons::CLUSTER_NOT_FOUND, message));
    };
    let phase = cluster.status.as_ref().and_then(|status| status.phase);
    // One that was never whole stays `Creating`, and its primary may serve all the same.
    let is_ready = cluster.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY));
    if !is_ready && !phase.is_some_and(redkeep_k8s_api::redis_cluster_status::ClusterPhase::serves) {
        let phase = phase.map_or_else(|| "none".to_owned(), |phase| format!("{phase:?}"));
        let message = format!("RedisCluster {name} cannot be read in phase {phase}");
        return Err(Unresolved::not_yet(reasons::CLUSTER_NOT_READY, message));
    }
    let service = format!("{name}-r");
    let ready = endpoints::ready_members(&cluster);
    let addresses = if cluster.spec.tls.is_some() {
        // Their certificates are for names.
        endpoints::names(client, namespace, &service, REDIS_PORT, &ready).await?
    } else {
        endpoints::addresses(client, namespace, &service, REDIS_PORT, &ready).await?
    };
    let mut access = SourceAccess {
        endpoint: EndpointSpec { node, ..EndpointSpec::default() },
        mounts: Vec::new(),
        cluster: name.to_owned(),
        files: None,
        credentials: cluster.spec.backup_credentials_secret.clone(),
    };
    let is_tls = cluster.spec.tls.is_some();
    access.endpoint.url = Some(nodes_url(&addresses, Mode::Replication, is_tls));
    if let Some(tls) = &cluster.spec.tls {
        access.endpoint.tls = tls_files(tls.require_client_certificate.then_some(ClientCertificate::Needed), false);
        access.mounts.push(Mount::secret(&tls.secret.name, REDIS_TLS_PATH));
    }
    if let Some((secret, key)) = password_of(&cluster) {
        access.endpoint.password = Some(SecretRef::File(PathBuf::from(REDIS_AUTH_PATH).join(key)));
        access.mounts.push(Mount::secret(secret, REDIS_AUTH_PATH));
    }
    Ok(access)
}

/// The Secret with a cluster's password and the key in it; `None` without a password.
pub(crate) fn password_of(cluster: &RedisCluster) -> Option<(String, String)> {
    let auth = cluster.spec.auth.as_ref();
    if auth.is_some_and(|auth| !auth.enabled) {
        return None;
    }
    if let Some(named) = auth.and_then(|auth| auth.secret.as_ref()) {
        return Some((named.name.clone(), named.key.clone()));
    }
    let made = cluster.status.as_ref().and_then(|status| status.auth_secret.as_ref())?;
    Some((made.name.clone(), PASSWORD.to_owned()))
}

async fn of_endpoint(
    client: &Client,
    namespace: &str,
    source: &RedisEndpoint,
    node: NodePreference,
) -> Result<SourceAccess, Unresolved> {
    let is_tls = source.tls.is_some();
    let mut files = None;
    let mut failover_secret = None;
    let (url, name) = if let Some(service) = &source.service {
        let addresses = endpoints::addresses(client, namespace, &service.name, service.port, &BTreeSet::new()).await?;
        (nodes_url(&addresses, source.mode, is_tls), service.name.clone())
    } else if let Some(set) = &source.stateful_set {
        let (found, pods) = stateful_set(client, namespace, &set.name).await?;
        if let Some(wanted) = &set.files {
            files::check(&found, wanted, source.mode)?;
            files = Some(wanted.clone());
        }
        let addresses = pod_addresses(&pods, &found.uid().unwrap_or_default(), set.port);
        if addresses.is_empty() {
            let message = format!("no pod of StatefulSet {} of namespace {namespace} is ready", set.name);
            return Err(Unresolved::not_yet(reasons::SOURCE_NOT_FOUND, message));
        }
        (nodes_url(&addresses, source.mode, is_tls), set.name.clone())
    } else if let Some(failover) = &source.redis_failover {
        let object = redis_failover(client, namespace, &failover.name).await?;
        let secret = object.data.pointer("/spec/auth/secretPath").and_then(serde_json::Value::as_str);
        failover_secret = secret.filter(|secret| !secret.is_empty()).map(str::to_owned);
        let host = format!("rfs-{}.{namespace}.svc:{FAILOVER_SENTINEL_PORT}", failover.name);
        (sentinel_url(&[host], FAILOVER_MASTER, is_tls), failover.name.clone())
    } else if let Some(sentinel) = &source.sentinel {
        (sentinel_url(&sentinel_hosts(sentinel, namespace), &sentinel.master, is_tls), sentinel.master.clone())
    } else if let Some(first) = source.endpoints.first() {
        (nodes_url(&source.endpoints, source.mode, is_tls), first.clone())
    } else {
        let why = "exactly one of service, statefulSet, redisFailover, sentinel and endpoints must be set";
        return Err(Unresolved::invalid("spec.source", why));
    };
    let mut access = with_secrets(source, failover_secret);
    access.endpoint.url = Some(url);
    access.endpoint.node = node;
    access.files = files;
    access.endpoint.renamed_commands.clone_from(&source.renamed_commands);
    let given = source.name.clone().unwrap_or(name);
    ClusterName::from_address(&given).as_str().clone_into(&mut access.cluster);
    Ok(access)
}

/// Passwords and TLS files, each where its Secret is mounted. Pure.
fn with_secrets(source: &RedisEndpoint, failover_secret: Option<String>) -> SourceAccess {
    let mut endpoint = EndpointSpec::default();
    let mut mounts = Vec::new();
    if let Some(auth) = &source.auth {
        endpoint.username.clone_from(&auth.username);
        let user = auth.username_key.as_ref().map(|key| PathBuf::from(REDIS_AUTH_PATH).join(key));
        endpoint.username_from = user.map(SecretRef::File);
        endpoint.password = Some(SecretRef::File(PathBuf::from(REDIS_AUTH_PATH).join(&auth.password_key)));
        mounts.push(Mount::secret(&auth.secret.name, REDIS_AUTH_PATH));
    } else if let Some(secret) = failover_secret {
        endpoint.password = Some(SecretRef::File(PathBuf::from(REDIS_AUTH_PATH).join("password")));
        mounts.push(Mount::secret(secret, REDIS_AUTH_PATH));
    }
    if let Some(password) = source.sentinel.as_ref().and_then(|sentinel| sentinel.password_secret.as_ref()) {
        endpoint.sentinel_password = Some(SecretRef::File(PathBuf::from(SENTINEL_AUTH_PATH).join(&password.key)));
        mounts.push(Mount::secret(&password.name, SENTINEL_AUTH_PATH));
    }
    if let Some(tls) = &source.tls {
        endpoint.tls.insecure_skip_verify = tls.insecure_skip_verify;
        if let Some(secret) = &tls.secret {
            // Whether the Secret has a client certificate only the task sees: it takes what is there.
            endpoint.tls = tls_files(Some(ClientCertificate::IfPresent), tls.insecure_skip_verify);
            mounts.push(Mount::secret(&secret.name, REDIS_TLS_PATH));
        }
    }
    SourceAccess { endpoint, mounts, cluster: String::new(), files: None, credentials: None }
}

/// A client certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    /// The server asks for it.
    Needed,
    /// Only the Secret knows.
    IfPresent,
}

fn tls_files(client: Option<ClientCertificate>, insecure_skip_verify: bool) -> TlsSpec {
    let file = |name: &str| PathBuf::from(REDIS_TLS_PATH).join(name);
    TlsSpec {
        ca_file: Some(file("ca.crt")),
        cert_file: client.map(|_| file("tls.crt")),
        key_file: client.map(|_| file("tls.key")),
        client_certificate_if_present: client == Some(ClientCertificate::IfPresent),
        insecure_skip_verify,
    }
}

/// One shard whose servers' roles the task finds out, or some nodes of a Redis Cluster.
fn nodes_url(addresses: &[String], mode: Mode, is_tls: bool) -> String {
    let scheme = match (mode, is_tls) {
        (Mode::Replication, false) => "redis-nodes",
        (Mode::Replication, true) => "rediss-nodes",
        (Mode::Cluster, false) => "redis-cluster",
        (Mode::Cluster, true) => "rediss-cluster",
    };
    format!("{scheme}://{}", addresses.join(","))
}

fn sentinel_url(hosts: &[String], master: &str, is_tls: bool) -> String {
    let scheme = if is_tls { "rediss-sentinel" } else { "redis-sentinel" };
    format!("{scheme}://{}/{master}", hosts.join(","))
}

fn sentinel_hosts(sentinel: &SentinelEndpoint, namespace: &str) -> Vec<String> {
    match &sentinel.service {
        Some(service) => vec![format!("{service}.{namespace}.svc:{}", sentinel.port)],
        None => sentinel.endpoints.clone(),
    }
}

/// A `StatefulSet` and the pods that its selector finds; some may be another's.
async fn stateful_set(client: &Client, namespace: &str, name: &str) -> Result<(StatefulSet, Vec<Pod>), Unresolved> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let Some(set) = sets.get_opt(name).await.map_err(Unresolved::read(format!("StatefulSet {name}")))? else {
        let message = format!("there is no StatefulSet {name} in namespace {namespace}");
        return Err(Unresolved::not_yet(reasons::SOURCE_NOT_FOUND, message));
    };
    let labels = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().labels(&selector.join(","))).await;
    let listed = listed.map_err(Unresolved::read(format!("the pods of StatefulSet {name}")))?;
    Ok((set, listed.items))
}

/// The pod of a `StatefulSet` that has a server's address, as a plan names it.
///
/// # Errors
/// The set is gone, or the API server did not answer.
pub async fn pod_of_set(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> Result<Option<files::Chosen>, Unresolved> {
    let (set, pods) = stateful_set(client, namespace, name).await?;
    Ok(files::choose(&pods, &set.uid().unwrap_or_default(), node))
}

/// What the pod that was chosen looks like now, and its claim.
///
/// # Errors
/// As [`files::pin`], or the API server did not answer.
pub async fn pin(
    client: &Client,
    namespace: &str,
    wanted: &DataFiles,
    chosen: &files::Chosen,
) -> Result<files::Pinned, Unresolved> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = pods.get_opt(&chosen.pod).await.map_err(Unresolved::read(format!("pod {}", chosen.pod)))?;
    let Some(pod) = pod else { return Ok(files::Pinned::gone(chosen)) };
    let name = files::claim_name(&pod, wanted)?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(&name).await.map_err(Unresolved::read(format!("claim {name}")))?;
    let Some(claim) = claim else {
        return Err(Unresolved::not_yet(reasons::SOURCE_NOT_FOUND, format!("there is no claim {name}")));
    };
    files::pin(wanted, chosen, &pod, &claim)
}

/// Pods of this owner that are ready: labels alone may select others.
fn pod_addresses(pods: &[Pod], owner: &str, port: i32) -> Vec<String> {
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let mut addresses: Vec<String> = pods
        .iter()
        .filter(|pod| pod.owner_references().iter().any(|reference| reference.uid == owner))
        .filter(is_ready)
        .filter_map(|pod| pod.status.as_ref()?.pod_ip.as_deref())
        .map(|address| endpoints::with_port(address, port))
        .collect();
    addresses.sort();
    addresses
}

async fn redis_failover(client: &Client, namespace: &str, name: &str) -> Result<DynamicObject, Unresolved> {
    let kind = GroupVersionKind::gvk("databases.spotahome.com", "v1", "RedisFailover");
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match api.get_opt(name).await.map_err(Unresolved::read(format!("RedisFailover {name}")))? {
        Some(object) => Ok(object),
        None => Err(Unresolved::not_yet(
            reasons::SOURCE_NOT_FOUND,
            format!("there is no RedisFailover {name} in namespace {namespace}"),
        )),
    }
}

/// The host of a node as a report names it: `redis://10.0.0.1:6379`.
pub(crate) fn host_of(node: &str) -> Option<&str> {
    let address = node.rsplit_once("://").map_or(node, |(_, address)| address);
    Some(address.rsplit_once(':')?.0.trim_matches(['[', ']']))
}

/// The name of the pod that has an address, for status.
///
/// # Errors
/// What the API server says.
pub async fn pod_at(client: &Client, namespace: &str, node: &str) -> Result<Option<String>, kube::Error> {
    let Some(host) = host_of(node) else { return Ok(None) };
    if host.parse::<std::net::IpAddr>().is_err() {
        // By our own name for it the pod is known without a look.
        let pod = host.strip_suffix(&format!(".{namespace}.svc")).and_then(|rest| rest.split_once('.'));
        return Ok(pod.map(|(pod, _)| pod.to_owned()));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods.list(&ListParams::default().fields(&format!("status.podIP={host}"))).await?;
    Ok(listed.items.first().map(ResourceExt::name_any))
}

#[cfg(test)]
mod tests;
