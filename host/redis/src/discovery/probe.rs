//! What one server says of itself (`INFO`), and what is made of it.

use std::collections::BTreeMap;
use std::time::Duration;

use redkeep_core::Attribute;

use super::choice::NodeState;
use crate::connection::Node;
use crate::endpoint::Address;
use crate::error::AccessError;
use crate::server::info_of;

/// How long a server that is only asked for its offset may take.
const ASIDE: Duration = Duration::from_secs(3);

/// A server's `INFO`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe {
    lines: BTreeMap<String, String>,
}

impl Probe {
    /// Connects and asks.
    pub(crate) async fn of(node: &Node) -> Result<Self, AccessError> {
        let mut connection = node.connect().await?;
        Self::over(&mut connection, node).await
    }

    /// Asks over a connection that is there.
    pub(crate) async fn over(connection: &mut crate::connection::Connection, node: &Node) -> Result<Self, AccessError> {
        let lines = info_of(connection, node).await?;
        if lines.contains_key("redis_mode") || lines.contains_key("redis_version") {
            Ok(Self { lines })
        } else {
            Err(AccessError::NotRedis {
                address: node.address.to_string(),
                why: "its INFO names no version".to_owned(),
            })
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.lines.get(key).map(String::as_str)
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.get("role") == Some("master")
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.get("cluster_enabled") == Some("1")
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.get("loading") == Some("1")
    }

    /// `redis` or `valkey`. Valkey still calls itself Redis 7.2.4 in `redis_version`.
    pub(crate) fn server_name(&self) -> &str {
        self.get("server_name").unwrap_or("redis")
    }

    pub(crate) fn server_version(&self) -> &str {
        self.get("valkey_version").or_else(|| self.get("redis_version")).unwrap_or_default()
    }

    /// Keys of each database that holds any: `db0`, `db3`, …
    pub(crate) fn databases(&self) -> Vec<(&str, u64)> {
        let number =
            |key: &str| key.strip_prefix("db").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        self.lines
            .iter()
            .filter(|(key, _)| number(key))
            .filter_map(|(key, value)| Some((key, value.split(',').find_map(|part| part.strip_prefix("keys="))?)))
            .filter_map(|(key, keys)| Some((key.as_str(), keys.parse().ok()?)))
            .collect()
    }

    /// Keys over all databases.
    pub(crate) fn keys(&self) -> u64 {
        self.databases().into_iter().map(|(_, keys)| keys).sum()
    }

    /// Where a replica's primary is.
    pub(crate) fn primary_address(&self) -> Option<Address> {
        let port = self.get("master_port")?.parse().ok()?;
        Some(Address::Tcp { host: self.get("master_host")?.to_owned(), port })
    }

    /// What the choice of a node goes by. `primary_offset`: the primary's own.
    pub(crate) fn state(&self, primary_offset: Option<u64>) -> NodeState {
        let loading = self.is_loading();
        if self.is_primary() {
            return NodeState::Primary { loading };
        }
        let offset = self.number("slave_repl_offset");
        NodeState::Replica {
            loading,
            link_up: self.get("master_link_status") == Some("up"),
            lag: primary_offset.zip(offset).map(|(primary, replica)| primary.saturating_sub(replica)),
            silence: self.number("master_last_io_seconds_ago").unwrap_or(0),
        }
    }

    /// What the host says of a shard to its plugin.
    pub(crate) fn facts(&self, mode: &str, primary_offset: Option<u64>) -> Vec<Attribute> {
        let mut facts = vec![
            Attribute::new("node-role", if self.is_primary() { "primary" } else { "replica" }),
            Attribute::new("server-name", self.server_name()),
            Attribute::new("server-version", self.server_version()),
            Attribute::new("mode", mode),
        ];
        facts.extend(primary_offset.map(|offset| Attribute::new("primary-offset", offset)));
        facts
    }
}

/// The offset of a replica's primary, asked for aside: its failure is no failure of ours.
pub(crate) async fn primary_offset(replica: &Node, probe: &Probe) -> Option<u64> {
    let primary = replica.at(probe.primary_address()?);
    let asked = tokio::time::timeout(ASIDE, Probe::of(&primary)).await;
    asked.ok()?.ok().filter(Probe::is_primary)?.number("master_repl_offset")
}
