//! Reaching a server, and saying clearly why not.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use redkeep_core::attribute::find;
use redkeep_core::method::code;
use redkeep_core::provider::{DataSource, ProviderError};
use redkeep_core::task::{EndpointSpec, TlsSpec};
use redkeep_core::{Class, Classify as _};
use redkeep_redis::LEAST_ACL;
use redkeep_testing::server::{RedisServer, Version, free_port};
use rstest::rstest;

use crate::support::{access, commands, endpoint, read_all, resolve, resolve_as, snapshot};

fn words(words: &[&str]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn failure(result: Result<std::sync::Arc<dyn DataSource>, ProviderError>, reason: &str, help: &str) {
    let error = result.err().expect("an error");
    assert_eq!((error.class, error.reason()), (Class::Failed, reason), "{error}: {:?}", error.source);
    let given = error.help.unwrap_or_default();
    assert!(given.contains(help), "{given}");
}

async fn add_user(server: &RedisServer, rules: &str) {
    let mut command = vec!["ACL", "SETUSER", "backup", "reset", "on", ">word"];
    command.extend(rules.split(' '));
    server.command(&command).await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_least_acl_user_can_take_a_backup_and_every_rule_that_is_missing_is_named(
    #[values(Version::Redis62, Version::Redis70, Version::Redis82, Version::Valkey81)] version: Version,
) {
    let server = RedisServer::start(version).unwrap();
    add_user(&server, LEAST_ACL).await;
    let source = resolve_as(&server.url(), "backup", "word").await.unwrap();
    let redis = source.shards()[0].redis.clone().unwrap();
    let mut link = redis.replicate(false).await.unwrap();
    assert!(snapshot(&mut *link).await.starts_with(b"REDIS"));
    server.command(&["SET", "a", "1"]).await.unwrap();
    let until = server.info("master_repl_offset").await.unwrap().parse().unwrap();
    assert!(!commands(&mut *link, Some(until), Some(60_000)).await.is_empty());
    for rule in ["+psync", "+replconf", "+ping", "+info"] {
        add_user(&server, &LEAST_ACL.replace(&format!(" {rule}"), "")).await;
        let help = match resolve_as(&server.url(), "backup", "word").await {
            Err(error) => error.help.unwrap(),
            Ok(source) => {
                let redis = source.shards()[0].redis.clone().unwrap();
                redis.replicate(true).await.err().unwrap().help().unwrap()
            }
        };
        assert!(help.contains(&format!("`{rule}`")), "{rule}: {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_that_are_missing_wrong_or_too_many_are_told_apart() {
    let locked = RedisServer::start_with(Version::Redis70, &["--requirepass", "right"]).unwrap();
    failure(resolve(&locked.url()).await, "LoginFailed", "--password-file");
    failure(resolve_as(&locked.url(), "default", "wrong").await, "LoginFailed", "check the password");
    failure(resolve_as(&locked.url(), "nobody", "right").await, "LoginFailed", "user name");
    let url = format!("redis://:right@127.0.0.1:{}", locked.port());
    let source = resolve(&url).await.unwrap();
    assert!(!source.address().contains("right") && !source.shards()[0].node.contains("right"));
    let open = RedisServer::start(Version::Redis70).unwrap();
    let spec = endpoint(&open.url());
    let word = redkeep_core::secret::Secret::new("word");
    failure(redkeep_redis::resolve(&spec, Some(word), None).await, "LoginFailed", "leave it out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_redis_is_said_to_be_none() {
    failure(resolve(&format!("redis://127.0.0.1:{}", free_port())).await, "Unreachable", "host and port");
    failure(resolve("redis://name.invalid:1").await, "Unreachable", "host and port");
    failure(resolve("unix:///nowhere/redis.sock").await, "Unreachable", "runs");
    for answer in [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), b"", b"SSH-2.0-OpenSSH_9.2\r\n"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let _ = peer.read(&mut [0; 1000]);
            let _ = peer.write_all(answer);
        });
        failure(resolve(&format!("redis://127.0.0.1:{port}")).await, "NotRedis", "Redis or Valkey");
        answering.join().unwrap();
    }
    let error = resolve("http://127.0.0.1:1").await.err().unwrap();
    assert_eq!(error.class, Class::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_loading_and_a_replica_without_its_primary_are_refused_for_now() {
    let folder = tempfile::tempdir().unwrap();
    {
        let server = RedisServer::start_in(Version::Redis70, folder.path(), &["--rdbcompression", "no"]).unwrap();
        for key in 0..200 {
            server.command(&["SET", &key.to_string(), &"v".repeat(4096)]).await.unwrap();
        }
        server.command(&["SAVE"]).await.unwrap();
    }
    let arguments = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];
    let loading = RedisServer::start_in(Version::Redis70, folder.path(), &arguments).unwrap();
    let error = resolve(&loading.url()).await.err().unwrap();
    assert_eq!((error.reason(), error.retryable), ("ServerLoading", true), "{error}");

    let alone = RedisServer::start(Version::Redis70).unwrap();
    alone.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await.unwrap();
    failure(resolve(&alone.url()).await, "ReplicaWithoutPrimary", "link is up");
}

/// A certificate authority, a server's certificate for `localhost` and a client's, all by the openssl command.
pub(crate) fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile names"
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_every_mismatch_says_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let tls_port = free_port().to_string();
    let (certificate, key, authority) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let arguments = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ];
    // Not every build of the servers here speaks TLS; Debian's does.
    let server = RedisServer::start_with(Version::Redis70, &arguments).unwrap();
    let secure = |tls: TlsSpec, host: &str| EndpointSpec { tls, ..endpoint(&format!("rediss://{host}:{tls_port}")) };
    let resolve = |spec: EndpointSpec| async move { redkeep_redis::resolve(&spec, None, None).await };
    let file = |name: &str| Some(folder.path().join(name));
    let whole = TlsSpec {
        ca_file: file("ca.crt"),
        cert_file: file("client.crt"),
        key_file: file("client.key"),
        ..TlsSpec::default()
    };
    let source = resolve(secure(whole.clone(), "localhost")).await.unwrap();
    let redis = source.shards()[0].redis.clone().unwrap();
    let mut link = redis.replicate(true).await.unwrap();
    assert!(snapshot(&mut *link).await.starts_with(b"REDIS"));

    let taken = TlsSpec { client_certificate_if_present: true, ..whole.clone() };
    assert!(resolve(secure(taken.clone(), "localhost")).await.is_ok());
    let (cert_file, key_file) = (file("none.crt"), file("none.key"));
    let not_there = TlsSpec { cert_file, key_file, ..taken };
    failure(resolve(secure(not_there, "localhost")).await, "TlsFailed", "--cert");
    let without_client = TlsSpec { cert_file: None, key_file: None, ..whole.clone() };
    failure(resolve(secure(without_client, "localhost")).await, "TlsFailed", "--cert");
    let without_authority = TlsSpec { ca_file: None, ..whole.clone() };
    failure(resolve(secure(without_authority.clone(), "localhost")).await, "TlsFailed", "--cacert");
    failure(resolve(secure(whole.clone(), "127.0.0.1")).await, "TlsFailed", "--cacert");
    let trusting = TlsSpec { insecure_skip_verify: true, ..without_authority };
    assert!(resolve(secure(trusting, "127.0.0.1")).await.is_ok());
    failure(resolve(endpoint(&format!("redis://127.0.0.1:{tls_port}"))).await, "NotRedis", "rediss://");
    let plain = EndpointSpec { tls: whole.clone(), ..endpoint(&format!("rediss://localhost:{}", server.port())) };
    failure(resolve(plain).await, "TlsFailed", "redis://");
    let half = TlsSpec { key_file: None, ..whole };
    assert_eq!(resolve(secure(half, "localhost")).await.err().unwrap().class, Class::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock").display().to_string();
    let server = RedisServer::start_with(Version::Redis70, &["--unixsocket", &socket]).unwrap();
    server.command(&["SET", "a", "1"]).await.unwrap();
    let redis = access(&format!("unix://{socket}")).await;
    assert_eq!(redis.command(words(&["GET", "a"])).await.unwrap(), "$1\r\n1\r\n");
    let mut link = redis.replicate(true).await.unwrap();
    assert!(snapshot(&mut *link).await.starts_with(b"REDIS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_share_a_connection_and_answer_in_resp2() {
    let server = RedisServer::start(Version::Redis82).unwrap();
    let redis = access(&server.url()).await;
    let run = async |command: &[&str]| redis.command(words(command)).await;
    assert_eq!(run(&["SELECT", "5"]).await.unwrap(), "+OK\r\n");
    assert_eq!(run(&["HSET", "h", "f", "v"]).await.unwrap(), ":1\r\n");
    assert_eq!(run(&["HGETALL", "h"]).await.unwrap(), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    let error = run(&["GET", "h"]).await.unwrap_err();
    assert_eq!(error.code, code::SERVER_REPLY);
    assert!(error.message.starts_with("WRONGTYPE"));
    // The server closes the connection; the next command finds the same database.
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(run(&["HLEN", "h"]).await.unwrap(), ":1\r\n");
    let info = redis.info(Some("server")).await.unwrap();
    assert_eq!(find(&info, "redis_version").unwrap(), "8.2.3");
    // A reply above 1 MiB has to be asked for by a pipeline.
    run(&["SETRANGE", "big", "2000000", "x"]).await.unwrap();
    assert!(run(&["GET", "big"]).await.is_err());
    assert_eq!(run(&["HLEN", "h"]).await.unwrap(), ":1\r\n", "the connection is good again");
    let commands = vec![words(&["GET", "big"]), words(&["NONSENSE"]), words(&["HLEN", "h"])];
    let mut replies = redis.pipeline(commands.clone()).await.unwrap();
    assert_eq!(run(&["PING"]).await.unwrap_err().code, code::REFUSED, "replies first");
    let bytes = read_all(&mut *replies).await;
    assert!(bytes.len() > 2_000_001 && bytes.ends_with(b"\r\n:1\r\n"));
    assert!(bytes.windows(4).any(|window| window == b"-ERR"));
    let abandoned = redis.pipeline(commands).await.unwrap();
    drop(abandoned);
    assert_eq!(run(&["HLEN", "h"]).await.unwrap(), ":1\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_commands_are_sent_by_their_new_names() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("redis.conf");
    std::fs::write(&configuration, "rename-command PSYNC HIDDEN\nrename-command DBSIZE COUNT\n").unwrap();
    let configuration = configuration.display().to_string();
    let server = RedisServer::start_with(Version::Redis70, &["--include", &configuration]).unwrap();
    let mut spec = endpoint(&server.url());
    spec.renamed_commands =
        [("PSYNC", "HIDDEN"), ("dbsize", "COUNT")].map(|(name, new)| (name.to_owned(), new.to_owned())).into();
    let source = redkeep_redis::resolve(&spec, None, None).await.unwrap();
    let redis = source.shards()[0].redis.clone().unwrap();
    assert_eq!(redis.command(words(&["DbSize"])).await.unwrap(), ":0\r\n");
    // Renamed, PSYNC is no longer PSYNC to the server, and ids and offsets would be made up.
    let error = redis.replicate(true).await.err().unwrap();
    assert_eq!(error.code, code::REFUSED);
    assert!(error.message.contains("SYNC"), "{error}");
}
