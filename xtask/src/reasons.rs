//! Every reason that the operator gives must be explained in docs/operations.md, in the first column of a table.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::workspace::root;

const DOCUMENT: &str = "docs/operations.md";
/// Reasons that conditions of every kind share, a constant each.
const CONSTANTS: &str = "host/k8s/api/src/conditions.rs";
/// Where reasons of tasks are read from what Kubernetes says, as literals.
const LITERALS: [&str; 3] = [
    "host/k8s/controller/src/executor/job/observe.rs",
    "host/k8s/controller/src/executor/job.rs",
    "host/src/executor/mounts.rs",
];
/// What waits for a moment is shown as another reason, or not at all.
const PASSING: [&str; 2] = ["PodNotCreated", "PodStarting"];

/// Checks that no reason is missing in the document.
pub(crate) fn check() -> Result<()> {
    let read =
        |path: &str| std::fs::read_to_string(root().join(path)).with_context(|| format!("failed to read {path}"));
    let mut given = constants(&read(CONSTANTS)?);
    ensure!(given.len() > 40, "{CONSTANTS} has {} reasons only: is it written otherwise now?", given.len());
    for path in LITERALS {
        let found = literals(&read(path)?);
        ensure!(!found.is_empty(), "{path} has no reasons: are they written otherwise now?");
        given.extend(found);
    }
    let known = explained(&read(DOCUMENT)?);
    let missing: Vec<String> =
        given.into_iter().filter(|reason| !known.contains(reason) && !PASSING.contains(&reason.as_str())).collect();
    ensure!(missing.is_empty(), "{DOCUMENT} does not explain {}", missing.join(", "));
    Ok(())
}

/// The words of `pub const NAME: &str = "Word";` in module `reasons`.
fn constants(text: &str) -> BTreeSet<String> {
    let (_, module) = text.split_once("pub mod reasons").unwrap_or_default();
    let lines = module.lines().filter(|line| line.trim_start().starts_with("pub const "));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Words that begin a pair `("Word", message)`, an argument of a closure that makes one, a constant, or a field `reason`. Tests are left out.
fn literals(text: &str) -> BTreeSet<String> {
    let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
    // Code and strings by turns.
    let pieces: Vec<&str> = code.split('"').collect();
    let strings = pieces.windows(3).step_by(2).filter(|around| {
        let (before, after) = (around[0].trim_end(), around[2]);
        let is_pair = before.ends_with('(') && after.starts_with(',');
        let is_argument = before.ends_with("refused(") || before.ends_with("because(");
        let is_constant = before.ends_with("&str =");
        is_pair || is_argument || is_constant || before.ends_with("reason:")
    });
    strings.map(|around| around[1]).filter(|word| is_reason(word)).map(str::to_owned).collect()
}

fn is_reason(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase()) && word.chars().all(|one| one.is_ascii_alphanumeric())
}

/// Words in backticks in the first column of any table.
fn explained(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.filter(|word| is_reason(word)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn every_reason_is_explained() {
        check().unwrap();
    }

    #[test]
    fn reasons_are_found_where_they_are_given_and_where_they_are_explained() {
        let text = "pub const READY: &str = \"Ready\";\npub mod reasons {\n    /// Yes.\n    pub const VALID: &str = \"Valid\";\n}";
        assert_eq!(constants(text), set(&["Valid"]));
        let text = "match x { Some(\"DeadlineExceeded\") => (\"PodGone\", said), condition(job, \"Failed\") }
            return because(\"PodKilled\", it); refused(\"QuotaExceeded\"); T { reason: \"NoReport\".to_owned() }
            const LOST: &str = \"PodLost\";
            #[cfg(test)] (\"Other\", 1)";
        assert_eq!(literals(text), set(&["PodGone", "PodKilled", "QuotaExceeded", "NoReport", "PodLost"]));
        let text =
            "`Elsewhere`\n| reason | what |\n| --- | --- |\n| `PodGone`, `PodLost` (`False`) | see `PodKilled` |\n";
        assert_eq!(explained(text), set(&["PodGone", "PodLost", "False"]));
    }
}
