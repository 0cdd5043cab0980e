//! The user's choices for a live restore, and whether the target can take the dataset.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::context::Context;
use crate::rdb::format;
use crate::{Attribute, Error, parameters};

/// What happens to a key that the target has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// The run ends with an error.
    #[default]
    Fail,
    /// The target's value stays.
    Skip,
    /// The backup's value takes its place.
    Replace,
}

/// What happens to expiries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ttl {
    /// Keys expire when they would have expired; what has expired by now is skipped.
    #[default]
    Keep,
    /// Keys live on as long as they had left when the backup was made.
    Shift,
    /// Keys never expire.
    Persist,
}

/// The parameters of a restore into a live target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RestoreParameters {
    /// Patterns; a key that matches any is restored. None: all keys.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Databases to restore, each `N` or `N:M` (into database M). None: all, each into its own.
    pub db: Vec<String>,
    /// Keys that exist.
    pub on_conflict: Option<OnConflict>,
    /// Expiries.
    pub ttl: Option<Ttl>,
}

/// JSON Schema of the parameters, to be merged into a method's `properties`.
pub const PARAMETER_PROPERTIES: &str = r#""match": {"type": "array", "items": {"type": "string", "minLength": 1},
 "description": "restore only keys that match one of these patterns (live targets)"},
"db": {"type": "array", "items": {"type": "string", "pattern": "^[0-9]+(:[0-9]+)?$"},
 "description": "restore only these databases, N or N:M to put N into M (live targets)"},
"on-conflict": {"enum": ["fail", "skip", "replace"],
 "description": "what to do with a key that the target has (live targets; default fail)"},
"ttl": {"enum": ["keep", "shift", "persist"],
 "description": "keep expiry times, shift them by the backup's age, or drop them (live targets; default keep)"}"#;

impl RestoreParameters {
    /// Whether anything is chosen that a data directory cannot have.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether keys are left out by choice.
    pub fn is_filtered(&self) -> bool {
        !self.patterns.is_empty() || !self.db.is_empty()
    }

    /// The chosen databases and where each goes; none: all.
    ///
    /// # Errors
    /// "invalid-parameters" with the entry at fault.
    pub fn databases(&self) -> Result<Option<BTreeMap<u64, u64>>, Error> {
        let mut map = BTreeMap::new();
        for (place, text) in self.db.iter().enumerate() {
            let (from, to) = text.split_once(':').unwrap_or((text, text));
            let (Ok(from), Ok(to)) = (from.parse(), to.parse()) else {
                return Err(parameters::fault(&format!("/db/{place}"), format!("`{text}` is neither N nor N:M")));
            };
            if map.insert(from, to).is_some() {
                return Err(parameters::fault(&format!("/db/{place}"), format!("database {from} is named twice")));
            }
        }
        Ok((!map.is_empty()).then_some(map))
    }
}

/// Whether a live target can take a dataset with these facts (of `capture`), before anything is touched.
///
/// # Errors
/// "refused": the target's RDB version is older, a database is out of range, a cluster has only database 0.
pub fn check_target(context: &Context, facts: &[Attribute], parameters: &RestoreParameters) -> Result<(), Error> {
    let fact = |key: &str| crate::attribute::find(facts, key);
    let needed = fact("rdb-version").and_then(|text| text.parse::<u64>().ok());
    if fact("rdb-magic") == Some("VALKEY")
        && !context.get("server-name").is_some_and(|name| name.eq_ignore_ascii_case("valkey"))
    {
        return Err(Error::refused(
            "the backup is of Valkey 9 or later, whose format Redis does not read",
            "restore into Valkey of the same version or newer",
        ));
    }
    if let (Some(needed), Some(offered)) = (needed, target_rdb_version(context)?)
        && !reads(offered, needed)
    {
        return Err(version_refusal(context, needed, offered));
    }
    let chosen = parameters.databases()?;
    let held = fact("databases").unwrap_or_default().split(',').filter_map(|number| number.parse::<u64>().ok());
    let count = context.number("databases")?;
    for database in held {
        let Some(into) = chosen.as_ref().map_or(Some(database), |map| map.get(&database).copied()) else { continue };
        if context.target() == "cluster" && into != 0 {
            return Err(Error::refused(
                format!("the backup holds keys in database {database}, and a cluster has only database 0"),
                format!("choose databases, e.g. --db 0, or put it into 0 by --db {database}:0"),
            ));
        }
        if let Some(count) = count
            && into >= count
        {
            return Err(Error::refused(
                format!("keys of database {database} would go into {into}, and the target has {count} databases"),
                format!("raise `databases` in the target's configuration, or put them elsewhere by --db {database}:M"),
            ));
        }
    }
    Ok(())
}

/// Whether a server whose own RDB version is `offered` reads a file of version `needed`: all up to its own, but Valkey from 9
/// on (80) none of Redis's from 12 on.
pub fn reads(offered: u64, needed: u64) -> bool {
    let foreign = offered >= u64::from(format::VALKEY_9) && (12..u64::from(format::VALKEY_9)).contains(&needed);
    needed <= offered && !foreign
}

/// The refusal of a server that does not [read](reads) the backup.
pub fn version_refusal(context: &Context, needed: u64, offered: u64) -> Error {
    let server = format!(
        "{} {}",
        context.get_or("server-name", "redis"),
        context.get_or("server-version", "(version not known)")
    );
    if needed <= offered {
        return Error::refused(
            format!("the backup has RDB version {needed} of Redis, and the target, {server}, loads Redis's up to 11"),
            "restore into Redis of the source's version or newer",
        );
    }
    Error::refused(
        format!("the backup has RDB version {needed}, and the target, {server}, loads at most {offered}"),
        "restore into a server of the source's version or newer",
    )
}

/// The highest RDB version that the target takes: told by the host, else known by its version.
pub fn target_rdb_version(context: &Context) -> Result<Option<u64>, Error> {
    if let Some(version) = context.number("rdb-version")? {
        return Ok(Some(version));
    }
    let version = context.get("server-version");
    Ok(version
        .and_then(|version| format::rdb_version_of_server(context.get_or("server-name", "redis"), version))
        .map(u64::from))
}
