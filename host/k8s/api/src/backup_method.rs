//! `BackupMethod`: a plugin. Cluster-scoped: only who administers the cluster says what a plugin may do.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{CertificateAuthority, LocalReference};

fn component_key() -> String {
    "plugin.wasm".to_owned()
}

/// A plugin, what it may do, and how much it may use.
///
/// It is registered in the operator's namespace, where the Secrets and ConfigMaps that it names are read. A run reads those of
/// its own namespace under the same names: what is not there, or is another component, fails that run with its reason.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "redis.io",
    version = "v1",
    kind = "BackupMethod",
    plural = "backupmethods",
    shortname = "bm",
    category = "redkeep",
    status = "BackupMethodStatus",
    derive = "PartialEq",
    doc = "A plugin that knows how one kind of data is captured and put back.",
    label("app.kubernetes.io/part-of", "redkeep"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.description.version"),
    printcolumn(name = "API", type_ = "string", json_path = ".status.apiVersion"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".status.digest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = "1", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    validation = cel::name_length(52, "the task's name is made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be letters, digits and hyphens: backups name the method by it"),
    validation = Rule::new("!(self.metadata.name in ['rdb', 'aof']) || has(self.spec.source.builtin)").message("rdb and aof are bundled; give another method another name"),
    validation = Rule::new("!has(self.spec.verify) || has(self.spec.source.oci)").message("verify goes with source.oci: only a registry keeps signatures"),
    validation = Rule::new("!has(self.spec.source.builtin) || !has(self.spec.grants) || size(self.spec.grants) == 0").message("what a bundled method is granted is fixed"),
)]
#[serde(rename_all = "camelCase")]
pub struct BackupMethodSpec {
    /// Where the component comes from.
    pub source: MethodSource,
    /// Demand exactly this component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 71, "pattern" = cel::DIGEST_PATTERN))]
    pub digest: Option<String>,
    /// What it may do, such as `redis:replicate` or `files:read:appendonlydir/*`. Nothing is granted by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set", "items" = {"type": "string", "minLength": 1, "maxLength": 256}))]
    pub grants: Vec<String>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MethodLimits>,
    /// Parameters for every backup, written as on the command line; a backup's own win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
    /// Whose signature it must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<SignaturePolicy>,
}

/// Where a component comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["oci", "configMap", "file", "builtin"]))]
pub struct MethodSource {
    /// An OCI registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A ConfigMap (components of up to 1 MiB) of the operator's namespace, and of every namespace with runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A file below the plugin folder of the image that the operator and its tasks run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("minLength" = 1, "maxLength" = 256, "pattern" = "^[A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*\\.wasm$"))]
    pub file: Option<String>,
    /// One that comes with redkeep: `rdb` or `aof`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 52, "pattern" = cel::LABEL_PATTERN))]
    pub builtin: Option<String>,
}

/// A component in an OCI registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// `registry/name@sha256:…`, or `registry/name:tag`, which is resolved once and pinned in the status.
    #[schemars(extend("minLength" = 3, "maxLength" = 512, "pattern" = "^[A-Za-z0-9._:\\[\\]-]+(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]{1,128})?(@sha256:[0-9a-f]{64})?$"))]
    pub reference: String,
    /// A Secret of type `kubernetes.io/dockerconfigjson`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<LocalReference>,
    /// Certificate authorities of the registry, besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// Other hosts, of any port, that the registry may send downloads to, as ghcr.io and Docker Hub do. Credentials never go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "x-kubernetes-list-type" = "set", "items" = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": cel::NAME_PATTERN}))]
    pub redirect_hosts: Vec<String>,
}

/// A component in a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Its name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub name: String,
    /// The key in its `binaryData`.
    #[serde(default = "component_key")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::KEY_PATTERN))]
    pub key: String,
}

/// Whose signature a component must carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignaturePolicy {
    /// The public key (PEM, ECDSA P-256) that cosign signed with.
    #[schemars(extend("minLength" = 1, "maxLength" = 2048, "pattern" = "^-----BEGIN PUBLIC KEY-----"))]
    pub public_key: String,
}

/// What a plugin may use; what is missing has the host's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MethodLimits {
    /// Linear memory, such as `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = cel::SIZE_PATTERN))]
    pub memory: Option<String>,
    /// CPU time without a call of the host in between, such as `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub cpu_slice: Option<String>,
    /// Time of one call, such as `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 2, "maxLength" = 32, "pattern" = cel::DURATION_PATTERN))]
    pub wall_clock: Option<String>,
    /// Bytes written in one call, such as `1T`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = cel::SIZE_PATTERN))]
    pub output_bytes: Option<String>,
    /// Log lines of one call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000_000))]
    pub log_lines: Option<i64>,
}

/// What the plugin is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupMethodStatus {
    /// The generation that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The component that was registered. One of a registry or a ConfigMap is pinned: a tag that moves later changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 71))]
    pub digest: Option<String>,
    /// The OCI reference by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub resolved_reference: Option<String>,
    /// The reference of the spec that this was resolved from: another one is resolved anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub resolved_from: Option<String>,
    /// When it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Time>,
    /// The operator's image then: what lies in the image (`file`, `builtin`) is registered again by another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub registered_by: Option<String>,
    /// The task that registers it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub task_name: Option<String>,
    /// When registering it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted_at: Option<Time>,
    /// The version of the plugin contract that it was built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32))]
    pub api_version: Option<String>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<MethodDescription>,
    /// What it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "items" = {"type": "string", "maxLength": 256}))]
    pub requested: Vec<String>,
    /// What it asks for and has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "items" = {"type": "string", "maxLength": 256}))]
    pub granted: Vec<String>,
    /// What it asks for and has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "items" = {"type": "string", "maxLength": 256}))]
    pub missing: Vec<String>,
    /// The component's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component_bytes: Option<i64>,
    /// How long compiling it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_milliseconds: Option<i64>,
    /// `Accepted`, `Ready`, `Signed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What `describe` said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MethodDescription {
    /// Its name.
    #[schemars(extend("maxLength" = 128))]
    pub name: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("maxLength" = 64))]
    pub version: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub summary: Option<String>,
    /// Types of artifacts that it writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32, "items" = {"type": "string", "maxLength": 64}))]
    pub writes: Vec<String>,
    /// Types of artifacts that it restores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32, "items" = {"type": "string", "maxLength": 64}))]
    pub reads: Vec<String>,
    /// The JSON Schema of its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16_384))]
    pub parameters_schema: Option<String>,
    /// Whatever else it says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub attributes: BTreeMap<String, String>,
}
