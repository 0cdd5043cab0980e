//! How an OCI registry is spoken to.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::OciSpec;

use super::keys::secret_file;

/// Towards a registry of plugins; without these, what `docker login` left is used.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Plugin registry")]
pub(crate) struct RegistryArgs {
    /// Credentials as docker keeps them [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE", conflicts_with = "registry_user")]
    registry_config: Option<PathBuf>,
    /// User at the registry
    #[arg(long, value_name = "NAME", requires = "registry_password_file")]
    registry_user: Option<String>,
    /// File that holds the user's password (- is standard input)
    #[arg(long, value_name = "FILE", requires = "registry_user")]
    registry_password_file: Option<PathBuf>,
    /// Certificate authorities to trust besides the system's (PEM)
    #[arg(long, value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    /// A host that downloads and uploads may be redirected to; may be given several times
    #[arg(long, value_name = "HOST")]
    registry_redirect: Vec<String>,
    /// Speak HTTP without TLS to the registry
    #[arg(long)]
    plain_http: bool,
}

impl RegistryArgs {
    /// As the engine takes it.
    pub(crate) fn spec(&self, reference: &str) -> OciSpec {
        OciSpec {
            reference: reference.to_owned(),
            config_file: self.registry_config.clone(),
            username: self.registry_user.clone(),
            password: self.registry_password_file.as_deref().map(secret_file),
            ca_file: self.registry_ca.clone(),
            plain_http: self.plain_http,
            redirect_hosts: self.registry_redirect.clone(),
            public_key_file: None,
            public_key: None,
        }
    }
}
