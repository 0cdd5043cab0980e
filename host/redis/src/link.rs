//! A replication link over a socket: one task reads ahead into a bounded channel and acknowledges, the handle decodes.
//!
//! On a link with a command stream `ACK 0` goes out every second: the stream needs acknowledgements to start, and real
//! offsets would make `WAIT` count us and `FAILOVER` choose us (REDIS.md 2). A link for a snapshot alone sends none. Dropping the handle ends the task and closes the link.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::Replication;
use redkeep_core::stream::{CHUNK, MAX_READ, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::Node;
use crate::discovery::probe::Probe;
use crate::error::AccessError;
use crate::replication::handshake::{self, Agreement, Handshake, Request};
use crate::replication::snapshot::SnapshotDecoder;
use crate::replication::stream::{CommandStream, End, Step};
use crate::resp::encode_command;
use crate::transport::ByteStream;

/// Chunks read ahead of the consumer: enough to keep the socket busy, little enough to hold (2 MiB).
const READ_AHEAD: usize = 8;
/// How long bytes may wait for more behind them.
const GATHER: Duration = Duration::from_millis(1);
/// How long a question aside may take.
const ASIDE: Duration = Duration::from_secs(2);
/// As often as a replica acknowledges.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);
/// How long a server may be silent during the handshake: it waits for a running save, then forks.
const HANDSHAKE_SILENCE: Duration = Duration::from_secs(600);

/// Bytes of the link and when they arrived.
struct Arrival {
    data: Bytes,
    now_ms: u64,
}

/// A link with an agreement.
pub(crate) struct Link {
    agreement: Agreement,
    resumed: bool,
    shared: Arc<Mutex<Decoding>>,
    offset: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What the handle and its sources decode from, one at a time.
struct Decoding {
    address: String,
    arrivals: mpsc::Receiver<Result<Arrival, io::Error>>,
    /// What followed the agreement in the same read.
    first: Option<Arrival>,
    snapshot: Option<SnapshotDecoder>,
    commands: CommandStream,
    received: u64,
    /// For questions aside.
    node: Node,
    /// Acknowledgements asked for when the server was last asked whether it is shutting down, and when that was.
    asked: (u64, Option<Instant>),
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Connects, agrees, and begins to read ahead.
    pub(crate) async fn open(node: &Node, request: Request) -> Result<Self, AccessError> {
        let resumed = matches!(request, Request::Resume { .. });
        // A server that was asked for the snapshot alone closes its socket once the last byte is *written*; what then still
        // lies in its send queue is lost if an acknowledgement reaches the closed socket (the kernel answers with a reset).
        // Only a stream needs acknowledgements to begin.
        let acknowledges = !matches!(request, Request::Full { snapshot_only: true });
        let address = node.address.to_string();
        let (mut stream, already) = node.connect().await?.into_parts();
        let mut handshake = Handshake::new(request, &address, |command| node.name_of(command));
        handshake.push(&already);
        let mut buffer = BytesMut::with_capacity(4 << 10);
        let lost = |source| AccessError::Lost { act: "begin replication of", address: address.clone(), source };
        let (agreement, rest) = loop {
            match handshake.step()? {
                handshake::Step::Send(bytes) => {
                    stream.write_all(&bytes).await.map_err(lost)?;
                    stream.flush().await.map_err(lost)?;
                }
                handshake::Step::Receive => {
                    buffer.clear();
                    let read = tokio::time::timeout(HANDSHAKE_SILENCE, stream.read_buf(&mut buffer)).await;
                    match read.map_err(|_| lost(io::ErrorKind::TimedOut.into()))?.map_err(lost)? {
                        0 => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                        _ => handshake.push(&buffer),
                    }
                }
                handshake::Step::Agreed(agreement, rest) => break (agreement, rest),
            }
        };
        let (sender, arrivals) = mpsc::channel(READ_AHEAD);
        let (reader, writer) = tokio::io::split(stream);
        let mut acknowledgement = BytesMut::new();
        encode_command(&[node.name_of("REPLCONF"), "ACK".into(), "0".into()], &mut acknowledgement);
        let task = tokio::spawn(keep(reader, writer, sender, acknowledges.then(|| acknowledgement.freeze())));
        let offset = agreement.offset;
        let decoding = Decoding {
            address,
            arrivals,
            first: (!rest.is_empty()).then(|| Arrival { data: rest, now_ms: now_ms() }),
            snapshot: (!resumed).then(SnapshotDecoder::default),
            commands: CommandStream::new(offset),
            received: 0,
            node: node.clone(),
            asked: (0, None),
        };
        Ok(Self {
            agreement,
            resumed,
            shared: Arc::new(Mutex::new(decoding)),
            offset: Arc::new(AtomicU64::new(offset)),
            task,
        })
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads ahead, and acknowledges where there is something to acknowledge with, until the link ends or nobody listens.
async fn keep(
    reader: ReadHalf<Box<dyn ByteStream>>,
    writer: WriteHalf<Box<dyn ByteStream>>,
    sender: mpsc::Sender<Result<Arrival, io::Error>>,
    acknowledgement: Option<Bytes>,
) {
    tokio::select! {
        () = read_ahead(reader, &sender) => (),
        () = acknowledge(writer, acknowledgement) => (),
        // Nobody listens any more: the link is closed at once, traffic or not.
        () = sender.closed() => (),
    }
}

async fn read_ahead(mut reader: ReadHalf<Box<dyn ByteStream>>, sender: &mpsc::Sender<Result<Arrival, io::Error>>) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let first = reader.read_buf(&mut buffer).await;
        // Relative times count from the first byte of the chunk: never longer than the server meant by a chunk's time.
        let now_ms = now_ms();
        let end = match first {
            Ok(0) => Some(closed()),
            Err(error) => Some(error),
            Ok(_) => gather(&mut reader, &mut buffer).await,
        };
        if !buffer.is_empty() && sender.send(Ok(Arrival { data: buffer.freeze(), now_ms })).await.is_err() {
            return;
        }
        if let Some(end) = end {
            let _ = sender.send(Err(end)).await;
            return;
        }
    }
}

/// Lets more arrive behind the first bytes of a chunk. Redis sends 16 KiB at a time: taken one by one each would cost both
/// sides a wake-up, and the plugin a call. Returns how the link ended, if it did.
async fn gather(reader: &mut ReadHalf<Box<dyn ByteStream>>, buffer: &mut BytesMut) -> Option<io::Error> {
    if buffer.len() < CHUNK / 2 {
        tokio::time::sleep(GATHER).await;
    }
    while buffer.len() < buffer.capacity() {
        match reader.read_buf(buffer).now_or_never() {
            Some(Ok(0)) => return Some(closed()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(error),
            None => break,
        }
    }
    None
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the link")
}

/// Never returns: how a link ends is for the reader to find.
async fn acknowledge(mut writer: WriteHalf<Box<dyn ByteStream>>, acknowledgement: Option<Bytes>) {
    // The write half is kept either way: dropping it would close our side.
    let Some(acknowledgement) = acknowledgement else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(ACKNOWLEDGE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = match writer.write_all(&acknowledgement).await {
            Ok(()) => writer.flush().await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            // The server has closed its side, perhaps after the snapshot that it was asked for: what it sent before is
            // still to be read, and the reader will find the end.
            std::future::pending::<()>().await;
        }
    }
}

impl Decoding {
    async fn arrival(&mut self) -> Result<Arrival, MethodError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let source = match self.arrivals.recv().await {
            Some(Ok(arrival)) => return Ok(arrival),
            Some(Err(error)) => error,
            None => io::Error::new(io::ErrorKind::NotConnected, "the link was closed"),
        };
        Err(AccessError::Lost { act: "read the replication link of", address: self.address.clone(), source }.into())
    }

    /// A server that shuts down waits for its replicas up to `shutdown-timeout` (10 s), and for us in vain: we acknowledge
    /// nothing. It asks for acknowledgements then, as it does for `WAIT`; only its `INFO` tells the two apart (7.0+).
    async fn check_shutdown(&mut self) -> Result<(), MethodError> {
        let asked = self.commands.acknowledgements_asked();
        let recently = self.asked.1.is_some_and(|at| at.elapsed() < ACKNOWLEDGE_EVERY);
        if asked == self.asked.0 || recently {
            return Ok(());
        }
        self.asked = (asked, Some(Instant::now()));
        let Ok(Ok(probe)) = tokio::time::timeout(ASIDE, Probe::of(&self.node)).await else { return Ok(()) };
        if probe.get("shutdown_in_milliseconds").is_none() {
            return Ok(());
        }
        self.arrivals.close();
        let source = io::Error::new(io::ErrorKind::ConnectionAborted, "the server is shutting down");
        Err(AccessError::Lost { act: "read the replication link of", address: self.address.clone(), source }.into())
    }

    fn protocol(&self, why: String) -> MethodError {
        AccessError::Protocol { address: self.address.clone(), position: self.received, why }.into()
    }
}

#[async_trait]
impl Replication for Link {
    fn id(&self) -> String {
        self.agreement.id.clone()
    }

    fn start_offset(&self) -> u64 {
        self.agreement.offset
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Source>, MethodError> {
        if self.resumed {
            return Err(MethodError::new(code::NOT_FOUND, "failed to read a snapshot: a resumed link has none"));
        }
        let mut shared = Arc::clone(&self.shared).lock_owned().await;
        if shared.received > 0 || shared.snapshot.is_none() {
            return Err(MethodError::new(code::REFUSED, "failed to read the snapshot: it has been read already"));
        }
        // Its length, where the server says one, is known with the framing line.
        let mut ready = VecDeque::new();
        while !shared.snapshot.as_ref().is_some_and(SnapshotDecoder::has_begun) {
            shared.decode_snapshot(&mut ready).await?;
        }
        let size = shared.snapshot.as_ref().and_then(SnapshotDecoder::size);
        drop(shared);
        Ok(Box::new(SnapshotSource { shared: Arc::clone(&self.shared), ready, position: 0, size }))
    }

    async fn commands(&mut self, until: Option<u64>, within_ms: Option<u32>) -> Result<Box<dyn Source>, MethodError> {
        if self.shared.lock().await.snapshot.as_ref().is_some_and(|snapshot| !snapshot.has_ended()) {
            return Err(MethodError::new(
                code::REFUSED,
                "failed to read commands: the snapshot has not been read to its end",
            ));
        }
        let deadline = within_ms.map(|within| Instant::now() + Duration::from_millis(within.into()));
        Ok(Box::new(CommandSource {
            shared: Arc::clone(&self.shared),
            offset: Arc::clone(&self.offset),
            ready: Bytes::new(),
            position: 0,
            until,
            deadline,
            ended: false,
        }))
    }

    fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }
}

impl Decoding {
    /// Takes one arrival; RDB bytes join `ready`.
    async fn decode_snapshot(&mut self, ready: &mut VecDeque<Bytes>) -> Result<(), MethodError> {
        let arrival = self.arrival().await?;
        self.received += arrival.data.len() as u64;
        let mut out = Vec::new();
        let Some(decoder) = &mut self.snapshot else { return Ok(()) };
        match decoder.push(arrival.data, &mut out) {
            Ok(rest) => {
                ready.extend(out);
                if !rest.is_empty() {
                    self.commands.push(rest, arrival.now_ms);
                }
                Ok(())
            }
            Err(error) => Err(self.protocol(error.to_string())),
        }
    }
}

struct SnapshotSource {
    shared: Arc<Mutex<Decoding>>,
    ready: VecDeque<Bytes>,
    position: u64,
    size: Option<u64>,
}

#[async_trait]
impl Source for SnapshotSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        loop {
            if let Some(piece) = take(&mut self.ready, max) {
                self.position += piece.len() as u64;
                return Ok(piece);
            }
            let mut shared = self.shared.lock().await;
            if shared.snapshot.as_ref().is_none_or(SnapshotDecoder::has_ended) {
                return Ok(Bytes::new());
            }
            shared.decode_snapshot(&mut self.ready).await?;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn size(&self) -> Option<u64> {
        self.size
    }
}

fn take(ready: &mut VecDeque<Bytes>, max: usize) -> Option<Bytes> {
    let first = ready.front_mut()?;
    let max = max.clamp(1, MAX_READ);
    if first.len() > max { Some(first.split_to(max)) } else { ready.pop_front() }
}

struct CommandSource {
    shared: Arc<Mutex<Decoding>>,
    offset: Arc<AtomicU64>,
    ready: Bytes,
    position: u64,
    until: Option<u64>,
    deadline: Option<Instant>,
    ended: bool,
}

#[async_trait]
impl Source for CommandSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        let mut shared = self.shared.lock().await;
        while self.ready.is_empty() && !self.ended {
            let due = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            let step = shared.commands.step(End { until: self.until, now: due });
            match step.map_err(|error| shared.protocol(error.to_string()))? {
                Step::Data(data) => self.ready = data,
                Step::Boundary => self.ended = true,
                Step::Need => {
                    shared.check_shutdown().await?;
                    let arrival = match self.deadline.filter(|_| !due) {
                        // Cancelling the wait loses nothing: an arrival stays in the channel until it is taken.
                        Some(deadline) => match tokio::time::timeout_at(deadline, shared.arrival()).await {
                            Ok(arrival) => arrival?,
                            Err(_) => continue,
                        },
                        None => shared.arrival().await?,
                    };
                    shared.received += arrival.data.len() as u64;
                    shared.commands.push(arrival.data, arrival.now_ms);
                }
            }
        }
        let piece = self.ready.split_to(self.ready.len().min(max.clamp(1, MAX_READ)));
        // No further than what was handed out, so that its reader can tell where bytes were dropped: before a piece, never in it.
        let reached = shared.commands.offset().saturating_sub(self.ready.len() as u64);
        self.offset.fetch_max(reached, Ordering::AcqRel);
        self.position += piece.len() as u64;
        Ok(piece)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn size(&self) -> Option<u64> {
        None
    }
}
