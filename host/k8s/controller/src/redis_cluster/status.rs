//! The status that follows from a look, and what is said of it. Pure.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use redkeep_core::facts::commands_follow;
use redkeep_core::task::TaskReport;
use redkeep_k8s_api::conditions::{ACCEPTED, PROGRESSING, READY, RESTORED, reasons};
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::{BootstrapStatus, ClusterPhase, MemberStatus, RedisClusterStatus};

use super::bootstrap::{self, Restore};
use super::build::restore::task_key;
use super::decide::{Member, Plan, Seen, Stage};
use super::{look, names};
use crate::apply::{ConditionUpdate, set_condition, whole_seconds};
use crate::common::{Unresolved, report};
use crate::outcome::Outcome;
use redkeep_core::classify::Classify;

/// A lag below this is none; above, tens of seconds are enough to know.
const LAG_SHOWN: u64 = 10;

/// Writes conditions of one look.
struct Writer {
    status: RedisClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
}

impl Writer {
    fn new(cluster: &RedisCluster, now: Timestamp) -> Self {
        let mut status = cluster.status.clone().unwrap_or_default();
        let generation = cluster.metadata.generation;
        status.observed_generation = generation;
        status.selector = Some(names::selector_text(&cluster.name_any()));
        Self { status, generation, now }
    }

    fn set(&mut self, kind: &str, value: bool, reason: &str, message: &str) {
        let update = ConditionUpdate { kind, status: Some(value), reason, message: message.to_owned() };
        set_condition(&mut self.status.conditions, update, self.generation, self.now);
    }

    fn accepted(&mut self) {
        self.set(ACCEPTED, true, reasons::VALID, "the spec can be followed");
    }

    /// What is wanted is not made. One that serves already goes on as it is.
    fn hindered(&mut self, reason: &str, message: &str) {
        self.set(PROGRESSING, false, reason, message);
        if self.status.epoch.is_none() {
            self.set(READY, false, reason, message);
            self.status.phase = Some(ClusterPhase::Failed);
        }
    }

    fn done(self, before: Option<&RedisClusterStatus>) -> (RedisClusterStatus, Option<Outcome>) {
        let outcome = news(before, &self.status);
        (self.status, outcome)
    }
}

/// A phase that was not there before is worth an Event.
fn news(before: Option<&RedisClusterStatus>, after: &RedisClusterStatus) -> Option<Outcome> {
    let phase = after.phase?;
    if before.and_then(|before| before.phase) == Some(phase) {
        return None;
    }
    let about = match phase {
        ClusterPhase::Restoring => RESTORED,
        ClusterPhase::Failed if is_false(after, RESTORED) => RESTORED,
        ClusterPhase::Failed | ClusterPhase::Pending if is_false(after, ACCEPTED) => ACCEPTED,
        _ => READY,
    };
    let condition = after.conditions.iter().find(|condition| condition.type_ == about)?;
    let (reason, message) = (condition.reason.clone(), condition.message.clone());
    Some(match phase {
        ClusterPhase::Failed | ClusterPhase::Degraded | ClusterPhase::FailingOver => {
            Outcome::warning("Cluster", reason, message)
        }
        _ => Outcome::normal("Cluster", reason, message),
    })
}

fn is_false(status: &RedisClusterStatus, kind: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "False")
}

/// Why what is wanted is not made, while the instances are looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hindrance {
    /// The spec itself cannot be followed.
    is_spec: bool,
    /// Everything else is as it should be.
    is_minor: bool,
    reason: String,
    message: String,
}

impl Hindrance {
    pub(super) fn of_spec(why: &Unresolved) -> Self {
        Self { is_spec: true, is_minor: false, reason: why.reason().to_owned(), message: why.to_string() }
    }

    pub(super) fn of_object(error: &super::ClusterError) -> Self {
        let is_minor = matches!(error, super::ClusterError::ClaimNotGrown { .. });
        Self {
            is_spec: false,
            is_minor,
            reason: error.reason().to_owned(),
            message: redkeep_core::classify::chain(error),
        }
    }
}

/// The spec cannot be followed.
pub(super) fn refused(
    cluster: &RedisCluster,
    why: &Unresolved,
    now: Timestamp,
) -> (RedisClusterStatus, Option<Outcome>) {
    let mut writer = Writer::new(cluster, now);
    let (reason, message) = (why.reason(), why.to_string());
    writer.set(ACCEPTED, false, reason, &message);
    // One that serves already goes on as it is.
    if writer.status.epoch.is_none() {
        writer.set(READY, false, reason, &message);
        writer.status.phase = Some(ClusterPhase::Failed);
    }
    writer.done(cluster.status.as_ref())
}

/// Something else has the name of what the cluster needs first.
pub(super) fn hindered(
    cluster: &RedisCluster,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> (RedisClusterStatus, Option<Outcome>) {
    let mut writer = Writer::new(cluster, now);
    writer.accepted();
    writer.hindered(reason, message);
    writer.done(cluster.status.as_ref())
}

/// The restore, while there is nothing else.
pub(super) fn restoring(
    cluster: &RedisCluster,
    restore: &Restore,
    now: Timestamp,
) -> (RedisClusterStatus, Option<Outcome>) {
    let mut writer = Writer::new(cluster, now);
    writer.accepted();
    let (phase, reason, message) = of_restore(&mut writer.status, cluster, restore, now);
    if let Some(phase) = phase {
        writer.status.phase = Some(phase);
        writer.set(RESTORED, false, &reason, &message);
        writer.set(READY, false, &reason, &message);
        writer.set(PROGRESSING, phase == ClusterPhase::Restoring, &reason, &message);
    }
    writer.done(cluster.status.as_ref())
}

/// What a restore leaves in the status, and what is said of it; no phase where nothing is to be said.
fn of_restore(
    status: &mut RedisClusterStatus,
    cluster: &RedisCluster,
    restore: &Restore,
    now: Timestamp,
) -> (Option<ClusterPhase>, String, String) {
    let mut bootstrap = status.bootstrap.clone().unwrap_or_default();
    let said = match restore {
        Restore::None => return (None, String::new(), String::new()),
        Restore::Wait { reason, message, is_failed } => {
            let phase = if *is_failed { ClusterPhase::Failed } else { ClusterPhase::Pending };
            (Some(phase), reason.clone(), message.clone())
        }
        Restore::Begin { validated, attempt } => {
            bootstrap = BootstrapStatus {
                backup_id: Some(validated.selector.backup.clone()),
                backup_path: Some(validated.storage.address.clone()),
                task_name: Some(task_key(cluster, *attempt).name),
                started_at: Some(Time(whole_seconds(now))),
                process: status.primary_process.clone(),
                attempts: Some(*attempt),
                error: bootstrap.error,
                reason: bootstrap.reason,
                ..BootstrapStatus::default()
            };
            let message = format!("restoring {} from {}", validated.selector.backup, validated.storage.address);
            (Some(ClusterPhase::Restoring), reasons::RESTORING.to_owned(), message)
        }
        Restore::Renew { claim } => {
            bootstrap.reason = None;
            let message = format!("claim {} was filled in part and is made anew", claim.name);
            (Some(ClusterPhase::Restoring), reasons::PREPARING.to_owned(), message)
        }
        Restore::Follow { reason, message, progress } => {
            if let Some(heard) = progress {
                bootstrap.progress = Some(report::progress(bootstrap.progress.as_ref(), heard, now));
            }
            (Some(ClusterPhase::Restoring), reason.clone(), message.clone())
        }
        Restore::Failed { reason, message, retry_at, attempts } => {
            // One that was filled has lost that.
            bootstrap.filled = None;
            bootstrap.only_copy = None;
            bootstrap.progress = None;
            bootstrap.completed_at.get_or_insert(Time(whole_seconds(now)));
            bootstrap.error = Some(report::error_text(message));
            bootstrap.reason = Some(reason.chars().take(64).collect());
            bootstrap.retry_at = Some(Time(whole_seconds(*retry_at)));
            bootstrap.attempts = Some(*attempts);
            let message = format!("attempt {attempts}: {message}; tried again at {}", whole_seconds(*retry_at));
            (Some(ClusterPhase::Failed), reason.clone(), message)
        }
        Restore::Done { report } => {
            done(&mut bootstrap, report, now);
            bootstrap.only_copy = (cluster.spec.ephemeral.is_some() && cluster.spec.instances > 1).then_some(true);
            let message = "the backup is in place; the server has not loaded it yet".to_owned();
            (Some(ClusterPhase::Restoring), reasons::STARTING.to_owned(), message)
        }
    };
    status.bootstrap = Some(bootstrap);
    said
}

fn done(bootstrap: &mut BootstrapStatus, report: &TaskReport, now: Timestamp) {
    bootstrap.filled = Some(true);
    bootstrap.completed_at = Some(Time(whole_seconds(now)));
    bootstrap.progress = None;
    bootstrap.error = None;
    bootstrap.reason = None;
    bootstrap.retry_at = None;
    if let Some(id) = &report.backup_id {
        bootstrap.backup_id = Some(id.to_string());
    }
    if let Some(manifest) = &report.manifest {
        bootstrap.backup_path = Some(manifest.clone());
    }
    bootstrap.keys_expected = report::number(report, "keys");
    bootstrap.expires_expected = report::number(report, "expires");
    bootstrap.comparable = Some(!commands_follow(&report.facts));
    bootstrap.keys_loaded = report::number(report, "keys-restored");
    bootstrap.keys_expired = report::number(report, "keys-expired-skipped");
}

/// A look at instances, and, for a cluster without claims, the restore into the first.
pub(super) fn looked(
    cluster: &RedisCluster,
    seen: &Seen,
    plan: &Plan,
    troubles: &[(String, String)],
    restore: &Restore,
    hindrance: Option<&Hindrance>,
    now: Timestamp,
) -> (RedisClusterStatus, Option<Outcome>) {
    let mut writer = Writer::new(cluster, now);
    match hindrance.filter(|hindrance| hindrance.is_spec) {
        Some(Hindrance { reason, message, .. }) => writer.set(ACCEPTED, false, reason, message),
        None => writer.accepted(),
    }
    look::write(&plan.truth, &mut writer.status, now);
    members(seen, &mut writer.status);
    if let Some((loaded, expired)) = plan.loaded {
        let bootstrap = writer.status.bootstrap.get_or_insert_default();
        bootstrap.keys_loaded = i64::try_from(loaded).ok();
        bootstrap.keys_expired = expired.and_then(|expired| i64::try_from(expired).ok());
    }
    let has_second = seen.members.values().any(Member::is_in_sync) || cluster.spec.instances <= 1;
    if let Some(bootstrap) = &mut writer.status.bootstrap
        && matches!(plan.stage, Stage::Serving { .. })
        && bootstrap::is_shared(now, bootstrap, plan.truth.process.as_ref(), has_second)
    {
        bootstrap.only_copy = None;
    }
    let all_serve = (0..seen.wanted.instances).all(|ordinal| {
        let member = seen.members.get(&names::pod(&seen.wanted.cluster, ordinal));
        member.is_some_and(|member| serves(seen, member))
    });
    match &plan.stage {
        Stage::Creating { message } => {
            let (reason, message) = first_trouble(troubles, reasons::CREATING, message);
            writer.set(READY, false, &reason, &message);
            writer.set(PROGRESSING, true, &reason, &message);
            writer.status.phase = Some(ClusterPhase::Creating);
        }
        Stage::KeysDiffer { message } => {
            writer.set(RESTORED, false, reasons::KEYS_DIFFER, message);
            writer.set(READY, false, reasons::KEYS_DIFFER, message);
            writer.set(PROGRESSING, false, reasons::KEYS_DIFFER, message);
            writer.status.phase = Some(ClusterPhase::Failed);
        }
        Stage::Lost { message } => {
            writer.set(READY, false, reasons::NO_PRIMARY, message);
            let (reason, message) = first_trouble(troubles, reasons::NO_PRIMARY, message);
            writer.set(PROGRESSING, false, &reason, &message);
            // Not decided yet: it may only be slow.
            let was_serving = writer.status.phase.is_some_and(ClusterPhase::serves);
            let is_new = seen.holder_missed < super::decide::LOOKS_UNTIL_LOST;
            writer.status.phase =
                Some(if was_serving && is_new { ClusterPhase::Degraded } else { ClusterPhase::FailingOver });
        }
        Stage::FailingOver { message } => {
            writer.set(READY, false, reasons::FAILING_OVER, message);
            writer.set(PROGRESSING, true, reasons::FAILING_OVER, message);
            writer.status.phase = Some(ClusterPhase::FailingOver);
        }
        Stage::Serving { .. } if seen.is_hidden => hidden(&mut writer, cluster, restore, now),
        Stage::Serving { progress } => serving(&mut writer, seen, all_serve, progress.as_ref(), troubles, cluster),
    }
    if let Some(Hindrance { reason, message, is_minor, .. }) = hindrance {
        if !is_minor {
            writer.hindered(reason, message);
        } else if is_false(&writer.status, PROGRESSING) {
            // Said when nothing else goes on.
            writer.set(PROGRESSING, false, reason, message);
        }
    }
    writer.done(cluster.status.as_ref())
}

fn hidden(writer: &mut Writer, cluster: &RedisCluster, restore: &Restore, now: Timestamp) {
    let mut status = writer.status.clone();
    let (phase, reason, message) = of_restore(&mut status, cluster, restore, now);
    writer.status = status;
    writer.status.phase = phase.or(Some(ClusterPhase::Restoring));
    let is_only_copy = writer.status.bootstrap.as_ref().is_some_and(bootstrap::is_only_copy);
    let (reason, message) = match (reason.as_str(), is_only_copy) {
        ("", true) => (reasons::RESTORING, "restored; no client is led to it before a replica has it too".to_owned()),
        ("", false) => (reasons::RESTORING, "the restore is about to begin".to_owned()),
        (reason, _) => (reason, message),
    };
    writer.set(RESTORED, false, reason, &message);
    writer.set(READY, false, reason, &message);
    writer.set(PROGRESSING, true, reason, &message);
}

fn serving(
    writer: &mut Writer,
    seen: &Seen,
    all_serve: bool,
    progress: Option<&(&'static str, String)>,
    troubles: &[(String, String)],
    cluster: &RedisCluster,
) {
    let ready = writer.status.ready_instances.unwrap_or(0);
    let primary = seen.truth.primary.clone().unwrap_or_default();
    let refused: Vec<String> = seen
        .members
        .values()
        .filter_map(|member| member.standing.as_ref())
        .flat_map(|standing| &standing.refused_config)
        .map(|(key, words)| format!("{key}: {words}"))
        .collect();
    if all_serve {
        writer.set(READY, true, reasons::HEALTHY, &format!("{primary} is primary; {ready} instances serve"));
        writer.status.phase = Some(ClusterPhase::Healthy);
    } else {
        let fallback = format!("{primary} is primary; {ready} of {} instances serve", seen.wanted.instances);
        let (_, message) = first_trouble(troubles, reasons::DEGRADED, &fallback);
        writer.set(READY, true, reasons::DEGRADED, &message);
        // A cluster that was never whole is still being made.
        let was_whole = writer.status.phase.is_some_and(|phase| {
            matches!(phase, ClusterPhase::Healthy | ClusterPhase::Degraded | ClusterPhase::FailingOver)
        });
        writer.status.phase = Some(if was_whole { ClusterPhase::Degraded } else { ClusterPhase::Creating });
    }
    if cluster.spec.bootstrap.is_some() {
        let bootstrap = writer.status.bootstrap.clone().unwrap_or_default();
        let loaded = bootstrap.keys_loaded.or(bootstrap.keys_expected).unwrap_or(0);
        let message = match bootstrap.keys_expired.filter(|expired| *expired > 0) {
            Some(expired) => format!("{loaded} keys restored, {expired} had expired"),
            None => format!("{loaded} keys restored"),
        };
        writer.set(RESTORED, true, reasons::COMPLETED, &message);
    }
    match progress {
        Some((reason, message)) => writer.set(PROGRESSING, true, reason, message),
        None if !refused.is_empty() => {
            writer.set(PROGRESSING, false, reasons::CONFIG_REFUSED, &config_refused(&refused));
        }
        None => writer.set(PROGRESSING, false, reasons::AS_WANTED, "nothing is left to do"),
    }
}

/// What is refused while Redis runs is in the file that it reads when it starts.
fn config_refused(refused: &[String]) -> String {
    format!(
        "Redis refused: {}; it goes on with what it had, but started anew it would end at once, again and again: put that right \
         before a pod restarts",
        refused.join("; ")
    )
}

fn first_trouble(troubles: &[(String, String)], reason: &str, message: &str) -> (String, String) {
    match troubles.first() {
        Some((reason, trouble)) => (reason.clone(), format!("{message}; {trouble}")),
        None => (reason.to_owned(), message.to_owned()),
    }
}

/// Whether an instance is as it should be: the primary granted, a replica in sync.
fn serves(seen: &Seen, member: &Member) -> bool {
    let is_primary = seen.truth.primary.as_deref() == Some(&member.pod);
    let is_granted = member
        .standing
        .as_ref()
        .is_some_and(|standing| standing.role == redkeep_core::managed::Played::Primary && standing.serving);
    !member.is_terminating && if is_primary { is_granted } else { member.is_in_sync() }
}

fn members(seen: &Seen, status: &mut RedisClusterStatus) {
    let count = |number: usize| i32::try_from(number).ok();
    status.instances = count(seen.members.len());
    status.ready_instances = count(seen.members.values().filter(|member| serves(seen, member)).count());
    status.members = seen
        .members
        .values()
        .take(16)
        .map(|member| {
            let standing = member.standing.as_ref();
            let lag = standing.and_then(|standing| standing.lag_seconds).filter(|lag| *lag >= LAG_SHOWN);
            MemberStatus {
                name: member.pod.clone(),
                role: standing.map(|standing| standing.role.as_str().to_owned()),
                ready: serves(seen, member),
                replication_id: standing.map(|standing| standing.replication_id.clone()).filter(|id| !id.is_empty()),
                lag_seconds: lag.and_then(|lag| i64::try_from(lag / LAG_SHOWN * LAG_SHOWN).ok()),
                message: standing
                    .and_then(|standing| standing.message.clone())
                    .map(|text| text.chars().take(256).collect()),
            }
        })
        .collect();
    let primary = seen.truth.primary.as_ref().and_then(|primary| seen.members.get(primary));
    let version = primary.and_then(|member| member.standing.as_ref()).filter(|standing| !standing.version.is_empty());
    if let Some(standing) = version {
        let name = if standing.server == "valkey" { "valkey-" } else { "" };
        status.server_version = Some(format!("{name}{}", standing.version).chars().take(64).collect());
    }
}
