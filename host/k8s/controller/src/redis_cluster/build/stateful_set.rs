//! The pods of a cluster. Pure.

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec,
    Probe, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use redkeep_core::managed::{INSTANCE_PORT, LIVE_PATH, READY_PATH, REDIS_PORT};
use redkeep_k8s_api::common::DeletionPolicy;
use redkeep_k8s_api::redis_cluster::{EphemeralStorage, ExtraVolume, ImagePullPolicy, RedisCluster};

use super::{claim, restore};
use crate::common::digest;
use crate::common::source::password_of;
use crate::redis_cluster::names;
use crate::redis_cluster::validate::ValidatedCluster;

/// The container that runs Redis.
pub(in crate::redis_cluster) const CONTAINER: &str = "redis";
/// Where the init container puts the program.
const PROGRAM: &str = "/redkeep/redkeep-instance";
/// Tells an instance T: one that runs keeps to what it was made with.
pub(in crate::redis_cluster) const FENCING: &str = "REDKEEP_FENCING_SECONDS";
/// The key under which the password is mounted, whatever it is in its Secret.
const PASSWORD: &str = "password";

/// Where a pod's volumes are mounted.
const MOUNTS: [(&str, &str, bool); 3] =
    [("data", "/data", false), ("instance", "/redkeep", false), ("tmp", "/tmp", false)];

/// What the pods need besides the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::redis_cluster) struct PodFacts {
    /// The operator's own image: it brings the program of the instances.
    pub(in crate::redis_cluster) operator_image: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub(in crate::redis_cluster) operator_user: String,
    /// The Secret with certificate and token.
    pub(in crate::redis_cluster) identity_secret: String,
}

/// The `StatefulSet`. `replicas` differs from the spec's while the primary's place would go.
pub(in crate::redis_cluster) fn stateful_set(
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    facts: &PodFacts,
    replicas: i32,
) -> StatefulSet {
    let name = &validated.name;
    let mut template = template(cluster, validated, facts);
    let hash = template_hash(&template);
    template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
        .insert(names::TEMPLATE.to_owned(), hash);
    let claims = validated.storage.as_ref().map(|storage| {
        vec![PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(names::CLAIM.to_owned()),
                labels: Some(names::all_labels(cluster)),
                ..ObjectMeta::default()
            },
            spec: Some(claim::spec(storage)),
            status: None,
        }]
    });
    let policy = validated.storage.as_ref().map(|storage| StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(
            match storage.deletion_policy {
                DeletionPolicy::Delete => "Delete",
                DeletionPolicy::Retain => "Retain",
            }
            .to_owned(),
        ),
        // Scaled down by mistake, and up again: the data is still there.
        when_scaled: Some("Retain".to_owned()),
    });
    StatefulSet {
        metadata: names::metadata(cluster, name.clone()),
        spec: Some(StatefulSetSpec {
            service_name: Some(names::headless(name)),
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: Some(names::selector(name)), ..LabelSelector::default() },
            pod_management_policy: Some("Parallel".to_owned()),
            // Which pod goes, and when, depends on who is primary.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: policy,
            volume_claim_templates: claims,
            template,
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// A `StatefulSet`'s claims cannot be changed: those that are there are kept, and grow each by itself.
pub(in crate::redis_cluster) fn keep_claims(set: &mut StatefulSet, existing: Option<&StatefulSet>) {
    if let (Some(spec), Some(existing)) = (&mut set.spec, existing.and_then(|set| set.spec.as_ref())) {
        spec.volume_claim_templates.clone_from(&existing.volume_claim_templates);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            claim.status = None;
        }
    }
}

/// By what an outdated pod is known. Not by the `StatefulSet`'s own revision: the number of instances is in the template, and
/// exchanging every pod because there is one more would be too much.
fn template_hash(template: &PodTemplateSpec) -> String {
    let mut template = template.clone();
    for container in template.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        container.env.get_or_insert_default().retain(|variable| variable.name != "REDKEEP_INSTANCES");
    }
    let text = serde_json::to_vec(&template).unwrap_or_default();
    digest::short(&text)
}

/// The hash that pods of this template carry.
pub(in crate::redis_cluster) fn hash_of(set: &StatefulSet) -> Option<&String> {
    set.spec.as_ref()?.template.metadata.as_ref()?.annotations.as_ref()?.get(names::TEMPLATE)
}

fn template(cluster: &RedisCluster, validated: &ValidatedCluster, facts: &PodFacts) -> PodTemplateSpec {
    let spec = &cluster.spec;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::all_labels(cluster)),
            annotations: Some(
                spec.annotations
                    .clone()
                    .into_iter()
                    .chain([("kubectl.kubernetes.io/default-container".to_owned(), CONTAINER.to_owned())])
                    .collect(),
            ),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(validated.service_account.clone()),
            // It asks the API server who is primary, and who gives it orders.
            automount_service_account_token: Some(true),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(spec.termination_grace_period_seconds),
            affinity: Some(spec.affinity.clone().unwrap_or_else(|| apart(&validated.name))),
            tolerations: some(&spec.tolerations),
            node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
            topology_spread_constraints: some(&spec.topology_spread_constraints),
            priority_class_name: spec.priority_class_name.clone(),
            image_pull_secrets: restore::pull_secrets(cluster),
            security_context: Some(spec.pod_security_context.clone().unwrap_or_else(|| pod_security(validated))),
            init_containers: Some(vec![install(cluster, facts)]),
            containers: vec![redis(cluster, validated, facts)],
            volumes: Some(volumes(cluster, validated, facts)),
            ..PodSpec::default()
        }),
    }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Instances prefer different nodes.
fn apart(name: &str) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(LabelSelector {
                        match_labels: Some(names::selector(name)),
                        ..LabelSelector::default()
                    }),
                    topology_key: "kubernetes.io/hostname".to_owned(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// What the pod security standard `restricted` asks for.
fn pod_security(validated: &ValidatedCluster) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(validated.user),
        run_as_group: Some(validated.group),
        fs_group: Some(validated.group),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security(cluster: &RedisCluster) -> SecurityContext {
    cluster.spec.security_context.clone().unwrap_or_else(|| SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    })
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn install(cluster: &RedisCluster, facts: &PodFacts) -> Container {
    Container {
        name: "install".to_owned(),
        image: Some(facts.operator_image.clone()),
        command: Some(["redkeep-instance", "install", PROGRAM].map(str::to_owned).to_vec()),
        security_context: Some(container_security(cluster)),
        resources: cluster.spec.resources.clone(),
        volume_mounts: Some(vec![mount("instance", "/redkeep", false)]),
        ..Container::default()
    }
}

fn redis(cluster: &RedisCluster, validated: &ValidatedCluster, facts: &PodFacts) -> Container {
    let spec = &cluster.spec;
    let policy = spec.image_pull_policy.map(|policy| match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    });
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        ..ContainerPort::default()
    };
    let mut mounts: Vec<VolumeMount> =
        MOUNTS.iter().map(|(name, path, read_only)| mount(name, path, *read_only)).collect();
    mounts.push(mount("redkeep-config", "/redkeep-config", true));
    mounts.push(mount("redkeep-identity", "/redkeep-identity", true));
    if password_of(cluster).is_some() {
        mounts.push(mount("redis-auth", "/redis-auth", true));
    }
    if spec.tls.is_some() {
        mounts.push(mount("redis-tls", "/redis-tls", true));
    }
    mounts.extend(spec.volume_mounts.iter().map(|extra| mount(&extra.name, &extra.mount_path, extra.read_only)));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image_name.clone()),
        image_pull_policy: policy.map(str::to_owned),
        command: Some([PROGRAM, "run"].map(str::to_owned).to_vec()),
        env: Some(environment(cluster, validated, facts)),
        ports: Some(vec![port("redis", REDIS_PORT), port("instance", INSTANCE_PORT)]),
        resources: spec.resources.clone(),
        security_context: Some(container_security(cluster)),
        // Loading may last as long as it likes: only the instance itself must come up.
        startup_probe: Some(probe(LIVE_PATH, 1, 3, 120)),
        liveness_probe: Some(probe(LIVE_PATH, 10, 5, 6)),
        readiness_probe: Some(probe(READY_PATH, 2, 3, 2)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn probe(path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(INSTANCE_PORT)),
            scheme: Some("HTTPS".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn environment(cluster: &RedisCluster, validated: &ValidatedCluster, facts: &PodFacts) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
    };
    let mut variables = vec![
        field("REDKEEP_POD", "metadata.name"),
        field("REDKEEP_NAMESPACE", "metadata.namespace"),
        field("REDKEEP_POD_IP", "status.podIP"),
        plain("REDKEEP_CLUSTER", validated.name.clone()),
        plain("REDKEEP_OPERATOR", facts.operator_user.clone()),
        plain(FENCING, validated.fencing.as_secs().to_string()),
        plain("REDKEEP_GRACE_SECONDS", cluster.spec.termination_grace_period_seconds.to_string()),
        plain("REDKEEP_INSTANCES", validated.instances.to_string()),
    ];
    if cluster.spec.tls.as_ref().is_some_and(|tls| tls.require_client_certificate) {
        variables.push(plain("REDKEEP_REQUIRE_CLIENT_CERTIFICATE", "true".to_owned()));
    }
    variables
}

fn volumes(cluster: &RedisCluster, validated: &ValidatedCluster, facts: &PodFacts) -> Vec<Volume> {
    let spec = &cluster.spec;
    let mut volumes = Vec::new();
    if let Some(ephemeral) = &spec.ephemeral {
        volumes.push(empty("data", Some(ephemeral)));
    }
    volumes.push(empty("instance", None));
    volumes.push(empty("tmp", None));
    volumes.push(Volume {
        name: "redkeep-config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::config(&validated.name),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    });
    volumes.push(secret("redkeep-identity", &facts.identity_secret, None));
    if let Some((name, key)) = password_of(cluster) {
        // Never optional: without its Secret the pod must not start, for Redis would be open to everybody.
        volumes.push(secret("redis-auth", &name, Some((&key, PASSWORD))));
    }
    if let Some(tls) = &spec.tls {
        volumes.push(secret("redis-tls", &tls.secret.name, None));
    }
    volumes.extend(spec.volumes.iter().map(extra));
    volumes
}

fn secret(volume: &str, name: &str, item: Option<(&str, &str)>) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            optional: None,
            items: item.map(|(key, path)| vec![KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None }]),
            default_mode: Some(0o440),
        }),
        ..Volume::default()
    }
}

fn empty(volume: &str, settings: Option<&EphemeralStorage>) -> Volume {
    let size_limit = settings.and_then(|settings| settings.size_limit.clone()).map(Quantity);
    Volume {
        name: volume.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit, medium: None }),
        ..Volume::default()
    }
}

fn extra(extra: &ExtraVolume) -> Volume {
    if let Some(reference) = &extra.secret {
        return secret(&extra.name, &reference.name, None);
    }
    let mut volume = Volume { name: extra.name.clone(), ..Volume::default() };
    if let Some(reference) = &extra.config_map {
        volume.config_map =
            Some(ConfigMapVolumeSource { name: reference.name.clone(), ..ConfigMapVolumeSource::default() });
    } else if let Some(reference) = &extra.claim {
        volume.persistent_volume_claim =
            Some(PersistentVolumeClaimVolumeSource { claim_name: reference.name.clone(), read_only: None });
    } else {
        return empty(&extra.name, extra.empty_dir.as_ref());
    }
    volume
}
