//! One server as plugins see it: `INFO`, commands, pipelines, replication links, bulk loads.
//!
//! All commands share one connection, so `SELECT` holds. A connection that the server closed while it was idle is opened
//! again with the same database; one that broke inside a reply is never reused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{Command, RedisServer, Replication};
use redkeep_core::stream::{MAX_READ, Sink, Source};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::connection::{Connection, Node};
use crate::error::AccessError;
use crate::link::Link;
use crate::load;
use crate::replication::handshake::Request;
use crate::resp::{ReplyScanner, encode_command};

/// Longest reply that `command` returns.
const MAX_REPLY: usize = 1 << 20;
/// Redis accepts one pipelined request of up to 1 GiB; ours are small, and held whole.
const MAX_PIPELINE: usize = 16 << 20;

/// One server.
pub(crate) struct Server {
    node: Node,
    session: Arc<Mutex<Session>>,
    /// A pipeline's replies are being read.
    streaming: Arc<AtomicBool>,
}

/// The shared connection and what must survive a reconnect.
#[derive(Default)]
pub(crate) struct Session {
    connection: Option<Connection>,
    database: Option<Bytes>,
}

impl Server {
    /// Commands will go to this node; nothing is connected yet.
    pub(crate) fn new(node: Node) -> Self {
        Self { node, session: Arc::default(), streaming: Arc::default() }
    }

    /// The session, connected. A pipeline whose replies were not read to the end holds it.
    async fn session(&self) -> Result<OwnedMutexGuard<Session>, MethodError> {
        // Waiting for the lock would be waiting for the caller itself.
        if self.streaming.load(Ordering::Acquire) {
            return Err(MethodError::new(
                code::REFUSED,
                "failed to send a command: the replies of the pipeline before it have not been read to their end",
            ));
        }
        let mut session = Arc::clone(&self.session).lock_owned().await;
        if session.connection.as_mut().is_some_and(Connection::is_stale) {
            session.connection = None;
        }
        if session.connection.is_none() {
            let mut connection = self.node.connect().await?;
            if let Some(database) = &session.database {
                let select = [self.node.name_of("SELECT"), database.clone()];
                connection.call_named("SELECT", &select).await?;
            }
            session.connection = Some(connection);
        }
        Ok(session)
    }

    fn encode(&self, command: &Command, out: &mut BytesMut) -> Result<(), MethodError> {
        let Some((name, arguments)) = command.split_first() else {
            return Err(MethodError::new(code::REFUSED, "failed to send a command: it has no name"));
        };
        let mut renamed = vec![self.node.name_of(&String::from_utf8_lossy(name))];
        renamed.extend_from_slice(arguments);
        encode_command(&renamed, out);
        Ok(())
    }
}

impl Session {
    fn connection(&mut self) -> Result<&mut Connection, MethodError> {
        self.connection
            .as_mut()
            .ok_or_else(|| MethodError::new(code::INTERNAL, "failed to use a connection: it is closed"))
    }

    fn remember(&mut self, command: &Command) {
        if let [name, database] = command.as_slice()
            && name.eq_ignore_ascii_case(b"SELECT")
        {
            self.database = Some(database.clone());
        }
    }
}

#[async_trait]
impl RedisServer for Server {
    async fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        let mut command = vec![Bytes::from_static(b"INFO")];
        command.extend(section.map(|section| Bytes::copy_from_slice(section.as_bytes())));
        let reply = self.command(command).await?;
        Ok(parse_info(&String::from_utf8_lossy(&reply)))
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        let mut request = BytesMut::new();
        self.encode(&command, &mut request)?;
        let mut session = self.session().await?;
        let connection = session.connection()?;
        connection.send(&request).await?;
        let reply = connection.reply(MAX_REPLY).await?;
        if let Some(text) = reply.strip_prefix(b"-") {
            let name = command.first().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
            let text = String::from_utf8_lossy(text).trim_end().to_owned();
            // The contract promises the server's own words as the message.
            let error: MethodError = AccessError::from_reply(connection.address(), &name, &text).into();
            return Err(MethodError { code: code::SERVER_REPLY.to_owned(), message: text, ..error });
        }
        session.remember(&command);
        Ok(reply)
    }

    async fn pipeline(&self, commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        let mut request = BytesMut::new();
        for command in &commands {
            self.encode(command, &mut request)?;
            if request.len() > MAX_PIPELINE {
                return Err(MethodError::new(code::LIMIT, "failed to send a pipeline: it is longer than 16 MiB"));
            }
        }
        let mut session = self.session().await?;
        for command in &commands {
            session.remember(command);
        }
        let replies_left = commands.len();
        self.streaming.store(replies_left > 0, Ordering::Release);
        Ok(Box::new(PipelineSource {
            session: (replies_left > 0).then_some(session),
            streaming: Arc::clone(&self.streaming),
            request: Some(request),
            scanner: ReplyScanner::default(),
            replies_left,
            ready: Bytes::new(),
            position: 0,
        }))
    }

    async fn replicate(&self, snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError> {
        Ok(Box::new(Link::open(&self.node, Request::Full { snapshot_only }).await?))
    }

    async fn resume(&self, id: &str, offset: u64) -> Result<Box<dyn Replication>, MethodError> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(MethodError::new(code::NOT_FOUND, format!("failed to resume: `{id}` is no replication id")));
        }
        Ok(Box::new(Link::open(&self.node, Request::Resume { id: id.to_owned(), offset }).await?))
    }

    async fn load(&self, options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        load::open_standalone(&self.node, &options).await
    }
}

/// `INFO` as attributes; of a line with several colons the first one parts.
pub(crate) fn parse_info(text: &str) -> Vec<Attribute> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', '$']));
    lines.filter_map(|line| line.split_once(':')).map(|(key, value)| Attribute::new(key, value.trim_end())).collect()
}

/// `INFO` of a connection, as a map.
pub(crate) async fn info_of(connection: &mut Connection, node: &Node) -> Result<BTreeMap<String, String>, AccessError> {
    let reply = connection.call_named("INFO", &[node.name_of("INFO")]).await?;
    Ok(parse_info(&reply.text().unwrap_or_default()).into_iter().map(|line| (line.key, line.value)).collect())
}

/// The replies of a pipeline as they come. Redis buffers replies, so sending everything first cannot deadlock.
struct PipelineSource {
    session: Option<OwnedMutexGuard<Session>>,
    streaming: Arc<AtomicBool>,
    request: Option<BytesMut>,
    scanner: ReplyScanner,
    replies_left: usize,
    ready: Bytes,
    position: u64,
}

impl Drop for PipelineSource {
    fn drop(&mut self) {
        // Replies not read would be taken for those of the next command.
        if let Some(mut session) = self.session.take() {
            session.connection = None;
            self.streaming.store(false, Ordering::Release);
        }
    }
}

#[async_trait]
impl Source for PipelineSource {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        while self.ready.is_empty() {
            let Some(session) = &mut self.session else { return Ok(Bytes::new()) };
            let connection = session.connection()?;
            if let Some(request) = self.request.take() {
                connection.send(&request).await?;
            }
            let mut chunk = connection.chunk().await?;
            let mut used = 0;
            while self.replies_left > 0 && used < chunk.len() {
                let (taken, ended) = self
                    .scanner
                    .push(chunk.get(used..).unwrap_or_default())
                    .map_err(|error| MethodError::new(code::SOURCE_IO, format!("failed to read replies: {error}")))?;
                used += taken;
                self.replies_left -= usize::from(ended);
            }
            self.ready = chunk.split_to(used).freeze();
            if self.replies_left == 0 {
                connection.unread(chunk);
                connection.replied();
                self.session = None;
                self.streaming.store(false, Ordering::Release);
            }
        }
        let piece = self.ready.split_to(self.ready.len().min(max.clamp(1, MAX_READ)));
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
