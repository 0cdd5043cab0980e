//! Schedules of one source and one storage share its backups there, so what one of them keeps no other may delete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource, ResourceExt};
use redkeep_core::task::KeepRules;
use redkeep_k8s_api::backup_storage::BackupStorage;
use redkeep_k8s_api::redis_backup::RedisBackupSpec;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use super::validate::{cluster_name, keep_rules};
use crate::common::Unresolved;
use crate::common::storage::{self, StorageAccess};

type Guarded = DeserializeGuard<RedisScheduledBackup>;

/// Another schedule, and what it keeps; `None`: everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sibling {
    pub(super) name: String,
    pub(super) keep: Option<KeepRules>,
}

/// The cache of all schedules, once there is one.
#[derive(Default)]
pub(super) struct Siblings(OnceLock<Store<Guarded>>);

impl Siblings {
    pub(super) fn are_in(&self, cache: Store<Guarded>) {
        let _ = self.0.set(cache);
    }

    /// All schedules.
    pub(super) fn all(&self) -> Vec<Arc<Guarded>> {
        self.0.get().map(Store::state).unwrap_or_default()
    }

    /// Those of this schedule, by name. Reads each BackupStorage that one of them names.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(super) async fn of(
        &self,
        schedule: &RedisScheduledBackup,
        client: &Client,
    ) -> Result<Vec<Sibling>, Unresolved> {
        let all = self.all();
        let namespace = schedule.namespace().unwrap_or_default();
        let others: Vec<&RedisScheduledBackup> =
            candidates(schedule, &all).filter_map(|other| other.0.as_ref().ok()).collect();
        let mut places = Places::new();
        if !others.is_empty() {
            let storage_of = |schedule: &RedisScheduledBackup| schedule.spec.backup.storage_ref.clone();
            let names: BTreeSet<String> =
                others.into_iter().chain([schedule]).filter_map(storage_of).map(|storage| storage.name).collect();
            let api: Api<BackupStorage> = Api::namespaced(client.clone(), &namespace);
            for name in names {
                let found = api.get_opt(&name).await.map_err(Unresolved::read(format!("BackupStorage {name}")))?;
                let access = found.and_then(|storage| storage::access_of(&storage).ok());
                places.extend(access.map(|access| (name, place(&access))));
            }
        }
        Ok(find(schedule, &all, &places))
    }
}

/// Where each BackupStorage lies, by its name.
type Places = BTreeMap<String, String>;

/// Other schedules of the namespace that back up the same source. One that nobody can read may be of any.
fn candidates<'a>(schedule: &RedisScheduledBackup, all: &'a [Arc<Guarded>]) -> impl Iterator<Item = &'a Guarded> {
    let (namespace, uid) = (schedule.namespace(), schedule.uid());
    let cluster = cluster_name(&schedule.spec.backup);
    all.iter().map(Arc::as_ref).filter(move |other| {
        let metadata = other.meta();
        metadata.namespace == namespace
            && metadata.uid != uid
            && metadata.deletion_timestamp.is_none()
            && other.0.as_ref().map_or(true, |other| cluster_name(&other.spec.backup) == cluster)
    })
}

fn find(schedule: &RedisScheduledBackup, all: &[Arc<Guarded>], places: &Places) -> Vec<Sibling> {
    let mut found: Vec<Sibling> =
        candidates(schedule, all).filter_map(|other| sibling(other, schedule, places)).collect();
    found.sort_by(|left, right| left.name.cmp(&right.name));
    found
}

/// Rules that nobody can follow are no reason to delete, and what nobody can read, or find, may be in the same storage.
fn sibling(other: &Guarded, schedule: &RedisScheduledBackup, places: &Places) -> Option<Sibling> {
    let name = other.meta().name.clone().unwrap_or_default();
    let Ok(other) = &other.0 else { return Some(Sibling { name, keep: None }) };
    let keep = match share_storage(&other.spec.backup, &schedule.spec.backup, places) {
        Some(false) => return None,
        Some(true) => other.spec.retention.as_ref().and_then(|retention| keep_rules(retention).ok()),
        None => None,
    };
    Some(Sibling { name, keep })
}

/// By where the backups lie, however the way there is described; `None`: that is not known of one of them.
fn share_storage(one: &RedisBackupSpec, other: &RedisBackupSpec, places: &Places) -> Option<bool> {
    if one.storage_ref.is_some() && one.storage_ref == other.storage_ref {
        return Some(true);
    }
    let of = |spec: &RedisBackupSpec| match (&spec.destination, &spec.storage_ref) {
        (Some(destination), None) => Some(place(&storage::access(destination, None).ok()?)),
        (None, Some(storage)) => places.get(&storage.name).cloned(),
        _ => None,
    };
    Some(of(one)? == of(other)?)
}

/// Where a storage lies, spelled in one way. The endpoint is no part of it: one server has many names, and taking two servers for one
/// keeps more, never less.
fn place(access: &StorageAccess) -> String {
    let (scheme, path) = access.address.split_once("://").unwrap_or(("", &access.address));
    // Google serves its buckets by the protocol of S3 too.
    let is_google = access.spec.endpoint.as_deref().is_some_and(|endpoint| endpoint.contains("storage.googleapis.com"));
    let scheme = if is_google { "gs" } else { scheme };
    let path: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("{scheme}://{}", path.join("/"))
}

/// Rules that keep what any of them keeps. Where one keeps everything no rule is left, and only garbage goes.
pub(super) fn union(own: &KeepRules, siblings: &[Sibling]) -> KeepRules {
    siblings.iter().try_fold(own.clone(), |sum, sibling| Some(larger(&sum, sibling.keep.as_ref()?))).unwrap_or_default()
}

/// Each rule keeps the more the larger its number is, and a backup that any rule keeps is kept.
fn larger(one: &KeepRules, other: &KeepRules) -> KeepRules {
    KeepRules {
        last: one.last.max(other.last),
        hourly: one.hourly.max(other.hourly),
        daily: one.daily.max(other.daily),
        weekly: one.weekly.max(other.weekly),
        monthly: one.monthly.max(other.monthly),
        yearly: one.yearly.max(other.yearly),
        within_seconds: one.within_seconds.max(other.within_seconds),
    }
}

/// What to add to what a retention run says; empty without siblings.
pub(super) fn remark(siblings: &[Sibling]) -> String {
    const MOST_NAMES: usize = 5;
    let listed = |of: &mut dyn Iterator<Item = &Sibling>| {
        of.take(MOST_NAMES).map(|sibling| sibling.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let greedy = listed(&mut siblings.iter().filter(|sibling| sibling.keep.is_none()));
    if !greedy.is_empty() {
        return format!(
            "; nothing is deleted, for {greedy} backs up the same source and has no retention, or its storage is not known"
        );
    }
    match listed(&mut siblings.iter()) {
        names if names.is_empty() => names,
        names => format!("; what the rules of {names} keep of the same source stays too"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn schedule(name: &str, change: Value) -> RedisScheduledBackup {
        let mut made = RedisScheduledBackup::new(name, crate::redis_scheduled_backup::testing::spec(change));
        made.metadata.namespace = Some("shop".to_owned());
        made.metadata.uid = Some(format!("uid-of-{name}"));
        made
    }

    fn cached(schedule: RedisScheduledBackup) -> Arc<Guarded> {
        Arc::new(DeserializeGuard(Ok(schedule)))
    }

    #[test]
    fn siblings_are_those_of_the_same_source_and_storage() {
        let own = schedule("hourly", json!({"retention": {"keepLast": 24}}));
        let mut elsewhere = schedule("elsewhere", json!({}));
        elsewhere.metadata.namespace = Some("other".to_owned());
        let mut going = schedule("going", json!({}));
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        let all = vec![
            own.clone(),
            schedule("yearly", json!({"retention": {"keepYearly": 3}})),
            schedule("monthly", json!({"suspend": true, "retention": {"keepMonthly": 12}})),
            schedule("another-source", json!({"clusterName": "other"})),
            schedule("off-site", json!({"destination": {"s3": {"bucket": "far"}}, "storageRef": null})),
            elsewhere,
            going,
        ];
        let all: Vec<_> = all.into_iter().map(cached).collect();
        let mut found = find(&own, &all, &Places::new());
        let unreadable =
            json!({"metadata": {"name": "newer", "namespace": "shop", "uid": "u"}, "spec": {"schedule": 7}});
        let unreadable: Guarded = serde_json::from_value(unreadable).unwrap();
        assert!(unreadable.0.is_err());
        let with_unreadable: Vec<_> = all.iter().cloned().chain([Arc::new(unreadable)]).collect();
        assert_eq!(find(&own, &with_unreadable, &Places::new())[1], Sibling { name: "newer".to_owned(), keep: None });
        found.retain(|one| one.keep.is_some());
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["monthly", "yearly"]);
        let rules = union(&KeepRules { last: Some(24), ..KeepRules::default() }, &found);
        let all_of_them = KeepRules { last: Some(24), monthly: Some(12), yearly: Some(3), ..KeepRules::default() };
        assert_eq!(rules, all_of_them);
        assert_eq!(remark(&found), "; what the rules of monthly, yearly keep of the same source stays too");
    }

    #[rstest]
    #[case::spelled_otherwise(json!({"s3": {"bucket": "b", "path": "/p//q/"}}), json!({"s3": {"bucket": "b", "path": "p/q"}}), true)]
    #[case::by_another_name_of_the_server(json!({"s3": {"bucket": "b", "endpoint": "http://minio:9000"}}), json!({"s3": {"bucket": "b", "endpoint": "https://minio.shop.svc:9000/"}}), true)]
    #[case::google_by_either_protocol(json!({"s3": {"bucket": "b", "endpoint": "https://storage.googleapis.com"}}), json!({"gcs": {"bucket": "b"}}), true)]
    #[case::another_bucket(json!({"s3": {"bucket": "b"}}), json!({"s3": {"bucket": "c"}}), false)]
    #[case::another_provider(json!({"s3": {"bucket": "b"}}), json!({"gcs": {"bucket": "b"}}), false)]
    #[case::another_path(json!({"folder": {"claim": "c", "path": "p"}}), json!({"folder": {"claim": "c"}}), false)]
    fn a_place_has_one_spelling(#[case] one: Value, #[case] other: Value, #[case] same: bool) {
        let of = |value| place(&storage::access(&serde_json::from_value(value).unwrap(), None).unwrap());
        assert_eq!(of(one) == of(other), same);
    }

    #[rstest]
    #[case(Some((Some(7), None)), (Some(24), Some(60)))]
    #[case(Some((Some(48), Some(90))), (Some(48), Some(90)))]
    #[case(None, (None, None))]
    fn what_any_of_them_keeps_is_kept(
        #[case] sibling: Option<(Option<u32>, Option<u64>)>,
        #[case] expected: (Option<u32>, Option<u64>),
    ) {
        let rules = |(last, within_seconds)| KeepRules { last, within_seconds, ..KeepRules::default() };
        let siblings = [Sibling { name: "other".to_owned(), keep: sibling.map(rules) }];
        assert_eq!(union(&rules((Some(24), Some(60))), &siblings), rules(expected));
        assert_eq!(union(&rules((Some(24), None)), &[]), rules((Some(24), None)));
        let is_kept_whole = remark(&siblings).contains("nothing is deleted, for other");
        assert_eq!(is_kept_whole, sibling.is_none());
    }
}
