//! What one call of a plugin holds in the host: handles, permissions, counters. Dropped with the call's store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::method::{LogLevel, MethodError, Run, code};
use redkeep_core::stream::{Sink, Source};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Resource, ResourceTable, ResourceTableError};

use crate::bindings::redkeep::plugin::types;
use crate::failure::{HostError, Stop};
use crate::grants::{Grants, Permissions};
use crate::handles::{OpenArtifact, SinkHandle, SourceHandle};
use crate::limits::{CpuClock, HostCall, Limits, MemoryMeter};
use crate::text::printable;

/// How a guest's panic hook begins its last log line.
const PANIC: &str = "plugin panicked: ";
/// Pairs of phase and unit that are shown; further ones are ignored.
const MAX_PROGRESS: usize = 64;
/// Fields of a log line; further ones are dropped.
const MAX_FIELDS: usize = 64;

/// The export that is being called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    Describe,
    Validate,
    Plan,
    Capture,
    Restore,
    Verify,
    Inspect,
}

impl Export {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Validate => "validate",
            Self::Plan => "plan",
            Self::Capture => "capture",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Inspect => "inspect",
        }
    }
}

/// The data of a store.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    pub(crate) meter: MemoryMeter,
    pub(crate) permissions: Arc<Permissions>,
    pub(crate) plugin: Arc<str>,
    pub(crate) export: Export,
    /// None in `describe` and `validate`.
    pub(crate) run: Option<Run>,
    /// What `control.parameters` answers where there is no run.
    pub(crate) parameters: String,
    /// What the panic hook said.
    pub(crate) panic: Option<String>,
    /// Names of artifacts created, in lower case.
    created: HashSet<String>,
    /// Places for artifacts that are open at once.
    places: Arc<Semaphore>,
    /// Bytes of the attributes of all artifacts.
    attribute_bytes: usize,
    clock: CpuClock,
    limits: Limits,
    written: u64,
    log: LogMeter,
    progress: HashSet<(String, String)>,
}

impl State {
    pub(crate) fn new(
        plugin: Arc<str>,
        export: Export,
        run: Option<Run>,
        permissions: Arc<Permissions>,
        limits: Limits,
        clock: CpuClock,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            table,
            meter: MemoryMeter::new(limits.memory),
            permissions,
            plugin,
            export,
            run,
            parameters: "{}".to_owned(),
            panic: None,
            created: HashSet::new(),
            places: Arc::new(Semaphore::new(limits.artifacts_at_once)),
            attribute_bytes: 0,
            clock,
            limits,
            written: 0,
            log: LogMeter::default(),
            progress: HashSet::new(),
        }
    }

    /// To be held through every host function: see [`CpuClock`].
    pub(crate) fn enter(&self) -> HostCall {
        self.clock.enter()
    }

    /// The run, where the export has one.
    pub(crate) fn run(&self) -> Result<&Run, HostError> {
        self.run.as_ref().ok_or_else(|| {
            let name = self.export.name();
            MethodError::new(code::NOT_SUPPORTED, format!("{name} can use only log and control")).into()
        })
    }

    /// Refuses what changes something, where nothing may be changed.
    pub(crate) fn may_change(&self, act: &str) -> Result<(), HostError> {
        if matches!(self.export, Export::Capture | Export::Restore) {
            return Ok(());
        }
        let name = self.export.name();
        Err(MethodError::new(code::DENIED, format!("{act} is not allowed in {name}, which changes nothing")).into())
    }

    pub(crate) fn check_grant(&self, wanted: &str, test: impl Fn(&Grants) -> bool) -> Result<(), HostError> {
        Ok(self.permissions.check(wanted, test)?)
    }

    /// A handle for the guest; too many of them end it.
    pub(crate) fn push<T: Send + 'static>(&mut self, value: T) -> Result<Resource<T>, HostError> {
        self.table.push(value).map_err(|error| match error {
            ResourceTableError::Full => Stop::Handles { limit: self.limits.handles }.into(),
            other => other.into(),
        })
    }

    pub(crate) fn push_source(&mut self, source: Box<dyn Source>) -> Result<Resource<SourceHandle>, HostError> {
        self.push(SourceHandle { source: Some(source), _place: None })
    }

    pub(crate) fn push_stored(
        &mut self,
        source: Box<dyn Source>,
        place: OwnedSemaphorePermit,
    ) -> Result<Resource<SourceHandle>, HostError> {
        self.push(SourceHandle { source: Some(source), _place: Some(place) })
    }

    pub(crate) fn push_sink(&mut self, sink: Box<dyn Sink>) -> Result<Resource<SinkHandle>, HostError> {
        self.push(SinkHandle { sink: Some(sink), artifact: None })
    }

    pub(crate) fn push_artifact(
        &mut self,
        sink: Box<dyn Sink>,
        artifact: OpenArtifact,
    ) -> Result<Resource<SinkHandle>, HostError> {
        self.push(SinkHandle { sink: Some(sink), artifact: Some(artifact) })
    }

    /// A place among the artifacts that are open at once.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, HostError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Stop::ArtifactsAtOnce { limit: self.limits.artifacts_at_once }.into())
    }

    /// Takes the name of an artifact that is to be written.
    pub(crate) fn take_name(&mut self, name: &str) -> Result<(), HostError> {
        // Storages that fold case must not lay one over the other.
        let name_in_lower_case = name.to_ascii_lowercase();
        if self.created.contains(&name_in_lower_case) {
            return Err(MethodError::new(code::REFUSED, format!("an artifact {name} was created already")).into());
        }
        if self.created.len() >= self.limits.artifacts {
            return Err(Stop::Artifacts { limit: self.limits.artifacts }.into());
        }
        self.created.insert(name_in_lower_case);
        Ok(())
    }

    /// Attributes for an artifact that has so many already: bounded, since its manifest must be readable, and each key once.
    pub(crate) fn attributes(
        &mut self,
        attributes: Vec<types::Attribute>,
        already: usize,
    ) -> Result<Vec<Attribute>, HostError> {
        let Limits { attributes: most, attribute: longest, all_attributes, .. } = self.limits;
        if already + attributes.len() > most {
            return Err(Stop::Attributes { limit: most }.into());
        }
        for attribute in &attributes {
            let size = attribute.key.len() + attribute.value.len();
            if size > longest {
                return Err(Stop::AttributeBytes { what: "an attribute", limit: longest }.into());
            }
            self.attribute_bytes += size;
        }
        if self.attribute_bytes > all_attributes {
            return Err(Stop::AttributeBytes { what: "attributes", limit: all_attributes }.into());
        }
        let attributes = attributes.into_iter().map(|attribute| Attribute {
            key: printable(&attribute.key, longest),
            value: printable(&attribute.value, longest),
        });
        Ok(unique(attributes.collect(), "an artifact")?)
    }

    /// Counts bytes on their way to any sink.
    pub(crate) fn count_output(&mut self, data: &Bytes) -> Result<(), HostError> {
        self.written = self.written.saturating_add(data.len() as u64);
        if self.written > self.limits.output {
            return Err(Stop::Output { limit: self.limits.output }.into());
        }
        Ok(())
    }

    /// A log line of the guest's.
    pub(crate) fn log(&mut self, level: LogLevel, message: &str, fields: Vec<Attribute>) -> Result<(), Stop> {
        let dropped = match self.log.count(&self.limits)? {
            Verdict::ShowAfter(dropped) => Some(dropped),
            // The panic message is wanted most where a plugin logs much.
            Verdict::Drop if !message.starts_with(PANIC) => return Ok(()),
            Verdict::Show | Verdict::Drop => None,
        };
        let mut room = self.limits.log_line;
        let mut fit = |text: &str| {
            let text = printable(text, room);
            room = room.saturating_sub(text.len());
            text
        };
        let message = fit(message);
        let fields: Vec<Attribute> = fields
            .into_iter()
            .take(MAX_FIELDS)
            .map(|field| Attribute { key: fit(&field.key), value: fit(&field.value) })
            .collect();
        if let Some(dropped) = dropped {
            self.emit(
                LogLevel::Warn,
                &format!("{dropped} log lines of the plugin were dropped: too many in a second"),
                &[],
            );
        }
        if level == LogLevel::Error && message.starts_with(PANIC) {
            self.panic = Some(message.clone());
        }
        self.emit(level, &message, &fields);
        Ok(())
    }

    fn emit(&self, level: LogLevel, message: &str, fields: &[Attribute]) {
        if let Some(run) = &self.run {
            run.events.log(level, message, fields);
        } else {
            tracing::debug!(plugin = %self.plugin, export = self.export.name(), ?level, ?fields, line = message, "log line of a plugin");
        }
    }

    pub(crate) fn show_progress(&mut self, phase: &str, unit: &str, done: u64, total: Option<u64>) {
        let Some(run) = &self.run else { return };
        let pair = (printable(phase, 64), printable(unit, 64));
        if !self.progress.contains(&pair) {
            if self.progress.len() >= MAX_PROGRESS {
                return;
            }
            self.progress.insert(pair.clone());
        }
        run.events.progress(&pair.0, &pair.1, done, total);
    }
}

/// Counts log lines: all of them against [`Limits::log_lines`], those of a second against the rate.
#[derive(Default)]
struct LogMeter {
    lines: u64,
    second: Option<Instant>,
    in_second: u32,
    dropped: u64,
}

enum Verdict {
    Show,
    /// After a note that so many were dropped.
    ShowAfter(u64),
    Drop,
}

impl LogMeter {
    fn count(&mut self, limits: &Limits) -> Result<Verdict, Stop> {
        self.lines += 1;
        if self.lines > limits.log_lines {
            return Err(Stop::LogLines { limit: limits.log_lines });
        }
        if self.second.is_none_or(|start| start.elapsed().as_secs() >= 1) {
            self.second = Some(Instant::now());
            self.in_second = 0;
        }
        self.in_second += 1;
        if self.in_second > limits.log_lines_per_second {
            self.dropped += 1;
            return Ok(Verdict::Drop);
        }
        Ok(match std::mem::take(&mut self.dropped) {
            0 => Verdict::Show,
            dropped => Verdict::ShowAfter(dropped),
        })
    }
}

/// Refuses attributes with a key given twice.
pub(crate) fn unique(attributes: Vec<Attribute>, of: &str) -> Result<Vec<Attribute>, MethodError> {
    let mut keys = HashSet::new();
    match attributes.iter().find(|attribute| !keys.insert(attribute.key.as_str())) {
        Some(twice) => Err(MethodError::new(
            code::INTERNAL,
            format!("the plugin gave {of} the key {:?} twice", printable(&twice.key, 200)),
        )),
        None => Ok(attributes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_an_artifact_cannot_move_the_cursor() {
        let limits = Limits::default();
        let mut state = State::new("x".into(), Export::Capture, None, Arc::default(), limits, CpuClock::default());
        let given = types::Attribute { key: "type\u{1b}".into(), value: "rdb\nhelp: run this".into() };
        let shown = state.attributes(vec![given], 0).unwrap();
        assert_eq!(shown, [Attribute::new("type\u{fffd}", "rdb help: run this")]);
    }
}
