//! Decides when a primary may stop: writes are paused, and the replica has everything. Pure.

use std::time::Duration;

use redkeep_core::managed::Peer;

use crate::clock::Moment;
use crate::facts::Facts;

/// How long writes are paused at most until the replica must have everything.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// How long Redis is told to pause. More than [`WAIT`] by all that a slow machine may add: a pause that ended by itself
/// would let writes through that the replica does not have.
pub(crate) const PAUSE: Duration = Duration::from_secs(20);

/// One under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandOver {
    /// To whom.
    pub(crate) to: Peer,
    /// When writes were paused.
    pub(crate) paused_at: Moment,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again.
    Wait,
    /// The replica has everything.
    Done,
    /// Go on as primary.
    GiveUp(String),
}

impl HandOver {
    /// Why it cannot begin. `facts`: read before writes are paused.
    pub(crate) fn hindrance(to: &Peer, facts: &Facts) -> Option<String> {
        match facts.replica(&to.ip, to.redis_port) {
            None => Some(format!("{} does not follow", to.pod)),
            Some(replica) if !replica.online => Some(format!("{} is receiving its first copy", to.pod)),
            Some(_) => None,
        }
    }

    /// Decides by what was read after writes were paused.
    pub(crate) fn step(&self, now: Moment, facts: &Facts) -> Step {
        let late = now.saturating_sub(self.paused_at) >= WAIT;
        let pod = &self.to.pod;
        match facts.replica(&self.to.ip, self.to.redis_port) {
            _ if facts.at < self.paused_at => Step::Wait,
            None => Step::GiveUp(format!("{pod} stopped following")),
            Some(replica) if late => Step::GiveUp(format!(
                "{pod} did not get there within {} s: it has offset {} of {}",
                WAIT.as_secs(),
                replica.offset,
                facts.offset
            )),
            // Both are of one reading, so nothing that was written lies between them.
            Some(replica) if replica.online && replica.offset >= facts.offset => Step::Done,
            Some(_) => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Follower;
    use rstest::rstest;

    fn peer() -> Peer {
        Peer { pod: "b".to_owned(), ip: "10.0.0.2".to_owned(), redis_port: 6379, instance_port: 8443 }
    }

    fn facts(at: u64, replica: Option<(bool, u64)>) -> Facts {
        let replicas = replica
            .map(|(online, offset)| Follower { ip: "10.0.0.2".to_owned(), port: 6379, online, offset })
            .into_iter()
            .collect();
        Facts { at: Duration::from_secs(at), is_primary: true, offset: 100, replicas, ..Facts::default() }
    }

    #[rstest]
    #[case::not_there_yet(51, facts(51, Some((true, 99))), Step::Wait)]
    #[case::there(51, facts(51, Some((true, 100))), Step::Done)]
    #[case::read_before_the_pause(51, facts(49, Some((true, 100))), Step::Wait)]
    #[case::gone(51, facts(51, None), Step::GiveUp("b stopped following".to_owned()))]
    #[case::there_but_not_online(51, facts(51, Some((false, 100))), Step::Wait)]
    #[case::late(60, facts(60, Some((true, 99))), Step::GiveUp("b did not get there within 10 s: it has offset 99 of 100".to_owned()))]
    #[case::there_but_late(60, facts(60, Some((true, 100))), Step::GiveUp("b did not get there within 10 s: it has offset 100 of 100".to_owned()))]
    fn steps(#[case] now: u64, #[case] facts: Facts, #[case] expected: Step) {
        let hand_over = HandOver { to: peer(), paused_at: Duration::from_secs(50) };
        assert_eq!(hand_over.step(Duration::from_secs(now), &facts), expected);
    }

    #[rstest]
    #[case(None, Some("b does not follow"))]
    #[case(Some((false, 0)), Some("b is receiving its first copy"))]
    #[case(Some((true, 0)), None)]
    fn hindrances(#[case] replica: Option<(bool, u64)>, #[case] expected: Option<&str>) {
        assert_eq!(HandOver::hindrance(&peer(), &facts(1, replica)).as_deref(), expected);
    }
}
