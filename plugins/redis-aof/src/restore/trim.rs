//! Which bytes of a chunk are wanted: no `#` lines where the target does not take them.

use crate::scanner::Event;
use crate::stored::Passing;

/// Decides chunk by chunk; tell it every event first.
pub(super) struct Trim {
    strips_annotations: bool,
    /// Annotations that ended in the coming chunk.
    annotations: Vec<(u64, u64)>,
    commands: u64,
}

impl Trim {
    pub(super) fn new(strips_annotations: bool) -> Self {
        Self { strips_annotations, annotations: Vec::new(), commands: 0 }
    }

    /// Commands so far.
    pub(super) fn commands(&self) -> u64 {
        self.commands
    }

    pub(super) fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Command { .. } => self.commands += 1,
            Event::Annotation { start, end, .. } if self.strips_annotations => self.annotations.push((start, end)),
            Event::Annotation { .. } => {}
        }
    }

    /// The wanted pieces of a chunk, each with its position.
    pub(super) fn pieces<'bytes>(&mut self, passing: &Passing<'_>, bytes: &'bytes [u8]) -> Vec<(u64, &'bytes [u8])> {
        let chunk_end = passing.content.position();
        let chunk_start = chunk_end - bytes.len() as u64;
        if self.strips_annotations
            && let Some(start) = passing.content.open_annotation()
        {
            self.annotations.push((start, u64::MAX));
        }
        let mut pieces = Vec::new();
        let mut from = chunk_start;
        let mut keep = |from: u64, to: u64| {
            let to = to.min(chunk_end);
            if from < to {
                let range = |position: u64| usize::try_from(position - chunk_start).unwrap_or(usize::MAX);
                pieces.push((from, bytes.get(range(from)..range(to)).unwrap_or_default()));
            }
        };
        for (start, end) in self.annotations.drain(..) {
            keep(from, start.max(from));
            from = end.min(chunk_end).max(from);
        }
        keep(from, chunk_end);
        pieces
    }
}
