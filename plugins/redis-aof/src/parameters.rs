//! The user's parameters, and the route that they choose.

use redkeep_sdk::{Context, Error, parameters};
use serde::Deserialize;

use crate::clock;
use crate::marks::Until;

/// JSON Schema of the parameters.
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "source": {"type": "string", "enum": ["auto", "replication", "files"],
      "description": "capture: from a server by replication, or from its data directory; auto takes the server where there is one"},
    "window": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$",
      "description": "capture by replication: how long the command stream is kept open past the cut, e.g. 10s"},
    "until": {"type": "string",
      "description": "restore: stop at this time (RFC 3339) or replication offset"},
    "match": {"type": "array", "items": {"type": "string"}, "description": "restore: not possible with an append-only file"},
    "db": {"type": "array", "items": {"type": "string"}, "description": "restore: not possible with an append-only file"},
    "on-conflict": {"type": "string", "enum": ["fail", "skip", "replace"],
      "description": "restore: an append-only file needs an empty target, so only fail"},
    "ttl": {"type": "string", "enum": ["keep", "shift", "persist"],
      "description": "restore: commands carry expiries, so only keep"},
    "expired": {"type": "string", "enum": ["refuse", "warn"],
      "description": "restore into a live target: whether it is refused, or only warned of, that keys have expired on which later commands may depend"}
  }
}"#;

/// Where a capture reads from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Route {
    /// A server where there is one, else files.
    #[default]
    Auto,
    /// `PSYNC`.
    Replication,
    /// The data directory.
    Files,
}

/// What is done when a live target has no more what the commands were written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expired {
    /// Nothing is restored.
    #[default]
    Refuse,
    /// It is restored, and warned of.
    Warn,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Raw {
    source: Route,
    window: Option<String>,
    until: Option<String>,
    r#match: Vec<String>,
    db: Vec<String>,
    on_conflict: Option<String>,
    ttl: Option<String>,
    expired: Expired,
}

/// All parameters, read.
#[derive(Debug)]
pub(crate) struct Parameters {
    /// Where a capture reads from.
    pub(crate) route: Route,
    /// How long the stream is kept open past the cut, in milliseconds.
    pub(crate) window_ms: u64,
    /// Where a restore stops.
    pub(crate) until: Option<Until>,
    /// The first parameter that asks for what commands cannot do, e.g. `match`.
    pub(crate) unfit: Option<&'static str>,
    /// What a live restore does about keys that have expired.
    pub(crate) expired: Expired,
}

impl Parameters {
    /// Reads JSON; "invalid-parameters" names the fault.
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        let raw: Raw = parameters::parse(json)?;
        let window_ms = match &raw.window {
            None => 0,
            Some(text) => clock::parse_duration(text).ok_or_else(|| {
                parameters::fault("/window", format!("\"{text}\" is no duration such as 500ms, 10s, 5m or 1h"))
            })?,
        };
        let until = match &raw.until {
            None => None,
            Some(text) => Some(Until::parse(text).ok_or_else(|| {
                let example = "2026-11-21T09:13:48Z";
                parameters::fault(
                    "/until",
                    format!("\"{text}\" is neither a time such as {example} nor a replication offset"),
                )
            })?),
        };
        let unfit = [
            ("match", !raw.r#match.is_empty()),
            ("db", !raw.db.is_empty()),
            ("on-conflict", raw.on_conflict.as_deref().is_some_and(|value| value != "fail")),
            ("ttl", raw.ttl.as_deref().is_some_and(|value| value != "keep")),
        ];
        let unfit = unfit.into_iter().find_map(|(name, given)| given.then_some(name));
        Ok(Self { route: raw.source, window_ms, until, unfit, expired: raw.expired })
    }

    /// The route of this run, `auto` decided by what is at hand.
    pub(crate) fn route(&self, context: &Context) -> Result<Route, Error> {
        let (redis, files) = (context.has_capability("redis"), context.has_capability("files"));
        match self.route {
            Route::Replication | Route::Auto if redis => Ok(Route::Replication),
            Route::Files | Route::Auto if files => Ok(Route::Files),
            Route::Replication => Err(Error::refused(
                "source replication needs a server, and this run has none",
                "name a server with --source, or use the parameter source=files",
            )),
            Route::Files => Err(Error::refused(
                "source files needs the data directory, and this run has none",
                "name the data directory of the server, or use the parameter source=replication",
            )),
            Route::Auto => Err(Error::refused(
                "this run has neither a server nor a data directory",
                "name a server with --source, and grant redis:replicate",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use redkeep_sdk::{Attribute, code};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("redis files", "auto", Some(Route::Replication))]
    #[case("files", "auto", Some(Route::Files))]
    #[case("redis files", "files", Some(Route::Files))]
    #[case("redis", "files", None)]
    #[case("files", "replication", None)]
    #[case("", "auto", None)]
    fn the_route_follows_from_what_is_at_hand(
        #[case] capabilities: &str,
        #[case] source: &str,
        #[case] route: Option<Route>,
    ) {
        let context = Context::from(vec![Attribute::new("capabilities", capabilities)]);
        let parameters = Parameters::parse(&format!(r#"{{"source":"{source}"}}"#)).unwrap();
        let found = parameters.route(&context);
        assert_eq!(found.as_ref().ok(), route.as_ref());
        assert!(found.err().is_none_or(|error| error.code == code::REFUSED && error.detail("help").is_some()));
    }

    #[rstest]
    #[case(r#"{"window":"10"}"#, "/window")]
    #[case(r#"{"until":"yesterday"}"#, "/until")]
    #[case(r#"{"source":"tape"}"#, "/")]
    #[case(r#"{"expired":"keep"}"#, "/")]
    #[case(r#"{"sauce":"files"}"#, "/")]
    fn faults_are_named_by_their_pointer(#[case] json: &str, #[case] pointer: &str) {
        let error = Parameters::parse(json).unwrap_err();
        assert_eq!(error.code, code::INVALID_PARAMETERS);
        assert!(error.detail(pointer).is_some(), "{error:?}");
    }

    #[test]
    fn the_schema_is_json_and_filters_are_told_apart() {
        assert!(serde_json::from_str::<serde_json::Value>(SCHEMA).is_ok());
        assert_eq!(Parameters::parse(r#"{"match":["a*"]}"#).unwrap().unfit, Some("match"));
        assert_eq!(Parameters::parse(r#"{"ttl":"keep","on-conflict":"fail","db":[]}"#).unwrap().unfit, None);
        assert_eq!(Parameters::parse("").unwrap().window_ms, 0);
    }
}
