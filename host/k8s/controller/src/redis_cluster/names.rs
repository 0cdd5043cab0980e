//! Names of what a cluster is made of, and the labels that it is found by.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_cluster::RedisCluster;

/// The claim of each pod is `data-NAME-N`.
pub(super) const CLAIM: &str = "data";
/// On the claim that was filled from a backup: the uid of the cluster for which it was made.
pub(super) const FILLED_FOR: &str = "redis.io/bootstrap-of";
/// On pods: the hash of the template that they were made from.
pub(super) const TEMPLATE: &str = "redis.io/template";

pub(super) fn service_account(cluster: &str) -> String {
    format!("{cluster}-redis")
}

pub(super) fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

pub(super) fn headless(cluster: &str) -> String {
    format!("{cluster}-r")
}

pub(super) fn writable(cluster: &str) -> String {
    format!("{cluster}-rw")
}

pub(super) fn read_only(cluster: &str) -> String {
    format!("{cluster}-ro")
}

pub(super) fn pod(cluster: &str, ordinal: i32) -> String {
    format!("{cluster}-{ordinal}")
}

pub(super) fn claim(cluster: &str, ordinal: i32) -> String {
    format!("{CLAIM}-{cluster}-{ordinal}")
}

/// The claim of a pod.
pub(super) fn claim_of(pod: &str) -> String {
    format!("{CLAIM}-{pod}")
}

/// The number at the end of a pod's name.
pub(super) fn ordinal(cluster: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()
}

/// By what pods are selected: never changed, for a `StatefulSet`'s selector cannot be.
pub(super) fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(labels::CLUSTER, cluster), (labels::COMPONENT, labels::COMPONENT_REDIS)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The selector as a query writes it.
pub(super) fn selector_text(cluster: &str) -> String {
    selector(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels of everything: the spec's, then ours.
pub(super) fn all_labels(cluster: &RedisCluster) -> BTreeMap<String, String> {
    let mut all = cluster.spec.labels.clone();
    all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned());
    all.insert(labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned());
    all.extend(selector(&cluster.name_any()));
    all
}

pub(super) fn owner(cluster: &RedisCluster) -> OwnerReference {
    cluster.controller_owner_ref(&()).unwrap_or_default()
}

/// Metadata of an object that goes with its cluster.
pub(super) fn metadata(cluster: &RedisCluster, name: String) -> ObjectMeta {
    let annotations = &cluster.spec.annotations;
    ObjectMeta {
        name: Some(name),
        namespace: cluster.namespace(),
        labels: Some(all_labels(cluster)),
        annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        owner_references: Some(vec![owner(cluster)]),
        ..ObjectMeta::default()
    }
}
