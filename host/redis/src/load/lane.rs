//! One target server of a load: a task that writes what it is given and counts replies at the same time.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use redkeep_core::stream::CHUNK;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::replies::{ReplyCounter, Special, Tally};
use crate::connection::Connection;
use crate::transport::ByteStream;

/// Chunks between the sink and the socket.
const QUEUE: usize = 4;

/// How far a lane has come.
#[derive(Clone, Debug, Default)]
struct Progress {
    replies: u64,
    tally: Tally,
    /// Commands that were sent when the first error stopped the sending: those after them never are.
    cut: Option<u64>,
    /// Why no more replies will come.
    ended: Option<String>,
}

/// A lane.
pub(crate) struct Lane {
    /// Bytes, and how many commands have ended with them.
    sender: mpsc::Sender<(Bytes, u64)>,
    progress: watch::Receiver<Progress>,
    specials: Arc<Mutex<VecDeque<(u64, Special)>>>,
    batch: BytesMut,
    given: u64,
    task: JoinHandle<()>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lane {
    pub(crate) fn new(connection: Connection, tolerated: Vec<String>) -> Self {
        let (stream, _) = connection.into_parts();
        Self::over(stream, tolerated)
    }

    fn over(stream: Box<dyn ByteStream>, tolerated: Vec<String>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (sender, chunks) = mpsc::channel(QUEUE);
        let (publish, progress) = watch::channel(Progress::default());
        let specials: Arc<Mutex<VecDeque<_>>> = Arc::default();
        let task = tokio::spawn(run(reader, writer, chunks, publish, Arc::clone(&specials), tolerated));
        Self { sender, progress, specials, batch: BytesMut::new(), given: 0, task }
    }

    /// Says what the next command's reply is.
    pub(crate) fn expect(&self, special: Special) {
        self.specials.lock().unwrap_or_else(PoisonError::into_inner).push_back((self.given, special));
    }

    /// Gives bytes with which so many commands end; small ones gather first. False: the lane has ended.
    pub(crate) async fn give(&mut self, bytes: Bytes, commands: u64) -> bool {
        if bytes.len() < CHUNK / 4 {
            self.given += commands;
            self.batch.extend_from_slice(&bytes);
            return self.batch.len() < CHUNK || self.flush().await;
        }
        if !self.flush().await {
            return false;
        }
        // What goes before them must not count them: cut off behind it, their replies would be waited for for ever.
        self.given += commands;
        self.sender.send((bytes, self.given)).await.is_ok()
    }

    /// Gives a copy; the same.
    pub(crate) async fn give_slice(&mut self, bytes: &[u8], commands: u64) -> bool {
        self.given += commands;
        self.batch.extend_from_slice(bytes);
        self.batch.len() < CHUNK || self.flush().await
    }

    /// Sends what has gathered.
    pub(crate) async fn flush(&mut self) -> bool {
        self.batch.is_empty() || self.sender.send((self.batch.split().freeze(), self.given)).await.is_ok()
    }

    /// Waits until every command given has its reply, or after an error every one that was sent; false: the lane ended before.
    pub(crate) async fn settle(&mut self) -> bool {
        let flushed = self.flush().await;
        let given = self.given;
        let is_answered = |progress: &Progress| progress.replies >= given.min(progress.cut.unwrap_or(u64::MAX));
        let progress = self.progress.wait_for(|progress| is_answered(progress) || progress.ended.is_some()).await;
        flushed && progress.is_ok_and(|progress| is_answered(&progress))
    }

    /// Whether something went wrong that no option tolerates.
    pub(crate) fn has_failed(&self) -> bool {
        let progress = self.progress.borrow();
        progress.tally.fatal.is_some() || progress.ended.is_some()
    }

    /// What became of the commands so far.
    pub(crate) fn tally(&self) -> Tally {
        self.progress.borrow().tally.clone()
    }

    /// Why no more replies will come.
    pub(crate) fn ended(&self) -> Option<String> {
        self.progress.borrow().ended.clone()
    }
}

async fn run(
    reader: ReadHalf<Box<dyn ByteStream>>,
    writer: WriteHalf<Box<dyn ByteStream>>,
    chunks: mpsc::Receiver<(Bytes, u64)>,
    publish: watch::Sender<Progress>,
    specials: Arc<Mutex<VecDeque<(u64, Special)>>>,
    tolerated: Vec<String>,
) {
    let mut counter = ReplyCounter::new(tolerated);
    let ended = tokio::select! {
        ended = count(reader, &mut counter, &publish, &specials) => ended,
        () = write(writer, chunks, &publish) => return,
    };
    publish.send_modify(|progress| progress.ended = Some(ended));
}

/// Counts until the connection ends; returns how it ended.
async fn count(
    mut reader: ReadHalf<Box<dyn ByteStream>>,
    counter: &mut ReplyCounter,
    publish: &watch::Sender<Progress>,
    specials: &Mutex<VecDeque<(u64, Special)>>,
) -> String {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.clear();
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return "the server closed the connection".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let outcome = counter.push(&buffer, &mut specials.lock().unwrap_or_else(PoisonError::into_inner));
        publish.send_modify(|progress| {
            progress.replies = counter.replies();
            progress.tally.clone_from(&counter.tally);
        });
        if let Err(error) = outcome {
            return error.to_string();
        }
    }
}

/// Writes until nothing more is given, or an error has come that ends the load. A write that fails is left to the reader, which
/// finds the reason.
async fn write(
    mut writer: WriteHalf<Box<dyn ByteStream>>,
    mut chunks: mpsc::Receiver<(Bytes, u64)>,
    publish: &watch::Sender<Progress>,
) {
    let mut failed: Option<io::Error> = None;
    let mut sent = 0;
    while let Some((chunk, given)) = chunks.recv().await {
        if publish.borrow().tally.fatal.is_some() {
            publish.send_modify(|progress| progress.cut = progress.cut.or(Some(sent)));
            continue;
        }
        sent = given;
        if failed.is_none() {
            failed = async {
                writer.write_all(&chunk).await?;
                writer.flush().await
            }
            .await
            .err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_was_not_sent_after_an_error_is_not_waited_for() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (mut reads, mut says) = tokio::io::split(theirs);
        let mut lane = Lane::over(Box::new(ours), Vec::new());
        assert!(lane.give(Bytes::from(vec![b'a'; 1024]), 1).await);
        assert!(lane.give(Bytes::from(vec![b'b'; CHUNK]), 1).await);
        // The first chunk is half written, for nobody reads on, when its answer comes.
        reads.read_exact(&mut [0; 10]).await.unwrap();
        says.write_all(b"-OOM command not allowed\r\n").await.unwrap();
        let mut progress = lane.progress.clone();
        progress.wait_for(|progress| progress.tally.fatal.is_some()).await.unwrap();
        let heard = tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = reads.read_to_end(&mut all).await;
            all.len()
        });
        let settled = tokio::time::timeout(Duration::from_secs(10), lane.settle()).await;
        assert!(settled.expect("it waits for the reply of what it never sent"));
        drop(lane);
        assert_eq!(heard.await.unwrap(), 1014);
    }
}
