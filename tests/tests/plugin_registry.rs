//! A plugin that is not in the program: pushed to a real registry, signed, used by digest, and refused where the key is another.

use std::path::PathBuf;

use anyhow::{Context, Result};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::registry::{PASSWORD, Registry, USER, signing_keys};
use redkeep_tests::{fail, succeed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_from_a_registry_backs_up_and_restores_by_digest_and_signature() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let component = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/redis-rdb.wasm");
    let component = component.display().to_string();
    let registry = Registry::plain(folder.path())?;
    let ((private, public), (_, strange)) =
        (signing_keys(folder.path(), "ours")?, signing_keys(folder.path(), "other")?);
    let tag = format!("oci://{}/me/redis-rdb:1", registry.name());
    let pushed = succeed(["plugin", "push", &component, &tag, "--plain-http", "--sign", &private, "-o", "json"]).json();
    let pinned = pushed["reference"].as_str().context("no reference")?.to_owned();
    assert!(pinned.contains("@sha256:"), "{pinned}");

    let pulled = at("pulled.wasm");
    succeed(["plugin", "pull", &tag, "--plain-http", "--plugin-key", &public, "--out", &pulled]);
    assert_eq!(std::fs::read(&pulled)?, std::fs::read(&component)?);
    fail(5, &["no signature"], ["plugin", "pull", &tag, "--plain-http", "--plugin-key", &strange, "--out", &at("x")]);
    // Without being told, HTTP without TLS is not spoken.
    fail(1, &["--plain-http"], ["plugin", "inspect", &tag]);

    let grants = ["--plugin", &pinned, "--plain-http", "--plugin-key", &public];
    let inspected = succeed(["plugin", "inspect", &pinned, "--plain-http", "--grant", "redis:replicate", "-o", "json"]);
    let requests = inspected.json()["requests"].clone();
    let granted =
        |name: &str| requests.as_array().into_iter().flatten().any(|one| one["name"] == name && one["granted"] == true);
    assert!(granted("redis:replicate") && !granted("redis:load"), "{requests}");

    let server = RedisServer::start(Version::Redis70)?;
    server.command(&["SET", "key", "value"]).await?;
    let (url, store, target) = (server.url(), at("store"), at("restored"));
    let backup = ["backup", "--source", &url, "--storage", &store, "--method", "rdb", "--cluster", "c"];
    // Nothing is granted by default.
    fail(5, &["grant redis:replicate"], backup.iter().copied().chain(grants));
    succeed(backup.iter().copied().chain(grants).chain(["--grant", "redis:info", "--grant", "redis:replicate"]));
    let restore = ["restore", "--storage", &store, "latest", "--target-dir", &target, "--appendonly", "no"];
    // The registry is gone: the cache has what the digest names.
    drop(registry);
    succeed(restore.iter().copied().chain(grants).chain(["--grant", "files:write:**"]));
    assert!(std::fs::read(folder.path().join("restored/dump.rdb"))?.starts_with(b"REDIS"));
    Ok(())
}

#[test]
fn a_registry_with_tls_and_a_password_is_used_by_its_authority_and_its_user_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let component = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/example-raw.wasm");
    let component = component.display().to_string();
    let registry = Registry::secured(folder.path(), "127.0.0.1")?;
    let (reference, authority) = (format!("oci://{}/me/raw:1", registry.name()), registry.authority());
    let authority = authority.display().to_string();
    std::fs::write(folder.path().join("config.json"), registry.docker_config())?;
    std::fs::write(folder.path().join("password"), PASSWORD)?;
    std::fs::write(folder.path().join("wrong"), "another")?;
    let (config, password, wrong) = (at("config.json"), at("password"), at("wrong"));
    let as_docker = ["--registry-ca", &authority, "--registry-config", &config];

    let push = ["plugin", "push", &component, &reference];
    succeed(push.iter().copied().chain(as_docker));
    let by_name = ["--registry-ca", &authority, "--registry-user", USER, "--registry-password-file", &password];
    let (one, two) = (at("one.wasm"), at("two.wasm"));
    succeed(["plugin", "pull", &reference, "--out", &one].iter().copied().chain(by_name));
    succeed(["plugin", "pull", &reference, "--out", &two].iter().copied().chain(as_docker));
    assert_eq!(std::fs::read(&one)?, std::fs::read(&component)?);

    // Another cache, or it would not be asked at all.
    let three = at("three.wasm");
    let pull = ["plugin", "pull", &reference, "--out", &three];
    let stranger = ["--registry-ca", &authority, "--registry-user", USER, "--registry-password-file", &wrong];
    fail(5, &["registry"], pull.iter().copied().chain(stranger));
    // Nobody vouches for it: refused, and never spoken to without TLS instead.
    fail(1, &["registry"], pull.iter().copied().chain(["--registry-config", &config]));
    fail(1, &["registry"], pull.iter().copied().chain(["--registry-config", &config, "--plain-http"]));
    Ok(())
}
