//! What a cluster is made of, besides its pods. Pure, and nothing in it may fail.

pub(super) mod claim;
pub(super) mod restore;
pub(super) mod stateful_set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use redkeep_core::managed::{INSTANCE_PORT, REDIS_PORT};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_cluster::{RedisCluster, ServiceType};

use super::names;
use super::validate::ValidatedCluster;

/// Key of the `ConfigMap`.
pub(super) const CONFIG_KEY: &str = "redis.conf";

/// Everything but the `StatefulSet` and the Secrets.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Objects {
    pub(super) service_account: Option<ServiceAccount>,
    pub(super) role: Role,
    pub(super) role_binding: RoleBinding,
    pub(super) config: ConfigMap,
    pub(super) services: Vec<Service>,
    pub(super) budget: Option<PodDisruptionBudget>,
}

pub(super) fn objects(cluster: &RedisCluster, validated: &ValidatedCluster) -> Objects {
    let name = &validated.name;
    let own_account = names::service_account(name);
    Objects {
        service_account: (validated.service_account == own_account).then(|| ServiceAccount {
            metadata: names::metadata(cluster, own_account.clone()),
            ..ServiceAccount::default()
        }),
        role: Role {
            metadata: names::metadata(cluster, own_account.clone()),
            // Each instance looks who is primary; it may look at nothing else.
            rules: Some(vec![PolicyRule {
                api_groups: Some(vec!["redis.io".to_owned()]),
                resources: Some(vec!["redisclusters".to_owned()]),
                resource_names: Some(vec![name.clone()]),
                verbs: vec!["get".to_owned()],
                ..PolicyRule::default()
            }]),
        },
        role_binding: RoleBinding {
            metadata: names::metadata(cluster, own_account.clone()),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: own_account,
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: validated.service_account.clone(),
                namespace: Some(validated.namespace.clone()),
                ..Subject::default()
            }]),
        },
        config: ConfigMap {
            metadata: names::metadata(cluster, names::config(name)),
            data: Some([(CONFIG_KEY.to_owned(), redis_conf(&validated.config))].into()),
            ..ConfigMap::default()
        },
        services: services(cluster, name),
        budget: cluster.spec.pod_disruption_budget.then(|| budget(cluster, validated)),
    }
}

fn redis_conf(config: &BTreeMap<String, String>) -> String {
    config.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = if value.is_empty() { writeln!(text, "{key} \"\"") } else { writeln!(text, "{key} {value}") };
        text
    })
}

fn services(cluster: &RedisCluster, name: &str) -> Vec<Service> {
    let settings = cluster.spec.services.clone().unwrap_or_default();
    let port = |name: &str, number: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    let by_role = |name: String, role: &str| {
        let mut metadata = names::metadata(cluster, name);
        if !settings.annotations.is_empty() {
            metadata.annotations.get_or_insert_default().extend(settings.annotations.clone());
        }
        let mut selector = names::selector(&cluster.metadata.name.clone().unwrap_or_default());
        selector.insert(labels::ROLE.to_owned(), role.to_owned());
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some(
                    match settings.kind {
                        ServiceType::ClusterIP => "ClusterIP",
                        ServiceType::LoadBalancer => "LoadBalancer",
                    }
                    .to_owned(),
                ),
                selector: Some(selector),
                ports: Some(vec![port("redis", REDIS_PORT)]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    };
    let headless = Service {
        metadata: names::metadata(cluster, names::headless(name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A pod has a name before it serves: its certificate is for that name.
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(name)),
            ports: Some(vec![port("redis", REDIS_PORT), port("instance", INSTANCE_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    vec![headless, by_role(names::writable(name), "primary"), by_role(names::read_only(name), "replica")]
}

/// One instance goes at a time. Of a lone one the eviction is let through: nothing would ever be gained by waiting.
fn budget(cluster: &RedisCluster, validated: &ValidatedCluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::metadata(cluster, validated.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&validated.name)),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Metadata of a Secret that the operator makes: it goes with its cluster.
pub(super) fn secret_metadata(cluster: &RedisCluster, name: String) -> ObjectMeta {
    names::metadata(cluster, name)
}
