//! What a `StatefulSet` and its pods must be like for their files to be read.

use super::*;
use redkeep_core::classify::Classify;
use rstest::rstest;
use serde_json::{Value, json};

const NODE: &str = "redis://10.0.0.2:6379";

fn merged(mut object: Value, change: &Value) -> Value {
    for (pointer, value) in change.as_object().unwrap() {
        *object.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value.clone();
    }
    object
}

fn pod_spec() -> Value {
    json!({
        "securityContext": {"runAsUser": 999, "runAsGroup": 1000, "fsGroup": 1000, "supplementalGroups": [7]},
        "tolerations": [{"key": "redis", "operator": "Exists"}],
        "containers": [
            {"name": "exporter", "securityContext": {"runAsUser": 1}},
            {"name": "redis", "securityContext": {}, "volumeMounts": [{"name": "data", "mountPath": "/var/lib/redis"}]},
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-redis-1"}}],
    })
}

fn set(change: &Value) -> StatefulSet {
    let object = json!({"metadata": {"name": "redis", "uid": "u1"}, "spec": {
        "serviceName": "redis", "selector": {}, "template": {"spec": pod_spec()},
        "volumeClaimTemplates": [
            {"metadata": {"name": "logs"}, "spec": {}},
            {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}},
        ],
    }});
    serde_json::from_value(merged(object, change)).unwrap()
}

fn pod(change: &Value) -> Pod {
    let object = json!({
        "metadata": {"name": "redis-1", "uid": "p1", "deletionTimestamp": null,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "redis", "uid": "u1"}]},
        "spec": pod_spec(), "status": {"podIP": "10.0.0.2"},
    });
    serde_json::from_value(merged(object, change)).unwrap()
}

fn claim(mode: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({"metadata": {"name": "data-redis-1"}, "spec": {"accessModes": [mode]}})).unwrap()
}

fn files(path: &str) -> DataFiles {
    serde_json::from_value(json!({"path": path})).unwrap()
}

fn chosen() -> Chosen {
    Chosen { pod: "redis-1".to_owned(), uid: "p1".to_owned(), node: NODE.to_owned() }
}

fn pinned(change: &Value) -> Result<Pin, Unresolved> {
    match pin(&files(""), &chosen(), &pod(change), &claim("ReadWriteOnce"))? {
        Pinned::To(pin) => Ok(*pin),
        Pinned::Replaced { why } => panic!("{why}"),
    }
}

#[rstest]
#[case::as_it_should_be(json!({}), Mode::Replication, None)]
#[case::many_shards(json!({}), Mode::Cluster, Some("goes with mode replication"))]
#[case::no_template(json!({"/spec/volumeClaimTemplates/1/metadata/name": "other"}), Mode::Replication, Some("no volume claim template data"))]
#[case::one_pod(json!({"/spec/volumeClaimTemplates/1/spec/accessModes": ["ReadWriteOncePod"]}), Mode::Replication,
    Some("ReadWriteOncePod keeps every other pod away"))]
#[case::of_several_modes(json!({"/spec/volumeClaimTemplates/1/spec/accessModes": ["ReadWriteOnce", "ReadWriteMany"]}),
    Mode::Replication, None)]
#[case::whose(json!({"/spec/template/spec/securityContext": {}}), Mode::Replication, Some("securityContext.runAsUser"))]
#[case::root(json!({"/spec/template/spec/securityContext": {"runAsUser": 0}}), Mode::Replication, Some("runs as root"))]
#[case::its_own(json!({"/spec/template/spec/securityContext": {}, "/spec/template/spec/containers/1/securityContext": {"runAsUser": 5}}),
    Mode::Replication, None)]
#[case::not_mounted(json!({"/spec/template/spec/containers/1/volumeMounts": []}), Mode::Replication,
    Some("no container of the pods writes to volume data"))]
fn what_no_pod_of_a_set_could_give_is_refused(
    #[case] change: Value,
    #[case] mode: Mode,
    #[case] expected: Option<&str>,
) {
    let checked = check(&set(&change), &files(""), mode);
    match expected {
        None => checked.unwrap(),
        Some(why) => {
            let error = checked.unwrap_err();
            assert!(error.to_string().starts_with("spec.source.statefulSet.files: "), "{error}");
            assert!(error.to_string().contains(why) && !error.retryable(), "{error}");
        }
    }
}

#[rstest]
#[case::its_pod(json!({}), NODE, "u1", true)]
#[case::with_tls(json!({}), "rediss://10.0.0.2:6379", "u1", true)]
#[case::version_6(json!({"/status/podIP": "fd00::2"}), "redis://[fd00::2]:6379", "u1", true)]
#[case::another_address(json!({}), "redis://10.0.0.22:6379", "u1", false)]
#[case::another_owner(json!({}), NODE, "u2", false)]
#[case::going(json!({"/metadata/deletionTimestamp": "2026-11-27T12:00:00Z"}), NODE, "u1", false)]
#[case::no_address(json!({}), "nonsense", "u1", false)]
fn the_pod_of_a_node_is_the_one_of_the_set_with_its_address(
    #[case] change: Value,
    #[case] node: &str,
    #[case] owner: &str,
    #[case] is_found: bool,
) {
    let found = choose(&[pod(&json!({"/status/podIP": "10.0.0.9"})), pod(&change)], owner, node);
    let expected = Chosen { node: node.to_owned(), ..chosen() };
    assert_eq!(found, is_found.then_some(expected));
}

#[rstest]
#[case::another(json!({"/metadata/uid": "p2"}), "another one than was chosen")]
#[case::going(json!({"/metadata/deletionTimestamp": "2026-11-27T12:00:00Z"}), "is being deleted")]
#[case::moved(json!({"/status/podIP": "10.0.0.3"}), "another address")]
fn a_pod_that_was_replaced_is_not_read(#[case] change: Value, #[case] expected: &str) {
    let pinned = pin(&files(""), &chosen(), &pod(&change), &claim("ReadWriteOnce")).unwrap();
    let Pinned::Replaced { why } = pinned else { panic!("{pinned:?}") };
    assert!(why.starts_with("pod redis-1 ") && why.contains(expected), "{why}");
}

#[test]
fn a_claim_for_one_pod_is_refused_whatever_its_template_says() {
    let error = pin(&files(""), &chosen(), &pod(&json!({})), &claim("ReadWriteOncePod")).unwrap_err();
    assert!(error.to_string().contains("claim data-redis-1: access mode ReadWriteOncePod"), "{error}");
}

#[rstest]
#[case("", "/redis-data")]
#[case("redis", "/redis-data/redis")]
#[case("a/b/", "/redis-data/a/b")]
fn the_folder_lies_in_the_volume(#[case] path: &str, #[case] expected: &str) {
    let pinned = pin(&files(path), &chosen(), &pod(&json!({})), &claim("ReadWriteOnce")).unwrap();
    let Pinned::To(pin) = pinned else { panic!("{pinned:?}") };
    assert_eq!(pin.data_dir, PathBuf::from(expected));
    assert_eq!(pin.mount.path, PathBuf::from("/redis-data"));
    assert_eq!(pin.mount.source, MountSource::Claim { name: "data-redis-1".to_owned(), read_only: true });
    assert_eq!(pin.url, NODE);
}

#[test]
fn a_volume_that_is_no_claim_is_refused() {
    let change = json!({"/spec/volumes": [{"name": "data", "emptyDir": {}}]});
    let error = claim_name(&pod(&change), &files("")).unwrap_err();
    assert!(error.to_string().contains("no claim as its volume data"), "{error}");
    assert_eq!(claim_name(&pod(&json!({})), &files("")).unwrap(), "data-redis-1");
}

#[rstest]
#[case::of_the_pod(json!({}), 999, Some(1000), &[7, 1000])]
#[case::of_the_container(json!({"/spec/containers/1/securityContext": {"runAsUser": 5, "runAsGroup": 6}}), 5, Some(6), &[7, 1000])]
#[case::no_groups(json!({"/spec/securityContext": {"runAsUser": 999}}), 999, None, &[])]
fn the_task_is_the_user_of_the_pod_without_a_group_that_would_change_its_files(
    #[case] change: Value,
    #[case] user: i64,
    #[case] group: Option<i64>,
    #[case] groups: &[i64],
) {
    let mut placement = Placement::default();
    pinned(&change).unwrap().place(&mut placement);
    assert_eq!((placement.run_as_user, placement.run_as_group), (Some(user), group));
    assert_eq!((placement.supplemental_groups.as_slice(), placement.fs_group), (groups, None));
    assert_eq!(placement.se_linux_options, None);
}

#[test]
fn labels_of_selinux_are_copied_the_containers_first() {
    let change = json!({"/spec/securityContext": {"runAsUser": 9, "seLinuxOptions": {"level": "s0:c1"}}});
    let mut placement = Placement::default();
    pinned(&change).unwrap().place(&mut placement);
    assert_eq!(placement.se_linux_options.and_then(|options| options.level).as_deref(), Some("s0:c1"));
    let own = merged(change, &json!({}));
    let both = json!({"/spec/securityContext": own["/spec/securityContext"],
        "/spec/containers/1/securityContext": {"seLinuxOptions": {"level": "s0:c2"}}});
    let mut placement = Placement::default();
    pinned(&both).unwrap().place(&mut placement);
    assert_eq!(placement.se_linux_options.and_then(|options| options.level).as_deref(), Some("s0:c2"));
}

#[test]
fn the_task_runs_beside_the_pod_and_what_its_spec_asks_for_holds_too() {
    let own = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
        "nodeAffinity": {}});
    let toleration = json!({"key": "redis", "operator": "Exists"});
    let mut placement = Placement {
        affinity: serde_json::from_value(own).unwrap(),
        tolerations: vec![serde_json::from_value(toleration.clone()).unwrap()],
        ..Placement::default()
    };
    pinned(&json!({})).unwrap().place(&mut placement);
    let affinity = serde_json::to_value(&placement.affinity).unwrap();
    assert_eq!(
        affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"],
        json!([{"topologyKey": "zone"}, {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"statefulset.kubernetes.io/pod-name": "redis-1"}},
        }])
    );
    assert!(affinity["nodeAffinity"].is_object());
    assert_eq!(serde_json::to_value(&placement.tolerations).unwrap(), json!([toleration]));
}
