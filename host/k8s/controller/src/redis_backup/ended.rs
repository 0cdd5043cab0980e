//! What is counted of backups that ended: tens of thousands of them, so a few words each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use redkeep_core::Timestamp;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;

use crate::runtime::ObjectKey;

/// One backup that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) is_completed: bool,
    pub(super) completed_at: Option<Timestamp>,
    /// The cluster whose backups it counts among; shared by all of them.
    pub(super) cluster: Option<Arc<str>>,
    /// Nothing where it was not to be verified.
    pub(super) verified: Option<Verified>,
}

/// What its verification came to: `None` where nobody could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verified(pub(super) Option<bool>);

/// All of them, from a metadata-only watch.
#[derive(Default)]
pub(super) struct Index(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    now: HashMap<ObjectKey, Ended>,
    /// A list in progress.
    listed: HashMap<ObjectKey, Ended>,
    clusters: HashMap<String, Arc<str>>,
}

impl Lists {
    fn read(&mut self, metadata: &PartialObjectMeta<RedisBackup>) -> (ObjectKey, Ended) {
        let label = |key: &str| metadata.labels().get(key).map(String::as_str);
        let cluster = label(labels::CLUSTER).map(|name| match self.clusters.get(name) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(self.clusters.entry(name.to_owned()).or_insert_with(|| name.into())),
        });
        let ended = Ended {
            is_completed: label(labels::OUTCOME) == Some(labels::OUTCOME_COMPLETED),
            completed_at: metadata.annotations().get(labels::COMPLETED_AT).and_then(|text| text.parse().ok()),
            cluster,
            verified: label(labels::VERIFIED).map(|text| Verified(text.parse().ok())),
        };
        (key_of(metadata), ended)
    }
}

fn key_of(metadata: &PartialObjectMeta<RedisBackup>) -> ObjectKey {
    ObjectKey { namespace: metadata.namespace().unwrap_or_default(), name: metadata.name_any() }
}

impl Index {
    /// Takes in what the watch says.
    pub(super) fn take(&self, event: &Event<PartialObjectMeta<RedisBackup>>) {
        let mut lists = self.lock();
        match event {
            Event::Init => lists.listed = HashMap::new(),
            Event::InitApply(metadata) => {
                let (key, ended) = lists.read(metadata);
                lists.listed.insert(key, ended);
            }
            Event::InitDone => {
                lists.now = std::mem::take(&mut lists.listed);
                lists.now.shrink_to_fit();
            }
            Event::Apply(metadata) => {
                let (key, ended) = lists.read(metadata);
                lists.now.insert(key, ended);
            }
            Event::Delete(metadata) => {
                lists.now.remove(&key_of(metadata));
            }
        }
    }

    /// Looks at each of them.
    pub(super) fn each(&self, mut look: impl FnMut(&ObjectKey, &Ended)) {
        for (key, ended) in &self.lock().now {
            look(key, ended);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(name: &str, outcome: &str) -> PartialObjectMeta<RedisBackup> {
        let labels = json!({labels::OUTCOME: outcome, labels::CLUSTER: "carts", labels::VERIFIED: "unknown"});
        let annotations = json!({labels::COMPLETED_AT: "2026-11-27T02:00:00Z"});
        let metadata = json!({"name": name, "namespace": "shop", "labels": labels, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn names(index: &Index) -> Vec<String> {
        let mut names = Vec::new();
        index.each(|key, _| names.push(key.name.clone()));
        names.sort();
        names
    }

    #[test]
    fn what_is_counted_of_a_backup_is_read_from_its_marks() {
        let index = Index::default();
        index.take(&Event::Apply(metadata("a", labels::OUTCOME_COMPLETED)));
        let mut seen = Vec::new();
        index.each(|_, ended| seen.push(ended.clone()));
        let at = Some("2026-11-27T02:00:00Z".parse().unwrap());
        let expected = Ended {
            is_completed: true,
            completed_at: at,
            cluster: Some("carts".into()),
            verified: Some(Verified(None)),
        };
        assert_eq!(seen, [expected]);
    }

    #[test]
    fn a_new_list_replaces_what_was_known_when_it_is_whole() {
        let index = Index::default();
        for name in ["a", "b"] {
            index.take(&Event::Apply(metadata(name, "failed")));
        }
        index.take(&Event::Init);
        index.take(&Event::InitApply(metadata("b", "failed")));
        assert_eq!(names(&index), ["a", "b"]);
        index.take(&Event::InitDone);
        assert_eq!(names(&index), ["b"]);
        index.take(&Event::Delete(metadata("b", "failed")));
        assert!(names(&index).is_empty());
    }
}
