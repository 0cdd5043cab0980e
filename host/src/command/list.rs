//! `redkeep list`.

use clap::Args;
use redkeep_core::Timestamp;
use redkeep_core::catalog::CatalogEntry;
use redkeep_core::classify::Class;
use redkeep_core::provider::Providers;
use redkeep_core::task::VerifyLevel;
use redkeep_engine::catalog::{Problem, Scope};
use redkeep_engine::list::{check_scope, list};
use serde_json::Value;

use crate::arguments::{ScopeArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::table::{Side, Table};
use crate::output::text;
use crate::session::Session;

/// List the backups of a storage
#[derive(Args, Debug)]
pub(crate) struct ListCommand {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    storage: StorageArgs,
}

impl ScopeArgs {
    /// As the engine takes it.
    pub(super) fn spec(&self) -> Scope {
        Scope { namespace: self.namespace.clone(), cluster: self.cluster.clone() }
    }
}

impl ListCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let mut catalog =
            list(&self.storage.spec(), &self.scope.spec(), &session.providers(), &session.events()).await?;
        catalog.entries.sort_by_cached_key(CatalogEntry::age_order);
        session.progress.clear();
        for problem in &catalog.problems {
            session.progress.warn("warning", &problem_line(problem));
        }
        if catalog.entries.is_empty() {
            if catalog.problems.is_empty() {
                let (storage, scope) = (self.storage.spec(), self.scope.spec());
                check_scope(&storage, &scope, &session.providers(), &session.events()).await?;
            }
            session.progress.say(&format!("no backups in {}", self.storage.storage));
        }
        session.format.print(&values(&catalog.entries), || {
            if catalog.entries.is_empty() { String::new() } else { render(&catalog.entries, session.wiring.now()) }
        })?;
        // The list is whole, but a backup that cannot be read must not pass unseen.
        fail_for_damage(&catalog.problems)
    }
}

/// A failure for the first damaged backup, if there is one.
pub(crate) fn fail_for_damage(problems: &[Problem]) -> Result<(), Failure> {
    match problems.iter().find(|problem| problem.class == Class::Damaged) {
        Some(problem) => Err(Failure::new(Class::Damaged, "ManifestDamaged", problem_line(problem))
            .with_help("restore it from a copy, or delete it with `redkeep delete`")),
        None => Ok(()),
    }
}

pub(crate) fn problem_line(problem: &Problem) -> String {
    format!("{}/{}/{}: {}", problem.backup.namespace, problem.backup.cluster, problem.backup.backup_id, problem.message)
}

fn values(entries: &[CatalogEntry]) -> Vec<Value> {
    entries.iter().map(|entry| serde_json::to_value(entry).unwrap_or_default()).collect()
}

fn render(entries: &[CatalogEntry], now: Timestamp) -> String {
    // Nearly every storage without Kubernetes has but one namespace.
    let several_namespaces = entries.iter().any(|entry| entry.namespace != entries[0].namespace);
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("CLUSTER", Side::Left),
        ("METHOD", Side::Left),
        ("TYPE", Side::Left),
        ("SIZE", Side::Right),
        ("STORED", Side::Right),
        ("KEYS", Side::Right),
        ("AGE", Side::Right),
        ("VERIFIED", Side::Left),
        ("PIN", Side::Left),
    ]);
    for entry in entries {
        let verified = entry.verified.as_ref().map_or_else(
            || "-".to_owned(),
            |result| {
                let level = match result.level {
                    VerifyLevel::Checksum => "checksum",
                    VerifyLevel::Parse => "parse",
                    VerifyLevel::Boot => "boot",
                };
                let age = text::age(result.time, now);
                if result.ok { format!("{level} {age} ago") } else { format!("FAILED {level} {age} ago") }
            },
        );
        let cluster = if several_namespaces {
            format!("{}/{}", entry.namespace, entry.cluster)
        } else {
            entry.cluster.to_string()
        };
        table.row([
            entry.backup_id.to_string(),
            cluster,
            entry.method.clone(),
            entry.artifact_types.join(","),
            text::size(entry.size),
            text::size(entry.stored_size),
            entry.keys.map_or_else(|| "-".to_owned(), text::count),
            text::age(entry.started_at, now),
            verified,
            if entry.pinned { "pinned" } else { "" }.to_owned(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeep_core::catalog::VerificationSummary;

    fn entry(id: &str, namespace: &str) -> CatalogEntry {
        let started_at: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
        CatalogEntry {
            backup_id: id.parse().unwrap(),
            name: "n".into(),
            namespace: namespace.parse().unwrap(),
            cluster: "shop".parse().unwrap(),
            origin: "host:a".into(),
            started_at,
            completed_at: started_at,
            method: "redis-rdb".into(),
            artifact_types: vec!["rdb".into()],
            size: 1 << 30,
            stored_size: 300 << 20,
            shards: 1,
            keys: Some(1_234_567),
            encrypted: false,
            attempt: "a".parse().unwrap(),
            objects: 1,
            pinned: false,
            verified: None,
        }
    }

    #[test]
    fn the_table_shows_what_one_chooses_a_backup_by() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let first = entry("20261121T090000Z-shop-aaaaa", "default");
        let mut second = entry("20261121T090000Z-shop-bbbbb", "default");
        second.keys = None;
        second.pinned = true;
        second.verified = Some(VerificationSummary { time: now, level: VerifyLevel::Boot, ok: false });
        assert_eq!(
            render(&[first, second], now),
            "\
ID                           CLUSTER  METHOD     TYPE     SIZE     STORED       KEYS  AGE  VERIFIED            PIN
20261121T090000Z-shop-aaaaa  shop     redis-rdb  rdb   1.0 GiB  300.0 MiB  1,234,567   3h  -
20261121T090000Z-shop-bbbbb  shop     redis-rdb  rdb   1.0 GiB  300.0 MiB          -   3h  FAILED boot 0s ago  pinned
"
        );
    }

    #[test]
    fn namespaces_are_shown_where_there_are_several() {
        let now = Timestamp::UNIX_EPOCH;
        let text = render(&[entry("20261121T090000Z-a-aaaaa", "one"), entry("20261121T090000Z-a-bbbbb", "two")], now);
        assert!(text.contains("one/shop") && text.contains("two/shop"), "{text}");
    }

    #[test]
    fn json_is_an_array_with_the_id_of_each() {
        let values = values(&[entry("20261121T090000Z-a-aaaaa", "one")]);
        assert_eq!(values[0]["backupId"], "20261121T090000Z-a-aaaaa");
    }
}
