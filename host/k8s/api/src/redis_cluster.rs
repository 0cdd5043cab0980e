//! `RedisCluster`: managed Redis, one primary and its replicas, that can be born from a backup.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, PodSecurityContext, ResourceRequirements, SecurityContext, Toleration, TopologySpreadConstraint,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{DecryptionSettings, LocalReference, SecretKey};
use crate::redis_backup::{active_deadline, start_deadline};
use crate::redis_cluster_status::RedisClusterStatus;
use crate::redis_restore::BackupSelection;

fn one_instance() -> i32 {
    1
}

fn yes() -> bool {
    true
}

/// How long an instance that reaches nobody keeps taking writes, at most.
fn fencing_seconds() -> i32 {
    15
}

/// Redis writes what it holds before it stops.
fn termination_grace() -> i64 {
    120
}

/// A Redis of so many instances.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "RedisCluster",
    plural = "redisclusters",
    shortname = "rc",
    category = "redkeep",
    namespaced,
    status = "RedisClusterStatus",
    derive = "PartialEq",
    doc = "A managed Redis: one primary and its replicas.",
    label("app.kubernetes.io/part-of", "redkeep"),
    scale(spec_replicas_path = ".spec.instances", status_replicas_path = ".status.instances", label_selector_path = ".status.selector"),
    printcolumn(name = "Instances", type_ = "integer", json_path = ".spec.instances"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyInstances"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Image", type_ = "string", priority = "1", json_path = ".spec.imageName"),
    validation = cel::name_length(45, "the names and labels of its pods are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must begin with a letter and hold letters, digits and hyphens: Services are named by it"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = cel::exactly_one(&["storage", "ephemeral"]),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage)").message("storage and ephemeral cannot be exchanged for one another: restore a backup into a new RedisCluster"),
    validation = Rule::new("has(self.tls) == has(oldSelf.tls) || (self.instances == 1 && oldSelf.instances == 1)").message("tls can be set or removed only while there is one instance: one with TLS and one without cannot follow one another"),
    validation = Rule::new("((!has(self.auth) || self.auth.enabled) == (!has(oldSelf.auth) || oldSelf.auth.enabled) && (has(self.auth) && has(self.auth.secret)) == (has(oldSelf.auth) && has(oldSelf.auth.secret)) && (!has(self.auth) || !has(self.auth.secret) || !has(oldSelf.auth) || !has(oldSelf.auth.secret) || self.auth.secret == oldSelf.auth.secret)) || (self.instances == 1 && oldSelf.instances == 1)").message("auth can be changed only while there is one instance: two with different passwords cannot follow one another. To exchange the password, write the new one into its Secret"),
    validation = cel::immutable_within("bootstrap", &["backupName", "storageRef", "backupId", "latest", "before", "fromNamespace", "fromCluster", "until"]).message("bootstrap is immutable, but for decryption, method and deadlines: it says what the cluster was born from"),
    validation = Rule::new("!has(self.volumeMounts) || (has(self.volumes) && self.volumeMounts.all(mount, self.volumes.exists(volume, volume.name == mount.name)))").message("every volumeMount must name one of volumes"),
)]
pub struct RedisClusterSpec {
    /// One primary, the others its replicas.
    #[serde(default = "one_instance")]
    #[schemars(extend("minimum" = 1, "maximum" = 9))]
    pub instances: i32,
    /// The Redis or Valkey image.
    #[schemars(extend("minLength" = 1, "maxLength" = 512, "pattern" = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"))]
    pub image_name: String,
    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets for pulling it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8))]
    pub image_pull_secrets: Vec<LocalReference>,
    /// A claim for each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ClusterStorage>,
    /// No claims: an instance that restarts is empty, and fills itself from the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralStorage>,
    /// Lines of `redis.conf`. What Redis can change while it runs is applied so, the rest by a rolling restart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[x_kube(
        validation = cel::no_reserved_directives(),
        validation = cel::no_directives_with_fields(),
        validation = Rule::new("self.all(key, key.matches('^[A-Za-z][A-Za-z0-9-]*$') && !self[key].contains('\\n'))").message("must be names of directives with one line each"),
    )]
    pub redis_config: BTreeMap<String, String>,
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ClusterAuth>,
    /// TLS for clients and replication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// What this cluster is born from; by default it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// The Secret with the bucket's credentials, for `bootstrap` and for backups that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_credentials_secret: Option<LocalReference>,
    /// What happens when the primary is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// Requests and limits of Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Nodes to run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Nodes and pods to be near to or far from; by default instances prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that do not keep it away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32))]
    pub tolerations: Vec<Toleration>,
    /// How instances are spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Security of the pod; by default what the pod security standard `restricted` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security_context: Option<PodSecurityContext>,
    /// Security of its containers; by default what the pod security standard `restricted` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.privileged) || !self.privileged").message("privileged containers are refused"))]
    pub security_context: Option<SecurityContext>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub priority_class_name: Option<String>,
    /// The service account of the pods; by default `NAME-redis`, which may look at its own RedisCluster and nothing else. Another
    /// must be on the operator's list, and is given that right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub service_account_name: Option<String>,
    /// How long an instance has to end: a primary hands over first, for which it takes three quarters at most, then Redis writes what
    /// it holds; then it is killed.
    #[serde(default = "termination_grace")]
    #[schemars(extend("minimum" = 1, "maximum" = 3600))]
    pub termination_grace_period_seconds: i64,
    /// Labels of everything made for the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('redis.io/') && !key.startsWith('app.kubernetes.io/'))").message("labels below redis.io/ and app.kubernetes.io/ are the operator's"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of everything made for the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
    /// Further volumes of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<ExtraVolume>,
    /// Where Redis finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("minItems" = 1, "maxItems" = 16))]
    pub volume_mounts: Vec<ExtraMount>,
    /// A PodDisruptionBudget that lets one instance go at a time.
    #[serde(default = "yes")]
    pub pod_disruption_budget: bool,
    /// Exchanges the Services' type and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceSettings>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Never.
    Never,
}

/// A claim for each instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.storageClass) == has(oldSelf.storageClass) && (!has(self.storageClass) || self.storageClass == oldSelf.storageClass)").message("storageClass is immutable: restore a backup into a new RedisCluster"),
)]
pub struct ClusterStorage {
    /// Its size, such as `10Gi`. It may grow, where the storage class allows.
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("must be a size such as 10Gi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message("cannot be reduced"),
    )]
    #[schemars(extend("minLength" = 1, "maxLength" = 32))]
    pub size: String,
    /// Its storage class; by default the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub storage_class: Option<String>,
    /// What happens to the claims when the RedisCluster is deleted.
    #[serde(default)]
    pub deletion_policy: crate::common::DeletionPolicy,
}

/// No claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralStorage {
    /// How large the data may become on the node, such as `2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = "^[0-9]+([kMGT]|[KMGT]i)?$"))]
    pub size_limit: Option<String>,
}

/// The password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.secret) || self.enabled").message("secret has no meaning with enabled: false"))]
pub struct ClusterAuth {
    /// Whether clients need a password.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The password; by default the operator makes one and names its Secret in the status. A new one that is written into the Secret is
    /// taken up while Redis runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,
}

/// TLS for clients and replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTls {
    /// A Secret with `tls.crt`, `tls.key` and `ca.crt`, as cert-manager makes them. The operator's tasks ask for `*.NAME-r.NAMESPACE.svc`,
    /// clients for the Services as they write them, such as `NAME-rw` or `NAME-rw.NAMESPACE.svc`. Renewed certificates are taken up.
    pub secret: LocalReference,
    /// Whether clients need a certificate. Replicas and tasks are clients and show the one of the Secret, which then must be one for
    /// clients too.
    #[serde(default)]
    pub require_client_certificate: bool,
}

/// What a cluster is born from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// Which backup.
    #[serde(flatten)]
    pub from: BackupSelection,
    /// With what an encrypted backup is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decryption: Option<DecryptionSettings>,
    /// The BackupMethod that reads it; by default whichever reads its artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 52, "pattern" = cel::LABEL_PATTERN))]
    pub method: Option<String>,
    /// Demand exactly this plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 71, "pattern" = cel::DIGEST_PATTERN))]
    pub method_digest: Option<String>,
    /// The restore fails when it lasts longer.
    #[serde(default = "active_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 604_800))]
    pub active_deadline_seconds: i64,
    /// The restore fails when its pod does not start within this.
    #[serde(default = "start_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 86_400))]
    pub start_deadline_seconds: i64,
}

/// What happens when the primary is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// An instance that for so long has reached neither the Kubernetes API nor every other instance stops Redis; a new
    /// primary is promoted after that and a margin.
    #[serde(default = "fencing_seconds")]
    #[schemars(extend("minimum" = 5, "maximum" = 600))]
    pub fencing_seconds: i32,
    /// `min-replicas-to-write`: the primary refuses writes with fewer replicas.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 8))]
    pub min_replicas_to_write: i32,
    /// `min-replicas-max-lag` in seconds: bounds what an unplanned failover may lose.
    #[serde(default = "max_lag")]
    #[schemars(extend("minimum" = 1, "maximum" = 600))]
    pub min_replicas_max_lag: i32,
}

fn max_lag() -> i32 {
    10
}

/// A further volume. Never a path of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["secret", "configMap", "emptyDir", "claim"]))]
pub struct ExtraVolume {
    /// Its name within the pod.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    #[x_kube(validation = Rule::new("!(self in ['data', 'instance', 'redis-auth', 'redis-tls', 'redkeep-config', 'redkeep-identity', 'tmp'])").message("data, instance, redis-auth, redis-tls, redkeep-config, redkeep-identity and tmp are the operator's"))]
    pub name: String,
    /// A Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalReference>,
    /// A ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalReference>,
    /// An empty folder that goes with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EphemeralStorage>,
    /// A PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<LocalReference>,
}

/// Where Redis finds a further volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtraMount {
    /// The volume's name.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub name: String,
    /// The path in the container.
    #[schemars(extend("minLength" = 2, "maxLength" = 256, "pattern" = "^/[A-Za-z0-9._/-]+$"))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '..') && !self.matches('^/(data|redkeep|redkeep-config|redkeep-identity|redis-auth|redis-tls|tmp|var/run|proc|sys|dev)(/|$)')").message("must not hold `..`, nor lie below /data, /redkeep, /redkeep-config, /redkeep-identity, /redis-auth, /redis-tls, /tmp, /var/run, /proc, /sys or /dev"))]
    pub mount_path: String,
    /// Whether it can be written.
    #[serde(default)]
    pub read_only: bool,
}

/// The Services `NAME-rw` (the primary), `NAME-ro` (replicas), `NAME-r` (all, headless).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSettings {
    /// The type of `NAME-rw` and `NAME-ro`.
    #[serde(rename = "type", default)]
    pub kind: ServiceType,
    /// Annotations of `NAME-rw` and `NAME-ro`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Within the cluster.
    #[default]
    ClusterIP,
    /// Through a load balancer.
    LoadBalancer,
}
