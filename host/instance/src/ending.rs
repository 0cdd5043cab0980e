//! Decides when the Redis of a pod that is to end may be told to: a primary waits for the operator to have it hand over first,
//! for as long as the pod's grace leaves room for that. Pure.

use std::time::Duration;

use redkeep_core::managed::Played;

use crate::clock::Moment;

/// How long a primary waits to be told to hand over, at most; half of that part of the grace which is for handing over.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// An end that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    told: Moment,
    /// After which the kubelet kills.
    grace: Duration,
    /// What was known then.
    epoch: u64,
    /// There is something to hand over, and somebody to take it.
    has_heirs: bool,
    /// A hand-over was begun since.
    begun: bool,
}

/// How the instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) played: Played,
    /// A hand-over is under way.
    pub(crate) hands_over: bool,
    /// It was done; one of a quiet primary is so at the first look.
    pub(crate) handed_over: bool,
    pub(crate) epoch: u64,
    /// The RedisCluster is there, as far as is known: else nobody gives orders any more.
    pub(crate) is_managed: bool,
}

impl Ending {
    pub(crate) fn new(told: Moment, grace: Duration, now: Now, peers: usize) -> Self {
        let has_heirs = (now.played == Played::Primary || now.handed_over) && peers > 0;
        Self { told, grace, epoch: now.epoch, has_heirs, begun: now.hands_over || now.handed_over }
    }

    /// Whether Redis may be told to end.
    pub(crate) fn may_stop(&mut self, at: Moment, now: Now) -> bool {
        self.begun |= now.hands_over || now.handed_over;
        let waited = at.saturating_sub(self.told);
        // The other half is for saving. A greater epoch: the operator has gone on, and whoever is primary now is known.
        if !self.has_heirs || !now.is_managed || now.epoch > self.epoch || waited >= self.grace / 2 {
            return true;
        }
        match now.played {
            _ if now.hands_over => false,
            // Given up.
            Played::Primary if self.begun => true,
            Played::Primary => waited >= ASKED_WITHIN.min(self.grace / 4),
            // It handed over: the operator is to hear that from this instance, else it would have to wait until a primary
            // that is silent must have stopped.
            Played::Standby | Played::Replica => !self.begun,
            Played::Fenced => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn now(played: Played) -> Now {
        Now { played, hands_over: false, handed_over: false, epoch: 3, is_managed: true }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(100 + seconds)
    }

    fn told(played: Played, peers: usize, grace: u64) -> Ending {
        Ending::new(at(0), Duration::from_secs(grace), now(played), peers)
    }

    #[rstest]
    #[case::replica(Played::Replica, 2, 120)]
    #[case::standby(Played::Standby, 2, 120)]
    #[case::lone(Played::Primary, 0, 120)]
    #[case::no_time(Played::Primary, 2, 0)]
    fn who_has_nothing_to_hand_over_stops_at_once(#[case] played: Played, #[case] peers: usize, #[case] grace: u64) {
        assert!(told(played, peers, grace).may_stop(at(0), now(played)));
    }

    #[rstest]
    #[case::default_grace(120, 9, 10)]
    #[case::short_grace(8, 1, 2)]
    fn a_primary_waits_a_while_to_be_asked(#[case] grace: u64, #[case] waits: u64, #[case] stops: u64) {
        let mut ending = told(Played::Primary, 2, grace);
        assert!(!ending.may_stop(at(waits), now(Played::Primary)));
        assert!(ending.may_stop(at(stops), now(Played::Primary)));
    }

    #[test]
    fn a_primary_of_a_cluster_that_is_deleted_does_not_wait() {
        let gone = Now { is_managed: false, ..now(Played::Primary) };
        assert!(told(Played::Primary, 2, 120).may_stop(at(0), gone));
    }

    #[test]
    fn it_hands_over_and_goes_when_the_operator_took_note() {
        let mut ending = told(Played::Primary, 2, 120);
        let hands_over = Now { hands_over: true, ..now(Played::Primary) };
        assert!(!ending.may_stop(at(1), hands_over));
        assert!(!ending.may_stop(at(11), hands_over), "it takes its time");
        assert!(!ending.may_stop(at(12), now(Played::Standby)), "nobody knows yet");
        assert!(ending.may_stop(at(13), Now { epoch: 4, ..now(Played::Standby) }));
    }

    #[test]
    fn a_hand_over_that_was_done_before_anyone_looked_waits_for_the_operator_too() {
        let done = Now { handed_over: true, ..now(Played::Standby) };
        let mut ending = told(Played::Primary, 2, 120);
        assert!(!ending.may_stop(at(1), done));
        assert!(ending.may_stop(at(2), Now { epoch: 4, ..done }));
        let mut afterwards = Ending::new(at(0), Duration::from_secs(120), done, 2);
        assert!(!afterwards.may_stop(at(1), done), "told to end when it was done");
        assert!(afterwards.may_stop(at(60), done), "half of the grace is left for saving");
    }

    #[test]
    fn a_hand_over_that_is_given_up_ends_the_waiting() {
        let mut ending = told(Played::Primary, 2, 120);
        assert!(!ending.may_stop(at(1), Now { hands_over: true, ..now(Played::Primary) }));
        assert!(ending.may_stop(at(2), now(Played::Primary)));
    }

    #[rstest]
    #[case::hands_over(Now { hands_over: true, ..now(Played::Primary) })]
    #[case::handed_over(now(Played::Standby))]
    fn half_of_the_grace_is_left_for_saving(#[case] then: Now) {
        let mut ending = told(Played::Primary, 2, 20);
        assert!(!ending.may_stop(at(1), Now { hands_over: true, ..now(Played::Primary) }));
        assert!(!ending.may_stop(at(9), then));
        assert!(ending.may_stop(at(10), then));
    }

    #[rstest]
    #[case::demoted(Now { epoch: 4, ..now(Played::Standby) })]
    #[case::stood_down(now(Played::Standby))]
    #[case::fenced(now(Played::Fenced))]
    fn one_that_is_primary_no_more_stops(#[case] then: Now) {
        assert!(told(Played::Primary, 2, 120).may_stop(at(1), then));
    }
}
