//! Second stages of the way to storage: encryption, parts and their digests. Blocking code.

use bytes::Bytes;
use redkeep_core::stream::CHUNK;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::digest::{self, Digest};
use super::encode::{Frame, PlainTotals, Tuning};
use super::error::PipelineError;
use super::failure::Failure;
use super::feed::FeedSender;
use super::keys::Recipients;
use super::part_table::Part;
use super::payload::{PLAIN, Payload, SEALED};

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
        Some(recipients) => seal_encrypted(artifact, recipients, &mut input, cutter),
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
) -> Result<Sealed, Stop> {
    let (header, payload) = recipients.begin(artifact).map_err(Stop::Failed)?;
    let mut sealing = Sealing { cutter, payload, pending: header, open: 0 };
    loop {
        match next(input)? {
            Frame::Plain(chunk, _) => sealing.take(&chunk)?,
            Frame::Compressed(result, _) => sealing.take(&compressed(result)?)?,
            Frame::End(plain) => return sealing.end()?.end(plain),
        }
    }
}

/// Gathers chunks of an age file, each sealed where it lies once it is full and more follows.
struct Sealing {
    cutter: Cutter,
    payload: Payload,
    /// Sealed bytes, and at their end those of the chunk that is open.
    pending: Vec<u8>,
    open: usize,
}

impl Sealing {
    fn take(&mut self, mut plain: &[u8]) -> Result<(), Stop> {
        while !plain.is_empty() {
            if self.open == PLAIN {
                self.seal(false)?;
            }
            let (now, later) = plain.split_at(plain.len().min(PLAIN - self.open));
            self.pending.extend_from_slice(now);
            self.open += now.len();
            plain = later;
        }
        Ok(())
    }

    /// The open chunk is whole.
    fn seal(&mut self, is_last: bool) -> Result<(), Stop> {
        const BATCH: usize = CHUNK / PLAIN * SEALED;
        let begin = self.pending.len() - self.open;
        let sealed = self.pending.get_mut(begin..).and_then(|plain| self.payload.seal(plain, is_last));
        let tag = sealed.ok_or(Stop::Failed(PipelineError::Internal { stage: "encrypt" }))?;
        self.pending.extend_from_slice(tag.as_ref());
        self.open = 0;
        if is_last || self.pending.len() >= BATCH {
            // The header, which comes with the first, is smaller than a chunk.
            let batch = std::mem::replace(&mut self.pending, Vec::with_capacity(if is_last { 0 } else { BATCH }));
            self.cutter.push_cut(Bytes::from(batch))?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Cutter, Stop> {
        self.seal(true)?;
        Ok(self.cutter)
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

    /// Bytes that end wherever a part does.
    fn push_cut(&mut self, mut bytes: Bytes) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let room = usize::try_from(self.part_room()).unwrap_or(usize::MAX);
            let piece = bytes.split_to(bytes.len().min(room));
            self.whole.update(&piece);
            self.push(piece)?;
            self.frame_ends(0)?;
        }
        Ok(())
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
