//! Between sealing and uploading: a short queue in memory, or a spool file that takes everything at once.
//!
//! The spool file has no name: it is gone with its process, even one that was killed.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::Sha256;
use tokio::sync::mpsc;

use super::encode::QUEUE;
use super::error::PipelineError;
use super::seal::{Stop, Stored};

/// The end that sealing writes into.
pub(crate) enum FeedSender {
    /// Waits while storage is slower.
    Queue(mpsc::Sender<Stored>),
    /// Waits for the disk only.
    Spool(SpoolWriter),
}

/// The end that uploading reads from.
pub(crate) enum FeedReceiver {
    /// See [`FeedSender::Queue`].
    Queue(mpsc::Receiver<Stored>),
    /// See [`FeedSender::Spool`].
    Spool(SpoolReader),
}

/// What is whole in the spool.
enum Spooled {
    Part(u64, Sha256),
    End,
}

/// Appends to the spool file.
pub(crate) struct SpoolWriter {
    artifact: String,
    directory: PathBuf,
    file: Arc<File>,
    part: u64,
    whole: mpsc::UnboundedSender<Spooled>,
}

/// Reads the parts that are whole.
pub(crate) struct SpoolReader {
    artifact: String,
    directory: PathBuf,
    file: Arc<File>,
    chunk: usize,
    offset: u64,
    left: u64,
    part_end: Option<Sha256>,
    whole: mpsc::UnboundedReceiver<Spooled>,
}

/// A queue in memory.
pub(crate) fn queue() -> (FeedSender, FeedReceiver, mpsc::WeakSender<Stored>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let observer = sender.downgrade();
    (FeedSender::Queue(sender), FeedReceiver::Queue(receiver), observer)
}

/// A spool file in `directory`.
pub(crate) fn spool(
    artifact: &str,
    directory: &Path,
    chunk: usize,
) -> Result<(FeedSender, FeedReceiver), PipelineError> {
    Ok(spool_in(spool_file(artifact, directory)?, artifact, directory, chunk))
}

fn spool_file(artifact: &str, directory: &Path) -> Result<File, PipelineError> {
    tempfile::tempfile_in(directory).map_err(|source| PipelineError::Spool {
        act: "create",
        artifact: artifact.to_owned(),
        directory: directory.to_owned(),
        source,
    })
}

/// Whether `directory` takes a spool file and a byte in it, before anything is captured.
pub(crate) fn try_spool(directory: &Path) -> Result<(), PipelineError> {
    use std::io::Write as _;
    let artifact = "a first try";
    let mut file = spool_file(artifact, directory)?;
    file.write_all(b"redkeep").map_err(|source| PipelineError::Spool {
        act: "write to",
        artifact: artifact.to_owned(),
        directory: directory.to_owned(),
        source,
    })
}

/// The same in a file that is open already.
fn spool_in(file: File, artifact: &str, directory: &Path, chunk: usize) -> (FeedSender, FeedReceiver) {
    let file = Arc::new(file);
    let (sender, receiver) = mpsc::unbounded_channel();
    let writer = SpoolWriter {
        artifact: artifact.to_owned(),
        directory: directory.to_owned(),
        file: Arc::clone(&file),
        part: 0,
        whole: sender,
    };
    let reader = SpoolReader {
        artifact: artifact.to_owned(),
        directory: directory.to_owned(),
        file,
        chunk,
        offset: 0,
        left: 0,
        part_end: None,
        whole: receiver,
    };
    (FeedSender::Spool(writer), FeedReceiver::Spool(reader))
}

impl FeedSender {
    /// Passes on; blocking.
    pub(crate) fn send(&mut self, stored: Stored) -> Result<(), Stop> {
        match self {
            Self::Queue(queue) => queue.blocking_send(stored).map_err(|_| Stop::Quietly),
            Self::Spool(spool) => spool.send(stored),
        }
    }
}

impl SpoolWriter {
    fn send(&mut self, stored: Stored) -> Result<(), Stop> {
        let spooled = match stored {
            Stored::Chunk(chunk) => {
                (&*self.file).write_all(&chunk).map_err(|source| {
                    Stop::Failed(PipelineError::Spool {
                        act: "write",
                        artifact: self.artifact.clone(),
                        directory: self.directory.clone(),
                        source,
                    })
                })?;
                self.part += chunk.len() as u64;
                // Storage that has failed meanwhile need not be filled for.
                return if self.whole.is_closed() { Err(Stop::Quietly) } else { Ok(()) };
            }
            Stored::PartEnd(whole) => Spooled::Part(std::mem::take(&mut self.part), whole),
            Stored::End => Spooled::End,
        };
        self.whole.send(spooled).map_err(|_| Stop::Quietly)
    }
}

impl FeedReceiver {
    /// The next of it; `None`: given up before the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Stored>, PipelineError> {
        match self {
            Self::Queue(queue) => Ok(queue.recv().await),
            Self::Spool(spool) => spool.next().await,
        }
    }
}

impl SpoolReader {
    async fn next(&mut self) -> Result<Option<Stored>, PipelineError> {
        if self.left == 0 {
            if let Some(whole) = self.part_end.take() {
                return Ok(Some(Stored::PartEnd(whole)));
            }
            match self.whole.recv().await {
                Some(Spooled::Part(size, whole)) => {
                    self.left = size;
                    self.part_end = Some(whole);
                }
                Some(Spooled::End) => return Ok(Some(Stored::End)),
                None => return Ok(None),
            }
        }
        let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.chunk);
        let file = Arc::clone(&self.file);
        let offset = self.offset;
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; size];
            file.read_exact_at(&mut chunk, offset).map(|()| chunk)
        });
        let chunk = read.await.map_err(|_| PipelineError::Internal { stage: "spool" })?;
        let chunk = chunk.map_err(|source| PipelineError::Spool {
            act: "read",
            artifact: self.artifact.clone(),
            directory: self.directory.clone(),
            source,
        })?;
        self.offset += size as u64;
        self.left -= size as u64;
        Ok(Some(Stored::Chunk(Bytes::from(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Recipients;
    use crate::pipeline::encode::{Frame, Tuning};
    use crate::pipeline::failure::Failure;
    use redkeep_core::Classify as _;
    use redkeep_core::encoding::Compression;
    use redkeep_core::secret::Secret;

    #[tokio::test]
    async fn a_spool_without_space_is_a_clear_error() {
        for recipients in [None, Recipients::parse(&[], Some(&Secret::new("x"))).unwrap()] {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let (sender, _receiver) = spool_in(full, "dump.rdb", Path::new("/spool"), 1000);
            let (frames, input) = mpsc::channel(2);
            let chunk = Bytes::from(vec![0; 500_000]);
            frames.send(Frame::Plain(chunk, Sha256::default())).await.unwrap();
            drop(frames);
            let failure = Failure::default();
            let noted = failure.clone();
            let sealed = tokio::task::spawn_blocking(move || {
                let recipients = recipients.map(|recipients| recipients.with_work_factor(1));
                let tuning = Tuning::of(Compression::None);
                crate::pipeline::seal::seal("dump.rdb", recipients.as_ref(), tuning, input, sender, &noted)
            });
            assert!(sealed.await.unwrap().is_none());
            let error = failure.get().unwrap();
            assert_eq!(error.reason(), "SpoolFailed");
            assert!(error.chain().contains("/spool") && error.chain().contains("No space left"), "{}", error.chain());
            assert!(error.help().unwrap().contains("free space"));
        }
    }
}
