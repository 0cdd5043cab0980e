//! The paths in a task: where a Job finds its mounts is not where a process finds the same files.

use std::path::{Path, PathBuf};

use crate::encoding::DecryptionKeys;
use crate::secret::SecretRef;
use crate::task::{BackupTask, EndpointSpec, MethodSpec, StorageSpec, TargetSpec, Task, TaskSpec};

/// What a path becomes.
type Moved<'a> = &'a dyn Fn(&Path) -> PathBuf;

/// `path` with `from` at its start replaced by `to`; `None` where it does not lie there.
pub fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

impl TaskSpec {
    /// Passes every path through `moved`. Addresses of storages that are folders are paths, too.
    pub fn move_paths(&mut self, moved: Moved<'_>) {
        match &mut self.task {
            Task::Backup(task) => backup(task, moved),
            Task::Restore(task) => {
                storage(&mut task.storage, moved);
                method(&mut task.method, moved);
                keys(&mut task.keys, moved);
                match &mut task.target {
                    TargetSpec::Directory(directory) => directory.path = moved(&directory.path),
                    TargetSpec::Live { endpoint: target } => endpoint(target, moved),
                }
            }
            Task::Verify(task) => {
                storage(&mut task.storage, moved);
                method(&mut task.method, moved);
                keys(&mut task.keys, moved);
                optional(&mut task.server, moved);
            }
            Task::Inspect(task) => {
                storage(&mut task.storage, moved);
                method(&mut task.method, moved);
                keys(&mut task.keys, moved);
            }
            Task::Prune(task) => storage(&mut task.storage, moved),
            Task::Delete(task) => storage(&mut task.storage, moved),
            Task::Pin(task) => storage(&mut task.storage, moved),
            Task::Copy(task) => {
                storage(&mut task.storage, moved);
                storage(&mut task.to, moved);
            }
            Task::Probe(task) => storage(&mut task.storage, moved),
            Task::Find(task) => storage(&mut task.storage, moved),
            Task::Capture(task) => backup(&mut task.backup, moved),
            Task::Commit(task) => backup(&mut task.backup, moved),
            Task::Load(task) => method(&mut task.method, moved),
        }
    }
}

fn optional(path: &mut Option<PathBuf>, moved: Moved<'_>) {
    if let Some(path) = path {
        *path = moved(path);
    }
}

fn secret(place: &mut Option<SecretRef>, moved: Moved<'_>) {
    match place {
        Some(SecretRef::File(path) | SecretRef::Folder(path)) => *path = moved(path),
        Some(SecretRef::Env(_)) | None => {}
    }
}

fn backup(task: &mut BackupTask, moved: Moved<'_>) {
    endpoint(&mut task.source, moved);
    storage(&mut task.storage, moved);
    method(&mut task.method, moved);
    secret(&mut task.encryption.passphrase, moved);
    optional(&mut task.spool, moved);
}

fn endpoint(spec: &mut EndpointSpec, moved: Moved<'_>) {
    optional(&mut spec.data_dir, moved);
    secret(&mut spec.username_from, moved);
    secret(&mut spec.password, moved);
    secret(&mut spec.sentinel_password, moved);
    optional(&mut spec.tls.ca_file, moved);
    optional(&mut spec.tls.cert_file, moved);
    optional(&mut spec.tls.key_file, moved);
}

fn storage(spec: &mut StorageSpec, moved: Moved<'_>) {
    optional(&mut spec.ca_file, moved);
    optional(&mut spec.credentials_dir, moved);
    if !spec.url.contains("://")
        && let Some(path) = moved(Path::new(&spec.url)).to_str()
    {
        path.clone_into(&mut spec.url);
    }
}

fn method(spec: &mut MethodSpec, moved: Moved<'_>) {
    optional(&mut spec.file, moved);
    if let Some(oci) = &mut spec.oci {
        optional(&mut oci.config_file, moved);
        optional(&mut oci.ca_file, moved);
        optional(&mut oci.public_key_file, moved);
        secret(&mut oci.password, moved);
    }
}

fn keys(spec: &mut DecryptionKeys, moved: Moved<'_>) {
    spec.identities.iter_mut().for_each(|path| *path = moved(path));
    secret(&mut spec.passphrase, moved);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case("/a", Some("/z"))]
    #[case("/a/", Some("/z"))]
    #[case("/a/b/c", Some("/z/b/c"))]
    #[case("/ab", None)]
    #[case("a", None)]
    fn a_path_moves_with_its_folder(#[case] path: &str, #[case] wanted: Option<&str>) {
        assert_eq!(moved(Path::new(path), Path::new("/a"), Path::new("/z")), wanted.map(PathBuf::from));
    }

    fn storage(name: &str) -> Value {
        json!({"url": format!("/m/{name}"), "caFile": "/m/ca", "credentialsDir": "/m"})
    }

    fn endpoint() -> Value {
        json!({
            "url": "redis://m/m", "dataDir": "/m/data", "usernameFrom": {"file": "/m/u"}, "password": {"folder": "/m"}, "sentinelPassword": {"file": "/m/s"},
            "tls": {"caFile": "/m/1", "certFile": "/m/2", "keyFile": "/m/3"}
        })
    }

    fn a_backup(kind: &str) -> Value {
        json!({"kind": kind, "source": endpoint(), "method": {"file": "/m/p.wasm"}, "storage": storage("s"),
            "namespace": "n", "origin": "o", "compression": "none", "spool": "/m/spool",
            "encryption": {"recipients": [], "passphrase": {"file": "/m/p"}}})
    }

    fn part_of(kind: &str, more: &Value) -> Value {
        let mut task = json!({"kind": kind, "backup": a_backup("backup")});
        if let (Some(task), Some(more)) = (task.as_object_mut(), more.as_object()) {
            if let Some(backup) = task.get_mut("backup").and_then(Value::as_object_mut) {
                backup.remove("kind");
            }
            task.extend(more.clone());
        }
        task
    }

    /// Every kind of task, with all its paths under `/m`.
    #[rstest]
    #[case(a_backup("backup"))]
    #[case(json!({"kind": "restore", "storage": storage("s"), "backup": {"backup": "latest"},
        "target": {"type": "live", "endpoint": endpoint()},
        "keys": {"identities": ["/m/i"], "passphrase": {"file": "/m/p"}}}))]
    #[case(json!({"kind": "restore", "storage": storage("s"), "backup": {"backup": "latest"},
        "target": {"type": "directory", "path": "/m/d"}}))]
    #[case(json!({"kind": "verify", "storage": storage("s"), "backup": {"backup": "latest"}, "level": "parse",
        "method": {"oci": {"reference": "oci://r/n", "configFile": "/m/c", "caFile": "/m/a", "publicKeyFile": "/m/k",
            "password": {"file": "/m/w"}}}}))]
    #[case(json!({"kind": "inspect", "storage": storage("s"), "backup": {"backup": "latest"}, "query": {}}))]
    #[case(json!({"kind": "prune", "storage": storage("s"), "keep": {}, "graceSeconds": 1}))]
    #[case(json!({"kind": "delete", "storage": storage("s"), "backup": {"backup": "latest"}}))]
    #[case(json!({"kind": "copy", "storage": storage("s"), "to": storage("t"), "backups": []}))]
    #[case(part_of("capture", &json!({"shard": "0"})))]
    #[case(part_of("commit", &json!({"parts": [{"shard": "0", "attempt": "a"}]})))]
    #[case(json!({"kind": "probe", "storage": storage("s")}))]
    #[case(json!({"kind": "load", "method": {"file": "/m/p.wasm", "oci": {"reference": "oci://r/n", "configFile": "/m/c",
        "caFile": "/m/a"}}}))]
    #[case(json!({"kind": "find", "storage": storage("s"), "backup": {"backup": "latest"}}))]
    fn every_path_of_every_kind_of_task_moves(#[case] task: Value) {
        let mut spec: TaskSpec = serde_json::from_value(json!({"version": 1, "task": task})).unwrap();
        let before = serde_json::to_string(&spec).unwrap();
        spec.move_paths(&|path| {
            moved(path, Path::new("/m"), Path::new("/elsewhere")).unwrap_or_else(|| path.to_owned())
        });
        let after = serde_json::to_string(&spec).unwrap();
        assert_eq!(after, before.replace("\"/m", "\"/elsewhere"));
        assert!(!after.contains("\"/m") && after.matches("/elsewhere").count() >= 3, "{after}");
    }
}
