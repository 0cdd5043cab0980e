//! Marks: which replication offset and which time lie at which position of `appendonly.aof`. They let a restore stop at a point.
//!
//! A mark is set where the command stream stood at a whole command outside a transaction, so a file may be cut at any of them.

use redkeep_sdk::{Error, code};
use serde::{Deserialize, Serialize};

use crate::clock;

/// The artifact that holds them.
pub(crate) const ARTIFACT: &str = "appendonly.marks.json";
/// Its type.
pub(crate) const KIND: &str = "aof-marks";
/// A newer format is refused.
const FORMAT: u32 = 1;
/// More marks are thinned out, so that a window of any length costs at most some MiB.
const MAXIMUM_MARKS: usize = 32_768;
/// No larger artifact is one of ours: a mark takes at most 3 × 20 digits and 4 more bytes.
pub(crate) const MAXIMUM_BYTES: usize = (MAXIMUM_MARKS + 2) * 64 + 1024;

/// One point of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub(crate) struct Mark {
    /// When it was reached, milliseconds since the epoch, by the host's clock.
    pub(crate) time_ms: u64,
    /// Replication offset.
    pub(crate) offset: u64,
    /// Bytes of the file up to here.
    pub(crate) position: u64,
}

impl From<(u64, u64, u64)> for Mark {
    fn from((time_ms, offset, position): (u64, u64, u64)) -> Self {
        Self { time_ms, offset, position }
    }
}

impl From<Mark> for (u64, u64, u64) {
    fn from(mark: Mark) -> Self {
        (mark.time_ms, mark.offset, mark.position)
    }
}

/// All marks of a file, in the order of the stream; `[time, offset, position]` each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    format: u32,
    /// Never empty in an artifact of ours.
    #[serde(rename = "marks")]
    points: Vec<Mark>,
    #[serde(skip)]
    stride: usize,
    #[serde(skip)]
    skipped: usize,
}

/// Where the user wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Milliseconds since the epoch.
    Time(u64),
    /// A replication offset.
    Offset(u64),
}

/// Where a file is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// A position at which the file may certainly end, with its time and offset.
    pub(crate) mark: Mark,
    /// The last whole command outside a transaction up to this position is nearer still to what was asked for.
    pub(crate) scan_to: Option<u64>,
}

impl Until {
    /// A number is an offset; anything else must be a time.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(Self::Offset);
        }
        clock::parse_rfc3339(text).map(Self::Time)
    }
}

impl std::fmt::Display for Until {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(milliseconds) => formatter.write_str(&clock::rfc3339(*milliseconds)),
            Self::Offset(offset) => write!(formatter, "offset {offset}"),
        }
    }
}

impl Marks {
    /// Begins with the point of the snapshot.
    pub(crate) fn starting_with(first: Mark) -> Self {
        Self { format: FORMAT, points: vec![first], stride: 1, skipped: 0 }
    }

    /// Adds a point where the stream has moved; a long stream keeps fewer of them.
    pub(crate) fn push(&mut self, mark: Mark) {
        let last = self.last();
        if mark.offset == last.offset && mark.position == last.position {
            return;
        }
        self.skipped += 1;
        if self.skipped < self.stride {
            return;
        }
        self.skipped = 0;
        self.points.push(mark);
        if self.points.len() >= MAXIMUM_MARKS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// Adds the end of the stream, whatever was left out before.
    pub(crate) fn push_last(&mut self, mark: Mark) {
        if mark != self.last() {
            self.points.push(mark);
        }
    }

    /// The artifact's bytes.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self)
            .map_err(|error| Error::new(code::INTERNAL, format!("failed to write the marks: {error}")))
    }

    /// Reads an artifact, and checks what can be checked without the file.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, Error> {
        let marks: Self = serde_json::from_slice(json)
            .map_err(|error| Error::damaged(format!("failed to read {ARTIFACT}: {error}")))?;
        if marks.format > FORMAT {
            return Err(Error::refused(
                format!("{ARTIFACT} has format {}, this plugin knows format {FORMAT}", marks.format),
                "use a newer plugin redis-aof",
            ));
        }
        if marks.points.is_empty() {
            return Err(Error::damaged(format!("{ARTIFACT} holds no mark")));
        }
        let in_order = |pair: &[Mark]| matches!(pair, [a, b] if a.offset <= b.offset && a.position <= b.position);
        if !marks.points.windows(2).all(in_order) {
            return Err(Error::damaged(format!("{ARTIFACT} is not in the order of the stream")));
        }
        Ok(marks)
    }

    /// The point of the snapshot.
    pub(crate) fn first(&self) -> Mark {
        self.points.first().copied().unwrap_or(Mark { time_ms: 0, offset: 0, position: 0 })
    }

    /// The end of the stream.
    pub(crate) fn last(&self) -> Mark {
        self.points.last().copied().unwrap_or(Mark { time_ms: 0, offset: 0, position: 0 })
    }

    /// All of them.
    pub(crate) fn as_slice(&self) -> &[Mark] {
        &self.points
    }

    /// Where to cut. Refused outside what the file holds, for a snapshot alone is not what was asked for, and an end that comes too
    /// early would look like success.
    pub(crate) fn cut(&self, until: Until) -> Result<Cut, Error> {
        let (first, last) = (self.first(), self.last());
        let range = || {
            format!(
                "this backup reaches from {} (offset {}) to {} (offset {}): choose a point in it, or another backup",
                clock::rfc3339(first.time_ms),
                first.offset,
                clock::rfc3339(last.time_ms),
                last.offset
            )
        };
        let (before, after) = match until {
            Until::Time(time) => (time < first.time_ms, time > last.time_ms),
            Until::Offset(offset) => (offset < first.offset, offset > last.offset),
        };
        if before {
            let earliest = match until {
                Until::Time(_) => clock::rfc3339(first.time_ms),
                Until::Offset(_) => first.offset.to_string(),
            };
            return Err(Error::refused(
                format!("{until} is before this backup, the earliest possible is {earliest}"),
                range(),
            ));
        }
        if after {
            return Err(Error::refused(format!("{until} is after the end of this backup"), range()));
        }
        // Clocks may jump back: what follows the first mark after `until` is out, whatever its time.
        let later = |mark: &Mark| match until {
            Until::Time(time) => mark.time_ms > time,
            Until::Offset(offset) => mark.offset > offset,
        };
        let next = self.points.iter().position(later);
        let index = next.unwrap_or(self.points.len()).saturating_sub(1);
        let mark = self.points.get(index).copied().unwrap_or(first);
        let next = next.and_then(|next| self.points.get(next));
        if let (Until::Offset(offset), Some(next)) = (until, next)
            && next.position == mark.position
        {
            // Whatever came between the two was dropped: the mark holds everything up to the offset.
            return Ok(Cut { mark: Mark { offset, ..mark }, scan_to: None });
        }
        let scan_to = match (until, next) {
            // Between two marks offsets are exact where as many bytes came as were kept: nothing dropped, nothing rewritten.
            (Until::Offset(offset), Some(next))
                if offset > mark.offset && next.offset - mark.offset == next.position - mark.position =>
            {
                Some(mark.position + (offset - mark.offset))
            }
            _ => None,
        };
        Ok(Cut { mark, scan_to })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn mark(time_ms: u64, offset: u64, position: u64) -> Mark {
        Mark { time_ms, offset, position }
    }

    fn sample() -> Marks {
        let mut marks = Marks::starting_with(mark(1000, 50, 500));
        marks.push(mark(2000, 150, 600));
        marks.push(mark(3000, 150, 600));
        marks.push(mark(4000, 300, 700));
        marks.push_last(mark(5000, 300, 700));
        marks
    }

    #[rstest]
    #[case::at_the_first(Until::Time(1000), mark(1000, 50, 500), None)]
    #[case::between(Until::Time(3999), mark(2000, 150, 600), None)]
    #[case::at_the_last(Until::Time(5000), mark(5000, 300, 700), None)]
    #[case::offset_at_a_mark(Until::Offset(150), mark(2000, 150, 600), None)]
    #[case::offset_exact(Until::Offset(149), mark(1000, 50, 500), Some(599))]
    #[case::offset_where_bytes_were_dropped(Until::Offset(200), mark(2000, 150, 600), None)]
    #[case::offset_at_the_end(Until::Offset(300), mark(5000, 300, 700), None)]
    fn a_cut_is_the_last_mark_before_the_point(#[case] until: Until, #[case] at: Mark, #[case] scan_to: Option<u64>) {
        assert_eq!(sample().cut(until).unwrap(), Cut { mark: at, scan_to });
    }

    #[test]
    fn an_offset_in_a_dropped_stretch_is_reached_exactly() {
        let mut marks = sample();
        marks.push_last(mark(6000, 340, 700));
        let cut = marks.cut(Until::Offset(320)).unwrap();
        assert_eq!(cut, Cut { mark: mark(5000, 320, 700), scan_to: None });
    }

    #[rstest]
    #[case(Until::Time(999), "the earliest possible is 1970-01-01T00:00:01.000Z")]
    #[case(Until::Offset(49), "the earliest possible is 50")]
    #[case(Until::Time(5001), "after the end")]
    #[case(Until::Offset(301), "after the end")]
    fn a_point_outside_is_refused(#[case] until: Until, #[case] message: &str) {
        let error = sample().cut(until).unwrap_err();
        assert_eq!(error.code, code::REFUSED);
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.detail("help").is_some_and(|help| help.contains("(offset 50)")));
    }

    #[test]
    fn a_clock_that_jumps_back_never_restores_what_came_after_the_point() {
        let mut marks = Marks::starting_with(mark(1000, 1, 1));
        marks.push(mark(9000, 2, 2));
        marks.push(mark(2000, 3, 3));
        marks.push(mark(9500, 4, 4));
        assert_eq!(marks.cut(Until::Time(3000)).unwrap().mark, mark(1000, 1, 1));
    }

    #[test]
    fn marks_survive_their_json_and_stay_few() {
        let mut marks = Marks::starting_with(mark(0, 0, 0));
        for number in 1..200_000_u64 {
            marks.push(mark(number, number * 3, number * 2));
        }
        marks.push_last(mark(200_000, 600_000, 400_000));
        let json = marks.to_json().unwrap();
        assert!(json.len() < MAXIMUM_BYTES && marks.as_slice().len() < MAXIMUM_MARKS);
        let read = Marks::from_json(&json).unwrap();
        assert_eq!(read.as_slice(), marks.as_slice());
        assert_eq!((read.first(), read.last()), (mark(0, 0, 0), mark(200_000, 600_000, 400_000)));
    }

    #[rstest]
    #[case::empty(r#"{"format":1,"marks":[]}"#, code::DAMAGED)]
    #[case::order(r#"{"format":1,"marks":[[1,5,5],[2,4,6]]}"#, code::DAMAGED)]
    #[case::newer(r#"{"format":2,"marks":[[1,5,5]]}"#, code::REFUSED)]
    #[case::cut(r#"{"format":1,"marks":[[1,5"#, code::DAMAGED)]
    fn a_faulty_artifact_is_an_error(#[case] json: &str, #[case] expected: &str) {
        assert_eq!(Marks::from_json(json.as_bytes()).unwrap_err().code, expected);
    }

    proptest! {
        #[test]
        fn a_cut_never_lies_after_the_point(steps in proptest::collection::vec((0_u64..50, 0_u64..50, 0_u64..50), 1..40), at in 0_u64..2500) {
            let mut marks = Marks::starting_with(mark(1, 1, 1));
            let (mut time, mut offset, mut position) = (1, 1, 1);
            for (a, b, c) in steps {
                (time, offset, position) = (time + a, offset + b, position + c);
                marks.push(mark(time, offset, position));
            }
            if let Ok(cut) = marks.cut(Until::Time(at)) {
                prop_assert!(cut.mark.time_ms <= at);
            }
            if let Ok(cut) = marks.cut(Until::Offset(at)) {
                prop_assert!(cut.mark.offset <= at);
                prop_assert!(cut.scan_to.is_none_or(|end| end - cut.mark.position == at - cut.mark.offset));
            }
        }
    }
}
