//! Facts that a capture reports of its artifacts, held against what the host measured of them.
//!
//! Most facts only the method can know, and its `verify` finds them again. Of these the host knows better: `artifacts` (how many),
//! `bytes` (of all of them) and, for each type of artifact, `TYPE-bytes`.

use redkeep_core::Attribute;
use redkeep_core::attribute::find;
use redkeep_core::method::{MethodError, code};
use redkeep_core::stream::Artifact;

use crate::text::printable;

/// Ends the key of a fact that tells the bytes of the artifacts of one type.
const BYTES: &str = "-bytes";

/// What the host measured under this key, where it measured it.
fn measured(key: &str, artifacts: &[Artifact]) -> Option<u64> {
    let bytes = |artifacts: &mut dyn Iterator<Item = &Artifact>| {
        artifacts.fold(0_u64, |sum, artifact| sum.saturating_add(artifact.size))
    };
    match key {
        "artifacts" => Some(artifacts.len() as u64),
        "bytes" => Some(bytes(&mut artifacts.iter())),
        _ => {
            let kind = key.strip_suffix(BYTES)?;
            let mut of_kind = artifacts.iter().filter(|artifact| find(&artifact.attributes, "type") == Some(kind));
            // A fact of that name about something else is the plugin's own.
            let first = of_kind.next()?;
            Some(bytes(&mut std::iter::once(first).chain(of_kind)))
        }
    }
}

/// Refuses facts that contradict the artifacts.
pub(crate) fn check(plugin: &str, facts: &[Attribute], artifacts: &[Artifact]) -> Result<(), MethodError> {
    for fact in facts {
        let Some(measured) = measured(&fact.key, artifacts) else { continue };
        if fact.value != measured.to_string() {
            let (key, said) = (printable(&fact.key, 200), printable(&fact.value, 200));
            let message = format!("plugin {plugin} reported {key} {said:?}, and what it wrote has {measured}");
            return Err(MethodError::new(code::FACTS, message)
                .with_help("this is a defect of the plugin: tell its author this message"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn artifact(name: &str, kind: &str, size: u64) -> Artifact {
        let attributes = vec![Attribute::new("type", kind)];
        Artifact { name: name.to_owned(), size, sha256: String::new(), attributes }
    }

    #[rstest]
    #[case::their_number("artifacts", "3", true)]
    #[case::another_number("artifacts", "2", false)]
    #[case::all_bytes("bytes", "16", true)]
    #[case::too_many_bytes("bytes", "17", false)]
    #[case::bytes_that_are_no_number("bytes", "many", false)]
    #[case::bytes_in_another_spelling("bytes", "016", false)]
    #[case::of_one_type("rdb-bytes", "12", true)]
    #[case::less_of_one_type("rdb-bytes", "5", false)]
    #[case::of_no_type_there("aof-bytes", "1", true)]
    #[case::what_only_the_method_knows("keys", "1", true)]
    fn what_the_host_measured_counts(#[case] key: &str, #[case] value: &str, #[case] holds: bool) {
        let artifacts = [artifact("a", "rdb", 5), artifact("b", "acl", 4), artifact("c", "rdb", 7)];
        let checked = check("x", &[Attribute::new("other", "1"), Attribute::new(key, value)], &artifacts);
        assert_eq!(checked.is_ok(), holds, "{checked:?}");
        if let Err(error) = checked {
            assert!(error.code == code::FACTS && error.message.contains(key), "{error}");
        }
    }
}
