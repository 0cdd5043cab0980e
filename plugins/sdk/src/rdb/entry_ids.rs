//! The ids of a large stream's entries in little memory: a pending entry can be made by a command only where its entry is there.

/// Bytes that are held: four million entries of one a millisecond, a hundred million of many in one. A guest has 64 MiB for
/// everything, up to half of it for a group's pending entries.
const MOST: usize = 8 << 20;
/// Entries from one mark to the next: as many are passed over at most to find one.
const EVERY: usize = 128;

type Id = (u64, u64);

/// Ids in ascending order: every so often one as it is, the others by their distance from the one before.
#[derive(Default)]
pub(super) struct EntryIds {
    /// Such an id, and where in `steps` those that follow it begin.
    marks: Vec<(Id, usize)>,
    steps: Vec<u8>,
    /// Entries since the last mark.
    since: usize,
    last: Option<Id>,
    /// Whether there were more than are held, or some out of order, of which nothing is known.
    is_cut: bool,
}

impl EntryIds {
    /// Takes the next entry.
    pub(super) fn push(&mut self, id: Id) {
        let follows = self.last.is_none_or(|last| id > last);
        self.is_cut |= !follows || self.steps.len() + 20 > MOST;
        if self.is_cut {
            return;
        }
        match self.last {
            Some(last) if self.since < EVERY => {
                push_number(&mut self.steps, id.0 - last.0);
                push_number(&mut self.steps, if id.0 == last.0 { id.1 - last.1 } else { id.1 });
                self.since += 1;
            }
            _ => {
                self.marks.push((id, self.steps.len()));
                self.since = 1;
            }
        }
        self.last = Some(id);
    }

    /// Whether there is such an entry; `None` where that is not known.
    pub(super) fn contains(&self, id: Id) -> Option<bool> {
        if self.last.is_none_or(|last| id > last) {
            return (!self.is_cut).then_some(false);
        }
        let behind = self.marks.partition_point(|(mark, _)| *mark <= id);
        let Some(&(mut at, begin)) = behind.checked_sub(1).and_then(|before| self.marks.get(before)) else {
            return Some(false);
        };
        let end = self.marks.get(behind).map_or(self.steps.len(), |(_, end)| *end);
        let mut steps = self.steps.get(begin..end).unwrap_or_default();
        while at < id && !steps.is_empty() {
            let (milliseconds, sequence) = (take_number(&mut steps), take_number(&mut steps));
            at = if milliseconds == 0 { (at.0, at.1 + sequence) } else { (at.0 + milliseconds, sequence) };
        }
        Some(at == id)
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take_number(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let [byte, rest @ ..] = *bytes {
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte < 0x80 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn held(ids: impl IntoIterator<Item = Id>) -> EntryIds {
        let mut held = EntryIds::default();
        ids.into_iter().for_each(|id| held.push(id));
        held
    }

    #[test]
    fn the_ends_of_what_an_id_can_be_are_found() {
        let ids = [(0, 1), (0, u64::MAX), (1, 0), (u64::MAX, 0), (u64::MAX, u64::MAX)];
        let held = held(ids);
        for id in ids {
            assert_eq!(held.contains(id), Some(true), "{id:?}");
        }
        for id in [(0, 0), (0, 2), (1, 1), (2, 0), (u64::MAX, 1)] {
            assert_eq!(held.contains(id), Some(false), "{id:?}");
        }
        assert_eq!(EntryIds::default().contains((0, 0)), Some(false));
    }

    #[test]
    fn what_follows_ids_that_are_out_of_order_is_not_known() {
        let held = held([(1, 0), (3, 0), (2, 0), (4, 0)]);
        let found = [(1, 0), (2, 0), (3, 0), (4, 0)].map(|id| held.contains(id));
        assert_eq!(found, [Some(true), Some(false), Some(true), None]);
    }

    #[test]
    fn only_so_many_are_held() {
        let held = held((0..5_000_000).map(|number| (number * 2, 0)));
        assert!(held.steps.len() <= MOST && held.steps.capacity() <= MOST, "{}", held.steps.capacity());
        assert_eq!((held.contains((4_000_000, 0)), held.contains((4_000_001, 0))), (Some(true), Some(false)));
        assert_eq!(held.contains((9_999_998, 0)), None);
    }

    proptest! {
        #[test]
        fn those_that_are_there_are_found_and_no_others(
            ids in proptest::collection::btree_set((0_u64..300, prop_oneof![0_u64..6, any::<u64>()]), 0..1000),
            others in proptest::collection::vec((0_u64..300, 0_u64..6), 0..100),
        ) {
            let held = held(ids.iter().copied());
            let all: BTreeSet<Id> = ids.iter().copied().chain(others).collect();
            for id in all {
                prop_assert_eq!(held.contains(id), Some(ids.contains(&id)), "{:?}", id);
            }
        }
    }
}
