//! Roles as they are deployed, on a real API server.

use std::time::{Duration, Instant};

use ::kube::Client;
use anyhow::{Result, ensure};
use http::Method;
use redkeep_controller::preflight::{Place, RIGHTS};
use redkeep_tests::kube::ask::{OPERATOR, ask, defined, installed};
use redkeep_tests::kube::{Cluster, LIMIT};
use serde_json::{Value, json};

/// Whether somebody may do something.
struct Right {
    user: &'static str,
    groups: &'static [&'static str],
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    namespace: &'static str,
}

async fn allowed(client: &Client, right: &Right) -> Result<bool> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": right.user, "groups": right.groups, "resourceAttributes": {
            "verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource,
            "namespace": right.namespace,
        }},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = ask(client, Method::POST, path, Some(&review), None).await?.map_err(anyhow::Error::msg)?;
    Ok(answer["status"]["allowed"] == true)
}

/// Waits until the API server's caches know: within its own time a role that was applied is in force.
async fn hold(client: &Client, rights: &[(&Right, bool)]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut wrong = Vec::new();
        for (right, expected) in rights {
            if allowed(client, right).await? != *expected {
                let Right { user, verb, group, resource, namespace, .. } = right;
                wrong.push(format!("{user} {verb} {resource}.{group} in {namespace:?}: not {expected}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "rights are not as they should be:\n{}", wrong.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the operator's account has besides [`RIGHTS`]: verb, group, resource, the names it is bound to; and why.
const BESIDES: [(&str, &str, &str, &[&str]); 6] = [
    // It is not asked for at start, it is used there: the definitions are read by name.
    ("get", "apiextensions.k8s.io", "customresourcedefinitions", &[]),
    // As well: the uid of kube-system says which Kubernetes made a backup.
    ("get", "", "namespaces", &["kube-system"]),
    // Of every service account, by `redkeep-instance`: instances of managed Redis ask whose a token is.
    ("create", "authentication.k8s.io", "tokenreviews", &[]),
    // Of everybody, by Kubernetes' own `system:basic-user`.
    ("create", "authentication.k8s.io", "selfsubjectreviews", &[]),
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews", &[]),
    ("create", "authorization.k8s.io", "selfsubjectrulesreviews", &[]),
];

/// What the operator has in a namespace and does not ask for, as the API server sees it.
async fn beyond_what_it_asks_for(client: &Client, namespace: &str, is_home: bool) -> Result<Vec<String>> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = ask(client, Method::POST, path, Some(&review), Some(OPERATOR)).await?.map_err(anyhow::Error::msg)?;
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let all = rule[field].as_array().into_iter().flatten();
        all.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut all = Vec::new();
    for rule in answer["status"]["resourceRules"].as_array().into_iter().flatten() {
        for verb in words(rule, "verbs") {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    all.push((verb.clone(), group.clone(), resource, words(rule, "resourceNames")));
                }
            }
        }
    }
    ensure!(all.len() > RIGHTS.len(), "the API server tells of {} rights only: {answer}", all.len());
    let is_of_use = |verb: &str, group: &str, resource: &str, names: &[String]| {
        // A token of another account would be a way to more rights.
        let is_bound = resource != "serviceaccounts/token" || names == ["redkeep-operator"];
        let is_asked = RIGHTS.iter().any(|right| {
            (right.group, right.resource) == (group, resource)
                && right.verbs.contains(&verb)
                && (is_home || right.place != Place::Home)
        });
        let is_known =
            BESIDES.iter().any(|known| (known.0, known.1, known.2) == (verb, group, resource) && names == known.3);
        is_asked && is_bound || is_known
    };
    let beyond = all.iter().filter(|(verb, group, resource, names)| !is_of_use(verb, group, resource, names));
    Ok(beyond
        .map(|(verb, group, resource, names)| format!("{verb} {resource}.{group} {names:?} in {namespace}"))
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_give_what_is_needed_and_no_sight_of_secrets() -> Result<()> {
    let Some(cluster) = Cluster::api("roles_give_what_is_needed_and_no_sight_of_secrets") else { return Ok(()) };
    defined(cluster)?;
    installed(cluster, "rbac")?;
    let namespace = cluster.namespace("roles").await?;
    let client = namespace.client();
    let operator =
        |verb, group, resource| Right { user: OPERATOR, groups: &[], verb, group, resource, namespace: "anywhere" };
    let may: Vec<Right> = [
        ("create", "redis.io", "redisbackups"),
        ("delete", "redis.io", "redisbackups"),
        ("patch", "redis.io", "redisbackups/status"),
        ("update", "redis.io", "redisbackups/finalizers"),
        ("watch", "redis.io", "redisscheduledbackups"),
        ("patch", "redis.io", "redisscheduledbackups/status"),
        ("patch", "redis.io", "redisrestores/status"),
        ("patch", "redis.io", "backupstorages/status"),
        ("patch", "redis.io", "backupmethods/status"),
        ("get", "redis.io", "redisclusters"),
        ("create", "batch", "jobs"),
        ("delete", "batch", "jobs"),
        ("list", "", "pods"),
        ("list", "", "events"),
        ("create", "events.k8s.io", "events"),
        ("list", "discovery.k8s.io", "endpointslices"),
        ("get", "apps", "statefulsets"),
        ("patch", "redis.io", "redisclusters/status"),
        ("create", "apps", "statefulsets"),
        ("get", "", "services"),
        ("create", "", "services"),
        ("create", "", "secrets"),
        ("get", "", "configmaps"),
        ("patch", "", "pods"),
        ("delete", "", "persistentvolumeclaims"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("create", "coordination.k8s.io", "leases"),
        ("update", "coordination.k8s.io", "leases"),
        ("get", "databases.spotahome.com", "redisfailovers"),
        ("get", "apiextensions.k8s.io", "customresourcedefinitions"),
    ]
    .map(|(verb, group, resource)| operator(verb, group, resource))
    .into();
    let may_not: Vec<Right> = [
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("watch", "", "secrets"),
        ("update", "", "secrets"),
        ("delete", "", "secrets"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "", "serviceaccounts/token"),
        ("delete", "apps", "statefulsets"),
        ("list", "", "services"),
        ("watch", "", "pods"),
        ("update", "redis.io", "redisbackups"),
        ("patch", "redis.io", "backupmethods"),
        ("get", "", "namespaces"),
        ("delete", "redis.io", "redisclusters"),
        ("create", "redis.io", "backupmethods"),
        ("update", "apiextensions.k8s.io", "customresourcedefinitions"),
        ("bind", "rbac.authorization.k8s.io", "roles"),
        ("escalate", "rbac.authorization.k8s.io", "roles"),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
        ("impersonate", "", "users"),
    ]
    .map(|(verb, group, resource)| operator(verb, group, resource))
    .into();
    let task = |verb, group, resource| Right {
        user: "system:serviceaccount:redkeep-system:redkeep-task",
        groups: &[],
        verb,
        group,
        resource,
        namespace: "redkeep-system",
    };
    let task_may_not = [
        task("get", "", "secrets"),
        task("get", "", "pods"),
        task("get", "redis.io", "redisbackups"),
        task("get", "", "configmaps"),
    ];
    let mut rights: Vec<(&Right, bool)> = may.iter().map(|right| (right, true)).collect();
    rights.extend(may_not.iter().chain(&task_may_not).map(|right| (right, false)));
    hold(client, &rights).await?;
    for (namespace, is_home) in [("anywhere", false), ("redkeep-system", true)] {
        let beyond = beyond_what_it_asks_for(client, namespace, is_home).await?;
        ensure!(beyond.is_empty(), "the operator may do what it has no use for:\n{}", beyond.join("\n"));
    }

    for role in ["view", "edit"] {
        let role_argument = format!("--clusterrole={role}");
        let user = format!("--user={role}er");
        cluster.succeed(&["create", "rolebinding", role, &role_argument, &user, "-n", namespace.name()])?;
    }
    let place: &'static str = Box::leak(namespace.name().to_owned().into_boxed_str());
    let user = |user, verb, resource| Right { user, groups: &[], verb, group: "redis.io", resource, namespace: place };
    let viewer = [
        user("viewer", "list", "redisbackups"),
        user("viewer", "create", "redisbackups"),
        user("viewer", "patch", "redisbackups/status"),
    ];
    let editor = [
        user("editer", "create", "redisbackups"),
        user("editer", "delete", "backupstorages"),
        user("editer", "create", "backupmethods"),
        user("editer", "patch", "redisbackups/status"),
    ];
    let expected = [true, false, false, true, true, false, false];
    let rights: Vec<(&Right, bool)> = viewer.iter().chain(&editor).zip(expected).collect();
    hold(client, &rights).await
}
