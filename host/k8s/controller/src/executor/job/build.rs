//! A task request becomes a Job: pure, and nothing in it may fail.
//!
//! The rules behind each field were tried on a real cluster; they are named where they are not obvious.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use redkeep_k8s_api::labels;

use super::server;
use crate::executor::{Mount, MountSource, SCRATCH_PATH, TaskRequest};

/// The container that runs the task.
pub const CONTAINER: &str = "task";
/// Where a running task says how far it is.
pub const PROGRESS_PORT: u16 = 8081;
/// The variable in which the spec travels.
pub const TASK_VARIABLE: &str = "REDKEEP_TASK";
/// On a Job: how long its pod may take to start, in seconds.
pub const START_DEADLINE: &str = "redis.io/start-deadline-seconds";

/// Deadlines nest: the task ends itself and can say so; the pod's keeps the report; the Job's deletes the pod and its
/// report, and is there for what never ran.
const POD_AFTER_TASK: Duration = Duration::from_secs(30);
const JOB_AFTER_TASK: Duration = Duration::from_secs(60);
/// A task that is told to stop takes back what it wrote, for which it allows itself 30 seconds.
const TERMINATION_GRACE: i64 = 60;
/// The user of the image (distroless `nonroot`); `restricted` pod security wants a number.
const USER: i64 = 65_532;

/// The Job of a request. It is only ever created: a changed template on an existing Job is refused by the API server.
pub fn build(request: &TaskRequest, image: &str, now: Timestamp) -> Job {
    let own_labels: BTreeMap<String, String> = [
        (labels::COMPONENT, labels::COMPONENT_TASK.to_owned()),
        (labels::MANAGED_BY, labels::MANAGED_BY_VALUE.to_owned()),
        (labels::PART_OF, labels::PART_OF_VALUE.to_owned()),
        (labels::PURPOSE, request.purpose.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let mut pod_annotations = request.placement.annotations.clone();
    pod_annotations.extend(request.server.iter().flat_map(|_| server::annotations()));
    let annotations = BTreeMap::from([(START_DEADLINE.to_owned(), request.start_deadline.as_secs().to_string())]);
    Job {
        metadata: ObjectMeta {
            name: Some(request.key.name.clone()),
            namespace: Some(request.key.namespace.clone()),
            labels: Some(own_labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![request.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(i32::try_from(request.retries).unwrap_or(i32::MAX)),
            active_deadline_seconds: Some(seconds(request.deadline + JOB_AFTER_TASK)),
            // Otherwise a pod that is still going and its replacement run side by side.
            pod_replacement_policy: Some("Failed".to_owned()),
            pod_failure_policy: (request.retries > 0).then(failure_policy),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    // Ours last: NetworkPolicies and this executor find the pod by them.
                    labels: Some(request.placement.labels.clone().into_iter().chain(own_labels).collect()),
                    annotations: some(pod_annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(request, image, now)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Usage, damage, not found, refused: the same attempt again would end the same way.
fn failure_policy() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "FailJob".to_owned(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: Some(CONTAINER.to_owned()),
                operator: "In".to_owned(),
                values: vec![2, 3, 4, 5],
            }),
            on_pod_conditions: None,
        }],
    }
}

fn pod(request: &TaskRequest, image: &str, now: Timestamp) -> PodSpec {
    let placement = &request.placement;
    let user = placement.run_as_user.unwrap_or(USER);
    // A claim that a Redis pod owns keeps its owners; one of ours must be writable for us.
    let writes_claim =
        request.mounts.iter().any(|mount| matches!(mount.source, MountSource::Claim { read_only: false, .. }));
    let fs_group = placement.fs_group.or((writes_claim && placement.run_as_user.is_none()).then_some(USER));
    let (volumes, volume_mounts) = volumes(&request.mounts, placement.scratch_limit.as_deref());
    let security = SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    };
    let mut pod = PodSpec {
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(seconds(request.deadline + POD_AFTER_TASK)),
        termination_grace_period_seconds: Some(TERMINATION_GRACE),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: request.service_account.clone(),
        affinity: placement.affinity.clone(),
        tolerations: (!placement.tolerations.is_empty()).then(|| placement.tolerations.clone()),
        node_name: placement.node_name.clone(),
        node_selector: some(placement.node_selector.clone()),
        priority_class_name: placement.priority_class_name.clone(),
        image_pull_secrets: (!placement.image_pull_secrets.is_empty()).then(|| {
            placement.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(user),
            run_as_group: Some(placement.run_as_group.unwrap_or(user)),
            fs_group,
            fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
            supplemental_groups: (!placement.supplemental_groups.is_empty())
                .then(|| placement.supplemental_groups.clone()),
            se_linux_options: placement.se_linux_options.clone(),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: CONTAINER.to_owned(),
            image: Some(image.to_owned()),
            args: Some(
                ["task", "--env", TASK_VARIABLE, "--report", "--progress-listen", &format!("0.0.0.0:{PROGRESS_PORT}")]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            env: Some(vec![
                EnvVar { name: TASK_VARIABLE.to_owned(), value: Some(spec_text(request, now)), value_from: None },
                // The user has no home in the image, and the root file system cannot be written.
                EnvVar { name: "HOME".to_owned(), value: Some("/tmp".to_owned()), value_from: None },
            ]),
            ports: Some(vec![ContainerPort {
                name: Some("progress".to_owned()),
                container_port: i32::from(PROGRESS_PORT),
                ..ContainerPort::default()
            }]),
            resources: Some(request.resources.clone().unwrap_or_else(least_resources)),
            security_context: Some(security.clone()),
            // A task that dies before its first report leaves the end of its log.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            volume_mounts: Some(volume_mounts),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    };
    if let Some(server) = &request.server {
        server::put_beside(&mut pod, server, image, &security);
    }
    pod
}

/// The spec as it travels; one without a deadline of its own gets the request's.
fn spec_text(request: &TaskRequest, now: Timestamp) -> String {
    let mut spec = request.spec.clone();
    let deadline = SignedDuration::try_from(request.deadline).ok().and_then(|after| now.checked_add(after).ok());
    spec.deadline = spec.deadline.or(deadline);
    // A task spec is plain data: there is nothing in it that JSON cannot say.
    serde_json::to_string(&spec).unwrap_or_default()
}

fn volumes(mounts: &[Mount], scratch_limit: Option<&str>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let scratch = ["/tmp", SCRATCH_PATH].map(|path| Mount { source: MountSource::EmptyDir, path: path.into() });
    let mut volumes = Vec::new();
    let mut volume_mounts = Vec::new();
    for (number, mount) in mounts.iter().chain(&scratch).enumerate() {
        let name = format!("mount-{number}");
        let mut volume = Volume { name: name.clone(), ..Volume::default() };
        let read_only = match &mount.source {
            // Optional and whole: without, a missing Secret or key hangs the pod; so the task starts and names the key.
            MountSource::Secret(secret) => {
                volume.secret = Some(SecretVolumeSource {
                    secret_name: Some(secret.clone()),
                    optional: Some(true),
                    ..SecretVolumeSource::default()
                });
                true
            }
            MountSource::ConfigMap(map) => {
                volume.config_map = Some(ConfigMapVolumeSource {
                    name: map.clone(),
                    optional: Some(true),
                    ..ConfigMapVolumeSource::default()
                });
                true
            }
            MountSource::Claim { name, read_only } => {
                volume.persistent_volume_claim =
                    Some(PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: Some(*read_only) });
                *read_only
            }
            MountSource::EmptyDir => {
                let size_limit = scratch_limit.filter(|_| mount.path == Path::new(SCRATCH_PATH));
                let size_limit = size_limit.map(|limit| Quantity(limit.to_owned()));
                volume.empty_dir = Some(EmptyDirVolumeSource { size_limit, medium: None });
                false
            }
        };
        volumes.push(volume);
        volume_mounts.push(VolumeMount {
            name,
            mount_path: mount.path.to_string_lossy().into_owned(),
            read_only: Some(read_only),
            ..VolumeMount::default()
        });
    }
    (volumes, volume_mounts)
}

/// Enough for a scheduler to count with; a quota in the namespace may ask for more.
pub(super) fn least_resources() -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    ResourceRequirements {
        requests: Some([("cpu".to_owned(), quantity("100m")), ("memory".to_owned(), quantity("128Mi"))].into()),
        ..ResourceRequirements::default()
    }
}

fn some(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::executor::{Placement, Purpose, TaskKey};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::{Value, json};

    pub(crate) fn request() -> TaskRequest {
        TaskRequest {
            key: TaskKey { namespace: "shop".into(), name: "nightly-0f8e9".into() },
            owner: OwnerReference {
                api_version: "redis.io/v1".into(),
                kind: "RedisBackup".into(),
                name: "nightly".into(),
                uid: "0f8e9c1d".into(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            },
            purpose: Purpose::Backup,
            spec: serde_json::from_value(json!({"version": 1, "task": {
                "kind": "delete", "storage": {"url": "s3://bucket"}, "backup": {"backup": "latest"}
            }}))
            .unwrap(),
            mounts: vec![
                Mount::secret("keys", "/backup-credentials"),
                Mount { source: MountSource::Claim { name: "data".into(), read_only: true }, path: "/data".into() },
            ],
            placement: Placement::default(),
            deadline: Duration::from_secs(600),
            start_deadline: Duration::from_secs(300),
            retries: 2,
            service_account: None,
            resources: None,
            server: None,
        }
    }

    fn built(request: &TaskRequest) -> Value {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        serde_json::to_value(build(request, "redkeep:1", now)).unwrap()
    }

    #[test]
    fn deadlines_nest_task_before_pod_before_job() {
        let job = built(&request());
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let spec: Value = serde_json::from_str(container["env"][0]["value"].as_str().unwrap()).unwrap();
        assert_eq!(spec["deadline"], "2026-11-27T12:10:00Z");
        assert_eq!(job["spec"]["template"]["spec"]["activeDeadlineSeconds"], 630);
        assert_eq!(job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 60);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 660);
    }

    #[test]
    fn a_deadline_that_the_spec_has_already_is_kept() {
        let mut request = request();
        request.spec.deadline = Some("2026-11-27T12:01:00Z".parse().unwrap());
        let job = built(&request);
        assert!(job.to_string().contains("2026-11-27T12:01:00Z"));
        assert!(!job.to_string().contains("2026-11-27T12:10:00Z"));
    }

    #[test]
    fn a_pod_keeps_to_restricted_pod_security_and_has_no_token() {
        let pod = built(&request())["spec"]["template"]["spec"].clone();
        let security = &pod["securityContext"];
        assert_eq!((&security["runAsNonRoot"], &security["runAsUser"]), (&json!(true), &json!(65_532)));
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["restartPolicy"], "Never");
        assert!(security["fsGroup"].is_null());
    }

    #[test]
    fn secrets_are_mounted_optional_and_whole_and_scratch_is_an_empty_folder() {
        let pod = built(&request())["spec"]["template"]["spec"].clone();
        assert_eq!(pod["volumes"][0]["secret"], json!({"secretName": "keys", "optional": true}));
        assert_eq!(pod["volumes"][1]["persistentVolumeClaim"], json!({"claimName": "data", "readOnly": true}));
        let mounted: Vec<&str> = pod["containers"][0]["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        assert_eq!(mounted, ["/backup-credentials", "/data", "/tmp", "/var/lib/redkeep"]);
        assert!(pod["volumes"].as_array().unwrap().iter().all(|volume| volume["hostPath"].is_null()));
    }

    #[test]
    fn a_folder_of_ours_is_made_writable_and_one_of_redis_is_read_as_its_owner() {
        let mut request = request();
        request.mounts = vec![Mount {
            source: MountSource::Claim { name: "backups".into(), read_only: false },
            path: "/backup-folder".into(),
        }];
        assert_eq!(built(&request)["spec"]["template"]["spec"]["securityContext"]["fsGroup"], 65_532);
        request.placement.run_as_user = Some(999);
        let security = built(&request)["spec"]["template"]["spec"]["securityContext"].clone();
        assert_eq!((&security["runAsUser"], &security["runAsGroup"]), (&json!(999), &json!(999)));
        assert!(security["fsGroup"].is_null());
    }

    #[test]
    fn one_pod_at_a_time_and_no_retry_of_what_would_end_the_same() {
        let mut request = request();
        let job = built(&request);
        assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
        assert_eq!(job["spec"]["backoffLimit"], 2);
        let rule = &job["spec"]["podFailurePolicy"]["rules"][0];
        assert_eq!((&rule["action"], &rule["onExitCodes"]["values"]), (&json!("FailJob"), &json!([2, 3, 4, 5])));
        request.retries = 0;
        assert!(built(&request)["spec"]["podFailurePolicy"].is_null());
    }

    #[test]
    fn the_job_is_owned_and_says_how_long_it_may_take_to_start() {
        let job = built(&request());
        let metadata = &job["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], "0f8e9c1d");
        assert_eq!(metadata["annotations"][START_DEADLINE], "300");
        assert!(job["spec"]["ttlSecondsAfterFinished"].is_null(), "only after the report was read");
    }
}
