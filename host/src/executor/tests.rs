//! Tasks in the process: real specs over memory storage and over servers that are not there.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use redkeep_controller::executor::{Mount, MountSource, Placement, Purpose, ThrowAwayServer};
use redkeep_core::task::TaskSpec;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::wiring::Wiring;

fn executor(parallelism: usize, secrets: Option<Arc<dyn SecretReader>>) -> InProcessExecutor {
    let made = InProcessExecutor::new(Wiring::new(), parallelism, secrets);
    let mut executor = Arc::into_inner(made).unwrap();
    executor.first_retry = Duration::from_millis(10);
    executor
}

fn request(name: &str, task: Value) -> TaskRequest {
    let spec: TaskSpec = serde_json::from_value(json!({"version": 1, "task": task})).unwrap();
    TaskRequest {
        key: TaskKey { namespace: "default".into(), name: name.into() },
        owner: OwnerReference {
            kind: "RedisBackup".into(),
            name: name.into(),
            uid: "uid-1".into(),
            ..Default::default()
        },
        purpose: Purpose::Backup,
        spec,
        mounts: Vec::new(),
        placement: Placement::default(),
        deadline: Duration::from_secs(600),
        start_deadline: Duration::from_secs(300),
        retries: 0,
        service_account: None,
        resources: None,
        server: None,
    }
}

fn probe(name: &str) -> TaskRequest {
    request(name, json!({"kind": "probe", "storage": {"url": format!("memory://in-process-{name}")}}))
}

/// A task that asks a storage which takes connections and never answers.
async fn hanging(name: &str) -> (TaskRequest, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let storage =
        json!({"url": "s3://bucket/p", "endpoint": endpoint, "region": "r", "credentialsDir": "/backup-credentials"});
    let mut request = request(name, json!({"kind": "find", "storage": storage, "backup": {"backup": "latest"}}));
    request.mounts = vec![Mount::secret("credentials", "/backup-credentials")];
    (request, listener)
}

struct Fake(BTreeMap<String, Vec<u8>>);

#[async_trait]
impl SecretReader for Fake {
    async fn read(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
        match (namespace, name) {
            ("default", "credentials") => Ok(self.0.clone()),
            ("default", "forbidden") => Err("secrets is forbidden".to_owned()),
            _ => Ok(BTreeMap::new()),
        }
    }
}

fn secrets() -> Arc<dyn SecretReader> {
    let keys = [("accessKeyId", "id"), ("secretAccessKey", "secret")];
    Arc::new(Fake(keys.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into()))
}

async fn until(executor: &InProcessExecutor, key: &TaskKey, wanted: impl Fn(&TaskState) -> bool) -> TaskState {
    let begun = Instant::now();
    loop {
        let state = executor.observe(key).await.unwrap();
        if wanted(&state) {
            return state;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn has_ended(state: &TaskState) -> bool {
    matches!(state, TaskState::Ended { .. } | TaskState::Failed { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_once_for_its_owner_and_is_forgotten_when_told() {
    let executor = executor(2, None);
    let request = probe("once");
    assert_eq!(executor.observe(&request.key).await.unwrap(), TaskState::Missing);
    let mut changes = executor.changes();
    executor.start(&request).await.unwrap();
    executor.start(&request).await.unwrap();
    let state = until(&executor, &request.key, has_ended).await;
    let TaskState::Ended { report, pod: None } = &state else { panic!("{state:?}") };
    assert_eq!((&report.outcome, report.facts["usable"].as_str()), (&Outcome::Done, "yes"));
    executor.start(&request).await.unwrap();
    assert_eq!(executor.observe(&request.key).await.unwrap(), state, "an ended task is not run again");
    let owner = changes.next().await.unwrap();
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("RedisBackup", "once"));
    let mut other = request.clone();
    other.owner.uid = "uid-2".into();
    assert!(matches!(executor.start(&other).await, Err(ExecutorError::NameTaken { .. })));
    executor.forget(&request.key).await.unwrap();
    assert_eq!(executor.observe(&request.key).await.unwrap(), TaskState::Missing);
    executor.start(&other).await.unwrap();
    until(&executor, &request.key, has_ended).await;
}

#[rstest]
#[case::secret(Mount::secret("credentials", "/c"), None, "SecretsNotReadable", "optional role")]
#[case::claim(
    Mount { source: MountSource::Claim { name: "data".into(), read_only: true }, path: "/d".into() },
    None, "ClaimNotPossible", "claim data"
)]
#[case::config_map(Mount { source: MountSource::ConfigMap("ca".into()), path: "/d".into() }, None, "ConfigMapNotPossible", "ca")]
#[case::account(
    Mount { source: MountSource::EmptyDir, path: "/d".into() },
    Some("backup"), "ServiceAccountNotPossible", "service account backup"
)]
#[case::server(Mount { source: MountSource::EmptyDir, path: "/d".into() }, None, "ServerNotPossible", "redis:7.2")]
#[tokio::test]
async fn what_only_a_pod_can_give_is_refused_with_the_reason(
    #[case] mount: Mount,
    #[case] account: Option<&str>,
    #[case] wanted: &str,
    #[case] says: &str,
) {
    let executor = executor(1, None);
    let mut request = probe("refused");
    request.mounts = vec![mount];
    request.service_account = account.map(str::to_owned);
    let server = ThrowAwayServer { image: "redis:7.2".into(), ..ThrowAwayServer::default() };
    request.server = (wanted == "ServerNotPossible").then_some(server);
    let error = executor.start(&request).await.unwrap_err();
    let ExecutorError::Refused { reason, message, .. } = error else { panic!("{error}") };
    assert_eq!(reason, wanted);
    assert!(message.contains(says) && message.contains("--executor job"), "{message}");
    assert_eq!(executor.observe(&request.key).await.unwrap(), TaskState::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_laid_out_for_the_task_alone_and_gone_after_it() {
    let executor = executor(1, Some(secrets()));
    let folder = tempfile::tempdir().unwrap();
    let mut request = request(
        "mounted",
        json!({"kind": "backup", "source": {"url": "redis://127.0.0.1:1", "password": {"folder": "/redis-auth"}},
            "method": {"name": "rdb"}, "storage": {"url": folder.path()}, "namespace": "default", "origin": "o",
            "compression": "none"}),
    );
    request.mounts = vec![Mount::secret("missing", "/redis-auth")];
    executor.start(&request).await.unwrap();
    let state = until(&executor, &request.key, has_ended).await;
    let TaskState::Ended { report, .. } = &state else { panic!("{state:?}") };
    let Outcome::Failed { reason, help, .. } = &report.outcome else { panic!("{report:?}") };
    assert_eq!(reason, "SecretMissing");
    assert!(help.as_deref().unwrap().contains("redis-password"), "{help:?}");

    let mut forbidden = probe("forbidden");
    forbidden.mounts = vec![Mount::secret("forbidden", "/c")];
    let error = executor.start(&forbidden).await.unwrap_err();
    assert!(matches!(&error, ExecutorError::Refused { reason: "SecretsNotReadable", .. }), "{error}");

    let mut found = probe("found");
    found.mounts = vec![Mount::secret("credentials", "/c")];
    found.spec.task =
        serde_json::from_value(json!({"kind": "probe", "storage": {"url": "memory://m", "credentialsDir": "/c"}}))
            .unwrap();
    let prepared = mounts::prepare(&found, Some(&secrets())).await.unwrap();
    let redkeep_core::task::Task::Probe(task) = &prepared.spec.task else { panic!("a probe") };
    let place = task.storage.credentials_dir.clone().unwrap();
    assert_eq!(std::fs::read_to_string(place.join("secretAccessKey")).unwrap(), "secret");
    drop(prepared);
    assert!(!place.exists());
}

#[tokio::test]
async fn a_secret_cannot_write_outside_its_folder() {
    let fake: Arc<dyn SecretReader> = Arc::new(Fake(BTreeMap::from([("../escape".to_owned(), vec![1])])));
    let mut request = probe("escape");
    request.mounts = vec![Mount::secret("credentials", "/c")];
    let error = mounts::prepare(&request, Some(&fake)).await.err().unwrap();
    assert!(matches!(error, ExecutorError::Refused { reason: "ScratchUnwritable", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_run_at_once_and_the_rest_waits_or_is_given_up() {
    let executor = executor(1, Some(secrets()));
    let (first, _listener) = hanging("first").await;
    executor.start(&first).await.unwrap();
    until(&executor, &first.key, |state| matches!(state, TaskState::Running { progress: Some(_), .. })).await;
    let second = probe("second");
    executor.start(&second).await.unwrap();
    let mut third = probe("third");
    third.start_deadline = Duration::from_millis(20);
    executor.start(&third).await.unwrap();
    let state = until(&executor, &third.key, has_ended).await;
    assert!(matches!(&state, TaskState::Failed { reason, .. } if reason == "TasksAhead"), "{state:?}");
    let state = executor.observe(&second.key).await.unwrap();
    assert!(matches!(&state, TaskState::Waiting { reason, .. } if reason == "TasksAhead"), "{state:?}");
    // What is cancelled is gone at once, and its place is free once it has stopped.
    executor.cancel(&first.key).await.unwrap();
    assert_eq!(executor.observe(&first.key).await.unwrap(), TaskState::Missing);
    let state = until(&executor, &second.key, has_ended).await;
    assert!(matches!(state, TaskState::Ended { .. }), "{state:?}");
    executor.cancel(&first.key).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_past_its_deadline_ends_and_a_shutdown_leaves_none_running() {
    let executor = executor(2, Some(secrets()));
    let (mut late, _first) = hanging("late").await;
    late.deadline = Duration::from_millis(50);
    executor.start(&late).await.unwrap();
    let (other, _second) = hanging("other").await;
    executor.start(&other).await.unwrap();
    let state = until(&executor, &late.key, has_ended).await;
    let TaskState::Ended { report, .. } = &state else { panic!("{state:?}") };
    assert!(matches!(&report.outcome, Outcome::Failed { reason, .. } if reason == "DeadlineExceeded"), "{report:?}");
    executor.shutdown().await;
    let state = executor.observe(&other.key).await.unwrap();
    let TaskState::Ended { report, .. } = &state else { panic!("{state:?}") };
    assert!(matches!(&report.outcome, Outcome::Failed { reason, .. } if reason == "Cancelled"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_tried_again_as_often_as_asked_unless_it_would_fail_alike() {
    let executor = executor(1, None);
    let nowhere = json!({"kind": "find", "storage": {"url": "/no/such/store"}, "backup": {"backup": "latest"}});
    let mut changes = executor.changes();
    let mut not_found = request("not-found", nowhere);
    not_found.retries = 3;
    executor.start(&not_found).await.unwrap();
    until(&executor, &not_found.key, has_ended).await;
    executor
        .shared
        .changes
        .send(ChangedOwner { kind: "end".into(), namespace: String::new(), name: String::new() })
        .unwrap();
    let mut seen = 0;
    while changes.next().await.unwrap().kind != "end" {
        seen += 1;
    }
    assert_eq!(seen, 2, "running, ended");

    let folder = tempfile::tempdir().unwrap();
    let unreachable = json!({"kind": "backup", "source": {"url": "redis://127.0.0.1:1"}, "method": {"name": "rdb"},
        "storage": {"url": folder.path()}, "namespace": "default", "origin": "o", "compression": "none"});
    let mut failing = request("failing", unreachable);
    failing.retries = 2;
    executor.start(&failing).await.unwrap();
    let state = until(&executor, &failing.key, has_ended).await;
    let TaskState::Ended { report, .. } = &state else { panic!("{state:?}") };
    let Outcome::Failed { class, .. } = &report.outcome else { panic!("{report:?}") };
    executor
        .shared
        .changes
        .send(ChangedOwner { kind: "end".into(), namespace: String::new(), name: String::new() })
        .unwrap();
    let mut seen = 0;
    while changes.next().await.unwrap().kind != "end" {
        seen += 1;
    }
    assert_eq!((*class, seen), (Class::Failed, 6), "three attempts, two waits, one end");
}
