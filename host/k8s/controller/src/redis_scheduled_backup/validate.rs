//! What a schedule's spec says, checked: pure. Everything after this step trusts it.

use std::time::Duration;

use redkeep_core::identifier::ClusterName;
use redkeep_core::schedule::{CHILD_SUFFIX, Concurrency, Rules, Schedule, jitter};
use redkeep_core::task::KeepRules;
use redkeep_core::units::parse_duration;
use redkeep_k8s_api::common::Retention;
use redkeep_k8s_api::endpoint::RedisEndpoint;
use redkeep_k8s_api::labels::{MAX_RUN_NAME, MAX_SCHEDULE_NAME};
use redkeep_k8s_api::redis_backup::RedisBackupSpec;
use redkeep_k8s_api::redis_scheduled_backup::{ConcurrencyPolicy, RedisScheduledBackupSpec};

use crate::common::Unresolved;
use crate::common::server;
use crate::settings::Settings;

/// A spec that can be followed.
#[derive(Debug)]
pub(super) struct Validated {
    pub(super) schedule: Schedule,
    pub(super) rules: Rules,
    pub(super) keep_successful: usize,
    pub(super) keep_failed: usize,
    /// `None`: everything stays in storage.
    pub(super) retention: Option<KeepRules>,
    /// When the newest backup is read again, where that has a schedule of its own.
    pub(super) verification: Option<Schedule>,
    /// Why nothing can be verified as asked. Backups are made all the same.
    pub(super) unverifiable: Option<String>,
}

/// Checks what the API server could not.
pub(super) fn validate(
    namespace: &str,
    name: &str,
    spec: &RedisScheduledBackupSpec,
    settings: &Settings,
) -> Result<Validated, Unresolved> {
    const { assert!(MAX_SCHEDULE_NAME + CHILD_SUFFIX == MAX_RUN_NAME, "a child's name fits") };
    if name.len() > MAX_SCHEDULE_NAME {
        let why = format!("has more than {MAX_SCHEDULE_NAME} characters; the names of its backups are made from it");
        return Err(Unresolved::invalid("metadata.name", why));
    }
    let schedule = Schedule::parse(&spec.schedule, Some(&spec.time_zone)).map_err(|error| {
        let field = if matches!(error, redkeep_core::schedule::InvalidSchedule::TimeZone { .. }) {
            "spec.timeZone"
        } else {
            "spec.schedule"
        };
        Unresolved::invalid(field, error)
    })?;
    let line = spec.backup.verification.as_ref().and_then(|verification| verification.schedule.as_deref());
    let verification = line.map(|line| Schedule::parse(line, Some(&spec.time_zone))).transpose();
    let verification = verification.map_err(|error| Unresolved::invalid("spec.verification.schedule", error))?;
    let cluster = spec.backup.cluster_name.as_deref();
    let asked = spec.backup.verification.as_ref();
    let unverifiable = asked.and_then(|asked| server::check(asked, cluster, settings).err()).map(|why| why.to_string());
    let span = spec.jitter.as_deref().map(parse_duration).transpose();
    let span = span.map_err(|error| Unresolved::invalid("spec.jitter", error))?.unwrap_or_default();
    Ok(Validated {
        schedule,
        rules: Rules {
            concurrency: match spec.concurrency_policy {
                ConcurrencyPolicy::Forbid => Concurrency::Forbid,
                ConcurrencyPolicy::Allow => Concurrency::Allow,
                ConcurrencyPolicy::Replace => Concurrency::Replace,
            },
            suspended: spec.suspend,
            immediate: spec.immediate,
            starting_deadline: spec
                .starting_deadline_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            jitter: jitter(namespace, name, span),
        },
        keep_successful: usize::try_from(spec.successful_backups_history_limit).unwrap_or(0),
        keep_failed: usize::try_from(spec.failed_backups_history_limit).unwrap_or(0),
        retention: spec.retention.as_ref().map(keep_rules).transpose()?,
        verification,
        unverifiable,
    })
}

pub(super) fn keep_rules(retention: &Retention) -> Result<KeepRules, Unresolved> {
    let count = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok());
    let within = retention.keep_within.as_deref().map(parse_duration).transpose();
    let rules = KeepRules {
        last: count(retention.keep_last),
        hourly: count(retention.keep_hourly),
        daily: count(retention.keep_daily),
        weekly: count(retention.keep_weekly),
        monthly: count(retention.keep_monthly),
        yearly: count(retention.keep_yearly),
        within_seconds: within
            .map_err(|error| Unresolved::invalid("spec.retention.keepWithin", error))?
            .map(|within| within.as_secs()),
    };
    if rules.is_empty() {
        // An empty set of rules keeps everything, which is not what somebody means who writes `retention`.
        return Err(Unresolved::invalid("spec.retention", "at least one rule must be set"));
    }
    Ok(rules)
}

/// The name under which storage keeps the backups of this source, as far as the spec alone says it.
pub(super) fn cluster_name(spec: &RedisBackupSpec) -> String {
    if let Some(name) = &spec.cluster_name {
        return name.clone();
    }
    let named = spec.source.as_ref().and_then(source_name).unwrap_or("unknown");
    ClusterName::from_address(named).as_str().to_owned()
}

fn source_name(source: &RedisEndpoint) -> Option<&str> {
    let named = source.name.as_deref();
    named
        .or(source.service.as_ref().map(|service| service.name.as_str()))
        .or(source.stateful_set.as_ref().map(|set| set.name.as_str()))
        .or(source.redis_failover.as_ref().map(|failover| failover.name.as_str()))
        .or(source.sentinel.as_ref().map(|sentinel| sentinel.master.as_str()))
        .or(source.endpoints.first().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_scheduled_backup::testing::spec;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn checked(name: &str, change: Value) -> Result<Validated, Unresolved> {
        validate("shop", name, &spec(change), &Settings::new("i", "n", "o"))
    }

    #[rstest]
    #[case(json!({"schedule": "0 0 30 2 *"}), "spec.schedule: no year has a day")]
    #[case(json!({"schedule": "@every 5m"}), "spec.schedule: `@every 5m` is unknown")]
    #[case(json!({"schedule": "0 0 0 * * *"}), "spec.schedule: a schedule has five fields")]
    #[case(json!({"timeZone": "Mars/Olympus"}), "spec.timeZone: `Mars/Olympus` is no time zone")]
    #[case(json!({"jitter": "soon"}), "spec.jitter: `soon`")]
    #[case(json!({"verification": {"schedule": "61 * * * *"}}), "spec.verification.schedule: `61`")]
    #[case(json!({"retention": {"keepWithin": "long"}}), "spec.retention.keepWithin: `long`")]
    #[case(json!({"retention": {}}), "spec.retention: at least one rule")]
    fn what_cannot_be_followed_is_refused_by_field(#[case] change: Value, #[case] expected: &str) {
        let error = checked("nightly", change).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_schedule_whose_verification_is_not_possible_is_followed_and_says_so() {
        let boot = json!({"clusterName": null, "verification": {"schedule": "@daily", "level": "boot"}});
        let why = checked("nightly", boot).unwrap().unverifiable.unwrap();
        assert!(why.starts_with("spec.verification.image: level boot needs"), "{why}");
        assert_eq!(checked("nightly", json!({})).unwrap().unverifiable, None);
    }

    #[test]
    fn a_name_too_long_for_its_children_is_refused() {
        let error = checked(&"n".repeat(40), json!({})).unwrap_err().to_string();
        assert!(error.starts_with("metadata.name: "), "{error}");
    }

    #[test]
    fn a_spec_becomes_rules() {
        let change = json!({
            "concurrencyPolicy": "Replace", "startingDeadlineSeconds": 60, "jitter": "1h", "suspend": true,
            "retention": {"keepDaily": 7, "keepWithin": "2d"}
        });
        let valid = checked("nightly", change).unwrap();
        assert_eq!(valid.rules.concurrency, Concurrency::Replace);
        assert_eq!(valid.rules.starting_deadline, Some(Duration::from_secs(60)));
        assert!(valid.rules.suspended && valid.rules.jitter <= Duration::from_secs(3600));
        let keep = KeepRules { daily: Some(7), within_seconds: Some(172_800), ..KeepRules::default() };
        assert_eq!((valid.retention, valid.keep_successful, valid.keep_failed), (Some(keep), 7, 3));
    }

    #[rstest]
    #[case(json!({"clusterName": "carts"}), "carts")]
    #[case(json!({"clusterName": null, "source": {"statefulSet": {"name": "redis"}}}), "redis")]
    #[case(json!({"clusterName": null, "source": {"statefulSet": {"name": "redis"}, "name": "carts"}}), "carts")]
    #[case(json!({"clusterName": null, "source": {"endpoints": ["10.0.0.1:6379"]}}), "10.0.0.1-6379")]
    fn a_source_has_the_name_that_storage_knows(#[case] change: Value, #[case] expected: &str) {
        assert_eq!(cluster_name(&spec(change).backup), expected);
    }
}
