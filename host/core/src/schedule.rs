//! Schedules: which instants a cron line names, in which zone, and what is to be done now. No clock: `now` is an argument.
//!
//! Day-light saving, by rule (tested by table, ADR 0010). A *fixed* time (the hour field leaves out at least one hour)
//! runs exactly once a day: where the local clock skips it, right after the gap; where the local clock repeats it, at the
//! first of the two. An *hourly* line (every hour matches) follows real hours: it runs in both halves of a repeated hour and
//! not at all in one that does not exist. Every slot is named by its UTC instant.
//!
//! `croner` finds the matching local times and nothing more: it is asked on the civil time line, where there are no zones. It
//! knows fixed and hourly jobs too, but counts `*/2` as hourly (doubled in an overlap, lost in a gap), and says OR where Vixie
//! says AND (`*/2` in one day field). Both are put right here.

mod decide;
mod jitter;
mod pattern;
mod zone;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};

pub use decide::{Concurrency, Decision, Fire, Observed, Rules, Run, SkipReason, decide};
pub use jitter::jitter;
use pattern::Pattern;

/// Why a schedule is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSchedule {
    /// Not five fields.
    #[error("a schedule has five fields (minute hour day-of-month month day-of-week), not {found}")]
    FieldCount {
        /// Fields found.
        found: usize,
    },
    /// An `@` form that does not exist here.
    #[error("`{given}` is unknown; there are {}", pattern::NICKNAMES_TEXT)]
    Nickname {
        /// As written.
        given: String,
    },
    /// A part of a field that means nothing.
    #[error("`{item}` in the {field} field: {rule}")]
    Field {
        /// Which field.
        field: &'static str,
        /// The part.
        item: String,
        /// What it breaks.
        rule: String,
    },
    /// A date that no year has.
    #[error("no year has a day that `{schedule}` names")]
    NeverRuns {
        /// As written.
        schedule: String,
    },
    /// A zone that IANA does not list.
    #[error("`{given}` is no time zone of the IANA list; write for example Europe/Berlin or Etc/UTC")]
    TimeZone {
        /// As written.
        given: String,
    },
    /// Longer than any schedule.
    #[error("a schedule has at most {} characters", pattern::MAX_LENGTH)]
    TooLong,
}

/// Characters that a child's name needs after the schedule's: `-YYYYMMDDhhmm`.
pub const CHILD_SUFFIX: usize = 13;

/// The slots of one schedule. Takes some 6 KiB: make one where it is needed and let it go.
#[derive(Clone, Debug)]
pub struct Schedule {
    pattern: Pattern,
    zone: TimeZone,
}

/// Some slots, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// At most as many as asked for.
    pub times: Vec<Timestamp>,
    /// Whether there are more.
    pub more: bool,
}

impl Schedule {
    /// Reads a schedule. `time_zone`: a name of the IANA list; `None` is UTC.
    pub fn parse(schedule: &str, time_zone: Option<&str>) -> Result<Self, InvalidSchedule> {
        let zone = match time_zone {
            Some(name) => zone::find(name)?,
            None => TimeZone::UTC,
        };
        Ok(Self { pattern: Pattern::parse(schedule)?, zone })
    }

    /// The first slot after `time`. `None` only at the end of the calendar.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        if self.pattern.is_hourly() { self.next_hourly(time) } else { self.next_fixed(time) }
    }

    /// The last slot that is not after `time`.
    pub fn last_at_or_before(&self, time: Timestamp) -> Option<Timestamp> {
        if self.pattern.is_hourly() { self.last_hourly(time) } else { self.last_fixed(time) }
    }

    /// The last slot before `time`.
    pub fn last_before(&self, time: Timestamp) -> Option<Timestamp> {
        self.last_at_or_before(time.checked_sub(SignedDuration::from_nanos(1)).ok()?)
    }

    /// The slots after `after` and not after `until`, at most `limit` of them, oldest first.
    pub fn slots(&self, after: Timestamp, until: Timestamp, limit: usize) -> Slots {
        let mut times = Vec::new();
        let mut last = after;
        while let Some(slot) = self.next_after(last).filter(|slot| *slot <= until) {
            if times.len() == limit {
                return Slots { times, more: true };
            }
            times.push(slot);
            last = slot;
        }
        Slots { times, more: false }
    }

    /// The first instant at which the local clock shows `civil` or later. Never falls where `civil` grows.
    fn first_showing(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            // With the offset of after, a time in the gap lies before the gap: what follows it is the gap.
            AmbiguousOffset::Gap { after, .. } => {
                let before_gap = after.to_timestamp(civil).ok()?;
                self.zone.following(before_gap).next().map(|transition| transition.timestamp())
            }
        }
    }

    fn next_fixed(&self, time: Timestamp) -> Option<Timestamp> {
        // What the clock shows now or showed before was first shown by now, so the search may begin here.
        let mut civil = self.zone.to_datetime(time);
        loop {
            // Ends: in an overlap a day of minutes at most lies between what the clock shows and what it has shown.
            civil = self.pattern.next_after(civil)?;
            let slot = self.first_showing(civil)?;
            if slot > time {
                return Some(slot);
            }
        }
    }

    fn last_fixed(&self, time: Timestamp) -> Option<Timestamp> {
        // The clock may have shown more than it shows now, if it was set back a short while ago.
        let shown = self.zone.to_datetime(time);
        let set_back = self.offset_change_before(time).filter(|(at, ..)| time.duration_since(*at).as_hours() < 48);
        let margin = set_back.map_or(0, |(_, before, after)| (before.seconds() - after.seconds()).max(0));
        let mut civil = shown.checked_add(Span::new().seconds(i64::from(margin))).ok()?;
        let mut inclusive = true;
        loop {
            civil = self.pattern.last_before(civil, inclusive)?;
            inclusive = false;
            let slot = self.first_showing(civil)?;
            if slot <= time {
                return Some(slot);
            }
        }
    }

    fn next_hourly(&self, time: Timestamp) -> Option<Timestamp> {
        let mut from = time;
        let mut inclusive = false;
        loop {
            // As long as the offset stays, local and real time run alike.
            let offset = self.zone.to_offset(from);
            let civil = self.pattern.next_from(offset.to_datetime(from), inclusive)?;
            let slot = offset.to_timestamp(civil).ok()?;
            match self.zone.following(from).next().map(|transition| transition.timestamp()) {
                Some(transition) if transition <= slot => (from, inclusive) = (transition, true),
                _ => return Some(slot),
            }
        }
    }

    fn last_hourly(&self, time: Timestamp) -> Option<Timestamp> {
        let nanosecond = SignedDuration::from_nanos(1);
        let mut until = time;
        loop {
            let offset = self.zone.to_offset(until);
            let civil = self.pattern.last_before(offset.to_datetime(until), true)?;
            let slot = offset.to_timestamp(civil).ok()?;
            let begin = self.zone.preceding(until.checked_add(nanosecond).ok()?).next();
            match begin.map(|transition| transition.timestamp()) {
                Some(begin) if slot < begin => until = begin.checked_sub(nanosecond).ok()?,
                _ => return Some(slot),
            }
        }
    }

    /// The last change of the clock at or before `time`: when, and the offsets on both sides.
    fn offset_change_before(&self, time: Timestamp) -> Option<(Timestamp, Offset, Offset)> {
        let nanosecond = SignedDuration::from_nanos(1);
        let at = self.zone.preceding(time.checked_add(nanosecond).ok()?).next()?.timestamp();
        Some((at, self.zone.to_offset(at.checked_sub(nanosecond).ok()?), self.zone.to_offset(at)))
    }
}

/// The name of the child of `slot`: the schedule's and the UTC minute, so that two operators can only make the same one.
pub fn child_name(schedule_name: &str, slot: Timestamp) -> String {
    let utc = TimeZone::UTC.to_datetime(slot);
    format!("{schedule_name}-{}", utc.strftime("%Y%m%d%H%M"))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
