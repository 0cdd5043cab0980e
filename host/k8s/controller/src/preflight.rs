//! Before anything is reconciled: are the custom resource definitions there and ours, and may this account do what it must?

use futures::stream::{self, StreamExt};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use redkeep_core::classify::{Class, Classify};
use redkeep_k8s_api::labels;

/// The label by which our definitions are known; another operator's of the same group lack it.
const PART_OF: (&str, &str) = (labels::PART_OF, labels::PART_OF_VALUE);
/// Reviews asked for at once.
const REVIEWS_AT_ONCE: usize = 8;

/// Why the operator does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    /// Not installed.
    #[error("custom resource definitions are missing: {}", names.join(", "))]
    DefinitionsMissing {
        /// Which.
        names: Vec<String>,
    },
    /// Somebody else's.
    #[error("custom resource definitions belong to another operator: {}", names.join(", "))]
    DefinitionsForeign {
        /// Which.
        names: Vec<String>,
    },
    /// The role is too small.
    #[error("this account may not {}", rights.join(", "))]
    RightsMissing {
        /// Verb and resource of each.
        rights: Vec<String>,
    },
    /// The API server did not answer as it should.
    #[error("failed to {act}")]
    Api {
        /// What was tried.
        act: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Classify for PreflightError {
    fn class(&self) -> Class {
        match self {
            Self::DefinitionsMissing { .. } => Class::NotFound,
            Self::DefinitionsForeign { .. } | Self::RightsMissing { .. } => Class::Refused,
            Self::Api { .. } => Class::Failed,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::DefinitionsMissing { .. } => "DefinitionsMissing",
            Self::DefinitionsForeign { .. } => "DefinitionsForeign",
            Self::RightsMissing { .. } => "RightsMissing",
            Self::Api { .. } => "KubernetesApi",
        }
    }

    fn retryable(&self) -> bool {
        // Whoever installs them may be at it right now; another operator's definitions do not become ours.
        !matches!(self, Self::DefinitionsForeign { .. })
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::DefinitionsMissing { .. } => {
                Some("install them: redkeep crd | kubectl apply --server-side -f -".into())
            }
            Self::DefinitionsForeign { .. } => Some(format!(
                "redkeep only works on definitions that carry the label {}={}; remove the other operator's first",
                PART_OF.0, PART_OF.1
            )),
            Self::RightsMissing { .. } => Some("apply config/rbac, or the chart with rbac.create=true".into()),
            Self::Api { .. } => None,
        }
    }
}

/// Whether every definition is there, established and ours.
///
/// # Errors
/// Which are not.
pub async fn check_definitions(client: &Client, wanted: &[String]) -> Result<(), PreflightError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let (mut missing, mut foreign) = (Vec::new(), Vec::new());
    for name in wanted {
        let found = api.get_opt(name).await.map_err(|source| PreflightError::Api {
            act: format!("read custom resource definition {name}"),
            source: Box::new(source),
        })?;
        match found {
            None => missing.push(name.clone()),
            Some(definition) if definition.labels().get(PART_OF.0).map(String::as_str) != Some(PART_OF.1) => {
                foreign.push(name.clone());
            }
            Some(_) => {}
        }
    }
    if !foreign.is_empty() {
        return Err(PreflightError::DefinitionsForeign { names: foreign });
    }
    if !missing.is_empty() {
        return Err(PreflightError::DefinitionsMissing { names: missing });
    }
    Ok(())
}

/// A right that the operator needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// API group; empty: core.
    pub group: &'static str,
    /// Resource, with its subresource after a slash.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Where.
    pub place: Place,
}

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the namespaces that the operator watches.
    Watched,
    /// In its own.
    Home,
    /// On what lies in no namespace.
    Cluster,
}

const fn right(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
    Right { group, resource, verbs, place: Place::Watched }
}

const fn at(place: Place, right: Right) -> Right {
    Right { place, ..right }
}

/// What the operator does. `config/rbac` grants exactly this.
pub const RIGHTS: &[Right] = &[
    right("redis.io", "redisbackups", &["get", "list", "watch", "create", "patch", "delete"]),
    right("redis.io", "redisbackups/status", &["patch"]),
    right("redis.io", "redisbackups/finalizers", &["update"]),
    right("redis.io", "redisscheduledbackups", &["get", "list", "watch", "patch"]),
    right("redis.io", "redisscheduledbackups/status", &["patch"]),
    right("redis.io", "redisscheduledbackups/finalizers", &["update"]),
    right("redis.io", "redisrestores", &["get", "list", "watch", "patch"]),
    right("redis.io", "redisrestores/status", &["patch"]),
    right("redis.io", "redisrestores/finalizers", &["update"]),
    right("redis.io", "backupstorages", &["get", "list", "watch", "patch"]),
    right("redis.io", "backupstorages/status", &["patch"]),
    right("redis.io", "backupstorages/finalizers", &["update"]),
    right("databases.spotahome.com", "redisfailovers", &["get"]),
    right("redis.io", "redisclusters", &["get", "list", "watch", "patch"]),
    right("redis.io", "redisclusters/status", &["patch"]),
    right("redis.io", "redisclusters/finalizers", &["update"]),
    right("batch", "jobs", &["get", "list", "watch", "create", "patch", "delete"]),
    right("", "pods", &["get", "list", "patch", "delete"]),
    // What a RedisCluster is made of. Secrets are only ever created.
    right("", "secrets", &["create"]),
    right("", "configmaps", &["get", "create", "patch"]),
    right("", "serviceaccounts", &["get", "create", "patch"]),
    right("", "persistentvolumeclaims", &["get", "create", "patch", "delete"]),
    right("rbac.authorization.k8s.io", "roles", &["get", "create", "patch"]),
    right("rbac.authorization.k8s.io", "rolebindings", &["get", "create", "patch"]),
    right("policy", "poddisruptionbudgets", &["get", "create", "patch", "delete"]),
    right("", "events", &["list"]),
    right("events.k8s.io", "events", &["create", "patch"]),
    right("discovery.k8s.io", "endpointslices", &["list"]),
    right("apps", "statefulsets", &["get", "create", "patch"]),
    right("", "services", &["get", "create", "patch"]),
    // One for each target of a restore.
    right("coordination.k8s.io", "leases", &["get", "create", "update", "delete"]),
    at(Place::Home, right("coordination.k8s.io", "leases", &["get", "create", "update"])),
    // Plugins are registered where the operator is.
    at(Place::Home, right("batch", "jobs", &["get", "create", "delete"])),
    at(Place::Home, right("", "pods", &["get", "list"])),
    at(Place::Cluster, right("redis.io", "backupmethods", &["get", "list", "watch"])),
    at(Place::Cluster, right("redis.io", "backupmethods/status", &["patch"])),
    at(Place::Cluster, right("redis.io", "backupmethods/finalizers", &["update"])),
    // Its own account's: by it the instances of managed Redis know who gives them orders.
    at(Place::Home, right("", "serviceaccounts/token", &["create"])),
];

/// Whether this account may do what the operator does.
///
/// # Errors
/// Verb and resource of every right that is missing.
pub async fn check_rights(
    client: &Client,
    namespace: Option<&str>,
    home: &str,
    account: &str,
) -> Result<(), PreflightError> {
    let asked = RIGHTS.iter().flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)));
    let answers: Vec<Result<Option<String>, PreflightError>> = stream::iter(asked)
        .map(|(right, verb)| {
            let place = match right.place {
                Place::Watched => namespace,
                Place::Home => Some(home),
                Place::Cluster => None,
            };
            // Tokens of its own account alone: of any other they would be a way to more rights.
            let name = (right.resource == "serviceaccounts/token").then_some(account);
            review(client, right, verb, place, name)
        })
        .buffered(REVIEWS_AT_ONCE)
        .collect()
        .await;
    let mut missing = Vec::new();
    for answer in answers {
        missing.extend(answer?);
    }
    if missing.is_empty() { Ok(()) } else { Err(PreflightError::RightsMissing { rights: missing }) }
}

/// The right as people read it, when it is missing.
async fn review(
    client: &Client,
    right: &Right,
    verb: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Option<String>, PreflightError> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                verb: Some(verb.to_owned()),
                namespace: namespace.map(str::to_owned),
                name: name.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &question).await.map_err(|source| PreflightError::Api {
        act: "ask which rights this account has".to_owned(),
        source: Box::new(source),
    })?;
    if answer.status.is_some_and(|status| status.allowed) {
        return Ok(None);
    }
    let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
    let place =
        namespace.map_or_else(|| " in the whole cluster".to_owned(), |namespace| format!(" in namespace {namespace}"));
    Ok(Some(format!("{verb} {}{group}{place}", right.resource)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;

    fn definition(name: &str, labels: serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "labels": labels},
            "spec": {"group": "redis.io", "names": {"kind": "K", "plural": "k"}, "scope": "Namespaced", "versions": []}})
    }

    #[tokio::test]
    async fn definitions_that_are_missing_or_another_operators_are_named() {
        let fake = FakeApi::new();
        let wanted = ["a.redis.io".to_owned(), "b.redis.io".to_owned()];
        let missing = check_definitions(&fake.client(), &wanted).await.unwrap_err();
        assert_eq!(missing.to_string(), "custom resource definitions are missing: a.redis.io, b.redis.io");
        fake.put(definition("a.redis.io", json!({"app.kubernetes.io/part-of": "redkeep"})));
        fake.put(definition("b.redis.io", json!({})));
        let foreign = check_definitions(&fake.client(), &wanted).await.unwrap_err();
        assert!(!foreign.retryable() && foreign.to_string().ends_with("another operator: b.redis.io"), "{foreign}");
        fake.put(definition("b.redis.io", json!({"app.kubernetes.io/part-of": "redkeep"})));
        check_definitions(&fake.client(), &wanted).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_right_is_named_by_verb_and_resource() {
        let fake = FakeApi::new();
        fake.allow(|attributes| attributes["resource"] != "jobs" || attributes["verb"] != "delete");
        let error = check_rights(&fake.client(), Some("shop"), "home", "redkeep-operator").await.unwrap_err();
        let both = "this account may not delete jobs.batch in namespace shop, delete jobs.batch in namespace home";
        assert_eq!(error.to_string(), both);
        fake.allow(|attributes| attributes["resource"] != "backupmethods");
        let error = check_rights(&fake.client(), Some("shop"), "home", "redkeep-operator").await.unwrap_err();
        assert!(error.to_string().contains("list backupmethods.redis.io in the whole cluster"), "{error}");
        fake.allow(|attributes| attributes["resource"] != "leases" || attributes["namespace"] != "home");
        let error = check_rights(&fake.client(), Some("shop"), "home", "redkeep-operator").await.unwrap_err();
        assert!(error.to_string().ends_with("update leases.coordination.k8s.io in namespace home"), "{error}");
        fake.allow(|_| true);
        check_rights(&fake.client(), None, "home", "redkeep-operator").await.unwrap();
    }

    /// Whether a rule of a role gives the verb on the resource.
    fn gives(rule: &serde_json::Value, right: &Right, verb: &str) -> bool {
        let holds =
            |field: &str, wanted: &str| rule[field].as_array().is_some_and(|all| all.iter().any(|one| one == wanted));
        holds("apiGroups", right.group) && holds("resources", right.resource) && holds("verbs", verb)
    }

    #[test]
    fn the_role_that_is_shipped_gives_every_right_and_none_besides_and_of_secrets_only_to_make_them() {
        use serde::Deserialize;
        let text = include_str!("../../../../config/rbac/roles.yaml");
        let shipped: Vec<serde_json::Value> = serde_norway::Deserializer::from_str(text)
            .map(|role| serde_json::Value::deserialize(role).unwrap())
            .collect();
        let rules: Vec<&serde_json::Value> =
            shipped.iter().flat_map(|role| role["rules"].as_array().unwrap()).collect();
        for right in RIGHTS {
            for verb in right.verbs {
                assert!(rules.iter().any(|rule| gives(rule, right, verb)), "{verb} {}.{}", right.resource, right.group);
            }
        }
        // And no other right, but for these: tests/tests/operator_roles.rs says why.
        let besides = ["customresourcedefinitions", "namespaces", "tokenreviews"];
        for rule in &rules {
            let words = |field: &str| rule[field].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
            for (group, resource, verb) in words("apiGroups").flat_map(|group| {
                words("resources").flat_map(move |resource| words("verbs").map(move |verb| (group, resource, verb)))
            }) {
                let is_asked = RIGHTS
                    .iter()
                    .any(|right| (right.group, right.resource) == (group, resource) && right.verbs.contains(&verb));
                assert!(is_asked || besides.contains(&resource), "{verb} {resource}.{group} is of no use");
            }
        }
        assert!(!text.contains('*'), "{text}");
        let about = |word: &str| {
            let is_about =
                |rule: &&&serde_json::Value| rule["resources"].as_array().unwrap().iter().any(|one| one == word);
            rules.iter().filter(is_about).copied().cloned().collect::<Vec<_>>()
        };
        assert_eq!(about("secrets"), [json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]})]);
        let tokens = about("serviceaccounts/token");
        assert_eq!((tokens.len(), &tokens[0]["resourceNames"]), (1, &json!(["redkeep-operator"])));
    }
}
