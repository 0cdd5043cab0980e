//! A source read in large chunks and handed out in the sizes that are asked for.

use redkeep_sdk::{CHUNK, Error, Source};

/// A source with a buffer of one chunk.
pub(crate) struct Reader {
    source: Box<dyn Source>,
    buffer: Vec<u8>,
    start: usize,
    position: u64,
}

impl Reader {
    /// Reads from the source's present position, which counts as 0.
    pub(crate) fn new(source: Box<dyn Source>) -> Self {
        Self { source, buffer: Vec::new(), start: 0, position: 0 }
    }

    /// Bytes handed out so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at most `max` of them; empty at the end (or for 0).
    pub(crate) fn chunk(&mut self, max: u64) -> Result<&[u8], Error> {
        if max == 0 {
            return Ok(&[]);
        }
        if self.start == self.buffer.len() {
            self.buffer = self.source.read(CHUNK)?;
            self.start = 0;
        }
        let available = self.buffer.len() - self.start;
        let taken = usize::try_from(max).unwrap_or(usize::MAX).min(available);
        let begin = self.start;
        self.start += taken;
        self.position += taken as u64;
        Ok(self.buffer.get(begin..self.start).unwrap_or_default())
    }

    /// What comes next, not handed out yet; empty only at the end.
    pub(crate) fn peek(&mut self) -> Result<&[u8], Error> {
        if self.start == self.buffer.len() {
            self.buffer = self.source.read(CHUNK)?;
            self.start = 0;
        }
        Ok(self.buffer.get(self.start..).unwrap_or_default())
    }

    /// Fills `bytes`, or says how many there were before the end.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < bytes.len() {
            let room = bytes.get_mut(filled..).unwrap_or_default();
            let chunk = self.chunk(room.len() as u64)?;
            if chunk.is_empty() {
                break;
            }
            room.get_mut(..chunk.len()).unwrap_or_default().copy_from_slice(chunk);
            filled += chunk.len();
        }
        Ok(filled)
    }

    /// Everything to the end; an error above `maximum` bytes.
    pub(crate) fn all(&mut self, maximum: usize, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        loop {
            let chunk = self.chunk(u64::MAX)?;
            if chunk.is_empty() {
                return Ok(bytes);
            }
            if bytes.len() + chunk.len() > maximum {
                return Err(Error::damaged(format!("{name} has more than {maximum} bytes")));
            }
            bytes.extend_from_slice(chunk);
        }
    }
}
