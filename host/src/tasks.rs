//! Tasks as a Job or an operator of this process is given them: their parameters take their types, then the engine runs them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redkeep_core::method::Method;
use redkeep_core::provider::Providers;
use redkeep_core::task::{BackupTask, CaptureTask, RESTORE_OPTIONS, RestoreTask, Task, TaskReport, TaskSpec};
use redkeep_engine::events::TaskEvents;
use redkeep_engine::list::manifest;

use crate::arguments::parameters::{has_texts, type_texts};
use crate::output::failure::Failure;

/// Does what the spec says and always answers.
pub(crate) async fn run(mut spec: TaskSpec, providers: Arc<dyn Providers>, events: Arc<dyn TaskEvents>) -> TaskReport {
    let left = spec.deadline.map_or(Duration::MAX, |deadline| {
        Duration::try_from(deadline.duration_since(providers.now())).unwrap_or_default()
    });
    // What fails here, or takes too long, meets the engine as well, which reports it.
    let typed = Box::pin(type_parameters(&mut spec.task, &providers, &events));
    let _ = tokio::time::timeout(left, typed).await;
    Box::pin(redkeep_engine::run(spec, providers, events)).await
}

async fn type_parameters(task: &mut Task, providers: &Arc<dyn Providers>, events: &Arc<dyn TaskEvents>) {
    match task {
        Task::Backup(BackupTask { method, parameters, .. })
        | Task::Capture(CaptureTask { backup: BackupTask { method, parameters, .. }, .. }) => {
            if has_texts(parameters, &[])
                && let Ok(method) = providers.method(method).await
            {
                type_texts(parameters, &[], method.info());
            }
        }
        Task::Restore(task) => {
            if has_texts(&task.parameters, &RESTORE_OPTIONS)
                && let Ok(method) = method_that_restores(task, providers, events).await
            {
                type_texts(&mut task.parameters, &RESTORE_OPTIONS, method.info());
            }
        }
        _ => {}
    }
}

/// The method that will restore: its schema says which type a parameter has.
pub(crate) async fn method_that_restores(
    task: &RestoreTask,
    providers: &Arc<dyn Providers>,
    events: &Arc<dyn TaskEvents>,
) -> Result<Arc<dyn Method>, Failure> {
    let manifest = manifest(&task.storage, &task.backup, providers, events).await?;
    let types: BTreeSet<String> = manifest.artifacts.iter().map(|artifact| artifact.artifact_type.clone()).collect();
    let types: Vec<String> = types.into_iter().collect();
    Ok(providers.method_that_reads(&task.method, &manifest.method.name, &types).await?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use redkeep_core::task::Outcome;
    use serde_json::{Value, json};

    use super::*;
    use crate::output::progress::{Mode, Progress};
    use crate::wiring::Wiring;

    async fn report(task: Value) -> TaskReport {
        let spec = serde_json::from_value(json!({"version": 1, "task": task})).unwrap();
        let progress = Progress::new(Mode::detect(true), false, tokio_util::sync::CancellationToken::new());
        run(spec, Wiring::new(), progress).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parameters_that_a_custom_resource_says_as_text_are_typed_by_the_methods_schema() {
        let host = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !host.join("../plugins/dist/redis-rdb.wasm").is_file() {
            assert!(std::env::var_os("CI").is_none(), "run `cargo xtask plugins` first");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::copy(host.join("../plugins/sdk/tests/fixtures/redis-7.0.rdb"), data.join("dump.rdb")).unwrap();
        let storage = json!({"url": folder.path().join("storage")});
        let backed_up = report(json!({"kind": "backup", "source": {"dataDir": data}, "method": {"name": "rdb"},
            "storage": storage, "namespace": "shop", "cluster": "carts", "origin": "me", "compression": "none",
            "parameters": {"source": "files", "acl": "false"}}))
        .await;
        assert_eq!(backed_up.outcome, Outcome::Done, "{backed_up:?}");
        let restored = report(json!({"kind": "restore", "storage": storage, "backup": {"backup": "latest"},
            "target": {"type": "directory", "path": folder.path().join("target")}, "parameters": {"acl": "no"}}))
        .await;
        assert_eq!(restored.outcome, Outcome::Done, "{restored:?}");
        let wrong = report(json!({"kind": "restore", "storage": storage, "backup": {"backup": "latest"},
            "target": {"type": "directory", "path": folder.path().join("other")}, "parameters": {"acl": "perhaps"}}))
        .await;
        let Outcome::Failed { reason, .. } = &wrong.outcome else { panic!("{wrong:?}") };
        assert_eq!(reason, "InvalidParameters");
    }
}
