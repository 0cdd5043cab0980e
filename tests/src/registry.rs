//! Debian's docker-registry, on a free port of this machine: plain, or as registries are, with TLS by an authority of its own and
//! a password.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Who may read and write a [`Registry::secured`].
pub const USER: &str = "plugins";
/// The password.
pub const PASSWORD: &str = "a secret word";

/// A running registry; killed on drop.
pub struct Registry {
    child: Child,
    name: String,
    folder: PathBuf,
}

impl Registry {
    /// Without TLS and for everybody, at 127.0.0.1.
    pub fn plain(folder: &Path) -> Result<Self> {
        let name = format!("127.0.0.1:{}", redkeep_testing::server::free_port());
        Self::start(folder, &name, &format!("http: {{ addr: \"{name}\" }}"))
    }

    /// With TLS and for [`USER`] alone, reached by this address of this machine.
    pub fn secured(folder: &Path, address: &str) -> Result<Self> {
        certify(folder, address)?;
        // bcrypt is all that it takes, and libcrypt all that is needed to make it.
        let program = format!("print crypt(q({PASSWORD}), q($2y$05$abcdefghijklmnopqrstuu))");
        let hashed = Command::new("perl").args(["-e", &program]).output().context("failed to start perl")?;
        let hashed = String::from_utf8(hashed.stdout)?;
        ensure!(hashed.starts_with("$2y$"), "this machine's libcrypt makes no bcrypt: {hashed:?}");
        std::fs::write(folder.join("users"), format!("{USER}:{hashed}\n"))?;
        let port = redkeep_testing::server::free_port();
        let at = |name: &str| folder.join(name).display().to_string();
        let more = format!(
            "http:\n  addr: 0.0.0.0:{port}\n  tls: {{ certificate: {}, key: {} }}\n\
             auth:\n  htpasswd: {{ realm: plugins, path: {} }}",
            at("server.pem"),
            at("server.key"),
            at("users")
        );
        Self::start(folder, &format!("{address}:{port}"), &more)
    }

    fn start(folder: &Path, name: &str, more: &str) -> Result<Self> {
        let path = folder.join("registry.yml");
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n{more}\n",
            folder.join("registry").display()
        );
        std::fs::write(&path, config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("docker-registry: `cargo xtask test` installs it")?;
        let registry = Self { child, name: name.to_owned(), folder: folder.to_owned() };
        let begun = Instant::now();
        while std::net::TcpStream::connect(&registry.name).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// `address:port`, as references begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The authority of its certificate (PEM).
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What `docker login` would have written.
    pub fn docker_config(&self) -> String {
        serde_json::json!({"auths": {self.name.clone(): {"username": USER, "password": PASSWORD}}}).to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ca.pem`, and `server.pem` with `server.key` by it.
fn certify(folder: &Path, address: &str) -> Result<()> {
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req -x509 {curve} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"))?;
    openssl(folder, &format!("req {curve} -keyout server.key -out server.csr -subj /CN=registry"))?;
    std::fs::write(folder.join("names"), format!("subjectAltName=IP:{address},IP:127.0.0.1\n"))?;
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    )
}

/// Runs `openssl` in a folder.
pub fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let done = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output()?;
    ensure!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A key pair for signatures, as any tool makes it: the private and the public file.
pub fn signing_keys(folder: &Path, name: &str) -> Result<(String, String)> {
    openssl(folder, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"))?;
    openssl(folder, &format!("pkey -in {name}.key -pubout -out {name}.pub"))?;
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    Ok((path("key"), path("pub")))
}
