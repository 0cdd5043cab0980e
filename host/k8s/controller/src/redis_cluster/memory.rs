//! What one operator process remembers of its looks at a cluster: misses, notices, orders that were taken. None of it is needed
//! to be right; an operator that starts anew waits from the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redkeep_core::managed::{Orders, Played, Role, Standing};

use super::status::Hindrance;

/// Looks that follow one another faster count as one.
const LOOK_APART: Duration = Duration::from_millis(900);
/// So long after a hand-over that was given up the next is tried.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(60);

/// Of one cluster. Times are spans of a clock that never goes back, since the process began.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    missed: BTreeMap<String, u32>,
    noticed: BTreeMap<String, Noticed>,
    acknowledged: BTreeMap<String, (String, Orders)>,
    hand_over_failed: Option<Duration>,
    counted: Option<Duration>,
    /// What kubelets said of the container with the grant.
    ended: Option<Ended>,
    /// The hash of what was applied last, when, and which claim did not grow then.
    pub(super) applied: Option<(u64, Duration, Option<Hindrance>)>,
    /// Why the Secrets of this generation could not be made, and when that was.
    pub(super) no_secrets: Option<(Option<i64>, Duration, Hindrance)>,
    /// Why the objects of this generation could not be applied, and when that was.
    pub(super) hindered: Option<(Option<i64>, Duration, Hindrance)>,
    /// The uid of the pod with a grant, and after how long it fences itself: it may still run when its pod is gone.
    fencing: Option<(String, Duration)>,
}

/// The grant that stood last, and whether its container has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ended {
    uid: String,
    /// Unknown of a grant that was over before this operator began.
    process: Option<String>,
    is_over: bool,
    /// Ended containers of the pod from before this process: it answered while they were said to have ended.
    earlier: BTreeSet<String>,
}

/// What is known of the pod that was granted last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    pub(super) uid: &'a str,
    /// The process with the grant; none while the grant is being revoked.
    pub(super) process: Option<&'a str>,
    /// The process that answers in the pod now.
    pub(super) answers: Option<&'a str>,
    /// The pod's containers that its kubelet says have ended, by id.
    pub(super) ended: &'a [String],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Noticed {
    process: String,
    epoch: u64,
    since: Duration,
}

impl Memory {
    /// Takes in the answers of a look; `None` did not answer.
    pub(super) fn look(&mut self, elapsed: Duration, epoch: u64, answers: &BTreeMap<String, Option<Standing>>) {
        let counts = self.counted.is_none_or(|before| elapsed.saturating_sub(before) >= LOOK_APART);
        if counts {
            self.counted = Some(elapsed);
        }
        self.missed.retain(|pod, _| answers.contains_key(pod));
        for (pod, answer) in answers {
            let missed = self.missed.entry(pod.clone()).or_default();
            match answer {
                Some(_) => *missed = 0,
                None if counts => *missed = missed.saturating_add(1),
                None => {}
            }
            self.notice(elapsed, epoch, pod, answer.as_ref());
            if let Some(standing) = answer {
                self.forget_other_processes(pod, standing);
                self.hand_over(elapsed, pod, standing);
            }
        }
    }

    fn notice(&mut self, elapsed: Duration, epoch: u64, pod: &str, answer: Option<&Standing>) {
        let Some(standing) = answer else { return };
        let knows = standing.epoch >= epoch && standing.role != Played::Primary && !standing.process.is_empty();
        if !knows {
            self.noticed.remove(pod);
            return;
        }
        let is_known =
            self.noticed.get(pod).is_some_and(|known| known.process == standing.process && known.epoch == epoch);
        if !is_known {
            let noticed = Noticed { process: standing.process.clone(), epoch, since: elapsed };
            self.noticed.insert(pod.to_owned(), noticed);
        }
    }

    fn forget_other_processes(&mut self, pod: &str, standing: &Standing) {
        if self.acknowledged.get(pod).is_some_and(|(process, _)| *process != standing.process) {
            self.acknowledged.remove(pod);
        }
    }

    fn hand_over(&mut self, elapsed: Duration, pod: &str, standing: &Standing) {
        let was_asked =
            self.acknowledged.get(pod).is_some_and(|(_, orders)| matches!(orders.role, Role::HandOver { .. }));
        if was_asked && standing.hand_over_failed.is_some() {
            self.hand_over_failed = Some(elapsed);
        }
    }

    /// Whether the container that was granted last has ended. What a kubelet says holds for one grant: the same pod may be granted
    /// again after its container was started anew, and what it said before that is about another process.
    pub(super) fn has_ended(&mut self, holder: Option<Holder<'_>>) -> bool {
        let Some(holder) = holder else { return false };
        self.ended.take_if(|known| {
            known.uid != holder.uid || (holder.process.is_some() && known.process.as_deref() != holder.process)
        });
        let known = self.ended.get_or_insert_with(|| Ended {
            uid: holder.uid.to_owned(),
            process: holder.process.map(str::to_owned),
            ..Ended::default()
        });
        if holder.answers.is_some() && holder.answers == holder.process {
            known.is_over = false;
            known.earlier.extend(holder.ended.iter().cloned());
        } else if holder.answers.is_none() || holder.process.is_none() {
            // While a grant stands, a container that restarted says so itself.
            known.is_over |= holder.ended.iter().any(|container| !known.earlier.contains(container));
        }
        known.is_over
    }

    /// After how long the pod that was granted last fences itself; `seen`: what its pod says, while there is one.
    pub(super) fn fencing(&mut self, granted: Option<&str>, seen: Option<Duration>) -> Option<Duration> {
        let granted = granted?;
        if let Some(seen) = seen {
            self.fencing = Some((granted.to_owned(), seen));
        }
        self.fencing.as_ref().filter(|(uid, _)| uid == granted).map(|(_, fencing)| *fencing)
    }

    /// Why not everything is as it should be, as of the last time that it was applied.
    pub(super) fn hindrance(&self) -> Option<Hindrance> {
        let not_grown = self.applied.as_ref().and_then(|(_, _, not_grown)| not_grown.as_ref());
        self.hindered.as_ref().map(|(_, _, hindrance)| hindrance).or(not_grown).cloned()
    }

    /// Orders that an instance took.
    pub(super) fn acknowledge(&mut self, pod: &str, orders: Orders) {
        self.acknowledged.insert(pod.to_owned(), (orders.process.clone(), orders));
    }

    /// For how many looks in a row this pod did not answer.
    pub(super) fn missed(&self, pod: &str) -> u32 {
        self.missed.get(pod).copied().unwrap_or_default()
    }

    /// How long this pod has known this epoch, without being primary.
    pub(super) fn noticed_for(&self, elapsed: Duration, epoch: u64, pod: &str) -> Option<Duration> {
        let noticed = self.noticed.get(pod).filter(|noticed| noticed.epoch == epoch)?;
        Some(elapsed.saturating_sub(noticed.since))
    }

    /// The last orders that it took in this start.
    pub(super) fn acknowledged(&self, pod: &str) -> Option<Orders> {
        self.acknowledged.get(pod).map(|(_, orders)| orders.clone())
    }

    /// Whether a hand-over was given up a short while ago.
    pub(super) fn is_hand_over_paused(&self, elapsed: Duration) -> bool {
        self.hand_over_failed.is_some_and(|at| elapsed.saturating_sub(at) < HAND_OVER_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(process: &str, epoch: u64, role: Played) -> BTreeMap<String, Option<Standing>> {
        let standing = Standing { process: process.into(), epoch, role, ..Standing::default() };
        [("a-0".to_owned(), Some(standing))].into()
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn misses_count_once_a_second_and_an_answer_ends_them() {
        let mut memory = Memory::default();
        let silent = BTreeMap::from([("a-0".to_owned(), None)]);
        for millis in [0_u64, 100, 200, 1_000, 1_100, 2_000] {
            memory.look(Duration::from_millis(millis), 1, &silent);
        }
        assert_eq!(memory.missed("a-0"), 3);
        memory.look(seconds(3), 1, &answer("p", 1, Played::Replica));
        assert_eq!(memory.missed("a-0"), 0);
    }

    #[test]
    fn a_notice_is_counted_for_one_start_and_one_epoch() {
        let mut memory = Memory::default();
        let mut look = |at: u64, process: &str, epoch: u64, role: Played, asked: u64| {
            memory.look(seconds(at), asked, &answer(process, epoch, role));
            memory.noticed_for(seconds(at), asked, "a-0")
        };
        assert_eq!(look(0, "p", 1, Played::Replica, 2), None, "it knows an older one only");
        assert_eq!(look(1, "p", 2, Played::Standby, 2), Some(seconds(0)));
        assert_eq!(look(5, "p", 2, Played::Standby, 2), Some(seconds(4)));
        assert_eq!(look(6, "q", 2, Played::Standby, 2), Some(seconds(0)), "it has restarted");
        assert_eq!(look(9, "q", 2, Played::Standby, 3), None, "a new decision");
        assert_eq!(look(10, "q", 3, Played::Primary, 3), None, "a primary is no witness");
    }

    #[test]
    fn what_a_kubelet_said_of_a_container_holds_for_the_grant_of_its_process() {
        let mut memory = Memory::default();
        let mut look = |uid, process: Option<&str>, answers: Option<&str>, ended: &[&str]| {
            let ended: Vec<String> = ended.iter().map(ToString::to_string).collect();
            memory.has_ended(Some(Holder { uid, process, answers, ended: &ended }))
        };
        assert!(!look("u", Some("p"), Some("p"), &[]));
        assert!(!look("u", Some("p"), None, &[]), "silent is not ended");
        assert!(look("u", Some("p"), None, &["c1"]));
        assert!(look("u", None, Some("q"), &[]), "its kubelet has said so, though another runs in its place by now");
        assert!(!look("v", Some("r"), Some("r"), &[]), "another pod");
        assert!(
            !look("u", Some("q"), None, &[]),
            "granted again, in another start: nobody said that this one has ended"
        );
        assert!(!look("u", Some("q"), Some("q"), &["c1"]), "it answers: its kubelet means the one before");
        assert!(!look("u", Some("q"), None, &["c1"]));
        assert!(!look("u", None, None, &["c1"]));
        assert!(look("u", None, None, &["c2"]));
        assert!(!Memory::default().has_ended(None));
    }

    #[test]
    fn an_operator_that_starts_while_a_grant_is_revoked_believes_the_kubelet() {
        let mut memory = Memory::default();
        let ended = ["c1".to_owned()];
        assert!(memory.has_ended(Some(Holder { uid: "u", process: None, answers: None, ended: &ended })));
    }

    #[test]
    fn orders_are_forgotten_with_the_start_that_took_them() {
        let mut memory = Memory::default();
        let orders =
            Orders { epoch: 1, process: "p".into(), role: Role::Standby, peers: Vec::new(), config: BTreeMap::new() };
        memory.acknowledge("a-0", orders.clone());
        memory.look(seconds(1), 1, &answer("p", 1, Played::Standby));
        assert_eq!(memory.acknowledged("a-0"), Some(orders));
        memory.look(seconds(2), 1, &answer("q", 1, Played::Standby));
        assert_eq!(memory.acknowledged("a-0"), None);
    }
}
