//! An S3 server on this machine, written by others: versitygw over a folder.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use redkeep_testing::server::free_port;
use redkeep_testing::topology::wait_until;

/// Runs until it is dropped.
pub(crate) struct Gateway {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Gateway {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir_all(folder.path().join("bucket"))?;
        let port = free_port();
        let installed = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("go/bin/versitygw");
        let program = if installed.is_file() { installed } else { PathBuf::from("versitygw") };
        let child = Command::new(program)
            .args(["--port", &format!("127.0.0.1:{port}"), "--access", "access", "--secret", "secret-key", "posix"])
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

    /// The bucket's folder.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    /// Adds what redkeep and rclone need to find it.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        command
            .env("AWS_ACCESS_KEY_ID", "access")
            .env("AWS_SECRET_ACCESS_KEY", "secret-key")
            .env("AWS_REGION", "us-east-1")
            .env("RCLONE_CONFIG_S3_TYPE", "s3")
            .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
            .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", "access")
            .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", "secret-key")
            .env("RCLONE_CONFIG_S3_REGION", "us-east-1")
            .env("RCLONE_CONFIG_S3_ENDPOINT", &endpoint)
            .env("REDKEEP_BENCH_ENDPOINT", &endpoint)
    }

    /// `--storage` and what belongs to it.
    pub(crate) fn storage(&self, prefix: &str) -> Vec<String> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        [
            "--storage".to_owned(),
            format!("s3://bucket/{prefix}"),
            "--s3-endpoint".to_owned(),
            endpoint,
            "--s3-path-style".to_owned(),
        ]
        .to_vec()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
