//! `control`: what the run is about, progress, time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redkeep_core::Attribute;

use crate::bindings::redkeep::plugin::{control, types};
use crate::failure::HostError;
use crate::state::State;

/// The context's key for what is granted and at hand.
const CAPABILITIES: &str = "capabilities";

impl State {
    /// `redis`, `files` and `socket` where they are at hand and at least one of their grants was given, then those grants.
    fn capabilities(&self) -> String {
        let Some(run) = &self.run else { return String::new() };
        let names = self.permissions.names();
        let at_hand =
            [("redis", run.redis.is_some()), ("files", run.files.is_some()), ("socket", run.socket.is_some())];
        let usable: Vec<&str> = at_hand
            .into_iter()
            .filter(|(capability, at_hand)| *at_hand && names.iter().any(|name| belongs(name, capability)))
            .map(|(capability, _)| capability)
            .collect();
        let grants = names.iter().map(String::as_str).filter(|name| usable.iter().any(|usable| belongs(name, usable)));
        usable.iter().copied().chain(grants).collect::<Vec<_>>().join(" ")
    }
}

fn belongs(grant: &str, capability: &str) -> bool {
    grant.strip_prefix(capability).is_some_and(|rest| rest.starts_with(':'))
}

impl control::Host for State {
    async fn context(&mut self) -> wasmtime::Result<Vec<types::Attribute>> {
        let _host = self.enter();
        let mut context = self.run.as_ref().map(|run| run.context.clone()).unwrap_or_default();
        context.retain(|attribute| attribute.key != CAPABILITIES);
        context.push(Attribute::new(CAPABILITIES, self.capabilities()));
        Ok(context.into_iter().map(Into::into).collect())
    }

    async fn parameters(&mut self) -> wasmtime::Result<String> {
        let _host = self.enter();
        Ok(self.run.as_ref().map_or_else(|| self.parameters.clone(), |run| run.parameters.clone()))
    }

    async fn progress(&mut self, phase: String, unit: String, done: u64, total: Option<u64>) -> Result<(), HostError> {
        let _host = self.enter();
        self.show_progress(&phase, &unit, done, total);
        Ok(())
    }

    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        let _host = self.enter();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    async fn sleep_ms(&mut self, duration: u32) -> Result<(), HostError> {
        let _host = self.enter();
        tokio::time::sleep(Duration::from_millis(duration.into())).await;
        Ok(())
    }
}
