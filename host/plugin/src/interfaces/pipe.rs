//! `pipe`: reading from sources, writing to sinks, and the copy between them at native speed.

use bytes::Bytes;
use redkeep_core::method::{MethodError, code};
use redkeep_core::stream::{Artifact, CHUNK, MAX_READ, Sink, Source};
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::{pipe, types};
use crate::failure::{HostError, Stop};
use crate::handles::{SinkHandle, SourceHandle};
use crate::state::State;

/// A read that keeps the source to its own promise: what is too long is a defect of the host, never passed on.
async fn read(source: &mut dyn Source, max: usize) -> Result<Bytes, HostError> {
    let data = source.read(max).await?;
    if data.len() > max {
        let message = format!("a source gave {} bytes where at most {max} were asked for", data.len());
        return Err(MethodError::new(code::INTERNAL, message).into());
    }
    Ok(data)
}

impl pipe::HostSource for State {
    async fn read(&mut self, handle: Resource<SourceHandle>, max: u32) -> Result<Vec<u8>, HostError> {
        let _host = self.enter();
        let source = self.table.get_mut(&handle)?.source.as_mut().ok_or(Stop::UnknownHandle)?;
        if max == 0 {
            // Zero bytes would look like the end.
            return Err(MethodError::new(code::INTERNAL, "a read of zero bytes was asked for").into());
        }
        let max = usize::try_from(max).unwrap_or(MAX_READ).min(MAX_READ);
        Ok(read(source.as_mut(), max).await?.into())
    }

    async fn position(&mut self, handle: Resource<SourceHandle>) -> wasmtime::Result<u64> {
        let _host = self.enter();
        Ok(self.table.get(&handle)?.source.as_ref().map_or(0, |source| source.position()))
    }

    async fn size(&mut self, handle: Resource<SourceHandle>) -> wasmtime::Result<Option<u64>> {
        let _host = self.enter();
        Ok(self.table.get(&handle)?.source.as_ref().and_then(|source| source.size()))
    }

    async fn drop(&mut self, handle: Resource<SourceHandle>) -> wasmtime::Result<()> {
        let _host = self.enter();
        self.table.delete(handle)?;
        Ok(())
    }
}

impl pipe::HostSink for State {
    async fn write(&mut self, handle: Resource<SinkHandle>, data: Vec<u8>) -> Result<(), HostError> {
        let _host = self.enter();
        let data = Bytes::from(data);
        self.count_output(&data)?;
        let sink = self.table.get_mut(&handle)?.sink.as_mut().ok_or(Stop::UnknownHandle)?;
        if data.is_empty() {
            return Ok(());
        }
        Ok(sink.write(data).await?)
    }

    /// Without `finish`: dropping the host's sink throws away what was written.
    async fn drop(&mut self, handle: Resource<SinkHandle>) -> wasmtime::Result<()> {
        let _host = self.enter();
        self.table.delete(handle)?;
        Ok(())
    }
}

impl State {
    /// Copies up to `max` bytes in chunks; the bytes never enter the guest.
    async fn copy(&mut self, source: &mut dyn Source, sink: &mut dyn Sink, max: u64) -> Result<u64, HostError> {
        let mut copied = 0;
        while copied < max {
            let want = usize::try_from(max - copied).unwrap_or(CHUNK).min(CHUNK);
            let data = read(source, want).await?;
            if data.is_empty() {
                break;
            }
            copied += data.len() as u64;
            self.count_output(&data)?;
            sink.write(data).await?;
            // A source and a sink that are always ready must not keep the wall clock from striking.
            tokio::task::consume_budget().await;
        }
        Ok(copied)
    }
}

impl pipe::Host for State {
    async fn finish(
        &mut self,
        sink: Resource<SinkHandle>,
        attributes: Vec<types::Attribute>,
    ) -> Result<types::Artifact, HostError> {
        let _host = self.enter();
        // The artifact keeps its place until it is finished.
        let SinkHandle { sink, artifact } = self.table.delete(sink)?;
        let sink = sink.ok_or(Stop::UnknownHandle)?;
        let already = artifact.as_ref().map_or(0, |artifact| artifact.attributes);
        let attributes = self.attributes(attributes, already)?;
        Ok(sink.finish(attributes).await?.into())
    }

    async fn splice(
        &mut self,
        source: Resource<SourceHandle>,
        sink: Resource<SinkHandle>,
        max: Option<u64>,
    ) -> Result<u64, HostError> {
        let _host = self.enter();
        // Both are taken out, so that both can be used at once, and put back whatever happened.
        let mut from = self.table.get_mut(&source)?.source.take().ok_or(Stop::UnknownHandle)?;
        let mut into = self.table.get_mut(&sink)?.sink.take().ok_or(Stop::UnknownHandle)?;
        let result = self.copy(from.as_mut(), into.as_mut(), max.unwrap_or(u64::MAX)).await;
        self.table.get_mut(&source)?.source = Some(from);
        self.table.get_mut(&sink)?.sink = Some(into);
        result
    }
}

impl From<Artifact> for types::Artifact {
    fn from(artifact: Artifact) -> Self {
        Self {
            name: artifact.name,
            size: artifact.size,
            sha256: artifact.sha256,
            attributes: artifact.attributes.into_iter().map(Into::into).collect(),
        }
    }
}
