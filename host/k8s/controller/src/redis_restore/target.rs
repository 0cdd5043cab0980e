//! Which servers a target is, however a spec spells it: two spellings of one Redis must have something in common.
//!
//! Pods are known by whoever made them, for they come and go and change their roles, and all of them are one Redis. Whatever is no
//! pod of the namespace is known by its address. Nobody here asks a Sentinel: a master that one restore names by its sentinels and
//! another by its servers is taken for two, but for a `RedisFailover`, whose `StatefulSet` is known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::common::Unresolved;

/// What the servers behind an endpoint's URL are known by: `owner/UID`, `pod/UID`, `HOST:PORT`.
///
/// # Errors
/// The API server did not answer.
pub(super) async fn servers(client: &Client, namespace: &str, url: &str) -> Result<BTreeSet<String>, Unresolved> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (addresses, master) = rest.split_once('/').unwrap_or((rest, ""));
    let look = Look { client, namespace };
    let mut found = BTreeSet::new();
    for address in addresses.split(',').filter(|address| !address.is_empty()) {
        let (host, port) = split(address);
        let servers = look.at(&host, port).await?;
        if !scheme.contains("sentinel") {
            found.extend(servers);
            continue;
        }
        found.extend(servers.iter().map(|server| format!("{master} of {server}")));
        found.extend(look.failover_of(&host).await?);
    }
    Ok(found)
}

/// Host and port; a name as every spelling of it has it.
fn split(address: &str) -> (String, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    (host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase(), port)
}

/// What a host's name means inside of a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Name<'a> {
    Service(&'a str),
    Pod(&'a str),
}

/// A name's labels before `svc`, after which comes the cluster's own domain, and whether that was there.
fn labels_of(host: &str) -> (Vec<&str>, bool) {
    let labels: Vec<&str> = host.split('.').collect();
    let domain = labels.iter().position(|label| *label == "svc").filter(|at| *at > 1);
    let own = labels.into_iter().take(domain.unwrap_or(usize::MAX)).collect();
    (own, domain.is_some())
}

/// `None`: not one of this namespace.
fn name_in<'a>(namespace: &str, host: &'a str) -> Option<Name<'a>> {
    let (labels, whole) = labels_of(host);
    if labels.iter().any(|label| label.is_empty()) {
        return None;
    }
    match labels.as_slice() {
        [service] => Some(Name::Service(service)),
        [service, of] if *of == namespace => Some(Name::Service(service)),
        [pod, _] if !whole => Some(Name::Pod(pod)),
        [pod, _, of] if *of == namespace => Some(Name::Pod(pod)),
        _ => None,
    }
}

/// A name of this namespace the one way: `SERVICE.NAMESPACE` or `POD.SERVICE.NAMESPACE`.
fn spelled(namespace: &str, host: &str) -> String {
    if name_in(namespace, host).is_none() || host.parse::<IpAddr>().is_ok() {
        return host.to_owned();
    }
    let (labels, _) = labels_of(host);
    let own = labels.strip_suffix(&[namespace]).filter(|own| !own.is_empty()).unwrap_or(&labels);
    format!("{}.{namespace}", own.join("."))
}

/// What a pod is known by. On its host's network others have the same address.
fn known_by(pod: &Pod) -> Option<String> {
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return None;
    }
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    owner.map(|owner| format!("owner/{}", owner.uid)).or_else(|| Some(format!("pod/{}", pod.uid()?)))
}

struct Look<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Look<'_> {
    async fn at(&self, host: &str, port: &str) -> Result<BTreeSet<String>, Unresolved> {
        let mut found = match (host.parse::<IpAddr>(), name_in(self.namespace, host)) {
            (Ok(_), _) => self.with_address(host).await?,
            (Err(_), Some(Name::Service(service))) => self.behind(service, port).await?,
            (Err(_), Some(Name::Pod(pod))) => self.pod(pod).await?.into_iter().collect(),
            (Err(_), None) => BTreeSet::new(),
        };
        // Always: pods that are ready at one look and not at another would else make two targets of one.
        found.insert(format!("{}:{port}", spelled(self.namespace, host)));
        Ok(found)
    }

    async fn pod(&self, name: &str) -> Result<Option<String>, Unresolved> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let pod = api.get_opt(name).await.map_err(Unresolved::read(format!("pod {name}")))?;
        Ok(pod.as_ref().and_then(known_by))
    }

    async fn with_address(&self, address: &str) -> Result<BTreeSet<String>, Unresolved> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let selected = ListParams::default().fields(&format!("status.podIP={address}"));
        let found = api.list(&selected).await.map_err(Unresolved::read(format!("the pod at {address}")))?;
        // One that has ended keeps its address, which another may have by now.
        let runs = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        };
        Ok(found.items.iter().filter(runs).filter_map(known_by).collect())
    }

    /// All of them, ready or not.
    async fn behind(&self, service: &str, port: &str) -> Result<BTreeSet<String>, Unresolved> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), self.namespace);
        let selected = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = api.list(&selected).await;
        let slices = slices.map_err(Unresolved::read(format!("the endpoints of Service {service}")))?;
        let mut found = BTreeSet::new();
        for endpoint in slices.items.iter().flat_map(|slice| &slice.endpoints) {
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            let known = match target.and_then(|target| target.name.as_deref()) {
                Some(pod) => self.pod(pod).await?,
                None => None,
            };
            match (known, endpoint.addresses.first()) {
                (Some(known), _) => found.extend([known]),
                (None, Some(address)) => {
                    let pods = self.with_address(address).await?;
                    let is_none = pods.is_empty();
                    found.extend(pods);
                    found.extend(is_none.then(|| format!("{address}:{port}")));
                }
                (None, None) => {}
            }
        }
        Ok(found)
    }

    /// The servers of a `RedisFailover`, as its own operator names both.
    async fn failover_of(&self, host: &str) -> Result<Option<String>, Unresolved> {
        let Some(Name::Service(service)) = name_in(self.namespace, host) else { return Ok(None) };
        let Some(failover) = service.strip_prefix("rfs-").filter(|name| !name.is_empty()) else { return Ok(None) };
        let (api, name) =
            (Api::<StatefulSet>::namespaced(self.client.clone(), self.namespace), format!("rfr-{failover}"));
        let set = api.get_opt(&name).await.map_err(Unresolved::read(format!("StatefulSet {name}")))?;
        Ok(set.and_then(|set| set.uid()).map(|uid| format!("owner/{uid}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("cache-rw", Some(Name::Service("cache-rw")))]
    #[case("cache-rw.shop", Some(Name::Service("cache-rw")))]
    #[case("cache-rw.shop.svc", Some(Name::Service("cache-rw")))]
    #[case("cache-rw.shop.svc.example.local", Some(Name::Service("cache-rw")))]
    #[case("cache-rw.other.svc", None)]
    #[case("cache-0.cache", Some(Name::Pod("cache-0")))]
    #[case("cache-0.cache.shop", Some(Name::Pod("cache-0")))]
    #[case("cache-0.cache.shop.svc.cluster.local", Some(Name::Pod("cache-0")))]
    #[case("cache-0.cache.other.svc", None)]
    #[case("redis.db.example.com", None)]
    #[case("a..b", None)]
    #[case("", None)]
    fn a_name_is_a_service_a_pod_or_elsewhere(#[case] host: &str, #[case] expected: Option<Name<'_>>) {
        assert_eq!(name_in("shop", host), expected);
    }

    #[rstest]
    #[case("cache-rw", "cache-rw.shop")]
    #[case("cache-rw.shop.svc.example.local", "cache-rw.shop")]
    #[case("cache-0.cache", "cache-0.cache.shop")]
    #[case("cache-0.cache.shop.svc", "cache-0.cache.shop")]
    #[case("shop", "shop.shop")]
    #[case("svc", "svc.shop")]
    #[case("cache-rw.other.svc", "cache-rw.other.svc")]
    #[case("redis.db.example.com", "redis.db.example.com")]
    #[case("10.0.0.1", "10.0.0.1")]
    fn a_name_of_the_namespace_is_spelled_one_way(#[case] host: &str, #[case] expected: &str) {
        assert_eq!(spelled("shop", host), expected);
    }

    #[rstest]
    #[case("Redis.Example.com.:6379", "redis.example.com", "6379")]
    #[case("[FD00::1]:6379", "fd00::1", "6379")]
    #[case("10.0.0.1:6379", "10.0.0.1", "6379")]
    #[case("alone", "alone", "")]
    fn an_address_is_written_one_way(#[case] address: &str, #[case] host: &str, #[case] port: &str) {
        assert_eq!(split(address), (host.to_owned(), port));
    }
}
