//! The harness and the image, without an operator: in a namespace with pod security `restricted`, Jobs back up a replica
//! into an S3 server's bucket and restore it into a second Redis.

use anyhow::{Context, Result, ensure};
use redkeep_testing::dataset::Dataset;
use redkeep_testing::server::Version;
use redkeep_testing::workload::{Shape, apply};
use redkeep_tests::kube::{BUCKET, Cluster, Redis, Storage, finished_job, job};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_in_a_restricted_namespace_back_up_and_restore() -> Result<()> {
    let Some(cluster) = Cluster::node("jobs_in_a_restricted_namespace_back_up_and_restore") else { return Ok(()) };
    let namespace = cluster.namespace("smoke").await?;
    let storage = Storage::start(&namespace).await?;
    let source = Redis::start(&namespace, "source", Version::Redis70, 2).await?;
    let mut primary = source.connect(0).await?;
    apply(&mut primary, &Shape::standalone(Version::Redis70), 1, 2000).await?;
    redis::cmd("WAIT").arg(2).arg(60_000).query_async::<()>(&mut primary).await?;
    let before = Dataset::through(&mut primary, Version::Redis70).await?;

    let endpoint = storage.endpoint();
    let bucket = format!("s3://{BUCKET}/production/source");
    let url = source.url(1);
    let arguments = [
        "backup",
        "--source",
        &url,
        "--method",
        "rdb",
        "--cluster",
        "source",
        "--storage",
        &bucket,
        "--s3-endpoint",
        &endpoint,
        "--s3-region",
        "us-east-1",
        "--s3-path-style",
        "-o",
        "json",
    ];
    for object in job("backup", &arguments, &Value::Null) {
        namespace.apply(&object).await?;
    }
    finished_job(&namespace, "backup").await?;

    // The object is in the bucket, seen from outside.
    let listed = storage.redkeep("production/source", &["list", "--cluster", "source", "-o", "json"]).await?;
    ensure!(listed.code == Some(0), "{listed:#?}");
    let listed = listed.json();
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed:#}");
    let verified = storage.redkeep("production/source", &["verify", "latest", "--cluster", "source"]).await?;
    ensure!(verified.code == Some(0), "{verified:#?}");

    // And another Redis gets it, by a task as the operator writes them.
    let target = Redis::start(&namespace, "target", Version::Redis70, 0).await?;
    let task = json!({"version": 1, "task": {
        "kind": "restore",
        "storage": {"url": bucket, "endpoint": endpoint, "region": "us-east-1", "pathStyle": true},
        "backup": {"backup": "latest", "cluster": "source"},
        "target": {"type": "live", "endpoint": {"url": target.url(0)}},
    }});
    for object in job("restore", &["task", "/task/task.json", "--report"], &task) {
        namespace.apply(&object).await?;
    }
    let message = finished_job(&namespace, "restore").await?;
    let report: Value = serde_json::from_str(&message).with_context(|| format!("no report: {message:?}"))?;
    ensure!(report["outcome"]["state"] == "done" || report["outcome"] == "done", "{report:#}");
    let after = Dataset::through(&mut target.connect(0).await?, Version::Redis70).await?;
    let differences = before.differences(&after, false);
    ensure!(differences.is_empty(), "{differences:#?}");
    Ok(())
}
