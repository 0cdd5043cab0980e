//! The addresses behind a Service, and which of them serve.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::ListParams;
use kube::{Api, Client};
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::redis_cluster::RedisCluster;

use super::Unresolved;

/// The pods that a cluster's status calls ready. They become so seconds before Kubernetes has asked them and written it into the
/// slices: until then a backup would read the primary, as if there were no replica.
pub(super) fn ready_members(cluster: &RedisCluster) -> BTreeSet<String> {
    let members = cluster.status.iter().flat_map(|status| &status.members);
    members.filter(|member| member.ready).map(|member| member.name.clone()).collect()
}

/// Addresses that a Service leads to, whatever its type, in order: those that are ready, and those of the pods in `also`.
pub(super) async fn addresses(
    client: &Client,
    namespace: &str,
    name: &str,
    port: i32,
    also: &BTreeSet<String>,
) -> Result<Vec<String>, Unresolved> {
    behind(client, namespace, name, also, |endpoint| Some(with_port(endpoint.addresses.first()?, port))).await
}

/// The same by the names of pods behind a headless Service.
pub(super) async fn names(
    client: &Client,
    namespace: &str,
    name: &str,
    port: i32,
    also: &BTreeSet<String>,
) -> Result<Vec<String>, Unresolved> {
    let named = |endpoint: &Endpoint| Some(with_port(&name_of_pod(pod_of(endpoint)?, name, namespace), port));
    behind(client, namespace, name, also, named).await
}

async fn behind(
    client: &Client,
    namespace: &str,
    name: &str,
    also: &BTreeSet<String>,
    named: impl Fn(&Endpoint) -> Option<String>,
) -> Result<Vec<String>, Unresolved> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = api.list(&parameters).await.map_err(Unresolved::read(format!("the endpoints of Service {name}")))?;
    let found: BTreeSet<String> = serving(&slices.items, also).filter_map(named).collect();
    if found.is_empty() {
        let message = format!("no pod behind Service {name} of namespace {namespace} is ready");
        return Err(Unresolved::not_yet(reasons::SOURCE_NOT_FOUND, message));
    }
    Ok(found.into_iter().collect())
}

/// The name of a pod behind a headless Service. `POD.SERVICE` would be one too, but no certificate could be for all of them: a
/// wildcard that fewer than two labels follow, as in `*.SERVICE`, is none for most clients, ours among them.
pub(crate) fn name_of_pod(pod: &str, service: &str, namespace: &str) -> String {
    format!("{pod}.{service}.{namespace}.svc")
}

/// `address:port`, an IPv6 address in brackets.
pub(super) fn with_port(address: &str, port: i32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn serving<'a>(slices: &'a [EndpointSlice], also: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Endpoint> {
    slices.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        // Unknown means ready, as the API says. A Service that shows pods before they are ready says `ready` of all of them,
        // and `serving` of those that are.
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let is_serving = conditions.ready.unwrap_or(true) && conditions.serving.unwrap_or(true);
        let is_going = conditions.terminating.unwrap_or(false);
        is_serving || (!is_going && pod_of(endpoint).is_some_and(|pod| also.contains(pod)))
    })
}

fn pod_of(endpoint: &Endpoint) -> Option<&String> {
    endpoint.target_ref.as_ref()?.name.as_ref()
}
