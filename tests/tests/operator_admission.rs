//! The admission policies as they are deployed, on a real API server: what users may name, and what the operator may make.

use std::time::{Duration, Instant};

use ::kube::Client;
use anyhow::{Result, bail, ensure};
use http::Method;
use redkeep_tests::kube::ask::{OPERATOR, ask, collection, defined, installed, merge, try_create};
use redkeep_tests::kube::{Cluster, LIMIT, TestNamespace};
use serde_json::{Map, Value, json};

const IMAGE: &str = "ghcr.io/redkeep/redkeep:0.1.0";

/// Takes an admission policy away again: it binds the whole cluster, and other tests run on it.
struct Policy<'a>(&'a Cluster, &'static str);

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let _ = self.0.succeed(&["delete", kind, self.1, "--ignore-not-found"]);
        }
    }
}

/// A policy is in force a while after it was created.
async fn refused(client: &Client, namespace: &str, object: &Value, user: &str) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match try_create(client, namespace, object, Some(user)).await? {
            Err(message) if message.contains("ValidatingAdmissionPolicy") => return Ok(message),
            Err(message) if Instant::now() > deadline => bail!("{object} is refused by other words: {message}"),
            Ok(_) if Instant::now() > deadline => bail!("{object} is not refused"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn backup(more: &Value) -> Value {
    let spec = json!({"clusterName": "my-cluster", "destination": {"s3": {"bucket": "redis-backups"}}});
    json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "metadata": {"name": "a"}, "spec": merge(&spec, more)})
}

/// A user who may write our kinds and read the Secret `mine`, and no other.
fn alice(namespace: &TestNamespace) -> Result<()> {
    let place = namespace.name();
    let cluster = namespace.cluster();
    cluster.succeed(&["create", "rolebinding", "alice", "--clusterrole=redkeep-edit", "--user=alice", "-n", place])?;
    cluster.succeed(&[
        "create",
        "role",
        "mine",
        "--verb=get",
        "--resource=secrets",
        "--resource-name=mine",
        "-n",
        place,
    ])?;
    cluster.succeed(&["create", "rolebinding", "mine", "--role=mine", "--user=alice", "-n", place])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_read_a_secret_may_not_have_it_used() -> Result<()> {
    let Some(cluster) = Cluster::api("who_may_not_read_a_secret_may_not_have_it_used") else { return Ok(()) };
    defined(cluster)?;
    installed(cluster, "rbac")?;
    let namespace = cluster.namespace("admission").await?;
    let (client, place) = (namespace.client(), namespace.name());
    alice(&namespace)?;
    installed(cluster, "admission")?;
    let _secrets = Policy(cluster, "redkeep-secrets");
    let _others =
        ["redkeep-jobs", "redkeep-clusters", "redkeep-pods", "redkeep-marks"].map(|name| Policy(cluster, name));

    let other = json!({"name": "other"});
    let key = json!({"name": "other", "key": "k"});
    let source = |more: Value| {
        let source = merge(&json!({"service": {"name": "redis"}}), &more);
        backup(&json!({"clusterName": null, "source": source}))
    };
    let of = |kind: &str, spec: Value| json!({"apiVersion": "redis.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    let schedule =
        json!({"schedule": "@daily", "clusterName": "a", "destination": {"s3": {"bucket": "redis-backups"}}});
    let cluster_spec = json!({"imageName": "redis:7.2", "ephemeral": {}});
    let restore = json!({"backupName": "b", "target": {"clusterName": "c"}});
    let naming = [
        backup(&json!({"backupCredentialsSecret": other})),
        backup(&json!({"destination": {"s3": {"endpoint": "https://minio", "ca": {"secret": other}}}})),
        backup(&json!({"encryption": {"passphraseSecret": key}})),
        backup(&json!({"verification": {"decryption": {"identitySecret": other}}})),
        backup(&json!({"task": {"imagePullSecrets": [other]}})),
        source(json!({"auth": {"secret": other}})),
        source(json!({"tls": {"secret": other}})),
        source(json!({"service": null, "sentinel": {"service": "s", "passwordSecret": key}})),
        of("RedisScheduledBackup", merge(&schedule, &json!({"backupCredentialsSecret": other}))),
        of("RedisRestore", merge(&restore, &json!({"decryption": {"passphraseSecret": key}}))),
        of(
            "RedisRestore",
            merge(
                &restore,
                &json!({"target": {"clusterName": null, "source": {"service": {"name": "r"}, "auth": {"secret": other}}}}),
            ),
        ),
        of(
            "BackupStorage",
            json!({"destination": {"s3": {"bucket": "redis-backups"}}, "backupCredentialsSecret": other}),
        ),
        of("RedisCluster", merge(&cluster_spec, &json!({"auth": {"secret": key}}))),
        of("RedisCluster", merge(&cluster_spec, &json!({"tls": {"secret": other}}))),
        of("RedisCluster", merge(&cluster_spec, &json!({"volumes": [{"name": "v", "secret": other}]}))),
        of(
            "RedisCluster",
            merge(&cluster_spec, &json!({"bootstrap": {"backupName": "b", "decryption": {"identitySecret": other}}})),
        ),
    ];
    for object in &naming {
        let message = refused(client, place, object, "alice").await?;
        ensure!(message.contains("alice must be allowed to get each Secret") && message.contains("other"), "{message}");
        let text = serde_json::to_string(object)?.replace("\"other\"", "\"mine\"");
        let mine: Value = serde_json::from_str(&text)?;
        let answer = try_create(client, place, &mine, Some("alice")).await?;
        answer.map_err(|message| anyhow::anyhow!("{mine}: {message}"))?;
        // Children of a schedule: its author was asked.
        if object["kind"] == "RedisBackup" {
            let answer = try_create(client, place, object, Some(OPERATOR)).await?;
            answer.map_err(|message| anyhow::anyhow!("the operator, {object}: {message}"))?;
        }
    }
    // A copy of a run that ended would never run.
    for mark in
        [json!({"labels": {"redis.io/outcome": "completed"}}), json!({"annotations": {"redis.io/completed-at": "now"}})]
    {
        let copy = merge(&backup(&json!({})), &json!({"metadata": mark}));
        let message = refused(client, place, &copy, "alice").await?;
        ensure!(message.contains("take it out of the copy"), "{message}");
    }
    // Changing what somebody else wrote asks again; changing labels does not.
    let written = backup(&json!({"backupCredentialsSecret": other}));
    let stored = ask(client, Method::POST, &collection("RedisBackup", place), Some(&written), None).await?;
    let stored = stored.map_err(anyhow::Error::msg)?;
    let path = format!("{}/a?dryRun=All", collection("RedisBackup", place));
    let marked = json!({"metadata": {"labels": {"redis.io/outcome": "completed"}}});
    for (patch, accepted) in [
        (json!({"metadata": {"labels": {"team": "a"}}}), true),
        (json!({"spec": {"pin": true}}), false),
        (marked.clone(), false),
    ] {
        let answer = ask(client, Method::PUT, &path, Some(&merge(&stored, &patch)), Some("alice")).await?;
        ensure!(answer.is_ok() == accepted, "{patch}: {answer:?}");
    }

    jobs_are_held_to_what_tasks_are(client, place).await?;
    sets_are_held_to_what_clusters_are(client, place).await?;
    pods_get_labels_and_nothing_else(client, place).await
}

async fn sets_are_held_to_what_clusters_are(client: &Client, place: &str) -> Result<()> {
    let set = |pod: Value, metadata: Value| {
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let base = json!({
            "serviceAccountName": "c-redis", "initContainers": [container("program", IMAGE)],
            "containers": [container("redis", "redis:8.2")],
        });
        let owner = json!({"apiVersion": "redis.io/v1", "kind": "RedisCluster", "name": "c", "uid": "1"});
        let labels = json!({"redis.io/cluster": "c"});
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": merge(&json!({"name": "c", "ownerReferences": [owner]}), &metadata),
            "spec": {
                "selector": {"matchLabels": labels}, "serviceName": "c-r",
                "template": {"metadata": {"labels": labels}, "spec": merge(&base, &pod)},
            },
        })
    };
    let none = || Value::Object(Map::new());
    let privileged = json!([{"name": "redis", "image": "redis", "securityContext": {"privileged": true}}]);
    for (object, words) in [
        (set(json!({"initContainers": [{"name": "program", "image": "busybox"}]}), none()), "from redkeep's own image"),
        (set(none(), json!({"ownerReferences": null})), "must be owned by a RedisCluster"),
        (set(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}), none()), "nothing of the node"),
        (
            set(json!({"volumes": [{"name": "t", "projected": {"sources": []}}]}), none()),
            "mounts Secrets, ConfigMaps, claims and empty folders",
        ),
        (set(json!({"hostPID": true}), none()), "nothing of the node"),
        (set(json!({"containers": privileged}), none()), "no privileges"),
        (set(json!({"serviceAccountName": "admin"}), none()), "service account of its RedisCluster"),
        (set(json!({"serviceAccountName": null}), none()), "service account of its RedisCluster"),
    ] {
        let message = refused(client, place, &object, OPERATOR).await?;
        ensure!(message.contains(words), "{words:?} is not in {message}");
    }
    for object in [set(none(), none()), set(json!({"serviceAccountName": "redkeep-task"}), none())] {
        let answer = try_create(client, place, &object, Some(OPERATOR)).await?;
        answer.map_err(|message| anyhow::anyhow!("{object}: {message}"))?;
    }
    Ok(())
}

async fn pods_get_labels_and_nothing_else(client: &Client, place: &str) -> Result<()> {
    let all = format!("/api/v1/namespaces/{place}/pods");
    let deadline = Instant::now() + LIMIT;
    let restricted = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    for (name, labels) in [
        ("ours", json!({"redis.io/cluster": "c", "app.kubernetes.io/managed-by": "redkeep"})),
        ("theirs", json!({"app": "shop"})),
    ] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "redis", "image": "redis:8.2", "securityContext": restricted}]},
        });
        // The namespace is new: its default service account comes a while later, and no pod without it.
        loop {
            match ask(client, Method::POST, &all, Some(&pod), None).await? {
                Ok(_) => break,
                Err(message) if message.contains("serviceaccount") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(message) => bail!("{name}: {message}"),
            }
        }
    }
    let label = json!([{"op": "add", "path": "/metadata/labels/redis.io~1role", "value": "primary"}]);
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "busybox"}]);
    for (pod, patch, words) in [
        ("theirs", &label, Some("only the pods of a RedisCluster")),
        ("ours", &image, Some("changes no pod but its labels")),
        ("ours", &label, None),
    ] {
        loop {
            let path = format!("{all}/{pod}?dryRun=All");
            match (ask(client, Method::PATCH, &path, Some(patch), Some(OPERATOR)).await?, words) {
                (Ok(_), None) => break,
                (Err(message), Some(words)) if message.contains(words) => break,
                (answer, _) if Instant::now() > deadline => bail!("{pod} {patch}: {answer:?}, wanted {words:?}"),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
    Ok(())
}

/// What the operator writes on each container of a task.
fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

async fn jobs_are_held_to_what_tasks_are(client: &Client, place: &str) -> Result<()> {
    let job = |pod: Value, metadata: Value| {
        let container = json!({"name": "task", "image": IMAGE, "securityContext": restricted()});
        let base = json!({
            "restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [container],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        });
        let owner = json!({"apiVersion": "redis.io/v1", "kind": "RedisBackup", "name": "a", "uid": "1"});
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": merge(&json!({"name": "j", "ownerReferences": [owner]}), &metadata),
            "spec": {"template": {"spec": merge(&base, &pod)}},
        })
    };
    let none = || Value::Object(Map::new());
    let container = |more: Value| {
        let base = json!({"name": "task", "image": IMAGE, "securityContext": restricted()});
        json!({"containers": [merge(&base, &more)]})
    };
    let security = |more: Value| container(json!({"securityContext": more}));
    let pod_security = |more: Value| json!({"securityContext": more});
    let pinned = format!("redis@sha256:{}", "0a".repeat(32));
    // Somebody else's image: only as the throw-away server of a verification, with nothing but what is laid out for it.
    let server = |more: Value, pod: Value| {
        let base = json!({
            "name": "server", "image": "redis:7.2", "restartPolicy": "Always",
            "command": ["/redkeep/redkeep-instance", "boot", "/redkeep-boot"],
            "securityContext": restricted(),
            "volumeMounts": [
                {"name": "boot-data", "mountPath": "/redkeep-boot"}, {"name": "boot-scratch", "mountPath": "/tmp"},
                {"name": "boot-program", "mountPath": "/redkeep", "readOnly": true},
            ],
        });
        let volumes = ["boot-data", "boot-program", "boot-scratch"].map(|name| json!({"name": name, "emptyDir": {}}));
        merge(&json!({"initContainers": [merge(&base, &more)], "volumes": volumes}), &pod)
    };
    let mounts = |name: &str, path: &str, program: &str| {
        json!({"volumeMounts": [
            {"name": name, "mountPath": path}, {"name": program, "mountPath": "/redkeep", "readOnly": true},
        ]})
    };
    let secret = json!({"volumes": [
        {"name": "boot-keys", "secret": {"secretName": "a"}}, {"name": "boot-program", "emptyDir": {}},
    ]});
    let token = json!({"serviceAccountToken": {"path": "token"}});
    let (own, folders) = ("runs redkeep's own program", "has nothing but the empty folders");
    let (held, unprivileged) = ("drop ALL capabilities and add none", "a user that is not root");
    for (object, words) in [
        (job(container(json!({"image": "busybox"})), none()), "redkeep runs only its own image, not busybox"),
        (
            job(json!({"initContainers": container(json!({"name": "i", "image": "busybox"}))["containers"]}), none()),
            "not busybox",
        ),
        (job(json!({"automountServiceAccountToken": true}), none()), "carries no token"),
        (job(json!({"serviceAccountName": "admin"}), none()), "no service account that is not on the list"),
        (job(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}), none()), "nothing of the node"),
        (job(json!({"hostNetwork": true}), none()), "nothing of the node"),
        (
            job(json!({"volumes": [{"name": "t", "projected": {"sources": [token]}}]}), none()),
            "mounts Secrets, ConfigMaps",
        ),
        (job(container(json!({"securityContext": null})), none()), "no privileges"),
        (job(security(json!({"capabilities": {"add": ["NET_RAW"]}})), none()), held),
        (job(security(json!({"capabilities": {"drop": ["NET_RAW"]}})), none()), held),
        (job(security(json!({"capabilities": null})), none()), held),
        (job(security(json!({"runAsUser": 0})), none()), held),
        (job(security(json!({"runAsNonRoot": false})), none()), held),
        (job(security(json!({"runAsNonRoot": null})), none()), held),
        (job(merge(&security(json!({"procMount": "Unmasked"})), &json!({"hostUsers": false})), none()), held),
        (job(security(json!({"seccompProfile": {"type": "Unconfined"}})), none()), held),
        (job(security(json!({"appArmorProfile": {"type": "Unconfined"}})), none()), held),
        (job(container(json!({"ports": [{"containerPort": 8081, "hostPort": 8081}]})), none()), held),
        (job(server(json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}), none()), none()), folders),
        (job(server(json!({"securityContext": {"runAsNonRoot": null}}), none()), none()), held),
        (job(json!({"securityContext": null}), none()), unprivileged),
        (job(pod_security(json!({"runAsUser": 0})), none()), unprivileged),
        (job(pod_security(json!({"runAsUser": null})), none()), unprivileged),
        (job(pod_security(json!({"seccompProfile": null})), none()), unprivileged),
        (job(pod_security(json!({"seccompProfile": {"type": "Unconfined"}})), none()), unprivileged),
        (job(pod_security(json!({"appArmorProfile": {"type": "Unconfined"}})), none()), unprivileged),
        (job(pod_security(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})), none()), unprivileged),
        (
            job(container(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}})), none()),
            "no privileges",
        ),
        (job(none(), json!({"ownerReferences": null})), "must be owned by a resource of redis.io"),
        (job(container(json!({"image": pinned})), none()), "redkeep runs only its own image, not redis@"),
        (job(server(json!({"name": "other"}), none()), none()), "redkeep runs only its own image, not redis:7.2"),
        (job(server(json!({"command": ["sh"]}), none()), none()), own),
        (job(server(json!({"command": null}), none()), none()), own),
        (job(server(json!({"args": ["run"]}), none()), none()), own),
        (job(server(json!({"livenessProbe": {"exec": {"command": ["sh"]}}}), none()), none()), own),
        (job(server(json!({"lifecycle": {"preStop": {"exec": {"command": ["sh"]}}}}), none()), none()), own),
        (job(server(json!({"volumeMounts": null}), none()), none()), own),
        (job(server(mounts("boot-data", "/redkeep-boot", "boot-scratch"), none()), none()), own),
        (job(server(mounts("boot-data", "/redkeep/redkeep-instance", "boot-program"), none()), none()), own),
        (job(server(mounts("boot-data", "//redkeep", "boot-program"), none()), none()), own),
        (job(server(none(), json!({"shareProcessNamespace": true})), none()), own),
        (job(server(json!({"env": [{"name": "A", "value": "b"}]}), none()), none()), folders),
        (job(server(json!({"envFrom": [{"secretRef": {"name": "a"}}]}), none()), none()), folders),
        (job(server(mounts("boot-keys", "/redkeep-boot", "boot-program"), secret), none()), folders),
    ] {
        let message = refused(client, place, &object, OPERATOR).await?;
        ensure!(message.contains(words), "{words:?} is not in {message}");
    }
    for object in [
        job(none(), none()),
        job(json!({"serviceAccountName": "redkeep-task"}), none()),
        job(server(none(), none()), none()),
        job(json!({"volumes": [{"name": "s", "secret": {"secretName": "a", "optional": true}}]}), none()),
        job(pod_security(json!({"runAsUser": 999, "runAsGroup": 0, "seLinuxOptions": {"level": "s0:c1,c2"}})), none()),
    ] {
        let answer = try_create(client, place, &object, Some(OPERATOR)).await?;
        answer.map_err(|message| anyhow::anyhow!("{object}: {message}"))?;
    }
    // A Job of the release before is let go after an upgrade: its pods are what they were. Without the owner of the others, which is not
    // there: garbage collection would take it away under us.
    let old = job(
        container(json!({"image": "ghcr.io/redkeep/redkeep:0.0.9"})),
        json!({"name": "old", "ownerReferences": null}),
    );
    let (all, ttl) =
        (format!("/apis/batch/v1/namespaces/{place}/jobs"), json!({"spec": {"ttlSecondsAfterFinished": 5}}));
    ask(client, Method::POST, &all, Some(&old), None).await?.map_err(anyhow::Error::msg)?;
    let answer = ask(client, Method::PATCH, &format!("{all}/old"), Some(&ttl), Some(OPERATOR)).await?;
    answer.map_err(|message| anyhow::anyhow!("a Job of the release before is not let go: {message}"))?;
    // It is the operator that is held to it, nobody else.
    let answer = try_create(client, place, &job(container(json!({"image": "busybox"})), none()), None).await?;
    answer.map(drop).map_err(anyhow::Error::msg)
}
