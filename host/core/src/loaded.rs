//! A plugin that was registered: what the task `load` found, and how that travels in a report of 4 KiB.
//!
//! What has no room is left out whole, never cut: half a schema, or half a list of requests, would be a lie.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::attribute::find;
use crate::method::MethodInfo;
use crate::report_facts::{METHOD, METHOD_DIGEST};
use crate::task::TaskReport;

/// Bytes of a component.
pub const COMPONENT_SIZE: &str = "component-size";
/// The version of the contract that it was built for.
pub const API_VERSION: &str = "api-version";
/// How long compiling took, in milliseconds; missing where the code came from a cache.
pub const COMPILE_MILLISECONDS: &str = "compile-ms";
/// The reference by digest, where it came from a registry.
pub const REFERENCE: &str = "reference";
/// `yes` where a signature was demanded and held.
pub const SIGNED: &str = "signed";
const VERSION: &str = "method-version";
const SUMMARY: &str = "method-summary";
const SCHEMA: &str = "method-schema";
/// Lists are JSON.
const GRANTED: &str = "granted";
const MISSING: &str = "missing";
const ATTRIBUTES: &str = "method-attributes";

/// The most bytes that the schema, each list of requests, and the attributes take in a report.
const SCHEMA_ROOM: usize = 900;
const LIST_ROOM: usize = 600;
const ATTRIBUTES_ROOM: usize = 500;

/// A plugin that was fetched, checked, compiled and asked what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedMethod {
    /// What it says of itself.
    pub info: MethodInfo,
    /// SHA-256 of the component, lower-case hexadecimal.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// The version of the contract that it was built for.
    pub api_version: String,
    /// The reference by digest, where it came from a registry.
    pub reference: Option<String>,
    /// Whether a signature was demanded, and held.
    pub signed: bool,
    /// How long compiling took; `None` where its code came from a cache.
    pub compiled_in: Option<Duration>,
    /// What it asks for and has; `?` begins what it can do without.
    pub granted: Vec<String>,
    /// What it asks for and has not, likewise.
    pub missing: Vec<String>,
}

/// What the report of a `load` task says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadFacts {
    /// The name that the plugin gives itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// Its bytes.
    pub size: Option<u64>,
    /// The version of the contract.
    pub api_version: String,
    /// The reference by digest.
    pub reference: Option<String>,
    /// Whether a signature was demanded, and held.
    pub signed: bool,
    /// How long compiling took.
    pub compiled_in: Option<Duration>,
    /// What it asks for and has; as many as had room.
    pub granted: Vec<String>,
    /// What it asks for and has not; what it cannot do without comes first.
    pub missing: Vec<String>,
    /// JSON Schema of its parameters, where it had room.
    pub parameters_schema: Option<String>,
    /// What else it says, as far as it had room.
    pub attributes: BTreeMap<String, String>,
}

impl LoadedMethod {
    /// As facts of a report.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        let mut fact = |key: &str, value: String| drop(facts.insert(key.to_owned(), value));
        fact(METHOD, self.info.name.clone());
        fact(METHOD_DIGEST, self.digest.clone());
        fact(VERSION, self.info.version.clone());
        fact(SUMMARY, self.info.summary.clone());
        fact(COMPONENT_SIZE, self.size.to_string());
        fact(API_VERSION, self.api_version.clone());
        if let Some(reference) = &self.reference {
            fact(REFERENCE, reference.clone());
        }
        if self.signed {
            fact(SIGNED, "yes".to_owned());
        }
        if let Some(time) = self.compiled_in {
            fact(COMPILE_MILLISECONDS, time.as_millis().to_string());
        }
        fact(GRANTED, list(self.granted.iter()));
        let (optional, required): (Vec<&String>, _) = self.missing.iter().partition(|one| one.starts_with('?'));
        fact(MISSING, list(required.into_iter().chain(optional)));
        if self.info.parameters_schema.len() <= SCHEMA_ROOM {
            fact(SCHEMA, self.info.parameters_schema.clone());
        }
        let mut room = ATTRIBUTES_ROOM;
        let attributes: BTreeMap<&str, &str> = self
            .info
            .attributes
            .iter()
            .map(|attribute| (attribute.key.as_str(), attribute.value.as_str()))
            .filter(|(key, value)| has_room(&mut room, key.len() + value.len()))
            .collect();
        fact(ATTRIBUTES, serde_json::to_string(&attributes).unwrap_or_default());
        facts
    }

    /// The value of an attribute.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        find(&self.info.attributes, key)
    }
}

impl LoadFacts {
    /// What a report says; `None` where it is no report of a plugin that was loaded.
    pub fn of(report: &TaskReport) -> Option<Self> {
        let fact = |key: &str| report.facts.get(key).cloned();
        let names = |key: &str| fact(key).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let number = |key: &str| fact(key).and_then(|text| text.parse::<u64>().ok());
        Some(Self {
            name: fact(METHOD)?,
            version: fact(VERSION).unwrap_or_default(),
            summary: fact(SUMMARY).unwrap_or_default(),
            digest: fact(METHOD_DIGEST)?,
            size: number(COMPONENT_SIZE),
            api_version: fact(API_VERSION).unwrap_or_default(),
            reference: fact(REFERENCE),
            signed: fact(SIGNED).is_some(),
            compiled_in: number(COMPILE_MILLISECONDS).map(Duration::from_millis),
            granted: names(GRANTED),
            missing: names(MISSING),
            parameters_schema: fact(SCHEMA),
            attributes: fact(ATTRIBUTES).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        })
    }
}

/// The first of these that have room, as JSON.
fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut room = LIST_ROOM;
    let fitting: Vec<&String> = names.take_while(|name| has_room(&mut room, name.len())).collect();
    serde_json::to_string(&fitting).unwrap_or_default()
}

/// Takes what quotes, colon and comma add as well.
fn has_room(room: &mut usize, wanted: usize) -> bool {
    match room.checked_sub(wanted + 6) {
        Some(left) => {
            *room = left;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attribute;
    use crate::task::Outcome;

    fn loaded() -> LoadedMethod {
        LoadedMethod {
            info: MethodInfo {
                name: "key-listing".into(),
                version: "1.2.0".into(),
                summary: "Keys, one by one".into(),
                parameters_schema: r#"{"type":"object"}"#.into(),
                requests: vec!["redis:info".into(), "?redis:load".into(), "files:read:a".into()],
                attributes: vec![Attribute::new("reads", "keys"), Attribute::new("targets", "server")],
            },
            digest: "ab".repeat(32),
            size: 300_000,
            api_version: "0.1.0".into(),
            reference: Some("oci://r.io/k@sha256:00".into()),
            signed: true,
            compiled_in: Some(Duration::from_millis(120)),
            granted: vec!["redis:info".into()],
            missing: vec!["?redis:load".into(), "files:read:a".into()],
        }
    }

    fn report(loaded: &LoadedMethod) -> TaskReport {
        let now = crate::Timestamp::UNIX_EPOCH;
        TaskReport {
            outcome: Outcome::Done,
            started_at: now,
            ended_at: now,
            backup_id: None,
            manifest: None,
            facts: loaded.facts(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn what_was_found_is_read_again() {
        let facts = LoadFacts::of(&report(&loaded())).unwrap();
        assert_eq!((facts.name.as_str(), facts.size, facts.signed), ("key-listing", Some(300_000), true));
        assert_eq!(facts.missing, ["files:read:a", "?redis:load"], "what it cannot do without comes first");
        assert_eq!(facts.compiled_in, Some(Duration::from_millis(120)));
        assert_eq!(facts.attributes["reads"], "keys");
        assert_eq!(facts.parameters_schema.as_deref(), Some(r#"{"type":"object"}"#));
    }

    #[test]
    fn what_has_no_room_is_left_out_whole_and_the_report_fits() {
        let mut large = loaded();
        large.info.parameters_schema = format!(r#"{{"title":"{}"}}"#, "x".repeat(20_000));
        large.missing = (0..90).map(|number| format!("files:read:{number:0>200}")).collect();
        large.granted.clone_from(&large.missing);
        large.info.attributes = (0..200).map(|number| Attribute::new(format!("k{number}"), "v".repeat(100))).collect();
        let report = report(&large);
        let facts = LoadFacts::of(&report).unwrap();
        assert_eq!(facts.parameters_schema, None);
        assert!(facts.missing.iter().all(|one| large.missing.contains(one)) && !facts.missing.is_empty());
        assert!(serde_json::to_vec(&report).unwrap().len() <= crate::task::MAX_REPORT_BYTES);
    }

    #[test]
    fn another_report_is_not_of_a_plugin() {
        let mut other = report(&loaded());
        other.facts.remove(METHOD_DIGEST);
        assert_eq!(LoadFacts::of(&other), None);
    }
}
