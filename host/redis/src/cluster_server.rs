//! The primaries of a cluster as one server: commands and loads go by the slot of their first key.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{Command, RedisServer, Replication};
use redkeep_core::stream::{MAX_READ, Sink, Source};

use crate::connection::Node;
use crate::load::{self, SlotMap, slots::slot_of};
use crate::server::Server;

/// All primaries of one cluster.
pub(crate) struct ClusterServer {
    nodes: Vec<Node>,
    servers: Vec<Arc<Server>>,
    slots: SlotMap,
}

impl ClusterServer {
    /// `slots`: of every slot, the index of its primary in `nodes`.
    pub(crate) fn new(nodes: Vec<Node>, slots: SlotMap) -> Self {
        let servers = nodes.iter().cloned().map(|node| Arc::new(Server::new(node))).collect();
        Self { nodes, servers, slots }
    }

    /// The primary of a command. Its first argument is taken for its key, which is right for every command on one key and
    /// harmless for those without: any primary answers them.
    fn server(&self, command: &Command) -> Result<&Arc<Server>, MethodError> {
        let lane = command.get(1).and_then(|key| self.slots.get(usize::from(slot_of(key))).copied().flatten());
        self.servers
            .get(usize::from(lane.unwrap_or(0)))
            .ok_or_else(|| MethodError::new(code::REFUSED, "failed to send a command: the cluster has no primary"))
    }
}

#[async_trait]
impl RedisServer for ClusterServer {
    async fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        self.server(&Vec::new())?.info(section).await
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        self.server(&command)?.command(command).await
    }

    async fn pipeline(&self, commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        // Commands in a row for the same primary go together; every reply is read before the next row is sent.
        let mut rows: Vec<(Arc<Server>, Vec<Command>)> = Vec::new();
        for command in commands {
            let server = Arc::clone(self.server(&command)?);
            match rows.last_mut() {
                Some((last, row)) if Arc::ptr_eq(last, &server) => row.push(command),
                _ => rows.push((server, vec![command])),
            }
        }
        Ok(Box::new(Rows { waiting: rows.into_iter(), present: None, position: 0 }))
    }

    async fn replicate(&self, _snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError> {
        Err(not_one_server())
    }

    async fn resume(&self, _id: &str, _offset: u64) -> Result<Box<dyn Replication>, MethodError> {
        Err(not_one_server())
    }

    async fn load(&self, options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        load::open_cluster(&self.nodes, self.slots.clone(), &options).await
    }
}

fn not_one_server() -> MethodError {
    MethodError::new(
        code::NOT_SUPPORTED,
        "failed to replicate: a cluster has many primaries, each replicated by itself",
    )
}

struct Rows {
    waiting: std::vec::IntoIter<(Arc<Server>, Vec<Command>)>,
    present: Option<Box<dyn Source>>,
    position: u64,
}

#[async_trait]
impl Source for Rows {
    async fn read(&mut self, max: usize) -> Result<Bytes, MethodError> {
        loop {
            if let Some(present) = &mut self.present {
                let piece = present.read(max.min(MAX_READ)).await?;
                self.position += piece.len() as u64;
                if !piece.is_empty() {
                    return Ok(piece);
                }
                self.present = None;
            }
            let Some((server, row)) = self.waiting.next() else { return Ok(BytesMut::new().freeze()) };
            self.present = Some(server.pipeline(row).await?);
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn size(&self) -> Option<u64> {
        None
    }
}
