//! Who is primary, and what each instance is told: one look at a cluster becomes a plan (ADR 18). Pure.
//!
//! What is decided is written to the status before anybody hears of it: a plan that changes [`Truth`] holds nothing else, and the
//! next look goes on from what is written. So an operator that starts anew, at any point, goes on where the last one was.

mod choice;
mod failover;
mod hand_over;
mod rollout;
#[cfg(test)]
mod simulation;
mod steady;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use redkeep_core::managed::{Notice, Orders, Peer, Played, Role, Standing};

use crate::outcome::Outcome;

/// An instance that did not answer for so many looks in a row, a second apart, is lost.
pub(super) const LOOKS_UNTIL_LOST: u32 = 3;

/// Who is primary: the part of the status that the instances obey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Truth {
    /// The number of the last decision; 0: nobody was ever granted anything.
    pub(super) epoch: u64,
    /// The pod that was granted last and said so.
    pub(super) primary: Option<String>,
    /// The start of Redis that the last grant is for.
    pub(super) process: Option<String>,
    /// The pod that is being granted.
    pub(super) next_primary: Option<String>,
    /// The uid of the pod that may hold a grant.
    pub(super) granted_uid: Option<String>,
    /// The primary is being replaced since then.
    pub(super) failover_since: Option<Timestamp>,
    /// The last value of the annotation that was followed.
    pub(super) switch_over: Option<String>,
    /// The replication id of the last primary.
    pub(super) replication_id: Option<String>,
}

impl Truth {
    /// The pod that may take writes: granted, or about to be.
    pub(super) fn holder(&self) -> Option<&str> {
        self.next_primary.as_deref().or(self.primary.as_deref())
    }

    /// The decision that all grants so far are over.
    fn revoked(&self, now: Timestamp) -> Self {
        Self {
            epoch: self.epoch.saturating_add(1),
            primary: self.holder().map(str::to_owned),
            next_primary: None,
            process: None,
            // Each decision has its own time to be carried out.
            failover_since: Some(now),
            ..self.clone()
        }
    }

    /// The decision that this one is primary next. Whoever may hold a grant was settled before.
    fn granting(&self, member: &Member, standing: &Standing, now: Timestamp) -> Self {
        Self {
            failover_since: self.failover_since.map(|_| now),
            next_primary: Some(member.pod.clone()),
            process: Some(standing.process.clone()),
            granted_uid: Some(member.uid.clone()),
            ..self.clone()
        }
    }
}

/// What the spec wants, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The RedisCluster's name: its pods are `NAME-0` and so on.
    pub(super) cluster: String,
    /// How many instances.
    pub(super) instances: i32,
    /// T.
    pub(super) fencing: Duration,
    /// `redis.conf`.
    pub(super) config: BTreeMap<String, String>,
    /// The value of annotation `redis.io/switch-over`.
    pub(super) switch_over: Option<String>,
}

impl Wanted {
    /// How long after the candidates had the notice a primary that nobody heard of is certain to have stopped.
    pub(super) fn margin(&self) -> Duration {
        self.fencing.saturating_add(self.fencing / 5).saturating_add(Duration::from_secs(2))
    }

    fn pod(&self, ordinal: i32) -> String {
        format!("{}-{ordinal}", self.cluster)
    }
}

/// One pod of the cluster, as it was seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Member {
    pub(super) pod: String,
    pub(super) ordinal: i32,
    pub(super) uid: String,
    pub(super) ip: Option<String>,
    /// The value of label `redis.io/role`.
    pub(super) label: Option<String>,
    /// It is evicted, deleted, or its node shuts down. A primary waits a while to be asked to hand over.
    pub(super) is_terminating: bool,
    /// Its pod was made from an older template.
    pub(super) is_outdated: bool,
    /// The kubelet says that its Redis does not run: it waits for an image, a volume, a node, or crashes again and again.
    pub(super) is_down: bool,
    /// What it answered.
    pub(super) standing: Option<Standing>,
    /// For how many looks in a row it did not.
    pub(super) missed: u32,
    /// How long this start of it has known the present epoch, without being primary.
    pub(super) noticed_for: Option<Duration>,
    /// The last orders that this start of it took.
    pub(super) acknowledged: Option<Orders>,
}

impl Member {
    pub(super) fn peer(&self) -> Option<Peer> {
        let (redis_port, instance_port) = (redkeep_core::managed::REDIS_PORT, redkeep_core::managed::INSTANCE_PORT);
        Some(Peer { pod: self.pod.clone(), ip: self.ip.clone()?, redis_port, instance_port })
    }

    /// It answered, its Redis too, and it has loaded what it had.
    fn serves(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.serving && !standing.loading)
    }

    /// What it has is whole: it was in sync with a primary, or one itself, in this start.
    fn is_whole(&self) -> bool {
        self.serves() && self.standing.as_ref().is_some_and(|standing| standing.in_sync_once)
    }

    /// It follows, and nothing is missing.
    pub(super) fn is_in_sync(&self) -> bool {
        self.is_whole()
            && self
                .standing
                .as_ref()
                .is_some_and(|standing| standing.role == Played::Replica && standing.link_up && !standing.syncing)
    }

    fn restarts_for_config(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| !standing.restart_for.is_empty())
    }
}

/// Whether a cluster that never had a primary may have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FirstGrant {
    /// As soon as its instances serve.
    Open {
        /// Since when the pods are wanted.
        since: Option<Timestamp>,
    },
    /// The first pod, when it has the keys of the backup.
    Restored(ExpectedKeys),
    /// The first pod, empty: it is filled while it runs, and not shown to clients before.
    ToBeFilled,
}

/// What the server must have loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExpectedKeys {
    /// Keys of the backup.
    pub(super) keys: Option<u64>,
    /// Of those, how many may have expired.
    pub(super) expires: u64,
    /// Commands follow the snapshot: what is there after them nobody counted, only what the server counts as loaded is comparable.
    pub(super) has_commands: bool,
}

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) now: Timestamp,
    pub(super) truth: Truth,
    pub(super) wanted: Wanted,
    pub(super) members: BTreeMap<String, Member>,
    /// For how many looks in a row the holder of the grant did not answer; it may have no pod.
    pub(super) holder_missed: u32,
    /// The kubelet said that the container which held the last grant has ended.
    pub(super) holder_ended: bool,
    /// Replicas that the `StatefulSet` has now.
    pub(super) replicas: i32,
    /// Whether a cluster that never had a primary may have one.
    pub(super) first: FirstGrant,
    /// The primary gave up a hand-over a short while ago.
    pub(super) hand_over_paused: bool,
    /// A cluster without claims is not filled yet, or was and no second instance has that: clients must not see it.
    pub(super) is_hidden: bool,
    /// It was filled, nobody but the first instance ever had that, and no client wrote to it.
    pub(super) is_only_copy: bool,
}

impl Seen {
    /// Everybody but this one, for its orders.
    fn peers_of(&self, pod: &str) -> Vec<Peer> {
        self.members
            .values()
            .filter(|member| member.pod != pod && !member.is_terminating)
            .filter_map(Member::peer)
            .collect()
    }

    fn orders(&self, member: &Member, role: Role) -> Option<Orders> {
        let process = member.standing.as_ref().map(|standing| standing.process.clone())?;
        if process.is_empty() || member.ip.is_none() {
            return None;
        }
        let (peers, config) = (self.peers_of(&member.pod), self.wanted.config.clone());
        Some(Orders { epoch: self.truth.epoch, process, role, peers, config })
    }

    fn notice(&self) -> Notice {
        let primary = if self.truth.failover_since.is_some() { None } else { self.truth.primary.clone() };
        Notice { epoch: self.truth.epoch, primary }
    }

    fn failing_for(&self) -> Duration {
        let since = self.truth.failover_since.map(|since| self.now.duration_since(since));
        since.and_then(|since| Duration::try_from(since).ok()).unwrap_or_default()
    }

    /// Every pod that is wanted is there, and answers.
    fn all_answer(&self) -> bool {
        (0..self.wanted.instances)
            .all(|ordinal| self.members.get(&self.wanted.pod(ordinal)).is_some_and(|member| member.standing.is_some()))
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Give orders.
    Order { pod: String, orders: Orders },
    /// Tell one that cannot take orders of the newest decision.
    Notify { pod: String, notice: Notice },
    /// Set or take the label by which Services find it.
    Label { pod: String, role: Option<&'static str> },
    /// Delete the pod, so that the `StatefulSet` makes it anew.
    Delete { pod: String, uid: String },
}

/// Where the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No primary was ever granted: not yet.
    Creating { message: String },
    /// The restored keys are not those of the backup: no grant, until a person looked.
    KeysDiffer { message: String },
    /// The primary takes writes.
    Serving {
        /// What goes on: a reason and a message.
        progress: Option<(&'static str, String)>,
    },
    /// The primary does not answer, and it is not decided yet, or nobody could follow.
    Lost { message: String },
    /// It is being replaced.
    FailingOver { message: String },
}

/// What follows from a look.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// As it is to be written; where it differs from what is written there are no steps.
    pub(super) truth: Truth,
    pub(super) steps: Vec<Step>,
    /// How many replicas the `StatefulSet` should have.
    pub(super) replicas: i32,
    pub(super) stage: Stage,
    pub(super) outcomes: Vec<Outcome>,
    /// The counts that were compared before the first grant: loaded, expired.
    pub(super) loaded: Option<(u64, Option<u64>)>,
}

impl Plan {
    fn new(seen: &Seen, stage: Stage) -> Self {
        let truth = seen.truth.clone();
        // More may come at any time; fewer only once it is known who is primary.
        let replicas = seen.replicas.max(seen.wanted.instances);
        Self { truth, steps: Vec::new(), replicas, stage, outcomes: Vec::new(), loaded: None }
    }

    fn write(seen: &Seen, truth: Truth, stage: Stage) -> Self {
        Self { truth, ..Self::new(seen, stage) }
    }

    fn saying(mut self, outcome: Outcome) -> Self {
        self.outcomes.push(outcome);
        self
    }
}

/// The plan of a look.
pub(super) fn decide(seen: &Seen) -> Plan {
    let mut plan = next(seen);
    if plan.truth == seen.truth {
        rollout::replace_broken(seen, &mut plan.steps);
    }
    plan
}

fn next(seen: &Seen) -> Plan {
    if seen.truth.epoch == 0 {
        failover::first_grant(seen)
    } else if seen.truth.next_primary.is_some() {
        failover::granting(seen)
    } else if seen.truth.failover_since.is_some() || seen.truth.process.is_none() {
        failover::choosing(seen)
    } else {
        steady::steady(seen)
    }
}

/// Whether orders still have to be given: it did not take these, or does not play what they say.
fn is_missing(member: &Member, orders: &Orders) -> bool {
    let Some(standing) = &member.standing else { return false };
    let plays = match orders.role {
        // While it hands over it is primary, and standby after.
        Role::HandOver { .. } => true,
        Role::Primary => standing.role == Played::Primary,
        Role::Replica { .. } => standing.role == Played::Replica,
        Role::Standby => standing.role == Played::Standby,
    };
    !plays || standing.epoch < orders.epoch || member.acknowledged.as_ref() != Some(orders)
}
