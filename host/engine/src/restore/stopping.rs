//! A live restore that is stopped, from outside or by a failure of its method, ends with the count of what took effect.
//!
//! Dropping the method's call where it stands would leave commands on their way of which nobody knows what became. So `load` is
//! told instead: the next write finishes what was given, and fails with the target's own count.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{Command, RedisServer, Replication};
use redkeep_core::stream::{Artifact, Sink, Source};
use tokio_util::sync::CancellationToken;

/// Loads that a method let go of without finishing them, as when the backup could not be read any further: commands of them are
/// on their way, and the target has still to say what became of those.
#[derive(Clone, Default)]
pub(super) struct LetGo(Arc<Mutex<Vec<Box<dyn Sink>>>>);

impl LetGo {
    /// Ends them; the counts of the last one, for a method opens one at a time.
    pub(super) async fn settle(&self) -> Vec<Attribute> {
        let loads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut counts = Vec::new();
        for load in loads {
            counts = end(load).await;
        }
        counts
    }
}

/// Ends a load where it stands. A command that was given in part is none: the target drops it with the connection.
async fn end(load: Box<dyn Sink>) -> Vec<Attribute> {
    match load.finish(Vec::new()).await {
        Ok(artifact) => artifact.attributes,
        Err(error) => error.details,
    }
}

/// A target whose loads end when the token is cancelled.
pub(super) struct Stoppable {
    server: Arc<dyn RedisServer>,
    token: CancellationToken,
    let_go: LetGo,
}

impl Stoppable {
    pub(super) fn new(server: Arc<dyn RedisServer>, token: CancellationToken, let_go: LetGo) -> Self {
        Self { server, token, let_go }
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
        let (token, let_go) = (self.token.clone(), self.let_go.clone());
        Ok(Box::new(StoppableLoad { load: Some(load), token, let_go, stopped: None }))
    }
}

struct StoppableLoad {
    /// `None` once it was stopped.
    load: Option<Box<dyn Sink>>,
    token: CancellationToken,
    let_go: LetGo,
    stopped: Option<MethodError>,
}

impl Drop for StoppableLoad {
    fn drop(&mut self) {
        if let Some(load) = self.load.take() {
            self.let_go.0.lock().unwrap_or_else(PoisonError::into_inner).push(load);
        }
    }
}

#[async_trait]
impl Sink for StoppableLoad {
    async fn write(&mut self, data: Bytes) -> Result<(), MethodError> {
        if self.token.is_cancelled()
            && let Some(load) = self.load.take()
        {
            let counts = end(load).await;
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
