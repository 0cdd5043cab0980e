//! A backup from a pod's files: a task chooses the server, its pod is written down, and only then the backup's own task is made,
//! beside that pod. A pod that is replaced in between is chosen again, a few times.

use crate::runtime::Action;
use kube::ResourceExt;
use redkeep_k8s_api::conditions::reasons;
use redkeep_k8s_api::endpoint::{DataFiles, StatefulSetEndpoint};
use redkeep_k8s_api::redis_backup::{FilesPlan, RedisBackupSpec, RedisBackupStatus};

use super::decide::{self, PlanDecision};
use super::status::{Before, task_was_seen};
use super::{Look, build};
use crate::common::ReconcileError;
use crate::common::files::{Chosen, Pinned};
use crate::common::source;
use crate::executor::{Purpose, TaskRequest};

/// How often the choice is made again. A set whose pods come and go faster than a task starts is not one to copy files from.
const MOST_REPEATS: i32 = 3;

/// The `StatefulSet` whose files are read, where a spec asks for that.
pub(super) fn of_files(spec: &RedisBackupSpec) -> Option<(&StatefulSetEndpoint, &DataFiles)> {
    let set = spec.source.as_ref()?.stateful_set.as_ref()?;
    Some((set, set.files.as_ref()?))
}

/// What a plan chose, as the status says.
pub(super) fn chosen(status: &RedisBackupStatus) -> Option<Chosen> {
    let plan = status.plan.as_ref()?;
    Some(Chosen { pod: status.target_pod.clone()?, uid: plan.pod_uid.clone()?, node: plan.node.clone()? })
}

/// Whether a server is to be chosen before the backup's own task can be made.
pub(super) fn is_due(spec: &RedisBackupSpec, status: &RedisBackupStatus) -> bool {
    of_files(spec).is_some() && chosen(status).is_none() && !task_was_seen(status)
}

impl Before<'_> {
    fn chose(&self, chosen: &Chosen) -> RedisBackupStatus {
        let mut next = self.preparing(&format!("the files of {} are to be read; the task is being made", chosen.pod));
        next.target_pod = Some(chosen.pod.clone());
        let plan = next.plan.get_or_insert_default();
        plan.pod_uid = Some(chosen.uid.clone());
        plan.node = Some(chosen.node.clone());
        next
    }

    fn chooses_again(&self, why: &str) -> RedisBackupStatus {
        let mut next = self.planning(&format!("{why}: a server is chosen again"));
        next.target_pod = None;
        next.plan = Some(FilesPlan { repeats: repeats(self.status) + 1, ..FilesPlan::default() });
        next
    }
}

fn repeats(status: &RedisBackupStatus) -> i32 {
    status.plan.as_ref().map_or(0, |plan| plan.repeats)
}

impl Look<'_> {
    /// One look at the task that chooses the server.
    pub(super) async fn plan(&self) -> Result<Action, ReconcileError> {
        let task = self.context.executor.observe(&build::key(self.backup, Purpose::Plan)).await?;
        match decide::decide_plan(&self.backup.spec, self.status, &task, self.context.now()) {
            PlanDecision::Start => self.start_plan().await,
            PlanDecision::Wait { message } => self.write(self.before().planning(&message)).await,
            PlanDecision::Choose { node } => self.choose(&node).await,
            PlanDecision::Complete { report } => self.complete(&report).await,
            PlanDecision::Fail { reason, message } => self.fail(&reason, &message).await,
        }
    }

    async fn start_plan(&self) -> Result<Action, ReconcileError> {
        let (access, validated) = match self.resolve().await {
            Ok(resolved) => resolved,
            Err(error) => return self.unresolved(error).await,
        };
        let Some(request) = self.request(&access, &validated) else { return self.not_ours().await };
        match self.context.executor.start(&build::plan_request(self.backup, request)).await {
            Ok(()) => Ok(self.again()),
            Err(error) => self.not_started(error).await,
        }
    }

    async fn choose(&self, node: &str) -> Result<Action, ReconcileError> {
        let Some((set, _)) = of_files(&self.backup.spec) else { return Ok(self.again()) };
        let namespace = self.backup.namespace().unwrap_or_default();
        match source::pod_of_set(&self.context.client, &namespace, &set.name, node).await {
            Ok(Some(chosen)) => self.write(self.before().chose(&chosen)).await,
            Ok(None) => self.choose_again(&format!("the pod at {node} is gone")).await,
            Err(error) => self.unresolved(error).await,
        }
    }

    /// Makes of a request one that reads the chosen pod's files. `Err` is what was done instead.
    pub(super) async fn pin(&self, request: &mut TaskRequest) -> Result<Result<(), Action>, ReconcileError> {
        let Some((_, files)) = of_files(&self.backup.spec) else { return Ok(Ok(())) };
        let Some(chosen) = chosen(self.status) else { return Ok(Err(self.again())) };
        let namespace = self.backup.namespace().unwrap_or_default();
        match source::pin(&self.context.client, &namespace, files, &chosen).await {
            Ok(Pinned::To(pin)) => {
                build::pin(request, &pin);
                Ok(Ok(()))
            }
            Ok(Pinned::Replaced { why }) => self.choose_again(&why).await.map(Err),
            Err(error) => self.unresolved(error).await.map(Err),
        }
    }

    /// The old choice goes before it is forgotten: what it said must not be heard again.
    async fn choose_again(&self, why: &str) -> Result<Action, ReconcileError> {
        if repeats(self.status) >= MOST_REPEATS {
            let message = format!("{why}, after a server was chosen {} times", MOST_REPEATS + 1);
            return self.fail(reasons::POD_REPLACED, &message).await;
        }
        self.context.executor.cancel(&build::key(self.backup, Purpose::Plan)).await?;
        self.write(self.before().chooses_again(why)).await
    }

    /// Whether there is a task that chooses the server.
    pub(super) fn is_planned(&self) -> bool {
        of_files(&self.backup.spec).is_some()
    }
}

#[cfg(test)]
mod tests;
