//! Instances in memory that keep the contract (ADR 18), a network between them that can be cut anywhere, and an operator that
//! decides with what is under test. Time is virtual.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use redkeep_core::managed::{Notice, Orders, Peer, Played, Role, Standing};

use super::{FirstGrant, Member, Plan, Seen, Step, Truth, Wanted, decide};
use crate::redis_cluster::memory::Memory;

/// T of these clusters, in ticks of [`TICK`].
pub(crate) const FENCING: Duration = Duration::from_secs(5);
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// How long a copy takes, and loading, in ticks.
const COPY: u32 = 4;

/// One container with an instance and its Redis.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) ip: String,
    pub(crate) process: String,
    pub(crate) epoch: u64,
    pub(crate) known_primary: Option<String>,
    pub(crate) role: Played,
    following: Option<String>,
    peers: Vec<Peer>,
    /// Every write that it has, in order.
    pub(crate) log: Vec<u64>,
    replication_id: String,
    previous_replication_id: Option<String>,
    link_up: bool,
    copying: u32,
    loading: u32,
    whole: bool,
    /// It lost its data and has not had a copy since.
    pub(crate) emptied: bool,
    handed_over_to: Option<String>,
    hand_over_failed: Option<String>,
    handing_over: Option<(String, Duration)>,
    config: BTreeMap<String, String>,
    since: Duration,
    granted: u64,
    stood_down: Option<u64>,
    seen_object: Option<Duration>,
    seen_peers: BTreeMap<String, Duration>,
    fenced_at: Duration,
    /// Its pod was force-deleted: Kubernetes forgot it, it did not forget itself.
    pub(crate) is_zombie: bool,
    pub(crate) label: Option<String>,
    pub(crate) template: u64,
    /// Its image cannot be pulled.
    pub(crate) is_down: bool,
    /// Its pod is to end, since then, and the epoch that it knew.
    ending: Option<(Duration, u64)>,
}

impl Container {
    fn new(pod: &str, number: u64, template: u64) -> Self {
        Self {
            pod: pod.to_owned(),
            uid: format!("uid-{number}"),
            ip: format!("10.0.0.{number}"),
            process: format!("process-{number}"),
            epoch: 0,
            known_primary: None,
            role: Played::Standby,
            following: None,
            peers: Vec::new(),
            log: Vec::new(),
            replication_id: format!("id-{number}"),
            previous_replication_id: None,
            link_up: false,
            copying: 0,
            loading: 1,
            whole: false,
            emptied: false,
            handed_over_to: None,
            hand_over_failed: None,
            handing_over: None,
            config: BTreeMap::new(),
            since: Duration::ZERO,
            granted: 0,
            stood_down: None,
            seen_object: None,
            seen_peers: BTreeMap::new(),
            fenced_at: Duration::ZERO,
            is_zombie: false,
            label: None,
            template,
            is_down: false,
            ending: None,
        }
    }

    /// There is somebody whom it must meet.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Takes writes now.
    pub(crate) fn accepts(&self) -> bool {
        self.role == Played::Primary && self.handing_over.is_none()
    }

    fn step_down(&mut self) {
        if self.role == Played::Primary {
            self.stood_down = Some(self.granted);
        }
        self.role = Played::Standby;
        self.following = None;
        self.link_up = false;
        self.handing_over = None;
    }

    fn learn(&mut self, notice: &Notice) {
        if notice.epoch == self.epoch && self.known_primary.is_none() {
            self.known_primary.clone_from(&notice.primary);
        }
        if notice.epoch <= self.epoch {
            return;
        }
        self.epoch = notice.epoch;
        self.known_primary.clone_from(&notice.primary);
        if self.role == Played::Primary && self.known_primary.as_deref() != Some(&self.pod) {
            self.step_down();
        }
    }

    fn standing(&self) -> Standing {
        let is_fenced = self.role == Played::Fenced;
        Standing {
            pod: self.pod.clone(),
            process: if is_fenced { String::new() } else { self.process.clone() },
            role: self.role,
            epoch: self.epoch,
            ending: self.ending.is_some(),
            serving: self.loading == 0 && !is_fenced,
            loading: self.loading > 0,
            replication_id: self.replication_id.clone(),
            previous_replication_id: self.previous_replication_id.clone(),
            offset: self.log.len() as u64,
            link_up: self.link_up,
            syncing: self.copying > 0,
            in_sync_once: self.whole,
            keys: self.log.len() as u64,
            handed_over_to: self.handed_over_to.clone(),
            hand_over_failed: self.hand_over_failed.clone(),
            version: "8.2.0".into(),
            ..Standing::default()
        }
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    /// The RedisCluster's status.
    pub(crate) truth: Truth,
    pub(crate) wanted: Wanted,
    pub(crate) replicas: i32,
    pub(crate) template: u64,
    /// Replicas of this template are never in sync.
    pub(crate) unsyncable: Option<u64>,
    pub(crate) containers: Vec<Container>,
    /// Pairs that cannot reach one another: uids, `api`, `operator`.
    pub(crate) cut: BTreeSet<(String, String)>,
    pub(crate) memory: Memory,
    /// The operator is down until then.
    pub(crate) down_until: Duration,
    pub(crate) first: FirstGrant,
    pub(crate) last: Option<Plan>,
    pub(crate) counter: u64,
    pub(crate) promotions: Vec<String>,
    pub(crate) said: Vec<String>,
    gone: BTreeMap<String, (Duration, Vec<u64>, String, bool)>,
    /// Uids of pods whose kubelet said that they have ended.
    ended: BTreeSet<String>,
}

impl World {
    pub(crate) fn new(instances: i32) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            truth: Truth::default(),
            wanted: Wanted {
                cluster: "c".into(),
                instances,
                fencing: FENCING,
                config: BTreeMap::new(),
                switch_over: None,
            },
            replicas: instances,
            template: 1,
            unsyncable: None,
            containers: Vec::new(),
            cut: BTreeSet::new(),
            memory: Memory::default(),
            down_until: Duration::ZERO,
            first: FirstGrant::Open { since: Some(Timestamp::UNIX_EPOCH) },
            last: None,
            counter: 0,
            promotions: Vec::new(),
            said: Vec::new(),
            gone: BTreeMap::new(),
            ended: BTreeSet::new(),
        };
        world.keep_replicas();
        world
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// What the `StatefulSet`'s controller does.
    fn keep_replicas(&mut self) {
        for ordinal in 0..self.replicas {
            let pod = format!("c-{ordinal}");
            if self.containers.iter().any(|one| one.pod == pod && !one.is_zombie) {
                continue;
            }
            if self.gone.get(&pod).is_some_and(|(until, ..)| *until > self.now) {
                continue;
            }
            let number = self.next();
            let mut container = Container::new(&pod, number, self.template);
            if let Some((_, log, id, emptied)) = self.gone.remove(&pod) {
                container.emptied = emptied || (log.is_empty() && container.emptied);
                container.log = log;
                container.replication_id = id;
                container.loading = COPY;
            }
            self.containers.push(container);
        }
        let kept = self.replicas;
        self.containers.retain(|one| one.is_zombie || one.pod[2..].parse::<i32>().unwrap() < kept);
    }

    fn reaches(&self, one: &str, other: &str) -> bool {
        let pair = |a: &str, b: &str| self.cut.contains(&(a.to_owned(), b.to_owned()));
        !pair(one, other) && !pair(other, one)
    }

    pub(crate) fn index(&self, pod: &str) -> Option<usize> {
        self.containers.iter().position(|one| one.pod == pod && !one.is_zombie)
    }

    pub(crate) fn pod(&self, pod: &str) -> &Container {
        &self.containers[self.index(pod).unwrap()]
    }

    /// Cuts everything between these and the rest of the world.
    pub(crate) fn isolate(&mut self, pods: &[&str]) {
        let inside: Vec<String> =
            pods.iter().filter_map(|pod| self.index(pod)).map(|at| self.containers[at].uid.clone()).collect();
        let mut outside: Vec<String> =
            self.containers.iter().map(|one| one.uid.clone()).filter(|uid| !inside.contains(uid)).collect();
        outside.extend(["api".to_owned(), "operator".to_owned()]);
        for one in &inside {
            for other in &outside {
                self.cut.insert((one.clone(), other.clone()));
            }
        }
    }

    /// Redis ends and starts again in the same pod.
    pub(crate) fn restart(&mut self, pod: &str, loses_data: bool) {
        let Some(at) = self.index(pod) else { return };
        let number = self.next();
        let container = &mut self.containers[at];
        container.step_down();
        container.stood_down = None;
        container.process = format!("process-{number}");
        container.whole = false;
        container.loading = 2;
        container.copying = 0;
        container.handed_over_to = None;
        container.hand_over_failed = None;
        if loses_data {
            container.emptied = true;
            container.log.clear();
            container.replication_id = format!("id-{number}");
            container.previous_replication_id = None;
        }
    }

    /// The pod is gone and made anew a while later; `zombie`: its container lives on unseen.
    pub(crate) fn delete(&mut self, pod: &str, after: Duration, loses_data: bool, zombie: bool) {
        let Some(at) = self.index(pod) else { return };
        let container = &mut self.containers[at];
        let log = if loses_data { Vec::new() } else { container.log.clone() };
        let kept = (self.now + after, log, container.replication_id.clone(), loses_data || container.emptied);
        if zombie {
            container.is_zombie = true;
        } else {
            self.containers.remove(at);
        }
        self.gone.insert(pod.to_owned(), kept);
    }

    /// The pod is evicted: it may take its time, and is made anew after.
    pub(crate) fn evict(&mut self, pod: &str) {
        let Some(at) = self.index(pod) else { return };
        let (now, epoch) = (self.now, self.containers[at].epoch);
        self.containers[at].ending.get_or_insert((now, epoch));
    }

    /// Whoever was told to end and has nothing to hand over any more, or waited for long, ends. The kubelet's word for it is missed.
    fn evicted_end(&mut self) {
        let may_end = |one: &Container| {
            let Some((told, epoch)) = one.ending else { return false };
            let waited = self.now.saturating_sub(told);
            let waits = match one.role {
                Played::Primary if one.handing_over.is_some() => Duration::from_secs(15),
                Played::Primary if one.has_peers() && one.hand_over_failed.is_none() => Duration::from_secs(5),
                _ if one.handed_over_to.is_some() && one.epoch <= epoch => Duration::from_secs(15),
                _ => Duration::ZERO,
            };
            waited >= waits
        };
        let ending: Vec<String> =
            self.containers.iter().filter(|one| !one.is_zombie && may_end(one)).map(|one| one.pod.clone()).collect();
        for pod in ending {
            self.delete(&pod, Duration::from_secs(3), false, false);
        }
    }

    /// Everything works again, and whoever lives unseen is found and killed.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.containers.retain(|one| !one.is_zombie);
    }

    /// One tick of everything.
    pub(crate) fn tick(&mut self) {
        self.now += TICK;
        self.keep_replicas();
        self.writes();
        self.replicate();
        if self.now.as_millis().is_multiple_of(1000) {
            self.instances_look();
            if self.now >= self.down_until {
                self.operator_looks(usize::MAX);
            }
        }
        self.fence();
        self.evicted_end();
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.tick();
        }
    }

    fn writes(&mut self) {
        for at in 0..self.containers.len() {
            if self.containers[at].accepts() {
                let write = self.next();
                let container = &mut self.containers[at];
                container.log.push(write);
                container.emptied = false;
            }
        }
    }

    fn replicate(&mut self) {
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            if container.loading > 0 {
                self.containers[at].loading -= 1;
                continue;
            }
            if container.role != Played::Replica {
                continue;
            }
            let source =
                container.following.as_ref().and_then(|ip| self.containers.iter().position(|one| one.ip == *ip));
            let source = source.filter(|source| {
                let other = &self.containers[*source];
                other.role == Played::Primary
                    && other.loading == 0
                    && self.reaches(&container.uid, &other.uid)
                    && self.unsyncable != Some(container.template)
            });
            let Some(source) = source else {
                self.containers[at].link_up = false;
                self.containers[at].copying = 0;
                continue;
            };
            let (log, id) = (self.containers[source].log.clone(), self.containers[source].replication_id.clone());
            let previous = self.containers[source].previous_replication_id.clone();
            let replica = &mut self.containers[at];
            let continues = log.starts_with(&replica.log)
                && (replica.replication_id == id || previous.as_ref() == Some(&replica.replication_id));
            if continues {
                replica.log = log;
                replica.replication_id = id;
                replica.previous_replication_id = previous;
                replica.link_up = true;
                replica.whole = true;
                replica.copying = 0;
                replica.emptied = false;
            } else if replica.copying == 0 {
                replica.copying = COPY;
                replica.whole = false;
                replica.link_up = false;
            } else {
                replica.copying -= 1;
                if replica.copying == 0 {
                    replica.log = log;
                    replica.replication_id = id;
                    replica.previous_replication_id = previous;
                    replica.link_up = true;
                    replica.whole = true;
                    replica.emptied = false;
                }
            }
        }
    }

    fn instances_look(&mut self) {
        let object = Notice { epoch: self.truth.epoch, primary: self.truth.next_primary.clone() };
        for at in 0..self.containers.len() {
            let uid = self.containers[at].uid.clone();
            if self.reaches(&uid, "api") {
                self.containers[at].learn(&object);
                self.containers[at].seen_object = Some(self.now);
            }
            for peer in self.containers[at].peers.clone() {
                let Some(other) = self.containers.iter().position(|one| one.ip == peer.ip) else { continue };
                if !self.reaches(&uid, &self.containers[other].uid.clone()) {
                    continue;
                }
                let mine = self.notice_of(at);
                self.containers[other].learn(&mine);
                let its = self.notice_of(other);
                self.containers[at].learn(&its);
                self.containers[at].seen_peers.insert(peer.pod, self.now);
            }
        }
        self.hand_overs();
    }

    fn notice_of(&self, at: usize) -> Notice {
        Notice { epoch: self.containers[at].epoch, primary: self.containers[at].known_primary.clone() }
    }

    fn hand_overs(&mut self) {
        for at in 0..self.containers.len() {
            let Some((to, since)) = self.containers[at].handing_over.clone() else { continue };
            let heir = self.index(&to).map(|heir| self.containers[heir].clone());
            let container = &mut self.containers[at];
            if heir.is_some_and(|heir| heir.link_up && heir.log == container.log) {
                container.step_down();
                container.handed_over_to = Some(to);
            } else if self.now.saturating_sub(since) > Duration::from_secs(10) {
                container.handing_over = None;
                container.hand_over_failed = Some("it did not get there".into());
            }
        }
    }

    fn reached(&self, container: &Container) -> Option<Duration> {
        let instances = usize::try_from(self.wanted.instances).unwrap();
        let peers = if container.peers.is_empty() || container.peers.len() + 1 < instances {
            None
        } else {
            let seen: Option<Vec<Duration>> =
                container.peers.iter().map(|peer| container.seen_peers.get(&peer.pod).copied()).collect();
            seen.and_then(|seen| seen.into_iter().min())
        };
        container.seen_object.max(peers)
    }

    fn fence(&mut self) {
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            let last = self.reached(container);
            let is_lone = container.peers.is_empty() && self.wanted.instances <= 1;
            match container.role {
                Played::Primary
                    if !is_lone
                        && self.now.saturating_sub(last.unwrap_or_default().max(container.since)) >= FENCING =>
                {
                    let now = self.now;
                    let container = &mut self.containers[at];
                    container.step_down();
                    container.role = Played::Fenced;
                    container.fenced_at = now;
                }
                Played::Fenced if last.is_some_and(|last| last > container.fenced_at) && !container.is_zombie => {
                    let pod = container.pod.clone();
                    self.restart(&pod, false);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn seen(&mut self) -> Seen {
        let mut answers: BTreeMap<String, Option<Standing>> = BTreeMap::new();
        for container in self.containers.iter().filter(|one| !one.is_zombie) {
            let answer =
                self.reaches("operator", &container.uid).then(|| container.standing()).filter(|_| !container.is_down);
            answers.insert(container.pod.clone(), answer);
        }
        if let Some(holder) = self.truth.holder() {
            answers.entry(holder.to_owned()).or_default();
        }
        let epoch = self.truth.epoch;
        self.memory.look(self.now, epoch, &answers);
        let members = self.containers.iter().filter(|one| !one.is_zombie).map(|container| {
            let pod = container.pod.clone();
            let member = Member {
                ordinal: pod[2..].parse().unwrap(),
                uid: container.uid.clone(),
                ip: Some(container.ip.clone()),
                label: container.label.clone(),
                is_terminating: container.ending.is_some(),
                is_outdated: container.template != self.template,
                is_down: container.is_down,
                standing: answers[&pod].clone(),
                missed: self.memory.missed(&pod),
                noticed_for: self.memory.noticed_for(self.now, epoch, &pod),
                acknowledged: self.memory.acknowledged(&pod),
                pod: pod.clone(),
            };
            (pod, member)
        });
        Seen {
            now: Timestamp::UNIX_EPOCH + self.now,
            truth: self.truth.clone(),
            wanted: self.wanted.clone(),
            members: members.collect(),
            holder_missed: self.truth.holder().map_or(0, |holder| self.memory.missed(holder)),
            holder_ended: self.truth.granted_uid.as_ref().is_some_and(|uid| self.ended.contains(uid)),
            replicas: self.replicas,
            first: self.first.clone(),
            hand_over_paused: self.memory.is_hand_over_paused(self.now),
            is_hidden: false,
            is_only_copy: false,
        }
    }

    /// A look of the operator, which ends after so many steps.
    pub(crate) fn operator_looks(&mut self, most: usize) {
        for _ in 0..4 {
            let seen = self.seen();
            let plan = decide(&seen);
            self.last = Some(plan.clone());
            self.said.extend(plan.outcomes.iter().map(|outcome| outcome.reason.clone()));
            if plan.truth != self.truth {
                self.truth = plan.truth;
                if most == 0 {
                    return;
                }
                continue;
            }
            self.replicas = plan.replicas;
            for step in plan.steps.into_iter().take(most) {
                self.execute(step);
            }
            return;
        }
    }

    /// The operator starts anew, and remembers nothing.
    pub(crate) fn restart_operator(&mut self, down: Duration) {
        self.memory = Memory::default();
        self.down_until = self.now + down;
    }

    fn execute(&mut self, step: Step) {
        match step {
            Step::Order { pod, orders } => {
                let Some(at) = self.index(&pod) else { return };
                let uid = self.containers[at].uid.clone();
                if self.reaches("operator", &uid) && self.order(at, &orders) {
                    self.memory.acknowledge(&pod, orders);
                }
            }
            Step::Notify { pod, notice } => {
                let Some(at) = self.index(&pod) else { return };
                if self.reaches("operator", &self.containers[at].uid.clone()) {
                    self.containers[at].learn(&notice);
                }
            }
            Step::Label { pod, role } => {
                if let Some(at) = self.index(&pod) {
                    self.containers[at].label = role.map(str::to_owned);
                }
            }
            Step::Delete { pod, uid } => {
                if self.index(&pod).is_some_and(|at| self.containers[at].uid == uid) {
                    self.ended.insert(uid);
                    self.delete(&pod, Duration::from_secs(3), false, false);
                }
            }
        }
    }

    /// What an instance does with orders; `false` when it refuses.
    pub(crate) fn order(&mut self, at: usize, orders: &Orders) -> bool {
        let now = self.now;
        let others_with_data: Vec<String> = self
            .containers
            .iter()
            .filter(|one| !one.log.is_empty() && !one.is_zombie)
            .map(|one| one.pod.clone())
            .collect();
        let number = self.next();
        let container = &mut self.containers[at];
        if orders.epoch < container.epoch {
            return false;
        }
        let primary = match &orders.role {
            Role::Primary | Role::HandOver { .. } => Some(container.pod.clone()),
            Role::Replica { of } => Some(of.pod.clone()),
            Role::Standby => None,
        };
        container.learn(&Notice { epoch: orders.epoch, primary: primary.clone() });
        if container.role == Played::Fenced || orders.process != container.process {
            return false;
        }
        container.peers.clone_from(&orders.peers);
        container.config.clone_from(&orders.config);
        match &orders.role {
            Role::Primary => {
                let takes_no_grant = container.ending.is_some() && container.role != Played::Primary;
                if container.loading > 0 || container.copying > 0 || takes_no_grant {
                    return false;
                }
                if container.stood_down.is_some_and(|epoch| orders.epoch <= epoch) {
                    return false;
                }
                container.granted = orders.epoch;
                container.known_primary = primary;
                container.handing_over = None;
                if container.role != Played::Primary {
                    assert!(
                        !container.emptied || others_with_data.is_empty(),
                        "{} was emptied and is promoted over {others_with_data:?}",
                        container.pod
                    );
                    container.since = now;
                    container.previous_replication_id = Some(container.replication_id.clone());
                    container.replication_id = format!("id-{number}");
                    self.promotions.push(container.pod.clone());
                }
                container.role = Played::Primary;
                container.following = None;
                container.link_up = false;
                container.whole = true;
                container.handed_over_to = None;
            }
            Role::Replica { of } => {
                container.known_primary = primary;
                container.role = Played::Replica;
                container.handing_over = None;
                if container.following.as_ref() != Some(&of.ip) {
                    container.following = Some(of.ip.clone());
                    container.link_up = false;
                }
            }
            Role::Standby => container.step_down(),
            Role::HandOver { to } => {
                if container.handing_over.is_none() && container.handed_over_to.as_ref() != Some(&to.pod) {
                    if container.role != Played::Primary {
                        return false;
                    }
                    container.hand_over_failed = None;
                    container.handing_over = Some((to.pod.clone(), now));
                }
            }
        }
        true
    }

    /// Who takes writes now.
    pub(crate) fn writers(&self) -> Vec<String> {
        self.containers.iter().filter(|one| one.accepts()).map(|one| format!("{} ({})", one.pod, one.uid)).collect()
    }

    /// One primary, everybody else in sync with it.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(primary) = self.truth.primary.as_ref().filter(|_| self.truth.next_primary.is_none()) else {
            return false;
        };
        let Some(at) = self.index(primary) else { return false };
        let live = self.containers.iter().filter(|one| !one.is_zombie);
        self.containers[at].accepts()
            && live.clone().count() == usize::try_from(self.wanted.instances).unwrap()
            && live.filter(|one| one.pod != *primary).all(|one| one.role == Played::Replica && one.link_up)
    }
}

impl World {
    /// One line a container.
    pub(crate) fn describe(&self) -> String {
        let line = |one: &Container| {
            format!(
                "{} {} {} role {:?} epoch {} log {} whole {} emptied {} link {} loading {} zombie {} id {} template {}\n",
                one.pod,
                one.uid,
                one.process,
                one.role,
                one.epoch,
                one.log.len(),
                one.whole,
                one.emptied,
                one.link_up,
                one.loading,
                one.is_zombie,
                one.replication_id,
                one.template
            )
        };
        self.containers.iter().map(line).collect()
    }
}
