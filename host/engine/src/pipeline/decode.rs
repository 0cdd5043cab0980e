//! From checked parts back to plain bytes: decryption, decompression, and the last digest, each in a thread of its own.
//!
//! A channel that closes before its end was said means that a stage failed (the failure says why) or that nobody reads on.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use redkeep_core::encoding::Compression;
use redkeep_core::manifest::ArtifactRecord;
use redkeep_core::storage::ReadStorage;
use redkeep_core::stream::CHUNK;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::digest;
use super::error::PipelineError;
use super::failure::Failure;
use super::fetch::{self, Piece, READ_AHEAD};
use super::frame;
use super::keys::Keys;
use super::payload;
use super::unpack::Unpacker;

/// Bytes that go from stage to stage at a time.
const BATCH: usize = 1 << 20;
/// How many such wait between two stages.
const BATCHES: usize = 1;

/// What goes from stage to stage.
pub(crate) enum Decoded {
    /// Bytes.
    Chunks(Vec<Bytes>),
    /// Everything was passed on.
    End,
}

/// Plain bytes of one artifact, being decoded.
pub(crate) struct Decoding {
    pub(crate) plain: mpsc::Receiver<Decoded>,
    pub(crate) failure: Failure,
    /// Stops when this is dropped; the stages behind it follow.
    _fetching: AbortOnDropHandle<()>,
}

/// What a stage needs to know of the artifact.
struct Stage {
    artifact: String,
    failure: Failure,
}

/// Starts decoding. `needed` names the keys that open the artifact.
pub(crate) fn start(
    storage: Arc<dyn ReadStorage>,
    record: &ArtifactRecord,
    pieces: Vec<Piece>,
    keys: Arc<Keys>,
    needed: String,
) -> Decoding {
    let failure = Failure::default();
    let stage = || Stage { artifact: record.name.to_string(), failure: failure.clone() };

    let (fetched, mut chunks) = mpsc::channel(1);
    let fetching = tokio::spawn(fetch_all(storage, stage(), pieces, fetched));

    if record.encrypted {
        let (output, decrypted) = mpsc::channel(BATCHES);
        let (input, stage) = (std::mem::replace(&mut chunks, decrypted), stage());
        tokio::task::spawn_blocking(move || stage.decrypt(&keys, &needed, input, &output));
    }
    if record.compression != Compression::None {
        let (output, decompressed) = mpsc::channel(BATCHES);
        let (input, stage) = (std::mem::replace(&mut chunks, decompressed), stage());
        let compression = record.compression;
        tokio::task::spawn_blocking(move || stage.decompress(compression, input, &output));
    }
    let (output, plain) = mpsc::channel(BATCHES);
    let (last, size, sha256) = (stage(), record.size, record.sha256.clone());
    tokio::task::spawn_blocking(move || last.check(size, &sha256, chunks, &output));
    Decoding { plain, failure, _fetching: AbortOnDropHandle::new(fetching) }
}

/// Opens the age header that begins with these bytes, and nothing more.
pub(crate) fn try_keys(artifact: &str, keys: &Keys, needed: &str, head: &[Bytes]) -> Result<(), PipelineError> {
    keys.open(artifact, needed, &mut io::Cursor::new(head.concat())).map(drop)
}

async fn fetch_all(storage: Arc<dyn ReadStorage>, stage: Stage, pieces: Vec<Piece>, output: mpsc::Sender<Decoded>) {
    let artifact = stage.artifact;
    let fetches = pieces.into_iter().map(|piece| fetch::fetching(Arc::clone(&storage), artifact.clone(), piece));
    let mut parts = futures::stream::iter(fetches).buffered(READ_AHEAD);
    // A place in the queue first: a part that waits for one outside would be one more in memory.
    while let Ok(place) = output.reserve().await {
        match parts.next().await {
            Some(Ok(chunks)) => place.send(Decoded::Chunks(chunks)),
            Some(Err(error)) => return stage.failure.set(error),
            None => return place.send(Decoded::End),
        }
    }
}

impl Stage {
    fn decrypt(&self, keys: &Keys, needed: &str, input: mpsc::Receiver<Decoded>, output: &mpsc::Sender<Decoded>) {
        let mut input = Input::new(input);
        let mut payload = match keys.open(&self.artifact, needed, &mut input) {
            Ok(payload) => payload,
            // Where reading the header failed because the part could not be fetched, that was said before, and first.
            Err(error) => return self.failure.set(error),
        };
        let fault = |why: &dyn std::fmt::Display| {
            let what = format!("it does not decrypt to what was encrypted: {why}");
            self.failure.set(PipelineError::damaged(&self.artifact, what));
        };
        loop {
            let (mut sealed, at_end) = match read_chunks(&mut input) {
                Ok(read) => read,
                Err(error) => return fault(&error),
            };
            let plain = match payload.open(&mut sealed, at_end) {
                Ok(plain) => plain,
                Err(why) => return fault(&why),
            };
            let sealed = Bytes::from(sealed);
            let chunks = plain.into_iter().filter(|range| !range.is_empty()).map(|range| sealed.slice(range)).collect();
            if output.blocking_send(Decoded::Chunks(chunks)).is_err() {
                return;
            }
            if at_end {
                let _ = output.blocking_send(Decoded::End);
                return;
            }
        }
    }

    fn decompress(&self, compression: Compression, input: mpsc::Receiver<Decoded>, output: &mpsc::Sender<Decoded>) {
        let input = Input::new(input);
        let result = match compression {
            Compression::None => return self.failure.set(PipelineError::Internal { stage: "decompress" }),
            Compression::Gzip(_) => {
                let mut reader = frame::gunzip(input);
                pump(output, || Ok(Some(read_chunk(&mut reader)?).filter(|chunk| !chunk.is_empty())))
            }
            Compression::Zstd(_) => {
                Unpacker::new(input).and_then(|mut unpacker| pump(output, || Ok(unpacker.next()?.map(Bytes::from))))
            }
        };
        if let Err(error) = result {
            // The stored bytes were right: they were made of something else. Or the stage before has failed, and said so.
            let what = format!("it does not decompress to what was compressed: {error}");
            self.failure.set(PipelineError::damaged(&self.artifact, what));
        }
    }

    /// Passes on what is right so far; the end only when size and digest are. No more than `size` bytes ever pass.
    fn check(&self, size: u64, sha256: &str, mut input: mpsc::Receiver<Decoded>, output: &mpsc::Sender<Decoded>) {
        let damaged = |what: String| self.failure.set(PipelineError::damaged(&self.artifact, what));
        let mut hasher = Sha256::new();
        let mut read = 0_u64;
        while let Some(decoded) = input.blocking_recv() {
            match decoded {
                Decoded::Chunks(chunks) => {
                    let mut batch = Batch::new(output);
                    for chunk in chunks {
                        read += chunk.len() as u64;
                        if read > size {
                            return damaged(format!("it holds more than the {size} bytes that were captured"));
                        }
                        hasher.update(&chunk);
                        if batch.push(chunk).is_none() {
                            return;
                        }
                    }
                    if batch.flush().is_none() {
                        return;
                    }
                }
                Decoded::End => {
                    if read < size {
                        return damaged(format!("it holds {read} of the {size} bytes that were captured"));
                    }
                    if digest::from_hex(sha256) != Some(digest::finish(hasher)) {
                        return damaged("it does not hold what was captured: the digest is another".to_owned());
                    }
                    let _ = output.blocking_send(Decoded::End);
                    return;
                }
            }
        }
    }
}

/// Passes on what `next` gives until there is no more. An error is its.
fn pump(output: &mpsc::Sender<Decoded>, mut next: impl FnMut() -> io::Result<Option<Bytes>>) -> io::Result<()> {
    while let Some(mut bytes) = next()? {
        let mut batch = Batch::new(output);
        while !bytes.is_empty() {
            if batch.push(bytes.split_to(bytes.len().min(CHUNK))).is_none() {
                return Ok(());
            }
        }
        if batch.flush().is_none() {
            return Ok(());
        }
    }
    let _ = output.blocking_send(Decoded::End);
    Ok(())
}

/// Chunks that go to the next stage together: waking it for each costs more than some of them hold.
struct Batch<'a> {
    output: &'a mpsc::Sender<Decoded>,
    chunks: Vec<Bytes>,
    size: usize,
}

impl<'a> Batch<'a> {
    fn new(output: &'a mpsc::Sender<Decoded>) -> Self {
        Self { output, chunks: Vec::new(), size: 0 }
    }

    /// `None`: nobody reads on.
    fn push(&mut self, chunk: Bytes) -> Option<()> {
        self.size += chunk.len();
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
        if self.size >= BATCH { self.flush() } else { Some(()) }
    }

    fn flush(&mut self) -> Option<()> {
        self.size = 0;
        if self.chunks.is_empty() {
            return Some(());
        }
        self.output.blocking_send(Decoded::Chunks(std::mem::take(&mut self.chunks))).ok()
    }
}

/// Sealed chunks of an age file, as many as make a [`BATCH`], and whether they are the last.
fn read_chunks(input: &mut Input) -> io::Result<(Vec<u8>, bool)> {
    const MOST: usize = BATCH / payload::PLAIN * payload::SEALED;
    let mut sealed = Vec::with_capacity(MOST);
    loop {
        let filled = input.fill_buf()?;
        if filled.is_empty() || sealed.len() == MOST {
            let at_end = filled.is_empty();
            return Ok((sealed, at_end));
        }
        let taken = filled.len().min(MOST - sealed.len());
        sealed.extend_from_slice(filled.get(..taken).unwrap_or_default());
        input.consume(taken);
    }
}

/// As many bytes as there are, up to a chunk; none only at the end.
fn read_chunk(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let mut length = 0;
    while let Some(rest) = chunk.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(length);
    Ok(Bytes::from(chunk))
}

/// A stage's input as a reader; blocking.
struct Input {
    receiver: mpsc::Receiver<Decoded>,
    chunks: std::vec::IntoIter<Bytes>,
    current: Bytes,
    ended: bool,
}

impl Input {
    fn new(receiver: mpsc::Receiver<Decoded>) -> Self {
        Self { receiver, chunks: Vec::new().into_iter(), current: Bytes::new(), ended: false }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            if let Some(chunk) = self.chunks.next() {
                self.current = chunk;
                continue;
            }
            match self.receiver.blocking_recv() {
                Some(Decoded::Chunks(chunks)) => self.chunks = chunks.into_iter(),
                Some(Decoded::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stage before stopped")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current = self.current.split_off(amount.min(self.current.len()));
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let length = available.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}
