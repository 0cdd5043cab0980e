//! Second stages of the way to storage: encryption, parts and their digests. Blocking code.

use std::io::{self, Write};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::digest::{self, Digest};
use super::encode::{Frame, PlainTotals, Tuning};
use super::error::PipelineError;
use super::failure::Failure;
use super::feed::FeedSender;
use super::keys::Recipients;
use super::part_table::Part;

/// What goes to storage next, in order.
pub(crate) enum Stored {
    /// Stored bytes.
    Chunk(Bytes),
    /// A part ends here; the digest of everything stored up to here.
    PartEnd(Sha256),
    /// The artifact is whole.
    End,
}

/// What was sealed.
pub(crate) struct Sealed {
    /// What was captured.
    pub(crate) plain: PlainTotals,
    /// Stored bytes.
    pub(crate) size: u64,
    /// SHA-256 of them.
    pub(crate) sha256: Digest,
    /// The parts.
    pub(crate) parts: Vec<Part>,
}

/// Takes frames, passes stored bytes on. `None`: given up, and the failure, if there was one, says why.
pub(crate) fn seal(
    artifact: &str,
    recipients: Option<&Recipients>,
    tuning: Tuning,
    mut input: mpsc::Receiver<Frame>,
    output: FeedSender,
    failure: &Failure,
) -> Option<Sealed> {
    let cutter = Cutter::new(tuning, output, recipients.is_none());
    let result = match recipients {
        None => seal_plain(&mut input, cutter),
        Some(recipients) => seal_encrypted(artifact, recipients, &mut input, cutter, failure),
    };
    match result {
        Ok(sealed) => Some(sealed),
        Err(Stop::Quietly) => None,
        Err(Stop::Failed(error)) => {
            failure.set(error);
            None
        }
    }
}

/// Why a stage stops before the end.
pub(crate) enum Stop {
    /// Another stage gave up, and has said why.
    Quietly,
    /// This.
    Failed(PipelineError),
}

fn next(input: &mut mpsc::Receiver<Frame>) -> Result<Frame, Stop> {
    input.blocking_recv().ok_or(Stop::Quietly)
}

fn compressed(result: tokio::sync::oneshot::Receiver<Result<Vec<u8>, PipelineError>>) -> Result<Vec<u8>, Stop> {
    match result.blocking_recv() {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Stop::Failed(error)),
        Err(_) => Err(Stop::Failed(PipelineError::Internal { stage: "compress" })),
    }
}

fn seal_plain(input: &mut mpsc::Receiver<Frame>, mut cutter: Cutter) -> Result<Sealed, Stop> {
    loop {
        match next(input)? {
            Frame::Plain(chunk, whole) => {
                let plain = chunk.len() as u64;
                cutter.whole = whole;
                cutter.push(chunk)?;
                cutter.frame_ends(plain)?;
            }
            Frame::Compressed(result, plain) => {
                let bytes = Bytes::from(compressed(result)?);
                cutter.whole.update(&bytes);
                let mut rest = bytes;
                while !rest.is_empty() {
                    let chunk = rest.split_to(rest.len().min(cutter.tuning.chunk));
                    cutter.push(chunk)?;
                }
                cutter.frame_ends(plain)?;
            }
            Frame::End(plain) => return cutter.end(plain),
        }
    }
}

fn seal_encrypted(
    artifact: &str,
    recipients: &Recipients,
    input: &mut mpsc::Receiver<Frame>,
    cutter: Cutter,
    failure: &Failure,
) -> Result<Sealed, Stop> {
    let encryptor = recipients.encryptor(artifact).map_err(Stop::Failed)?;
    // Writing into a cutter fails only when the stage behind it has stopped, or failed and said so.
    let stopped = |_: io::Error| Stop::Quietly;
    let mut writer = encryptor.wrap_output(EncryptedOutput::new(cutter, failure.clone())).map_err(stopped)?;
    loop {
        match next(input)? {
            Frame::Plain(chunk, _) => writer.write_all(&chunk).map_err(stopped)?,
            Frame::Compressed(result, _) => writer.write_all(&compressed(result)?).map_err(stopped)?,
            Frame::End(plain) => {
                let mut output = writer.finish().map_err(stopped)?;
                output.flush_pending().map_err(stopped)?;
                return output.cutter.end(plain);
            }
        }
    }
}

/// Collects what age writes into chunks that end where parts end.
struct EncryptedOutput {
    cutter: Cutter,
    pending: Vec<u8>,
    failure: Failure,
}

impl EncryptedOutput {
    fn new(cutter: Cutter, failure: Failure) -> Self {
        Self { cutter, pending: Vec::new(), failure }
    }

    fn room(&self) -> usize {
        let part_room = usize::try_from(self.cutter.part_room()).unwrap_or(usize::MAX);
        self.cutter.tuning.chunk.min(part_room)
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.pending));
        self.cutter.whole.update(&chunk);
        let pushed = self.cutter.push(chunk).and_then(|()| self.cutter.frame_ends(0));
        pushed.map_err(|stop| {
            if let Stop::Failed(error) = stop {
                self.failure.set(error);
            }
            io::Error::from(io::ErrorKind::BrokenPipe)
        })
    }
}

impl Write for EncryptedOutput {
    /// Always takes everything: the writer of age's header calls a short write an error.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut rest = data;
        while !rest.is_empty() {
            let room = self.room();
            if self.pending.capacity() == 0 {
                self.pending.reserve_exact(room);
            }
            let (now, later) = rest.split_at(rest.len().min(room.saturating_sub(self.pending.len())));
            self.pending.extend_from_slice(now);
            rest = later;
            if self.pending.len() >= room {
                self.flush_pending()?;
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts stored bytes into parts.
struct Cutter {
    tuning: Tuning,
    output: FeedSender,
    /// Whether a part decodes alone.
    independent: bool,
    whole: Sha256,
    part: Sha256,
    part_offset: u64,
    part_size: u64,
    plain_offset: u64,
    plain_size: u64,
    parts: Vec<Part>,
}

impl Cutter {
    fn new(tuning: Tuning, output: FeedSender, independent: bool) -> Self {
        Self {
            tuning,
            output,
            independent,
            whole: Sha256::new(),
            part: Sha256::new(),
            part_offset: 0,
            part_size: 0,
            plain_offset: 0,
            plain_size: 0,
            parts: Vec::new(),
        }
    }

    /// Bytes after which the part may end.
    fn part_room(&self) -> u64 {
        self.tuning.part.saturating_sub(self.part_size).max(1)
    }

    fn push(&mut self, chunk: Bytes) -> Result<(), Stop> {
        self.part.update(&chunk);
        self.part_size += chunk.len() as u64;
        self.output.send(Stored::Chunk(chunk))
    }

    /// A frame of so many plain bytes is complete: the part may end here.
    fn frame_ends(&mut self, plain: u64) -> Result<(), Stop> {
        self.plain_size += plain;
        if self.part_size >= self.tuning.part { self.part_ends() } else { Ok(()) }
    }

    fn part_ends(&mut self) -> Result<(), Stop> {
        self.parts.push(Part {
            offset: self.part_offset,
            size: self.part_size,
            sha256: digest::finish(std::mem::take(&mut self.part)),
            plain: self.independent.then_some((self.plain_offset, self.plain_size)),
        });
        self.part_offset += self.part_size;
        self.plain_offset += self.plain_size;
        self.part_size = 0;
        self.plain_size = 0;
        self.output.send(Stored::PartEnd(self.whole.clone()))
    }

    fn end(mut self, plain: PlainTotals) -> Result<Sealed, Stop> {
        if self.part_size > 0 {
            self.part_ends()?;
        }
        self.output.send(Stored::End)?;
        Ok(Sealed { plain, size: self.part_offset, sha256: digest::finish(self.whole), parts: self.parts })
    }
}
