//! What a schedule does now: pure. The core says what a slot means; here it meets the objects that exist.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::schedule::{self, CHILD_SUFFIX, Decision, Observed, Run, SkipReason};
use redkeep_k8s_api::redis_scheduled_backup::{InForce, RedisScheduledBackupSpec, RedisScheduledBackupStatus};

use super::children::{Child, End};
use super::validate::Validated;
use crate::apply::whole_seconds;
use crate::common::digest::sha256_hex;

/// A schedule and what is known of it.
pub(super) struct Situation<'a> {
    pub(super) name: &'a str,
    pub(super) created: Timestamp,
    pub(super) spec: &'a RedisScheduledBackupSpec,
    pub(super) status: &'a RedisScheduledBackupStatus,
    /// Its annotation for a run now.
    pub(super) run_now: Option<&'a str>,
    pub(super) children: &'a BTreeMap<String, Child>,
    pub(super) now: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// A run to begin.
    pub(super) start: Option<Start>,
    /// What the schedule does besides.
    pub(super) state: State,
    /// When it wants to be looked at, which is when the next slot starts.
    pub(super) next: Option<Timestamp>,
    pub(super) in_force: Option<InForce>,
}

/// A run to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) slot: Timestamp,
    pub(super) cause: Cause,
    /// Runs to be cancelled.
    pub(super) replace: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its slot came; so many before it were missed.
    Slot { missed: usize },
    /// The annotation has a new value.
    RunNow(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Scheduled,
    Suspended,
    Skipped { slot: Timestamp, reason: SkipReason },
}

/// The line and zone that are followed, and since when. Slots from before an edit or from a suspension are nobody's.
fn in_force(situation: &Situation<'_>) -> Option<InForce> {
    let Situation { spec, status, created, now, .. } = situation;
    if spec.suspend {
        return None;
    }
    let known = status.in_force.as_ref();
    if let Some(known) = known.filter(|known| known.schedule == spec.schedule && known.time_zone == spec.time_zone) {
        return Some(known.clone());
    }
    let never_seen = known.is_none() && status.observed_generation.is_none();
    let since = if never_seen { *created } else { *now };
    Some(InForce {
        schedule: spec.schedule.clone(),
        time_zone: spec.time_zone.clone(),
        since: Some(Time(whole_seconds(since))),
    })
}

/// Names in the status of which the index knows nothing: whether they run, only the API server can say.
pub(super) fn unknown_active(situation: &Situation<'_>) -> Vec<String> {
    let names = situation.status.active.iter().map(|active| &active.name);
    names.filter(|name| !situation.children.contains_key(*name)).cloned().collect()
}

/// Runs that go on, by the index.
pub(super) fn running(children: &BTreeMap<String, Child>) -> impl Iterator<Item = (&String, &Child)> {
    children.iter().filter(|(_, child)| child.end.is_none() && !child.is_deleting)
}

/// Decides. `also_active`: runs that only the API server knew of.
pub(super) fn decide(valid: &Validated, situation: &Situation<'_>, also_active: &[String]) -> Plan {
    let in_force = in_force(situation);
    let since = in_force.as_ref().and_then(|known| known.since.as_ref()).map_or(situation.created, |since| since.0);
    let known = running(situation.children).map(|(name, _)| name);
    let observed = Observed {
        name: situation.name.to_owned(),
        created: situation.created,
        since,
        last_slot: situation.status.last_schedule_time.as_ref().map(|time| time.0),
        active: known.chain(also_active).map(|name| Run { name: name.clone() }).collect(),
    };
    let (start, state, next) = match schedule::decide(&valid.schedule, &valid.rules, &observed, situation.now) {
        Decision::Suspended => (None, State::Suspended, None),
        Decision::Wait { until } => (None, State::Scheduled, until),
        Decision::Skip { slot, reason, next } => (None, State::Skipped { slot, reason }, next),
        Decision::Fire(fire) => {
            let cause = Cause::Slot { missed: fire.missed };
            let start = Start { name: fire.name, slot: fire.slot, cause, replace: fire.replace };
            (Some(start), State::Scheduled, fire.next)
        }
    };
    let asked = situation.run_now.filter(|value| situation.status.run_now.as_deref() != Some(*value));
    let start = match asked {
        // One run a look; the slot's is due still when this one is written down.
        Some(value) => Some(run_now(situation, value)),
        None => start,
    };
    Plan { start, state, next, in_force }
}

/// As many missed slots as are counted: more say no more.
const MOST_MISSED: usize = 100;

/// How many slots came since the last one for which a run was begun: one that waits its turn is among them.
pub(super) fn missed(valid: &Validated, status: &RedisScheduledBackupStatus, now: Timestamp) -> usize {
    let Some(since) = status.in_force.as_ref().and_then(|known| known.since.as_ref()) else { return 0 };
    let last = status.last_schedule_time.as_ref().map_or(since.0, |last| last.0.max(since.0));
    // A last slot ahead of a clock that went back: nothing was missed.
    let slots = std::iter::successors(valid.schedule.next_after(last), |slot| valid.schedule.next_after(*slot));
    slots.take_while(|slot| *slot <= now).take(MOST_MISSED).count()
}

/// Named after the value, as long as a slot: however often it is tried, one value makes one run.
fn run_now(situation: &Situation<'_>, value: &str) -> Start {
    const DIGITS: usize = CHILD_SUFFIX - 2;
    let digest = sha256_hex(value.as_bytes());
    Start {
        name: format!("{}-r{}", situation.name, digest.get(..DIGITS).unwrap_or_default()),
        slot: whole_seconds(situation.now),
        cause: Cause::RunNow(value.to_owned()),
        replace: Vec::new(),
    }
}

/// Ended runs beyond the limits, oldest first. Objects only: what they stored stays.
pub(super) fn beyond_limits(
    children: &BTreeMap<String, Child>,
    keep_successful: usize,
    keep_failed: usize,
) -> Vec<(&String, &Child)> {
    let of = |end: End, keep: usize| {
        let mut ended: Vec<(&String, &Child)> = children
            .iter()
            .filter(|(_, child)| child.end == Some(end) && child.is_settled && !child.is_deleting)
            .collect();
        ended.sort_by_key(|(name, child)| (child.completed_at.or(child.slot), *name));
        let count = ended.len().saturating_sub(keep);
        ended.truncate(count);
        ended
    };
    let mut gone = of(End::Completed, keep_successful);
    gone.extend(of(End::Failed, keep_failed));
    gone
}

#[cfg(test)]
mod tests;
