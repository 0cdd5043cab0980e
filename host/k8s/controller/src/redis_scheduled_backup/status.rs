//! The next status, from the last one and what is known now: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use redkeep_core::schedule::SkipReason;
use redkeep_k8s_api::conditions::{ACCEPTED, READY, reasons};
use redkeep_k8s_api::redis_scheduled_backup::{ActiveBackup, RedisScheduledBackupStatus};

use super::children::{Child, End};
use super::decide::{Cause, Plan, Start, State, running};
use crate::apply::{ConditionUpdate, set_condition, whole_seconds};
use crate::common::Unresolved;

/// As many as the definition allows.
const MOST_ACTIVE: usize = 100;

/// What a status is made from.
pub(super) struct Facts<'a> {
    pub(super) generation: Option<i64>,
    pub(super) cluster: &'a str,
    pub(super) children: &'a BTreeMap<String, Child>,
    pub(super) now: Timestamp,
}

impl Facts<'_> {
    /// What does not depend on the spec's being right: the last success must survive a bad edit.
    fn common(&self, previous: &RedisScheduledBackupStatus) -> RedisScheduledBackupStatus {
        let mut next = previous.clone();
        next.observed_generation = self.generation;
        next.cluster = Some(self.cluster.to_owned());
        let active = running(self.children).take(MOST_ACTIVE);
        next.active = active
            .map(|(name, child)| ActiveBackup {
                name: name.clone(),
                uid: Some(child.uid.clone()),
                slot: child.slot.map(Time),
            })
            .collect();
        self.results(&mut next);
        next
    }

    /// Children are pruned; what they said stays here.
    fn results(&self, next: &mut RedisScheduledBackupStatus) {
        let when = |child: &Child| child.completed_at.or(child.slot);
        let newest = |end: End| {
            let ended = self.children.iter().filter(move |(_, child)| child.end == Some(end));
            ended.filter_map(|(name, child)| Some((when(child)?, name))).max()
        };
        if let Some((at, name)) = newest(End::Completed)
            && next.last_successful_time.as_ref().is_none_or(|before| before.0 < whole_seconds(at))
        {
            next.last_successful_time = Some(Time(whole_seconds(at)));
            next.last_successful_backup = Some(name.clone());
            next.failures_in_row = None;
        }
        let success = next.last_successful_time.as_ref().map(|time| time.0);
        let mut failures = next.failures_in_row.unwrap_or(0);
        if let Some((at, name)) = newest(End::Failed) {
            // Counted when it is first seen: the history may keep few of them, or none.
            let is_new = next.last_failed_backup.as_ref() != Some(name);
            if is_new && Some(at) > success {
                failures = failures.saturating_add(1);
            }
            next.last_failed_backup = Some(name.clone());
        }
        let failed_since = self
            .children
            .values()
            .filter(|child| child.end == Some(End::Failed))
            .filter(|child| when(child) > success)
            .count();
        let failed_since = i32::try_from(failed_since).unwrap_or(i32::MAX);
        let failures = failures.max(failed_since);
        next.failures_in_row = (failures > 0).then_some(failures);
    }

    /// A spec that cannot be followed.
    pub(super) fn refused(
        &self,
        previous: &RedisScheduledBackupStatus,
        why: &Unresolved,
    ) -> RedisScheduledBackupStatus {
        let mut next = self.common(previous);
        next.next_schedule_time = None;
        next.in_force = None;
        for kind in [ACCEPTED, READY] {
            let update =
                ConditionUpdate { kind, status: Some(false), reason: reasons::INVALID_SPEC, message: why.to_string() };
            set_condition(&mut next.conditions, update, self.generation, self.now);
        }
        next
    }

    /// A spec that is followed. `unverifiable`: why nothing can be verified; `started`: the run that was begun just now, and its uid.
    pub(super) fn followed(
        &self,
        previous: &RedisScheduledBackupStatus,
        plan: &Plan,
        jitter: std::time::Duration,
        unverifiable: Option<&str>,
        started: Option<(&Start, Option<&str>)>,
    ) -> RedisScheduledBackupStatus {
        let mut next = self.common(previous);
        next.next_schedule_time = plan.next.map(Time);
        next.in_force.clone_from(&plan.in_force);
        next.jitter = (!jitter.is_zero()).then(|| spelled(jitter));
        if let Some((start, uid)) = started {
            match &start.cause {
                Cause::Slot { .. } => next.last_schedule_time = Some(Time(start.slot)),
                Cause::RunNow(value) => next.run_now = Some(value.clone()),
            }
            if let Some(uid) = uid
                && !self.children.contains_key(&start.name)
                && next.active.len() < MOST_ACTIVE
            {
                let (name, slot) = (start.name.clone(), Some(Time(start.slot)));
                next.active.push(ActiveBackup { name, uid: Some(uid.to_owned()), slot });
            }
        }
        let (reason, message) = match unverifiable {
            Some(why) => (reasons::VERIFICATION_NOT_POSSIBLE, format!("backups are made and not verified: {why}")),
            None => (reasons::VALID, "the spec can be followed".to_owned()),
        };
        let accepted = ConditionUpdate { kind: ACCEPTED, status: Some(true), reason, message };
        set_condition(&mut next.conditions, accepted, self.generation, self.now);
        set_condition(&mut next.conditions, ready(plan.state), self.generation, self.now);
        next
    }
}

fn ready(state: State) -> ConditionUpdate<'static> {
    let (status, reason, message) = match state {
        State::Scheduled => (true, reasons::SCHEDULED, "waits for the next slot".to_owned()),
        State::Suspended => (false, reasons::SUSPENDED, "spec.suspend is true".to_owned()),
        State::Skipped { slot, reason: SkipReason::StillRunning } => {
            let message = format!("slot {slot} waits for the end of the backup before it (concurrencyPolicy Forbid)");
            (true, reasons::SKIPPED, message)
        }
        State::Skipped { slot, reason: SkipReason::StartingDeadlineExceeded } => {
            (true, reasons::SKIPPED, format!("slot {slot} was left out: startingDeadlineSeconds had passed"))
        }
    };
    ConditionUpdate { kind: READY, status: Some(status), reason, message }
}

/// `1h2m3s`.
fn spelled(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .fold(String::new(), |text, (count, unit)| format!("{text}{count}{unit}"))
}

#[cfg(test)]
mod tests;
