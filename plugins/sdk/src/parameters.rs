//! The user's parameters as a typed value.
//!
//! The host holds them against the schema of `describe` before a plugin sees them; serde gives them types, and
//! [`fault`] says what neither can:
//!
//! ```
//! use redkeep_sdk::{Error, parameters};
//! use serde::Deserialize;
//!
//! #[derive(Default, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Parameters {
//!     from: u32,
//!     to: u32,
//! }
//!
//! fn validate(json: &str) -> Result<(), Error> {
//!     let Parameters { from, to } = parameters::parse(json)?;
//!     if from > to {
//!         return Err(parameters::fault("/from", "must not be above `to`"));
//!     }
//!     Ok(())
//! }
//!
//! assert!(validate("{}").is_ok());
//! assert!(validate(r#"{"from": 1, "too": 2}"#).unwrap_err().message.contains("unknown field `too`"));
//! assert_eq!(validate(r#"{"from": 3, "to": 2}"#).unwrap_err().detail("/from"), Some("must not be above `to`"));
//! ```

use serde::de::DeserializeOwned;

use crate::error::{Error, code};
use crate::host::Host;

/// Parses parameters (JSON; empty text means none). `T` should `deny_unknown_fields`.
///
/// # Errors
/// "invalid-parameters" with the detail `pointer` = message.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    serde_json::from_str(json).map_err(|error| {
        Error::new(code::INVALID_PARAMETERS, format!("failed to read the parameters: {error}")).with_detail("/", error)
    })
}

/// The parameters of the run.
pub fn of<T: DeserializeOwned>(host: &dyn Host) -> Result<T, Error> {
    parse(&host.parameters())
}

/// A faulty parameter: `pointer` is its JSON pointer.
pub fn fault(pointer: &str, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(code::INVALID_PARAMETERS, format!("parameter {pointer}: {message}")).with_detail(pointer, message)
}
