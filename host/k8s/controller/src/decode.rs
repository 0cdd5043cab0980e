//! Objects that do not parse: each is reported on itself, and stops nothing else.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::{Api, Resource};
use serde_json::json;

use redkeep_k8s_api::conditions::ACCEPTED;
use redkeep_k8s_api::conditions::reasons::UNREADABLE;

use crate::apply::{ConditionUpdate, set_condition};
use crate::context::Context;
use crate::outcome::{Outcome, publish_for};

/// Not the manager of everything else: what a manager applies is all that it has, so the rest of the status would go.
const FIELD_MANAGER: &str = "redkeep-unreadable";

/// Says on the object itself that it cannot be understood: `Accepted=False`, and an Event.
///
/// # Errors
/// What the API server says.
pub async fn report_unreadable<K: Resource<DynamicType = ()>>(
    context: &Context,
    invalid: &InvalidObject,
) -> Result<(), kube::Error> {
    let resource = ApiResource::erase::<K>(&());
    let name = invalid.metadata.name.clone().unwrap_or_default();
    let api: Api<DynamicObject> = match &invalid.metadata.namespace {
        Some(namespace) => Api::namespaced_with(context.client.clone(), namespace, &resource),
        None => Api::all_with(context.client.clone(), &resource),
    };
    let Some(object) = api.get_opt(&name).await? else { return Ok(()) };
    let Some(condition) = next_condition(&object, &invalid.error, context.now()) else { return Ok(()) };
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "status": {"conditions": [condition]},
    });
    api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await?;
    let outcome = Outcome::warning("Accept", UNREADABLE, invalid.error.clone());
    publish_for(context, &resource.kind, &object.object_ref(&resource), &outcome).await;
    Ok(())
}

/// The condition to write, or `None` when it stands there already.
fn next_condition(object: &DynamicObject, error: &str, now: Timestamp) -> Option<Condition> {
    let listed = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let mut conditions: Vec<Condition> = serde_json::from_value(listed).unwrap_or_default();
    let before = conditions.iter().find(|one| one.type_ == ACCEPTED).cloned();
    let update = ConditionUpdate { kind: ACCEPTED, status: Some(false), reason: UNREADABLE, message: error.to_owned() };
    set_condition(&mut conditions, update, object.metadata.generation, now);
    conditions.into_iter().find(|one| one.type_ == ACCEPTED && Some(one) != before.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_object_is_reported_once() {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "a", "generation": 3}
        }))
        .unwrap();
        let now = Timestamp::from_second(5).unwrap();
        let first = next_condition(&object, "missing field `destination`", now).unwrap();
        assert_eq!((first.status.as_str(), first.observed_generation), ("False", Some(3)));
        object.data = json!({"status": {"conditions": [first]}});
        let later = Timestamp::from_second(50).unwrap();
        assert_eq!(next_condition(&object, "missing field `destination`", later), None);
        assert!(next_condition(&object, "another", later).is_some());
    }
}
