//! Plugins in registries: whose credentials, which cache.

use std::path::PathBuf;

use redkeep_core::classify::Class;
use redkeep_core::provider::ProviderError;
use redkeep_core::secret::Secret;
use redkeep_core::task::OciSpec;
use redkeep_plugin::oci::{Credentials, Fetched, OciOptions, OciReference, fetch, from_docker_config, push};

use super::plugins::cache_dir;

/// Where docker keeps what `docker login` was told.
fn docker_config() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = named("DOCKER_CONFIG").or_else(|| named("HOME").map(|home| home.join(".docker")))?;
    Some(folder.join("config.json")).filter(|file| file.is_file())
}

fn options(spec: &OciSpec, reference: &OciReference, password: Option<Secret>) -> Result<OciOptions, ProviderError> {
    let credentials = match (&spec.username, password) {
        (Some(username), Some(password)) => Some(Credentials { username: username.clone(), password }),
        (None, None) => match spec.config_file.clone().or_else(docker_config) {
            Some(file) => from_docker_config(&file, &reference.registry)?,
            None => None,
        },
        _ => {
            return Err(ProviderError::new(
                Class::Usage,
                "RegistrySettings",
                "a user and a password of the registry go together",
            )
            .with_help("give both, or leave both out"));
        }
    };
    Ok(OciOptions {
        credentials,
        ca_file: spec.ca_file.clone(),
        plain_http: spec.plain_http,
        redirect_hosts: spec.redirect_hosts.clone(),
        public_key_file: spec.public_key_file.clone(),
        public_key: spec.public_key.clone(),
        cache_dir: cache_dir().map(|folder| folder.join("fetched")),
    })
}

/// Fetches a component, or finds it in the cache.
pub(super) async fn fetch_plugin(spec: &OciSpec, password: Option<Secret>) -> Result<Fetched, ProviderError> {
    let reference = OciReference::parse(&spec.reference)?;
    let options = options(spec, &reference, password)?;
    let fetched = fetch(&reference, &options).await?;
    tracing::info!(reference = %fetched.pinned, from_cache = fetched.from_cache, signed = fetched.signed, "plugin fetched");
    Ok(fetched)
}

/// Brings a component to a registry; returns the reference by digest.
pub(super) async fn push_plugin(
    spec: &OciSpec,
    password: Option<Secret>,
    bytes: Vec<u8>,
    sign_with: Option<&std::path::Path>,
) -> Result<String, ProviderError> {
    let reference = OciReference::parse(&spec.reference)?;
    let options = options(spec, &reference, password)?;
    Ok(push(&reference, bytes, &options, sign_with).await?.to_string())
}
