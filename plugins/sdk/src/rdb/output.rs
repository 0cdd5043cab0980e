//! Commands on their way to a sink, in pieces that the host takes in one call.

use crate::host::{Artifact, Sink};
use crate::{Error, resp};

/// Bytes gathered before they are written; the host copies at most 2 MiB in a call.
const PIECE: usize = 256 << 10;

pub(crate) struct Output {
    sink: Box<dyn Sink>,
    buffer: Vec<u8>,
    commands: u64,
}

impl Output {
    pub(crate) fn new(sink: Box<dyn Sink>) -> Self {
        Self { sink, buffer: Vec::with_capacity(2 * PIECE), commands: 0 }
    }

    /// One small command.
    pub(crate) fn command(&mut self, arguments: &[&[u8]]) -> Result<(), Error> {
        resp::command(&mut self.buffer, arguments);
        self.end_command()
    }

    /// The buffer, to append a command's small parts to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends bytes of any size.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer.len() + bytes.len() <= 2 * PIECE {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        let mut pieces = bytes.chunks(PIECE).peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                self.buffer.extend_from_slice(piece);
            } else {
                self.sink.write(piece)?;
            }
        }
        Ok(())
    }

    pub(crate) fn end_command(&mut self) -> Result<(), Error> {
        self.commands += 1;
        if self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        for piece in self.buffer.chunks(PIECE) {
            self.sink.write(piece)?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// How many commands were appended.
    pub(crate) fn commands(&self) -> u64 {
        self.commands
    }

    pub(crate) fn finish(mut self) -> Result<Artifact, Error> {
        self.flush()?;
        self.sink.finish(&[])
    }
}
