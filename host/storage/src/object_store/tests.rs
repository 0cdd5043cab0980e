//! Azure against a real server. No emulator of GCS that can be installed here speaks the XML API of `object_store`
//! (gcp-storage-emulator 2026.7 and fake-gcs-server answer 400 to its first PUT), so `gs://` has only these tests in common.

use std::path::Path;
use std::process::Command;

use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{ClientOptions, HttpConnector, HttpRequestBody, ReqwestConnector};
use redkeep_core::storage::{ReadStorage, StorageErrorKind, WriteStorage};
use redkeep_core::task::StorageSpec;

use super::*;
use crate::conformance::Abilities;
use crate::test_servers::{Server, find, free_port, pass};

/// The account that every Azurite has, and its published key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const BUCKET: &str = "backups";

fn secret(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn spec(url: &str, endpoint: &str, credentials: Option<&Path>) -> StorageSpec {
    StorageSpec {
        url: url.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        credentials_dir: credentials.map(Path::to_path_buf),
        ..StorageSpec::default()
    }
}

/// `None` where it is not installed.
async fn azurite() -> Option<(Server, String)> {
    let program = find("azurite-blob", &[".cache/redkeep-servers/azurite/node_modules/.bin"])?;
    let server = Server::start(|port, data| {
        let mut command = Command::new(&program);
        command.args([
            "--silent",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
        ]);
        command.arg(port.to_string()).arg("--location").arg(data);
        command
    })
    .await;
    let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", server.port);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("{endpoint}/{BUCKET}?restype=container");
    let mut request = http_request("PUT", &url);
    let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
    AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
    let answer = client.execute(request).await.unwrap();
    assert_eq!(answer.status().as_u16(), 201, "{}", server.log());
    Some((server, endpoint))
}

fn http_request(method: &str, url: &str) -> object_store::client::HttpRequest {
    let mut request = object_store::client::HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = url.parse().unwrap();
    request.headers_mut().insert("content-length", "0".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_passes_the_suite() {
    let Some((_server, endpoint)) = azurite().await else { return };
    let secret = secret(&[("accountName", ACCOUNT), ("accountKey", KEY)]);
    let storage = crate::open(&spec("az://backups/some/prefix", &endpoint, Some(secret.path()))).await.unwrap();
    let abilities = Abilities { unfinished_uploads: false, ..Abilities::default() };
    pass(storage.clone(), abilities).await;
    let report = crate::probe(storage.as_ref()).await.unwrap();
    assert!(report.usable(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_azurite_say_what_to_do() {
    let Some((_server, endpoint)) = azurite().await else { return };
    let good = secret(&[("accountName", ACCOUNT), ("accountKey", KEY)]);
    let missing = CloudStorage::open(&spec("az://nowhere", &endpoint, Some(good.path()))).unwrap();
    let error = missing.list_folder("").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::NotFound, "{error:?}");
    assert!(error.help.as_deref().unwrap_or_default().contains("make nowhere"), "{error:?}");
    let bad = secret(&[("accountName", ACCOUNT), ("accountKey", "d3Jvbmc=")]);
    let denied = CloudStorage::open(&spec("az://backups", &endpoint, Some(bad.path()))).unwrap();
    let error = denied.put("a", "x".into()).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Denied, "{error:?}");
    assert!(error.help.is_some());
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let azure_secret = secret(&[("accountName", ACCOUNT), ("accountKey", KEY)]);
    for spec in [spec("gs://b", &endpoint, None), spec("az://b", &endpoint, Some(azure_secret.path()))] {
        let error = CloudStorage::open(&spec).unwrap().list_folder("").await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Unreachable, "{error:?}");
        assert!(error.help.as_deref().unwrap_or_default().contains("nothing listens"), "{error:?}");
    }
}

#[test]
fn missing_credentials_are_named_with_their_spellings() {
    let empty = secret(&[]);
    let error = CloudStorage::open(&spec("az://b", "http://127.0.0.1:1", Some(empty.path()))).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Denied);
    assert!(error.help.unwrap().contains("AZURE_STORAGE_ACCOUNT_NAME"));
}
