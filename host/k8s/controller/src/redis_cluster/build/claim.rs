//! The first claim, as the `StatefulSet` would make it, so that it takes it over.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use redkeep_k8s_api::redis_cluster::{ClusterStorage, RedisCluster};

use crate::redis_cluster::names;

/// What a claim asks for.
pub(super) fn spec(storage: &ClusterStorage) -> PersistentVolumeClaimSpec {
    PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        resources: Some(VolumeResourceRequirements {
            requests: Some([("storage".to_owned(), Quantity(storage.size.clone()))].into()),
            limits: None,
        }),
        storage_class_name: storage.storage_class.clone(),
        ..PersistentVolumeClaimSpec::default()
    }
}

pub(in crate::redis_cluster) fn first(cluster: &RedisCluster, storage: &ClusterStorage) -> PersistentVolumeClaim {
    let name = cluster.name_any();
    let mut annotations = cluster.spec.annotations.clone();
    annotations.insert(names::FILLED_FOR.to_owned(), cluster.uid().unwrap_or_default());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::claim(&name, 0)),
            namespace: cluster.namespace(),
            labels: Some(names::all_labels(cluster)),
            annotations: Some(annotations),
            // Until it is filled: what is half a backup is nobody's loss. Then whether it goes is the StatefulSet's policy.
            owner_references: Some(vec![OwnerReference {
                controller: None,
                block_owner_deletion: None,
                ..names::owner(cluster)
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(storage)),
        status: None,
    }
}
