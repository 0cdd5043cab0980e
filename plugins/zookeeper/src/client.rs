//! One session over the host's connection: requests are pipelined, answers come in their order.

use std::collections::VecDeque;

use redkeep_sdk::{Attribute, CHUNK, Connection, Error, Host, Level, code};

use crate::jute::{Frames, JuteError, frame};
use crate::protocol::{self, MAX_FRAME, ReplyHeader, Request};

/// A server that says nothing for so long is gone, in milliseconds.
const SILENCE_MS: u32 = 60_000;
/// Requests are sent together once they are so many bytes, or when an answer is waited for.
const BATCH: usize = 64 << 10;

/// A session.
pub(crate) struct Client {
    connection: Box<dyn Connection>,
    frames: Frames,
    outgoing: Vec<u8>,
    asked: VecDeque<i32>,
    xid: i32,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) zxid: i64,
    /// Nought is none.
    pub(crate) error: i32,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body, where the server did what it was asked; `act` says what that was.
    pub(crate) fn expect(self, act: &str) -> Result<Vec<u8>, Error> {
        match self.error {
            0 => Ok(self.body),
            error => Err(refusal(error, act)),
        }
    }
}

/// The server's error, in words.
pub(crate) fn refusal(error: i32, act: &str) -> Error {
    let message = format!("failed to {act}: {} ({error})", protocol::error_name(error));
    let failed = Error::new(code::SERVER_REPLY, message);
    if error != protocol::NO_AUTH {
        return failed;
    }
    failed.with_help("log in as a user who may do this: tcp://USER@HOST:PORT?login=zookeeper-digest with a password")
}

/// What is no ZooKeeper protocol.
pub(crate) fn strange(error: JuteError) -> Error {
    Error::new(code::SERVER_REPLY, format!("the server does not speak as ZooKeeper does: {error}"))
        .with_help("is it the client port of a ZooKeeper server, and tls:// where it wants TLS?")
}

impl Client {
    /// A new session.
    pub(crate) fn connect(host: &dyn Host) -> Result<Self, Error> {
        let mut client = Self {
            connection: host.socket().connect()?,
            frames: Frames::new(MAX_FRAME),
            outgoing: Vec::new(),
            asked: VecDeque::new(),
            xid: 0,
        };
        frame(&mut client.outgoing, protocol::write_connect);
        client.flush()?;
        let timeout = client.next(protocol::read_connected)?;
        host.log(Level::Debug, "a session was opened", &[Attribute::new("timeout-ms", timeout)]);
        Ok(client)
    }

    /// Asks; the answer is [`Self::receive`]d after those of what was asked before.
    pub(crate) fn send(&mut self, request: &Request<'_>) -> Result<(), Error> {
        self.xid = if self.xid == i32::MAX { 1 } else { self.xid + 1 };
        let xid = self.xid;
        frame(&mut self.outgoing, |writer| request.write(xid, writer));
        self.asked.push_back(xid);
        if self.outgoing.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// The answer to the oldest request that has none.
    pub(crate) fn receive(&mut self) -> Result<Reply, Error> {
        self.flush()?;
        let expected = self.asked.pop_front();
        loop {
            let read = |frame: &[u8]| protocol::read_reply(frame).map(|(header, body)| (header, body.to_vec()));
            let (header, body): (ReplyHeader, Vec<u8>) = self.next(read)?;
            if header.is_unasked() {
                continue;
            }
            if Some(header.xid) != expected {
                return Err(strange(JuteError("an answer came out of its turn")));
            }
            return Ok(Reply { zxid: header.zxid, error: header.error, body });
        }
    }

    /// Asks and waits.
    pub(crate) fn ask(&mut self, request: &Request<'_>) -> Result<Reply, Error> {
        self.send(request)?;
        self.receive()
    }

    /// Ends the session, so that the server need not wait for its timeout.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        self.ask(&Request::CloseSession).map(drop)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.outgoing.is_empty() {
            // The host takes at most 2 MiB in one call.
            for part in self.outgoing.chunks(1 << 20) {
                self.connection.write(part)?;
            }
            self.outgoing.clear();
        }
        Ok(())
    }

    /// The next frame, read by `read`.
    fn next<T>(&mut self, read: impl Fn(&[u8]) -> Result<T, JuteError>) -> Result<T, Error> {
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(strange)? {
                return read(frame).map_err(strange);
            }
            let bytes = self.connection.read(CHUNK, Some(SILENCE_MS))?;
            if bytes.is_empty() {
                let message = "the server closed the connection before it had answered";
                return Err(Error::new(code::SOURCE_IO, message).retryable());
            }
            self.frames.push(&bytes);
        }
    }
}
