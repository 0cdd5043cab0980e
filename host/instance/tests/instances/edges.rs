//! Strangers, bad input, and what a person reads then.

use std::process::Command;

use http::{Method, StatusCode};
use redkeep_core::managed::{LIVE_PATH, NOTICE_PATH, ORDERS_PATH, Orders, Played, Role, STANDING_PATH, Standing};
use redkeep_testing::server::Version;
use rstest::rstest;
use serde_json::json;

use crate::rig::{OPERATOR_TOKEN, PEER_TOKEN, PROGRAM, Rig, Setup, certificates};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_peers_give_no_orders() {
    let rig = Rig::start(Version::Redis70, 1).await;
    let process = rig.standing(0).await.unwrap().process;
    let orders = serde_json::to_value(Orders {
        epoch: 1,
        process,
        role: Role::Primary,
        peers: Vec::new(),
        config: rig.setup.config(),
    })
    .unwrap();
    let notice = json!({"epoch": 0});
    for (token, standing, told, ordered) in [
        (None, 401, 401, 401),
        (Some(""), 401, 401, 401),
        (Some("garbage"), 401, 401, 401),
        (Some("token-for-another-cluster"), 401, 401, 401),
        (Some("token-of-somebody"), 403, 403, 403),
        (Some(PEER_TOKEN), 200, 200, 403),
        (Some(OPERATOR_TOKEN), 200, 200, 200),
    ] {
        let ask = async |method, path, body| rig.ask(0, method, path, token, body).await.unwrap().0.as_u16();
        assert_eq!(ask(Method::GET, STANDING_PATH, None).await, standing, "{token:?}");
        assert_eq!(ask(Method::PUT, NOTICE_PATH, Some(notice.clone())).await, told, "{token:?}");
        assert_eq!(ask(Method::PUT, ORDERS_PATH, Some(orders.clone())).await, ordered, "{token:?}");
    }
    let before = *rig.api.reviews.lock().unwrap();
    for _ in 0..5 {
        rig.standing(0).await.unwrap();
    }
    assert_eq!(*rig.api.reviews.lock().unwrap(), before, "an answer is kept");
    let asked = rig.ask(0, Method::PUT, ORDERS_PATH, Some(OPERATOR_TOKEN), Some(json!({"epoch": "x"}))).await.unwrap();
    assert_eq!(asked.0, StatusCode::BAD_REQUEST);
    let large = json!({"epoch": 1, "process": "x".repeat(1 << 20)});
    let asked = rig.ask(0, Method::PUT, ORDERS_PATH, Some(OPERATOR_TOKEN), Some(large)).await;
    assert!(asked.as_ref().map_or(true, |(status, _)| *status == StatusCode::PAYLOAD_TOO_LARGE), "{asked:?}");
    // Without the API nobody new can be vouched for, and the kubelet needs no vouching.
    rig.instances[0].to_api.cut();
    let asked = rig.ask(0, Method::GET, STANDING_PATH, Some("another"), None).await.unwrap();
    assert_eq!(asked.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(rig.ask(0, Method::GET, LIVE_PATH, None, None).await.unwrap().0, StatusCode::OK);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_is_changed_while_redis_runs_where_it_can_be(
    #[values(Version::Redis62, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let rig = Rig::start(version, 1).await;
    rig.establish().await;
    let standing = rig.standing(0).await.unwrap();
    assert_eq!((standing.restart_for.len(), standing.refused_config.len()), (0, 0), "{standing:?}");
    let mut config = rig.setup.config();
    for (name, value) in [
        ("maxmemory", "100mb"),
        ("save", "60 1 10 1000"),
        ("databases", "8"),
        ("maxmemory-policy", "nonsense"),
        ("no-such-directive", "1"),
        ("requirepass", "stolen"),
    ] {
        config.insert(name.to_owned(), value.to_owned());
    }
    let orders = Orders { epoch: 1, process: standing.process.clone(), role: Role::Primary, peers: Vec::new(), config };
    let standing = rig.send(0, &orders).await.unwrap();
    assert_eq!(standing.restart_for, ["databases"]);
    assert_eq!(standing.refused_config.keys().collect::<Vec<_>>(), ["maxmemory-policy", "no-such-directive"]);
    let get = async |name| rig.instances[0].redis(&["CONFIG", "GET", name]).await.unwrap();
    assert!(get("maxmemory").await.contains("104857600"));
    assert!(get("save").await.contains("60 1 10 1000"));
    assert!(!get("requirepass").await.contains("stolen"));
}

async fn ends_with(rig: &mut Rig, code: i32, words: &str) {
    let instance = &mut rig.instances[0];
    instance.start();
    assert_eq!(instance.ended().await, Some(code), "{}", instance.log());
    let said = std::fs::read_to_string(instance.folder.join("termination-log")).unwrap();
    assert!(said.contains(words) && said.contains("help: "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_password_opens_nothing() {
    let setup = Setup { password: Some("\n".to_owned()), ..Setup::of(Version::Redis70) };
    let mut rig = Rig::prepared(setup, 1).await;
    ends_with(&mut rig, 5, "it is empty").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_without_password_opens_nothing() {
    let mut rig = Rig::prepared(Setup::of(Version::Redis70), 1).await;
    std::fs::create_dir(rig.instances[0].folder.join("auth")).unwrap();
    ends_with(&mut rig, 5, "none of its keys holds a password").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_not_whole_are_named() {
    let mut rig = Rig::prepared(Setup { tls: true, ..Setup::of(Version::Redis70) }, 1).await;
    std::fs::remove_file(rig.instances[0].folder.join("tls/ca.crt")).unwrap();
    ends_with(&mut rig, 5, "ca.crt is missing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_are_read_while_redis_runs_and_bad_ones_are_told() {
    let rig = Rig::with(Setup { tls: true, ..Setup::of(Version::Redis70) }, 1).await;
    rig.establish().await;
    let instance = &rig.instances[0];
    let process = rig.standing(0).await.unwrap().process;
    let others = rig.path().join("others");
    std::fs::create_dir(&others).unwrap();
    certificates(&others);
    let renew = |from: &str, to: &str| {
        std::fs::copy(others.join(from), instance.folder.join(to)).unwrap();
    };
    let shows = |authority: &std::path::Path| {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-brief", "-verify_return_error", "-connect"]);
        client.arg(format!("127.0.0.1:{}", instance.redis_port)).arg("-CAfile").arg(authority.join("ca.crt"));
        client.stdin(std::process::Stdio::null()).output().unwrap().status.success()
    };
    assert_eq!((shows(rig.path()), shows(&others)), (true, false));

    // A certificate without its key.
    renew("server.crt", "tls/tls.crt");
    let told = |standing: &Standing| standing.refused_config.get("tls-cert-file").cloned();
    let standing = rig.wait(0, "with a complaint", |standing| told(standing).is_some()).await;
    assert!(told(&standing).unwrap().contains("Unable to update TLS"), "{standing:?}");
    assert!(shows(rig.path()), "it keeps those that it had");

    renew("server.key", "tls/tls.key");
    renew("ca.crt", "tls/ca.crt");
    let standing = rig.wait(0, "without a complaint", |standing| told(standing).is_none()).await;
    assert_eq!((shows(rig.path()), shows(&others)), (false, true));
    assert_eq!((standing.process, standing.role), (process, Played::Primary), "Redis need not start again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_the_server_is_too_old_for_is_not_passed_over() {
    let setup = Setup { conf: "save \"\"\nappendonly yes\n".to_owned(), ..Setup::of(Version::Redis62) };
    let mut rig = Rig::prepared(setup, 1).await;
    let folder = rig.instances[0].folder.join("data/appendonlydir");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("appendonly.aof.manifest"), "file a.aof seq 1 type b\n").unwrap();
    ends_with(&mut rig, 7, "redis 6.2").await;
    assert!(!folder.with_file_name("appendonly.aof").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_keeps_ending_is_given_up_with_its_own_words() {
    let setup = Setup { conf: "maxmemory-policy nonsense\n".to_owned(), ..Setup::of(Version::Redis70) };
    let mut rig = Rig::prepared(setup, 1).await;
    ends_with(&mut rig, 6, "maxmemory-policy").await;
}

#[rstest]
#[case("#!/bin/sh\necho 'nginx version: 1.25'\n", 3, "does not answer `--version` as Redis does")]
#[case("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n", 4, "5.0.14 is older than 6.2")]
fn an_image_that_is_not_redis_is_named(#[case] script: &str, #[case] code: i32, #[case] words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("redis-server");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let log = folder.path().join("log");
    std::fs::write(&log, "").unwrap();
    let run = |path: &std::path::Path| {
        Command::new(PROGRAM)
            .args(
                "run --pod a --namespace shop --cluster cart --pod-ip 127.0.0.1 --operator o --api-host 127.0.0.1"
                    .split(' '),
            )
            .arg("--termination-log")
            .arg(&log)
            .env("PATH", path)
            .output()
            .unwrap()
    };
    let output = run(folder.path());
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(&log).unwrap().contains(words));
    std::fs::remove_file(&program).unwrap();
    assert_eq!(run(folder.path()).status.code(), Some(3));
    assert!(std::fs::read_to_string(&log).unwrap().contains("neither redis-server nor valkey-server"));
}

#[test]
fn it_installs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redkeep-instance");
    for _ in 0..2 {
        assert!(Command::new(PROGRAM).arg("install").arg(&path).status().unwrap().success());
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o555);
    let version = Command::new(&path).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("redkeep-instance "));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
