//! What came of a step, held against what must.

use std::collections::BTreeMap;

use bytes::Bytes;
use redkeep_core::Attribute;
use redkeep_core::attribute::find;
use redkeep_core::method::MethodError;

use super::scenario::{Content, Step};
use super::world::State;

/// Everything that is not as it must be.
pub(super) fn faults_of(
    step: &Step,
    answer: &Result<Vec<Attribute>, MethodError>,
    state: &State,
) -> Result<Vec<String>, String> {
    let expected = &step.expect;
    let mut faults = Vec::new();
    match (answer, &expected.error) {
        (Ok(_), None) => {}
        (Ok(_), Some(code)) => faults.push(format!("it succeeded, and the error {code} was expected")),
        (Err(error), None) => faults.push(format!("it failed ({}): {}", error.code, error.message)),
        (Err(error), Some(code)) if error.code == *code => {}
        (Err(error), Some(code)) => {
            faults.push(format!("it failed with {} ({}), and {code} was expected", error.code, error.message));
        }
    }
    if let Ok(facts) = answer {
        for (key, value) in &expected.facts {
            let found = find(facts, key);
            if found != Some(value) {
                faults.push(format!("the fact {key} is {}, not {value}", found.unwrap_or("missing")));
            }
        }
    }
    if let Some(wanted) = &expected.artifacts {
        let found = state.artifacts.iter().map(|(artifact, bytes)| (artifact.name.as_str(), bytes)).collect();
        contents("artifact", wanted, &found, &mut faults)?;
    }
    if let Some(wanted) = &expected.files {
        let found = state.files.iter().map(|(path, bytes)| (path.as_str(), bytes)).collect();
        contents("file", wanted, &found, &mut faults)?;
    }
    if let Some(wanted) = &expected.loaded {
        faults.extend(difference("what was loaded", &wanted.bytes()?, &state.loaded));
    }
    if let Some(wanted) = &expected.logged
        && !state.log.iter().any(|(_, line)| line.contains(wanted.as_str()))
    {
        faults.push(format!("no line of the log has {wanted:?}"));
    }
    Ok(faults)
}

fn contents(
    kind: &str,
    wanted: &BTreeMap<String, Content>,
    found: &BTreeMap<&str, &Bytes>,
    faults: &mut Vec<String>,
) -> Result<(), String> {
    for (name, content) in wanted {
        match found.get(name.as_str()) {
            Some(bytes) => faults.extend(difference(&format!("the {kind} {name}"), &content.bytes()?, bytes)),
            None => faults.push(format!("there is no {kind} {name}")),
        }
    }
    let surplus = found.keys().filter(|name| !wanted.contains_key(**name));
    faults.extend(surplus.map(|name| format!("there is a {kind} {name}, which was not expected")));
    Ok(())
}

fn difference(what: &str, wanted: &[u8], found: &[u8]) -> Option<String> {
    if wanted == found {
        return None;
    }
    let same = wanted.iter().zip(found).take_while(|(one, other)| one == other).count();
    Some(format!("{what} has {} bytes, and {} were expected; they differ at byte {same}", found.len(), wanted.len()))
}
