//! A cluster that has a primary: is it there, and does everybody play what they should?

use redkeep_core::managed::{Played, Role, Standing};
use redkeep_k8s_api::conditions::reasons;

use super::failover::{PRIMARY, REPLICA, unlabel};
use super::hand_over::{self, HandOver};
use super::{LOOKS_UNTIL_LOST, Member, Plan, Seen, Stage, Step, Truth, choice, is_missing, rollout};
use crate::outcome::Outcome;

pub(super) fn steady(seen: &Seen) -> Plan {
    let name = seen.truth.primary.clone().unwrap_or_default();
    let member = seen.members.get(&name);
    let Some((primary, standing)) = member.and_then(|member| Some((member, member.standing.as_ref()?))) else {
        return lost(seen, &name);
    };
    let is_granted = standing.role == Played::Primary && Some(&standing.process) == seen.truth.process.as_ref();
    if is_granted { serving(seen, primary, standing) } else { demoted(seen, primary, standing) }
}

fn lost(seen: &Seen, name: &str) -> Plan {
    if seen.holder_missed < LOOKS_UNTIL_LOST && !seen.holder_ended {
        return Plan::new(seen, Stage::Lost { message: format!("{name}, the primary, does not answer") });
    }
    if !choice::has_candidate(seen) {
        let message = format!("{name}, the primary, does not answer, and no other instance has whole data");
        return Plan::new(seen, Stage::Lost { message });
    }
    let message = format!("{name}, the primary, does not answer");
    let outcome = Outcome::warning("Failover", "PrimaryLost", message.clone());
    Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message }).saying(outcome)
}

/// The primary says itself that it is none any more: it restarted, fenced itself, or handed over.
fn demoted(seen: &Seen, primary: &Member, standing: &Standing) -> Plan {
    let is_same = Some(&standing.process) == seen.truth.process.as_ref()
        && seen.truth.granted_uid.as_deref() == Some(&primary.uid);
    let heir = standing.handed_over_to.as_ref().filter(|_| is_same).and_then(|heir| seen.members.get(heir));
    let heir = heir.filter(|heir| heir.is_whole() && !heir.is_terminating);
    if let Some((heir, of_heir)) = heir.and_then(|heir| Some((heir, heir.standing.as_ref()?))) {
        // It stopped by itself, and this one has everything.
        let truth = seen.truth.revoked(seen.now).granting(heir, of_heir, seen.now);
        let message = format!("{} handed over to {}", primary.pod, heir.pod);
        return Plan::write(seen, truth, Stage::FailingOver { message });
    }
    let what = match standing.role {
        Played::Fenced => "fenced itself",
        _ if is_same => "is no primary any more",
        _ => "has restarted",
    };
    let message = format!("{}, the primary, {what}", primary.pod);
    let outcome = Outcome::warning("Failover", "PrimaryLost", message.clone());
    Plan::write(seen, seen.truth.revoked(seen.now), Stage::FailingOver { message }).saying(outcome)
}

fn serving(seen: &Seen, primary: &Member, standing: &Standing) -> Plan {
    if standing.replication_id != seen.truth.replication_id.as_deref().unwrap_or_default()
        && !standing.replication_id.is_empty()
    {
        let truth = Truth { replication_id: Some(standing.replication_id.clone()), ..seen.truth.clone() };
        return Plan::write(seen, truth, Stage::Serving { progress: None });
    }
    let mut plan = Plan::new(seen, Stage::Serving { progress: None });
    plan.replicas = replicas(seen, primary);
    // One that is being filled keeps its place, and nobody follows it: what is taken back would have to be taken back from them too.
    let is_filling = seen.is_hidden && !seen.is_only_copy;
    let hand_over = if is_filling { HandOver::No } else { hand_over::wanted(seen, primary, standing) };
    let (role, progress) = match hand_over {
        HandOver::Followed { truth, outcome } => {
            return Plan { outcomes: outcome.into_iter().collect(), truth, ..plan };
        }
        HandOver::To { peer, why } => (Role::HandOver { to: peer }, Some((reasons::SWITCHING_OVER, why))),
        HandOver::Wait { reason, message } => (Role::Primary, Some((reason, message))),
        HandOver::No => (Role::Primary, None),
    };
    if let Some(orders) = seen.orders(primary, role)
        && is_missing(primary, &orders)
    {
        plan.steps.push(Step::Order { pod: primary.pod.clone(), orders });
    }
    if !is_filling {
        follow(seen, primary, &mut plan);
    }
    label(seen, primary, &mut plan);
    let rolling = if progress.is_none() {
        rollout::step(seen, primary)
    } else {
        plan.steps.extend(rollout::replace_useless(seen, primary));
        None
    };
    let scaling = (plan.replicas != seen.wanted.instances)
        .then(|| (reasons::SCALING, format!("{} instances of {}", plan.replicas, seen.wanted.instances)));
    let rolling = rolling.map(|(step, message)| {
        plan.steps.extend(step);
        (reasons::ROLLING_UPDATE, message)
    });
    plan.stage = Stage::Serving { progress: progress.or(rolling).or(scaling) };
    plan
}

/// The primary is never taken away: first it hands over.
fn replicas(seen: &Seen, primary: &Member) -> i32 {
    seen.wanted.instances.max(primary.ordinal.saturating_add(1))
}

/// Replicas follow only a primary that has them among those whom it must meet: else one could be promoted whom it never meets.
fn follow(seen: &Seen, primary: &Member, plan: &mut Plan) {
    let Some(of) = primary.peer() else { return };
    let known = primary.acknowledged.as_ref().map(|orders| orders.peers.as_slice()).unwrap_or_default();
    for member in seen.members.values().filter(|member| member.pod != primary.pod && !member.is_terminating) {
        let is_known = member.peer().is_some_and(|peer| known.contains(&peer));
        if let Some(orders) = seen.orders(member, Role::Replica { of: of.clone() }) {
            if is_known && is_missing(member, &orders) {
                plan.steps.push(Step::Order { pod: member.pod.clone(), orders });
            }
        } else if member.standing.as_ref().is_some_and(|standing| standing.epoch < seen.truth.epoch) {
            plan.steps.push(Step::Notify { pod: member.pod.clone(), notice: seen.notice() });
        }
    }
}

fn label(seen: &Seen, primary: &Member, plan: &mut Plan) {
    plan.steps.extend(unlabel(seen, Some(&primary.pod)));
    let wanted = (!seen.is_hidden).then_some(PRIMARY);
    if primary.label.as_deref() != wanted {
        plan.steps.push(Step::Label { pod: primary.pod.clone(), role: wanted });
    }
    for member in seen.members.values().filter(|member| member.pod != primary.pod) {
        // One that does not answer now is out of the Services by its readiness; its label says what it is, not how.
        let Some(standing) = &member.standing else { continue };
        let follows = standing.role == Played::Replica;
        let wanted = (follows && !seen.is_hidden).then_some(REPLICA);
        if member.label.as_deref() != wanted {
            let is_unlabelled = member.label.as_deref() == Some(PRIMARY) && wanted.is_none();
            if !is_unlabelled {
                plan.steps.push(Step::Label { pod: member.pod.clone(), role: wanted });
            }
        }
    }
}
