//! Which pod is exchanged for a newer one now: replicas one by one, the old primary when it has handed over.

use std::time::Duration;

use super::{Member, Seen, Step};

/// A replica with whole data has so long since the last decision to be in sync with the primary.
const LINK_PATIENCE: Duration = Duration::from_secs(30);

fn must_go(member: &Member) -> bool {
    member.is_outdated || member.restarts_for_config()
}

/// What never came up, and was made from an older template, is in nobody's way: whoever put the template right need not delete
/// it by hand, whatever else goes on.
pub(super) fn replace_broken(seen: &Seen, steps: &mut Vec<Step>) {
    let broken = seen
        .members
        .values()
        .filter(|member| member.is_outdated && member.is_down && !member.is_terminating && member.standing.is_none());
    for member in broken {
        let step = Step::Delete { pod: member.pod.clone(), uid: member.uid.clone() };
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
}

/// One that has nothing whole is no loss, and may never come right as it is: with too little room, or another password than the
/// primary's, it serves and is never in sync. Nor is one, such as a former primary, that does not find back to the primary, as
/// long as another is whole.
fn useless<'a>(seen: &'a Seen, primary: &Member) -> Option<&'a Member> {
    let replicas = || seen.members.values().filter(|member| member.pod != primary.pod);
    replicas().filter(|member| member.is_outdated).find(|member| {
        let mut others = replicas().filter(|other| other.pod != member.pod).peekable();
        let is_lost = !member.is_in_sync() && member.noticed_for.is_some_and(|span| span >= LINK_PATIENCE);
        !member.is_whole() || (is_lost && (others.peek().is_none() || others.any(Member::is_whole)))
    })
}

/// Such a one goes while a hand-over is waited for too: it may be the one that is waited for.
pub(super) fn replace_useless(seen: &Seen, primary: &Member) -> Option<Step> {
    let useless = useless(seen, primary).filter(|_| !seen.members.values().any(|member| member.is_terminating))?;
    Some(Step::Delete { pod: useless.pod.clone(), uid: useless.uid.clone() })
}

/// The next pod, and what is said of it; `None` when all are as they should be.
pub(super) fn step(seen: &Seen, primary: &Member) -> Option<(Option<Step>, String)> {
    let outdated: Vec<&Member> = seen.members.values().filter(|member| must_go(member)).collect();
    if outdated.is_empty() {
        return None;
    }
    let delete = |member: &Member| {
        let step = Step::Delete { pod: member.pod.clone(), uid: member.uid.clone() };
        Some((Some(step), format!("{} is made anew", member.pod)))
    };
    if let Some(going) = seen.members.values().find(|member| member.is_terminating) {
        return Some((None, format!("{} stops", going.pod)));
    }
    if let Some(useless) = useless(seen, primary) {
        return delete(useless);
    }
    let waits_for = (0..seen.wanted.instances)
        .map(|ordinal| seen.wanted.pod(ordinal))
        .find(|name| name != &primary.pod && !seen.members.get(name).is_some_and(Member::is_in_sync));
    if let Some(name) = waits_for {
        return Some((None, format!("waits until {name} is in sync")));
    }
    if let Some(replica) = outdated.iter().filter(|member| member.pod != primary.pod).max_by_key(|one| one.ordinal) {
        return delete(replica);
    }
    if seen.wanted.instances == 1 {
        return delete(primary);
    }
    None
}
