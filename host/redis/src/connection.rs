//! One connection to one server: requests and their replies as the exact RESP2 bytes.
//!
//! The first reply decides whether the peer is Redis at all; later failures are lost connections.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redkeep_core::secret::Secret;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use crate::endpoint::Address;
use crate::error::AccessError;
use crate::resp::{self, ReplyScanner, Value};
use crate::transport::{ByteStream, Transport, tls_help};

/// How long the first reply may take: a peer that is not Redis may wait for ever for the end of a request.
const FIRST_REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest reply that is taken apart. `COMMAND` of Redis 8.2 has 64 KiB; `CLUSTER NODES` some 200 bytes a node.
const MAX_PARSED: usize = 4 << 20;
/// How much is read at once.
const READ_SIZE: usize = 64 << 10;

/// Who we are to a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
}

/// One server and all that is needed to connect to it as often as wanted.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) transport: Transport,
    pub(crate) login: Login,
    /// Renamed commands: upper-case name to the name that the server knows.
    pub(crate) renamed: Arc<BTreeMap<String, String>>,
}

impl Node {
    /// Another server of the same deployment.
    pub(crate) fn at(&self, address: Address) -> Self {
        Self { address, ..self.clone() }
    }

    /// The name under which the server knows `command`.
    pub(crate) fn name_of(&self, command: &str) -> Bytes {
        let renamed = self.renamed.get(&command.to_ascii_uppercase());
        Bytes::copy_from_slice(renamed.map_or(command, String::as_str).as_bytes())
    }

    /// Connects and logs in.
    pub(crate) async fn connect(&self) -> Result<Connection, AccessError> {
        let stream = self.transport.connect(&self.address).await?;
        let mut connection = Connection {
            stream,
            buffer: BytesMut::new(),
            address: self.address.to_string(),
            fresh: true,
            broken: false,
        };
        if let Some(password) = &self.login.password {
            let mut command = vec![self.name_of("AUTH")];
            command.extend(self.login.username.as_ref().map(|user| Bytes::copy_from_slice(user.as_bytes())));
            command.push(Bytes::copy_from_slice(password.expose().as_bytes()));
            connection.call_named("AUTH", &command).await?;
        }
        Ok(connection)
    }
}

/// A connected, authenticated server.
pub(crate) struct Connection {
    stream: Box<dyn ByteStream>,
    buffer: BytesMut,
    address: String,
    /// No reply has come yet.
    fresh: bool,
    /// Replies can no longer be matched to requests.
    broken: bool,
}

impl Connection {
    /// Runs one command; an error reply is an error.
    pub(crate) async fn call(&mut self, arguments: &[&str]) -> Result<Value, AccessError> {
        let name = arguments.first().copied().unwrap_or_default();
        self.call_named(name, arguments).await
    }

    /// The same, where the name sent is not the name to show.
    pub(crate) async fn call_named<A: AsRef<[u8]>>(
        &mut self,
        name: &str,
        arguments: &[A],
    ) -> Result<Value, AccessError> {
        let mut request = BytesMut::new();
        resp::encode_command(arguments, &mut request);
        self.send(&request).await?;
        let reply = self.reply(MAX_PARSED).await?;
        if let Some(text) = reply.strip_prefix(b"-") {
            return Err(AccessError::from_reply(&self.address, name, String::from_utf8_lossy(text).trim_end()));
        }
        resp::parse(&reply).map_err(|error| self.protocol(&error.to_string()))
    }

    /// Sends requests as they are.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<(), AccessError> {
        if self.broken {
            return Err(self.lost(io::Error::from(io::ErrorKind::NotConnected)));
        }
        self.broken = true;
        let sent = match self.stream.write_all(request).await {
            Ok(()) => self.stream.flush().await,
            Err(error) => Err(error),
        };
        self.broken = false;
        sent.map_err(|error| self.lost(error))
    }

    /// One whole reply of at most `limit` bytes.
    pub(crate) async fn reply(&mut self, limit: usize) -> Result<Bytes, AccessError> {
        // Dropped half-way, the next reply would be taken for another's.
        self.broken = true;
        let mut scanner = ReplyScanner::default();
        let mut length = 0;
        loop {
            let (taken, ended) = scanner
                .push(self.buffer.get(length..).unwrap_or_default())
                .map_err(|error| self.protocol(&error.to_string()))?;
            length += taken;
            if ended {
                self.broken = false;
                self.fresh = false;
                let reply = self.buffer.split_to(length).freeze();
                return if length > limit { Err(self.too_large(limit)) } else { Ok(reply) };
            }
            if length > limit {
                return Err(self.too_large(limit));
            }
            self.fill().await?;
        }
    }

    fn too_large(&self, limit: usize) -> AccessError {
        AccessError::Refused {
            reason: "ReplyTooLarge",
            why: format!("failed to read a reply of {}: it is longer than {limit} bytes", self.address),
            help: "ask for less, or use pipeline, whose replies may have any size".to_owned(),
        }
    }

    /// Bytes as they arrive: for streamed replies. Empty never.
    pub(crate) async fn chunk(&mut self) -> Result<BytesMut, AccessError> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split())
    }

    /// Streamed replies have been read to their end.
    pub(crate) fn replied(&mut self) {
        self.fresh = false;
    }

    /// Puts back what belongs to the next reply.
    pub(crate) fn unread(&mut self, rest: BytesMut) {
        debug_assert!(self.buffer.is_empty());
        self.buffer = rest;
    }

    async fn fill(&mut self) -> Result<(), AccessError> {
        self.buffer.reserve(READ_SIZE);
        let read = if self.fresh {
            let read = self.stream.read_buf(&mut self.buffer);
            match tokio::time::timeout(FIRST_REPLY_TIMEOUT, read).await {
                Ok(read) => read,
                Err(_) => {
                    return Err(AccessError::NotRedis {
                        address: self.address.clone(),
                        why: "no reply within 15 seconds".to_owned(),
                    });
                }
            }
        } else {
            self.stream.read_buf(&mut self.buffer).await
        };
        match read {
            Ok(0) => Err(self.lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Whether the server has closed the connection meanwhile (`timeout`, a restart).
    pub(crate) fn is_stale(&mut self) -> bool {
        if self.broken {
            return true;
        }
        if !self.buffer.is_empty() {
            return false;
        }
        let mut byte = [0_u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        // Nothing is due, so anything but "not yet" is the end.
        !matches!(Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer), Poll::Pending)
    }

    /// Gives up requests and replies: what remains is the stream and what has been read of it.
    pub(crate) fn into_parts(self) -> (Box<dyn ByteStream>, BytesMut) {
        (self.stream, self.buffer)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn protocol(&self, why: &str) -> AccessError {
        let why = match self.buffer.first() {
            Some(0x15 | 0x16) => "it answered with a TLS record".to_owned(),
            Some(_) if self.fresh => {
                let begin: String =
                    String::from_utf8_lossy(self.buffer.get(..24.min(self.buffer.len())).unwrap_or_default())
                        .escape_debug()
                        .collect();
                format!("it does not answer as Redis does but with `{begin}`")
            }
            _ => why.to_owned(),
        };
        if self.fresh {
            AccessError::NotRedis { address: self.address.clone(), why }
        } else {
            AccessError::Protocol { address: self.address.clone(), position: 0, why }
        }
    }

    fn lost(&self, source: io::Error) -> AccessError {
        // A server that wants a client certificate says so only after the handshake (TLS 1.3).
        if source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some() {
            return AccessError::Tls { address: self.address.clone(), help: tls_help(&source), source };
        }
        if self.fresh {
            let why = format!("it closed the connection without an answer ({source})");
            return AccessError::NotRedis { address: self.address.clone(), why };
        }
        AccessError::Lost { act: "talk to", address: self.address.clone(), source }
    }
}
