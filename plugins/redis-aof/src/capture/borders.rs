//! Finds where the host dropped bytes of the command stream (`PING`, `REPLCONF GETACK`): there the offset moves further than the
//! position, and with a mark on both sides every offset can be found again exactly. Decides by numbers alone.
//!
//! The host gives what it dropped before a read together with that read; a command that it made longer or shorter is a read alone.

/// More borders than this between two steps cost more than they are worth: then a cut falls back to the steps' marks.
const MAXIMUM: usize = 1024;

/// A place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Replication offset.
    pub(super) offset: u64,
    /// Bytes of the file.
    pub(super) position: u64,
}

/// The borders of one step.
pub(super) struct Borders {
    settled: Place,
    /// Whether the file may be cut at `settled`.
    safe: bool,
    found: Vec<Place>,
}

impl Borders {
    /// A step that begins where the file may be cut.
    pub(super) fn new(begin: Place) -> Self {
        Self { settled: begin, safe: true, found: Vec::new() }
    }

    /// A read has come to this place; `safe`: the file may be cut there.
    pub(super) fn read(&mut self, place: Place, safe: bool) {
        // A piece of a command that is too large to be held: its offset counts when it is whole.
        if place.offset == self.settled.offset {
            return;
        }
        self.compare(place);
        (self.settled, self.safe) = (place, safe);
    }

    /// The step has ended at this place: the borders in it, in order.
    pub(super) fn finish(mut self, place: Place) -> Vec<Place> {
        if place.position != self.settled.position {
            // An offset that runs ahead of what is read says nothing about where bytes were dropped.
            return Vec::new();
        }
        if place.offset != self.settled.offset {
            self.compare(place);
        }
        if self.found.len() > MAXIMUM { Vec::new() } else { self.found }
    }

    fn compare(&mut self, place: Place) {
        let moved = place.offset.saturating_sub(self.settled.offset);
        let passed = place.position.saturating_sub(self.settled.position);
        if moved == passed || !self.safe || self.found.len() > MAXIMUM {
            return;
        }
        self.found.push(self.settled);
        if moved > passed {
            self.found.push(Place { offset: place.offset - passed, position: self.settled.position });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::marks::{Mark, Marks, Until};

    fn mark(place: Place) -> Mark {
        Mark { time_ms: 1, offset: place.offset, position: place.position }
    }

    proptest! {
        /// Commands of `(bytes, dropped)`, read as the host gives them: what was dropped, then a run of at most `run` bytes.
        #[test]
        fn every_offset_is_found_again(commands in proptest::collection::vec((1_u64..40, any::<bool>()), 0..60), run in 1_u64..100) {
            let begin = Place { offset: 500, position: 90 };
            let (mut at, mut ends) = (begin, vec![begin]);
            let mut borders = Borders::new(begin);
            let mut unread = 0;
            for (length, dropped) in commands {
                if unread > 0 && (dropped || unread >= run) {
                    borders.read(at, true);
                    unread = 0;
                }
                at.offset += length;
                if !dropped {
                    at.position += length;
                    unread += length;
                }
                ends.push(at);
            }
            if unread > 0 {
                borders.read(at, true);
            }
            let mut marks = Marks::starting_with(mark(begin));
            borders.finish(at).into_iter().for_each(|place| marks.push(mark(place)));
            marks.push_last(mark(at));
            for end in ends {
                let cut = marks.cut(Until::Offset(end.offset)).unwrap();
                prop_assert_eq!(cut.scan_to.unwrap_or(cut.mark.position), end.position);
            }
        }
    }

    #[test]
    fn a_large_command_counts_when_it_is_whole() {
        let mut borders = Borders::new(Place { offset: 10, position: 0 });
        borders.read(Place { offset: 10, position: 400 }, false);
        borders.read(Place { offset: 10, position: 800 }, false);
        // 30 bytes were dropped before it.
        borders.read(Place { offset: 1040, position: 1000 }, true);
        let found = borders.finish(Place { offset: 1040, position: 1000 });
        assert_eq!(found, [Place { offset: 10, position: 0 }, Place { offset: 40, position: 0 }]);
    }

    #[test]
    fn a_command_that_became_longer_lies_between_two_marks() {
        let mut borders = Borders::new(Place { offset: 0, position: 0 });
        borders.read(Place { offset: 50, position: 50 }, true);
        borders.read(Place { offset: 80, position: 95 }, true);
        assert_eq!(borders.finish(Place { offset: 80, position: 95 }), [Place { offset: 50, position: 50 }]);
    }

    #[test]
    fn an_offset_that_runs_ahead_of_the_reads_gives_no_borders() {
        let mut borders = Borders::new(Place { offset: 0, position: 0 });
        borders.read(Place { offset: 900, position: 300 }, true);
        borders.read(Place { offset: 900, position: 600 }, true);
        assert_eq!(borders.finish(Place { offset: 900, position: 900 }), []);
    }

    #[test]
    fn nothing_is_marked_inside_a_transaction_and_a_flood_costs_no_memory() {
        let mut borders = Borders::new(Place { offset: 0, position: 0 });
        borders.read(Place { offset: 10, position: 10 }, false);
        borders.read(Place { offset: 40, position: 20 }, true);
        assert_eq!(borders.finish(Place { offset: 40, position: 20 }), []);
        let mut borders = Borders::new(Place { offset: 0, position: 0 });
        let mut place = Place { offset: 0, position: 0 };
        for _ in 0..100_000 {
            place = Place { offset: place.offset + 20, position: place.position + 10 };
            borders.read(place, true);
        }
        assert!(borders.found.len() <= MAXIMUM + 2);
        assert_eq!(borders.finish(place), []);
    }
}
