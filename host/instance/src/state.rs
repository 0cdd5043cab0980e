//! What an instance plays, and what orders, notices and readings of `INFO` make of it (ADR 18). Pure: it says what is to
//! be done to Redis, `supervisor` does it.
//!
//! Two rules hold everywhere: a demotion is true before it is done (who cannot do it kills Redis), a promotion only after.

use redkeep_core::managed::{Notice, Orders, Peer, Played, Role, Standing};

use crate::clock::Moment;
use crate::facts::{Facts, same_address};
use crate::fence::{self, Contacts, Verdict};
use crate::hand_over::HandOver;

/// The primary of who follows nobody: nothing listens there, and nobody outside the pod can.
pub(crate) const NOBODY: (&str, u16) = ("127.0.0.1", 1);

/// What is to be done to Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Take writes.
    Promote,
    /// Follow.
    Follow(Peer),
    /// Follow nobody and take no writes; kill Redis if it does not do so at once.
    RefuseWrites,
    /// Pause writes and wait for a replica.
    HandOver(Peer),
}

/// Why orders were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// A word of [`redkeep_core::managed::Refusal`].
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What follows from orders: acts first, even if they are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Obeyed {
    pub(crate) acts: Vec<Act>,
    pub(crate) refused: Option<Refused>,
}

/// What an instance plays and knows.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pod: String,
    /// The greatest that was heard of.
    epoch: u64,
    /// Who is primary by it.
    primary: Option<String>,
    played: Played,
    /// Empty while Redis does not run.
    process: String,
    of: Option<Peer>,
    peers: Vec<Peer>,
    /// How many instances the cluster has.
    instances: usize,
    primary_since: Moment,
    /// The epoch of its grant, while it is primary.
    granted: u64,
    /// The epoch of the grant that it stood down from in this start.
    stood_down: Option<u64>,
    fenced_at: Moment,
    pub(crate) hand_over: Option<HandOver>,
    handed_over: Option<(u64, String)>,
    hand_over_failed: Option<(u64, String)>,
    /// What it has is whole.
    whole: bool,
    offset: u64,
    loaded: Option<(u64, u64)>,
    observed: bool,
}

impl State {
    pub(crate) fn new(pod: &str, instances: usize) -> Self {
        Self {
            pod: pod.to_owned(),
            epoch: 0,
            primary: None,
            played: Played::Standby,
            process: String::new(),
            of: None,
            peers: Vec::new(),
            instances,
            primary_since: Moment::ZERO,
            granted: 0,
            stood_down: None,
            fenced_at: Moment::ZERO,
            hand_over: None,
            handed_over: None,
            hand_over_failed: None,
            whole: false,
            offset: 0,
            loaded: None,
            observed: false,
        }
    }

    /// Redis was started.
    pub(crate) fn started(&mut self, process: String) {
        *self = Self {
            epoch: self.epoch,
            primary: self.primary.take(),
            peers: std::mem::take(&mut self.peers),
            process,
            ..Self::new(&self.pod, self.instances)
        };
    }

    /// Redis has ended: what it was granted is over.
    pub(crate) fn ended(&mut self) {
        self.process.clear();
        self.hand_over = None;
        self.of = None;
        if self.played != Played::Fenced {
            self.played = Played::Standby;
        }
    }

    pub(crate) fn played(&self) -> Played {
        self.played
    }

    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The newest decision that it knows of.
    pub(crate) fn notice(&self) -> Notice {
        Notice { epoch: self.epoch, primary: self.primary.clone() }
    }

    /// The cluster has so many instances.
    pub(crate) fn resized(&mut self, instances: usize) {
        self.instances = instances;
    }

    /// Learns of a decision. A primary that is not named by a greater epoch steps down.
    pub(crate) fn learn(&mut self, notice: &Notice) -> Option<Act> {
        if notice.epoch == self.epoch && self.primary.is_none() {
            self.primary.clone_from(&notice.primary);
        }
        if notice.epoch <= self.epoch {
            return None;
        }
        self.epoch = notice.epoch;
        self.primary.clone_from(&notice.primary);
        if self.played != Played::Primary {
            return None;
        }
        if self.primary.as_deref() == Some(self.pod.as_str()) {
            self.granted = self.epoch;
            return None;
        }
        Some(self.step_down())
    }

    /// Obeys, or says why not. `facts`: what Redis last said, if it answers.
    pub(crate) fn order(&mut self, orders: &Orders, facts: Option<&Facts>) -> Obeyed {
        let refuse = |acts, reason, message: String| Obeyed { acts, refused: Some(Refused::new(reason, message)) };
        if orders.epoch < self.epoch {
            let message = format!("the orders are of epoch {}, but epoch {} was decided", orders.epoch, self.epoch);
            return refuse(Vec::new(), "StaleEpoch", message);
        }
        let primary = match &orders.role {
            Role::Primary | Role::HandOver { .. } => Some(self.pod.clone()),
            Role::Replica { of } => Some(of.pod.clone()),
            Role::Standby => None,
        };
        let mut acts: Vec<Act> =
            self.learn(&Notice { epoch: orders.epoch, primary: primary.clone() }).into_iter().collect();
        if self.process.is_empty() || self.played == Played::Fenced {
            return refuse(acts, "NotServing", "Redis does not run".to_owned());
        }
        if orders.process != self.process {
            let message = format!("the orders are for process {}, this one is {}", orders.process, self.process);
            return refuse(acts, "OtherProcess", message);
        }
        self.peers.clone_from(&orders.peers);
        match &orders.role {
            Role::Primary => {
                let unable = match facts {
                    None => Some("Redis does not answer"),
                    Some(facts) if facts.loading => Some("Redis is still loading"),
                    Some(facts) if facts.syncing => {
                        Some("Redis is receiving a whole copy: what it has now is not whole")
                    }
                    Some(_) => None,
                };
                if let Some(why) = unable {
                    return refuse(acts, "NotServing", why.to_owned());
                }
                // Who saw it stand down need not wait for anything: a grant from before must not bring it back.
                if self.stood_down.is_some_and(|epoch| orders.epoch <= epoch) {
                    let message =
                        format!("it stood down from the grant of epoch {}: a newer one is needed", orders.epoch);
                    return refuse(acts, "StaleEpoch", message);
                }
                self.primary = primary;
                self.hand_over = None;
                acts.push(Act::Promote);
            }
            Role::Replica { of } => {
                self.primary = primary;
                // Following refuses writes too, but may fail; standing by cannot.
                acts.extend((self.played == Played::Primary).then(|| self.step_down()));
                acts.push(Act::Follow(of.clone()));
            }
            Role::Standby => acts.push(self.step_down()),
            Role::HandOver { to } => {
                let done = self.handed_over.as_ref().is_some_and(|(epoch, pod)| *epoch == self.epoch && *pod == to.pod);
                match &self.hand_over {
                    _ if done => {}
                    Some(under_way) if under_way.to == *to => {}
                    Some(under_way) => {
                        let message = format!("a hand-over to {} is under way", under_way.to.pod);
                        return refuse(acts, "Failed", message);
                    }
                    None if self.played == Played::Primary => {
                        self.hand_over_failed = None;
                        acts.push(Act::HandOver(to.clone()));
                    }
                    None => return refuse(acts, "Failed", "it is not primary and has nothing to hand over".to_owned()),
                }
            }
        }
        Obeyed { acts, refused: None }
    }

    /// Takes writes no longer.
    pub(crate) fn step_down(&mut self) -> Act {
        if self.played == Played::Primary {
            self.stood_down = Some(self.granted);
        }
        self.played = Played::Standby;
        self.of = None;
        self.hand_over = None;
        Act::RefuseWrites
    }

    /// Redis takes writes.
    pub(crate) fn promoted(&mut self, now: Moment) {
        if self.played != Played::Primary {
            self.primary_since = now;
        }
        self.played = Played::Primary;
        self.granted = self.epoch;
        self.of = None;
        self.whole = true;
        self.handed_over = None;
    }

    /// Redis follows.
    pub(crate) fn followed(&mut self, of: Peer) {
        self.played = Played::Replica;
        self.of = Some(of);
    }

    /// Whether a hand-over of this epoch was done.
    pub(crate) fn has_handed_over(&self) -> bool {
        self.handed_over.as_ref().is_some_and(|(epoch, _)| *epoch == self.epoch)
    }

    /// The replica has everything: steps down.
    pub(crate) fn handed_over(&mut self) -> Act {
        self.handed_over = self.hand_over.take().map(|done| (self.epoch, done.to.pod));
        self.step_down()
    }

    /// Goes on as primary.
    pub(crate) fn gave_up_hand_over(&mut self, why: String) {
        self.hand_over = None;
        self.hand_over_failed = Some((self.epoch, why));
    }

    /// Whether it must stop: only a primary has something to lose.
    pub(crate) fn must_fence(&self, now: Moment, limit: Moment, contacts: &Contacts) -> bool {
        self.played == Played::Primary
            && fence::judge(now, limit, self.primary_since, contacts, &self.peers, self.instances) == Verdict::CutOff
    }

    /// Stops.
    pub(crate) fn fence(&mut self, now: Moment) -> Act {
        let act = self.step_down();
        self.played = Played::Fenced;
        self.fenced_at = now;
        act
    }

    /// Whether Redis may be started (again).
    pub(crate) fn may_start(&self, contacts: &Contacts) -> bool {
        self.played != Played::Fenced || contacts.reached_since(self.fenced_at, &self.peers, self.instances)
    }

    /// Takes in what Redis says; answers with what puts it right where somebody else ordered Redis about.
    pub(crate) fn observe(&mut self, facts: &Facts) -> Option<Act> {
        if !self.observed && !facts.loading {
            self.observed = true;
            self.loaded = facts.loaded.filter(|(loaded, expired)| loaded + expired > 0);
        }
        let replica = self.played == Played::Replica;
        // A copy that was begun has replaced, or is about to replace, what was whole. One that began and failed between two
        // looks has left no offset behind.
        if !facts.is_primary && (facts.syncing || (!facts.link_up && facts.offset <= 1 && self.offset > 1)) {
            self.whole = false;
        } else if replica && facts.link_up && self.follows(facts) {
            self.whole = true;
        }
        self.offset = facts.offset;
        match self.played {
            Played::Primary if !facts.is_primary => Some(self.step_down()),
            Played::Replica if !self.follows(facts) => self.of.clone().map(Act::Follow),
            Played::Standby if !follows(facts, NOBODY.0, NOBODY.1) => Some(Act::RefuseWrites),
            _ => None,
        }
    }

    fn follows(&self, facts: &Facts) -> bool {
        self.of.as_ref().is_some_and(|of| follows(facts, &of.ip, of.redis_port))
    }

    /// How it stands. `facts`: what Redis last said, if it answers.
    pub(crate) fn standing(&self, facts: Option<&Facts>) -> Standing {
        let of_this_epoch =
            |said: &Option<(u64, String)>| said.clone().filter(|(epoch, _)| *epoch == self.epoch).map(|(_, text)| text);
        let mut standing = Standing {
            pod: self.pod.clone(),
            process: self.process.clone(),
            role: self.played,
            epoch: self.epoch,
            in_sync_once: self.whole,
            keys_loaded: self.loaded.map(|(loaded, _)| loaded),
            keys_expired: self.loaded.map(|(_, expired)| expired),
            handed_over_to: of_this_epoch(&self.handed_over),
            hand_over_failed: of_this_epoch(&self.hand_over_failed),
            ..Standing::default()
        };
        let Some(facts) = facts else { return standing };
        let replica = self.played == Played::Replica;
        standing.loading = facts.loading;
        standing.serving = !facts.loading && self.played != Played::Fenced;
        standing.replication_id.clone_from(&facts.replication_id);
        standing.previous_replication_id.clone_from(&facts.previous_replication_id);
        standing.offset = facts.offset;
        standing.link_up = replica && facts.link_up && self.follows(facts);
        standing.syncing = replica && facts.syncing;
        standing.lag_seconds = facts.lag_seconds.filter(|_| replica);
        standing.keys = facts.keys;
        standing.version.clone_from(&facts.version);
        standing.server.clone_from(&facts.server);
        standing
    }
}

fn follows(facts: &Facts, ip: &str, port: u16) -> bool {
    facts.follows.as_ref().is_some_and(|(host, its_port)| *its_port == port && same_address(host, ip))
}

/// Whether clients are served; otherwise why not.
pub(crate) fn readiness(standing: &Standing) -> Result<(), &'static str> {
    match standing.role {
        _ if standing.loading => Err("loading"),
        Played::Fenced => Err("fenced"),
        _ if !standing.serving => Err("Redis does not answer"),
        Played::Primary => Ok(()),
        Played::Replica if standing.link_up => Ok(()),
        Played::Replica => Err("the link to the primary is down"),
        Played::Standby => Err("standby"),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
