//! Reads a backup whole: the snapshot with its checksum, every command boundary, and that marks and manifest say the truth.

use redkeep_sdk::{Error, Facts, Host};

use crate::capture;
use crate::content::Content;
use crate::marks::{Mark, Marks};
use crate::scanner::{Event, Scanner};
use crate::stored::{self, Form, Passing, Visitor};

/// "damaged", or the same facts that `capture` reported.
pub(crate) fn verify(host: &dyn Host) -> Result<Facts, Error> {
    let form = stored::form(host)?;
    let marks = match &form {
        Form::Stream { marks: Some(name), .. } => Some(stored::read_marks(host, name)?),
        _ => None,
    };
    let mut visitor = MarksVisitor { left: marks.as_ref().map(Marks::as_slice).unwrap_or_default(), fault: None };
    let walked = stored::walk(host, &form, "verify", &mut visitor)?;
    if let Some(mark) = visitor.fault.or(visitor.left.first().copied()) {
        return Err(Error::damaged(format!(
            "a mark says that a command ends at byte {} (offset {}), where none does",
            mark.position, mark.offset
        )));
    }
    let mut facts = Facts::new();
    if let Some(snapshot) = walked.first.as_ref().and_then(|content| content.snapshot()) {
        snapshot.facts(&mut facts);
    }
    walked.tally.facts(&mut facts);
    if let Some(marks) = &marks {
        let end = walked.first.as_ref().map_or(0, Content::position);
        if marks.last().position != end {
            return Err(Error::damaged(format!(
                "the marks end at byte {}, the stream at byte {end}",
                marks.last().position
            )));
        }
        capture::marks_facts(marks, &mut facts);
    }
    Ok(facts)
}

/// Checks that a file may end at each of its marks.
struct MarksVisitor<'marks> {
    left: &'marks [Mark],
    fault: Option<Mark>,
}

impl MarksVisitor<'_> {
    fn pass(&mut self, position: u64, safe: bool) {
        while let Some((mark, rest)) = self.left.split_first().filter(|(mark, _)| mark.position <= position) {
            if mark.position != position || !safe {
                self.fault.get_or_insert(*mark);
            }
            self.left = rest;
        }
    }
}

impl Visitor for MarksVisitor<'_> {
    fn event(&mut self, _index: usize, scanner: &Scanner, event: &Event<'_>) {
        let (Event::Command { end, .. } | Event::Annotation { end, .. }) = *event;
        self.pass(end, scanner.safe_position() == end);
    }

    fn end(&mut self, passing: &Passing<'_>) -> Result<(), Error> {
        // A stream without any command: its only marks stand at the end of the snapshot.
        self.pass(passing.content.position(), true);
        Ok(())
    }
}
