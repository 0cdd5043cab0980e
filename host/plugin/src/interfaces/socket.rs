//! `socket`: linked, so that methods of other systems load; no run has one yet.

use redkeep_core::method::{MethodError, code};
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::socket;
use crate::failure::HostError;
use crate::handles::ConnectionHandle;
use crate::state::State;

fn not_supported() -> HostError {
    MethodError::new(code::NOT_SUPPORTED, "this version of redkeep gives plugins no socket").into()
}

impl socket::Host for State {
    async fn connect(&mut self) -> Result<Resource<ConnectionHandle>, HostError> {
        let _host = self.enter();
        Err(not_supported())
    }
}

impl socket::HostConnection for State {
    async fn read(
        &mut self,
        _handle: Resource<ConnectionHandle>,
        _max: u32,
        _within_ms: Option<u32>,
    ) -> Result<Vec<u8>, HostError> {
        let _host = self.enter();
        Err(not_supported())
    }

    async fn write(&mut self, _handle: Resource<ConnectionHandle>, _data: Vec<u8>) -> Result<(), HostError> {
        let _host = self.enter();
        Err(not_supported())
    }

    async fn drop(&mut self, handle: Resource<ConnectionHandle>) -> wasmtime::Result<()> {
        let _host = self.enter();
        self.table.delete(handle)?;
        Ok(())
    }
}
