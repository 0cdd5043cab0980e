//! `redkeep prune`.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use redkeep_core::retention::Decision;
use redkeep_core::task::{KeepRules, PruneTask};
use redkeep_engine::list::check_scope;
use redkeep_engine::prune::{PruneOutcome, prune};
use serde_json::Value;

use crate::arguments::values::duration;
use crate::arguments::{ScopeArgs, StorageArgs};
use crate::output::failure::Failure;
use crate::output::table::{Side, Table};
use crate::output::text;
use crate::session::Session;
use crate::wiring::Wiring;

/// Delete what no rule keeps, and what killed runs left behind
///
/// A backup kept by any rule is kept; pinned ones and the newest good one of each cluster always are. Without a rule only
/// garbage goes.
#[derive(Args, Debug)]
pub(crate) struct PruneCommand {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_hourly: Option<u32>,
    /// The same for days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_daily: Option<u32>,
    /// The same for ISO weeks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_weekly: Option<u32>,
    /// The same for months
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_monthly: Option<u32>,
    /// The same for years
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_yearly: Option<u32>,
    /// Keep everything younger than this, e.g. 14d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    keep_within: Option<Duration>,
    /// Only backups of this origin are counted and deleted [default: host:NAME of this machine]
    #[arg(long, value_name = "NAME", env = "REDKEEP_ORIGIN", conflicts_with = "any_origin")]
    origin: Option<String>,
    /// Backups of every origin
    #[arg(long)]
    any_origin: bool,
    /// Garbage younger than this stays; must be longer than any backup may run
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
    grace: Duration,
    /// Show what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    storage: StorageArgs,
}

impl PruneCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let task = self.task(&Wiring::origin());
        let outcome = prune(&task, &session.providers(), &session.events()).await?;
        session.progress.clear();
        session.warnings(&outcome.warnings);
        if outcome.error.is_none() && outcome.is_of_nothing() {
            check_scope(&task.storage, &self.scope.spec(), &session.providers(), &session.events()).await?;
        }
        session.format.print(&value(&outcome, self.dry_run), || render(&outcome, self.dry_run, self.grace))?;
        outcome.error.map_or(Ok(()), |error| Err(Failure::from(error)))
    }

    fn task(&self, own_origin: &str) -> PruneTask {
        let origin = self.origin.clone().unwrap_or_else(|| own_origin.to_owned());
        PruneTask {
            storage: self.storage.spec(),
            namespace: self.scope.namespace.clone(),
            cluster: self.scope.cluster.clone(),
            keep: KeepRules {
                last: self.keep_last,
                hourly: self.keep_hourly,
                daily: self.keep_daily,
                weekly: self.keep_weekly,
                monthly: self.keep_monthly,
                yearly: self.keep_yearly,
                within_seconds: self.keep_within.map(|age| age.as_secs()),
            },
            origin: (!self.any_origin).then_some(origin),
            grace_seconds: self.grace.as_secs(),
            as_of: None,
            dry_run: self.dry_run,
        }
    }
}

fn value(outcome: &PruneOutcome, dry_run: bool) -> Value {
    serde_json::json!({
        "dryRun": dry_run,
        "decisions": outcome.decisions,
        "deleted": outcome.deleted,
        "garbage": outcome.garbage,
        "uploads": outcome.uploads,
        "youngGarbageCount": outcome.young_garbage,
        "youngUploadCount": outcome.young_uploads,
        "problems": outcome.problems,
        "foreign": outcome.foreign,
        "foreignCount": outcome.foreign_count,
        "warnings": outcome.warnings,
    })
}

fn render(outcome: &PruneOutcome, dry_run: bool, grace: Duration) -> String {
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("CLUSTER", Side::Left),
        ("STORED", Side::Right),
        ("FATE", Side::Left),
        ("WHY", Side::Left),
    ]);
    for decision in &outcome.decisions {
        table.row([
            decision.backup.backup_id.to_string(),
            decision.backup.cluster.to_string(),
            text::size(decision.stored_size),
            fate(decision, outcome, dry_run).to_owned(),
            decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ]);
    }
    let mut lines = if outcome.decisions.is_empty() { String::new() } else { table.render() };
    let freed = outcome.decisions.iter().filter(|decision| !decision.keep).map(|decision| decision.stored_size);
    let freed = freed.fold(0, u64::saturating_add);
    let garbage = outcome.garbage.iter().map(|object| object.size).fold(0, u64::saturating_add);
    let going = outcome.decisions.iter().filter(|decision| !decision.keep).count();
    let (verb, backups) = if dry_run { ("would delete", going) } else { ("deleted", outcome.deleted.len()) };
    let _ = writeln!(
        lines,
        "{verb} {backups} backup(s) of {}, {} left-over object(s) of {}, {} unfinished upload(s)",
        text::size(freed),
        outcome.garbage.len(),
        text::size(garbage),
        outcome.uploads.len(),
    );
    if outcome.young_garbage + outcome.young_uploads > 0 {
        let _ = writeln!(
            lines,
            "left {} left-over object(s) and {} unfinished upload(s) to which something was written within {} (--grace)",
            outcome.young_garbage,
            outcome.young_uploads,
            text::duration(grace),
        );
    }
    lines
}

fn fate(decision: &Decision, outcome: &PruneOutcome, dry_run: bool) -> &'static str {
    match (decision.keep, dry_run) {
        (true, _) => "keep",
        (false, true) => "would delete",
        (false, false) if outcome.deleted.contains(&decision.backup) => "deleted",
        (false, false) => "NOT DELETED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::parse;
    use redkeep_core::catalog::BackupRef;
    use redkeep_core::retention::Reason;

    const WEEK: Duration = Duration::from_secs(7 * 86_400);

    fn task(line: &str) -> PruneTask {
        match parse(line).unwrap().command {
            Command::Prune(command) => command.task("host:here"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rules_arrive_and_only_the_own_origin_is_touched_unless_told() {
        let all = task(
            "prune --storage /s --keep-last 1 --keep-hourly 2 --keep-daily 3 --keep-weekly 4 --keep-monthly 5 \
             --keep-yearly 6 --keep-within 2w --grace 0s --dry-run",
        );
        let keep = KeepRules {
            last: Some(1),
            hourly: Some(2),
            daily: Some(3),
            weekly: Some(4),
            monthly: Some(5),
            yearly: Some(6),
            within_seconds: Some(14 * 86_400),
        };
        assert_eq!((all.keep, all.grace_seconds, all.dry_run), (keep, 0, true));
        assert_eq!(all.origin.as_deref(), Some("host:here"));
        assert_eq!(task("prune --storage /s --any-origin").origin, None);
        assert_eq!(task("prune --storage /s --origin x").origin.as_deref(), Some("x"));
        assert_eq!(task("prune --storage /s").grace_seconds, 7 * 86_400);
        assert!(task("prune --storage /s").keep.is_empty());
    }

    #[test]
    fn every_backup_is_shown_with_its_reasons() {
        let decision = |id: &str, keep, reasons| Decision {
            backup: BackupRef {
                namespace: "default".parse().unwrap(),
                cluster: "shop".parse().unwrap(),
                backup_id: id.parse().unwrap(),
            },
            started_at: redkeep_core::Timestamp::UNIX_EPOCH,
            stored_size: 2048,
            keep,
            reasons,
        };
        let kept =
            decision("20261121T090000Z-a-aaaaa", true, vec![Reason::Pinned, Reason::Last { position: 1, of: 3 }]);
        let gone = decision("20261121T080000Z-a-bbbbb", false, vec![Reason::NotKept]);
        let mut outcome = PruneOutcome { decisions: vec![kept, gone.clone()], ..PruneOutcome::default() };
        assert_eq!(
            render(&outcome, true, WEEK),
            "\
ID                        CLUSTER   STORED  FATE          WHY
20261121T090000Z-a-aaaaa  shop     2.0 KiB  keep          pinned, last (1 of 3)
20261121T080000Z-a-bbbbb  shop     2.0 KiB  would delete  no rule keeps it
would delete 1 backup(s) of 2.0 KiB, 0 left-over object(s) of 0 B, 0 unfinished upload(s)
"
        );
        assert!(render(&outcome, false, WEEK).contains("NOT DELETED"));
        outcome.deleted.push(gone.backup);
        assert!(render(&outcome, false, WEEK).contains("deleted 1 backup(s)"));
        (outcome.young_garbage, outcome.young_uploads) = (3, 1);
        let left = "left 3 left-over object(s) and 1 unfinished upload(s) to which something was written within 168h00m (--grace)\n";
        assert!(render(&outcome, true, WEEK).ends_with(left), "{}", render(&outcome, true, WEEK));
    }
}
