//! The pod of a task: where it runs, as whom, with what.

use redkeep_k8s_api::common::TaskSettings;

use super::Unresolved;
use crate::executor::Placement;
use crate::settings::Settings;
use k8s_openapi::api::core::v1::ResourceRequirements;

/// What a spec says about its task's pod, held against the operator's allow-list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPod {
    /// Where and as whom.
    pub placement: Placement,
    /// Workload identity.
    pub service_account: Option<String>,
    /// Requests and limits.
    pub resources: Option<ResourceRequirements>,
}

/// Checks and translates. `inherited` is the service account of the storage, where the spec names none.
///
/// # Errors
/// A service account that is not on the operator's list: naming any would be a way to its rights.
pub fn task_pod(
    task: Option<&TaskSettings>,
    inherited: Option<&str>,
    settings: &Settings,
) -> Result<TaskPod, Unresolved> {
    let named = task.and_then(|task| task.service_account_name.as_deref());
    let service_account = named.or(inherited);
    if let Some(name) = service_account
        && !settings.task_service_accounts.contains(name)
    {
        let why = format!("service account {name} is not on the operator's list (--task-service-account)");
        return Err(Unresolved::invalid("spec.task.serviceAccountName", why));
    }
    let placement = match task {
        None => Placement::default(),
        Some(task) => Placement {
            affinity: task.affinity.clone(),
            tolerations: task.tolerations.clone(),
            node_selector: task.node_selector.clone(),
            priority_class_name: task.priority_class_name.clone(),
            image_pull_secrets: task.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
            labels: task.labels.clone(),
            annotations: task.annotations.clone(),
            scratch_limit: task.spool.as_ref().map(|spool| spool.size_limit.clone()),
            ..Placement::default()
        },
    };
    let resources = task.and_then(|task| task.resources.clone());
    Ok(TaskPod { placement, service_account: service_account.map(str::to_owned), resources })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_must_be_on_the_list_and_a_storages_is_inherited() {
        let mut settings = Settings::new("i", "n", "o");
        let named = TaskSettings { service_account_name: Some("mine".into()), ..TaskSettings::default() };
        let refused = task_pod(Some(&named), None, &settings).unwrap_err();
        assert!(refused.to_string().starts_with("spec.task.serviceAccountName: "), "{refused}");
        assert!(task_pod(None, Some("of-the-storage"), &settings).is_err());
        settings.task_service_accounts = ["mine".to_owned(), "of-the-storage".to_owned()].into();
        let of = |task, inherited| task_pod(task, inherited, &settings).unwrap().service_account;
        assert_eq!(of(Some(&named), Some("of-the-storage")).as_deref(), Some("mine"));
        assert_eq!(of(None, Some("of-the-storage")).as_deref(), Some("of-the-storage"));
        assert_eq!(of(None, None), None);
    }
}
