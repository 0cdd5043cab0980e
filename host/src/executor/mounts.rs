//! What a task's pod would have mounted, laid out for a task that runs in this process.
//!
//! Secrets need a right that the operator does not have by default: without a reader such tasks are refused, with the reason.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use redkeep_controller::executor::{ExecutorError, Mount, MountSource, TaskRequest};
use redkeep_core::relocate::moved;
use redkeep_core::task::TaskSpec;
use tempfile::TempDir;

/// The most bytes of one Secret: Kubernetes takes 1 MiB.
const MAX_SECRET: usize = 2 << 20;

/// Reads Secrets, where the operator may.
#[async_trait]
pub(crate) trait SecretReader: Send + Sync {
    /// The keys of a Secret; none where there is no such Secret: a task then says what it looked for.
    async fn read(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, String>;
}

/// A task that can run here: its spec, and the folder that its paths lead into for as long as this lives.
pub(super) struct Prepared {
    pub(super) spec: TaskSpec,
    _folder: TempDir,
}

/// Why this process cannot run a task, as far as that can be seen without asking anybody.
pub(super) fn refusal(request: &TaskRequest, may_read_secrets: bool) -> Option<(&'static str, String)> {
    if let Some(account) = &request.service_account {
        return Some((
            "ServiceAccountNotPossible",
            format!("it runs as service account {account}, which only a pod can: use --executor job"),
        ));
    }
    if let Some(server) = &request.server {
        return Some((
            "ServerNotPossible",
            format!(
                "it needs a server of image {} beside it, which only a pod has: use --executor job, or level parse",
                server.image
            ),
        ));
    }
    request.mounts.iter().find_map(|mount| match &mount.source {
        MountSource::Secret(name) if !may_read_secrets => Some((
            "SecretsNotReadable",
            format!(
                "it needs the Secret {name}, and this operator may not read Secrets: install the optional role, or use \
                 --executor job"
            ),
        )),
        MountSource::Claim { name, .. } => Some((
            "ClaimNotPossible",
            format!("it needs the claim {name}, which only a pod can mount: use --executor job"),
        )),
        MountSource::ConfigMap(name) => Some((
            "ConfigMapNotPossible",
            format!("it needs the ConfigMap {name}, which only a pod can mount: use --executor job"),
        )),
        MountSource::Secret(_) | MountSource::EmptyDir => None,
    })
}

/// Fetches what the task needs and lays it out.
pub(super) async fn prepare(
    request: &TaskRequest,
    secrets: Option<&Arc<dyn SecretReader>>,
) -> Result<Prepared, ExecutorError> {
    let refused =
        |reason: &'static str, message: String| ExecutorError::Refused { key: request.key.clone(), reason, message };
    let unwritable =
        |error: std::io::Error| refused("ScratchUnwritable", format!("failed to lay its files out: {error}"));
    let folder = tempfile::Builder::new().prefix("redkeep-task-").tempdir().map_err(unwritable)?;
    let mut places: Vec<(&Path, PathBuf)> = Vec::new();
    for (number, Mount { source, path }) in request.mounts.iter().enumerate() {
        let place = folder.path().join(number.to_string());
        std::fs::DirBuilder::new().mode(0o700).create(&place).map_err(unwritable)?;
        if let (MountSource::Secret(name), Some(reader)) = (source, secrets) {
            let keys = reader
                .read(&request.key.namespace, name)
                .await
                .map_err(|why| refused("SecretsNotReadable", format!("failed to read the Secret {name}: {why}")))?;
            lay_out(&place, &keys).map_err(unwritable)?;
        }
        places.push((path, place));
    }
    let mut spec = request.spec.clone();
    spec.move_paths(&|path| {
        places.iter().find_map(|(from, to)| moved(path, from, to)).unwrap_or_else(|| path.to_owned())
    });
    Ok(Prepared { spec, _folder: folder })
}

/// A file for each key, for this user alone.
fn lay_out(folder: &Path, keys: &BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    use std::io::Write;
    if keys.values().map(Vec::len).sum::<usize>() > MAX_SECRET {
        return Err(std::io::Error::other("the Secret is larger than Secrets are"));
    }
    for (key, value) in keys {
        // The API server allows no other names; a server that did could write anywhere.
        let is_name = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name || key.starts_with("..") || key == "." {
            return Err(std::io::Error::other(format!("the Secret has a key `{key}`, which is no file's name")));
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(key))?;
        file.write_all(value)?;
    }
    Ok(())
}
