//! From an endpoint, as a user wrote it, to shards with a node chosen for each, connected and found readable.
//!
//! Decisions are pure ([`choice`], [`cluster::assemble`]); this file asks and puts together.

pub(crate) mod choice;
pub(crate) mod cluster;
mod nodes;
pub(crate) mod probe;
mod sentinel;

use std::sync::Arc;

use async_trait::async_trait;
use redkeep_core::manifest::SlotRange;
use redkeep_core::method::code;
use redkeep_core::provider::{DataSource, ProviderError, SourceShard};
use redkeep_core::redis::Files;
use redkeep_core::secret::Secret;
use redkeep_core::task::{EndpointSpec, NodePreference};
use redkeep_core::{Attribute, Class};

use crate::connection::{Login, Node};
use crate::endpoint::{Address, Deployment, EndpointUrl};
use crate::error::AccessError;
use crate::files::LocalFiles;
use crate::server::Server;
use crate::socket;
use crate::transport::Transport;
use choice::choose;
use cluster::ClusterShard;
use probe::Probe;

/// An endpoint, ready to connect.
pub(crate) struct Endpoint {
    pub(crate) url: EndpointUrl,
    pub(crate) nodes: Vec<Node>,
    /// The Sentinels, where there are any; then `nodes` is one whose address must be replaced.
    sentinels: Vec<Node>,
}

impl Endpoint {
    pub(crate) fn new(
        spec: &EndpointSpec,
        url: &str,
        password: Option<Secret>,
        sentinel_password: Option<Secret>,
    ) -> Result<Self, AccessError> {
        let url = EndpointUrl::parse(url)?;
        let transport = Transport::new(url.tls.then_some(&spec.tls))?;
        let login = Login {
            username: spec.username.clone().or_else(|| url.username.clone()),
            password: password.or_else(|| url.password.clone()),
        };
        let renamed = Arc::new(
            spec.renamed_commands.iter().map(|(name, new)| (name.to_ascii_uppercase(), new.clone())).collect(),
        );
        let node = |address: &Address| Node {
            address: address.clone(),
            transport: transport.clone(),
            login: login.clone(),
            renamed: Arc::clone(&renamed),
        };
        let (nodes, sentinels) = match &url.deployment {
            Deployment::Standalone(address) => (vec![node(address)], Vec::new()),
            Deployment::Cluster(addresses) | Deployment::Nodes(addresses) => {
                (addresses.iter().map(node).collect(), Vec::new())
            }
            Deployment::Sentinel { sentinels, .. } => {
                let own = Login { username: None, password: sentinel_password };
                let sentinel = |address| Node { login: own.clone(), renamed: Arc::default(), ..node(address) };
                (sentinels.iter().take(1).map(node).collect(), sentinels.iter().map(sentinel).collect())
            }
        };
        Ok(Self { url, nodes, sentinels })
    }

    /// A node of this deployment at another address.
    pub(crate) fn at(&self, address: Address) -> Result<Node, AccessError> {
        let node = self.nodes.first();
        node.map(|node| node.at(address))
            .ok_or_else(|| AccessError::Address { given: self.url.to_string(), why: "no host".to_owned() })
    }

    /// Primary and replicas as the Sentinels say.
    async fn watched(&self, primary: &str) -> Result<(Node, Vec<Node>), AccessError> {
        let watched = sentinel::read(&self.sentinels, primary).await?;
        let replicas = watched.replicas.into_iter().map(|address| self.at(address)).collect::<Result<_, _>>()?;
        Ok((self.at(watched.primary)?, replicas))
    }

    /// The primary to write to.
    pub(crate) async fn primary(&self) -> Result<Node, AccessError> {
        match &self.url.deployment {
            Deployment::Sentinel { primary, .. } => Ok(self.watched(primary).await?.0),
            Deployment::Standalone(address) => self.at(address.clone()),
            Deployment::Nodes(_) => nodes::primary(self).await,
            Deployment::Cluster(_) => {
                Err(AccessError::Address { given: self.url.to_string(), why: "it has many primaries".to_owned() })
            }
        }
    }
}

struct Source {
    address: String,
    mode: &'static str,
    shards: Vec<SourceShard>,
    /// Of a cluster: how to ask again, and what was said.
    cluster: Option<(Vec<Node>, bool, Vec<ClusterShard>)>,
}

/// Resolves a source: finds its shards, chooses a node for each, and makes sure that it can be read.
///
/// # Errors
/// Unreachable, login, permission, TLS, not a Redis, loading, a replica without its primary, slots on the move; each with
/// `help`.
pub async fn resolve(
    spec: &EndpointSpec,
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
) -> Result<Arc<dyn DataSource>, ProviderError> {
    let files = match &spec.data_dir {
        Some(path) => Some(Arc::new(LocalFiles::open(path)?) as Arc<dyn Files>),
        None => None,
    };
    let source = match (&spec.url, files) {
        (None, None) => {
            return Err(ProviderError::new(
                Class::Usage,
                "NoSource",
                "neither an address nor a data directory was given",
            )
            .with_help("give --source redis://host:port, or the path of a data directory"));
        }
        (None, Some(files)) => directory(spec, files),
        (Some(url), files) if socket::is_address(url) => other_system(spec, url, password.as_ref(), files).await?,
        (Some(url), files) => {
            let endpoint = Endpoint::new(spec, url, password, sentinel_password)?;
            let mut source = match &endpoint.url.deployment {
                Deployment::Standalone(_) => standalone(&endpoint).await?,
                Deployment::Sentinel { primary, .. } => watched(&endpoint, primary, spec.node).await?,
                Deployment::Cluster(_) => clustered(&endpoint, spec.node).await?,
                Deployment::Nodes(_) => nodes::source(&endpoint, spec.node).await?,
            };
            match (files, source.shards.as_mut_slice()) {
                (None, _) => {}
                (Some(files), [shard]) if source.mode == "standalone" => shard.files = Some(files),
                (Some(_), _) => {
                    return Err(ProviderError::new(
                        Class::Refused,
                        "AmbiguousDirectory",
                        "failed to join the data directory to a node: the source has several",
                    )
                    .with_help("name the server whose directory it is with redis://host:port"));
                }
            }
            source
        }
    };
    Ok(Arc::new(source))
}

fn directory(spec: &EndpointSpec, files: Arc<dyn Files>) -> Source {
    let address = spec.data_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let shard = SourceShard {
        name: "0".to_owned(),
        node: address.clone(),
        slots: Vec::new(),
        facts: vec![Attribute::new("mode", "directory")],
        warnings: Vec::new(),
        redis: None,
        files: Some(files),
        socket: None,
    };
    Source { address, mode: "directory", shards: vec![shard], cluster: None }
}

/// Another system: nothing is known of it but that it answers.
async fn other_system(
    spec: &EndpointSpec,
    url: &str,
    password: Option<&Secret>,
    files: Option<Arc<dyn Files>>,
) -> Result<Source, ProviderError> {
    let (address, socket) = socket::open(spec, url, password, code::SOURCE_IO).await?;
    let shard = SourceShard {
        name: "0".to_owned(),
        node: address.clone(),
        slots: Vec::new(),
        facts: vec![Attribute::new("mode", "socket")],
        warnings: Vec::new(),
        redis: None,
        files,
        socket: Some(socket),
    };
    Ok(Source { address, mode: "socket", shards: vec![shard], cluster: None })
}

async fn standalone(endpoint: &Endpoint) -> Result<Source, AccessError> {
    let node = endpoint.primary().await?;
    let probe = Probe::of(&node).await?;
    readable(&node, &probe)?;
    let mut warnings = Vec::new();
    let offset = if probe.is_primary() {
        probe.number("master_repl_offset")
    } else {
        let offset = probe::primary_offset(&node, &probe).await;
        if offset.is_none() {
            warnings.push(format!(
                "the primary of {} could not be asked for its offset: how far the replica lags is not known",
                node.address
            ));
        }
        offset
    };
    if probe.is_cluster() {
        warnings.push(format!(
            "{} is one node of a cluster: only its own slots are read; redis-cluster://{} reads them all",
            node.address, node.address
        ));
    }
    let shard = shard("0", &endpoint.url, &node, Vec::new(), &probe, offset, "standalone", warnings);
    Ok(Source { address: endpoint.url.to_string(), mode: "standalone", shards: vec![shard], cluster: None })
}

/// Early and clear, what the replication link would say later.
fn readable(node: &Node, probe: &Probe) -> Result<(), AccessError> {
    let address = node.address.to_string();
    if probe.get("redis_mode") == Some("sentinel") {
        return Err(AccessError::Refused {
            reason: "ASentinel",
            why: format!("failed to read {address}: it is a Sentinel and holds no data"),
            help: format!("write redis-sentinel://{address}/NAME-OF-THE-PRIMARY"),
        });
    }
    if probe.is_loading() {
        return Err(AccessError::Loading { address });
    }
    if !probe.is_primary() && probe.get("master_link_status") != Some("up") {
        return Err(AccessError::NoPrimaryLink { address });
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one place that builds a shard from all that was found")]
fn shard(
    name: &str,
    url: &EndpointUrl,
    node: &Node,
    slots: Vec<SlotRange>,
    probe: &Probe,
    primary_offset: Option<u64>,
    mode: &str,
    warnings: Vec<String>,
) -> SourceShard {
    let written = EndpointUrl {
        deployment: Deployment::Standalone(node.address.clone()),
        tls: url.tls,
        username: None,
        password: None,
    };
    SourceShard {
        name: name.to_owned(),
        node: written.to_string(),
        slots,
        facts: probe.facts(mode, primary_offset),
        warnings,
        redis: Some(Arc::new(Server::new(node.clone()))),
        files: None,
        socket: None,
    }
}

/// Probes every node of a shard and chooses one.
async fn chosen(
    primary: &Node,
    replicas: &[Node],
    preference: NodePreference,
) -> Result<(Node, Probe, Option<u64>, Vec<String>), AccessError> {
    let nodes: Vec<&Node> = std::iter::once(primary).chain(replicas).collect();
    let probes = futures::future::join_all(nodes.iter().map(|node| Probe::of(node))).await;
    let offset = probes
        .first()
        .and_then(|probe| probe.as_ref().ok())
        .filter(|probe| probe.is_primary())
        .and_then(|probe| probe.number("master_repl_offset"));
    let (node, probe, warnings) = choose_probed(&nodes, probes, offset, preference)?;
    Ok((node, probe, offset, warnings))
}

/// Chooses among nodes that were asked.
fn choose_probed(
    nodes: &[&Node],
    probes: Vec<Result<Probe, AccessError>>,
    primary_offset: Option<u64>,
    preference: NodePreference,
) -> Result<(Node, Probe, Vec<String>), AccessError> {
    let states: Vec<_> = nodes
        .iter()
        .zip(&probes)
        .map(|(node, probe)| {
            let state = match probe {
                Ok(probe) => probe.state(primary_offset),
                Err(error) => choice::NodeState::Unknown(error.to_string()),
            };
            (node.address.to_string(), state)
        })
        .collect();
    match choose(&states, preference) {
        Ok(choice) => {
            let found = nodes.get(choice.index).zip(probes.into_iter().nth(choice.index));
            let Some((node, Ok(probe))) = found else {
                return Err(AccessError::NotFound { what: "the node chosen".to_owned(), help: String::new() });
            };
            Ok(((*node).clone(), probe, choice.warnings))
        }
        Err(reasons) => {
            // The one cause that all share says more than a list.
            let all_silent = !probes.is_empty() && probes.iter().all(Result::is_err);
            let cause = probes.into_iter().find_map(Result::err);
            match cause {
                Some(error) if all_silent => Err(error),
                Some(
                    error @ (AccessError::Login { .. } | AccessError::NoPermission { .. } | AccessError::Tls { .. }),
                ) => Err(error),
                _ => Err(AccessError::Refused {
                    reason: "NoNodeFit",
                    why: format!("failed to choose a node to read: {}", reasons.join("; ")),
                    help: "wait until a node is in good order; --node prefer-replica may read replicas and the primary"
                        .to_owned(),
                }),
            }
        }
    }
}

async fn watched(endpoint: &Endpoint, name: &str, preference: NodePreference) -> Result<Source, AccessError> {
    let (primary, replicas) = endpoint.watched(name).await?;
    let (node, probe, offset, warnings) = chosen(&primary, &replicas, preference).await?;
    let shard = shard("0", &endpoint.url, &node, Vec::new(), &probe, offset, "sentinel", warnings);
    Ok(Source { address: endpoint.url.to_string(), mode: "sentinel", shards: vec![shard], cluster: None })
}

async fn clustered(endpoint: &Endpoint, preference: NodePreference) -> Result<Source, AccessError> {
    let found = cluster::read(&endpoint.nodes, endpoint.url.tls).await?;
    let mut shards = Vec::with_capacity(found.len());
    for (index, one) in found.iter().enumerate() {
        let primary = endpoint.at(one.primary.clone())?;
        let replicas =
            one.replicas.iter().map(|address| endpoint.at(address.clone())).collect::<Result<Vec<_>, _>>()?;
        let (node, probe, offset, warnings) = chosen(&primary, &replicas, preference).await?;
        let name = index.to_string();
        shards.push(shard(&name, &endpoint.url, &node, one.slots.clone(), &probe, offset, "cluster", warnings));
    }
    let cluster = Some((endpoint.nodes.clone(), endpoint.url.tls, found));
    Ok(Source { address: endpoint.url.to_string(), mode: "cluster", shards, cluster })
}

#[async_trait]
impl DataSource for Source {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn mode(&self) -> &'static str {
        self.mode
    }

    fn shards(&self) -> &[SourceShard] {
        &self.shards
    }

    async fn check_topology(&self) -> Result<(), ProviderError> {
        let Some((seeds, tls, before)) = &self.cluster else { return Ok(()) };
        let now = cluster::read(seeds, *tls).await?;
        let served = |shards: &[ClusterShard]| -> Vec<(Vec<SlotRange>, String)> {
            shards.iter().map(|shard| (shard.slots.clone(), shard.primary_id.clone())).collect()
        };
        let (before, now) = (served(before), served(&now));
        let Some((slots, id)) = before.iter().find(|shard| !now.contains(shard)) else { return Ok(()) };
        let slots: Vec<String> = slots.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
        Err(ProviderError::new(
            Class::Failed,
            "TopologyChanged",
            format!(
                "failed to keep the cluster's shards: the slots {} are no longer served by {id} alone",
                slots.join(" ")
            ),
        )
        .with_help("slots or primaries moved while the backup ran: run it again")
        .retryable())
    }
}
