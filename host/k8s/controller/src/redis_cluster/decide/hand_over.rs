//! Whether the primary should hand over, and to whom: by annotation, because its pod is to end, because its place goes, or
//! because it is outdated.

use redkeep_core::managed::{Peer, Role, Standing};
use redkeep_k8s_api::conditions::reasons;

use super::{Member, Seen, Truth};
use crate::outcome::Outcome;

/// What is to be done about it.
#[derive(Debug)]
pub(super) enum HandOver {
    /// Nothing.
    No,
    /// Hand over.
    To { peer: Peer, why: String },
    /// Later.
    Wait { reason: &'static str, message: String },
    /// The annotation was followed, or cannot be, or is gone, of which nothing is said.
    Followed { truth: Truth, outcome: Option<Outcome> },
}

pub(super) fn wanted(seen: &Seen, primary: &Member, standing: &Standing) -> HandOver {
    if let Some(peer) = under_way(seen, primary, standing) {
        let why = format!("{} hands over to {}", primary.pod, peer.pod);
        return HandOver::To { peer, why };
    }
    match by_annotation(seen, primary, standing) {
        HandOver::No => {}
        // There is no time to wait for the one who was asked for.
        HandOver::Wait { .. } if primary.is_terminating => {}
        other => return other,
    }
    let reason = if primary.is_terminating && seen.wanted.instances > 1 {
        reasons::SWITCHING_OVER
    } else if primary.ordinal >= seen.wanted.instances {
        reasons::SCALING
    } else if (primary.is_outdated || primary.restarts_for_config()) && seen.wanted.instances > 1 {
        let others = seen.members.values().filter(|member| member.pod != primary.pod);
        if others.clone().any(|member| member.is_outdated || member.restarts_for_config()) {
            return HandOver::No; // Replicas first.
        }
        if !(0..seen.wanted.instances)
            .map(|ordinal| seen.wanted.pod(ordinal))
            .all(|pod| pod == primary.pod || seen.members.get(&pod).is_some_and(Member::is_in_sync))
        {
            return HandOver::Wait {
                reason: reasons::ROLLING_UPDATE,
                message: "waits until all replicas are in sync".to_owned(),
            };
        }
        reasons::ROLLING_UPDATE
    } else {
        return HandOver::No;
    };
    let heirs = seen.members.values().filter(|member| {
        let stays = member.ordinal < seen.wanted.instances && member.pod != primary.pod;
        let is_current = reason != reasons::ROLLING_UPDATE || !member.is_outdated;
        stays && member.is_in_sync() && !member.is_terminating && is_current
    });
    let Some(heir) = heirs.min_by_key(|member| (member.is_outdated, member.ordinal)) else {
        return HandOver::Wait {
            reason,
            message: format!("{} waits for a replica in sync to hand over to", primary.pod),
        };
    };
    to(seen, primary, standing, heir, reason)
}

/// The one whom it was asked to hand over to, until it did or gave up.
fn under_way(seen: &Seen, primary: &Member, standing: &Standing) -> Option<Peer> {
    let Role::HandOver { to } = &primary.acknowledged.as_ref()?.role else { return None };
    let is_there = seen.members.get(&to.pod).and_then(Member::peer).as_ref() == Some(to);
    (is_there && standing.hand_over_failed.is_none()).then(|| to.clone())
}

fn by_annotation(seen: &Seen, primary: &Member, standing: &Standing) -> HandOver {
    if seen.wanted.switch_over == seen.truth.switch_over {
        return HandOver::No;
    }
    let Some(name) = &seen.wanted.switch_over else {
        // Whoever sets it again asks again, for the same pod too.
        return HandOver::Followed { truth: Truth { switch_over: None, ..seen.truth.clone() }, outcome: None };
    };
    let followed = |outcome| HandOver::Followed {
        truth: Truth { switch_over: Some(name.clone()), ..seen.truth.clone() },
        outcome: Some(outcome),
    };
    if *name == primary.pod {
        return followed(Outcome::normal("SwitchOver", "SwitchedOver", format!("{name} is primary")));
    }
    let Some(heir) = seen.members.get(name) else {
        let message = format!("{name} is no instance of this cluster, so {} stays primary", primary.pod);
        return followed(Outcome::warning("SwitchOver", "SwitchOverFailed", message));
    };
    if let Some(why) = &standing.hand_over_failed
        && is_asked(primary, name)
    {
        let message = format!("{} stays primary: {why}", primary.pod);
        return followed(Outcome::warning("SwitchOver", "SwitchOverFailed", message));
    }
    if !heir.is_in_sync() || heir.is_terminating {
        return HandOver::Wait { reason: reasons::SWITCHING_OVER, message: format!("{name} is not in sync yet") };
    }
    match heir.peer() {
        Some(peer) => HandOver::To { peer, why: format!("{} hands over to {name}", primary.pod) },
        None => HandOver::No,
    }
}

/// Whether its last orders were to hand over to this one, so that a failure is about them.
fn is_asked(primary: &Member, heir: &str) -> bool {
    let role = primary.acknowledged.as_ref().map(|orders| &orders.role);
    matches!(role, Some(Role::HandOver { to }) if to.pod == heir)
}

fn to(seen: &Seen, primary: &Member, standing: &Standing, heir: &Member, reason: &'static str) -> HandOver {
    let failed = standing.hand_over_failed.as_ref().filter(|_| is_asked(primary, &heir.pod));
    if let Some(why) = failed {
        return HandOver::Wait { reason, message: format!("{} stays primary for now: {why}", primary.pod) };
    }
    if seen.hand_over_paused && !primary.is_terminating {
        return HandOver::Wait { reason, message: format!("{} could not hand over and tries again soon", primary.pod) };
    }
    match heir.peer() {
        Some(peer) => HandOver::To { peer, why: format!("{} hands over to {}", primary.pod, heir.pod) },
        None => HandOver::No,
    }
}
