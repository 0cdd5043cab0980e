//! Who becomes primary (ADR 18, "The choice").

use std::cmp::Reverse;
use std::time::Duration;

use redkeep_core::managed::{Played, Standing};

use super::{Member, Seen};

/// So long it is waited that an instance with whole data takes the new decision, before the others are compared without it.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// When every instance has restarted, a former primary that does not come back within this is given up.
const FORMER_GIVEN_UP: Duration = Duration::from_secs(120);

/// So many looks, a second apart, the only copy of what was restored may be silent.
const LOOKS_UNTIL_GIVEN_UP: u32 = 120;

/// The choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Pod(String),
    Wait(String),
}

fn wait(message: impl Into<String>) -> Choice {
    Choice::Wait(message.into())
}

/// Those who know the decision and follow nobody: nothing moves in them any more.
fn settled(seen: &Seen) -> impl Iterator<Item = (&Member, &Standing)> {
    seen.members.values().filter(|member| !member.is_terminating && member.ip.is_some()).filter_map(|member| {
        let standing = member.standing.as_ref()?;
        (standing.role == Played::Standby && standing.epoch >= seen.truth.epoch).then_some((member, standing))
    })
}

/// Whether anybody could follow a primary that is lost: asked before it is given up.
pub(super) fn has_candidate(seen: &Seen) -> bool {
    let holder = seen.truth.holder();
    // Of an only copy a pod that is only silent is waited for: what it has took long to restore.
    let is_silent = seen.holder_missed >= LOOKS_UNTIL_GIVEN_UP;
    let is_gone = seen.is_only_copy && (is_silent || seen.holder_ended || granted_pod(seen).is_none());
    let is_able = |member: &Member| member.is_whole() || (is_gone && member.serves());
    seen.members.values().any(|member| holder != Some(&member.pod) && !member.is_terminating && is_able(member))
}

/// The one to be granted. `is_stopped`: that the last holder stopped was seen, not only waited for.
pub(super) fn choose(seen: &Seen, is_stopped: bool) -> Choice {
    let whole: Vec<(&Member, &Standing)> = settled(seen).filter(|(member, _)| member.is_whole()).collect();
    let is_straggler = |member: &&Member| {
        let is_settled = whole.iter().any(|(one, _)| one.pod == member.pod);
        let is_fenced = member.standing.as_ref().is_some_and(|standing| standing.role == Played::Fenced);
        member.is_whole() && !member.is_terminating && !is_settled && !is_fenced
    };
    if let Some(straggler) = seen.members.values().find(is_straggler)
        && (whole.is_empty() || seen.failing_for() < STRAGGLERS)
    {
        return wait(format!("{} has not taken the decision yet", straggler.pod));
    }
    if !whole.is_empty() {
        // Those who have whole data are among those whom the last holder must meet to go on.
        let witnesses = whole.iter().map(|(member, _)| *member);
        return if is_stopped { of_whole(seen, &whole) } else { waited(seen, witnesses, || of_whole(seen, &whole)) };
    }
    if seen.is_only_copy {
        return only_copy_lost(seen);
    }
    if is_stopped {
        return all_restarted(seen);
    }
    let holder = seen.truth.holder();
    let others: Vec<&Member> = seen.members.values().filter(|member| holder != Some(&member.pod)).collect();
    // A lone one has nobody to meet: it is given the time to read the decision itself.
    let alone = seen
        .members
        .values()
        .filter(|member| others.is_empty() && Some(&member.uid) != seen.truth.granted_uid.as_ref());
    waited(seen, others.iter().copied().chain(alone), || all_restarted(seen))
}

/// Chooses when one of these has known long enough that the old decision is over: whoever held it has met them, read it, or
/// stopped.
fn waited<'a>(seen: &Seen, witnesses: impl Iterator<Item = &'a Member>, choose: impl FnOnce() -> Choice) -> Choice {
    let holder = seen.truth.holder().unwrap_or_default();
    let known = witnesses.filter(|member| member.pod != holder || seen.members.len() == 1);
    let longest = known.filter_map(|member| member.noticed_for).max().unwrap_or_default();
    let margin = seen.wanted.margin();
    if longest >= margin {
        return choose();
    }
    let left = margin.saturating_sub(longest).as_secs();
    wait(format!("{holder} may still take writes: it is certain to have stopped in {left} s"))
}

/// Within the replication id of the last primary the highest offset.
fn of_whole(seen: &Seen, whole: &[(&Member, &Standing)]) -> Choice {
    let line = seen.truth.replication_id.as_deref();
    let is_of_line = |standing: &Standing| {
        line.is_some_and(|line| {
            standing.replication_id == line || standing.previous_replication_id.as_deref() == Some(line)
        })
    };
    let any_of_line = whole.iter().any(|(_, standing)| is_of_line(standing));
    let candidates = whole.iter().filter(|(_, standing)| !any_of_line || is_of_line(standing));
    let best = candidates.max_by_key(|(member, standing)| (standing.offset, Reverse(&member.pod)));
    match best {
        Some((member, _)) => Choice::Pod(member.pod.clone()),
        None => wait("no instance has whole data"),
    }
}

/// The pod that holds the last grant, unless it goes.
fn granted_pod(seen: &Seen) -> Option<&Member> {
    let uid = seen.truth.granted_uid.as_ref();
    seen.members.values().find(|member| Some(&member.uid) == uid && !member.is_terminating)
}

/// What only the last primary had is restored again, into whoever serves. No client was ever led to it: it may take what writes
/// it likes.
fn only_copy_lost(seen: &Seen) -> Choice {
    let former = seen.truth.primary.as_deref().unwrap_or_default();
    if let Some(member) = granted_pod(seen).filter(|member| !member.serves() && seen.failing_for() < FORMER_GIVEN_UP) {
        return wait(format!("{} alone has what was restored, and does not answer", member.pod));
    }
    let serving = settled(seen).map(|(member, _)| member).filter(|member| member.serves());
    match serving.min_by_key(|member| (member.pod != former, member.ordinal)) {
        Some(member) => Choice::Pod(member.pod.clone()),
        None => wait("no instance serves yet"),
    }
}

/// Every instance has restarted, so what each has is what it wrote before it stopped. The former primary's is the newest, unless
/// it lost it.
fn all_restarted(seen: &Seen) -> Choice {
    let former = seen.truth.primary.as_deref().unwrap_or_default();
    let line = seen.truth.replication_id.as_deref();
    let with_keys = seen.members.values().filter(|member| member.serves() && !member.is_terminating);
    let with_keys = with_keys.filter_map(|member| Some((member, member.standing.as_ref().filter(|one| one.keys > 0)?)));
    let fullest = with_keys.max_by_key(|(member, standing)| {
        let of_line = line.is_some_and(|line| {
            standing.replication_id == line || standing.previous_replication_id.as_deref() == Some(line)
        });
        (of_line, if of_line { standing.offset } else { 0 }, standing.keys, Reverse(&member.pod))
    });
    let is_settled = |pod: &str| settled(seen).any(|(one, _)| one.pod == pod);
    let chosen = |pod: &str| {
        if is_settled(pod) {
            Choice::Pod(pod.to_owned())
        } else {
            wait(format!("{pod} has not taken the decision yet"))
        }
    };
    match seen.members.get(former) {
        Some(member) if member.standing.is_some() && !member.is_terminating => {
            if !member.serves() {
                return wait(format!("{former} was primary and has not loaded its data yet"));
            }
            if member.standing.as_ref().is_some_and(|standing| standing.keys > 0) {
                return chosen(former);
            }
            // Empty: never before one that has keys, and one that does not answer may have some.
            let is_known = |member: &Member| member.serves() || member.is_terminating;
            if !seen.all_answer() || !seen.members.values().all(is_known) {
                return wait(format!("{former} was primary and is empty; the others have not all said what they have"));
            }
            chosen(fullest.map_or(former, |(one, _)| &one.pod))
        }
        _ => {
            if seen.failing_for() < FORMER_GIVEN_UP {
                return wait(format!("every instance has restarted, and {former}, which was primary, is not back"));
            }
            match fullest {
                Some((member, _)) => chosen(&member.pod),
                None => wait(format!("{former}, which was primary, is not back, and no other instance has keys")),
            }
        }
    }
}

/// Who is primary of a cluster that never had one: the first, unless it is empty and another is not.
pub(super) fn first(seen: &Seen, patience: Duration) -> Choice {
    let name = seen.wanted.pod(0);
    let Some(member) = seen.members.get(&name).filter(|member| member.serves() && !member.is_terminating) else {
        return wait(format!("{name} does not serve yet"));
    };
    if member.standing.as_ref().is_some_and(|standing| standing.keys > 0) {
        return Choice::Pod(name);
    }
    let all_serve = seen.all_answer() && seen.members.values().all(Member::serves);
    let since = match &seen.first {
        super::FirstGrant::Open { since: Some(since) } => seen.now.duration_since(*since),
        _ => jiff::SignedDuration::ZERO,
    };
    if !all_serve && Duration::try_from(since).unwrap_or_default() < patience {
        return wait("not every instance serves yet");
    }
    // Claims that outlived an earlier cluster of this name.
    let full = seen.members.values().filter(|member| member.serves() && !member.is_terminating);
    let full = full.max_by_key(|member| {
        let keys = member.standing.as_ref().map_or(0, |standing| standing.keys);
        (keys, Reverse(member.ordinal))
    });
    full.map_or(Choice::Pod(name), |member| Choice::Pod(member.pod.clone()))
}
