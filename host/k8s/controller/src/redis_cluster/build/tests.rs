use redkeep_k8s_api::redis_cluster::RedisCluster;
use rstest::rstest;
use serde_json::{Value, json};

use super::stateful_set::{PodFacts, hash_of, stateful_set};
use super::*;
use crate::redis_cluster::validate::validate;
use crate::settings::Settings;

fn cluster(spec: Value) -> RedisCluster {
    let mut spec = spec;
    for (key, value) in [("imageName", json!("redis:7.2")), ("instances", json!(3))] {
        if spec.get(key).is_none() {
            spec[key] = value;
        }
    }
    if spec.get("ephemeral").is_none() && spec.get("storage").is_none() {
        spec["storage"] = json!({"size": "1Gi"});
    }
    serde_json::from_value(json!({
        "apiVersion": "redis.io/v1", "kind": "RedisCluster",
        "metadata": {"name": "carts", "namespace": "shop", "uid": "0f8e9c1d"},
        "spec": spec,
        "status": {"authSecret": {"name": "carts-auth-1"}, "identitySecret": {"name": "carts-identity-1"}},
    }))
    .unwrap()
}

fn facts() -> PodFacts {
    PodFacts {
        operator_image: "redkeep:1".into(),
        operator_user: "system:serviceaccount:redkeep-system:redkeep-operator".into(),
        identity_secret: "carts-identity-1".into(),
    }
}

fn set(spec: Value, replicas: i32) -> (Value, String) {
    let cluster = cluster(spec);
    let validated = validate(&cluster, &Settings::new("redkeep:1", "redkeep-system", "k8s:1")).unwrap();
    let set = stateful_set(&cluster, &validated, &facts(), replicas);
    let hash = hash_of(&set).cloned().unwrap();
    (serde_json::to_value(set).unwrap(), hash)
}

fn pod(spec: Value) -> Value {
    set(spec, 3).0["spec"]["template"]["spec"].clone()
}

#[test]
fn pods_keep_to_restricted_pod_security() {
    let pod = pod(json!({}));
    let security = &pod["securityContext"];
    assert_eq!(
        (&security["runAsUser"], &security["fsGroup"], &security["runAsNonRoot"]),
        (&json!(999), &json!(999), &json!(true))
    );
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    for container in [&pod["containers"][0], &pod["initContainers"][0]] {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    }
}

#[test]
fn an_instance_is_told_who_it_is_and_whom_it_obeys() {
    let pod = pod(json!({"failover": {"fencingSeconds": 7}}));
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let value =
        |name: &str| variables.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}")).clone();
    assert_eq!(value("REDKEEP_POD")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    assert_eq!(value("REDKEEP_POD_IP")["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP");
    assert_eq!(value("REDKEEP_NAMESPACE")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.namespace");
    assert_eq!(value("REDKEEP_CLUSTER")["value"], "carts");
    assert_eq!(value("REDKEEP_OPERATOR")["value"], "system:serviceaccount:redkeep-system:redkeep-operator");
    assert_eq!(value("REDKEEP_FENCING_SECONDS")["value"], "7");
    assert_eq!(value("REDKEEP_GRACE_SECONDS")["value"], "120");
    assert_eq!(value("REDKEEP_INSTANCES")["value"], "3");
    assert_eq!(pod["containers"][0]["command"], json!(["/redkeep/redkeep-instance", "run"]));
    assert_eq!(
        pod["initContainers"][0]["command"],
        json!(["redkeep-instance", "install", "/redkeep/redkeep-instance"])
    );
    assert_eq!(pod["initContainers"][0]["image"], "redkeep:1");
}

#[rstest]
#[case::made(json!({}), Some(("carts-auth-1", "password")))]
#[case::named(json!({"auth": {"secret": {"name": "mine", "key": "pw"}}}), Some(("mine", "pw")))]
#[case::none(json!({"auth": {"enabled": false}}), None)]
fn the_password_is_mounted_and_never_optional(#[case] spec: Value, #[case] expected: Option<(&str, &str)>) {
    let pod = pod(spec);
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "redis-auth").cloned();
    let found = volume.as_ref().map(|volume| {
        assert_eq!(volume["secret"]["items"][0]["path"], "password");
        assert!(volume["secret"]["optional"].is_null(), "without it Redis would be open to everybody");
        (volume["secret"]["secretName"].as_str().unwrap(), volume["secret"]["items"][0]["key"].as_str().unwrap())
    });
    assert_eq!(found, expected);
    let mounts = pod["containers"][0]["volumeMounts"].to_string();
    assert_eq!(mounts.contains("/redis-auth"), expected.is_some());
}

#[test]
fn every_mount_names_a_volume_or_the_claim() {
    let spec = json!({
        "tls": {"secret": {"name": "tls"}},
        "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts", "readOnly": true}],
    });
    for spec in [spec, json!({"ephemeral": {"sizeLimit": "1Gi"}})] {
        let (set, _) = set(spec, 3);
        let pod = &set["spec"]["template"]["spec"];
        let mut names: Vec<&str> =
            pod["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
        if set["spec"]["volumeClaimTemplates"].is_array() {
            names.push("data");
        }
        for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
            assert!(names.contains(&mount["name"].as_str().unwrap()), "{mount} of {names:?}");
        }
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
    }
}

#[test]
fn pods_are_exchanged_for_what_they_are_made_of_but_not_because_there_are_more() {
    let (_, hash) = set(json!({}), 3);
    assert_eq!(set(json!({"instances": 5}), 5).1, hash);
    assert_eq!(set(json!({"redisConfig": {"maxmemory": "1gb"}}), 3).1, hash, "that is applied while Redis runs");
    assert_ne!(set(json!({"imageName": "redis:8.2"}), 3).1, hash);
    assert_ne!(set(json!({"resources": {"limits": {"memory": "1Gi"}}}), 3).1, hash);
}

#[test]
fn the_set_makes_all_pods_at_once_and_exchanges_none_by_itself() {
    let (set, _) = set(json!({"storage": {"size": "1Gi", "storageClass": "fast", "deletionPolicy": "Delete"}}), 3);
    let spec = &set["spec"];
    assert_eq!(
        (&spec["podManagementPolicy"], &spec["updateStrategy"]["type"]),
        (&json!("Parallel"), &json!("OnDelete"))
    );
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Delete", "whenScaled": "Retain"}));
    assert_eq!(spec["volumeClaimTemplates"][0]["spec"]["storageClassName"], "fast");
    assert_eq!(spec["serviceName"], "carts-r");
}

#[test]
fn the_first_claim_is_as_the_set_would_make_it() {
    let cluster = cluster(json!({"storage": {"size": "2Gi", "storageClass": "fast"}}));
    let claim = claim::first(&cluster, cluster.spec.storage.as_ref().unwrap());
    let (set, _) = set(json!({"storage": {"size": "2Gi", "storageClass": "fast"}}), 3);
    let template = &set["spec"]["volumeClaimTemplates"][0];
    let claim = serde_json::to_value(claim).unwrap();
    assert_eq!(claim["spec"], template["spec"]);
    assert_eq!(claim["metadata"]["labels"], template["metadata"]["labels"]);
    assert_eq!(claim["metadata"]["name"], "data-carts-0");
    assert_eq!(claim["metadata"]["annotations"]["redis.io/bootstrap-of"], "0f8e9c1d");
}

#[test]
fn services_lead_to_the_primary_the_replicas_and_all() {
    let cluster = cluster(json!({"services": {"type": "LoadBalancer", "annotations": {"a": "b"}}}));
    let validated = validate(&cluster, &Settings::new("redkeep:1", "redkeep-system", "k8s:1")).unwrap();
    let objects = objects(&cluster, &validated);
    let services = serde_json::to_value(&objects.services).unwrap();
    let by_name =
        |name: &str| services.as_array().unwrap().iter().find(|one| one["metadata"]["name"] == name).unwrap().clone();
    assert_eq!(by_name("carts-rw")["spec"]["selector"]["redis.io/role"], "primary");
    assert_eq!(by_name("carts-ro")["spec"]["selector"]["redis.io/role"], "replica");
    assert_eq!(by_name("carts-rw")["spec"]["type"], "LoadBalancer");
    assert_eq!(by_name("carts-rw")["metadata"]["annotations"]["a"], "b");
    let all = by_name("carts-r");
    assert_eq!((&all["spec"]["clusterIP"], &all["spec"]["publishNotReadyAddresses"]), (&json!("None"), &json!(true)));
    let role = serde_json::to_value(&objects.role).unwrap();
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": ["redis.io"], "resources": ["redisclusters"], "resourceNames": ["carts"], "verbs": ["get"]}])
    );
    assert!(objects.budget.is_some());
}

#[test]
fn the_configuration_is_one_line_for_each_directive() {
    let config = [("save", ""), ("maxmemory", "1gb")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(redis_conf(&config), "maxmemory 1gb\nsave \"\"\n");
}
