//! The container of a throw-away server, beside a task that verifies at level `boot` (ADR 21). Pure.
//!
//! What it runs is redkeep's own program, copied in, which takes the network from itself before it starts the image's server. What
//! it gets is a volume with the backup's data and nothing else: `config/admission/jobs.yaml` lets an image that is not redkeep's
//! into a Job only in this shape.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, PodSpec, SecurityContext, Volume, VolumeMount};

use super::build::{CONTAINER as TASK, least_resources};
use crate::executor::{SERVER_PATH, ThrowAwayServer};

/// Its name.
pub const CONTAINER: &str = "server";
/// The container that copies the program in.
pub const INSTALL: &str = "install";
/// Where it puts it.
const PROGRAM: &str = "/redkeep/redkeep-instance";
const PROGRAM_FOLDER: &str = "/redkeep";

/// The data that the task lays out, and the socket by which it asks.
const SHARED: &str = "boot-data";
/// The program.
const INSTALLED: &str = "boot-program";
/// The server's own.
const SCRATCH: &str = "boot-scratch";

/// Clouds give credentials to every container of a pod with a service account, unless told which ones not.
pub(super) fn annotations() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("eks.amazonaws.com/skip-containers".to_owned(), format!("{INSTALL},{CONTAINER}")),
        ("azure.workload.identity/skip-containers".to_owned(), format!("{INSTALL};{CONTAINER}")),
    ])
}

/// Puts it into a task's pod. `image`: redkeep's own; `security`: as the task's container has it.
pub(super) fn put_beside(pod: &mut PodSpec, server: &ThrowAwayServer, image: &str, security: &SecurityContext) {
    let install = Container {
        name: INSTALL.to_owned(),
        image: Some(image.to_owned()),
        command: Some(["redkeep-instance", "install", PROGRAM].map(str::to_owned).to_vec()),
        resources: Some(least_resources()),
        security_context: Some(security.clone()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![mount(INSTALLED, PROGRAM_FOLDER, false)]),
        ..Container::default()
    };
    let beside = Container {
        name: CONTAINER.to_owned(),
        image: Some(server.image.clone()),
        command: Some([PROGRAM, "boot", SERVER_PATH].map(str::to_owned).to_vec()),
        // Starts before the task, and the kubelet ends it when the task has ended.
        restart_policy: Some("Always".to_owned()),
        resources: Some(server.resources.clone().unwrap_or_else(least_resources)),
        security_context: Some(security.clone()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            mount(SHARED, SERVER_PATH, false),
            mount(INSTALLED, PROGRAM_FOLDER, true),
            mount(SCRATCH, "/tmp", false),
        ]),
        ..Container::default()
    };
    pod.init_containers.get_or_insert_default().extend([install, beside]);
    for task in pod.containers.iter_mut().filter(|container| container.name == TASK) {
        task.volume_mounts.get_or_insert_default().push(mount(SHARED, SERVER_PATH, false));
    }
    pod.volumes.get_or_insert_default().extend([SHARED, INSTALLED, SCRATCH].map(|name| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }));
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{build, tests::request};
    use super::*;
    use crate::executor::{MountSource, TaskRequest};
    use serde_json::{Value, json};

    fn verification() -> TaskRequest {
        let mut request = request();
        request.spec = serde_json::from_value(json!({"version": 1, "task": {
            "kind": "verify", "storage": {"url": "s3://bucket"}, "backup": {"backup": "latest"}, "level": "boot"
        }}))
        .unwrap();
        request.service_account = Some("redkeep-task".into());
        request
    }

    fn pod(request: &TaskRequest) -> (Value, Value) {
        let job = serde_json::to_value(build(request, "redkeep:1", "2026-11-27T12:00:00Z".parse().unwrap())).unwrap();
        let template = &job["spec"]["template"];
        (template["spec"].clone(), template["metadata"]["annotations"].clone())
    }

    fn server() -> ThrowAwayServer {
        ThrowAwayServer {
            image: "redis:7.2".into(),
            image_pull_secrets: vec!["pull".into()],
            ..ThrowAwayServer::default()
        }
    }

    #[test]
    fn the_server_runs_our_program_and_shares_the_data_and_nothing_else() {
        let (pod, annotations) = pod(&verification().beside(Some(server())));
        let (install, server) = (&pod["initContainers"][0], &pod["initContainers"][1]);
        assert_eq!((&install["image"], &install["restartPolicy"]), (&json!("redkeep:1"), &Value::Null));
        assert_eq!((&server["name"], &server["image"]), (&json!("server"), &json!("redis:7.2")));
        assert_eq!(server["restartPolicy"], "Always");
        assert_eq!(server["command"], json!(["/redkeep/redkeep-instance", "boot", "/redkeep-boot"]));
        for absent in ["env", "envFrom", "args", "ports", "lifecycle", "startupProbe"] {
            assert!(server[absent].is_null(), "{absent}");
        }
        assert_eq!(server["securityContext"], pod["containers"][0]["securityContext"]);
        let empty: Vec<&str> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|volume| volume["emptyDir"].is_object())
            .map(|volume| volume["name"].as_str().unwrap())
            .collect();
        for mount in server["volumeMounts"].as_array().unwrap() {
            let name = mount["name"].as_str().unwrap();
            assert!(name.starts_with("boot-") && empty.contains(&name), "{mount}");
        }
        let shared = pod["containers"][0]["volumeMounts"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(shared, json!({"name": "boot-data", "mountPath": "/redkeep-boot", "readOnly": false}));
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
        assert_eq!(annotations["eks.amazonaws.com/skip-containers"], "install,server");
    }

    #[test]
    fn the_task_is_told_where_to_ask_and_no_other_task_has_a_server() {
        let (with, _) = pod(&verification().beside(Some(server())));
        let spec = with["containers"][0]["env"][0]["value"].as_str().unwrap();
        assert!(spec.contains(r#""server":"/redkeep-boot""#), "{spec}");
        for request in [verification().beside(None), request().beside(Some(server()))] {
            assert!(pod(&request).0["initContainers"].is_null());
            assert!(request.mounts.iter().all(|mount| mount.source != MountSource::EmptyDir));
        }
    }
}
