//! One heap of wall-clock times for all objects of a kind. kube's own timers are monotonic and do not see when the clock is set;
//! this one never sleeps longer than ten seconds and asks the clock again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::runtime::{ObjectKey, Triggers};

/// So long at most a clock that was set forward goes unnoticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);
/// So long at least between two looks, however many times are due: what came meanwhile is due together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);
/// A clock that goes back by more than this was set, and every object must think again.
const SET_BACK: SignedDuration = SignedDuration::from_secs(30);

/// When each object wants to be looked at.
#[derive(Default)]
pub struct Timer {
    times: Mutex<Times>,
    earlier: Notify,
}

#[derive(Default)]
struct Times {
    /// The truth.
    wanted: HashMap<ObjectKey, Timestamp>,
    /// The same in order, and entries that have been overtaken.
    queue: BinaryHeap<Reverse<(Timestamp, ObjectKey)>>,
    seen: Option<Timestamp>,
}

impl Timer {
    /// From now on this object wants to be looked at then, and at no other time.
    pub fn set(&self, key: &ObjectKey, at: Option<Timestamp>) {
        let mut times = self.lock();
        let Some(at) = at else {
            times.wanted.remove(key);
            return;
        };
        if times.wanted.insert(key.clone(), at) == Some(at) {
            return;
        }
        let first = times.queue.peek().map(|Reverse((first, _))| *first);
        times.queue.push(Reverse((at, key.clone())));
        times.tidy();
        if first.is_none_or(|first| at < first) {
            self.earlier.notify_one();
        }
    }

    /// Objects whose time has come; all of them, earliest first, when the clock was set back.
    pub fn take_due(&self, now: Timestamp) -> Vec<ObjectKey> {
        let mut times = self.lock();
        let set_back = times.seen.is_some_and(|seen| seen.duration_since(now) > SET_BACK);
        times.seen = Some(now);
        let mut due = Vec::new();
        while let Some(Reverse((at, _))) = times.queue.peek() {
            if *at > now && !set_back {
                break;
            }
            let Some(Reverse((at, key))) = times.queue.pop() else { break };
            if times.wanted.get(&key) == Some(&at) {
                times.wanted.remove(&key);
                due.push(key);
            }
        }
        due
    }

    /// When to look again.
    fn sleep(&self, now: Timestamp) -> Duration {
        let times = self.lock();
        let next = times.queue.peek().map(|Reverse((at, _))| at.duration_since(now));
        let until = next.map_or(LONGEST_SLEEP, |next| Duration::try_from(next).unwrap_or(Duration::ZERO));
        until.min(LONGEST_SLEEP)
    }

    /// Asks for a look at each object when its time comes, until it is cancelled.
    pub async fn run(&self, clock: &dyn Clock, kind: &str, triggers: &Triggers, shutdown: &CancellationToken) {
        loop {
            for key in self.take_due(clock.now()) {
                triggers.ask(kind, key);
            }
            let pause = clock.real(self.sleep(clock.now())).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.earlier.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    /// Overtaken entries may not outgrow the living.
    fn tidy(&mut self) {
        if self.queue.len() > 2 * self.wanted.len() + 64 {
            self.queue = self.wanted.iter().map(|(key, at)| Reverse((*at, key.clone()))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "ns".into(), name: name.into() }
    }

    #[test]
    fn what_is_due_comes_once_and_in_order() {
        let timer = Timer::default();
        timer.set(&key("b"), Some(at(20)));
        timer.set(&key("a"), Some(at(10)));
        timer.set(&key("c"), Some(at(30)));
        assert_eq!(timer.take_due(at(9)), []);
        assert_eq!(timer.take_due(at(20)), [key("a"), key("b")]);
        assert_eq!(timer.take_due(at(20)), []);
        assert_eq!(timer.sleep(at(20)), Duration::from_secs(10));
        assert_eq!(timer.sleep(at(27)), Duration::from_secs(3));
    }

    #[test]
    fn the_last_word_counts() {
        let timer = Timer::default();
        timer.set(&key("a"), Some(at(10)));
        timer.set(&key("a"), Some(at(50)));
        timer.set(&key("b"), Some(at(10)));
        timer.set(&key("b"), None);
        assert_eq!(timer.take_due(at(40)), []);
        timer.set(&key("a"), Some(at(45)));
        assert_eq!(timer.take_due(at(60)), [key("a")]);
        assert_eq!(timer.take_due(at(60)), []);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_every_object_think_again() {
        let timer = Timer::default();
        timer.set(&key("a"), Some(at(1_000_000)));
        assert_eq!(timer.take_due(at(100_000)), []);
        assert_eq!(timer.take_due(at(99_990)), [], "clocks are slewed back by a little all the time");
        assert_eq!(timer.take_due(at(50_000)), [key("a")]);
    }

    #[test]
    fn overtaken_times_do_not_pile_up() {
        let timer = Timer::default();
        for second in 0..10_000 {
            timer.set(&key("a"), Some(at(second)));
        }
        assert!(timer.lock().queue.len() < 100);
        assert_eq!(timer.take_due(at(20_000)), [key("a")]);
    }

    #[tokio::test]
    async fn an_earlier_time_wakes_it() {
        struct Stands;
        impl Clock for Stands {
            fn now(&self) -> Timestamp {
                at(100)
            }
        }
        let (timer, triggers, shutdown) = (Timer::default(), Triggers::default(), CancellationToken::new());
        let mut asked = triggers.listen("Kind");
        let test = async {
            tokio::task::yield_now().await;
            timer.set(&key("now"), Some(at(99)));
            assert_eq!(asked.recv().await, Some(key("now")));
            shutdown.cancel();
        };
        tokio::join!(timer.run(&Stands, "Kind", &triggers, &shutdown), test);
    }
}
