//! `redkeep task` as a Job runs it: its spec from a variable, its report at every stage, its progress page, its end by signal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redkeep_testing::server::{RedisServer, Version, free_port};
use redkeep_tests::{finish, redkeep};
use serde_json::{Value, json};

/// Where Kubernetes cuts a termination message.
const MAX_REPORT_BYTES: usize = 4096;
const ID: &str = "20261121T091348Z-cache-x7k2p";

/// Enough to be stopped in the middle at 1 MiB a second.
async fn filled() -> Result<RedisServer> {
    let server = RedisServer::start(Version::Redis70)?;
    let mut connection = server.connect().await?;
    let mut random = rand::rng();
    for batch in 0..16 {
        let mut pipeline = redis::pipe();
        for number in 0..64 {
            let mut value = vec![0_u8; 16_384];
            rand::Rng::fill(&mut random, value.as_mut_slice());
            pipeline.cmd("SET").arg(format!("key:{batch}:{number}")).arg(value).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    Ok(server)
}

fn backup(server: &RedisServer, store: &Path, limit: Option<u64>) -> String {
    json!({"version": 1, "task": {
        "kind": "backup",
        "source": {"url": server.url()},
        "method": {"name": "rdb"},
        "storage": {"url": store},
        "namespace": "default", "cluster": "cache", "backupId": ID, "origin": "test",
        "compression": "none",
        "limitRate": limit,
    }})
    .to_string()
}

struct Task {
    child: Child,
    report: std::path::PathBuf,
    port: u16,
}

impl Task {
    fn start(spec: &str, folder: &Path) -> Result<Self> {
        let (report, port) = (folder.join("report"), free_port());
        let child = redkeep()
            .args(["task", "--env", "REDKEEP_TASK", "--report", "--progress-listen", &format!("127.0.0.1:{port}")])
            .env("REDKEEP_TASK", spec)
            .env("REDKEEP_REPORT_FILE", &report)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child, report, port })
    }

    fn report(&self) -> Result<Value> {
        let bytes = std::fs::read(&self.report)?;
        ensure!(bytes.len() <= MAX_REPORT_BYTES, "{} bytes", bytes.len());
        serde_json::from_slice(&bytes).with_context(|| format!("{}", String::from_utf8_lossy(&bytes)))
    }

    fn progress(&self) -> Result<Value> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.write_all(b"GET /progress HTTP/1.1\r\nhost: task\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let body = answer.split("\r\n\r\n").nth(1).context("no body")?;
        Ok(serde_json::from_str(body)?)
    }

    /// Waits until bytes were stored in the stage `capture`.
    fn wait_for_capture(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(120) {
            if let Ok(progress) = self.progress()
                && progress["stage"] == "capture"
                && progress["shards"].as_array().is_some_and(|shards| shards.iter().any(|one| one["done"] != 0))
            {
                return Ok(());
            }
            ensure!(self.child.try_wait()?.is_none(), "the task ended: {:?}", self.report());
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("no progress: {:?}", self.progress())
    }
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_from_a_variable_ends_with_the_report_in_its_file() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["SET", "a", "1"]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let spec = backup(&server, &folder.path().join("store"), None);
    let mut task = Task::start(&spec, folder.path()).unwrap();
    assert!(task.child.wait().unwrap().success());
    let report = task.report().unwrap();
    assert_eq!((&report["outcome"]["state"], &report["backupId"]), (&json!("done"), &json!(ID)), "{report:#}");
    assert_eq!(report["facts"]["keys"], "1");

    let mut without = redkeep();
    without.args(["task", "--env", "REDKEEP_NO_SUCH_TASK"]);
    redkeep_tests::refused(&finish(without), 2, &["REDKEEP_NO_SUCH_TASK"], "a task from nowhere");
    let mut unwritable = redkeep();
    unwritable.args(["task", "--env", "T", "--report"]).env("T", &spec).env("REDKEEP_REPORT_FILE", "/no/such/report");
    redkeep_tests::refused(&finish(unwritable), 1, &["/no/such/report"], "a report that cannot be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_task_cleans_up_and_reports_that_it_was_cancelled() {
    let server = filled().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut task = Task::start(&backup(&server, &store, Some(1 << 20)), folder.path()).unwrap();
    task.wait_for_capture().unwrap();
    let report = task.report().unwrap();
    assert_eq!(report["outcome"], json!({"state": "running", "stage": "capture"}), "{report:#}");
    assert_eq!(report["backupId"], ID);
    let pid = rustix::process::Pid::from_child(&task.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = task.child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    let report = task.report().unwrap();
    assert_eq!((&report["outcome"]["state"], &report["outcome"]["reason"]), (&json!("failed"), &json!("Cancelled")));
    assert_eq!(files(&store), 0, "nothing is left in the storage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_killed_without_a_word_leaves_how_far_it_came() {
    let server = filled().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut task = Task::start(&backup(&server, &store, Some(1 << 20)), folder.path()).unwrap();
    task.wait_for_capture().unwrap();
    task.child.kill().unwrap();
    task.child.wait().unwrap();
    let report = task.report().unwrap();
    assert_eq!(report["outcome"], json!({"state": "running", "stage": "capture"}), "{report:#}");
    assert!(report["facts"]["progress"].as_str().unwrap().starts_with("capture"), "{report:#}");
    // The same task again makes the same backup.
    let mut again = Task::start(&backup(&server, &store, None), folder.path()).unwrap();
    assert!(again.child.wait().unwrap().success());
    assert_eq!(again.report().unwrap()["outcome"]["state"], "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mounted_secret_in_the_wrong_shape_is_named_with_the_spellings_that_are_accepted() {
    let server = RedisServer::start(Version::Redis70).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut spec: Value = serde_json::from_str(&backup(&server, &folder.path().join("store"), None)).unwrap();
    let secret = folder.path().join("auth");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("pass"), "hush-hush").unwrap();
    spec["task"]["source"]["password"] = json!({"folder": secret});
    let mut task = Task::start(&spec.to_string(), folder.path()).unwrap();
    assert_eq!(task.child.wait().unwrap().code(), Some(2));
    let report = task.report().unwrap();
    let (message, help) = (report["outcome"]["message"].to_string(), report["outcome"]["help"].to_string());
    assert!(message.contains("pass") && help.contains("redis-password"), "{report:#}");
    assert!(!report.to_string().contains("hush"));

    spec["task"]["source"]["password"] = Value::Null;
    spec["task"]["storage"] =
        json!({"url": "s3://bucket/backups", "endpoint": "http://127.0.0.1:1", "credentialsDir": secret});
    let mut task = Task::start(&spec.to_string(), folder.path()).unwrap();
    assert_eq!(task.child.wait().unwrap().code(), Some(1));
    let help = task.report().unwrap()["outcome"]["help"].to_string();
    for spelling in ["AWS_ACCESS_KEY_ID", "aws_access_key_id", "accessKeyId", "access_key_id"] {
        assert!(help.contains(spelling), "{help}");
    }
}
