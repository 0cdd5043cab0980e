//! The tasks of a RedisBackup: pure, and nothing in it may fail.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use redkeep_core::encoding::DecryptionKeys;
use redkeep_core::identifier::{BackupId, ClusterName, Namespace};
use redkeep_core::task::{
    BackupSelector, BackupTask, DeleteTask, FindTask, MethodSpec, PinTask, SPEC_VERSION, Task, TaskSpec, VerifyLevel,
    VerifyTask,
};
use redkeep_k8s_api::labels;
use redkeep_k8s_api::redis_backup::RedisBackup;

use super::dereference::Dereferenced;
use super::validate::Validated;
use crate::common::files::Pin;
use crate::common::method::MethodAccess;
use crate::common::placement::TaskPod;
use crate::common::storage::StorageAccess;
use crate::executor::{Purpose, TaskKey, TaskRequest};
use crate::settings::Settings;

/// What looks or deletes is quick, or stuck.
const SHORT_DEADLINE: Duration = Duration::from_secs(600);
/// A passing fault of the storage must not end a short task.
const SHORT_RETRIES: u32 = 2;

/// How a backup is named in storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) backup_id: BackupId,
    pub(super) namespace: Namespace,
    pub(super) cluster: ClusterName,
}

/// The name of one of its tasks.
pub(super) fn key(backup: &RedisBackup, purpose: Purpose) -> TaskKey {
    let namespace = backup.namespace().unwrap_or_default();
    TaskKey::new(&namespace, &backup.name_any(), &backup.uid().unwrap_or_default(), purpose)
}

fn owner(backup: &RedisBackup, blocks: bool) -> OwnerReference {
    OwnerReference {
        api_version: RedisBackup::api_version(&()).into_owned(),
        kind: RedisBackup::kind(&()).into_owned(),
        name: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(blocks),
    }
}

/// The backup itself. Its deadline counts from when it was begun, whenever its Job is made.
pub(super) fn backup_request(
    backup: &RedisBackup,
    access: &Dereferenced,
    validated: &Validated,
    identity: &Identity,
    settings: &Settings,
    started: Timestamp,
) -> TaskRequest {
    let task = BackupTask {
        source: access.source.endpoint.clone(),
        method: access.method.spec.clone(),
        storage: access.storage.spec.clone(),
        namespace: identity.namespace.clone(),
        cluster: Some(identity.cluster.clone()),
        name: Some(backup.name_any()),
        backup_id: Some(identity.backup_id.clone()),
        origin: settings.origin.clone(),
        compression: validated.compression,
        encryption: validated.encryption.clone(),
        parameters: validated.parameters.clone(),
        spool: validated.spool.clone(),
        limit_rate: validated.limit_rate,
        hold_limit_seconds: validated.hold_limit_seconds,
        pin: backup.spec.pin,
        dry_run: false,
    };
    let deadline = SignedDuration::try_from(validated.deadline).ok().and_then(|after| started.checked_add(after).ok());
    let mounts = [&access.source.mounts, &access.storage.mounts, &access.method.mounts, &validated.encryption_mounts];
    let mut request = TaskRequest {
        key: key(backup, Purpose::Backup),
        owner: owner(backup, true),
        purpose: Purpose::Backup,
        spec: TaskSpec { version: SPEC_VERSION, deadline, task: Task::Backup(task) },
        mounts: mounts.into_iter().flatten().cloned().collect(),
        placement: validated.pod.placement.clone(),
        deadline: validated.deadline,
        start_deadline: validated.start_deadline,
        retries: validated.retries,
        service_account: validated.pod.service_account.clone(),
        resources: validated.pod.resources.clone(),
        server: None,
    };
    request.placement.labels.extend(labels_of(backup, &access.storage));
    request
}

/// The choice of the server whose files a backup reads: the backup's own request, stopped after its plan. Whichever method
/// it is, the choice is that of `rdb`: a method that cannot do without a directory would refuse a plan that has none.
pub(super) fn plan_request(backup: &RedisBackup, mut request: TaskRequest) -> TaskRequest {
    if let Task::Backup(task) = &mut request.spec.task {
        task.dry_run = true;
        task.method = MethodSpec { name: "rdb".to_owned(), ..MethodSpec::default() };
        task.parameters.clear();
        task.spool = None;
        task.limit_rate = None;
    }
    // Its own deadline, which the executor sets, is nearer than the run's.
    request.spec.deadline = None;
    request.key = key(backup, Purpose::Plan);
    request.purpose = Purpose::Plan;
    request.deadline = request.deadline.min(SHORT_DEADLINE);
    request.retries = SHORT_RETRIES;
    request
}

/// Makes it one that reads the files of the pod that was chosen.
pub(super) fn pin(request: &mut TaskRequest, pin: &Pin) {
    if let Task::Backup(task) = &mut request.spec.task {
        task.source.url = Some(pin.url.clone());
        task.source.data_dir = Some(pin.data_dir.clone());
    }
    request.mounts.push(pin.mount.clone());
    pin.place(&mut request.placement);
}

fn labels_of(backup: &RedisBackup, storage: &StorageAccess) -> Vec<(String, String)> {
    let mut labels = vec![(labels::BACKUP.to_owned(), backup.name_any())];
    labels.extend(storage.name.clone().map(|name| (labels::STORAGE.to_owned(), name)));
    labels
}

/// A backup that lies in storage, and what a task that is about it needs.
pub(super) struct Stored<'a> {
    pub(super) backup: &'a RedisBackup,
    pub(super) storage: &'a StorageAccess,
    pub(super) pod: &'a TaskPod,
    pub(super) identity: &'a Identity,
    pub(super) settings: &'a Settings,
}

impl Stored<'_> {
    /// Whether the backup exists.
    pub(super) fn find(&self) -> TaskRequest {
        let task = Task::Find(FindTask { storage: self.storage.spec.clone(), backup: self.selector() });
        self.short(Purpose::Inspect, true, task)
    }

    /// Deletes the artifacts. The object that owns it is going away already, and must not wait for it twice.
    pub(super) fn delete(&self) -> TaskRequest {
        let task =
            Task::Delete(DeleteTask { storage: self.storage.spec.clone(), backup: self.selector(), force: true });
        self.short(Purpose::Delete, false, task)
    }

    /// Pins it or unpins it, as the spec says now.
    pub(super) fn pin(&self) -> TaskRequest {
        let pinned = self.backup.spec.pin;
        let task = Task::Pin(PinTask { storage: self.storage.spec.clone(), backup: self.selector(), pinned });
        self.short(Purpose::Pin, false, task)
    }

    /// Reads a backup again. It may take as long as the backup did.
    pub(super) fn verify(&self, level: VerifyLevel, keys: DecryptionKeys, method: MethodAccess) -> TaskRequest {
        let task = Task::Verify(VerifyTask {
            storage: self.storage.spec.clone(),
            // What was made here just now.
            backup: BackupSelector { origin: Some(self.settings.origin.clone()), ..self.selector() },
            level,
            method: method.spec,
            keys,
            record: true,
            server: None,
        });
        let mut request = self.short(Purpose::Verify, true, task);
        let seconds = u64::try_from(self.backup.spec.active_deadline_seconds).unwrap_or(0);
        request.deadline = SHORT_DEADLINE.max(Duration::from_secs(seconds));
        request.mounts.extend(method.mounts);
        request
    }

    fn selector(&self) -> BackupSelector {
        BackupSelector {
            backup: self.identity.backup_id.as_str().to_owned(),
            cluster: Some(self.identity.cluster.clone()),
            namespace: Some(self.identity.namespace.clone()),
            before: None,
            origin: None,
        }
    }

    fn short(&self, purpose: Purpose, blocks: bool, task: Task) -> TaskRequest {
        let mut placement = self.pod.placement.clone();
        placement.labels.extend(labels_of(self.backup, self.storage));
        TaskRequest {
            key: key(self.backup, purpose),
            owner: owner(self.backup, blocks),
            purpose,
            spec: TaskSpec { version: SPEC_VERSION, deadline: None, task },
            mounts: self.storage.mounts.clone(),
            placement,
            deadline: SHORT_DEADLINE,
            start_deadline: self.settings.start_deadline,
            retries: SHORT_RETRIES,
            service_account: self.pod.service_account.clone(),
            resources: self.pod.resources.clone(),
            server: None,
        }
    }
}
