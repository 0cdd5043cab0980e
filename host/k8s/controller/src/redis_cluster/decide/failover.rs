//! The steps of a change of primary: first grant, notices, choice, grant.

use std::time::Duration;

use redkeep_core::managed::{Played, Role, Standing};

use super::choice::{self, Choice};
use super::{ExpectedKeys, FirstGrant, LOOKS_UNTIL_LOST, Member, Plan, Seen, Stage, Step, Truth, is_missing};
use crate::outcome::Outcome;

/// A new cluster does not wait longer than this for instances besides the first.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// One that was chosen and does not take the grant for so long is chosen anew, or another.
const GRANT_PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that never had a primary.
pub(super) fn first_grant(seen: &Seen) -> Plan {
    let choice = match &seen.first {
        FirstGrant::Open { .. } => choice::first(seen, FIRST_PATIENCE),
        FirstGrant::Restored(_) | FirstGrant::ToBeFilled => {
            let name = seen.wanted.pod(0);
            match seen.members.get(&name).filter(|member| member.serves() && !member.is_terminating) {
                Some(_) => Choice::Pod(name),
                None => Choice::Wait(format!("{name} does not serve yet")),
            }
        }
    };
    let pod = match choice {
        Choice::Pod(pod) => pod,
        Choice::Wait(message) => return Plan::new(seen, Stage::Creating { message }),
    };
    let Some((member, standing)) = seen.members.get(&pod).and_then(|member| Some((member, member.standing.as_ref()?)))
    else {
        return Plan::new(seen, Stage::Creating { message: format!("{pod} does not serve yet") });
    };
    if let FirstGrant::Restored(expected) = &seen.first {
        let (loaded, expired) = loaded(standing);
        if let Err(message) = compare(*expected, loaded, expired) {
            let mut plan = Plan::new(seen, Stage::KeysDiffer { message });
            plan.loaded = Some((loaded, expired));
            return plan;
        }
        let mut plan = grant_first(seen, member, standing);
        plan.loaded = Some((loaded, expired));
        return plan;
    }
    grant_first(seen, member, standing)
}

fn grant_first(seen: &Seen, member: &Member, standing: &Standing) -> Plan {
    let truth = Truth { epoch: 1, ..seen.truth.granting(member, standing, seen.now) };
    let message = format!("{} becomes the first primary", member.pod);
    Plan::write(seen, truth, Stage::Creating { message })
}

/// What the server loaded, and how many keys it left out as expired; the latter is not known of servers before 7.0.
fn loaded(standing: &Standing) -> (u64, Option<u64>) {
    match (standing.keys_loaded, standing.keys_expired) {
        (Some(loaded), Some(expired)) => (loaded, Some(expired)),
        // One that counts, and counted nothing, had nothing to load.
        _ if counts(standing) => (0, Some(0)),
        _ => (standing.keys, None),
    }
}

fn counts(standing: &Standing) -> bool {
    let major = standing.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 7)
}

/// Loaded and expired keys against those of the backup, as a verification compares them.
fn compare(expected: ExpectedKeys, loaded: u64, expired: Option<u64>) -> Result<(), String> {
    let Some(keys) = expected.keys else { return Ok(()) };
    if expected.has_commands && expired.is_none() {
        return Ok(());
    }
    let found = loaded.saturating_add(expired.unwrap_or(0));
    let is_same = match expired {
        Some(_) => found == keys,
        // Servers before 7.0 do not count what they dropped as expired: no more than that can be missing.
        None => found <= keys && found >= keys.saturating_sub(expected.expires),
    };
    if is_same { Ok(()) } else { Err(format!("the backup holds {keys} keys, the server loaded {found}")) }
}

/// Whether the pod that may hold a grant was seen to have none: it answers, the same pod, and is no primary; or its kubelet
/// said that its container has ended.
fn is_stopped(seen: &Seen) -> bool {
    let Some(holder) = seen.truth.holder() else { return true };
    if seen.holder_ended {
        return true;
    }
    seen.members.get(holder).is_some_and(|member| {
        seen.truth.granted_uid.as_deref() == Some(&member.uid)
            && member
                .standing
                .as_ref()
                .is_some_and(|standing| standing.role != Played::Primary && standing.epoch >= seen.truth.epoch)
    })
}

/// Tells everybody that the old decision is over.
fn stand_by(seen: &Seen) -> Vec<Step> {
    let mut steps = Vec::new();
    for member in seen.members.values() {
        let Some(standing) = &member.standing else { continue };
        let orders = seen.orders(member, Role::Standby).filter(|_| standing.role != Played::Fenced);
        if let Some(orders) = orders {
            if is_missing(member, &orders) {
                steps.push(Step::Order { pod: member.pod.clone(), orders });
            }
        } else if standing.epoch < seen.truth.epoch {
            steps.push(Step::Notify { pod: member.pod.clone(), notice: seen.notice() });
        }
    }
    steps
}

/// Takes the label by which clients find a primary from every pod but this one.
pub(super) fn unlabel(seen: &Seen, but: Option<&str>) -> impl Iterator<Item = Step> {
    let is_labelled = move |member: &&Member| but != Some(&member.pod) && member.label.as_deref() == Some("primary");
    seen.members.values().filter(is_labelled).map(|member| Step::Label { pod: member.pod.clone(), role: None })
}

/// The grant is revoked; whoever held it stops, or is waited for, and then the best is chosen.
pub(super) fn choosing(seen: &Seen) -> Plan {
    let is_stopped = is_stopped(seen);
    let mut steps = stand_by(seen);
    steps.extend(unlabel(seen, None));
    let message = match choice::choose(seen, is_stopped) {
        Choice::Pod(pod) => {
            let chosen = seen.members.get(&pod).and_then(|member| Some((member, member.standing.as_ref()?)));
            if let Some((member, standing)) = chosen {
                let message = format!("{pod} was chosen");
                return Plan::write(
                    seen,
                    seen.truth.granting(member, standing, seen.now),
                    Stage::FailingOver { message },
                );
            }
            format!("{pod} does not answer")
        }
        Choice::Wait(message) => message,
    };
    let mut plan = Plan::new(seen, Stage::FailingOver { message });
    plan.steps = steps;
    plan
}

/// The chosen one is granted.
pub(super) fn granting(seen: &Seen) -> Plan {
    let pod = seen.truth.next_primary.clone().unwrap_or_default();
    let is_first = seen.truth.primary.is_none() && seen.truth.failover_since.is_none();
    let stage = |message: String| {
        if is_first { Stage::Creating { message } } else { Stage::FailingOver { message } }
    };
    let member = seen.members.get(&pod);
    if member.is_some_and(|member| seen.truth.granted_uid.as_deref() != Some(&member.uid)) {
        let message = format!("{pod} was chosen and is another pod now");
        return Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message });
    }
    let standing = member.and_then(|member| member.standing.as_ref());
    let (Some(member), Some(standing)) = (member, standing) else {
        if seen.holder_missed >= LOOKS_UNTIL_LOST {
            let message = format!("{pod} was chosen and is lost");
            return Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message });
        }
        return Plan::new(seen, stage(format!("{pod} was chosen and does not answer")));
    };
    if Some(&standing.process) != seen.truth.process.as_ref() || standing.epoch > seen.truth.epoch {
        let message = format!("{pod} was chosen and has restarted");
        return Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message });
    }
    if standing.role == Played::Primary && standing.epoch == seen.truth.epoch {
        let truth = Truth {
            primary: Some(pod.clone()),
            next_primary: None,
            failover_since: None,
            replication_id: Some(standing.replication_id.clone()).filter(|id| !id.is_empty()),
            ..seen.truth.clone()
        };
        let message = match &seen.truth.primary {
            Some(former) if former != &pod => format!("{pod} is primary now, after {former}"),
            _ => format!("{pod} is primary"),
        };
        let outcome = Outcome::normal("Promote", "PrimaryGranted", message.clone());
        return Plan::write(seen, truth, stage(message)).saying(outcome);
    }
    // It took the grant and stood down from it: it never takes that one again.
    let has_stood_down = member
        .acknowledged
        .as_ref()
        .is_some_and(|orders| orders.role == Role::Primary && orders.epoch == seen.truth.epoch);
    if has_stood_down || seen.failing_for() > GRANT_PATIENCE {
        let message = format!("{pod} was chosen and did not become primary");
        return Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message });
    }
    let mut plan = Plan::new(seen, stage(format!("{pod} is being made primary")));
    if let Some(orders) = seen.orders(member, Role::Primary) {
        plan.steps.push(Step::Order { pod: pod.clone(), orders });
    }
    plan.steps.extend(unlabel(seen, None));
    plan
}

/// The label of a primary.
pub(super) const PRIMARY: &str = "primary";
/// The label of a replica.
pub(super) const REPLICA: &str = "replica";

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::equal(Some(5), 0, 5, Some(0), true)]
    #[case::with_expired(Some(5), 2, 3, Some(2), true)]
    #[case::one_missing(Some(5), 0, 4, Some(0), false)]
    #[case::one_more(Some(5), 0, 6, Some(0), false)]
    #[case::empty(Some(5), 5, 0, Some(0), false)]
    #[case::old_server(Some(5), 2, 3, None, true)]
    #[case::old_server_misses_more_than_could_expire(Some(5), 1, 3, None, false)]
    #[case::unknown(None, 0, 3, Some(0), true)]
    fn keys_of_the_backup_and_of_the_server(
        #[case] keys: Option<u64>,
        #[case] expires: u64,
        #[case] loaded: u64,
        #[case] expired: Option<u64>,
        #[case] same: bool,
    ) {
        let expected = ExpectedKeys { keys, expires, has_commands: false };
        assert_eq!(compare(expected, loaded, expired).is_ok(), same);
    }
}
