//! A live target of a restore: found, connected, and described before anything is written.

use std::sync::Arc;

use redkeep_core::method::code;
use redkeep_core::provider::{LiveTarget, ProviderError};
use redkeep_core::redis::RedisServer;
use redkeep_core::secret::Secret;
use redkeep_core::task::EndpointSpec;
use redkeep_core::{Attribute, Class};

use crate::cluster_server::ClusterServer;
use crate::connection::{Connection, Node};
use crate::discovery::Endpoint;
use crate::discovery::cluster;
use crate::discovery::probe::Probe;
use crate::endpoint::Deployment;
use crate::error::AccessError;
use crate::load::slots::SLOTS;
use crate::resp::Value;
use crate::server::Server;
use crate::socket;

/// Connects a target: a server that takes writes, a Sentinel's primary, or all primaries of a cluster.
///
/// # Errors
/// As `resolve`; and `Refused` for a replica.
pub async fn connect_target(
    spec: &EndpointSpec,
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
) -> Result<LiveTarget, ProviderError> {
    let Some(url) = &spec.url else {
        return Err(ProviderError::new(Class::Usage, "NoTarget", "no address of a target was given")
            .with_help("give --target redis://host:port, or --target-dir"));
    };
    if socket::is_address(url) {
        return other_system(spec, url, password.as_ref()).await;
    }
    let endpoint = Endpoint::new(spec, url, password, sentinel_password)?;
    if matches!(endpoint.url.deployment, Deployment::Cluster(_)) {
        return Ok(clustered(&endpoint).await?);
    }
    let node = endpoint.primary().await?;
    let mut connection = node.connect().await?;
    let probe = Probe::over(&mut connection, &node).await?;
    writable(&node, &probe)?;
    if probe.is_cluster() {
        return Err(ProviderError::new(
            Class::Refused,
            "NodeOfACluster",
            format!("failed to use {} as a target: it is one node of a cluster", node.address),
        )
        .with_help(format!("write redis-cluster://{}", node.address)));
    }
    let facts = facts(&mut connection, &node, &probe).await;
    let address = node.address.to_string();
    let redis: Arc<dyn RedisServer> = Arc::new(Server::new(node));
    Ok(LiveTarget {
        address: endpoint.url.to_string(),
        cluster: false,
        keys: probe.keys(),
        facts,
        primaries: vec![(address, Arc::clone(&redis))],
        redis: Some(redis),
        socket: None,
    })
}

/// Another system: what it holds and takes, only its method can know.
async fn other_system(spec: &EndpointSpec, url: &str, password: Option<&Secret>) -> Result<LiveTarget, ProviderError> {
    let (address, socket) = socket::open(spec, url, password, code::TARGET_IO).await?;
    let (facts, primaries) = (Vec::new(), Vec::new());
    Ok(LiveTarget { address, cluster: false, keys: 0, facts, redis: None, socket: Some(socket), primaries })
}

async fn clustered(endpoint: &Endpoint) -> Result<LiveTarget, AccessError> {
    let shards = cluster::read(&endpoint.nodes, endpoint.url.tls).await?;
    let mut slots = vec![None; SLOTS];
    let (mut nodes, mut keys, mut about) = (Vec::new(), 0, Vec::new());
    for (index, shard) in shards.iter().enumerate() {
        for slot in shard.slots.iter().flat_map(|range| range.first..=range.last) {
            if let Some(owner) = slots.get_mut(usize::from(slot)) {
                *owner = u16::try_from(index).ok();
            }
        }
        let node = endpoint.at(shard.primary.clone())?;
        let mut connection = node.connect().await?;
        let probe = Probe::over(&mut connection, &node).await?;
        writable(&node, &probe)?;
        keys += probe.keys();
        if index == 0 {
            about = facts(&mut connection, &node, &probe).await;
        }
        nodes.push(node);
    }
    let alone = |node: &Node| -> (String, Arc<dyn RedisServer>) {
        (node.address.to_string(), Arc::new(Server::new(node.clone())))
    };
    Ok(LiveTarget {
        address: endpoint.url.to_string(),
        cluster: true,
        primaries: nodes.iter().map(alone).collect(),
        keys,
        facts: about,
        redis: Some(Arc::new(ClusterServer::new(nodes, slots))),
        socket: None,
    })
}

fn writable(node: &Node, probe: &Probe) -> Result<(), AccessError> {
    if probe.is_loading() {
        return Err(AccessError::Loading { address: node.address.to_string() });
    }
    if probe.is_primary() {
        return Ok(());
    }
    let primary = probe.primary_address().map(|address| format!(", which is {address}")).unwrap_or_default();
    Err(AccessError::Refused {
        reason: "TargetIsReplica",
        why: format!("failed to use {} as a target: it is a replica", node.address),
        help: format!("restore into its primary{primary}"),
    })
}

async fn facts(connection: &mut Connection, node: &Node, probe: &Probe) -> Vec<Attribute> {
    let mut facts = vec![
        Attribute::new("server-name", probe.server_name()),
        Attribute::new("server-version", probe.server_version()),
        Attribute::new("rdb-version", rdb_version(connection, node, probe).await),
    ];
    // What may not be asked (CONFIG is often denied) is left out: plugins take absent for unknown.
    if let Some(databases) = configured(connection, node, "databases").await {
        facts.push(Attribute::new("databases", databases));
    }
    let appendonly = match probe.get("aof_enabled") {
        Some(enabled) => Some(if enabled == "1" { "yes" } else { "no" }.to_owned()),
        None => configured(connection, node, "appendonly").await,
    };
    facts.extend(appendonly.map(|value| Attribute::new("appendonly", value)));
    facts
}

async fn configured(connection: &mut Connection, node: &Node, name: &str) -> Option<String> {
    let command = [node.name_of("CONFIG"), "GET".into(), bytes::Bytes::copy_from_slice(name.as_bytes())];
    connection.call_named("CONFIG", &command).await.ok()?.elements().get(1)?.text()
}

/// The newest RDB version that the server's `RESTORE` takes. `FUNCTION DUMP` carries it in its last 10 bytes (2 of
/// version, 8 of CRC64) even when there are no functions; where it is denied or unknown, the release says it.
async fn rdb_version(connection: &mut Connection, node: &Node, probe: &Probe) -> u16 {
    let dump = connection.call_named("FUNCTION", &[node.name_of("FUNCTION"), "DUMP".into()]).await;
    let said = match dump {
        Ok(Value::Bulk(Some(payload))) => payload.len().checked_sub(10).and_then(|at| {
            let version: [u8; 2] = payload.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_le_bytes(version))
        }),
        _ => None,
    };
    said.unwrap_or_else(|| rdb_version_of(probe.server_name(), probe.server_version()))
}

/// The RDB version that a release writes, and the newest that it reads.
pub(crate) fn rdb_version_of(name: &str, version: &str) -> u16 {
    let mut numbers = version.split('.').map(|number| number.parse::<u16>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if name == "valkey" {
        return if release >= (9, 0) { 80 } else { 11 };
    }
    match release {
        (..=4, _) => 8,
        (5 | 6, _) => 9,
        (7, 0 | 1) => 10,
        (7, 2 | 3) => 11,
        _ => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_their_rdb_versions() {
        for (name, version, wanted) in [
            ("redis", "6.2.14", 9),
            ("redis", "7.0.15", 10),
            ("redis", "7.2.4", 11),
            ("redis", "7.4.1", 12),
            ("redis", "8.2.3", 12),
            ("valkey", "8.1.8", 11),
            ("valkey", "9.0.0", 80),
        ] {
            assert_eq!(rdb_version_of(name, version), wanted, "{name} {version}");
        }
    }
}
