//! What a schedule does now. Nothing is remembered but the last slot, so the answer is the same after a restart, and right
//! after the clock was set, in either direction.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Schedule, child_name};

/// A slot may lie this far after `now` before the clock that named it is taken to have been wrong: more than clocks of one
/// cluster differ, less than a schedule may sleep unnoticed.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_hours(1);
/// Missed slots are counted up to here: a minutely schedule after a year of downtime shall not take long.
const MAX_COUNTED: usize = 100;

/// What happens when a slot comes while a run of an earlier one goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// The new one waits for the end of the old one; if the next slot comes first, it is left out.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The old one is stopped.
    Replace,
}

/// What the user asked for, besides the slots themselves.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Overlapping runs.
    pub concurrency: Concurrency,
    /// No runs at all.
    pub suspended: bool,
    /// One run right after creation.
    pub immediate: bool,
    /// A slot that is later than this is left out.
    pub starting_deadline: Option<Duration>,
    /// The delay of every slot ([`super::jitter()`]).
    pub jitter: Duration,
}

/// A run of this schedule that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its object's name.
    pub name: String,
}

/// What is known of the schedule.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The schedule's name: its children's begin with it.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// Since when it has been as it is: created, its line or zone changed, or resumed. Slots before are nobody's.
    pub since: Timestamp,
    /// The newest slot that was fired.
    pub last_slot: Option<Timestamp>,
    /// Runs that have not ended.
    pub active: Vec<Run>,
}

/// A run to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fire {
    /// Which slot it is for.
    pub slot: Timestamp,
    /// Its name.
    pub name: String,
    /// Runs to be stopped first.
    pub replace: Vec<String>,
    /// Slots before it that nobody ran, up to a hundred.
    pub missed: usize,
    /// When the next slot starts, jitter included.
    pub next: Option<Timestamp>,
}

/// Why a slot is not fired now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Too late.
    StartingDeadlineExceeded,
    /// An earlier run has not ended.
    StillRunning,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, until it is resumed.
    Suspended,
    /// Start a run.
    Fire(Fire),
    /// A slot is due and is not fired; ask again at `next`, or when a run has ended.
    Skip {
        /// Which slot.
        slot: Timestamp,
        /// Why.
        reason: SkipReason,
        /// When the next one starts, jitter included.
        next: Option<Timestamp>,
    },
    /// Nothing is due before `until`.
    Wait {
        /// The next start, jitter included.
        until: Option<Timestamp>,
    },
}

/// Decides. However many slots were missed, the answer is one run: that of the newest.
pub fn decide(schedule: &Schedule, rules: &Rules, observed: &Observed, now: Timestamp) -> Decision {
    if rules.suspended {
        return Decision::Suspended;
    }
    let jitter = SignedDuration::try_from(rules.jitter).unwrap_or(SignedDuration::ZERO);
    // Slots up to here have had their jitter, too.
    let reached = now.checked_sub(jitter).unwrap_or(Timestamp::MIN);
    let next = schedule.next_after(reached).and_then(|slot| slot.checked_add(jitter).ok());
    let done = done_until(observed, now);
    let due = schedule.last_at_or_before(reached).filter(|slot| *slot > done);
    let first = rules.immediate && observed.last_slot.is_none();
    let late = |slot: &Timestamp| {
        let deadline = rules.starting_deadline.and_then(|deadline| SignedDuration::try_from(deadline).ok());
        deadline.is_some_and(|deadline| reached.duration_since(*slot) > deadline)
    };
    let (slot, missed) = match due {
        Some(slot) if !late(&slot) => {
            let slots = schedule.slots(done, reached, MAX_COUNTED + 1);
            (slot, slots.times.len().saturating_sub(1))
        }
        // A first run is no slot of the line: it cannot be late.
        _ if first => (whole_minute(observed.created), 0),
        Some(slot) => return Decision::Skip { slot, reason: SkipReason::StartingDeadlineExceeded, next },
        None => return Decision::Wait { until: next.map(|next| next.max(waits_for(done, schedule, jitter, next))) },
    };
    let name = child_name(&observed.name, slot);
    let others: Vec<String> =
        observed.active.iter().filter(|run| run.name != name).map(|run| run.name.clone()).collect();
    // The slot's own run goes on already: its creation was not noted down. Firing again finds it.
    let is_own = others.len() < observed.active.len();
    if rules.concurrency == Concurrency::Forbid && !others.is_empty() && !is_own {
        return Decision::Skip { slot, reason: SkipReason::StillRunning, next };
    }
    let replace = if rules.concurrency == Concurrency::Replace { others } else { Vec::new() };
    Decision::Fire(Fire { slot, name, replace, missed, next })
}

/// Slots up to here are done, or nobody's. A time that only a wrong clock can have written does not count: then the newest
/// slot is asked for, and its name says whether it ran.
fn done_until(observed: &Observed, now: Timestamp) -> Timestamp {
    let latest = now.checked_add(CLOCK_TOLERANCE).unwrap_or(Timestamp::MAX);
    [Some(observed.created), Some(observed.since), observed.last_slot]
        .into_iter()
        .flatten()
        .filter(|time| *time <= latest)
        .max()
        .unwrap_or(Timestamp::MIN)
}

/// After a small step back of the clock the slots up to `done` come again; the first that is not done is waited for.
fn waits_for(done: Timestamp, schedule: &Schedule, jitter: SignedDuration, next: Timestamp) -> Timestamp {
    schedule.next_after(done).and_then(|slot| slot.checked_add(jitter).ok()).unwrap_or(next)
}

fn whole_minute(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    Timestamp::from_second(second - second.rem_euclid(60)).unwrap_or(time)
}
