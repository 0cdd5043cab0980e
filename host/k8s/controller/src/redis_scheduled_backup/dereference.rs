//! What only the API server can say of a schedule's children. Takes a client; decides nothing.

use kube::Api;
use kube::api::PartialObjectMeta;
use redkeep_k8s_api::redis_backup::RedisBackup;

use super::children::Child;
use crate::common::Unresolved;
use crate::context::Context;

/// Which of these runs of a schedule have not ended.
pub(super) async fn still_running(
    context: &Context,
    namespace: &str,
    names: &[String],
    owner: &str,
) -> Result<Vec<String>, Unresolved> {
    let api: Api<RedisBackup> = Api::namespaced(context.client.clone(), namespace);
    let mut running = Vec::new();
    for name in names {
        let found: Option<PartialObjectMeta<RedisBackup>> =
            api.get_metadata_opt(name).await.map_err(Unresolved::read(format!("RedisBackup {name}")))?;
        let child = found.map(|found| Child::of(&found));
        let runs = |child: &Child| child.owner.as_deref() == Some(owner) && child.end.is_none() && !child.is_deleting;
        if child.as_ref().is_some_and(runs) {
            running.push(name.clone());
        }
    }
    Ok(running)
}
