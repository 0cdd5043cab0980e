//! Primary and replicas of one shard by their addresses alone (`redis-nodes://`): who is what, each node says itself.
//!
//! Decisions are pure; a list that may be of more than one dataset is refused, for a backup of the wrong one would look whole.

use redkeep_core::task::NodePreference;

use super::probe::{self, Probe};
use super::{Endpoint, Source, choose_probed, shard};
use crate::connection::Node;
use crate::error::AccessError;

/// What every node answered.
type Answers = Vec<(Node, Result<Probe, AccessError>)>;

/// What one node says of the replication that it is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    is_cluster: bool,
    is_primary: bool,
    /// Of a replica whose link is up, and of a primary.
    replication_id: Option<String>,
}

/// Whether these are nodes of one shard; gives the position of its primary among them.
fn primary_of(members: &[Member]) -> Result<Option<usize>, AccessError> {
    let refused =
        |reason: &'static str, why: String, help: &str| AccessError::Refused { reason, why, help: help.into() };
    if let Some(member) = members.iter().find(|member| member.is_cluster) {
        return Err(refused(
            "NodeOfACluster",
            format!("failed to take the nodes for one shard: {} is a node of a Redis Cluster", member.name),
            "write redis-cluster:// instead of redis-nodes://",
        ));
    }
    let primaries: Vec<usize> =
        members.iter().enumerate().filter(|(_, member)| member.is_primary).map(|(index, _)| index).collect();
    if primaries.len() > 1 {
        let names: Vec<&str> =
            primaries.iter().filter_map(|index| members.get(*index)).map(|member| member.name.as_str()).collect();
        return Err(refused(
            "SeveralPrimaries",
            format!("failed to find the primary: {} all say that they are it", names.join(" and ")),
            "wait until the failover is over; where these are servers of their own, name one with redis://host:port",
        ));
    }
    let mut known: Option<(&str, &str)> = None;
    for (name, id) in
        members.iter().filter_map(|member| Some((member.name.as_str(), member.replication_id.as_deref()?)))
    {
        match known {
            None => known = Some((name, id)),
            Some((other, first)) if first != id => {
                return Err(refused(
                    "SeveralDatasets",
                    format!("failed to take the nodes for one shard: {other} and {name} are of two replications"),
                    "name only a primary and its own replicas, or wait until the failover is over",
                ));
            }
            Some(_) => {}
        }
    }
    Ok(primaries.first().copied())
}

fn member(node: &Node, probe: &Probe) -> Member {
    let is_primary = probe.is_primary();
    // A replica that lost its link still has the id of what it last followed.
    let is_joined = is_primary || probe.get("master_link_status") == Some("up");
    Member {
        name: node.address.to_string(),
        is_cluster: probe.is_cluster(),
        is_primary,
        replication_id: probe.get("master_replid").filter(|_| is_joined).map(str::to_owned),
    }
}

async fn ask(nodes: &[Node]) -> Answers {
    let probes = futures::future::join_all(nodes.iter().map(Probe::of)).await;
    nodes.iter().cloned().zip(probes.into_iter().map(|probe| probe.and_then(no_sentinel))).collect()
}

fn no_sentinel(probe: Probe) -> Result<Probe, AccessError> {
    match probe.get("redis_mode") {
        Some("sentinel") => Err(AccessError::Refused {
            reason: "ASentinel",
            why: "it is a Sentinel and holds no data".to_owned(),
            help: "write redis-sentinel://host:port/NAME-OF-THE-PRIMARY".to_owned(),
        }),
        _ => Ok(probe),
    }
}

/// The primary among those that answered.
fn find_primary(answers: &Answers) -> Result<Option<&Node>, AccessError> {
    let answered: Vec<(&Node, Member)> =
        answers.iter().filter_map(|(node, probe)| Some((node, member(node, probe.as_ref().ok()?)))).collect();
    let members: Vec<Member> = answered.iter().map(|(_, member)| member.clone()).collect();
    Ok(primary_of(&members)?.and_then(|index| answered.get(index)).map(|(node, _)| *node))
}

/// Chooses the node that is read. Nodes that do not answer are warnings as long as another serves.
pub(super) async fn source(endpoint: &Endpoint, preference: NodePreference) -> Result<Source, AccessError> {
    let answers = ask(&endpoint.nodes).await;
    let primary = find_primary(&answers)?.map(|node| node.address.clone());
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(node, probe)| {
            Some(format!("the node {} could not be asked: {}", node.address, probe.as_ref().err()?))
        })
        .collect();
    let of_primary = answers.iter().find(|(node, _)| Some(&node.address) == primary.as_ref());
    let known = of_primary.and_then(|(_, probe)| probe.as_ref().ok()?.number("master_repl_offset"));
    let (nodes, probes): (Vec<Node>, Vec<_>) = answers.into_iter().unzip();
    let (node, probe, mut warnings) = choose_probed(&nodes.iter().collect::<Vec<_>>(), probes, known, preference)?;
    if warnings.is_empty() {
        // A choice that needed a warning has named them.
        warnings = silent;
    }
    let offset = match known {
        None if !probe.is_primary() => probe::primary_offset(&node, &probe).await,
        known => known,
    };
    if offset.is_none() && !probe.is_primary() {
        warnings.push(format!(
            "the primary of {} could not be asked for its offset: how far the replica lags is not known",
            node.address
        ));
    }
    let shard = shard("0", &endpoint.url, &node, Vec::new(), &probe, offset, "nodes", warnings);
    Ok(Source { address: endpoint.url.to_string(), mode: "nodes", shards: vec![shard], cluster: None })
}

/// The one primary, to write to.
pub(super) async fn primary(endpoint: &Endpoint) -> Result<Node, AccessError> {
    let answers = ask(&endpoint.nodes).await;
    if let Some(primary) = find_primary(&answers)? {
        return Ok(primary.clone());
    }
    let said: Vec<String> = answers
        .iter()
        .map(|(node, probe)| match probe {
            Ok(_) => format!("{} is a replica", node.address),
            Err(error) => format!("{}: {error}", node.address),
        })
        .collect();
    let all_silent = answers.iter().all(|(_, probe)| probe.is_err());
    if let Some(error) = answers.into_iter().find_map(|(_, probe)| probe.err()).filter(|_| all_silent) {
        // One cause in full, with what to do, says more than a list.
        return Err(error);
    }
    Err(AccessError::Refused {
        reason: "NoPrimary",
        why: format!("failed to find a primary to write to: {}", said.join("; ")),
        help: "wait until the nodes have a primary that can be reached".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn members(text: &str) -> Vec<Member> {
        let one = |word: &str| {
            let mut parts = word.split(':');
            let (name, role, id) = (parts.next().unwrap(), parts.next().unwrap(), parts.next());
            Member {
                name: name.to_owned(),
                is_cluster: role == "cluster",
                is_primary: role == "primary",
                replication_id: id.map(str::to_owned),
            }
        };
        text.split_whitespace().map(one).collect()
    }

    #[rstest]
    #[case::primary_and_replicas("a:replica:1 b:primary:1 c:replica:1", Ok(Some(1)))]
    #[case::replicas_alone("a:replica:1 c:replica:1", Ok(None))]
    #[case::a_replica_without_its_link("a:primary:1 b:replica", Ok(Some(0)))]
    #[case::nobody("", Ok(None))]
    #[case::two_primaries("a:primary:1 b:replica:1 c:primary:2", Err(("SeveralPrimaries", "a and c")))]
    #[case::replicas_of_two_primaries("a:replica:1 b:replica:2", Err(("SeveralDatasets", "a and b")))]
    #[case::a_replica_of_another("a:primary:1 b:replica:2", Err(("SeveralDatasets", "a and b")))]
    #[case::a_cluster("a:primary:1 b:cluster:1", Err(("NodeOfACluster", "b is a node")))]
    fn nodes_are_of_one_shard_or_refused(#[case] text: &str, #[case] wanted: Result<Option<usize>, (&str, &str)>) {
        match (primary_of(&members(text)), wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
            (Err(AccessError::Refused { reason, why, help }), Err((wanted, names))) => {
                assert_eq!(reason, wanted);
                assert!(why.contains(names) && !help.is_empty(), "{why}");
            }
            (found, wanted) => panic!("{found:?}, wanted {wanted:?}"),
        }
    }
}
