//! Which node of a shard is read: a pure function of what the nodes said.

use redkeep_core::task::NodePreference;

/// A replica further behind than this is not read: what it lacks would be lost without a word.
pub(crate) const LAG_LIMIT: u64 = 16 << 20;
/// A replica that has heard nothing of its primary for so many seconds is not read.
pub(crate) const SILENCE_LIMIT: u64 = 30;

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// It could not be asked; why.
    Unknown(String),
    /// A primary.
    Primary {
        /// Still loading its data.
        loading: bool,
    },
    /// A replica.
    Replica {
        /// Still loading its data.
        loading: bool,
        /// The link to its primary is up.
        link_up: bool,
        /// Bytes behind the primary, where both offsets are known.
        lag: Option<u64>,
        /// Seconds since the primary was heard.
        silence: u64,
    },
}

/// The node chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) index: usize,
    pub(crate) warnings: Vec<String>,
}

/// Chooses among the nodes of one shard. The error holds a reason for each node.
pub(crate) fn choose(nodes: &[(String, NodeState)], preference: NodePreference) -> Result<Choice, Vec<String>> {
    let unfit: Vec<String> =
        nodes.iter().filter_map(|(name, state)| why_unfit(state).map(|why| format!("{name}: {why}"))).collect();
    let fit = || nodes.iter().enumerate().filter(|(_, (_, state))| why_unfit(state).is_none());
    let replica =
        fit().filter(|(_, (_, state))| matches!(state, NodeState::Replica { .. })).min_by_key(|(_, (_, state))| {
            match state {
                NodeState::Replica { lag, .. } => lag.unwrap_or(LAG_LIMIT),
                _ => u64::MAX,
            }
        });
    let primary = fit().find(|(_, (_, state))| matches!(state, NodeState::Primary { .. }));
    match (preference, replica, primary) {
        (NodePreference::PreferReplica, Some((index, _)), _) | (NodePreference::Primary, _, Some((index, _))) => {
            Ok(Choice { index, warnings: Vec::new() })
        }
        (NodePreference::PreferReplica, None, Some((index, (name, _)))) => {
            let why = if unfit.is_empty() { "it has no replica".to_owned() } else { unfit.join("; ") };
            Ok(Choice { index, warnings: vec![format!("the primary {name} is read, for no replica is fit: {why}")] })
        }
        _ if unfit.is_empty() => Err(vec!["it has no primary".to_owned()]),
        _ => Err(unfit),
    }
}

fn why_unfit(state: &NodeState) -> Option<String> {
    match state {
        NodeState::Unknown(why) => Some(why.clone()),
        NodeState::Primary { loading: true } | NodeState::Replica { loading: true, .. } => {
            Some("it is still loading".to_owned())
        }
        NodeState::Replica { link_up: false, .. } => Some("its link to the primary is down".to_owned()),
        NodeState::Replica { silence, .. } if *silence > SILENCE_LIMIT => {
            Some(format!("it has not heard its primary for {silence} seconds"))
        }
        NodeState::Replica { lag: Some(lag), .. } if *lag > LAG_LIMIT => Some(format!("it lags {lag} bytes behind")),
        NodeState::Primary { .. } | NodeState::Replica { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const fn replica(loading: bool, link_up: bool, lag: Option<u64>, silence: u64) -> NodeState {
        NodeState::Replica { loading, link_up, lag, silence }
    }
    const GOOD: NodeState = replica(false, true, Some(100), 1);
    const BETTER: NodeState = replica(false, true, Some(10), 1);
    const LAGGING: NodeState = replica(false, true, Some(LAG_LIMIT + 1), 1);
    const UNHEARD: NodeState = replica(false, true, Some(0), SILENCE_LIMIT + 1);
    const DOWN: NodeState = replica(false, false, Some(0), 1);
    const LOADING: NodeState = replica(true, true, Some(0), 1);
    const PRIMARY: NodeState = NodeState::Primary { loading: false };
    const PRIMARY_LOADING: NodeState = NodeState::Primary { loading: true };

    fn gone() -> NodeState {
        NodeState::Unknown("refused".to_owned())
    }

    #[rstest]
    #[case(vec![PRIMARY, GOOD], NodePreference::PreferReplica, Some((1, 0)))]
    #[case(vec![PRIMARY, GOOD, BETTER], NodePreference::PreferReplica, Some((2, 0)))]
    #[case(vec![PRIMARY, GOOD], NodePreference::Primary, Some((0, 0)))]
    #[case(vec![PRIMARY, LAGGING, GOOD], NodePreference::PreferReplica, Some((2, 0)))]
    #[case(vec![PRIMARY, DOWN], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![PRIMARY, LOADING], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![PRIMARY, LAGGING], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![PRIMARY, UNHEARD], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![PRIMARY, gone()], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![PRIMARY], NodePreference::PreferReplica, Some((0, 1)))]
    #[case(vec![gone(), GOOD], NodePreference::PreferReplica, Some((1, 0)))]
    #[case(vec![PRIMARY, replica(false, true, None, 0)], NodePreference::PreferReplica, Some((1, 0)))]
    #[case(vec![gone(), GOOD], NodePreference::Primary, None)]
    #[case(vec![PRIMARY_LOADING, DOWN], NodePreference::PreferReplica, None)]
    #[case(vec![GOOD], NodePreference::Primary, None)]
    #[case(vec![], NodePreference::Primary, None)]
    fn the_node_read_is(
        #[case] states: Vec<NodeState>,
        #[case] preference: NodePreference,
        #[case] wanted: Option<(usize, usize)>,
    ) {
        let nodes: Vec<_> = states.into_iter().enumerate().map(|(index, state)| (format!("n{index}"), state)).collect();
        let chosen = choose(&nodes, preference).map(|choice| (choice.index, choice.warnings.len()));
        assert_eq!(chosen.as_ref().ok(), wanted.as_ref());
        if let Err(reasons) = chosen {
            assert!(!reasons.is_empty());
        }
    }
}
