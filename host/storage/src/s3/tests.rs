use std::process::Command;
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use futures::TryStreamExt;
use redkeep_core::Classify;
use redkeep_core::storage::{PutOutcome, ReadStorage, WriteStorage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::conformance::{Abilities, pattern};
use crate::layer::retry::RetryLayer;
use crate::test_servers::{Server, find, free_port, pass};

const KEY: &str = "redkeep";
const SECRET: &str = "redkeep-secret";
const BUCKET: &str = "backups";

/// A Secret's folder and a spec that uses it.
fn spec(endpoint: &str, secret: &str) -> (tempfile::TempDir, StorageSpec) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("accessKeyId"), KEY).unwrap();
    std::fs::write(folder.path().join("secretAccessKey"), secret).unwrap();
    let spec = StorageSpec {
        url: format!("s3://{BUCKET}/some/prefix"),
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials_dir: Some(folder.path().to_path_buf()),
        ..StorageSpec::default()
    };
    (folder, spec)
}

async fn make_bucket(endpoint: &str) {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .force_path_style(true)
        .credentials_provider(Credentials::new(KEY, SECRET, None, None, "test"))
        .http_client(client::http_client(None).unwrap())
        .build();
    Client::from_conf(config).create_bucket().bucket(BUCKET).send().await.unwrap();
}

/// `None` where it is not installed.
async fn versitygw() -> Option<(Server, String)> {
    let program = find("versitygw", &["go/bin"])?;
    let server = Server::start(|port, data| {
        // Attributes need a file system that has them; a folder beside the data serves everywhere.
        let meta = data.with_file_name("meta");
        std::fs::create_dir_all(&meta).unwrap();
        let mut command = Command::new(&program);
        command.env("ROOT_ACCESS_KEY", KEY).env("ROOT_SECRET_KEY", SECRET);
        command.args(["--quiet", "--port", &format!("127.0.0.1:{port}"), "posix", "--sidecar"]).arg(meta).arg(data);
        command
    })
    .await;
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    make_bucket(&endpoint).await;
    Some((server, endpoint))
}

/// s3s-fs in this process.
async fn s3s() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
    builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    make_bucket(&endpoint).await;
    (folder, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3s_in_process_passes_the_suite() {
    let (_data, endpoint) = s3s().await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    let storage: Arc<dyn WriteStorage> = Arc::new(S3Storage::open(&spec).await.unwrap());
    let report = crate::probe(storage.as_ref()).await.unwrap();
    let listed = report.checks.iter().any(|check| check.name == "unfinished-uploads" && check.supported);
    // s3s-fs 0.14 looks before it writes without holding a lock (so several writers may win), has no
    // ListMultipartUploads, and fails on a HEAD of a folder. versitygw covers these.
    let abilities = Abilities { conditional_put: false, unfinished_uploads: listed, folders_are_not_objects: false };
    println!("s3s-fs: {abilities:?}");
    pass(storage, abilities).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versitygw_passes_the_suite() {
    let Some((_server, endpoint)) = versitygw().await else { return };
    let (_secret, spec) = spec(&endpoint, SECRET);
    pass(crate::open(&spec).await.unwrap(), Abilities::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_finds_versitygw_usable_and_leaves_nothing() {
    let Some((_server, endpoint)) = versitygw().await else { return };
    let (_secret, spec) = spec(&endpoint, SECRET);
    let storage = crate::open(&spec).await.unwrap();
    let report = crate::probe(storage.as_ref()).await.unwrap();
    assert!(report.usable(), "{report:#?}");
    let unsupported: Vec<_> = report.checks.iter().filter(|check| !check.supported).collect();
    assert!(unsupported.is_empty(), "{unsupported:#?}");
    assert!(storage.list("").try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert!(storage.unfinished_uploads("").await.unwrap().is_empty());
}

async fn failure(spec: &StorageSpec) -> StorageError {
    // Without the retry layer: these tests want the first answer.
    S3Storage::open(spec).await.unwrap().list_folder("").await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_a_real_server_say_what_to_do() {
    let Some((_server, endpoint)) = versitygw().await else { return };
    let says = |error: StorageError, kind: StorageErrorKind, words: &str| {
        assert_eq!(error.kind, kind, "{error:?}");
        let help = error.help.clone().unwrap_or_default();
        assert!(help.contains(words), "{help:?} of {error:?}");
    };
    let (_secret, wrong_secret) = spec(&endpoint, "wrong");
    says(failure(&wrong_secret).await, StorageErrorKind::Denied, "AWS_SECRET_ACCESS_KEY");
    let (secret, wrong_key) = spec(&endpoint, SECRET);
    std::fs::write(secret.path().join("accessKeyId"), "nobody").unwrap();
    says(failure(&wrong_key).await, StorageErrorKind::Denied, "AWS_ACCESS_KEY_ID");
    let (_secret, mut no_bucket) = spec(&endpoint, SECRET);
    no_bucket.url = "s3://no-such-bucket".to_owned();
    says(failure(&no_bucket).await, StorageErrorKind::NotFound, "make the bucket no-such-bucket");
    let (_secret, tls) = spec(&endpoint.replace("http://", "https://"), SECRET);
    says(failure(&tls).await, StorageErrorKind::Invalid, "http://");
    let (_secret, wrong_region) = spec(&endpoint, SECRET);
    let wrong_region = StorageSpec { region: Some("eu-north-1".to_owned()), ..wrong_region };
    says(failure(&wrong_region).await, StorageErrorKind::Invalid, "--s3-region");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    let (_secret, refused) = spec(&format!("http://127.0.0.1:{}", free_port()), SECRET);
    let error = failure(&refused).await;
    assert_eq!(error.kind, StorageErrorKind::Unreachable);
    assert!(error.retryable());
    assert!(error.help.unwrap().contains("nothing listens"));
    let (_secret, unknown) = spec("http://no-such-host.invalid", SECRET);
    let error = failure(&unknown).await;
    assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error:?}");
    assert!(error.help.as_deref().unwrap_or_default().contains("name"), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_without_a_scheme_is_refused() {
    let (_secret, wrong) = spec("minio:9000", SECRET);
    assert_eq!(S3Storage::open(&wrong).await.unwrap_err().kind, StorageErrorKind::Invalid);
}

/// Passes connections on to `port` and cuts the first `cuts` answers that are longer than `after` bytes.
async fn cutting_proxy(port: u16, cuts: usize, after: usize) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(cuts));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_server, mut to_server) = server.into_split();
                let (mut from_client, mut to_client) = client.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut passed = 0;
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    passed += count;
                    let cut = std::sync::atomic::Ordering::SeqCst;
                    if passed > after && left.fetch_update(cut, cut, |left| left.checked_sub(1)).is_ok() {
                        break;
                    }
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_is_read_on_from_where_it_broke() {
    let Some((server, endpoint)) = versitygw().await else { return };
    let (_secret, direct) = spec(&endpoint, SECRET);
    let data = pattern(5 << 20, 9);
    S3Storage::open(&direct).await.unwrap().put("a", data.clone()).await.unwrap();

    let read = async |cuts: usize, retried: bool, range: Option<std::ops::Range<u64>>| {
        let port = cutting_proxy(server.port, cuts, 1 << 20).await;
        // The signature names the host, so the proxy's address is the endpoint.
        let (_secret, through) = spec(&format!("http://127.0.0.1:{port}"), SECRET);
        let storage: Arc<dyn WriteStorage> = Arc::new(S3Storage::open(&through).await.unwrap());
        let quick = RetryPolicy { first_pause: Duration::from_millis(1), ..RetryPolicy::default() };
        let storage = if retried { Arc::new(RetryLayer::new(storage, quick)) } else { storage };
        let parts: Result<Vec<Bytes>, _> = storage.get("a", range).await.unwrap().try_collect().await;
        parts.map(|parts| parts.concat())
    };
    assert!(read(1, false, None).await.is_err(), "a cut body ended as if it were whole");
    assert!(read(3, true, None).await.unwrap() == data);
    assert!(read(3, true, Some(100..5_000_000)).await.unwrap() == data[100..5_000_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_survives_broken_connections() {
    let Some((server, endpoint)) = versitygw().await else { return };
    // Six connections are cut after their first few hundred bytes of answers.
    let port = cutting_proxy(server.port, 6, 300).await;
    let (_secret, through) = spec(&format!("http://127.0.0.1:{port}"), SECRET);
    let storage = crate::open(&through).await.unwrap();
    let data = pattern(50 << 20, 5);
    let mut upload = storage.create("a").await.unwrap();
    for piece in 0..50 {
        upload.write(data.slice(piece << 20..(piece + 1) << 20)).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap().size, 50 << 20);
    let (_secret, direct) = spec(&endpoint, SECRET);
    let direct = S3Storage::open(&direct).await.unwrap();
    let parts: Vec<Bytes> = direct.get("a", None).await.unwrap().try_collect().await.unwrap();
    assert!(parts.concat() == data);
    // A "begin" whose answer was lost leaves an upload that only `prune` can know of; nothing else may stay.
    let begun = direct.unfinished_uploads("").await.unwrap();
    assert!(begun.len() <= 6, "{begun:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_uploads_are_found_by_any_prefix_but_never_those_outside_of_the_storage() {
    let Some((_server, endpoint)) = versitygw().await else { return };
    let (_secret, ours) = spec(&endpoint, SECRET);
    // No object is there, and what is begun beside the storage's prefix is somebody else's.
    let (_other_secret, mut beside) = spec(&endpoint, SECRET);
    beside.url = format!("s3://{BUCKET}/some/prefix-of-others");
    let (ours, beside) = (crate::open(&ours).await.unwrap(), crate::open(&beside).await.unwrap());
    let keys = ["default/cache/a/1/dump", "default/carts/a/1/dump", "shop/cache/a/1/dump"];
    for (storage, key) in keys.map(|key| (&ours, key)).into_iter().chain([(&beside, "default/cache/theirs")]) {
        let mut upload = storage.create(key).await.unwrap();
        upload.write(pattern(17 << 20, 1)).await.unwrap();
        std::mem::forget(upload);
    }
    for (prefix, expected) in [
        ("", &keys[..]),
        ("default/", &keys[..2]),
        ("default/ca", &keys[..2]),
        ("default/cache/", &keys[..1]),
        ("shop/", &keys[2..]),
        ("nobody/", &[]),
    ] {
        let found = ours.unfinished_uploads(prefix).await.unwrap();
        let mut found: Vec<&str> = found.iter().map(|upload| upload.key.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{prefix:?}");
    }
}

#[tokio::test]
async fn unfinished_uploads_are_listed_page_after_page() {
    let (endpoint, seen) = scripted(|head| {
        if head.contains("key-marker=some%2fprefix%2fa&") && head.contains("upload-id-marker=one") {
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\
             <ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
             <Upload><Key>some/prefix/b</Key><UploadId>two</UploadId></Upload></ListMultipartUploadsResult>"
        } else {
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\
             <ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>some/prefix/a</NextKeyMarker><NextUploadIdMarker>one</NextUploadIdMarker>\
             <Upload><Key>some/prefix/a</Key><UploadId>one</UploadId></Upload></ListMultipartUploadsResult>"
        }
    })
    .await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    let found = S3Storage::open(&spec).await.unwrap().unfinished_uploads("").await.unwrap();
    let found: Vec<(&str, &str)> =
        found.iter().map(|upload| (upload.key.as_str(), upload.upload_id.as_str())).collect();
    assert_eq!(found, [("a", "one"), ("b", "two")]);
    assert_eq!(seen.lock().unwrap().len(), 2);
}

/// Answers every request with what `answer` says of its first line and headers.
async fn scripted(
    answer: impl Fn(&str) -> &'static str + Send + Sync + 'static,
) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (answer, log) = (Arc::new(answer), seen.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, log) = (answer.clone(), log.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let length =
                    head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                stream.read_exact(&mut body).await?;
                log.lock().unwrap().push(head.clone());
                stream.write_all(answer(&head).as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    (endpoint, seen)
}

#[tokio::test]
async fn an_endpoint_that_refuses_conditions_gets_look_then_put_and_read_back() {
    let (endpoint, seen) = scripted(|head| {
        if head.contains("if-none-match") {
            "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        } else if head.starts_with("head") {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        } else if head.starts_with("get") {
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ntheirs"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        }
    })
    .await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    let storage = S3Storage::open(&spec).await.unwrap();
    assert_eq!(storage.put_if_absent("m", "theirs".into()).await.unwrap(), PutOutcome::Created);
    // Another writer came in between: what is read back is not ours.
    assert_eq!(storage.put_if_absent("m", "ours".into()).await.unwrap(), PutOutcome::Exists);
    let seen = seen.lock().unwrap();
    assert!(seen.first().unwrap().starts_with("head"), "it did not look first");
}

#[tokio::test]
async fn a_range_that_the_endpoint_ignores_is_an_error() {
    let (endpoint, _) = scripted(|_| "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabcdef").await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    let storage = S3Storage::open(&spec).await.unwrap();
    assert_eq!(storage.get("m", Some(0..6)).await.map(drop).unwrap_err().kind, StorageErrorKind::Unsupported);
}

#[tokio::test]
async fn requests_carry_no_checksum_that_old_endpoints_refuse() {
    let (endpoint, seen) = scripted(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    S3Storage::open(&spec).await.unwrap().put("m", "x".into()).await.unwrap();
    let seen = seen.lock().unwrap();
    let head = seen.first().unwrap();
    assert!(
        !head.contains("x-amz-checksum") && !head.contains("aws-chunked") && !head.contains("x-amz-trailer"),
        "{head}"
    );
    assert!(head.starts_with("put /backups/some/prefix/m"), "not path style: {head}");
}

#[tokio::test]
async fn an_endpoint_without_batch_deletes_gets_single_ones() {
    let (endpoint, seen) = scripted(|head| {
        if head.starts_with("post") {
            "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        } else {
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        }
    })
    .await;
    let (_secret, spec) = spec(&endpoint, SECRET);
    let storage = S3Storage::open(&spec).await.unwrap();
    let keys: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
    storage.delete(&keys).await.unwrap();
    storage.delete(&keys).await.unwrap();
    let seen = seen.lock().unwrap();
    let count = |method: &str| seen.iter().filter(|head| head.starts_with(method)).count();
    assert_eq!((count("post"), count("delete")), (1, 20));
}
