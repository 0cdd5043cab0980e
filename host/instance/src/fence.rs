//! Decides whether a primary may still believe that it is one. Pure: time and contacts are arguments.
//!
//! A contact counts from when it was *begun*: what an answer says may be as old as the question.

use std::collections::BTreeMap;

use redkeep_core::managed::Peer;

use crate::clock::Moment;

/// When others were last reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contacts {
    /// The RedisCluster was read.
    pub(crate) object: Option<Moment>,
    /// Notices were exchanged, by pod.
    pub(crate) peers: BTreeMap<String, Moment>,
}

impl Contacts {
    /// When the last of all peers was reached; `None` while one never was, or while not all are known.
    fn every_peer(&self, peers: &[Peer], instances: usize) -> Option<Moment> {
        if peers.is_empty() || peers.len() + 1 < instances {
            return None;
        }
        let reached: Option<Vec<Moment>> = peers.iter().map(|peer| self.peers.get(&peer.pod).copied()).collect();
        reached.and_then(|moments| moments.into_iter().min())
    }

    /// Whether the object or every peer was reached after that moment.
    pub(crate) fn reached_since(&self, moment: Moment, peers: &[Peer], instances: usize) -> bool {
        self.object.max(self.every_peer(peers, instances)).is_some_and(|last| last > moment)
    }
}

/// What to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is nobody who could have replaced it.
    Lone,
    /// Nobody can have replaced it before that moment.
    Safe { until: Moment },
    /// Somebody may have.
    CutOff,
}

/// Judges a primary that was granted at `since`, of a cluster of so many `instances`, which may be replaced once it was
/// cut off for `limit`.
pub(crate) fn judge(
    now: Moment,
    limit: Moment,
    since: Moment,
    contacts: &Contacts,
    peers: &[Peer],
    instances: usize,
) -> Verdict {
    if peers.is_empty() && instances <= 1 {
        return Verdict::Lone;
    }
    let last = contacts.object.max(contacts.every_peer(peers, instances)).map_or(since, |last| last.max(since));
    let until = last.saturating_add(limit);
    if now < until { Verdict::Safe { until } } else { Verdict::CutOff }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn peers(names: &[&str]) -> Vec<Peer> {
        names
            .iter()
            .map(|name| Peer { pod: (*name).to_owned(), ip: "10.0.0.1".to_owned(), redis_port: 1, instance_port: 2 })
            .collect()
    }

    // Granted at 100, T is 10, now is 120.
    #[rstest]
    #[case::nobody_reached_for_long(None, &[("b", None), ("c", None)], 3, Verdict::CutOff)]
    #[case::object_read(Some(115), &[("b", None), ("c", None)], 3, Verdict::Safe { until: at(125) })]
    #[case::object_read_too_long_ago(Some(110), &[("b", None), ("c", None)], 3, Verdict::CutOff)]
    #[case::object_read_a_moment_less_ago(Some(111), &[("b", None), ("c", None)], 3, Verdict::Safe { until: at(121) })]
    #[case::every_peer(None, &[("b", Some(118)), ("c", Some(113))], 3, Verdict::Safe { until: at(123) })]
    #[case::all_but_one_peer(None, &[("b", Some(119)), ("c", None)], 3, Verdict::CutOff)]
    #[case::one_peer_too_long_ago(None, &[("b", Some(119)), ("c", Some(110))], 3, Verdict::CutOff)]
    #[case::not_every_peer_is_known(None, &[("b", Some(119))], 3, Verdict::CutOff)]
    #[case::known_but_gone_peer_of_a_smaller_cluster(None, &[("b", Some(119))], 1, Verdict::Safe { until: at(129) })]
    #[case::peers_not_told_yet(None, &[], 3, Verdict::CutOff)]
    #[case::peers_not_told_yet_but_object_read(Some(119), &[], 3, Verdict::Safe { until: at(129) })]
    #[case::lone(None, &[], 1, Verdict::Lone)]
    #[case::the_later_of_both_counts(Some(112), &[("b", Some(119))], 2, Verdict::Safe { until: at(129) })]
    fn verdicts(
        #[case] object: Option<u64>,
        #[case] reached: &[(&str, Option<u64>)],
        #[case] instances: usize,
        #[case] expected: Verdict,
    ) {
        let contacts = Contacts {
            object: object.map(at),
            peers: reached.iter().filter_map(|(pod, moment)| Some(((*pod).to_owned(), at((*moment)?)))).collect(),
        };
        let peers = peers(&reached.iter().map(|(pod, _)| *pod).collect::<Vec<_>>());
        assert_eq!(judge(at(120), at(10), at(100), &contacts, &peers, instances), expected);
    }

    #[test]
    fn a_grant_begins_a_new_term() {
        let verdict = judge(at(120), at(10), at(119), &Contacts::default(), &peers(&["b"]), 2);
        assert_eq!(verdict, Verdict::Safe { until: at(129) });
    }

    #[rstest]
    #[case(None, None, false)]
    #[case(Some(100), None, false)]
    #[case(Some(101), None, true)]
    #[case(None, Some(101), true)]
    #[case(Some(99), Some(101), true)]
    fn it_begins_again_when_somebody_was_reached(
        #[case] object: Option<u64>,
        #[case] peer: Option<u64>,
        #[case] expected: bool,
    ) {
        let contacts = Contacts {
            object: object.map(at),
            peers: peer.into_iter().map(|moment| ("b".to_owned(), at(moment))).collect(),
        };
        assert_eq!(contacts.reached_since(at(100), &peers(&["b"]), 2), expected);
    }
}
