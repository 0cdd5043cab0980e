//! From what was read to one look that can be decided on. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use redkeep_core::managed::Standing;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::{BootstrapStatus, RedisClusterStatus};

use super::build::stateful_set::{CONTAINER, hash_of};
use super::decide::{ExpectedKeys, FirstGrant, Member, Seen, Truth, Wanted};
use super::dereference::Workload;
use super::memory::Memory;
use super::names;
use super::validate::ValidatedCluster;
use crate::apply::whole_seconds;

/// What is written.
pub(super) fn truth(status: &RedisClusterStatus) -> Truth {
    Truth {
        epoch: status.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0),
        primary: status.primary.clone(),
        process: status.primary_process.clone(),
        next_primary: status.next_primary.clone(),
        granted_uid: status.granted_pod_uid.clone(),
        failover_since: status.failover_since.as_ref().map(|time| time.0),
        switch_over: status.switch_over.clone(),
        replication_id: status.replication_id.clone(),
    }
}

/// What is to be written.
pub(super) fn write(truth: &Truth, status: &mut RedisClusterStatus, now: Timestamp) {
    let is_new = truth.next_primary.is_none() && truth.process.is_some() && status.next_primary == truth.primary;
    if is_new && truth.primary.is_some() {
        status.primary_since = Some(Time(whole_seconds(now)));
    }
    status.epoch = i64::try_from(truth.epoch).ok().filter(|epoch| *epoch > 0);
    status.primary.clone_from(&truth.primary);
    status.primary_process.clone_from(&truth.process);
    status.next_primary.clone_from(&truth.next_primary);
    status.granted_pod_uid.clone_from(&truth.granted_uid);
    status.failover_since = truth.failover_since.map(|time| Time(whole_seconds(time)));
    status.switch_over.clone_from(&truth.switch_over);
    status.replication_id.clone_from(&truth.replication_id);
}

pub(super) fn wanted(cluster: &RedisCluster, validated: &ValidatedCluster, is_hidden: bool) -> Wanted {
    Wanted {
        cluster: validated.name.clone(),
        // Nobody follows a primary that is being filled: what is taken back would have to be taken back from them too.
        instances: if is_hidden { 1 } else { validated.instances },
        fencing: validated.fencing,
        config: validated.config.clone(),
        switch_over: cluster.annotations().get(labels::SWITCH_OVER).filter(|pod| !pod.is_empty()).cloned(),
    }
}

/// Whether the first grant may be given, and on what condition.
pub(super) fn first_grant(cluster: &RedisCluster, workload: &Workload) -> FirstGrant {
    let status = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref());
    match (&cluster.spec.bootstrap, &cluster.spec.ephemeral) {
        (Some(_), None) => FirstGrant::Restored(status.map(expected).unwrap_or_default()),
        (Some(_), Some(_)) => FirstGrant::ToBeFilled,
        (None, _) => {
            let since = workload.set.as_ref().and_then(|set| set.metadata.creation_timestamp.as_ref());
            FirstGrant::Open { since: since.map(|time| time.0) }
        }
    }
}

fn expected(status: &BootstrapStatus) -> ExpectedKeys {
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    ExpectedKeys {
        keys: count(status.keys_expected),
        expires: count(status.expires_expected).unwrap_or(0),
        has_commands: status.comparable == Some(false),
    }
}

/// A cluster without claims that is not filled yet.
pub(super) fn is_hidden(cluster: &RedisCluster) -> bool {
    let filled = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref()?.filled);
    cluster.spec.bootstrap.is_some() && cluster.spec.ephemeral.is_some() && filled != Some(true)
}

pub(super) fn look(
    now: Timestamp,
    elapsed: Duration,
    cluster: &RedisCluster,
    validated: &ValidatedCluster,
    workload: &Workload,
    answers: &BTreeMap<String, Option<Standing>>,
    memory: &mut Memory,
) -> Seen {
    let status = cluster.status.clone().unwrap_or_default();
    let truth = truth(&status);
    let is_hidden = is_hidden(cluster);
    let mut asked = answers.clone();
    if let Some(holder) = truth.holder() {
        // One that has no pod does not answer either.
        asked.entry(holder.to_owned()).or_default();
    }
    memory.look(elapsed, truth.epoch, &asked);
    let hash = workload.set.as_ref().filter(|set| {
        // What the StatefulSet's controller has not seen yet it does not make pods from.
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        observed == set.metadata.generation
    });
    let hash = hash.and_then(hash_of);
    let ended: Vec<&str> =
        workload.pods.iter().filter(|pod| has_ended(pod)).filter_map(|pod| pod.metadata.uid.as_deref()).collect();
    let is_revoked = truth.process.is_none() || truth.failover_since.is_some();
    // While a grant stands, a container that restarted says so itself: the kubelet's word may be about the one before.
    let answers_now = truth.holder().is_some_and(|holder| answers.get(holder).is_some_and(Option::is_some));
    let holder_ended =
        memory.has_ended(truth.granted_uid.as_deref(), if is_revoked || !answers_now { &ended } else { &[] });
    let members = workload.pods.iter().filter_map(|pod| {
        let name = pod.name_any();
        let member = Member {
            ordinal: names::ordinal(&validated.name, &name)?,
            uid: pod.uid().unwrap_or_default(),
            ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
            label: pod.labels().get(labels::ROLE).cloned(),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_down: is_down(pod),
            is_outdated: hash.is_some() && pod.annotations().get(names::TEMPLATE) != hash,
            standing: answers.get(&name).cloned().flatten(),
            missed: memory.missed(&name),
            noticed_for: memory.noticed_for(elapsed, truth.epoch, &name),
            acknowledged: memory.acknowledged(&name),
            pod: name.clone(),
        };
        Some((name, member))
    });
    let replicas = workload.set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
    let wanted = wanted(cluster, validated, is_hidden);
    Seen {
        now,
        members: members.collect(),
        holder_missed: truth.holder().map_or(0, |holder| memory.missed(holder)),
        holder_ended,
        replicas: replicas.unwrap_or(wanted.instances),
        first: first_grant(cluster, workload),
        hand_over_paused: memory.is_hand_over_paused(elapsed),
        is_hidden,
        truth,
        wanted,
    }
}

/// Whether the pod's Redis does not run, or not yet.
fn is_down(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return true };
    let mut containers = status.container_statuses.iter().flatten().filter(|container| container.name == CONTAINER);
    !containers.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Whether the kubelet says that the pod's Redis does not run any more.
fn has_ended(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let mut containers = status.container_statuses.iter().flatten();
    containers.any(|container| {
        let state = container.state.as_ref();
        // One that never ran is waiting too, and has no last state.
        let waits = state.is_some_and(|state| state.waiting.is_some());
        let ran = container.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        container.name == CONTAINER && (state.is_some_and(|state| state.terminated.is_some()) || (waits && ran))
    })
}

/// Why a pod does not run, as far as its own status says: a stable word and a sentence.
pub(super) fn trouble(pod: &Pod) -> Option<(String, String)> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.is_some()
    });
    if let Some(condition) = unscheduled {
        let message = condition.message.clone().unwrap_or_default();
        return Some(("Unschedulable".to_owned(), format!("{name}: {message}")));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers {
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref()).or(ended);
        let last_words = ended.filter(|ended| ended.exit_code != 0).map(|ended| {
            let message = ended.message.clone().unwrap_or_default();
            format!("{} ended with code {}: {}", container.name, ended.exit_code, message.trim())
        });
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let waits = waiting.and_then(|waiting| Some((waiting.reason.clone()?, waiting.message.clone())));
        match waits {
            Some((reason, message)) if reason.contains("Image") || reason.contains("ErrImage") => {
                let message = message.unwrap_or(reason);
                return Some(("ImagePullFailed".to_owned(), format!("{name}: {message}")));
            }
            Some((reason, message)) if reason == "CrashLoopBackOff" || reason.contains("Error") => {
                let message = last_words.or(message).unwrap_or(reason);
                return Some(("InstanceFailed".to_owned(), format!("{name}: {message}")));
            }
            _ => {}
        }
        if let Some(message) = last_words.filter(|_| container.name == CONTAINER && !container.ready) {
            return Some(("InstanceFailed".to_owned(), format!("{name}: {message}")));
        }
    }
    None
}
