//! `socket`: a byte stream to the run's source or target. Where it leads and how it is secured, the host knows.

use std::sync::Arc;

use bytes::Bytes;
use redkeep_core::method::{MethodError, code};
use redkeep_core::socket::Socket;
use redkeep_core::stream::MAX_READ;
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::socket;
use crate::failure::HostError;
use crate::grants::Grant;
use crate::handles::ConnectionHandle;
use crate::state::State;

impl State {
    fn socket(&self) -> Result<Arc<dyn Socket>, HostError> {
        let socket = self.run()?.socket.clone();
        socket.ok_or_else(|| MethodError::new(code::NOT_SUPPORTED, "this run has no socket").into())
    }
}

impl socket::Host for State {
    async fn connect(&mut self) -> Result<Resource<ConnectionHandle>, HostError> {
        let _host = self.enter();
        self.run()?;
        self.check_grant(&Grant::Connect.to_string(), |grants| grants.has(&Grant::Connect))?;
        let connection = self.socket()?.connect().await?;
        self.push(ConnectionHandle(connection))
    }
}

impl socket::HostConnection for State {
    async fn read(
        &mut self,
        handle: Resource<ConnectionHandle>,
        max: u32,
        within_ms: Option<u32>,
    ) -> Result<Vec<u8>, HostError> {
        let _host = self.enter();
        if max == 0 {
            // Zero bytes would look like the end.
            return Err(MethodError::new(code::INTERNAL, "a read of zero bytes was asked for").into());
        }
        let max = usize::try_from(max).unwrap_or(MAX_READ).min(MAX_READ);
        let data = self.table.get_mut(&handle)?.0.read(max, within_ms).await?;
        if data.len() > max {
            let message = format!("a connection gave {} bytes where at most {max} were asked for", data.len());
            return Err(MethodError::new(code::INTERNAL, message).into());
        }
        Ok(data.into())
    }

    async fn write(&mut self, handle: Resource<ConnectionHandle>, data: Vec<u8>) -> Result<(), HostError> {
        let _host = self.enter();
        let data = Bytes::from(data);
        self.count_output(&data)?;
        let connection = self.table.get_mut(&handle)?;
        if data.is_empty() {
            return Ok(());
        }
        Ok(connection.0.write(data).await?)
    }

    async fn drop(&mut self, handle: Resource<ConnectionHandle>) -> wasmtime::Result<()> {
        let _host = self.enter();
        self.table.delete(handle)?;
        Ok(())
    }
}
