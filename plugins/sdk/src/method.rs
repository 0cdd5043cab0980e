//! The trait that a method implements, and the macro that makes it a component.

use crate::attribute::{Attribute, Facts};
use crate::error::Error;
use crate::host::Host;

/// What a method says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The method's name, e.g. `redis-rdb`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its parameters.
    pub parameters_schema: String,
    /// What it asks to be granted, e.g. `redis:replicate`, `?redis:command:BGSAVE`; `?` in front: it can do without.
    pub requests: Vec<String>,
    /// `targets`: what `restore` can write to; `reads`: artifact types it restores; both separated by spaces.
    pub attributes: Vec<Attribute>,
}

/// A way to capture one kind of data and to put it back. Every call runs in a fresh instance: nothing lives on between
/// calls.
pub trait Method {
    /// What the method is. Touches nothing.
    fn describe() -> Info;
    /// "invalid-parameters" has one detail for each fault: JSON pointer and message.
    fn validate(parameters: &str) -> Result<(), Error>;
    /// Called before the first `capture` or `restore` (context `run` says which). Changes nothing; "refused", or what
    /// would be done.
    fn plan(host: &dyn Host) -> Result<Facts, Error>;
    /// Reads the source, writes artifacts, returns facts.
    fn capture(host: &dyn Host) -> Result<Facts, Error>;
    /// Reads artifacts, writes the target, returns facts.
    fn restore(host: &dyn Host) -> Result<Facts, Error>;
    /// Reads the artifacts whole; "damaged", or what they hold. A fact that `capture` reported must have the same
    /// value.
    fn verify(host: &dyn Host) -> Result<Facts, Error>;
    /// Answers questions about the artifacts. JSON in, JSON out; `{}` asks for a summary.
    fn inspect(host: &dyn Host, query: &str) -> Result<String, Error>;
}

/// Makes a [`Method`] the component's export: `redkeep_sdk::export!(MyMethod);`, once per crate. On other targets than
/// WebAssembly it only checks that the type is a method.
#[macro_export]
macro_rules! export {
    ($method:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::guest_of!(Component, $method);
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Info = <$method as $crate::Method>::describe;
    };
}
