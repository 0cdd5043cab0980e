//! Which version of an object this process wrote last. What the watch has not brought yet is not looked at: a look at the version
//! before would decide what was decided, ask the API server for a conflict, or write the same once more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Resource;
use tokio::time::Instant;

/// A watch that has not brought by then what was written may never do: an API server whose state was taken from a copy counts anew.
const TRUSTED: Duration = Duration::from_secs(30);
/// Below so many nothing is cleared away.
const FEW: usize = 64;

/// Resource versions by uid. They are numbers that grow (Kubernetes 1.35 promises what has always held); one that is no number is
/// not remembered.
#[derive(Default)]
pub struct Versions(Mutex<Known>);

#[derive(Default)]
struct Known {
    written: HashMap<String, (u64, Instant)>,
    /// So many there were when the old ones were cleared away.
    cleared_at: usize,
}

impl Versions {
    /// Notes an object as the API server answered with it.
    pub fn wrote<K: Resource>(&self, object: &K) {
        self.note(object, Instant::now());
    }

    /// Whether this object is older than what was written.
    pub fn is_behind<K: Resource>(&self, object: &K) -> bool {
        self.is_older(object, Instant::now())
    }

    fn note<K: Resource>(&self, object: &K, now: Instant) {
        let (Some(uid), Some(version)) = (object.meta().uid.clone(), version(object)) else { return };
        let mut known = self.lock();
        let known_better = |(newer, at): &(u64, Instant)| *newer > version && is_trusted(*at, now);
        if !known.written.get(&uid).is_some_and(known_better) {
            known.written.insert(uid, (version, now));
        }
        if known.written.len() > 2 * known.cleared_at + FEW {
            known.written.retain(|_, (_, at)| is_trusted(*at, now));
            known.cleared_at = known.written.len();
        }
    }

    fn is_older<K: Resource>(&self, object: &K, now: Instant) -> bool {
        let (Some(uid), Some(version)) = (&object.meta().uid, version(object)) else { return false };
        let mut known = self.lock();
        let Some((written, at)) = known.written.get(uid) else { return false };
        if version < *written && is_trusted(*at, now) {
            return true;
        }
        known.written.remove(uid);
        false
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

fn is_trusted(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < TRUSTED
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use rstest::rstest;

    fn object(uid: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    #[rstest]
    #[case::before("99", true)]
    #[case::the_same("100", false)]
    #[case::after("101", false)]
    #[case::no_number("older", false)]
    fn what_is_older_than_what_was_written_is_behind(#[case] version: &str, #[case] expected: bool) {
        let versions = Versions::default();
        versions.wrote(&object("a", "100"));
        assert_eq!(versions.is_behind(&object("a", version)), expected);
        assert!(!versions.is_behind(&object("b", version)), "another object");
    }

    #[test]
    fn answers_may_come_in_another_order_than_they_were_given() {
        let versions = Versions::default();
        versions.wrote(&object("a", "100"));
        versions.wrote(&object("a", "99"));
        assert!(versions.is_behind(&object("a", "99")));
    }

    #[test]
    fn what_never_comes_is_not_waited_for() {
        let (versions, now) = (Versions::default(), Instant::now());
        versions.note(&object("a", "100"), now);
        assert!(versions.is_older(&object("a", "7"), now + TRUSTED / 2));
        assert!(!versions.is_older(&object("a", "7"), now + TRUSTED));
        assert!(versions.lock().written.is_empty());
    }

    #[test]
    fn objects_that_are_never_seen_again_are_not_remembered_for_ever() {
        let (versions, start) = (Versions::default(), Instant::now());
        for number in 0..10_000_u32 {
            versions.note(&object(&number.to_string(), "1"), start + TRUSTED / 100 * number);
        }
        assert!(versions.lock().written.len() < 400, "{}", versions.lock().written.len());
    }
}
