//! How a call of a plugin can fail, and what the user is told: every limit and trap by its name.

use redkeep_core::Attribute;
use redkeep_core::method::{MethodError, code};
use redkeep_core::units::format_size;
use wasmtime::Trap;
use wasmtime::component::ResourceTableError;

use crate::bindings::redkeep::plugin::types;
use crate::text::printable;

/// The most that an error's texts may take, in bytes; the rest is cut off.
const MAX_TEXT: usize = 8 << 10;
/// Details of an error; further ones are dropped.
const MAX_DETAILS: usize = 100;
/// Codes that a guest may use; others are a defect of the guest's.
const GUEST_CODES: [&str; 13] = [
    code::DENIED,
    code::INVALID_PARAMETERS,
    code::NOT_SUPPORTED,
    code::NOT_FOUND,
    code::TIMEOUT,
    code::SERVER_REPLY,
    code::SOURCE_IO,
    code::SINK_IO,
    code::TARGET_IO,
    code::DAMAGED,
    code::REFUSED,
    code::CANCELLED,
    code::INTERNAL,
];

/// Why the host itself stopped a plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("used more memory than it may: {} of {}", format_size(*wanted as u64), format_size(*limit as u64))]
    Memory { wanted: usize, limit: usize },
    #[error("used more table elements than it may: the limit is {limit}")]
    Tables { limit: usize },
    #[error("computed for {milliseconds} ms without calling the host (limit of the CPU slice)")]
    CpuSlice { milliseconds: u128 },
    #[error("wrote more than it may: the limit of output is {}", format_size(*limit))]
    Output { limit: u64 },
    #[error("created more artifacts than it may: the limit is {limit}")]
    Artifacts { limit: usize },
    #[error("opened more artifacts at once than it may: the limit is {limit}")]
    ArtifactsAtOnce { limit: usize },
    #[error("gave an artifact more attributes than it may: the limit is {limit}")]
    Attributes { limit: usize },
    #[error("gave {what} of more bytes than it may: the limit is {}", format_size(*limit as u64))]
    AttributeBytes { what: &'static str, limit: usize },
    #[error("wrote more log lines than it may: the limit is {limit}")]
    LogLines { limit: u64 },
    #[error("opened more sources, sinks and links at once than it may: the limit is {limit}")]
    Handles { limit: usize },
    #[error("used a handle that the host does not know")]
    UnknownHandle,
}

/// What a host function fails with: an error that the guest sees, or one that ends the guest.
#[derive(Debug)]
pub(crate) enum HostError {
    /// Returned to the guest.
    Reply(MethodError),
    /// Ends the call.
    Stop(wasmtime::Error),
}

impl From<MethodError> for HostError {
    fn from(error: MethodError) -> Self {
        Self::Reply(error)
    }
}

impl From<Stop> for HostError {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop.into())
    }
}

impl From<ResourceTableError> for HostError {
    fn from(_: ResourceTableError) -> Self {
        Stop::UnknownHandle.into()
    }
}

impl types::Host for crate::state::State {
    fn convert_error(&mut self, error: HostError) -> wasmtime::Result<types::Error> {
        match error {
            HostError::Reply(error) => Ok(error.into()),
            HostError::Stop(error) => Err(error),
        }
    }
}

impl From<MethodError> for types::Error {
    fn from(error: MethodError) -> Self {
        let details = error.details.into_iter().map(Into::into).collect();
        Self { code: error.code, message: error.message, retryable: error.retryable, details }
    }
}

impl From<Attribute> for types::Attribute {
    fn from(attribute: Attribute) -> Self {
        Self { key: attribute.key, value: attribute.value }
    }
}

impl From<types::Attribute> for Attribute {
    fn from(attribute: types::Attribute) -> Self {
        Self { key: attribute.key, value: attribute.value }
    }
}

/// What a guest returned as its error, made fit to be shown: an unknown code becomes `internal`, control characters go.
pub(crate) fn from_guest(error: types::Error) -> MethodError {
    let known = GUEST_CODES.contains(&error.code.as_str());
    let mut details: Vec<Attribute> = error
        .details
        .into_iter()
        .take(MAX_DETAILS)
        .map(|detail| Attribute { key: printable(&detail.key, MAX_TEXT), value: printable(&detail.value, MAX_TEXT) })
        .collect();
    if !known {
        details.push(Attribute::new("code", printable(&error.code, 100)));
    }
    let message = printable(&error.message, MAX_TEXT);
    MethodError {
        code: if known { error.code } else { code::INTERNAL.to_owned() },
        message: if message.is_empty() { "the plugin failed without saying why".to_owned() } else { message },
        retryable: error.retryable,
        details,
    }
}

/// The wall clock ran out.
pub(crate) fn wall_clock(plugin: &str, export: &str, limit: std::time::Duration) -> MethodError {
    MethodError::new(
        code::LIMIT,
        format!("plugin {plugin} did not finish {export} within {limit:?} (limit of the wall clock)"),
    )
}

/// Which of wasmtime's own limits it was, where it was one: only the text says so.
pub(crate) fn own_limit(error: &wasmtime::Error) -> Option<&'static str> {
    let text = format!("{error:#}");
    let limits = [
        ("too much data is being copied", "passed more data in one call than it may"),
        ("handle limit exceeded", "holds more handles than it may"),
        ("resource limit exceeded", "needs more instances, tables or memories than it may"),
    ];
    limits.into_iter().find(|(sign, _)| text.contains(sign)).map(|(_, meaning)| meaning)
}

/// Why a call ended without an answer of the guest's. `panic`: what its panic hook last said.
pub(crate) fn from_trap(plugin: &str, export: &str, error: &wasmtime::Error, panic: Option<&str>) -> MethodError {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        let code = if *stop == Stop::UnknownHandle { code::TRAPPED } else { code::LIMIT };
        let failure = MethodError::new(code, format!("plugin {plugin} was stopped in {export}: it {stop}"));
        return match stop {
            Stop::UnknownHandle => failure,
            _ => failure.with_help("this is a defect of the plugin, or its limit is too low for this data"),
        };
    }
    if let Some(meaning) = own_limit(error) {
        let root = printable(&error.root_cause().to_string(), MAX_TEXT);
        return MethodError::new(
            code::LIMIT,
            format!("plugin {plugin} was stopped in {export}: it {meaning} ({root})"),
        );
    }
    let message = match (error.downcast_ref::<Trap>(), panic) {
        (Some(Trap::StackOverflow), _) => format!("plugin {plugin} overflowed its stack in {export}"),
        (_, Some(panic)) => format!("{panic} (plugin {plugin}, in {export})"),
        (Some(trap), None) => format!("plugin {plugin} trapped in {export}: {}", short(*trap)),
        (None, None) => {
            format!("plugin {plugin} failed in {export}: {}", printable(&error.root_cause().to_string(), MAX_TEXT))
        }
    };
    MethodError::new(code::TRAPPED, message).with_help("this is a defect of the plugin: tell its author this message")
}

/// wasmtime's text without its prefix.
fn short(trap: Trap) -> String {
    let text = trap.to_string();
    text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_use_the_hosts_codes_nor_move_the_cursor() {
        let error = from_guest(types::Error {
            code: code::TRAPPED.into(),
            message: "gone\u{1b}[2J\nhelp: run this".into(),
            retryable: true,
            details: vec![],
        });
        assert_eq!(error.code, code::INTERNAL);
        assert_eq!(error.message, "gone\u{fffd}[2J help: run this");
        assert_eq!(error.details, [Attribute::new("code", "trapped")]);
    }
}
