//! The S3 server of the comparisons, and what redkeep and rclone need to find it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use redkeep_testing::gateway::{self, ACCESS_KEY, SECRET_KEY};

/// Runs until it is dropped.
pub(crate) struct Gateway {
    server: gateway::Gateway,
}

impl Gateway {
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self { server: gateway::Gateway::start().await? })
    }

    /// The bucket's folder.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.server.folder().join("bucket")
    }

    /// Adds what redkeep and rclone need to find it.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let endpoint = self.server.endpoint();
        command
            // rclone takes no bundle of a machine's own, and the gateway speaks plain HTTP.
            .env_remove("AWS_CA_BUNDLE")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_REGION", "us-east-1")
            .env("RCLONE_CONFIG_S3_TYPE", "s3")
            .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
            .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", ACCESS_KEY)
            .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("RCLONE_CONFIG_S3_REGION", "us-east-1")
            // The gateway refuses to make a bucket that is there.
            .env("RCLONE_CONFIG_S3_NO_CHECK_BUCKET", "true")
            .env("RCLONE_CONFIG_S3_ENDPOINT", &endpoint)
            .env("REDKEEP_BENCH_ENDPOINT", &endpoint)
    }

    /// `--storage` and what belongs to it.
    pub(crate) fn storage(&self, prefix: &str) -> Vec<String> {
        let endpoint = self.server.endpoint();
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
