//! Components from registries: a real one, and ones that lie.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::path::PathBuf;

use p256::ecdsa::SigningKey;
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use redkeep_core::{Class, Classify as _};
use redkeep_plugin::oci::{Credentials, OciError, OciOptions, OciReference, fetch, push, resolve};
use rstest::rstest;
use sha2::Digest as _;
use support::guest::Guest;
use support::registry::{Answer, FakeRegistry, RealRegistry};

fn plain() -> OciOptions {
    OciOptions { plain_http: true, ..OciOptions::default() }
}

fn reference(registry: &str, rest: &str) -> OciReference {
    OciReference::parse(&format!("oci://{registry}/{rest}")).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A key pair in two files.
fn keys(folder: &tempfile::TempDir, seed: u8) -> (PathBuf, PathBuf) {
    let key = SigningKey::from_slice(&[seed; 32]).unwrap();
    let path = |name: &str| folder.path().join(format!("{seed}{name}"));
    std::fs::write(path(".key"), key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes()).unwrap();
    let public = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    std::fs::write(path(".pub"), public).unwrap();
    (path(".key"), path(".pub"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_pushed_to_a_real_registry_and_fetched_by_tag_and_by_digest() {
    let registry = RealRegistry::start();
    let tag = reference(&registry.name, "me/my-method:1.0");
    let first = Guest::new().name("first").build();
    let pinned = push(&tag, first.clone(), &plain(), None).await.unwrap();
    // Equal components are equal artifacts.
    assert_eq!(push(&tag, first.clone(), &plain(), None).await.unwrap(), pinned);
    assert_eq!(resolve(&tag, &plain()).await.unwrap(), pinned);
    let folder = tempfile::tempdir().unwrap();
    let options = OciOptions { cache_dir: Some(folder.path().join("c")), ..plain() };
    let fetched = fetch(&tag, &options).await.unwrap();
    assert_eq!((fetched.bytes, fetched.pinned), (first.clone(), pinned.clone()));

    // The tag moves; what was pinned does not.
    let second = Guest::new().name("second").build();
    let moved = push(&tag, second.clone(), &plain(), None).await.unwrap();
    assert_ne!(moved, pinned);
    assert_eq!(fetch(&tag, &plain()).await.unwrap().bytes, second);
    assert_eq!(fetch(&pinned, &plain()).await.unwrap().bytes, first);

    let missing = fetch(&reference(&registry.name, "me/other:1.0"), &plain()).await.unwrap_err();
    assert_eq!(missing.class(), Class::NotFound, "{missing}");
    // By digest it needs no registry any more, and a tag always does.
    registry.stop();
    let cached = fetch(&pinned, &options).await.unwrap();
    assert!(cached.from_cache && cached.bytes == first);
    assert!(matches!(fetch(&tag, &options).await.unwrap_err(), OciError::Transport { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signature_by_the_right_key_lets_a_component_in() {
    let registry = RealRegistry::start();
    let folder = tempfile::tempdir().unwrap();
    let ((private, public), (_, strange)) = (keys(&folder, 1), keys(&folder, 2));
    let cache = Some(folder.path().join("c"));
    let demanding =
        |key: &PathBuf| OciOptions { public_key_file: Some(key.clone()), cache_dir: cache.clone(), ..plain() };
    let tag = reference(&registry.name, "signed:1");
    let unsigned = push(&tag, Guest::new().name("unsigned").build(), &plain(), None).await.unwrap();
    let error = fetch(&unsigned, &demanding(&public)).await.unwrap_err();
    assert!(matches!(error, OciError::Unsigned { .. }) && error.class() == Class::Refused, "{error}");
    let signed = push(&tag, Guest::new().build(), &plain(), Some(&private)).await.unwrap();
    assert!(fetch(&signed, &demanding(&public)).await.unwrap().signed);
    // The key as text, as a BackupMethod has it.
    let by_text = |text: &str| OciOptions { public_key: Some(text.to_owned()), ..plain() };
    assert!(fetch(&signed, &by_text(&std::fs::read_to_string(&public).unwrap())).await.unwrap().signed);
    let error = fetch(&signed, &by_text("-----BEGIN PUBLIC KEY-----")).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Class::Usage, "RegistrySettings"));
    let error = fetch(&signed, &demanding(&strange)).await.unwrap_err();
    assert!(matches!(error, OciError::Signature { .. }) && error.class() == Class::Refused, "{error}");
    let error = fetch(&signed, &demanding(&private)).await.unwrap_err();
    assert!(matches!(error, OciError::Settings { .. }), "{error}");
    // What held once holds without the registry, and what did not still does not.
    registry.stop();
    let again = fetch(&signed, &demanding(&public)).await.unwrap();
    assert!(again.from_cache && again.signed);
    assert!(fetch(&signed, &demanding(&strange)).await.is_err());
}

/// A registry that has this component under the tag `1`; the manifest, and the component's digest.
async fn lying(component: &[u8]) -> (FakeRegistry, Vec<u8>, String) {
    let registry = FakeRegistry::start().await;
    let layer = digest(component);
    let manifest = manifest(&layer, component.len());
    registry.tell("GET /v2/x/manifests/1", Answer::ok(manifest.clone()));
    registry.tell(&format!("GET /v2/x/blobs/sha256:{layer}"), Answer::ok(component));
    (registry, manifest, layer)
}

fn manifest(layer: &str, size: usize) -> Vec<u8> {
    serde_json::json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": format!("sha256:{}", digest(b"{}")), "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": format!("sha256:{layer}"), "size": size}],
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn other_bytes_than_the_digest_says_are_refused() {
    let (registry, manifest, layer) = lying(b"component").await;
    let tag = reference(&registry.name, "x:1");
    assert_eq!(fetch(&tag, &plain()).await.unwrap().bytes, b"component");
    registry.tell(&format!("GET /v2/x/blobs/sha256:{layer}"), Answer::ok("compOnent"));
    let error = fetch(&tag, &plain()).await.unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }) && error.class() == Class::Refused, "{error}");
    let pinned = tag.pinned(&digest(&manifest));
    let path = format!("GET /v2/x/manifests/sha256:{}", digest(&manifest));
    registry.tell(&path, Answer::ok([manifest.as_slice(), b" "].concat()));
    let error = fetch(&pinned, &plain()).await.unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_only_where_it_was_allowed_and_never_with_credentials() {
    let (registry, _, layer) = lying(b"component").await;
    let elsewhere = FakeRegistry::start().await;
    elsewhere.tell("GET /blob", Answer::ok("component"));
    let port = elsewhere.name.split(':').next_back().unwrap().to_owned();
    let to = Answer::head(&format!("307 Temporary Redirect\r\nlocation: http://localhost:{port}/blob"));
    let blob = format!("GET /v2/x/blobs/sha256:{layer}");
    registry.tell(&blob, to);
    let tag = reference(&registry.name, "x:1");
    let error = fetch(&tag, &plain()).await.unwrap_err();
    assert!(matches!(error, OciError::Redirect { .. }) && error.class() == Class::Refused, "{error}");
    assert!(elsewhere.seen.lock().unwrap().is_empty());

    let login = Answer::head("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"");
    *registry.wants.lock().unwrap() = Some(("Basic Ym9iOnNlY3JldA==".to_owned(), login));
    let credentials = Credentials { username: "bob".to_owned(), password: redkeep_core::secret::Secret::new("secret") };
    let allowed =
        OciOptions { redirect_hosts: vec!["localhost".to_owned()], credentials: Some(credentials), ..plain() };
    assert_eq!(fetch(&tag, &allowed).await.unwrap().bytes, b"component");
    assert_eq!(*elsewhere.seen.lock().unwrap(), ["GET /blob"]);
    // In circles, it ends.
    registry.tell(&blob, Answer::head(&format!("307 Temporary Redirect\r\nlocation: {}", &blob[4..])));
    assert!(matches!(fetch(&tag, &allowed).await.unwrap_err(), OciError::Redirect { .. }));
}

/// A registry that takes everything: where it says that uploads go, and what it is told of blobs that are there.
async fn taking(uploads: &str, blobs: &[String], head: &Answer) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.tell("POST /v2/x/blobs/uploads/", Answer::head(&format!("202 Accepted\r\nlocation: {uploads}")));
    for blob in blobs {
        registry.tell(&format!("HEAD /v2/x/blobs/sha256:{blob}"), head.clone());
        registry.tell(&format!("PUT /v2/x/u?digest=sha256%3A{blob}"), Answer::head("201 Created"));
    }
    registry.tell("PUT /v2/x/manifests/1", Answer::head("201 Created"));
    registry
}

fn as_bob(redirect_hosts: &[&str]) -> OciOptions {
    let credentials = Credentials { username: "bob".to_owned(), password: redkeep_core::secret::Secret::new("secret") };
    let redirect_hosts = redirect_hosts.iter().map(ToString::to_string).collect();
    OciOptions { credentials: Some(credentials), redirect_hosts, ..plain() }
}

const BOB: &str = "Basic Ym9iOnNlY3JldA==";

fn wants_bob(registry: &FakeRegistry) {
    let login = Answer::head("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"");
    *registry.wants.lock().unwrap() = Some((BOB.to_owned(), login));
}

#[tokio::test]
async fn a_registry_that_keeps_blobs_elsewhere_is_pushed_to_and_elsewhere_sees_no_credentials() {
    let component = Guest::new().build();
    // What it brings first, the config, is not ours to know: a registry that takes nothing is shown it.
    let probe = taking("/v2/x/u", &[], &Answer::head("404 Not Found")).await;
    push(&reference(&probe.name, "x:1"), component.clone(), &plain(), None).await.unwrap_err();
    let config = digest(&probe.bodies.lock().unwrap()[0].1);
    let blobs = [config, digest(&component)];
    let elsewhere = FakeRegistry::start().await;
    elsewhere.tell("HEAD /blob", Answer::head("200 OK"));
    let port = elsewhere.name.split(':').next_back().unwrap().to_owned();
    let redirect =
        |path: &str| Answer::head(&format!("307 Temporary Redirect\r\nlocation: http://localhost:{port}{path}"));

    // "It is there, at the other host": which is not asked where that was not allowed, and then all of it is brought.
    let registry = taking("/v2/x/u", &blobs, &redirect("/blob")).await;
    wants_bob(&registry);
    let tag = reference(&registry.name, "x:1");
    push(&tag, component.clone(), &as_bob(&[]), None).await.unwrap();
    assert!(was_given(&registry, &component));
    assert!(elsewhere.seen.lock().unwrap().is_empty());

    // Allowed, it is asked, without saying who we are, and nothing is brought twice.
    registry.bodies.lock().unwrap().clear();
    push(&tag, component.clone(), &as_bob(&["localhost"]), None).await.unwrap();
    assert!(!was_given(&registry, &component), "brought again");
    assert_eq!(*elsewhere.seen.lock().unwrap(), ["HEAD /blob", "HEAD /blob"]);

    // An upload that goes on elsewhere, by its location or by a redirect of the PUT.
    for by_location in [true, false] {
        elsewhere.seen.lock().unwrap().clear();
        elsewhere.bodies.lock().unwrap().clear();
        let uploads = if by_location { format!("http://localhost:{port}/u") } else { "/v2/x/u".to_owned() };
        let registry = taking(&uploads, &blobs, &Answer::head("404 Not Found")).await;
        wants_bob(&registry);
        for blob in &blobs {
            let query = format!("/u?digest=sha256%3A{blob}");
            registry.tell(&format!("PUT /v2/x{query}"), redirect(&query));
            elsewhere.tell(&format!("PUT {query}"), Answer::head("201 Created"));
        }
        let tag = reference(&registry.name, "x:1");
        let error = push(&tag, component.clone(), &as_bob(&[]), None).await.unwrap_err();
        assert!(error.to_string().contains("http://localhost"), "{error}");
        assert!(elsewhere.seen.lock().unwrap().is_empty());
        push(&tag, component.clone(), &as_bob(&["localhost"]), None).await.unwrap();
        assert!(was_given(&elsewhere, &component), "by location: {by_location}");
        assert!(registry.saw(BOB) && !elsewhere.saw("Basic"), "{:?}", elsewhere.seen);
    }
}

fn was_given(registry: &FakeRegistry, component: &[u8]) -> bool {
    registry.bodies.lock().unwrap().iter().any(|(_, body)| body == component)
}

#[tokio::test]
async fn nothing_is_read_that_is_larger_than_it_may_be() {
    let (registry, _, layer) = lying(b"component").await;
    let tag = reference(&registry.name, "x:1");
    let blob = format!("GET /v2/x/blobs/sha256:{layer}");
    // Announced, or not announced: the end is where the manifest said.
    for head in ["content-length: 100000\r\n", ""] {
        let body = vec![b'x'; 100_000];
        registry.tell(&blob, Answer { head: format!("HTTP/1.1 200 OK\r\n{head}"), body });
        let error = fetch(&tag, &plain()).await.unwrap_err();
        assert!(matches!(error, OciError::TooLarge { limit: 9, .. }), "{error}");
    }
    let blobs = || registry.seen.lock().unwrap().iter().filter(|line| line.contains("/blobs/")).count();
    let before = blobs();
    registry.tell("GET /v2/x/manifests/1", Answer::ok(manifest(&layer, 500 << 20)));
    let error = fetch(&tag, &plain()).await.unwrap_err();
    assert!(matches!(error, OciError::TooLarge { .. }), "{error}");
    assert_eq!(blobs(), before);
    registry.tell("GET /v2/x/manifests/1", Answer::ok(vec![b' '; 2 << 20]));
    assert!(matches!(fetch(&tag, &plain()).await.unwrap_err(), OciError::TooLarge { .. }));
}

#[tokio::test]
async fn a_download_that_is_cut_short_is_no_component() {
    let (registry, _, layer) = lying(b"component").await;
    let tag = reference(&registry.name, "x:1");
    let blob = format!("GET /v2/x/blobs/sha256:{layer}");
    registry
        .tell(&blob, Answer { head: "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n".to_owned(), body: b"comp".to_vec() });
    let error = fetch(&tag, &plain()).await.unwrap_err();
    assert!(matches!(error, OciError::Transport { .. }) && error.retryable(), "{error}");
    // Without a length the cut shows in the digest.
    registry.tell(&blob, Answer { head: "HTTP/1.1 200 OK\r\n".to_owned(), body: b"comp".to_vec() });
    assert!(matches!(fetch(&tag, &plain()).await.unwrap_err(), OciError::Digest { .. }));
}

#[tokio::test]
async fn http_without_tls_is_never_a_fallback() {
    let (registry, _, _) = lying(b"component").await;
    let error = fetch(&reference(&registry.name, "x:1"), &OciOptions::default()).await.unwrap_err();
    assert!(matches!(error, OciError::Transport { .. }), "{error}");
    assert!(error.help().unwrap().contains("--plain-http"));
    assert!(!registry.saw("/v2/"));
}

#[tokio::test]
async fn a_login_is_by_password_or_by_token_and_its_failure_is_said() {
    let (registry, _, _) = lying(b"component").await;
    let tag = reference(&registry.name, "x:1");
    let basic = Answer::head("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"");
    *registry.wants.lock().unwrap() = Some(("Basic Ym9iOnNlY3JldA==".to_owned(), basic));
    let error = fetch(&tag, &plain()).await.unwrap_err();
    assert!(
        matches!(error, OciError::Unauthorized { .. }) && error.help().unwrap().contains("docker login"),
        "{error}"
    );
    let as_bob = |password: &str| OciOptions {
        credentials: Some(Credentials {
            username: "bob".to_owned(),
            password: redkeep_core::secret::Secret::new(password),
        }),
        ..plain()
    };
    assert!(matches!(fetch(&tag, &as_bob("wrong")).await.unwrap_err(), OciError::Unauthorized { .. }));
    fetch(&tag, &as_bob("secret")).await.unwrap();
    let realm = format!("http://{}/token", registry.name);
    let bearer = Answer::head(&format!(
        "401 Unauthorized\r\nwww-authenticate: Bearer realm=\"{realm}\",service=\"r\",scope=\"repository:x:pull\""
    ));
    *registry.wants.lock().unwrap() = Some(("Bearer t0ken".to_owned(), bearer));
    registry.tell("GET /token?service=r&scope=repository%3Ax%3Apull", Answer::ok(r#"{"token":"t0ken"}"#));
    fetch(&tag, &plain()).await.unwrap();
}

#[rstest]
#[case(b"\0asm\x01\0\0\0".to_vec(), "a core WebAssembly module")]
#[case(b"\x7fELF\x02\x01".to_vec(), "compiled machine code")]
#[tokio::test]
async fn what_is_no_component_is_not_pushed(#[case] bytes: Vec<u8>, #[case] what: &str) {
    let registry = FakeRegistry::start().await;
    let error = push(&reference(&registry.name, "x:1"), bytes, &plain(), None).await.unwrap_err();
    assert!(error.to_string().contains(what), "{error}");
    assert!(registry.seen.lock().unwrap().is_empty());
}
