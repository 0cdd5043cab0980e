//! How many runs use a BackupStorage at once: a place is taken before a run is begun, by those first that have waited longest.
//!
//! Backups that run are known from their cache, so a restart forgets none. Restores and verifications hold their place by being looked
//! at: what is gone, or went unseen, is looked at no more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::common::storage::StorageAccess;

/// A place of which nobody spoke for so long is free; and so long a backup may take to appear in the cache.
const HELD: Duration = Duration::from_secs(60);
/// So many looks may be left out.
const LOOKS: u32 = 3;

/// Who uses a storage, by namespace and name, at this time.
type Users = Box<dyn Fn(&str, &str, Timestamp) -> Vec<String> + Send + Sync>;

/// Places in storages, by user.
pub struct Places {
    held: SignedDuration,
    cached: OnceLock<Users>,
    state: Mutex<State>,
}

/// Who asks for a place.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// An object's uid, or the name of a task.
    pub name: &'a str,
    /// Since when it waits: whoever waits longer is first.
    pub since: Timestamp,
}

/// Who has a place, and who waits for one.
#[derive(Default)]
struct State {
    taken: HashMap<String, Place>,
    waiting: HashMap<String, Waiting>,
}

struct Place {
    storage: (String, String),
    at: Timestamp,
}

struct Waiting {
    place: Place,
    since: Timestamp,
}

impl Places {
    /// Of an operator that looks this often at what runs.
    pub fn new(poll_interval: Duration) -> Self {
        let held = SignedDuration::try_from(HELD.max(poll_interval.saturating_mul(LOOKS)));
        Self { held: held.unwrap_or(SignedDuration::MAX), cached: OnceLock::new(), state: Mutex::default() }
    }

    /// Says who else uses a storage, besides those that took a place here.
    pub fn are_also_in(&self, users: impl Fn(&str, &str, Timestamp) -> Vec<String> + Send + Sync + 'static) {
        let _ = self.cached.set(Box::new(users));
    }

    /// Takes a place, or keeps the one that this user has. A storage without a bound has always one.
    ///
    /// # Errors
    /// Why it has to wait, for people.
    pub fn take(&self, user: User<'_>, namespace: &str, storage: &StorageAccess, now: Timestamp) -> Result<(), String> {
        let (Some(most), Some(name)) = (storage.concurrent_tasks, &storage.name) else { return Ok(()) };
        let mut state = self.lock();
        let is_held = |place: &Place| now.duration_since(place.at).abs() < self.held;
        state.taken.retain(|_, place| is_held(place));
        state.waiting.retain(|_, waiting| is_held(&waiting.place));
        let mut users = self.cached.get().map(|cached| cached(namespace, name, now)).unwrap_or_default();
        let storage = (namespace.to_owned(), name.clone());
        users.extend(state.taken.iter().filter(|(_, other)| other.storage == storage).map(|(user, _)| user.clone()));
        users.sort_unstable();
        users.dedup();
        let others = users.iter().filter(|other| *other != user.name).count();
        let has_one = others < users.len();
        let turn = (user.since, user.name);
        let is_before = |(other, waiting): &(&String, &Waiting)| {
            waiting.place.storage == storage && (waiting.since, other.as_str()) < turn
        };
        let before = if has_one { 0 } else { state.waiting.iter().filter(is_before).count() };
        let place = Place { storage: storage.clone(), at: now };
        if others.saturating_add(before) >= most {
            state.waiting.insert(user.name.to_owned(), Waiting { place, since: user.since });
            // Nothing that changes while it waits: each change is a write.
            return Err(format!("{most} runs may use BackupStorage {name} at once, and this one's turn has not come"));
        }
        state.waiting.remove(user.name);
        state.taken.insert(user.name.to_owned(), place);
        Ok(())
    }

    /// What this user began goes on in this storage, also if nobody remembers its taking a place. `None`: in that of the place.
    pub fn keep(&self, user: &str, namespace: &str, storage: Option<&str>, now: Timestamp) {
        let mut state = self.lock();
        if let Some(place) = state.taken.get_mut(user) {
            place.at = now;
        } else if let Some(storage) = storage {
            let storage = (namespace.to_owned(), storage.to_owned());
            state.taken.insert(user.to_owned(), Place { storage, at: now });
        }
    }

    /// It ended, was not begun, or waits no more.
    pub fn release(&self, user: &str) {
        let mut state = self.lock();
        state.taken.remove(user);
        state.waiting.remove(user);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_core::task::StorageSpec;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn storage(most: Option<usize>) -> StorageAccess {
        StorageAccess {
            spec: StorageSpec::default(),
            mounts: Vec::new(),
            address: "s3://backups".to_owned(),
            name: Some("bucket".to_owned()),
            service_account: None,
            concurrent_tasks: most,
        }
    }

    fn take(places: &Places, user: &str, most: Option<usize>, now: Timestamp) -> Result<(), String> {
        let storage = storage(most);
        places.take(User { name: user, since: NOW }, "shop", &storage, now)
    }

    #[test]
    fn places_are_counted_from_the_cache_and_from_what_was_begun_just_now() {
        let places = Places::new(Duration::from_secs(10));
        places.are_also_in(|namespace, storage, _| {
            assert_eq!((namespace, storage), ("shop", "bucket"));
            vec!["runs".to_owned(), "a".to_owned()]
        });
        assert!(take(&places, "a", Some(2), NOW).is_ok());
        assert!(take(&places, "a", Some(2), NOW).is_ok(), "its own place is not another's");
        let refused = take(&places, "b", Some(2), NOW).unwrap_err();
        assert!(refused.starts_with("2 runs may use BackupStorage bucket"), "{refused}");
        assert!(take(&places, "b", None, NOW).is_ok(), "no limit");
    }

    #[test]
    fn a_place_is_free_when_its_run_ended_or_is_looked_at_no_more() {
        let places = Places::new(Duration::from_secs(10));
        let later = |seconds| NOW + SignedDuration::from_secs(seconds);
        take(&places, "a", Some(1), NOW).unwrap();
        places.keep("a", "shop", None, later(50));
        assert!(take(&places, "b", Some(1), later(100)).is_err(), "it goes on");
        assert!(take(&places, "b", Some(1), later(110)).is_ok(), "nobody speaks of it");
        places.release("b");
        assert!(take(&places, "c", Some(1), later(110)).is_ok());
    }

    #[test]
    fn whoever_waits_longest_is_first_and_whoever_waits_no_more_is_not_waited_for() {
        let places = Places::new(Duration::from_secs(10));
        let later = |seconds| NOW + SignedDuration::from_secs(seconds);
        let take = |name: &str, since: i64, now: i64| {
            places.take(User { name, since: later(since) }, "shop", &storage(Some(1)), later(now))
        };
        take("runs", 0, 0).unwrap();
        for (name, since) in [("third", 30), ("first", 10), ("second", 20)] {
            assert!(take(name, since, 40).is_err());
        }
        places.release("runs");
        assert!(take("third", 30, 45).is_err() && take("second", 20, 45).is_err(), "the first one's turn");
        assert!(take("first", 10, 45).is_ok());
        assert!(take("first", 10, 46).is_ok(), "it has its place");
        places.release("first");
        places.release("second");
        assert!(take("third", 30, 50).is_ok(), "the second one was given up");
        assert!(take("fourth", 40, 50).is_err() && take("fifth", 50, 80).is_err());
        places.release("third");
        assert!(take("fifth", 50, 109).is_err(), "the fourth one may still come");
        assert!(take("fifth", 50, 110).is_ok(), "nobody speaks of the fourth");
    }

    #[test]
    fn a_run_that_an_earlier_operator_began_has_its_place_as_soon_as_it_is_looked_at() {
        let places = Places::new(Duration::from_secs(10));
        places.keep("unknown", "shop", None, NOW);
        assert!(take(&places, "a", Some(1), NOW).is_ok());
        places.release("a");
        places.keep("old", "shop", Some("bucket"), NOW);
        assert!(take(&places, "a", Some(1), NOW).is_err());
    }
}
