//! A live restore that is stopped from outside ends between two commands, with the count of those that took effect.
//!
//! Dropping the method's call where it stands would leave commands on their way of which nobody knows what became. So `load` is
//! told instead: the next write finishes what was given, and fails with the target's own count.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{Command, RedisServer, Replication};
use redkeep_core::stream::{Artifact, Sink, Source};
use tokio_util::sync::CancellationToken;

/// A target whose loads end when the token is cancelled.
pub(super) struct Stoppable {
    server: Arc<dyn RedisServer>,
    token: CancellationToken,
}

impl Stoppable {
    pub(super) fn new(server: Arc<dyn RedisServer>, token: CancellationToken) -> Self {
        Self { server, token }
    }
}

#[async_trait]
impl RedisServer for Stoppable {
    async fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, MethodError> {
        self.server.info(section).await
    }

    async fn command(&self, command: Command) -> Result<Bytes, MethodError> {
        self.server.command(command).await
    }

    async fn pipeline(&self, commands: Vec<Command>) -> Result<Box<dyn Source>, MethodError> {
        self.server.pipeline(commands).await
    }

    async fn replicate(&self, snapshot_only: bool) -> Result<Box<dyn Replication>, MethodError> {
        self.server.replicate(snapshot_only).await
    }

    async fn resume(&self, id: &str, offset: u64) -> Result<Box<dyn Replication>, MethodError> {
        self.server.resume(id, offset).await
    }

    async fn load(&self, options: Vec<Attribute>) -> Result<Box<dyn Sink>, MethodError> {
        let load = self.server.load(options).await?;
        Ok(Box::new(StoppableLoad { load: Some(load), token: self.token.clone(), stopped: None }))
    }
}

struct StoppableLoad {
    /// `None` once it was stopped.
    load: Option<Box<dyn Sink>>,
    token: CancellationToken,
    stopped: Option<MethodError>,
}

#[async_trait]
impl Sink for StoppableLoad {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        if self.token.is_cancelled()
            && let Some(load) = self.load.take()
        {
            // A command that was given in part is none: the target drops it with the connection.
            let counts = match load.finish(Vec::new()).await {
                Ok(artifact) => artifact.attributes,
                Err(error) => error.details,
            };
            let mut error = MethodError::new(code::CANCELLED, "the restore was stopped");
            error.details.extend(counts);
            self.stopped = Some(error);
        }
        match (&mut self.load, &self.stopped) {
            (Some(load), _) => load.write(data).await,
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(MethodError::new(code::CANCELLED, "the restore was stopped")),
        }
    }

    async fn finish(mut self: Box<Self>, attributes: Vec<Attribute>) -> Result<Artifact, MethodError> {
        match (self.load.take(), self.stopped.take()) {
            // Everything was given: what was finished before the stop was seen is finished.
            (Some(load), _) => load.finish(attributes).await,
            (None, Some(error)) => Err(error),
            (None, None) => Err(MethodError::new(code::CANCELLED, "the restore was stopped")),
        }
    }
}
