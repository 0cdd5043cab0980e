//! Finds the place at which a restore to a point stops: by marks, or by the `#TS:` lines of an archive.
//!
//! A point before the first known one is refused: what would be left is the bare snapshot, which `redis-check-aof
//! --truncate-to-timestamp` hands out with exit code 0 (REDIS.md 4).

use redkeep_sdk::{Error, Host};

use crate::clock;
use crate::manifest::{Kind, Manifest};
use crate::marks::{Cut, Until};
use crate::scanner::{Event, Scanner, annotation_time_ms};
use crate::stored::{self, Form, Passing, Visitor};

/// The end of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// The last file, in the order of loading.
    pub(super) index: usize,
    /// Bytes of it.
    pub(super) position: u64,
    /// The point reached, a time where one is known.
    pub(super) description: String,
    /// The replication offset reached, where known.
    pub(super) offset: Option<u64>,
}

impl End {
    /// Whether a command that ends there lies before the end; without one all do.
    pub(super) fn takes(end: Option<&Self>, index: usize, position: u64) -> bool {
        end.is_none_or(|end| (index, position) <= (end.index, end.position))
    }

    /// Whether more can come before the end behind that place.
    pub(super) fn goes_on(end: Option<&Self>, index: usize, position: u64) -> bool {
        end.is_none_or(|end| (index, position) < (end.index, end.position))
    }
}

/// Where to stop according to the marks; none where there are none.
pub(super) fn by_marks(host: &dyn Host, form: &Form, until: Until) -> Result<Option<Cut>, Error> {
    match form {
        Form::Stream { marks: Some(name), .. } => stored::read_marks(host, name)?.cut(until).map(Some),
        _ => match until {
            Until::Time(_) => Ok(None),
            Until::Offset(_) => Err(Error::refused(
                "this backup was made from files, which do not tell replication offsets",
                "give a time, if the server wrote timestamps (aof-timestamp-enabled yes), or restore without until",
            )),
        },
    }
}

/// Where to stop.
pub(super) fn find(host: &dyn Host, form: &Form, until: Until) -> Result<End, Error> {
    match (by_marks(host, form, until)?, until) {
        (Some(Cut { mark, scan_to: None }), _) => Ok(End {
            index: 0,
            position: mark.position,
            description: clock::rfc3339(mark.time_ms),
            offset: Some(mark.offset),
        }),
        (Some(Cut { mark, scan_to: Some(limit) }), _) => {
            let mut visitor = LimitVisitor { limit, safe: mark.position };
            stored::walk(host, form, "locate", &mut visitor)?;
            let offset = mark.offset + (visitor.safe - mark.position);
            Ok(End { index: 0, position: visitor.safe, description: format!("offset {offset}"), offset: Some(offset) })
        }
        (None, Until::Time(time)) => {
            let mut visitor = AnnotationVisitor { until: time, ..AnnotationVisitor::default() };
            stored::walk(host, form, "locate", &mut visitor)?;
            visitor.into_end()
        }
        (None, Until::Offset(_)) => Err(Error::refused("this backup does not tell replication offsets", "give a time")),
    }
}

/// The last safe position up to a limit.
struct LimitVisitor {
    limit: u64,
    safe: u64,
}

impl Visitor for LimitVisitor {
    fn event(&mut self, _index: usize, scanner: &Scanner, _event: &Event<'_>) {
        if scanner.safe_position() <= self.limit {
            self.safe = self.safe.max(scanner.safe_position());
        }
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<bool, Error> {
        Ok(passing.content.position() < self.limit)
    }
}

/// The place before the first `#TS:` line that is later than the point.
#[derive(Default)]
struct AnnotationVisitor {
    until: u64,
    base_files: usize,
    first: Option<u64>,
    reached: Option<u64>,
    cut: Option<(usize, u64)>,
    end: (usize, u64),
}

impl Visitor for AnnotationVisitor {
    fn manifest(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.base_files = manifest.loaded().filter(|file| file.kind == Kind::Base).count();
        Ok(())
    }

    fn event(&mut self, index: usize, scanner: &Scanner, event: &Event<'_>) {
        let Event::Annotation { text, start, end } = *event else { return };
        let Some(time) = annotation_time_ms(text) else { return };
        if self.cut.is_some() {
            return;
        }
        self.first.get_or_insert(time);
        if time > self.until {
            // Inside a transaction the cut lies before its MULTI.
            let outside = scanner.safe_position() == end;
            self.cut = Some((index, if outside { start } else { scanner.safe_position() }));
        } else {
            self.reached = Some(time);
        }
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<bool, Error> {
        self.end = (passing.index, passing.content.position());
        Ok(self.cut.is_none())
    }
}

impl AnnotationVisitor {
    fn into_end(self) -> Result<End, Error> {
        let Some(first) = self.first else {
            return Err(Error::refused(
                "this backup holds neither marks nor timestamps, so no time can be found in it",
                "restore without until; backups by replication hold marks, backups from files hold timestamps where the server \
                 runs with aof-timestamp-enabled yes",
            ));
        };
        let (index, position) = self.cut.unwrap_or(self.end);
        let in_base = self.cut.is_some() && index < self.base_files;
        let Some(reached) = self.reached.filter(|_| !in_base) else {
            return Err(Error::refused(
                format!(
                    "{} is before the first timestamp of this backup, the earliest possible is {}",
                    clock::rfc3339(self.until),
                    clock::rfc3339(first)
                ),
                "choose a later time, or an older backup",
            ));
        };
        Ok(End { index, position, description: clock::rfc3339(reached), offset: None })
    }
}
