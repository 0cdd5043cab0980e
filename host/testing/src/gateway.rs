//! An S3 server that others wrote: versitygw over a folder, stopped on drop.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::server::free_port;
use crate::topology::wait_until;

/// The access key that it takes.
pub const ACCESS_KEY: &str = "access";
/// The secret key that it takes.
pub const SECRET_KEY: &str = "secret-key";

/// A running gateway with one bucket, `bucket`.
pub struct Gateway {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir_all(folder.path().join("bucket"))?;
        let port = free_port();
        let installed = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("go/bin/versitygw");
        let program = if installed.is_file() { installed } else { PathBuf::from("versitygw") };
        let child = Command::new(program)
            .args(["--port", &format!("127.0.0.1:{port}"), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "posix"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start versitygw")?;
        let gateway = Self { child, port, folder };
        wait_until("versitygw", || async { Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()) }).await?;
        Ok(gateway)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its folder: the buckets, each object a file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}
