//! What the operator and the instances of a managed Redis say to one another (ADR 18). Data and pure rules only.
//!
//! An *instance* is `redkeep-instance`, process 1 of a Redis pod. It obeys [`Orders`], answers with a [`Standing`], and
//! passes on what it knows to its peers. An *epoch* numbers the decisions about who is primary: the operator writes it to
//! the RedisCluster's status before anyone hears of it, and a greater one wins everywhere. A *process* names one start of
//! Redis: a grant is for that start alone, so that a primary that restarts, perhaps emptied, is primary no longer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where instances are asked, over TLS.
pub const INSTANCE_PORT: u16 = 8443;
/// Where Redis listens, with or without TLS.
pub const REDIS_PORT: u16 = 6379;
/// `GET`: a [`Standing`]. For the operator and for peers.
pub const STANDING_PATH: &str = "/v1/standing";
/// `PUT`: [`Orders`]; answers with a [`Standing`], 409 with a [`Refusal`]. For the operator alone.
pub const ORDERS_PATH: &str = "/v1/orders";
/// `PUT`: a [`Notice`]; answers with a [`Notice`]. For the operator and for peers.
pub const NOTICE_PATH: &str = "/v1/notice";
/// `GET`, without a login: 200 while clients are served.
pub const READY_PATH: &str = "/readyz";
/// `GET`, without a login: 200 while the instance itself is well; Redis may be loading.
pub const LIVE_PATH: &str = "/livez";

/// Directives of `redis.conf` that are the instance's, or would reach beyond Redis: no user sets them.
pub const RESERVED_DIRECTIVES: [&str; 39] = [
    "dir",
    "port",
    "tls-port",
    "bind",
    "protected-mode",
    "unixsocket",
    "unixsocketperm",
    "daemonize",
    "supervised",
    "pidfile",
    "logfile",
    "syslog-enabled",
    "replicaof",
    "slaveof",
    "replica-read-only",
    "slave-read-only",
    "replica-announce-ip",
    "replica-announce-port",
    "slave-announce-ip",
    "slave-announce-port",
    "cluster-enabled",
    "cluster-config-file",
    "requirepass",
    "masterauth",
    "masteruser",
    "include",
    "loadmodule",
    "enable-protected-configs",
    "enable-debug-command",
    "enable-module-command",
    "aclfile",
    "rename-command",
    "user",
    "tls-cert-file",
    "tls-key-file",
    "tls-ca-cert-file",
    "tls-ca-cert-dir",
    "tls-auth-clients",
    "tls-replication",
];

/// Directives that have a field of their own in a RedisCluster, and which one.
pub const DIRECTIVES_WITH_FIELDS: [(&str, &str); 4] = [
    ("min-replicas-to-write", "failover.minReplicasToWrite"),
    ("min-replicas-max-lag", "failover.minReplicasMaxLag"),
    ("min-slaves-to-write", "failover.minReplicasToWrite"),
    ("min-slaves-max-lag", "failover.minReplicasMaxLag"),
];

/// What the operator wants of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orders {
    /// Numbers the decision; an instance that knows a greater one refuses.
    pub epoch: u64,
    /// The start of Redis that they are for; another one refuses.
    pub process: String,
    /// What to be.
    pub role: Role,
    /// All other instances.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// `redis.conf` as it should be; what Redis can change while it runs is changed.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// What an instance is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows.
    Replica {
        /// Whom.
        of: Peer,
    },
    /// Follows nobody and takes no writes; keeps what it has. How every instance starts.
    Standby,
    /// A primary pauses its writes, waits until that replica has everything, and becomes [`Role::Standby`]. When the replica
    /// does not get there in time it goes on as primary and says so.
    HandOver {
        /// To whom.
        to: Peer,
    },
}

/// Another instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its pod.
    pub pod: String,
    /// Its address: never a name, for instances are static programs without a resolver.
    pub ip: String,
    /// Its port of Redis; [`REDIS_PORT`] in pods, others where several share a machine.
    #[serde(default = "redis_port")]
    pub redis_port: u16,
    /// Its port of the instance.
    #[serde(default = "instance_port")]
    pub instance_port: u16,
}

fn redis_port() -> u16 {
    REDIS_PORT
}

fn instance_port() -> u16 {
    INSTANCE_PORT
}

/// The newest decision that somebody knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Its number.
    pub epoch: u64,
    /// The pod that is primary by it; `None` while one is being chosen.
    #[serde(default)]
    pub primary: Option<String>,
}

/// What an instance plays now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Played {
    /// Takes writes, by a grant.
    Primary,
    /// Follows.
    Replica,
    /// Follows nobody, takes no writes.
    #[default]
    Standby,
    /// Stopped Redis because it reached neither the Kubernetes API nor every peer.
    Fenced,
}

impl Played {
    /// As the status of a RedisCluster names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
        }
    }
}

/// How an instance stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Standing {
    /// Its pod.
    pub pod: String,
    /// This start of Redis: random, never reused; empty while Redis does not run.
    pub process: String,
    /// What it plays.
    pub role: Played,
    /// The greatest epoch that it knows.
    pub epoch: u64,
    /// The pod is to end: a primary waits a while for orders to hand over, and takes no other grant.
    pub ending: bool,
    /// Redis answers, and has loaded what it had.
    pub serving: bool,
    /// Redis reads its files.
    pub loading: bool,
    /// Its pid's exit or error, whatever a person should know.
    pub message: Option<String>,
    /// `master_replid`.
    pub replication_id: String,
    /// `master_replid2`, while it means something.
    pub previous_replication_id: Option<String>,
    /// `master_repl_offset`, of a replica or former replica `slave_repl_offset`.
    pub offset: u64,
    /// The link to the primary is up.
    pub link_up: bool,
    /// A replica is receiving its first copy.
    pub syncing: bool,
    /// It was in sync with a primary, or was one itself, in this start of Redis: what it has is whole.
    pub in_sync_once: bool,
    /// Seconds since the primary was heard.
    pub lag_seconds: Option<u64>,
    /// Keys over all databases.
    pub keys: u64,
    /// `rdb_last_load_keys_loaded` of this start; `None` before 7.0, or where nothing was loaded.
    pub keys_loaded: Option<u64>,
    /// `rdb_last_load_keys_expired` of this start.
    pub keys_expired: Option<u64>,
    /// `redis_version`, of Valkey `valkey_version`.
    pub version: String,
    /// `redis` or `valkey`.
    pub server: String,
    /// The replica that it handed over to, in this start and this epoch.
    pub handed_over_to: Option<String>,
    /// Why a hand-over was given up.
    pub hand_over_failed: Option<String>,
    /// Directives that differ from the orders and that Redis cannot change while it runs.
    pub restart_for: Vec<String>,
    /// Directives that Redis refused, with its words.
    pub refused_config: BTreeMap<String, String>,
}

/// Why orders were refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// `StaleEpoch`, `OtherProcess`, `NotServing`, `Failed`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// How it stands.
    pub standing: Standing,
}
