//! The runs of all schedules, from a metadata-only watch: a few words each, so that tens of thousands take little room.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use tokio::sync::watch as signal;
use tokio_util::sync::CancellationToken;

use crate::runtime::ObjectKey;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    Failed,
}

/// What is known of one RedisBackup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) uid: String,
    /// The schedule that controls it; a namesake's child has another.
    pub(super) owner: Option<String>,
    pub(super) version: String,
    pub(super) slot: Option<Timestamp>,
    /// A backup that is complete has ended, though its verification goes on.
    pub(super) end: Option<End>,
    /// Nothing of it goes on, its verification included.
    pub(super) is_settled: bool,
    pub(super) completed_at: Option<Timestamp>,
    pub(super) is_deleting: bool,
    /// Its finalizer would delete its artifacts.
    pub(super) has_finalizer: bool,
    /// Its spec was changed after it was made: it may be a pin that is wished for, which metadata does not say.
    pub(super) was_edited: bool,
    /// What is noted of its pin in storage.
    pub(super) pin_note: Option<Box<str>>,
}

impl Child {
    pub(super) fn of<K: ResourceExt>(metadata: &K) -> Self {
        let annotation = |key: &str| metadata.annotations().get(key).and_then(|text| text.parse::<Timestamp>().ok());
        let end = match metadata.labels().get(labels::OUTCOME).map(String::as_str) {
            Some(labels::OUTCOME_COMPLETED) => Some(End::Completed),
            Some(_) => Some(End::Failed),
            None => annotation(labels::COMPLETED_AT).map(|_| End::Completed),
        };
        let owner = metadata.owner_references().iter().find(|owner| owner.controller == Some(true));
        Self {
            uid: metadata.uid().unwrap_or_default(),
            owner: owner.map(|owner| owner.uid.clone()),
            version: metadata.resource_version().unwrap_or_default(),
            slot: annotation(labels::SLOT),
            end,
            is_settled: metadata.labels().contains_key(labels::OUTCOME),
            completed_at: annotation(labels::COMPLETED_AT),
            is_deleting: metadata.meta().deletion_timestamp.is_some(),
            has_finalizer: metadata.finalizers().iter().any(|one| one == labels::DELETE_ARTIFACTS_FINALIZER),
            was_edited: metadata.meta().generation.is_some_and(|generation| generation > 1),
            pin_note: metadata.annotations().get(labels::PINNED).map(|note| note.as_str().into()),
        }
    }

    /// Whether it is complete, and a verification goes on that did so then already.
    pub(super) fn was_being_verified(&self, then: Timestamp) -> bool {
        let goes_on = self.end == Some(End::Completed) && !self.is_settled && !self.is_deleting;
        goes_on && self.completed_at.is_none_or(|completed| completed <= then)
    }

    /// Whether a schedule sees any difference.
    fn says_the_same(&self, other: &Self) -> bool {
        let seen = |child: &Self| (child.slot, child.end, child.is_settled, child.completed_at, child.is_deleting);
        (&self.uid, &self.owner, &self.pin_note, seen(self)) == (&other.uid, &other.owner, &other.pin_note, seen(other))
    }
}

type BySchedule = HashMap<ObjectKey, Few>;

/// The children of one schedule by name: mostly three, for which the nodes of a map would be three times too large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Few(Vec<(String, Child)>);

impl Few {
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// Returns what was there before.
    fn insert(&mut self, name: String, child: Child) -> Option<Child> {
        match self.place(&name) {
            Ok(at) => self.0.get_mut(at).map(|(_, before)| std::mem::replace(before, child)),
            Err(at) => {
                self.0.insert(at, (name, child));
                None
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Ok(at) = self.place(name) {
            self.0.remove(at);
        }
    }
}

/// All children, by schedule.
#[derive(Default)]
pub(super) struct Children(Mutex<Index>);

#[derive(Default)]
struct Index {
    now: BySchedule,
    /// A list in progress.
    listed: BySchedule,
}

fn schedule_of<K: ResourceExt>(metadata: &K) -> Option<ObjectKey> {
    let name = metadata.labels().get(labels::SCHEDULE)?.clone();
    Some(ObjectKey { namespace: metadata.namespace().unwrap_or_default(), name })
}

impl Children {
    /// Those that this schedule controls.
    pub(super) fn of(&self, schedule: &ObjectKey, uid: &str) -> BTreeMap<String, Child> {
        let index = self.lock();
        let all = index.now.get(schedule).into_iter().flat_map(|few| &few.0);
        all.filter(|(_, child)| child.owner.as_deref() == Some(uid)).cloned().collect()
    }

    /// Takes in what the watch says; the schedules that have to look again.
    pub(super) fn take(&self, event: Event<PartialObjectMeta<RedisBackup>>) -> Vec<ObjectKey> {
        let mut index = self.lock();
        match event {
            Event::Init => index.listed = BySchedule::new(),
            Event::InitApply(metadata) => {
                if let Some(schedule) = schedule_of(&metadata) {
                    let children = index.listed.entry(schedule).or_default();
                    children.insert(metadata.name_any(), Child::of(&metadata));
                }
            }
            Event::InitDone => {
                let before = std::mem::take(&mut index.now);
                index.now = std::mem::take(&mut index.listed);
                let all: HashSet<&ObjectKey> = before.keys().chain(index.now.keys()).collect();
                return all.into_iter().filter(|key| before.get(*key) != index.now.get(*key)).cloned().collect();
            }
            Event::Apply(metadata) => {
                let Some(schedule) = schedule_of(&metadata) else { return Vec::new() };
                let child = Child::of(&metadata);
                let children = index.now.entry(schedule.clone()).or_default();
                let before = children.insert(metadata.name_any(), child.clone());
                if !before.is_some_and(|before| before.says_the_same(&child)) {
                    return vec![schedule];
                }
            }
            Event::Delete(metadata) => {
                let Some(schedule) = schedule_of(&metadata) else { return Vec::new() };
                if let Some(children) = index.now.get_mut(&schedule) {
                    children.remove(&metadata.name_any());
                    if children.0.is_empty() {
                        index.now.remove(&schedule);
                    }
                }
                return vec![schedule];
            }
        }
        Vec::new()
    }

    /// Takes in a run that was made just now.
    pub(super) fn made(&self, backup: &RedisBackup) {
        let Some(schedule) = schedule_of(backup) else { return };
        let mut index = self.lock();
        let children = index.now.entry(schedule).or_default();
        let name = backup.name_any();
        // What the watch said already is newer.
        if children.place(&name).is_err() {
            children.insert(name, Child::of(backup));
        }
    }

    /// Watches until it is cancelled; `ready` is told when the first list is complete.
    pub(super) async fn run(
        &self,
        api: Api<PartialObjectMeta<RedisBackup>>,
        ready: &signal::Sender<bool>,
        ask: impl Fn(ObjectKey),
        shutdown: &CancellationToken,
    ) {
        let config = watcher::Config::default().labels(labels::SCHEDULE);
        let events = watch(api, config).default_backoff().take_until(shutdown.cancelled());
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let is_first = matches!(event, Event::InitDone);
                    for schedule in self.take(event) {
                        ask(schedule);
                    }
                    if is_first {
                        ready.send_replace(true);
                    }
                }
                Err(error) => tracing::warn!(error = %error, "unable to watch the backups of schedules"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn metadata(name: &str, change: Value) -> PartialObjectMeta<RedisBackup> {
        let mut object = json!({
            "apiVersion": "redis.io/v1", "kind": "RedisBackup",
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "1",
                "labels": {labels::SCHEDULE: "nightly"},
                "annotations": {labels::SLOT: "2026-11-27T02:00:00Z"},
                "ownerReferences": [{"apiVersion": "redis.io/v1", "kind": "RedisScheduledBackup", "name": "nightly", "uid": "s1", "controller": true}],
            }
        });
        for (key, value) in change.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn nightly() -> ObjectKey {
        ObjectKey { namespace: "shop".into(), name: "nightly".into() }
    }

    #[test]
    fn a_schedule_is_asked_only_when_a_child_says_something_else() {
        let children = Children::default();
        assert_eq!(children.take(Event::Apply(metadata("a", json!({})))), [nightly()]);
        assert_eq!(children.take(Event::Apply(metadata("a", json!({"resourceVersion": "2"})))), []);
        assert_eq!(children.of(&nightly(), "s1")["a"].version, "2", "what is deleted is what was seen last");
        let ended = json!({
            "labels": {labels::SCHEDULE: "nightly", labels::OUTCOME: "completed"},
            "annotations": {labels::COMPLETED_AT: "2026-11-27T02:03:00Z"}
        });
        assert_eq!(children.take(Event::Apply(metadata("a", ended))), [nightly()]);
        assert_eq!(children.of(&nightly(), "s1")["a"].end, Some(End::Completed));
        assert_eq!(children.take(Event::Delete(metadata("a", json!({})))), [nightly()]);
        assert!(children.of(&nightly(), "s1").is_empty());
    }

    #[test]
    fn children_of_a_namesake_are_not_ours() {
        let children = Children::default();
        children.take(Event::Apply(metadata("a", json!({}))));
        assert!(children.of(&nightly(), "another uid").is_empty());
    }

    #[test]
    fn a_new_list_replaces_what_was_known_and_asks_for_what_differs() {
        let children = Children::default();
        for name in ["a", "b"] {
            children.take(Event::Apply(metadata(name, json!({}))));
        }
        for _ in 0..2 {
            children.take(Event::Init);
            children.take(Event::InitApply(metadata("b", json!({}))));
        }
        assert_eq!(children.of(&nightly(), "s1").len(), 2, "until the list is whole");
        assert_eq!(children.take(Event::InitDone), [nightly()]);
        assert_eq!(children.of(&nightly(), "s1").keys().collect::<Vec<_>>(), ["b"]);
        children.take(Event::Init);
        children.take(Event::InitApply(metadata("b", json!({}))));
        assert_eq!(children.take(Event::InitDone), [], "nothing changed");
    }
}
