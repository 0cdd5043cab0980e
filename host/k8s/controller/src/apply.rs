//! Writing to the API server: one field manager, server-side apply, and a status only when it changed.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use redkeep_k8s_api::labels::FIELD_MANAGER;

/// Times that say when something was looked at, not what it is: a status that differs only in them is not written.
const TIMES: [&str; 2] = ["lastTransitionTime", "lastProbeTime"];

/// A condition as it should be now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionUpdate<'a> {
    /// Its type.
    pub kind: &'a str,
    /// True, False; `None`: Unknown.
    pub status: Option<bool>,
    /// A stable word.
    pub reason: &'a str,
    /// For people.
    pub message: String,
}

/// The longest message of a condition, in characters: our definitions say so, and a longer one is refused with the whole status.
const LONGEST_MESSAGE: usize = 1024;

/// Puts a condition into the list, keyed by its type; the time of its last transition moves only when its status does.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    update: ConditionUpdate<'_>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = match update.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = conditions.iter().find(|condition| condition.type_ == update.kind);
    let last_transition_time = match before {
        Some(before) if before.status == status => before.last_transition_time.clone(),
        _ => Time(whole_seconds(now)),
    };
    let condition = Condition {
        type_: update.kind.to_owned(),
        status: status.to_owned(),
        reason: update.reason.to_owned(),
        message: update.message.chars().take(LONGEST_MESSAGE).collect(),
        observed_generation: generation,
        last_transition_time,
    };
    match conditions.iter_mut().find(|one| one.type_ == update.kind) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// The API server keeps whole seconds; what is compared with its answer must have no more.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether two statuses say the same, whenever they were looked at.
pub fn same_ignoring_times(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let counts = |(key, value): &(&String, &Value)| !TIMES.contains(&key.as_str()) && !value.is_null();
            let left: Vec<_> = left.iter().filter(counts).collect();
            let right_count = right.iter().filter(counts).count();
            left.len() == right_count
                && left
                    .iter()
                    .all(|(key, value)| right.get(*key).is_some_and(|other| same_ignoring_times(value, other)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_ignoring_times(left, right))
        }
        (left, right) => left == right,
    }
}

/// Writes a status when it differs from what is there. With a resource version the write is refused (409) if the object
/// changed meanwhile: for facts that two writers must not both believe.
///
/// # Errors
/// What the API server says.
pub async fn patch_status<K, S>(
    api: &Api<K>,
    name: &str,
    previous: Option<&S>,
    next: &S,
    resource_version: Option<&str>,
) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    Ok(replace_status(api, name, previous, next, resource_version).await?.is_some())
}

/// As [`patch_status`]; the object as it is then, if it had to be written.
///
/// # Errors
/// What the API server says.
pub async fn replace_status<K, S>(
    api: &Api<K>,
    name: &str,
    previous: Option<&S>,
    next: &S,
    resource_version: Option<&str>,
) -> Result<Option<K>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let next = serde_json::to_value(next).map_err(kube::Error::SerdeError)?;
    let previous = previous.map(serde_json::to_value).transpose().map_err(kube::Error::SerdeError)?;
    if previous.is_some_and(|previous| same_ignoring_times(&previous, &next)) {
        return Ok(None);
    }
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": next,
    });
    if let Some(version) = resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    api.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await.map(Some)
}

/// Merges labels, annotations or finalizers into an object's metadata; a `null` removes. The metadata as it is then.
///
/// # Errors
/// What the API server says.
pub async fn patch_metadata<K>(api: &Api<K>, name: &str, metadata: Value) -> Result<PartialObjectMeta<K>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = json!({"metadata": metadata});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(name, &parameters, &Patch::Merge(&patch)).await
}

/// Whether the API server said that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server said that the object changed meanwhile.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
}

/// Whether nothing can be created because the namespace is going away.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 403
        && status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn update(status: bool, reason: &str) -> ConditionUpdate<'_> {
        ConditionUpdate { kind: "Ready", status: Some(status), reason, message: String::new() }
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        set_condition(&mut conditions, update(false, "A"), Some(1), at(10));
        set_condition(&mut conditions, update(false, "B"), Some(2), at(20));
        assert_eq!(conditions.len(), 1);
        assert_eq!((conditions[0].last_transition_time.0, conditions[0].reason.as_str()), (at(10), "B"));
        set_condition(&mut conditions, update(true, "C"), Some(2), at(30));
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert!(is_true(&conditions, "Ready") && !is_true(&conditions, "Other"));
    }

    #[test]
    fn a_message_is_cut_to_what_the_definitions_allow() {
        let definitions = serde_json::to_value(redkeep_k8s_api::all_crds()).unwrap();
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/items/properties/message/maxLength";
        for definition in definitions.as_array().unwrap() {
            assert_eq!(definition.pointer(path), Some(&json!(LONGEST_MESSAGE)), "{}", definition["metadata"]["name"]);
        }
        let mut conditions = Vec::new();
        let update = ConditionUpdate { message: "ü".repeat(5000), ..update(false, "A") };
        set_condition(&mut conditions, update, Some(1), at(10));
        assert_eq!(conditions[0].message.chars().count(), LONGEST_MESSAGE);
    }

    #[rstest]
    #[case(json!({"a": 1, "lastTransitionTime": "x"}), json!({"a": 1, "lastTransitionTime": "y"}), true)]
    #[case(json!({"a": 1, "b": null}), json!({"a": 1}), true)]
    #[case(json!({"a": 1}), json!({"a": 1, "b": 2}), false)]
    #[case(json!({"a": 1, "b": 2}), json!({"a": 1}), false)]
    #[case(json!([{"t": 1}]), json!([{"t": 2}]), false)]
    #[case(json!({"c": [{"type": "R", "lastTransitionTime": 1}]}), json!({"c": [{"lastTransitionTime": 2, "type": "R"}]}), true)]
    fn statuses_are_compared_without_their_times(#[case] left: Value, #[case] right: Value, #[case] same: bool) {
        assert_eq!(same_ignoring_times(&left, &right), same);
        assert_eq!(same_ignoring_times(&right, &left), same);
    }
}
