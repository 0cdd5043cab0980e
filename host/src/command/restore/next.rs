//! What the user does after a restore into a directory: starts the server that loads it, and gives a cluster's node its slots.

use std::fmt::Write;
use std::path::Path;

use redkeep_core::manifest::SlotRange;
use redkeep_core::task::{DirectoryTarget, RestoreTask, TargetSpec};
use redkeep_engine::restore::RestoreOutcome;

/// Lines for a shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextStep {
    /// Starts the server.
    pub(super) start: String,
    /// Gives it the slots of its shard; only where the shard is of a cluster.
    pub(super) slots: Option<String>,
}

impl NextStep {
    /// As it is shown under a restore.
    pub(super) fn text(&self) -> String {
        let mut text = format!("\nThe server that loads it starts with\n  {}\n", self.start);
        if let Some(slots) = &self.slots {
            let _ = write!(
                text,
                "It takes the slots that have keys. Once it has loaded, give it the others of its shard\n  {slots}\n\
                 and join the shards by CLUSTER MEET (docs/redis-notes.md, A Redis Cluster from directories)\n"
            );
        }
        text
    }
}

/// Nothing for a live target, which has its server.
pub(super) fn of(outcome: &RestoreOutcome, task: &RestoreTask) -> Option<NextStep> {
    let TargetSpec::Directory(target) = &task.target else { return None };
    let manifest = &outcome.manifest;
    let (_, shards) = super::shards_of(outcome);
    let is_restored = |name: &str| shards.iter().any(|shard| shard.shard == name);
    let record = manifest.shards.iter().find(|record| is_restored(record.name.as_str()));
    let slots = record.map_or(&[][..], |record| &record.slots);
    let is_append_only = |kind: &str| kind.starts_with("aof");
    let appendonly = target
        .appendonly
        .unwrap_or_else(|| manifest.artifacts.iter().any(|artifact| is_append_only(&artifact.artifact_type)));
    let server = manifest.facts.get("server-name").map_or("redis", String::as_str);
    let server = if server == "valkey" { "valkey" } else { "redis" };
    let directory = std::path::absolute(&target.path).unwrap_or_else(|_| target.path.clone());
    // A node without `nodes.conf` would also start outside of a cluster, and then be none that clients of one can use.
    let is_node = !slots.is_empty() || manifest.source.mode == "cluster";
    Some(NextStep {
        start: start_line(&directory, target, appendonly, server, outcome.databases, is_node),
        slots: slots_line(server, slots),
    })
}

/// The command line of a server that will load the directory; quoted for a shell.
fn start_line(
    directory: &Path,
    target: &DirectoryTarget,
    appendonly: bool,
    server: &str,
    databases: Option<u64>,
    is_node: bool,
) -> String {
    let mut words = vec![
        format!("{server}-server"),
        "--dir".to_owned(),
        quoted(&directory.display().to_string()),
        "--appendonly".to_owned(),
        if appendonly { "yes" } else { "no" }.to_owned(),
    ];
    let names = [
        ("--dbfilename", &target.dbfilename),
        ("--appenddirname", &target.appenddirname),
        ("--appendfilename", &target.appendfilename),
    ];
    for (option, name) in names {
        if let Some(name) = name {
            words.extend([option.to_owned(), quoted(name)]);
        }
    }
    if let Some(databases) = databases {
        words.extend(["--databases".to_owned(), databases.to_string()]);
    }
    if is_node {
        words.extend(["--cluster-enabled".to_owned(), "yes".to_owned()]);
    }
    words.join(" ")
}

/// Gives a node every slot of its shard, one by one: `CLUSTER ADDSLOTSRANGE` refuses a whole range when one slot of it is taken
/// ("already busy"), and those that have keys the node took when it loaded them.
fn slots_line(server: &str, slots: &[SlotRange]) -> Option<String> {
    let ranges: Vec<String> = slots.iter().map(|range| format!("seq {} {}", range.first, range.last)).collect();
    let numbers = match ranges.as_slice() {
        [] => return None,
        [range] => range.clone(),
        ranges => format!("({})", ranges.join("; ")),
    };
    // What is counted at the end is "OK" and whatever went wrong.
    Some(format!("{numbers} | sed 's/^/CLUSTER ADDSLOTS /' | {server}-cli | grep -v busy | sort | uniq -c"))
}

fn quoted(text: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-:+@%,=".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_can_be_pasted_into_a_shell() {
        let plain = DirectoryTarget::default();
        assert_eq!(
            start_line(Path::new("/data"), &plain, true, "redis", None, false),
            "redis-server --dir /data --appendonly yes"
        );
        assert_eq!(
            start_line(Path::new("/data"), &plain, false, "redis", Some(18), false),
            "redis-server --dir /data --appendonly no --databases 18"
        );
        assert_eq!(
            start_line(Path::new("/data"), &plain, false, "redis", None, true),
            "redis-server --dir /data --appendonly no --cluster-enabled yes"
        );
        let named = DirectoryTarget { dbfilename: Some("my dump.rdb".into()), ..DirectoryTarget::default() };
        assert_eq!(
            start_line(Path::new("/it's data"), &named, false, "valkey", None, false),
            r"valkey-server --dir '/it'\''s data' --appendonly no --dbfilename 'my dump.rdb'"
        );
    }

    #[test]
    fn a_node_is_given_the_slots_of_its_shard() {
        let range = |first, last| SlotRange { first, last };
        let rest = "| sed 's/^/CLUSTER ADDSLOTS /' | redis-cli | grep -v busy | sort | uniq -c";
        for (slots, expected) in [
            (vec![], None),
            (vec![range(0, 5460)], Some(format!("seq 0 5460 {rest}"))),
            (vec![range(0, 9), range(12, 12)], Some(format!("(seq 0 9; seq 12 12) {rest}"))),
        ] {
            assert_eq!(slots_line("redis", &slots), expected);
        }
        assert!(slots_line("valkey", &[range(0, 1)]).unwrap().contains("| valkey-cli |"));
    }

    #[test]
    fn only_a_cluster_is_told_of_slots() {
        let start = "redis-server --dir /data --appendonly no".to_owned();
        let alone = NextStep { start: start.clone(), slots: None };
        assert_eq!(alone.text(), format!("\nThe server that loads it starts with\n  {start}\n"));
        let node = NextStep { start, slots: slots_line("redis", &[SlotRange { first: 0, last: 5460 }]) };
        assert!(node.text().contains("\n  seq 0 5460 |") && node.text().contains("CLUSTER MEET"), "{}", node.text());
    }
}
