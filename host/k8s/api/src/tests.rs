//! The definitions as a whole, and the published manifests.

use super::{CustomResourceDefinition, GROUP, RedisBackup, RedisClusterSpec, RedisScheduledBackupSpec, common, labels};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Making the schemas takes a second without optimization.
static DEFINITIONS: std::sync::LazyLock<Vec<CustomResourceDefinition>> = std::sync::LazyLock::new(super::all_crds);

fn all_crds() -> Vec<CustomResourceDefinition> {
    DEFINITIONS.clone()
}

fn schema(kind: &str) -> JSONSchemaProps {
    let definition = all_crds().into_iter().find(|definition| definition.spec.names.kind == kind).unwrap();
    definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap()
}

fn property<'a>(schema: &'a JSONSchemaProps, path: &str) -> &'a JSONSchemaProps {
    path.split('.').fold(schema, |schema, name| {
        schema.properties.as_ref().and_then(|all| all.get(name)).unwrap_or_else(|| panic!("no {name} of {path}"))
    })
}

fn walk(path: &str, schema: &JSONSchemaProps, visit: &mut dyn FnMut(&str, &JSONSchemaProps)) {
    visit(path, schema);
    for (name, child) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), child, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(&format!("{path}[]"), items, visit);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        walk(&format!("{path}{{}}"), values, visit);
    }
}

#[test]
fn every_definition_serializes_and_fits_the_annotation_of_kubectl_apply() {
    assert_eq!(all_crds().len(), 6);
    for definition in all_crds() {
        let text = serde_norway::to_string(&definition).unwrap();
        // `kubectl apply` keeps a copy in an annotation of at most 256 KiB.
        assert!(text.len() < 200_000, "{} has {} bytes", definition.spec.names.kind, text.len());
        assert_eq!(definition.metadata.labels.unwrap()[labels::PART_OF], labels::PART_OF_VALUE);
        assert_eq!(definition.spec.group, GROUP);
    }
}

#[test]
fn every_string_list_and_map_has_a_maximum() {
    for definition in all_crds() {
        let kind = definition.spec.names.kind;
        walk(&kind.clone(), &schema(&kind), &mut |path, schema| {
            let bounded = match schema.type_.as_deref() {
                Some("string") => {
                    schema.max_length.is_some()
                        || schema.enum_.is_some()
                        || schema.format.as_deref() == Some("date-time")
                }
                Some("array") => schema.max_items.is_some(),
                Some("object") if schema.additional_properties.is_some() => schema.max_properties.is_some(),
                _ => true,
            };
            let root = path == format!("{kind}.apiVersion") || path == format!("{kind}.kind");
            assert!(bounded || root, "{path} has no maximum");
        });
    }
}

#[test]
fn every_field_of_ours_is_documented() {
    for definition in all_crds() {
        let kind = definition.spec.names.kind;
        walk(&kind.clone(), &schema(&kind), &mut |path, schema| {
            let foreign = [
                "affinity.",
                "tolerations[]",
                "opologySpreadConstraints[]",
                "resources.",
                "ecurityContext.",
                "conditions[]",
            ];
            let item = path.ends_with("[]") || path.ends_with("{}") || path == format!("{kind}.metadata");
            if !item && !foreign.iter().any(|foreign| path.contains(foreign)) {
                assert!(schema.description.is_some(), "{path} is not documented");
            }
        });
    }
}

#[rstest::rstest]
#[case("RedisBackup", "rb")]
#[case("RedisScheduledBackup", "rsb")]
#[case("RedisRestore", "rr")]
#[case("RedisCluster", "rc")]
#[case("BackupStorage", "bst")]
#[case("BackupMethod", "bm")]
fn kinds_have_their_short_names_and_conditions_by_type(#[case] kind: &str, #[case] short: &str) {
    let definition = all_crds().into_iter().find(|definition| definition.spec.names.kind == kind).unwrap();
    assert_eq!(definition.spec.names.short_names, Some(vec![short.to_owned()]));
    assert_eq!(definition.spec.scope == "Namespaced", kind != "BackupMethod");
    let schema = schema(kind);
    let conditions = property(&schema, "status.conditions");
    assert_eq!(conditions.x_kubernetes_list_type.as_deref(), Some("map"));
    assert_eq!(conditions.x_kubernetes_list_map_keys, Some(vec!["type".to_owned()]));
    assert!(definition.spec.versions[0].subresources.as_ref().unwrap().status.is_some());
}

#[rstest::rstest]
#[case("RedisBackup", "spec.target", "\"prefer-replica\"")]
#[case("RedisBackup", "spec.method", "\"rdb\"")]
#[case("RedisBackup", "spec.compression", "\"none\"")]
#[case("RedisBackup", "spec.activeDeadlineSeconds", "21600")]
#[case("RedisBackup", "spec.startDeadlineSeconds", "300")]
#[case("RedisBackup", "spec.backoffLimit", "2")]
#[case("RedisBackup", "spec.deletionPolicy", "\"Retain\"")]
#[case("RedisBackup", "spec.pin", "false")]
#[case("RedisBackup", "spec.verification.level", "\"parse\"")]
#[case("RedisBackup", "spec.source.mode", "\"replication\"")]
#[case("RedisBackup", "spec.source.service.port", "6379")]
#[case("RedisBackup", "spec.source.sentinel.master", "\"mymaster\"")]
#[case("RedisBackup", "spec.source.auth.passwordKey", "\"password\"")]
#[case("RedisScheduledBackup", "spec.timeZone", "\"UTC\"")]
#[case("RedisScheduledBackup", "spec.suspend", "false")]
#[case("RedisScheduledBackup", "spec.concurrencyPolicy", "\"Forbid\"")]
#[case("RedisScheduledBackup", "spec.successfulBackupsHistoryLimit", "7")]
#[case("RedisScheduledBackup", "spec.failedBackupsHistoryLimit", "3")]
#[case("RedisScheduledBackup", "spec.method", "\"rdb\"")]
#[case("RedisRestore", "spec.onConflict", "\"fail\"")]
#[case("RedisRestore", "spec.ttl", "\"keep\"")]
#[case("BackupStorage", "spec.probeInterval", "\"1h\"")]
#[case("BackupStorage", "spec.maxConcurrentTasks", "10")]
#[case("BackupStorage", "spec.garbage.gracePeriod", "\"8d\"")]
#[case("BackupMethod", "spec.source.configMap.key", "\"plugin.wasm\"")]
#[case("RedisCluster", "spec.instances", "1")]
#[case("RedisCluster", "spec.failover.fencingSeconds", "15")]
fn defaults_are_the_documented_ones(#[case] kind: &str, #[case] path: &str, #[case] default: &str) {
    let schema = schema(kind);
    let found = property(&schema, path).default.as_ref().map(|default| default.0.to_string());
    assert_eq!(found.as_deref(), Some(default));
}

#[test]
fn all_fields_of_a_backup_but_two_are_immutable() {
    let schema = schema("RedisBackup");
    let spec = property(&schema, "spec");
    let rules = spec.x_kubernetes_validations.as_ref().unwrap();
    for name in spec.properties.as_ref().unwrap().keys() {
        let frozen = rules.iter().any(|rule| rule.field_path.as_deref() == Some(&format!(".{name}")));
        assert_eq!(frozen, !["deletionPolicy", "pin"].contains(&name.as_str()), "{name}");
    }
}

#[test]
fn rules_of_a_backup_bind_a_schedule_and_rules_of_a_selection_bind_bootstrap_too() {
    for (kind, path, words) in [
        ("RedisScheduledBackup", "spec", "exactly one of clusterName, source must be set"),
        ("RedisRestore", "spec", "exactly one of backupName, storageRef must be set"),
        ("RedisCluster", "spec.bootstrap", "exactly one of backupName, storageRef must be set"),
    ] {
        let schema = schema(kind);
        let rules = property(&schema, path).x_kubernetes_validations.clone().unwrap_or_default();
        assert!(rules.iter().any(|rule| rule.message.as_deref() == Some(words)), "{kind}: {rules:?}");
    }
}

const PUBLISHED: &str = r"
apiVersion: redis.io/v1
kind: RedisBackup
metadata: {name: my-cluster-backup-001, namespace: default}
spec:
  clusterName: my-cluster
  target: prefer-replica
  method: rdb
  destination: {s3: {bucket: redis-backups, path: production/my-cluster, region: us-east-1, endpoint: http://minio:9000}}
  backupCredentialsSecret: {name: backup-credentials}
";

#[test]
fn the_published_backup_is_read_and_written_unchanged() {
    let backup: RedisBackup = serde_norway::from_str(PUBLISHED).unwrap();
    assert_eq!(backup.spec.cluster_name.as_deref(), Some("my-cluster"));
    let s3 = backup.spec.destination.as_ref().unwrap().s3.as_ref().unwrap();
    assert_eq!((s3.bucket.as_str(), s3.path.as_str()), ("redis-backups", "production/my-cluster"));
    assert_eq!(backup.spec.backoff_limit, 2);
    let written: RedisBackup = serde_json::from_value(serde_json::to_value(&backup).unwrap()).unwrap();
    assert_eq!(written, backup);
}

#[test]
fn the_published_schedule_and_cluster_are_read() {
    let schedule: RedisScheduledBackupSpec = serde_norway::from_str(
        "{schedule: '0 2 * * *', suspend: false, successfulBackupsHistoryLimit: 7, failedBackupsHistoryLimit: 3, \
         clusterName: my-cluster, method: aof, destination: {s3: {bucket: redis-backups}}, \
         verification: {level: boot, schedule: '@daily'}}",
    )
    .unwrap();
    assert_eq!(schedule.backup.method, "aof");
    assert_eq!(schedule.child().verification, None);
    let cluster: RedisClusterSpec = serde_norway::from_str(
        "{instances: 3, imageName: 'redis:7.2', storage: {size: 10Gi}, \
         backupCredentialsSecret: {name: backup-credentials}, bootstrap: {backupName: my-cluster-backup-001}}",
    )
    .unwrap();
    assert_eq!(cluster.bootstrap.unwrap().from.backup_name.as_deref(), Some("my-cluster-backup-001"));
}

#[test]
fn a_schedule_keeps_its_verification_in_each_child_unless_it_has_a_schedule() {
    let schedule: RedisScheduledBackupSpec = serde_norway::from_str(
        "{schedule: '@daily', clusterName: a, storageRef: {name: b}, verification: {level: checksum}}",
    )
    .unwrap();
    assert_eq!(schedule.child().verification.unwrap().level, common::VerificationLevel::Checksum);
}
