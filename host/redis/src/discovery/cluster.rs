//! Redis Cluster: who serves which slots. Reads `CLUSTER NODES` of every primary, because a node shows slots on the move
//! only in its own line; refuses while slots are uncovered, claimed twice, or on the move.

use std::collections::BTreeMap;

use redkeep_core::manifest::SlotRange;

use crate::connection::Node;
use crate::endpoint::{Address, parse_host};
use crate::error::AccessError;
use crate::load::slots::SLOTS;

/// One line of `CLUSTER NODES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterNode {
    pub(crate) id: String,
    pub(crate) address: Option<Address>,
    pub(crate) myself: bool,
    pub(crate) primary: bool,
    pub(crate) failing: bool,
    /// Of a replica: its primary.
    pub(crate) primary_id: Option<String>,
    pub(crate) slots: Vec<SlotRange>,
    /// Slots on the move, as the node shows them: `93->-<id>` leaves, `93-<-<id>` comes.
    pub(crate) moving: Vec<String>,
}

/// A primary with slots, and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterShard {
    pub(crate) primary_id: String,
    pub(crate) primary: Address,
    pub(crate) replicas: Vec<Address>,
    pub(crate) slots: Vec<SlotRange>,
}

/// Takes `CLUSTER NODES` apart. `seed`: where it was asked, for nodes that do not know their own host.
pub(crate) fn parse_nodes(text: &str, seed: &Address, tls: bool) -> Vec<ClusterNode> {
    let parse = |line: &str| -> Option<ClusterNode> {
        let mut fields = line.split_ascii_whitespace();
        let (id, address, flags, primary) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let flags: Vec<&str> = flags.split(',').collect();
        let (host_port, name) = address.split_once(',').map_or((address, ""), |(rest, name)| (rest, name));
        let name = name.split(',').next().unwrap_or_default();
        let (host, port) = host_port.split('@').next()?.rsplit_once(':')?;
        // Over TLS the name is what the certificate is for.
        let host = if tls && !name.is_empty() && name != "?" { name } else { host };
        let host = match (host, seed) {
            ("", Address::Tcp { host, .. }) => host.clone(),
            _ => host.trim_matches(['[', ']']).to_owned(),
        };
        let (mut slots, mut moving) = (Vec::new(), Vec::new());
        for field in fields.skip(4) {
            if let Some(inner) = field.strip_prefix('[') {
                moving.push(inner.trim_end_matches(']').to_owned());
                continue;
            }
            let (first, last) = field.split_once('-').unwrap_or((field, field));
            slots.push(SlotRange { first: first.parse().ok()?, last: last.parse().ok()? });
        }
        Some(ClusterNode {
            id: id.to_owned(),
            address: port.parse().ok().filter(|port| *port != 0).map(|port| Address::Tcp { host, port }),
            myself: flags.contains(&"myself"),
            primary: flags.contains(&"master"),
            failing: flags.iter().any(|flag| matches!(*flag, "fail" | "noaddr" | "handshake")),
            primary_id: Some(primary.to_owned()).filter(|id| id != "-"),
            slots,
            moving,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Puts shards together from one view, and from what every primary says of itself.
pub(crate) fn assemble(
    view: &[ClusterNode],
    own: &BTreeMap<String, ClusterNode>,
) -> Result<Vec<ClusterShard>, AccessError> {
    let refused =
        |reason: &'static str, why: String, help: &str| AccessError::Refused { reason, why, help: help.to_owned() };
    let rest = "wait until `redis-cli --cluster check` finds nothing, then run again";
    let moving: Vec<String> = own
        .values()
        .flat_map(|node| node.moving.iter().map(|slot| format!("{} at {}", slot, short(&node.id))))
        .collect();
    if !moving.is_empty() {
        return Err(refused(
            "SlotsMoving",
            format!("failed to read the cluster: slots are on the move ({})", some_of(&moving)),
            rest,
        ));
    }
    let mut owners: Vec<Option<&str>> = vec![None; SLOTS];
    let mut shards = Vec::new();
    for node in view.iter().filter(|node| node.primary && !node.slots.is_empty()) {
        if own.get(&node.id).is_none_or(|own| own.slots != node.slots) {
            return Err(refused(
                "TopologyUnsettled",
                format!("failed to read the cluster: its nodes disagree about the slots of {}", short(&node.id)),
                rest,
            ));
        }
        for slot in node.slots.iter().flat_map(|range| range.first..=range.last) {
            if let Some(owner) = owners.get_mut(usize::from(slot))
                && let Some(other) = owner.replace(&node.id)
            {
                let (other, id) = (short(other), short(&node.id));
                return Err(refused(
                    "TopologyUnsettled",
                    format!("failed to read the cluster: both {other} and {id} claim slot {slot}"),
                    rest,
                ));
            }
        }
        let Some(primary) = node.address.clone() else { continue };
        let replicas = view
            .iter()
            .filter(|other| !other.primary && !other.failing && other.primary_id.as_ref() == Some(&node.id))
            .filter_map(|other| other.address.clone())
            .collect();
        shards.push(ClusterShard { primary_id: node.id.clone(), primary, replicas, slots: node.slots.clone() });
    }
    let uncovered = ranges((0..).zip(&owners).filter(|(_, owner)| owner.is_none()).map(|(slot, _)| slot));
    if !uncovered.is_empty() {
        return Err(refused(
            "SlotsUncovered",
            format!("failed to read the cluster: no primary serves the slots {}", some_of(&uncovered)),
            "repair the cluster (`redis-cli --cluster fix`) first: keys of these slots cannot be read",
        ));
    }
    shards.sort_by_key(|shard| shard.slots.first().copied());
    Ok(shards)
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn some_of(list: &[String]) -> String {
    let more = list.len().saturating_sub(8);
    let shown = list.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn ranges(slots: impl Iterator<Item = u16>) -> Vec<String> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    ranges
        .into_iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect()
}

/// Asks the cluster, through the first seed that answers.
pub(crate) async fn read(seeds: &[Node], tls: bool) -> Result<Vec<ClusterShard>, AccessError> {
    let mut failure = None;
    for seed in seeds {
        match read_through(seed, tls).await {
            Ok(shards) => return Ok(shards),
            // Another seed cannot change the cluster's own state or our permissions.
            Err(
                error @ (AccessError::Refused { .. } | AccessError::NoPermission { .. } | AccessError::Login { .. }),
            ) => {
                return Err(error);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure
        .unwrap_or_else(|| AccessError::Address { given: "redis-cluster://".to_owned(), why: "no host".to_owned() }))
}

async fn read_through(seed: &Node, tls: bool) -> Result<Vec<ClusterShard>, AccessError> {
    let view = nodes_of(seed, tls).await?;
    let mut own = BTreeMap::new();
    for node in view.iter().filter(|node| node.primary && !node.slots.is_empty()) {
        let Some(address) = node.address.clone() else { continue };
        let said = if node.myself { view.clone() } else { nodes_of(&seed.at(address), tls).await? };
        own.extend(said.into_iter().filter(|node| node.myself).map(|node| (node.id.clone(), node)));
    }
    assemble(&view, &own)
}

async fn nodes_of(node: &Node, tls: bool) -> Result<Vec<ClusterNode>, AccessError> {
    let mut connection = node.connect().await?;
    let reply = connection.call_named("CLUSTER", &[node.name_of("CLUSTER"), "NODES".into()]).await;
    let reply = reply.map_err(|error| match error {
        AccessError::Reply { text, .. } if text.contains("cluster support disabled") => AccessError::Refused {
            reason: "NotACluster",
            why: format!("failed to read {} as a cluster: cluster mode is off there", node.address),
            help: "write redis:// instead of redis-cluster://".to_owned(),
        },
        other => other,
    })?;
    Ok(parse_nodes(&reply.text().unwrap_or_default(), &node.address, tls))
}

/// `host` and `port` as a server names another one.
pub(crate) fn address_of(host: &str, port: &str) -> Option<Address> {
    let port = port.parse().ok()?;
    parse_host(&if host.contains(':') { format!("[{host}]") } else { host.to_owned() }, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
aaaaaaaaaa 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 5462\n\
bbbbbbbbbb 127.0.0.1:7001@17001,host-b master - 0 0 2 connected 5461 5463-10922\n\
cccccccccc 127.0.0.1:7002@17002 master - 0 0 3 connected 10923-16383\n\
dddddddddd 127.0.0.1:7003@17003 slave bbbbbbbbbb 0 0 2 connected\n\
eeeeeeeeee 127.0.0.1:7004@17004 slave,fail bbbbbbbbbb 0 0 2 connected\n\
ffffffffff :0@0 master,noaddr - 0 0 0 disconnected\n";

    fn seed() -> Address {
        Address::Tcp { host: "seed".to_owned(), port: 7000 }
    }

    fn own(nodes: &[ClusterNode]) -> BTreeMap<String, ClusterNode> {
        nodes.iter().filter(|node| node.primary).map(|node| (node.id.clone(), node.clone())).collect()
    }

    #[test]
    fn shards_are_put_together_in_the_order_of_their_slots() {
        let nodes = parse_nodes(NODES, &seed(), false);
        let shards = assemble(&nodes, &own(&nodes)).unwrap();
        assert_eq!(shards.len(), 3);
        assert_eq!(shards[0].slots, [SlotRange { first: 0, last: 5460 }, SlotRange { first: 5462, last: 5462 }]);
        assert_eq!(shards[1].primary.to_string(), "127.0.0.1:7001");
        assert_eq!(shards[1].replicas.len(), 1, "the failing one is left out");
        let over_tls = parse_nodes(NODES, &seed(), true);
        assert_eq!(over_tls[1].address.as_ref().unwrap().to_string(), "host-b:7001");
    }

    #[test]
    fn a_node_without_a_host_is_where_it_was_asked() {
        let nodes = parse_nodes("a :7000@17000 myself,master - 0 0 1 connected 0-16383", &seed(), false);
        assert_eq!(nodes[0].address, Some(seed()));
    }

    fn refusal(nodes: &[ClusterNode], own: &BTreeMap<String, ClusterNode>) -> (&'static str, String) {
        match assemble(nodes, own) {
            Err(AccessError::Refused { reason, why, .. }) => (reason, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_on_the_move_uncovered_or_disputed_are_refused_by_number() {
        let nodes = parse_nodes(NODES, &seed(), false);
        let mut moving = own(&nodes);
        moving.get_mut("bbbbbbbbbb").unwrap().moving.push("5463->-aaaaaaaaaa".to_owned());
        let (reason, why) = refusal(&nodes, &moving);
        assert!(reason == "SlotsMoving" && why.contains("5463"), "{why}");

        let gap = parse_nodes(&NODES.replace("10923-16383", "10923-16000 16002-16383"), &seed(), false);
        let (reason, why) = refusal(&gap, &own(&gap));
        assert!(reason == "SlotsUncovered" && why.ends_with("16001"), "{why}");

        let twice = parse_nodes(&NODES.replace("10923-16383", "10922-16383"), &seed(), false);
        assert_eq!(refusal(&twice, &own(&twice)).0, "TopologyUnsettled");
        assert_eq!(refusal(&twice, &own(&nodes)).0, "TopologyUnsettled", "nodes disagree");
    }

    #[test]
    fn migration_marks_are_read() {
        let nodes =
            parse_nodes("a h:1@2 myself,master - 0 0 1 connected 0-16383 [93->-bbb] [94-<-ccc]", &seed(), false);
        assert_eq!(nodes[0].moving, ["93->-bbb", "94-<-ccc"]);
        assert_eq!(nodes[0].slots.len(), 1);
    }
}
