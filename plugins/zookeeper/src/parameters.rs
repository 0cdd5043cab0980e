//! The user's parameters.

use redkeep_sdk::{Error, parameters};
use serde::Deserialize;

/// What a restore does with a target that holds znodes already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnConflict {
    /// Refuses it.
    #[default]
    Fail,
    /// Gives those of the backup's names the backup's data and list, and leaves the others.
    Replace,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Parameters {
    pub(crate) on_conflict: OnConflict,
}

impl Parameters {
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        parameters::parse(json)
    }
}

/// JSON Schema of the parameters.
pub(crate) const SCHEMA: &str = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
"additionalProperties": false, "properties": {
"on-conflict": {"enum": ["fail", "replace"], "default": "fail",
 "description": "restore into an ensemble that holds znodes: refuse, or replace those that the backup has"}}}"#;
