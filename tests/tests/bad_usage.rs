//! What cannot be understood: exit code 2 or 4, with the valid choices.

#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::{fail, succeed};

async fn with_two_backups() -> (RedisServer, tempfile::TempDir, String) {
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["SET", "key", "value"]).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store").display().to_string();
    for _ in 0..2 {
        succeed([
            "backup",
            "--source",
            &server.url(),
            "--method",
            "rdb",
            "--storage",
            &store,
            "--cluster",
            "one",
            "--name",
            "nightly",
        ]);
    }
    (server, place, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_method_lists_the_known_ones() {
    let (server, _place, store) = with_two_backups().await;
    fail(4, &["rdb", "aof"], ["backup", "--source", &server.url(), "--method", "rbd", "--storage", &store]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_storage_lists_the_known_ones() {
    fail(2, &["s3://", "gs://", "az://"], ["list", "--storage", "ftp://host/path"]);
    fail(4, &["/no/such/folder"], ["list", "--storage", "/no/such/folder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_or_ambiguous_backup_is_told() {
    let (server, _place, store) = with_two_backups().await;
    fail(4, &["nothing-like-it"], ["verify", "--storage", &store, "nothing-like-it"]);
    fail(2, &["nightly"], ["verify", "--storage", &store, "20"]);
    succeed(["backup", "--source", &server.url(), "--method", "rdb", "--storage", &store, "--cluster", "two"]);
    fail(2, &["--cluster", "one", "two"], ["verify", "--storage", &store, "latest"]);
    succeed(["verify", "--storage", &store, "latest", "--cluster", "two"]);
    succeed(["verify", "--storage", &store, "latest", "--cluster", "one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_values_are_refused_with_the_form_that_works() {
    let (server, place, store) = with_two_backups().await;
    let url = server.url();
    let target = place.path().join("data").display().to_string();
    let base = ["backup", "--source", url.as_str(), "--method", "rdb", "--storage", store.as_str()];
    for (more, naming) in [
        (["--compression", "brotli"], "zstd"),
        (["--limit-rate", "fast"], "500M"),
        (["--param", "source=sideways"], "replication"),
        (["--param", "colour=red"], "colour"),
        (["--recipient", "age1nonsense"], "age1"),
        (["--cluster", "../up"], "cluster"),
    ] {
        fail(2, &[naming], base.iter().chain(&more));
    }
    fail(2, &["redis://"], ["backup", "--source", "http://x", "--method", "rdb", "--storage", &store]);
    fail(2, &["36h"], ["check", "--storage", &store, "--max-age", "tomorrow"]);
    fail(2, &["glob"], ["restore", "--storage", &store, "latest", "--target", &url, "--match", "[a"]);
    fail(2, &[], ["restore", "--storage", &store, "latest", "--target", &url, "--db", "x:y"]);
    fail(2, &[], ["restore", "--storage", &store, "latest", "--target", &url, "--target-dir", &target]);
    fail(2, &[], ["restore", "--storage", &store, "latest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_a_monitor_when_the_newest_backup_is_too_old() {
    let (_server, _place, store) = with_two_backups().await;
    succeed(["check", "--storage", &store, "--max-age", "1h"]);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    fail(1, &["old"], ["check", "--storage", &store, "--max-age", "1s"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_and_the_pinned_backup_are_not_deleted() {
    let (_server, _place, store) = with_two_backups().await;
    let listed = succeed(["list", "--storage", &store, "-o", "json"]).json();
    let ids: Vec<String> =
        listed.as_array().unwrap().iter().map(|entry| entry["backupId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    succeed(["pin", "--storage", &store, &ids[0]]);
    fail(5, &["pin"], ["delete", "--storage", &store, &ids[0]]);
    succeed(["unpin", "--storage", &store, &ids[0]]);
    succeed(["delete", "--storage", &store, &ids[0]]);
    fail(5, &["last"], ["delete", "--storage", &store, &ids[1]]);
    succeed(["prune", "--storage", &store, "--keep-within", "1s"]);
    let listed = succeed(["list", "--storage", &store, "-o", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "the floor was pruned: {listed:#}");
    succeed(["delete", "--storage", &store, &ids[1], "--force"]);
    fail(4, &[], ["verify", "--storage", &store, "latest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_does_not_call_a_damaged_backup_good() {
    let (_server, _place, store) = with_two_backups().await;
    let listed = succeed(["list", "--storage", &store, "-o", "json"]).json();
    for entry in listed.as_array().unwrap() {
        let id = entry["backupId"].as_str().unwrap();
        let damaged = std::process::Command::new("bash")
            .args(["-c", &format!("for f in {store}/default/one/{id}/*/0/dump.rdb*; do printf x >> $f; done")])
            .status()
            .unwrap();
        assert!(damaged.success());
        fail(3, &["dump.rdb"], ["verify", "--storage", &store, id]);
    }
    fail(1, &["verification"], ["check", "--storage", &store, "--max-age", "1h"]);
    fail(2, &["--keep-last"], ["prune", "--storage", &store, "--keep-last", "0"]);
}
