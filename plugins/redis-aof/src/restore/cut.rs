//! Finds the place at which a restore to a point stops: by marks, or by the `#TS:` lines of an archive.
//!
//! A point before the first known one is refused: what would be left is the bare snapshot, which `redis-check-aof
//! --truncate-to-timestamp` hands out with exit code 0 (REDIS.md 4).

use redkeep_sdk::{Error, Host};

use crate::clock;
use crate::content::Content;
use crate::manifest::{Kind, Manifest};
use crate::marks::{Cut, Until};
use crate::scanner::{Event, Scanner, annotation_time_ms};
use crate::snapshot::Wanted;
use crate::stored::{self, Form, Passing, Place, Visitor};

/// The end of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// What is restored ends there.
    pub(super) place: Place,
    /// The point reached, a time where one is known.
    pub(super) description: String,
    /// The replication offset reached, where known.
    pub(super) offset: Option<u64>,
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
            place: Place { index: 0, position: mark.position },
            description: clock::rfc3339(mark.time_ms),
            offset: Some(mark.offset),
        }),
        (Some(Cut { mark, scan_to: Some(limit) }), _) => {
            let limit = Place { index: 0, position: limit };
            let walked = stored::walk_up_to(host, form, "locate", &mut Onlooker, Wanted::Facts, Some(limit))?;
            let safe = walked.first.as_ref().map_or(Ok(0), Content::safe_position)?;
            let position = safe.max(mark.position);
            let offset = mark.offset + (position - mark.position);
            Ok(End {
                place: Place { index: 0, position },
                description: format!("offset {offset}"),
                offset: Some(offset),
            })
        }
        (None, Until::Time(time)) => {
            let mut visitor = AnnotationVisitor { until: time, ..AnnotationVisitor::default() };
            stored::walk(host, form, "locate", &mut visitor)?;
            visitor.into_end()
        }
        (None, Until::Offset(_)) => Err(Error::refused("this backup does not tell replication offsets", "give a time")),
    }
}

struct Onlooker;

impl Visitor for Onlooker {}

/// The place before the first `#TS:` line that is later than the point.
#[derive(Default)]
struct AnnotationVisitor {
    until: u64,
    base_files: usize,
    first: Option<u64>,
    reached: Option<u64>,
    cut: Option<Place>,
    end: Option<Place>,
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
            let position = if outside { start } else { scanner.safe_position() };
            self.cut = Some(Place { index, position });
        } else {
            self.reached = Some(time);
        }
    }

    fn chunk(&mut self, passing: &Passing<'_>, _bytes: &[u8]) -> Result<(), Error> {
        self.end = Some(Place { index: passing.index, position: passing.content.position() });
        Ok(())
    }

    fn has_enough(&self) -> bool {
        self.cut.is_some()
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
        let in_base = self.cut.is_some_and(|cut| cut.index < self.base_files);
        let place = self.cut.or(self.end);
        let Some((reached, place)) = self.reached.filter(|_| !in_base).zip(place) else {
            return Err(Error::refused(
                format!(
                    "{} is before the first timestamp of this backup, the earliest possible is {}",
                    clock::rfc3339(self.until),
                    clock::rfc3339(first)
                ),
                "choose a later time, or an older backup",
            ));
        };
        Ok(End { place, description: clock::rfc3339(reached), offset: None })
    }
}
