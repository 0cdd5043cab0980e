//! `--storage` and what S3 needs beside it.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::StorageSpec;

use super::values::not_empty;

/// Where backups live.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// A folder, file:///dir, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[arg(long, value_name = "STORAGE", env = "REDKEEP_STORAGE", value_parser = not_empty)]
    pub(crate) storage: String,
    #[command(flatten)]
    pub(crate) s3: S3Args,
}

/// How an S3 storage is reached. Credentials come from the standard variables and files, or workload identity.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Storage")]
#[expect(clippy::struct_field_names, reason = "the fields are the options' names")]
pub(crate) struct S3Args {
    /// S3 endpoint, where it is not AWS
    #[arg(long, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// S3 region
    #[arg(long, value_name = "REGION")]
    pub(crate) s3_region: Option<String>,
    /// Put the bucket into the path instead of the host name [default: yes where --s3-endpoint is given]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) s3_path_style: Option<bool>,
    /// PEM file of certificate authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) s3_ca: Option<PathBuf>,
}

impl StorageArgs {
    /// As the engine takes it.
    pub(crate) fn spec(&self) -> StorageSpec {
        self.s3.spec(&self.storage)
    }
}

impl S3Args {
    /// The storage at `url`, reached this way.
    pub(crate) fn spec(&self, url: &str) -> StorageSpec {
        StorageSpec {
            url: url.to_owned(),
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            path_style: self.s3_path_style,
            ca_file: self.s3_ca.clone(),
            credentials_dir: None,
        }
    }
}
