//! First stages of the way to storage: the digest of the plain bytes, and compression in frames. Blocking code.
//!
//! A channel that closes before its end was said means that the artifact was given up: every stage then stops quietly.

use std::sync::Arc;

use bytes::Bytes;
use redkeep_core::encoding::Compression;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::digest::{self, Digest};
use super::error::PipelineError;
use super::failure::Failure;
use super::frame::Compressor;

/// Sizes of the pipeline; other than usual only in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// Stored bytes after which a part is closed.
    pub(crate) part: u64,
    /// Plain bytes of a frame.
    pub(crate) frame: usize,
    /// Bytes that go from stage to stage at a time.
    pub(crate) chunk: usize,
    /// Frames compressed at a time.
    pub(crate) workers: usize,
}

/// Chunks that wait between two stages: with 256 KiB each, a mebibyte.
pub(crate) const QUEUE: usize = 4;
/// Stored bytes of a part: read, checked and held in memory as one.
const PART: u64 = 8 << 20;

impl Tuning {
    /// What is used outside tests.
    pub(crate) fn of(compression: Compression) -> Self {
        Self {
            part: PART,
            frame: super::frame::frame_size(compression),
            chunk: redkeep_core::stream::CHUNK,
            workers: super::frame::workers(compression),
        }
    }

    /// More than a part can have: it is closed at the first frame border after [`Tuning::part`].
    pub(crate) fn largest_part(&self) -> u64 {
        // Bytes that do not compress grow by less than a hundredth and a kibibyte.
        self.part + self.frame as u64 + self.frame as u64 / 100 + 1024
    }
}

/// What a sink sends.
pub(crate) enum Plain {
    /// Bytes.
    Chunk(Bytes),
    /// The artifact is whole.
    End,
}

/// What is sealed next, in order.
pub(crate) enum Frame {
    /// Bytes as captured, and the digest of everything up to their end.
    Plain(Bytes, Sha256),
    /// A frame that a worker is compressing, and its plain bytes.
    Compressed(oneshot::Receiver<Result<Vec<u8>, PipelineError>>, u64),
    /// The artifact is whole.
    End(PlainTotals),
}

/// What was captured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainTotals {
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 of them.
    pub(crate) sha256: Digest,
}

/// Takes plain bytes, passes frames on.
pub(crate) fn encode(
    artifact: &str,
    compression: Compression,
    tuning: Tuning,
    mut input: mpsc::Receiver<Plain>,
    output: mpsc::Sender<Frame>,
    runtime: &tokio::runtime::Handle,
    failure: &Failure,
) {
    let mut frames = Frames {
        artifact,
        compressor: Arc::new(Compressor::new(compression)),
        output,
        runtime: runtime.clone(),
        failure: failure.clone(),
        building: Vec::new(),
        frame: tuning.frame,
        sent: false,
    };
    let mut hasher = Sha256::new();
    let mut size = 0_u64;
    while let Some(message) = input.blocking_recv() {
        match message {
            Plain::Chunk(chunk) => {
                hasher.update(&chunk);
                size += chunk.len() as u64;
                let gone = match compression {
                    Compression::None => frames.output.blocking_send(Frame::Plain(chunk, hasher.clone())).is_err(),
                    _ => frames.push(&chunk).is_none(),
                };
                if gone {
                    return;
                }
            }
            Plain::End => {
                // A file without a frame is neither zstd nor gzip: the empty artifact has one, too.
                let rest = compression != Compression::None && (!frames.building.is_empty() || !frames.sent);
                if rest && frames.dispatch().is_none() {
                    return;
                }
                let totals = PlainTotals { size, sha256: digest::finish(hasher) };
                let _ = frames.output.blocking_send(Frame::End(totals));
                return;
            }
        }
    }
}

struct Frames<'a> {
    artifact: &'a str,
    compressor: Arc<Compressor>,
    output: mpsc::Sender<Frame>,
    runtime: tokio::runtime::Handle,
    failure: Failure,
    building: Vec<u8>,
    frame: usize,
    sent: bool,
}

impl Frames<'_> {
    fn push(&mut self, mut chunk: &[u8]) -> Option<()> {
        while !chunk.is_empty() {
            if self.building.capacity() == 0 {
                self.building.reserve_exact(self.frame);
            }
            let room = self.frame - self.building.len();
            let (now, later) = chunk.split_at(room.min(chunk.len()));
            self.building.extend_from_slice(now);
            chunk = later;
            if self.building.len() == self.frame {
                self.dispatch()?;
            }
        }
        Some(())
    }

    /// Hands the frame to a worker. Its place in the queue is taken first, so that no more are compressed than the queue holds.
    fn dispatch(&mut self) -> Option<()> {
        let plain = std::mem::take(&mut self.building);
        let (done, result) = oneshot::channel();
        self.output.blocking_send(Frame::Compressed(result, plain.len() as u64)).ok()?;
        self.sent = true;
        let compressor = Arc::clone(&self.compressor);
        let artifact = self.artifact.to_owned();
        let failure = self.failure.clone();
        self.runtime.spawn_blocking(move || {
            let result = compressor.compress(&plain).map_err(|source| PipelineError::Compress { artifact, source });
            drop(plain);
            if let Err(Err(error)) = done.send(result) {
                failure.set(error);
            }
        });
        Some(())
    }
}
