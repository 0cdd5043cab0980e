//! The user's parameters, of capture and of restore.

use redkeep_sdk::rdb::restore::{PARAMETER_PROPERTIES, RestoreParameters};
use redkeep_sdk::{Error, parameters};
use serde::Deserialize;

/// Which way the data is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceRoute {
    /// Replication where there is a server, else files.
    #[default]
    Auto,
    /// `PSYNC`.
    Replication,
    /// `BGSAVE`, or the file as it lies there.
    Files,
}

/// Names that the schema knows; serde cannot refuse unknown ones beside flattened ones.
const KNOWN: [&str; 6] = ["source", "acl", "match", "db", "on-conflict", "ttl"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    pub(crate) source: SourceRoute,
    /// Take the ACL users as a second artifact.
    pub(crate) acl: bool,
    #[serde(flatten)]
    pub(crate) restore: RestoreParameters,
}

impl Parameters {
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        let fields: serde_json::Map<String, serde_json::Value> = parameters::parse(json)?;
        if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            let message = format!("there is no such parameter; there are {}", KNOWN.join(", "));
            return Err(parameters::fault(&format!("/{unknown}"), message));
        }
        let parsed: Self = parameters::parse(json)?;
        parsed.restore.databases()?;
        Ok(parsed)
    }
}

/// JSON Schema of the parameters.
pub(crate) fn schema() -> String {
    format!(
        r#"{{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
"properties": {{
"source": {{"enum": ["auto", "replication", "files"], "default": "auto",
 "description": "how the data is taken: by replication, or by BGSAVE and the data directory"}},
"acl": {{"type": "boolean", "default": false,
 "description": "take the ACL users too, as an artifact that must be encrypted"}},
{PARAMETER_PROPERTIES}}}}}"#
    )
}
