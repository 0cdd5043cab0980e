//! The task that registers a method. Cannot fail.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};
use redkeep_core::Timestamp;
use redkeep_core::task::{LoadTask, SPEC_VERSION, Task, TaskSpec};
use redkeep_k8s_api::backup_method::BackupMethod;
use redkeep_k8s_api::labels::METHOD;

use super::dereference::key;
use crate::common::method::MethodAccess;
use crate::executor::{Placement, Purpose, TaskRequest};
use crate::settings::Settings;

/// Fetching 64 MiB and compiling a Python plugin on a slow node take less.
const DEADLINE: Duration = Duration::from_mins(10);

/// A stranger's component is compiled there: whatever it makes of the compiler, the pod ends alone. `CPython` takes a quarter of it.
fn resources() -> ResourceRequirements {
    let quantities = |cpu: &str, memory: &str| {
        let pairs = [("cpu", cpu), ("memory", memory)];
        Some(pairs.map(|(name, value)| (name.to_owned(), Quantity(value.to_owned()))).into())
    };
    ResourceRequirements {
        requests: quantities("100m", "128Mi"),
        limits: quantities("2", "2Gi"),
        ..ResourceRequirements::default()
    }
}

pub(super) fn load(method: &BackupMethod, access: MethodAccess, settings: &Settings, now: Timestamp) -> TaskRequest {
    let mut placement = Placement::default();
    placement.labels.insert(METHOD.to_owned(), method.name_any());
    TaskRequest {
        key: key(method, settings),
        owner: method.controller_owner_ref(&()).unwrap_or_default(),
        purpose: Purpose::Load,
        spec: TaskSpec {
            version: SPEC_VERSION,
            deadline: now.checked_add(DEADLINE.saturating_add(settings.start_deadline)).ok(),
            task: Task::Load(LoadTask { method: access.spec }),
        },
        mounts: access.mounts,
        placement,
        deadline: DEADLINE,
        start_deadline: settings.start_deadline,
        retries: 0,
        service_account: None,
        resources: Some(resources()),
        server: None,
    }
}
