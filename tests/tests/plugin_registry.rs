//! A plugin that is not in the program: pushed to a real registry, signed, used by digest, and refused where the key is another.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::{fail, succeed};

/// Debian's registry over a folder, on a free port.
struct Registry {
    child: Child,
    name: String,
}

impl Registry {
    fn start(folder: &Path) -> Result<Self> {
        let port = redkeep_testing::server::free_port();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: 127.0.0.1:{port} }}\n",
            folder.join("registry").display()
        );
        let path = folder.join("registry.yml");
        std::fs::write(&path, config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("docker-registry: `cargo xtask test` installs it")?;
        let registry = Self { child, name: format!("127.0.0.1:{port}") };
        let begun = Instant::now();
        while std::net::TcpStream::connect(&registry.name).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let done = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output()?;
    ensure!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A key pair, as any tool makes it.
fn keys(folder: &Path, name: &str) -> Result<(String, String)> {
    openssl(folder, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"))?;
    openssl(folder, &format!("pkey -in {name}.key -pubout -out {name}.pub"))?;
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    Ok((path("key"), path("pub")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_from_a_registry_backs_up_and_restores_by_digest_and_signature() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let component = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/redis-rdb.wasm");
    let component = component.display().to_string();
    let registry = Registry::start(folder.path())?;
    let ((private, public), (_, strange)) = (keys(folder.path(), "ours")?, keys(folder.path(), "other")?);
    let tag = format!("oci://{}/me/redis-rdb:1", registry.name);
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
