//! `log`: lines of the guest's, limited in rate, number and size.

use redkeep_core::method::LogLevel;

use crate::bindings::redkeep::plugin::{log, types};
use crate::state::State;

impl log::Host for State {
    async fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<types::Attribute>,
    ) -> wasmtime::Result<()> {
        let _host = self.enter();
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        Ok(State::log(self, level, &message, fields.into_iter().map(Into::into).collect())?)
    }
}
