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

use super::bootstrap;
use super::build::stateful_set::{CONTAINER, FENCING, hash_of};
use super::decide::{ExpectedKeys, FirstGrant, Member, Seen, Truth, Wanted};
use super::dereference::Workload;
use super::memory::{Holder, Memory};
use super::names;
use super::validate::{self, ValidatedCluster};
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

pub(super) fn wanted(cluster: &RedisCluster, validated: &ValidatedCluster) -> Wanted {
    let is_filling = is_filling(cluster);
    let mut config = validated.config.clone();
    if is_filling {
        // One that no replica follows would refuse every key that it is filled with.
        config.insert("min-replicas-to-write".to_owned(), "0".to_owned());
    }
    Wanted {
        cluster: validated.name.clone(),
        // Nobody follows a primary that is being filled: what is taken back would have to be taken back from them too.
        instances: if is_filling { 1 } else { validated.instances },
        fencing: validated.fencing,
        config,
        switch_over: switch_over(cluster),
    }
}

/// Where the spec cannot be followed: that what there is goes on as it is.
pub(super) fn deployed(cluster: &RedisCluster, workload: &Workload) -> Wanted {
    let replicas = workload.set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
    Wanted {
        cluster: cluster.name_any(),
        instances: replicas.unwrap_or(cluster.spec.instances),
        fencing: validate::fencing(cluster),
        // Orders that say nothing of it leave it as it is.
        config: BTreeMap::new(),
        switch_over: switch_over(cluster),
    }
}

fn switch_over(cluster: &RedisCluster) -> Option<String> {
    cluster.annotations().get(labels::SWITCH_OVER).filter(|pod| !pod.is_empty()).cloned()
}

/// After how long the instance in this pod fences itself: what its environment said when it was made.
fn fencing(pod: &Pod) -> Option<Duration> {
    let mut containers = pod.spec.as_ref()?.containers.iter();
    let container = containers.find(|container| container.name == CONTAINER)?;
    let variable = container.env.iter().flatten().find(|variable| variable.name == FENCING)?;
    variable.value.as_ref()?.parse().ok().map(Duration::from_secs)
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
fn is_filling(cluster: &RedisCluster) -> bool {
    let filled = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref()?.filled);
    cluster.spec.bootstrap.is_some() && cluster.spec.ephemeral.is_some() && filled != Some(true)
}

pub(super) fn look(
    now: Timestamp,
    elapsed: Duration,
    cluster: &RedisCluster,
    mut wanted: Wanted,
    workload: &Workload,
    answers: &BTreeMap<String, Option<Standing>>,
    memory: &mut Memory,
) -> Seen {
    let status = cluster.status.clone().unwrap_or_default();
    let truth = truth(&status);
    let is_only_copy = status.bootstrap.as_ref().is_some_and(bootstrap::is_only_copy);
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
    let granted = truth.granted_uid.as_deref();
    let holder = workload.pods.iter().find(|pod| granted.is_some() && pod.metadata.uid.as_deref() == granted);
    let ended = holder.map(ended_containers).unwrap_or_default();
    let answer = truth.holder().and_then(|holder| answers.get(holder)?.as_ref());
    let holder_ended = memory.has_ended(granted.map(|uid| Holder {
        uid,
        process: truth.process.as_deref(),
        answers: answer.map(|standing| standing.process.as_str()),
        ended: &ended,
    }));
    let members = workload.pods.iter().filter_map(|pod| {
        let name = pod.name_any();
        let member = Member {
            ordinal: names::ordinal(&wanted.cluster, &name)?,
            uid: pod.uid().unwrap_or_default(),
            ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
            label: pod.labels().get(labels::ROLE).cloned(),
            is_terminating: pod.metadata.deletion_timestamp.is_some() || is_ending(answers.get(&name)),
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
    let members = members.collect();
    let of_holder = memory.fencing(granted, holder.and_then(fencing));
    // Those that were not made anew since the spec was changed keep to what they were made with.
    wanted.fencing = workload.pods.iter().filter_map(fencing).chain(of_holder).fold(wanted.fencing, Duration::max);
    Seen {
        now,
        members,
        holder_missed: truth.holder().map_or(0, |holder| memory.missed(holder)),
        holder_ended,
        replicas: replicas.unwrap_or(wanted.instances),
        first: first_grant(cluster, workload),
        hand_over_paused: memory.is_hand_over_paused(elapsed),
        is_hidden: is_filling(cluster) || is_only_copy,
        is_only_copy,
        truth,
        wanted,
    }
}

/// A node that is shut down ends its pods without deleting them: only the instance knows.
fn is_ending(answer: Option<&Option<Standing>>) -> bool {
    answer.and_then(Option::as_ref).is_some_and(|standing| standing.ending)
}

/// Whether the pod's Redis does not run, or not yet.
fn is_down(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return true };
    let mut containers = status.container_statuses.iter().flatten().filter(|container| container.name == CONTAINER);
    !containers.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// The ids of the pod's containers of Redis that its kubelet says have ended, where none runs now.
fn ended_containers(pod: &Pod) -> Vec<String> {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ended = containers.filter(|container| container.name == CONTAINER).filter_map(|container| {
        let state = container.state.as_ref()?;
        // One that never ran is waiting too, and has no last state.
        let last = container.last_state.as_ref().filter(|_| state.waiting.is_some());
        let ended = state.terminated.as_ref().or_else(|| last?.terminated.as_ref())?;
        Some(ended.container_id.clone().unwrap_or_else(|| format!("start {}", container.restart_count)))
    });
    ended.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn pod(name: &str, uid: &str, seconds: &str) -> Pod {
        let env = json!([{"name": FENCING, "value": seconds}]);
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": uid}, "spec": {"containers": [{"name": CONTAINER, "env": env}]}
        }))
        .unwrap()
    }

    fn fencing_of(memory: &mut Memory, granted: &str, pods: Vec<Pod>) -> u64 {
        let cluster: RedisCluster = serde_json::from_value(json!({
            "apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": "c", "namespace": "shop"},
            "spec": {"imageName": "redis:7.2", "storage": {"size": "1Gi"}, "failover": {"fencingSeconds": 10}},
            "status": {"epoch": 2, "primary": "c-0", "primaryProcess": "p", "grantedPodUid": granted},
        }))
        .unwrap();
        let workload = Workload { pods, ..Workload::default() };
        let wanted = deployed(&cluster, &workload);
        let seen = look(Timestamp::UNIX_EPOCH, Duration::ZERO, &cluster, wanted, &workload, &BTreeMap::new(), memory);
        seen.wanted.fencing.as_secs()
    }

    #[test]
    fn a_shorter_fencing_time_holds_once_no_pod_has_the_longer_one() {
        let mut memory = Memory::default();
        let (old, new) = (pod("c-0", "u-0", "30"), pod("c-1", "u-1", "10"));
        assert_eq!(fencing_of(&mut memory, "u-0", vec![old, new.clone()]), 30);
        assert_eq!(fencing_of(&mut memory, "u-0", vec![new.clone()]), 30, "it may still run without its pod");
        assert_eq!(fencing_of(&mut memory, "u-1", vec![new.clone()]), 10);
        assert_eq!(fencing_of(&mut memory, "u-1", vec![new, pod("c-2", "u-2", "20")]), 20);
    }

    #[test]
    fn a_kubelet_that_means_the_process_before_is_not_believed_while_a_grant_is_carried_out() {
        let cluster: RedisCluster = serde_json::from_value(json!({
            "apiVersion": "redis.io/v1", "kind": "RedisCluster", "metadata": {"name": "c", "namespace": "shop"},
            "spec": {"imageName": "redis:7.2", "storage": {"size": "1Gi"}},
            "status": {"epoch": 3, "primary": "c-1", "nextPrimary": "c-0", "primaryProcess": "p1", "grantedPodUid": "u-0",
                "failoverSince": "2026-11-27T12:00:00Z"},
        }))
        .unwrap();
        let mut pod = pod("c-0", "u-0", "15");
        let ended = json!({"containerStatuses": [{
            "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"terminated": {"exitCode": 137, "containerID": "containerd://0"}}}]});
        pod.status = serde_json::from_value(ended).unwrap();
        let workload = Workload { pods: vec![pod], ..Workload::default() };
        let mut memory = Memory::default();
        let mut ended = |seconds: u64, answer: Option<Standing>| {
            let answers = BTreeMap::from([("c-0".to_owned(), answer)]);
            let (wanted, at) = (deployed(&cluster, &workload), Duration::from_secs(seconds));
            look(Timestamp::UNIX_EPOCH, at, &cluster, wanted, &workload, &answers, &mut memory).holder_ended
        };
        assert!(!ended(1, Some(Standing { process: "p1".into(), ..Standing::default() })));
        assert!(!ended(2, None), "silent, and its kubelet still means the container before");
    }

    #[rstest]
    #[case::other_container(json!({"containers": [{"name": "side", "env": [{"name": FENCING, "value": "9"}]}]}))]
    #[case::no_number(json!({"containers": [{"name": CONTAINER, "env": [{"name": FENCING, "value": "soon"}]}]}))]
    #[case::nothing(json!({"containers": []}))]
    fn a_pod_that_does_not_say_when_it_fences_itself(#[case] spec: Value) {
        let pod = serde_json::from_value(json!({"metadata": {"name": "c-0"}, "spec": spec})).unwrap();
        assert_eq!(fencing(&pod), None);
    }
}
