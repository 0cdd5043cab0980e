//! Who reads backups of a namespace: what is being restored must not be deleted under the restore.

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_cluster::RedisCluster;
use redkeep_k8s_api::redis_cluster_status::ClusterPhase;
use redkeep_k8s_api::redis_restore::RedisRestore;
use redkeep_k8s_api::run::Phase;

use crate::common::Unresolved;

/// `KIND NAME` of what was there at that time, reads a backup or is about to, and has not ended. What cannot be read does not run.
///
/// # Errors
/// The API server does not answer.
pub(super) async fn of(client: &Client, namespace: &str, since: Timestamp) -> Result<Vec<String>, Unresolved> {
    let restores: Api<DeserializeGuard<RedisRestore>> = Api::namespaced(client.clone(), namespace);
    let unfinished = ListParams::default().labels(&format!("!{}", labels::OUTCOME));
    let restores = restores.list(&unfinished).await.map_err(Unresolved::read("the RedisRestores"))?;
    let restores = restores.into_iter().filter_map(|restore| restore.0.ok()).filter(|restore| {
        let phase = restore.status.as_ref().and_then(|status| status.phase);
        was_there(restore, since) && !phase.is_some_and(Phase::is_terminal)
    });
    let clusters: Api<DeserializeGuard<RedisCluster>> = Api::namespaced(client.clone(), namespace);
    let clusters = clusters.list(&ListParams::default()).await.map_err(Unresolved::read("the RedisClusters"))?;
    let clusters = clusters.into_iter().filter_map(|cluster| cluster.0.ok()).filter(|cluster| {
        let phase = cluster.status.as_ref().and_then(|status| status.phase);
        was_there(cluster, since) && phase == Some(ClusterPhase::Restoring)
    });
    let restores = restores.map(|restore| format!("RedisRestore {}", restore.name_any()));
    Ok(restores.chain(clusters.map(|cluster| format!("RedisCluster {}", cluster.name_any()))).collect())
}

fn was_there(object: &impl Resource, since: Timestamp) -> bool {
    object.meta().creation_timestamp.as_ref().is_none_or(|created| created.0 <= since)
}
