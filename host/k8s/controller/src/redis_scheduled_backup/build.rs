//! The RedisBackup of one slot: pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;
use redkeep_k8s_api::redis_scheduled_backup::RedisScheduledBackup;

use super::decide::Start;
use super::validate::cluster_name;
use crate::common::label;

/// Whose children they are.
pub(super) fn owner(schedule: &RedisScheduledBackup) -> OwnerReference {
    OwnerReference {
        api_version: RedisScheduledBackup::api_version(&()).into_owned(),
        kind: RedisScheduledBackup::kind(&()).into_owned(),
        name: schedule.name_any(),
        uid: schedule.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(super) fn child(schedule: &RedisScheduledBackup, start: &Start) -> RedisBackup {
    let mut child = RedisBackup::new(&start.name, schedule.spec.child());
    child.metadata.namespace = schedule.namespace();
    child.metadata.owner_references = Some(vec![owner(schedule)]);
    let mut all = BTreeMap::from([
        (labels::PART_OF.to_owned(), labels::PART_OF_VALUE.to_owned()),
        (labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned()),
        (labels::SCHEDULE.to_owned(), schedule.name_any()),
    ]);
    let cluster = cluster_name(&schedule.spec.backup);
    if let Some(cluster) = label::value(&cluster) {
        all.insert(labels::CLUSTER.to_owned(), cluster.to_owned());
    }
    child.metadata.labels = Some(all);
    child.metadata.annotations = Some(BTreeMap::from([(labels::SLOT.to_owned(), start.slot.to_string())]));
    child
}
