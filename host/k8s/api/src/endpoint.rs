//! Redis servers that already run: where a backup comes from, or where a restore goes to.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel;
use crate::common::{LocalReference, SecretKey};

fn redis_port() -> i32 {
    6379
}

fn sentinel_port() -> i32 {
    26379
}

fn my_master() -> String {
    "mymaster".to_owned()
}

fn password_key() -> String {
    "password".to_owned()
}

/// Redis servers of the namespace, or elsewhere by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = cel::exactly_one(&["service", "statefulSet", "redisFailover", "sentinel", "endpoints"]),
    validation = Rule::new("self.mode != 'cluster' || !has(self.statefulSet) || !has(self.statefulSet.files)").message("statefulSet.files goes with mode replication: files are one shard's"),
    validation = Rule::new("self.mode != 'cluster' || !(has(self.sentinel) || has(self.redisFailover))").message("mode cluster goes with service, statefulSet or endpoints")
)]
pub struct RedisEndpoint {
    /// The pods behind a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceEndpoint>,
    /// The pods of a StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<StatefulSetEndpoint>,
    /// A RedisFailover (`databases.spotahome.com/v1`), through its Sentinels and its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_failover: Option<LocalReference>,
    /// Sentinels that know the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<SentinelEndpoint>,
    /// `HOST:PORT` of the primary and its replicas, or of some nodes of a Redis Cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = cel::each(cel::host_and_port_shape()), validation = cel::each(cel::host_and_port_host()))]
    #[schemars(extend("minItems" = 1, "maxItems" = 32, "items" = {"type": "string", "minLength": 3, "maxLength": 262}))]
    pub endpoints: Vec<String>,
    /// How the servers stand to one another.
    #[serde(default)]
    pub mode: Mode,
    /// The name under which storage keeps the backups; by default the name of the service, StatefulSet, RedisFailover or
    /// master, or the first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub name: Option<String>,
    /// User and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RedisAuth>,
    /// TLS; without it the connection is in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// Commands that the server calls by other names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub renamed_commands: BTreeMap<String, String>,
}

/// How servers stand to one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One primary and its replicas: one shard.
    #[default]
    Replication,
    /// A Redis Cluster: every shard of it.
    Cluster,
}

/// The pods behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoint {
    /// The Service's name.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub name: String,
    /// The port on which Redis listens in the pods.
    #[serde(default = "redis_port")]
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: i32,
}

/// The pods of a StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSetEndpoint {
    /// The StatefulSet's name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::NAME_PATTERN))]
    pub name: String,
    /// The port on which Redis listens in the pods.
    #[serde(default = "redis_port")]
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: i32,
    /// Read the data directory through the pod's claim instead of the replication link (backups only). The server is chosen
    /// as `target` says; the task then runs beside its pod, as its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<DataFiles>,
}

/// The data directory of a StatefulSet's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataFiles {
    /// The name of the volume claim template that holds it.
    #[serde(default = "data_volume")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub volume: String,
    /// The folder in the volume, relative to its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = cel::path())]
    #[schemars(extend("maxLength" = 512, "pattern" = "^([A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*/?)?$"))]
    pub path: String,
}

fn data_volume() -> String {
    "data".to_owned()
}

/// Sentinels that know the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::exactly_one(&["service", "endpoints"]))]
pub struct SentinelEndpoint {
    /// The Service of the Sentinels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = cel::LABEL_PATTERN))]
    pub service: Option<String>,
    /// Their port, with `service`.
    #[serde(default = "sentinel_port")]
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: i32,
    /// `HOST:PORT` of Sentinels instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = cel::each(cel::host_and_port_shape()), validation = cel::each(cel::host_and_port_host()))]
    #[schemars(extend("minItems" = 1, "maxItems" = 16, "items" = {"type": "string", "minLength": 3, "maxLength": 262}))]
    pub endpoints: Vec<String>,
    /// The name under which they know the primary.
    #[serde(default = "my_master")]
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = "^[A-Za-z0-9._-]+$"))]
    pub master: String,
    /// The Sentinels' password, where they have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
}

/// User and password, from a Secret of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = cel::at_most_one(&["username", "usernameKey"]))]
pub struct RedisAuth {
    /// The Secret.
    pub secret: LocalReference,
    /// The key with the password.
    #[serde(default = "password_key")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::KEY_PATTERN))]
    pub password_key: String,
    /// The key with the ACL user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 253, "pattern" = cel::KEY_PATTERN))]
    pub username_key: Option<String>,
    /// The ACL user; by default `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 128, "pattern" = "^\\S+$"))]
    pub username: Option<String>,
}

/// TLS towards Redis. An empty object means: TLS, and the system's certificate authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// A Secret with `ca.crt`, and with `tls.crt` and `tls.key` where the server asks for a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<LocalReference>,
    /// Trust any certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}
