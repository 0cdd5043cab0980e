//! What is to be looked at, and when: first come, first served. Pure: the time is an argument.
//!
//! Under more work than can be done every object waits equally long, and none for ever; kube's own scheduler keeps what is due in a
//! hash set, where some wait for minutes and others not at all. An object stands here once, however often it was asked for, and is
//! not given out again before the look at it is done: what asks meanwhile makes it come again afterwards.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

/// A time, and a number that tells those of the same time apart.
type Due = (Instant, u64);

enum Place {
    /// In `ready`.
    Ready,
    /// In `later`.
    Later(Due),
    /// Given out; asked for again meanwhile, or not.
    InWork { asked: bool },
}

/// The queue of one controller.
pub(super) struct Queue<Key> {
    ready: VecDeque<Key>,
    later: BTreeMap<Due, Key>,
    /// Where each key is; one that is nowhere here is nowhere at all.
    places: HashMap<Key, Place>,
    counter: u64,
}

impl<Key> Default for Queue<Key> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), later: BTreeMap::new(), places: HashMap::new(), counter: 0 }
    }
}

impl<Key: Clone + Eq + Hash> Queue<Key> {
    /// Asks for a look as soon as it is this one's turn. One that waits for its time waits no longer.
    pub(super) fn ask(&mut self, key: Key) {
        match self.places.get_mut(&key) {
            Some(Place::Ready) => {}
            Some(Place::InWork { asked }) => *asked = true,
            Some(place @ Place::Later(_)) => {
                if let Place::Later(due) = std::mem::replace(place, Place::Ready) {
                    self.later.remove(&due);
                }
                self.ready.push_back(key);
            }
            None => {
                self.places.insert(key.clone(), Place::Ready);
                self.ready.push_back(key);
            }
        }
    }

    /// Puts those whose time has come behind those that are ready, the earliest first.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.places.insert(key.clone(), Place::Ready);
            self.ready.push_back(key);
        }
    }

    /// Gives out the one that has waited longest; [`Self::done`] has to follow.
    pub(super) fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.places.insert(key.clone(), Place::InWork { asked: false });
        Some(key)
    }

    /// The look is done; without anybody's asking there is another one then.
    pub(super) fn done(&mut self, key: Key, again: Option<Instant>) {
        let was_asked = matches!(self.places.remove(&key), Some(Place::InWork { asked: true }));
        if was_asked {
            self.ask(key);
        } else if let Some(again) = again {
            let due = (again, self.counter);
            self.counter += 1;
            self.places.insert(key.clone(), Place::Later(due));
            self.later.insert(due, key);
        }
    }

    /// When [`Self::advance`] will find something.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn drain(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn first_come_first_served_and_each_once() {
        let mut queue = Queue::default();
        for key in ["c", "a", "b", "a", "c"] {
            queue.ask(key);
        }
        assert_eq!(drain(&mut queue), ["c", "a", "b"]);
    }

    #[test]
    fn one_that_is_in_work_is_given_out_again_only_when_that_is_done_and_then_comes_last() {
        let mut queue = Queue::default();
        queue.ask("a");
        assert_eq!(queue.take(), Some("a"));
        queue.ask("a");
        queue.ask("b");
        assert_eq!(drain(&mut queue), ["b"], "a is in work");
        queue.ask("c");
        queue.done("a", None);
        assert_eq!(drain(&mut queue), ["c", "a"], "a change during a look leads to another one");
        for key in ["a", "b", "c"] {
            queue.done(key, None);
        }
        assert!(queue.places.is_empty(), "what needs nothing takes no room");
    }

    #[test]
    fn what_comes_again_later_comes_in_the_order_of_its_times_behind_what_is_ready() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        for (key, second) in [("late", 9), ("second", 4), ("first", 3), ("third", 4)] {
            queue.ask(key);
            assert_eq!(queue.take(), Some(key));
            queue.done(key, Some(at(second)));
        }
        queue.advance(at(2));
        assert_eq!((queue.take(), queue.next_time()), (None, Some(at(3))));
        queue.ask("now");
        queue.advance(at(5));
        assert_eq!(drain(&mut queue), ["now", "first", "second", "third"]);
        assert_eq!(queue.next_time(), Some(at(9)));
    }

    #[test]
    fn who_asks_does_not_wait_for_the_time() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.ask("a");
        queue.take();
        queue.done("a", Some(start + Duration::from_secs(60)));
        queue.ask("a");
        assert_eq!((queue.take(), queue.next_time()), (Some("a"), None));
        // Asked for during the look: at once, and not once more at its time.
        queue.ask("a");
        queue.done("a", Some(start + Duration::from_secs(60)));
        assert_eq!((queue.take(), queue.next_time()), (Some("a"), None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8),
        Take,
        Done(u8, Option<u64>),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6_u8).prop_map(Step::Ask),
            Just(Step::Take),
            (0..6_u8, proptest::option::of(0..9_u64)).prop_map(|(key, again)| Step::Done(key, again)),
            (0..4_u64).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Whatever happens: nothing is given out twice at once, nothing that was asked for is lost, nobody is overtaken.
        #[test]
        fn nothing_is_lost_doubled_or_overtaken(steps in steps()) {
            let (mut queue, start, mut now) = (Queue::default(), Instant::now(), 0);
            let at = |second: u64| start + Duration::from_secs(second);
            let (mut in_work, mut waiting): (Vec<u8>, VecDeque<u8>) = (Vec::new(), VecDeque::new());
            let mut asked_in_work: Vec<u8> = Vec::new();
            let mut later: Vec<(u64, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(key) => {
                        queue.ask(key);
                        later.retain(|(_, other)| *other != key);
                        if in_work.contains(&key) {
                            asked_in_work.push(key);
                        } else if !waiting.contains(&key) {
                            waiting.push_back(key);
                        }
                    }
                    Step::Take => {
                        let taken = queue.take();
                        prop_assert_eq!(taken, waiting.pop_front());
                        if let Some(key) = taken {
                            prop_assert!(!in_work.contains(&key));
                            in_work.push(key);
                        }
                    }
                    Step::Done(key, again) => {
                        let Some(place) = in_work.iter().position(|other| *other == key) else { continue };
                        in_work.remove(place);
                        queue.done(key, again.map(|after| at(now + after)));
                        if asked_in_work.contains(&key) {
                            asked_in_work.retain(|other| *other != key);
                            waiting.push_back(key);
                        } else if let Some(after) = again {
                            later.push((now + after, key));
                        }
                    }
                    Step::Pass(seconds) => {
                        now += seconds;
                        queue.advance(at(now));
                        later.sort_by_key(|(at, _)| *at);
                        while later.first().is_some_and(|(at, _)| *at <= now) {
                            waiting.push_back(later.remove(0).1);
                        }
                    }
                }
                prop_assert_eq!(queue.next_time(), later.iter().map(|(second, _)| at(*second)).min());
                prop_assert_eq!(queue.places.len(), waiting.len() + in_work.len() + later.len());
            }
        }
    }
}
